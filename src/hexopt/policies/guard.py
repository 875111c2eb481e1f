"""Asks a formulation without depending on it: whatever it does, an answer is there in time, if only "none".

The formulation runs in a thread of its own. One that does not answer within the patience is abandoned, with its thread
(a thread cannot be ended from outside, but it holds up nobody: solvers release the interpreter, and Python code shares
it), and a new one is built for the next question. After a few of these the formulation is asked no more. A thread costs
some 50 µs a question, where another process would cost as much as many a solution takes: both ends would have to pack
and unpack the window.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from hexopt.core.window import Window, WindowPlan
from hexopt.formulations.objective import Objective
from hexopt.formulations.protocol import Budget, Formulation, SolveResult

MOST_HANGS = 3
"""After so many answers that did not come in time the formulation is asked no more."""


class Failure(NamedTuple):
    """No answer: ``kind`` is ``"error"``, ``"hang"`` or ``"off"`` (it is asked no more)."""

    kind: str
    reason: str


class Guard:
    """Builds formulations with ``make`` and asks them, each question for at most ``patience_s`` seconds."""

    def __init__(self, make: Callable[[], Formulation], patience_s: float) -> None:
        self._make = make
        self._patience_s = patience_s
        self._hangs = 0
        self._worker: _Worker | None = None
        self._formulation: Formulation | None = make()

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None
    ) -> SolveResult | Failure:
        """Return the formulation's answer as it is, or why there is none."""
        if self._hangs >= MOST_HANGS:
            return Failure("off", f"it did not answer in time {self._hangs} times")
        try:
            if self._formulation is None:
                self._formulation = self._make()
            if self._worker is None:
                self._worker = _Worker()
            question = partial(self._formulation.solve, window, objective, budget, hint)
            answer: SolveResult = self._worker.ask(question, self._patience_s)
            return answer
        except _TooLateError:
            self._hangs += 1
            self._worker = self._formulation = None  # both may never come back
            return Failure("hang", f"no answer in {self._patience_s:g} s")
        except Exception as error:
            return Failure("error", f"{type(error).__name__}: {error}")

    def __getstate__(self) -> dict[str, Any]:
        # A copy has a worker and a formulation of its own: solvers and threads cannot be copied.
        return {**self.__dict__, "_worker": None, "_formulation": None}


class _TooLateError(Exception):
    """The answer did not come in time."""


class _Worker:
    """A thread that does what it is asked, one thing after the other, and ends with its owner."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(
            target=_work, args=(self._asked, self._answers), name="hexopt-formulation", daemon=True
        ).start()
        weakref.finalize(self, self._asked.put, None)

    def ask(self, question: Callable[[], Any], patience_s: float) -> Any:
        self._asked.put(question)
        try:
            answer, error = self._answers.get(timeout=patience_s)
        except queue.Empty:
            self._asked.put(None)
            raise _TooLateError from None
        if error is not None:
            # Not even an exit that a solver asks for ends the service.
            raise error if isinstance(error, Exception) else RuntimeError(repr(error))
        return answer


def _work(
    asked: queue.SimpleQueue[Callable[[], Any] | None], answers: queue.SimpleQueue[tuple[Any, BaseException | None]]
) -> None:
    while True:
        question = asked.get()
        if question is None:
            return
        try:
            answers.put((question(), None))
        except BaseException as error:
            answers.put((None, error))
        del question
