"""Local search, bounds, then the solver: each stage only if it is needed."""

from __future__ import annotations

from typing import ClassVar

import pytest

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.formulations import (
    BOTTLENECK,
    Budget,
    Formulation,
    Objective,
    SolveResult,
    Status,
    StopReason,
    check,
    parse_objective,
)
from hexopt.formulations.greedy import greedy_plan
from hexopt.formulations.portfolio import Portfolio
from tests.formulations.test_cpsat import AMPLE, two_calls
from tests.formulations.windows import REGIMES, random_window, refreshed


class Greedy:
    """A stand-in for the local search: one greedy plan."""

    name: ClassVar[str] = "greedy"

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        plan = hint or greedy_plan(window)
        value = None if plan is None else check(window, plan, objective).value
        status = Status.NO_INCUMBENT if value is None else Status.FEASIBLE
        return SolveResult(self.name, objective, status, StopReason.COMPLETE, plan, value)


class Never:
    """A solver that must not be needed."""

    name: ClassVar[str] = "never"

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        raise AssertionError("the bound has proved it")


def test_it_is_a_formulation() -> None:
    assert isinstance(Portfolio(local_search=Greedy()), Formulation)


def test_a_window_that_the_bound_proves_needs_no_solver() -> None:
    late = [{"id": "v", "elapsed_us": 0, "horizon_us": 100}, {"id": "w", "elapsed_us": 60, "horizon_us": 100}]
    found = Portfolio(local_search=Greedy(), solver=Never(), ties=False).solve(
        two_calls(workflows=late), BOTTLENECK, AMPLE
    )
    assert found.status is Status.OPTIMAL
    assert found.facts["proved_by"] == "bound"
    assert found.value is not None
    assert found.value.objective == found.bound == pytest.approx(0.95)


def test_what_is_left_goes_to_the_solver() -> None:
    window = refreshed(random_window(1, 10, "uneven"))
    found = Portfolio(local_search=Greedy(), ties=False).solve(window, BOTTLENECK, AMPLE)
    alone = Greedy().solve(window, BOTTLENECK, AMPLE).value
    assert found.value is not None
    assert alone is not None
    assert found.value <= alone
    assert found.status is Status.OPTIMAL
    assert [s["stage"] for s in found.facts["stages"]][:2] == ["greedy", "cpsat"]


def test_statuses() -> None:
    decode = two_calls().to_json()["decode"][0]
    for change in ({"kv_free_blocks": 1}, {"max_new": 1}):
        found = Portfolio(local_search=Greedy()).solve(two_calls(decode=[{**decode, **change}]), BOTTLENECK, AMPLE)
        assert (found.status, found.plan) == (Status.INFEASIBLE, None)
    best = (Placement(0, 0, 0.0), Placement(0, 0, 1.0))
    short = Portfolio(local_search=Greedy()).solve(two_calls(), parse_objective("sum"), Budget(time_limit_s=1e-6), best)
    assert short.plan == best
    assert short.status in (Status.FEASIBLE, Status.OPTIMAL)
    empty = Portfolio(local_search=Greedy()).solve(two_calls(calls=[]), BOTTLENECK, AMPLE)
    assert empty.status is Status.OPTIMAL


@pytest.mark.parametrize("regime", REGIMES)
def test_value_and_bound_are_in_order(regime: str) -> None:
    window = random_window(2, 10, regime)
    for objective in (BOTTLENECK, parse_objective("sum"), parse_objective("late:1.2")):
        found = Portfolio(local_search=Greedy()).solve(window, objective, Budget(deterministic=0.02))
        assert found.value is not None
        assert found.plan is not None
        assert found.value == check(window, found.plan, objective).value
        assert found.bound is not None
        assert found.bound <= found.value.objective
