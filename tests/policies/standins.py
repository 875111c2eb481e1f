"""Formulations for tests of the loop: a plain one that works, and some that do not."""

from __future__ import annotations

import math
import time
from typing import Any, ClassVar

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.formulations.objective import Objective
from hexopt.formulations.protocol import Budget, Incumbents, SolveResult, Status, StopReason

MODULE = __name__


def result(objective: Objective, plan: Any, status: Status = Status.FEASIBLE) -> SolveResult:
    return SolveResult("stand-in", objective, status, StopReason.COMPLETE, plan)


class Tries:
    """Moves one call at a time to another pair or to the front, as long as that is better."""

    name: ClassVar[str] = "tries"

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        best = Incumbents(window, objective)
        best.offer(hint)
        plan = best.plan
        assert plan is not None
        left = budget.iterations or 100
        for c, call in enumerate(window.calls):
            for p in call.prefills():
                for d in call.decodes():
                    for first in (False, True):
                        priority = min(x.priority for x in plan) - 1 if first else plan[c].priority
                        best.offer((*plan[:c], Placement(p, d, priority), *plan[c + 1 :]))
                        assert best.plan is not None
                        plan = best.plan
                        left -= 1
                        if not left:
                            return result(objective, plan)
        return result(objective, plan)


class Echo:
    """Finds nothing better than what it is told."""

    name: ClassVar[str] = "echo"

    def __init__(self, solver: str = "") -> None:
        self.solver = solver

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        return result(objective, self.answer(window, hint))

    def answer(self, window: Window, hint: Any) -> Any:
        return hint


class Raises(Echo):
    def answer(self, window: Window, hint: Any) -> Any:
        raise ZeroDivisionError("of the solver")


class Exits(Echo):
    def answer(self, window: Window, hint: Any) -> Any:
        raise SystemExit(3)


class Hangs(Echo):
    def answer(self, window: Window, hint: Any) -> Any:
        time.sleep(60)


class NoPlan(Echo):
    def answer(self, window: Window, hint: Any) -> Any:
        return None


class SaysInfeasible(Echo):
    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        return result(objective, None, Status.INFEASIBLE)


class IllegalPair(Echo):
    def answer(self, window: Window, hint: Any) -> Any:
        return [(len(window.prefill), d, k) for _, d, k in hint]


class ForeignPair(Echo):
    """Sends bound calls elsewhere, and open ones where they may not go."""

    def answer(self, window: Window, hint: Any) -> Any:
        used = [d.max_new for d in window.decode]
        return [(p, used.index(min(used)), k) for p, _, k in hint]


class WrongLength(Echo):
    def answer(self, window: Window, hint: Any) -> Any:
        return hint[:-1]


class NotANumber(Echo):
    def answer(self, window: Window, hint: Any) -> Any:
        return [(p, d, math.nan) for p, d, _ in hint]


class Nonsense(Echo):
    def answer(self, window: Window, hint: Any) -> Any:
        return 7


class NoResult(Echo):
    def solve(self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None) -> Any:
        return "forty-two"
