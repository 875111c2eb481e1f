"""Worker processes for solves: one solve at a time each, and none of them can stop the others.

A process that dies, or does not come back long after its limit, costs its own row and is replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from hexopt.experiments.solver_work import Bench, SolveTask
from hexopt.formulations import registry

PATIENCE_S = 30.0
PATIENCE = 20.0
"""A solve is given up when it has taken 20 times its limit and 30 s more: it hangs."""
PREPARE_S = 300.0
"""So long may it take to be ready for a solve: loading solvers, compiling, warming up."""

_READY, _ROW = "ready", "row"


def solve_all(
    tasks: Sequence[SolveTask], library: str, jobs: int, patience_s: float = PATIENCE_S
) -> Iterator[tuple[SolveTask, dict[str, Any]]]:
    """Carry out solves in ``jobs`` processes, in order, and yield each with its row as it ends."""
    queue = deque(tasks)
    workers = [_Worker(library, patience_s) for _ in range(min(jobs, len(queue)))]
    try:
        for worker in workers:
            worker.give(queue.popleft())
        while busy := [worker for worker in workers if worker.task is not None]:
            timeout = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            wait([worker.pipe for worker in busy], timeout)
            for worker in busy:
                task = worker.task
                row = worker.look()
                if row is None or task is None:
                    continue
                if queue:
                    worker.give(queue.popleft())
                yield task, row
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """One process, and what it is at."""

    def __init__(self, library: str, patience_s: float) -> None:
        self._library, self._patience_s = library, patience_s
        self.task: SolveTask | None = None
        self.deadline = 0.0
        self._start()

    def _start(self) -> None:
        # "spawn": a forked process would inherit the state of solvers' threads.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        args = (theirs, self._library, os.getpid(), dict(registry.FORMULATIONS))
        self._process = context.Process(target=_serve, args=args, daemon=True)
        self._process.start()
        theirs.close()

    def give(self, task: SolveTask) -> None:
        """Hand over a solve."""
        self.task, self.deadline = task, time.monotonic() + PREPARE_S
        try:
            self.pipe.send(task)
        except OSError:  # it died while it had nothing to do
            self.stop()
            self._start()
            self.pipe.send(task)

    def look(self) -> dict[str, Any] | None:
        """Return the row of its solve if that is over, however it ended."""
        assert self.task is not None
        if not self.pipe.poll():
            if time.monotonic() < self.deadline:
                return None
            return self._lost("it did not come back, its process was ended")
        try:
            what, value = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode
            how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
            return self._lost(f"its process died ({how})")
        if what == _READY:
            limit_s = self.task.limit_ms / 1000
            self.deadline = time.monotonic() + limit_s * PATIENCE + self._patience_s
            return None
        self.task = None
        row: dict[str, Any] = value
        return row

    def _lost(self, error: str) -> dict[str, Any]:
        assert self.task is not None
        row = self.task.row() | {"status": "error", "error": error}
        self.task = None
        self.stop()
        self._start()
        return row

    def stop(self) -> None:
        """End the process, and what it has started (some solvers are programs of their own)."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)  # the group is its own, see _serve
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, library: str, parent: int, formulations: dict[str, str]) -> None:
    """Answer solves with rows until the parent is gone."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    registry.FORMULATIONS.update(formulations)  # what the parent has registered since it began
    bench = Bench(library)
    while True:
        try:
            task: SolveTask = pipe.recv()
        except EOFError:
            return
        try:
            bench.prepare(task)
        except Exception as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            pipe.send((_ROW, task.row() | {"status": "error", "error": told}))
            continue
        pipe.send((_READY, None))
        pipe.send((_ROW, bench.measure(task)))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
