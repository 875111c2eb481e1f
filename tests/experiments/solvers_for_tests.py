"""Formulations of known conduct, for the solver comparison."""

from __future__ import annotations

import os
import time
from typing import Any, ClassVar

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.formulations.objective import Objective
from hexopt.formulations.protocol import Budget, Incumbents, SolveResult, Status, StopReason
from hexopt.formulations.single_call import single_call_bound

REGISTERED = {
    name: f"tests.experiments.solvers_for_tests:{cls}"
    for name, cls in {"first": "First", "raises": "Raises", "dies": "Dies", "hangs": "Hangs", "liar": "Liar"}.items()
}


def spread_plan(window: Window, step: int) -> WindowPlan:
    """Return a legal plan: calls go round the instances, by ``step``."""
    counts = [d.max_new for d in window.decode]
    plan = []
    for c, call in enumerate(window.calls):
        prefills, decodes = call.prefills(), call.decodes()
        order = [decodes[(c * step + k) % len(decodes)] for k in range(len(decodes))]
        d = next((d for d in order if counts[d] > 0 or not call.is_open or call.one_token), order[0])
        if call.is_open and not call.one_token:
            counts[d] -= 1
        plan.append(Placement(prefills[(c * step) % len(prefills)], None if call.one_token else d, float(c)))
    return tuple(plan)


class First:
    """Offers ``tries`` plans in turn; needs 10 ms a call for each, and keeps its limit by that count."""

    name: ClassVar[str] = "first"

    def __init__(self, tries: int = 1, bound: bool = True) -> None:
        self.tries, self.bound = tries, bound

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        best = Incumbents(window, objective)
        best.offer(hint)
        for step in range(1, self.tries + 1):
            if (budget.time_limit_s or 1.0) >= step * len(window.calls) * 0.01:
                best.offer(spread_plan(window, step))
        status = Status.FEASIBLE if best.plan is not None else Status.NO_INCUMBENT
        return SolveResult(
            self.name, objective, status, StopReason.COMPLETE, best.plan, best.value,
            bound=single_call_bound(window, objective) if self.bound else None, build_s=0.001, solve_s=0.002,
            trajectory=((0.001, 1.0),) if best.plan is not None else (), variables=10 * len(window.calls),
            constraints=20 * len(window.calls),
        )  # fmt: skip


class Raises(First):
    def solve(self, *args: Any, **kwargs: Any) -> SolveResult:
        raise RuntimeError("solver fell over")


class Dies(First):
    def solve(self, window: Window, *args: Any, **kwargs: Any) -> SolveResult:
        if window.name != "warm-up":
            os._exit(7)
        return super().solve(window, *args, **kwargs)


class Hangs(First):
    def solve(self, window: Window, *args: Any, **kwargs: Any) -> SolveResult:
        if window.name != "warm-up":
            time.sleep(600)
        return super().solve(window, *args, **kwargs)


class Liar(First):
    """Says that its plan is worth nothing and that this is proved."""

    def solve(self, window: Window, objective: Objective, *args: Any, **kwargs: Any) -> SolveResult:
        plan, value = spread_plan(window, 1), objective.value(window, [0] * len(window.workflows))
        return SolveResult("liar", objective, Status.OPTIMAL, StopReason.PROVED, plan, value, bound=1e9)
