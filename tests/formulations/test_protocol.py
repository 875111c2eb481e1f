"""What a value and a bound prove, and what is said where they contradict each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexopt.core.window import Window, WindowPlan
from hexopt.formulations import BOTTLENECK, Budget, Objective, SolveResult, Status, StopReason, parse_objective
from hexopt.formulations.cpsat import CpSat
from hexopt.formulations.cpsat import solve as cpsat_solve
from hexopt.formulations.greedy import greedy_plan
from hexopt.formulations.milp import driver
from hexopt.formulations.objective import Value
from hexopt.formulations.portfolio import Portfolio
from hexopt.formulations.protocol import Incumbents, claim, is_proved, resolution
from hexopt.formulations.registry import make_formulation
from tests.formulations.test_cpsat import AMPLE, two_calls
from tests.formulations.test_portfolio import Greedy


def of_horizons(*horizons: int) -> Window:
    return two_calls(workflows=[{"id": f"w{k}", "elapsed_us": 0, "horizon_us": h} for k, h in enumerate(horizons)])


def test_small_ratios_are_not_proved_by_an_absolute_tolerance() -> None:
    """With horizons of an hour, a µs is less than 1e-9 of a ratio: a plan a µs above its bound is not the best."""
    hour = 3_600_000_000
    window = of_horizons(hour, hour)
    value = Value(40 / hour, 55 / hour)
    assert is_proved(value, 40 / hour, window, BOTTLENECK)
    assert not is_proved(value, 39 / hour, window, BOTTLENECK)
    # Far above 1 too: a share of the value hides many µs there.
    late = Value(2_000_000_000_001 / hour, 0.0)
    assert not is_proved(late, 2_000_000_000_000 / hour, window, BOTTLENECK)


@given(
    st.lists(st.integers(1, 2**40), min_size=2, max_size=2),
    st.integers(0, 2**40),
    st.integers(0, 3),
    st.sampled_from(["bottleneck", "sum", "hinge:0.001", "late:0.001"]),
)
def test_a_bound_a_us_below_proves_nothing(horizons: list[int], end: int, less: int, text: str) -> None:
    window, objective = of_horizons(*horizons), parse_objective(text)
    value = objective.value(window, [end + less, 0])
    below = objective.value(window, [end, 0])
    # Values that are the same are proved, values that a whole µs tells apart are not.
    assert is_proved(value, below.objective, window, objective) == (value.objective == below.objective)


def test_the_number_of_late_workflows_is_whole() -> None:
    window, late = of_horizons(100, 100), parse_objective("late:1")
    assert is_proved(Value(2.0, 3.0), 1.6, window, late)
    assert not is_proved(Value(2.0, 3.0), 1.0, window, late)
    # Three at least are late by this bound, and the plan has two.
    assert claim(Value(2.0, 3.0), 2.4, window, late)[:2] == (Status.FEASIBLE, 2.4)
    assert resolution(replace(window, workflows=()), BOTTLENECK) == 0.5


def test_claims() -> None:
    window = of_horizons(100, 50)
    assert claim(None, 0.5, window, BOTTLENECK) == (Status.NO_INCUMBENT, 0.5, "")
    assert claim(Value(0.5, 1.0), None, window, BOTTLENECK) == (Status.FEASIBLE, None, "")
    assert claim(Value(0.5, 1.0), 0.496, window, BOTTLENECK) == (Status.OPTIMAL, 0.496, "")
    assert claim(Value(0.5, 1.0), 0.504, window, BOTTLENECK) == (Status.OPTIMAL, 0.5, "")
    assert claim(Value(0.5, 1.0), 0.49, window, BOTTLENECK) == (Status.FEASIBLE, 0.49, "")
    status, bound, note = claim(Value(0.5, 1.0), 0.51, window, BOTTLENECK)
    assert (status, bound) == (Status.FEASIBLE, 0.51)
    assert "the bound 0.51 is above 0.5, which the checker says of a plan" in note


def test_a_gap_is_negative_only_where_a_plan_contradicts_the_bound() -> None:
    def gap(value: float, bound: float | None) -> float | None:
        return SolveResult(
            "any", BOTTLENECK, Status.FEASIBLE, StopReason.COMPLETE, (), Value(value, value), bound=bound
        ).gap

    assert gap(2.0, None) is None
    assert gap(2.0, 1.5) == 0.25
    assert gap(0.0, 0.0) == 0.0
    assert gap(1.5, 2.0) == -0.25
    assert gap(0.0, 2.0) == -1.0


def test_a_start_that_is_proved_at_once_took_some_time() -> None:
    window = of_horizons(100, 50)
    best = make_formulation("cpsat").solve(window, BOTTLENECK, Budget()).plan
    found = make_formulation("milp-deadline").solve(window, BOTTLENECK, Budget(), best)
    assert (found.status, found.build_s, found.solve_s) == (Status.OPTIMAL, 0, 0)
    assert found.proved_s is not None
    assert found.proved_s > 0


@pytest.mark.parametrize("name", ["cpsat", "portfolio", "milp-disjunctive", "local-search"])
def test_time_to_proof_does_not_count_what_ties_take(name: str) -> None:
    found = make_formulation(name).solve(of_horizons(100, 50), BOTTLENECK, Budget(iterations=50))
    assert found.status is Status.OPTIMAL
    assert found.proved_s == found.facts["proved_s"]
    assert 0 < found.proved_s < found.build_s + found.solve_s
    assert replace(found, status=Status.FEASIBLE).proved_s is None
    assert replace(found, facts={}).proved_s == found.build_s + found.solve_s


# -- a bound above what a plan is worth --------------------------------------------------------------------------------


class Overstates:
    """A solver that finds a plan and a bound above it."""

    name: ClassVar[str] = "overstates"

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        best = Incumbents(window, objective)
        best.offer(hint)
        assert best.value is not None
        bound = best.value.objective + 1.0
        return SolveResult(self.name, objective, Status.FEASIBLE, StopReason.PROVED, best.plan, best.value, bound=bound)


def contradicted(result: SolveResult) -> None:
    assert result.value is not None
    assert result.bound is not None
    assert result.bound > result.value.objective
    assert result.status is Status.FEASIBLE
    assert result.stop_reason is StopReason.ERROR
    assert result.gap is not None
    assert result.gap < 0
    assert "the solver or the model is wrong" in result.note


def test_portfolio_says_that_its_solver_is_wrong() -> None:
    window = of_horizons(100, 50)
    found = Portfolio(local_search=Greedy(), solver=Overstates()).solve(window, parse_objective("sum"), AMPLE)
    contradicted(found)


def test_cpsat_says_that_its_model_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    window = of_horizons(100, 50)
    monkeypatch.setattr(cpsat_solve, "window_bound", lambda *given: 9.0)
    monkeypatch.setattr(cpsat_solve, "refuted", lambda *given: False)
    monkeypatch.setattr(cpsat_solve._Search, "_earliest_bound", lambda self: None)
    contradicted(CpSat().solve(window, BOTTLENECK, AMPLE, greedy_plan(window)))


def test_milp_says_that_its_solver_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    window = of_horizons(100, 50)
    monkeypatch.setattr(driver, "_proved_bound", lambda bound, frame: bound / frame.scale + 1.0)
    found = make_formulation("milp-disjunctive").solve(window, parse_objective("sum"), Budget())
    contradicted(found)


def test_local_search_says_that_its_bound_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    window = of_horizons(100, 50)
    search = make_formulation("local-search")
    true = Objective.value

    def one_more(self: Objective, window: Window, ends_us: Any) -> Value:
        value = true(self, window, ends_us)
        return value._replace(objective=value.objective + 1) if ends_us == [15, 35] else value

    monkeypatch.setattr(Objective, "value", one_more)  # of the least ends, which no plan has
    contradicted(search.solve(window, parse_objective("sum"), Budget(iterations=50)))
