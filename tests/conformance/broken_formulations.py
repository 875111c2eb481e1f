"""Formulations that each break one rule, and what the kit must say of them."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.formulations import Budget, Objective, SolveResult, Status, StopReason, check
from hexopt.formulations.protocol import Incumbents, is_proved
from hexopt.formulations.single_call import single_call_bound


class DecentFormulation:
    """Breaks nothing: all that is wrong with a formulation below is what it adds."""

    name: ClassVar[str] = "decent"

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        best = Incumbents(window, objective)
        best.offer(hint)
        best.offer(self.plan(window, budget))
        bound = single_call_bound(window, objective)
        if best.value is None:
            status = Status.NO_INCUMBENT
        else:
            status = Status.OPTIMAL if is_proved(best.value, bound, window, objective) else Status.FEASIBLE
        return SolveResult(self.name, objective, status, StopReason.COMPLETE, best.plan, best.value, bound=bound)

    def plan(self, window: Window, budget: Budget) -> WindowPlan:
        return tuple(
            Placement(call.prefills()[c % len(call.prefills())], decodes[c % len(decodes)], float(c))
            for c, call in enumerate(window.calls)
            for decodes in [call.decodes() or [None]]
        )


class NoName(DecentFormulation):
    name: ClassVar[str] = ""


class OtherName(DecentFormulation):
    def solve(self, *given: Any, **named: Any) -> SolveResult:
        return replace(super().solve(*given, **named), formulation="other")


class ReturnsNothing(DecentFormulation):
    def solve(self, *given: Any, **named: Any) -> Any:
        super().solve(*given, **named)


class NeedsCalls(DecentFormulation):
    def plan(self, window: Window, budget: Budget) -> WindowPlan:
        assert window.calls[0] is not None
        return super().plan(window, budget)


class TrustsHints(DecentFormulation):
    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        assert hint is None or all(hint[c].prefill in call.prefills() for c, call in enumerate(window.calls))
        return super().solve(window, objective, budget, hint)


class Writes(DecentFormulation):
    def plan(self, window: Window, budget: Budget) -> WindowPlan:
        object.__setattr__(window, "provenance", "written")
        return super().plan(window, budget)


class Prints(DecentFormulation):
    def plan(self, window: Window, budget: Budget) -> WindowPlan:
        print("solving")  # noqa: T201
        return super().plan(window, budget)


class PrintsFromC(DecentFormulation):
    """As a solver's library does."""

    def plan(self, window: Window, budget: Budget) -> WindowPlan:
        os.write(1, b"set parameter\n")
        return super().plan(window, budget)


class Changed(DecentFormulation):
    """Changes its answer."""

    def solve(self, *given: Any, **named: Any) -> SolveResult:
        return self.change(super().solve(*given, **named))

    def change(self, result: SolveResult) -> SolveResult:
        raise NotImplementedError


class OwnValue(Changed):
    def change(self, result: SolveResult) -> SolveResult:
        if result.value is None:
            return result
        return replace(result, value=result.value._replace(objective=result.value.objective * 0.999))


class NoPlan(Changed):
    def change(self, result: SolveResult) -> SolveResult:
        return replace(result, plan=None)


class IllegalPlan(DecentFormulation):
    """Ignores ``max_new``, and reports what it does not get from the checker."""

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        result = super().solve(window, objective, budget, hint)
        if hint is not None:
            return result
        free = replace(window, decode=tuple(replace(d, max_new=99) for d in window.decode))
        plan = tuple(row._replace(decode=0) if row.decode else row for row in self.plan(window, budget))
        value = check(free, plan, objective).value
        return result if value is None else replace(result, status=Status.FEASIBLE, plan=plan, value=value, bound=None)


class ValueAsBound(Changed):
    """Calls its own value a bound, which makes it optimal."""

    def change(self, result: SolveResult) -> SolveResult:
        if result.value is None:
            return result
        return replace(result, status=Status.OPTIMAL, bound=result.value.objective)


class Infeasible(Changed):
    def change(self, result: SolveResult) -> SolveResult:
        return replace(result, status=Status.INFEASIBLE, plan=None, value=None)


class OptimalWithoutBound(Changed):
    def change(self, result: SolveResult) -> SolveResult:
        return result if result.value is None else replace(result, status=Status.OPTIMAL, bound=None)


class FeasibleWithoutPlan(Changed):
    def change(self, result: SolveResult) -> SolveResult:
        return replace(result, status=Status.FEASIBLE, plan=None, value=None)


class InvalidWithoutNote(Changed):
    def change(self, result: SolveResult) -> SolveResult:
        return replace(result, status=Status.MODEL_INVALID)


class TooModest(Changed):
    """Never says that it has proved something."""

    def change(self, result: SolveResult) -> SolveResult:
        return replace(result, status=Status.FEASIBLE) if result.status is Status.OPTIMAL else result


class IgnoresHints(DecentFormulation):
    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        return super().solve(window, objective, budget)


class Remembers(DecentFormulation):
    """Starts from another place at each call."""

    def __init__(self) -> None:
        self.calls = 0

    def plan(self, window: Window, budget: Budget) -> WindowPlan:
        self.calls += 1
        return tuple(
            row._replace(priority=-row.priority if self.calls % 2 else row.priority)
            for row in super().plan(window, budget)
        )


class AsksTheClock(DecentFormulation):
    def plan(self, window: Window, budget: Budget) -> WindowPlan:
        return tuple(
            row._replace(priority=float(time.perf_counter_ns() % 1_000)) for row in super().plan(window, budget)
        )


class Slow(DecentFormulation):
    def plan(self, window: Window, budget: Budget) -> WindowPlan:
        if budget.time_limit_s is not None:
            time.sleep(0.3)
        return super().plan(window, budget)


class Broken(NamedTuple):
    formulation: type[DecentFormulation]
    rule: str
    words: str


BROKEN_FORMULATIONS = [
    Broken(NoName, "F1", "name is ''"),
    Broken(OtherName, "F1", "its answer is of 'other'"),
    Broken(ReturnsNothing, "F1", "it returned NoneType"),
    Broken(NeedsCalls, "F2", "in window 'no calls', objective bottleneck, it raised IndexError"),
    Broken(TrustsHints, "F2", "it raised IndexError"),
    Broken(Writes, "F3", "is not what it was"),
    Broken(Prints, "F4", "it printed 'solving'"),
    Broken(PrintsFromC, "F4", "it printed 'set parameter'"),
    Broken(OwnValue, "F5", "the checker says"),
    Broken(NoPlan, "F5", "plan is None, value is Value"),
    Broken(IllegalPlan, "F5", "the plan breaks max-new"),
    Broken(ValueAsBound, "F6", "a plan has"),
    Broken(Infeasible, "F6", "status is infeasible"),
    Broken(OptimalWithoutBound, "F7", "bound None"),
    Broken(FeasibleWithoutPlan, "F7", "status is feasible without a plan"),
    Broken(InvalidWithoutNote, "F7", "note is empty"),
    Broken(TooModest, "F7", "status is feasible, value"),
    Broken(IgnoresHints, "F8", "the hint has"),
    Broken(Remembers, "F9", "of a fresh and a used instance"),
    Broken(AsksTheClock, "F9", "of two fresh instances"),
    Broken(Slow, "F10", "returned after 0.3 s"),
]
