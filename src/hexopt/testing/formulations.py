""":func:`check_formulation`: does a formulation keep the rules that the loop and the comparisons rely on?

``docs/writing-a-formulation.md`` has a worked example.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from hexopt.core.window import Window, WindowPlan
from hexopt.errors import ConfigError, ConformanceError
from hexopt.formulations.checker import check
from hexopt.formulations.objective import Objective, Value, objective_text, parse_objective
from hexopt.formulations.protocol import TOLERANCE, Budget, Formulation, SolveResult, Status, StopReason, is_proved
from hexopt.formulations.registry import make_formulation
from hexopt.testing.rules import Rule
from hexopt.testing.windows import all_plans, best_values, make_window, random_plans, tiny_windows

FORMULATION_RULES = {
    "F1": Rule(
        "protocol",
        "a formulation has a name and solve(window, objective, budget, hint), which returns a SolveResult that names "
        "both the formulation and the objective",
        "see hexopt.formulations.Formulation",
    ),
    "F2": Rule(
        "survival",
        "solve never raises, whatever the window, the objective and the hint",
        "answer with a status: model-invalid and a note for what it cannot state",
    ),
    "F3": Rule(
        "read-only window",
        "solve never changes the window or the hint",
        "copy what is to be changed",
    ),
    "F4": Rule(
        "silence",
        "solve prints nothing, nor does the solver",
        "turn the solver's log off",
    ),
    "F5": Rule(
        "checked value",
        "value is what the checker says of plan, plan keeps the window's rules, and one is None if the other is",
        "offer plans to hexopt.formulations.protocol.Incumbents and return what it keeps",
    ),
    "F6": Rule(
        "true bound",
        "bound is at most the value of every plan, and infeasible is said only where no plan keeps the rules",
        "let the model leave rules out or round times down, or return no bound",
    ),
    "F7": Rule(
        "honest status",
        "optimal says that a plan's value is a proved bound, feasible that there is a plan, no-incumbent and "
        "infeasible that there is none, and model-invalid has a note",
        "derive the status from value and bound",
    ),
    "F8": Rule(
        "hint",
        "the plan is never worse than a hint that keeps the rules, and other hints do no harm",
        "judge the hint first and keep it until something is better",
    ),
    "F9": Rule(
        "determinism",
        "the same window, budget without a time limit, seed and hint give the same answer, of a fresh and of a used "
        "instance",
        "let no clock decide, pass the seed on, keep no state between calls of solve",
    ),
    "F10": Rule(
        "time limit",
        "solve returns soon after its time limit, however short, and what it returns keeps all other rules",
        "count building the model, and pass the solver what is left",
    ),
}
"""Every rule that :func:`check_formulation` holds a formulation to, by number."""

LATE_S = 5.0
"""So late is too late, whatever the machine (F10)."""


@dataclass(frozen=True)
class FormulationReport:
    """What was checked: ``checks`` counts answers looked at by rule, ``optimal`` those with a proof.

    ``stated`` are the objectives that the formulation can state.
    """

    formulation: str
    checks: Mapping[str, int]
    stated: tuple[str, ...]
    answers: int
    optimal: int

    def __str__(self) -> str:
        lines = [f"formulation '{self.formulation}' keeps all rules"]
        lines += [
            f"  {number:<4}{FORMULATION_RULES[number].title:<20}{count:>6} checks"
            for number, count in self.checks.items()
        ]
        lines.append(
            f"  states {', '.join(self.stated) or 'nothing'}; {self.optimal} of {self.answers} answers optimal"
        )
        return "\n".join(lines)


def check_formulation(make: Formulation | Callable[[], Formulation] | str) -> FormulationReport:
    """Hold a formulation against :data:`FORMULATION_RULES`.

    It solves some dozens of windows of at most three calls, of which every plan is tried as well, and one of 16 calls
    in next to no time.

    Parameters
    ----------
    make
        A class or another callable without arguments that builds the formulation, a fresh one at every call; or an
        instance, of which deep copies serve as the fresh ones; or a name that
        :func:`hexopt.formulations.make_formulation` knows.

    Raises
    ------
    ConformanceError
        A rule is broken. The message names the formulation, the window, what was observed, the rule and the remedy.
    ConfigError
        No formulation can be built from what was given.
    """
    fresh = _maker(make)
    kit = _Kit(fresh)
    for window in tiny_windows():
        kit.tiny(window)
    kit.hurry(make_window("sixteen calls", 16, prefills=3, decodes=3))
    return kit.report()


OBJECTIVES = [parse_objective(t) for t in ("bottleneck", "sum", "hinge:0.8,give_up=0.5", "late:0.8")]
_BUDGET = Budget(deterministic=1.0, iterations=500, seed=3)


def _maker(make: Any) -> Callable[[], Any]:
    if isinstance(make, str):
        name = make
        return lambda: make_formulation(name)
    if isinstance(make, type) or (callable(make) and not hasattr(make, "solve")):
        factory = make

        def built() -> Any:
            try:
                return factory()
            except TypeError as error:
                raise ConfigError(
                    f"formulation {factory!r}: it cannot be built ({error}), a check builds it without arguments, "
                    "give a callable such as lambda: MyFormulation(option=1)"
                ) from error

        return built
    pristine = copy.deepcopy(make)
    return lambda: copy.deepcopy(pristine)


class _Kit:
    """One check of one formulation."""

    def __init__(self, fresh: Callable[[], Any]) -> None:
        self._fresh = fresh
        self._used = fresh()
        name = getattr(self._used, "name", None)
        self._name = name if isinstance(name, str) and name else type(self._used).__name__
        self._checks = dict.fromkeys(FORMULATION_RULES, 0)
        self._where = ""
        self._stated: dict[str, bool] = {}
        self._answers = self._optimal = 0
        if not isinstance(name, str) or not name or not callable(getattr(self._used, "solve", None)):
            self._fail("F1", f"of name (a text) and solve it lacks one, name is {name!r}")

    def report(self) -> FormulationReport:
        stated = tuple(text for text, can in self._stated.items() if can)
        return FormulationReport(self._name, self._checks, stated, self._answers, self._optimal)

    def tiny(self, window: Window) -> None:
        """Every rule but the last, with all plans known."""
        best = best_values(window, all_plans(window), OBJECTIVES)
        some = next(random_plans(window, 1, seed=1))
        for k, objective in enumerate(OBJECTIVES):
            least = None if best is None else best[k]
            self._where = f"in window '{window.name}', objective {objective_text(objective)}, "
            first = self._solve(self._fresh(), window, objective, _BUDGET, None, least)
            again = self._solve(self._fresh(), window, objective, _BUDGET, None, least)
            used = self._solve(self._used, window, objective, _BUDGET, None, least)
            for other, which in ((again, "two fresh instances"), (used, "a fresh and a used instance")):
                seen = _difference(first, other)
                if seen:
                    self._fail("F9", f"of {which} {seen}")
                self._checks["F9"] += 1
            for hint in (next(_feasible(window), some), *((some, some[:-1], (*some, *some)) if k == 0 else ())):
                self._solve(self._used, window, objective, _BUDGET, hint, least)

    def hurry(self, window: Window) -> None:
        """Next to no time."""
        known = list(random_plans(window, 200, seed=2))
        best = best_values(window, known, OBJECTIVES)
        for k, objective in enumerate(OBJECTIVES):
            for limit_s in (1e-6, 1e-3, 0.02):
                for hint in (None, next(_feasible(window))):
                    self._where = f"in window '{window.name}', objective {objective_text(objective)}, {limit_s:g} s, "
                    budget = Budget(time_limit_s=limit_s)
                    begin = time.perf_counter()
                    self._solve(self._used, window, objective, budget, hint, None if best is None else best[k], False)
                    took = time.perf_counter() - begin
                    if took > limit_s + LATE_S:
                        self._fail("F10", f"returned after {took:.1f} s")
                    self._checks["F10"] += 1

    def _solve(
        self,
        formulation: Any,
        window: Window,
        objective: Objective,
        budget: Budget,
        hint: WindowPlan | None,
        least: Value | None,
        complete: bool = True,
    ) -> SolveResult:
        """Solve, and hold the answer against F1 to F8; ``complete``: ``least`` is over all plans."""
        before = window.to_text(), copy.deepcopy(hint)
        with _listening() as heard:
            try:
                result: SolveResult = formulation.solve(window, objective, budget, hint)
            except Exception as error:
                self._fail("F2", f"it raised {type(error).__name__}: {error}", error)
        self._checks["F2"] += 1
        if (window.to_text(), hint) != before:
            self._fail("F3", "the window or the hint is not what it was")
        self._checks["F3"] += 1
        if heard:
            self._fail("F4", f"it printed {heard[0][:60]!r}")
        self._checks["F4"] += 1
        self._protocol(result, objective)
        self._value(result, window, objective)
        self._bound(result, least, complete)
        self._status(result, window, objective)
        self._hint(result, window, objective, hint)
        self._answers += 1
        self._optimal += result.status is Status.OPTIMAL
        can = result.status is not Status.MODEL_INVALID
        text = objective_text(objective)
        self._stated[text] = self._stated.get(text, False) or (can and bool(window.calls))
        return result

    def _protocol(self, result: Any, objective: Objective) -> None:
        if not isinstance(result, SolveResult):
            self._fail("F1", f"it returned {type(result).__name__}")
        if result.formulation != self._name or result.objective != objective:
            self._fail("F1", f"its answer is of '{result.formulation}' about {result.objective}")
        if not isinstance(result.status, Status) or not isinstance(result.stop_reason, StopReason):
            self._fail("F1", f"status is {result.status!r}, stop_reason {result.stop_reason!r}")
        self._checks["F1"] += 1

    def _value(self, result: SolveResult, window: Window, objective: Objective) -> None:
        if (result.plan is None) != (result.value is None):
            self._fail("F5", f"plan is {'not ' * (result.plan is not None)}None, value is {result.value}")
        if result.plan is not None:
            verdict = check(window, result.plan, objective)
            if verdict.violations:
                self._fail("F5", f"the plan breaks {verdict.violations[0].rule}")
            if verdict.value != result.value:
                self._fail("F5", f"value is {result.value}, the checker says {verdict.value}")
        self._checks["F5"] += 1

    def _bound(self, result: SolveResult, least: Value | None, complete: bool) -> None:
        if least is not None:
            top = min(v.objective for v in (least, result.value) if v is not None)
            if result.bound is not None and not result.bound <= top + TOLERANCE * max(1.0, abs(top)):
                self._fail("F6", f"bound is {result.bound!r}, a plan has {top!r}")
            if result.status is Status.INFEASIBLE:
                self._fail("F6", f"status is infeasible, a plan has {top!r}")
        elif complete and result.status in (Status.OPTIMAL, Status.FEASIBLE):
            self._fail("F6", f"status is {result.status}, no plan keeps the rules")
        self._checks["F6"] += 1

    def _status(self, result: SolveResult, window: Window, objective: Objective) -> None:
        value, bound, status = result.value, result.bound, result.status
        if value is None and status in (Status.OPTIMAL, Status.FEASIBLE):
            self._fail("F7", f"status is {status} without a plan")
        if value is not None and status in (Status.INFEASIBLE, Status.NO_INCUMBENT):
            self._fail("F7", f"status is {status} with a plan")
        if status is Status.MODEL_INVALID and not result.note:
            self._fail("F7", "status is model-invalid and note is empty")
        if value is not None:
            proved = is_proved(value, bound, window, objective)
            if (status is Status.OPTIMAL and not proved) or (status is Status.FEASIBLE and proved):
                self._fail("F7", f"status is {status}, value {value.objective!r}, bound {bound!r}")
        self._checks["F7"] += 1

    def _hint(self, result: SolveResult, window: Window, objective: Objective, hint: WindowPlan | None) -> None:
        if hint is None:
            return
        value = check(window, hint, objective).value
        if value is not None and (result.value is None or result.value > value):
            self._fail("F8", f"value is {result.value}, the hint has {value}")
        self._checks["F8"] += 1

    def _fail(self, number: str, observed: str, cause: Exception | None = None) -> None:
        rule = FORMULATION_RULES[number]
        seen = " ".join(f"{self._where}{observed}".split())
        raise ConformanceError(
            f"formulation '{self._name}': {seen}, {number} {rule.title}: {rule.text}, {rule.remedy}", number
        ) from cause


def _feasible(window: Window) -> Iterator[WindowPlan]:
    """Return a plan that keeps the rules, if a few hundred draws find one."""
    for plan in random_plans(window, 500, seed=4):
        if check(window, plan).feasible:
            yield plan
            return


def _difference(one: SolveResult, other: SolveResult) -> str:
    for name in ("status", "stop_reason", "plan", "value", "bound", "model_objective", "variables", "constraints"):
        if getattr(one, name) != getattr(other, name):
            return f"one has {name} {str(getattr(one, name))[:80]}, the other {str(getattr(other, name))[:80]}"
    return ""


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Catch what is printed, also by compiled code; it is in the list afterwards."""
    heard: list[str] = []
    streams = sys.stdout, sys.stderr
    for stream in streams:
        with suppress(OSError, ValueError):
            stream.flush()
    with tempfile.TemporaryFile("w+", errors="replace") as caught:
        kept = []
        for number in (1, 2):
            with suppress(OSError):
                kept.append((number, os.dup(number)))
                os.dup2(caught.fileno(), number)
        sys.stdout = sys.stderr = caught
        try:
            yield heard
        finally:
            sys.stdout, sys.stderr = streams
            for number, copied in kept:
                os.dup2(copied, number)
                os.close(copied)
            caught.flush()
            caught.seek(0)
            heard += [line for line in caught.read().splitlines() if line.strip()]
