"""The referee of tiny windows."""

from __future__ import annotations

import itertools

import pytest

from hexopt.core.window import Placement, Window
from hexopt.errors import ConfigError
from hexopt.formulations import Budget, Objective, Status, StopReason, Value, check, make_formulation, parse_objective
from tests.formulations.small import call, instances, small_window
from tests.formulations.windows import REGIMES, random_window


def best_of_all(window: Window, objective: Objective) -> Value | None:
    """Return the best value over all placements and all orders, nothing left out."""
    best = None
    choices = [[(p, d) for p in c.prefills() for d in c.decodes()] for c in window.calls]
    for pairs in itertools.product(*choices):
        for order in itertools.permutations(range(len(pairs))):
            plan = [Placement(p, d, float(k)) for (p, d), k in zip(pairs, order, strict=True)]
            value = check(window, plan, objective).value
            if value is not None and (best is None or value < best):
                best = value
    return best


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("text", ["bottleneck", "sum", "hinge:1,give_up=0.5", "late:1"])
def test_it_leaves_nothing_better_out(regime: str, text: str) -> None:
    objective = parse_objective(text)
    window = random_window(2, 3, regime, 2, 2)
    result = make_formulation("exhaustive").solve(window, objective, Budget())
    assert result.value == best_of_all(window, objective)
    assert result.status is Status.OPTIMAL
    assert result.bound == result.value.objective


def test_orders_that_matter_only_where_room_is_scarce() -> None:
    # b first is done at 5 + 1 + 60, and a waits for its room; a first is worse for both.
    calls = [call("a", [5, 9], [60], wire=1, workflow=0), call("b", [9, 5], [20], wire=1, workflow=1)]
    workflows = [{"id": "u", "elapsed_us": 0, "horizon_us": 100}, {"id": "v", "elapsed_us": 0, "horizon_us": 20}]
    window = small_window(calls, instances(2, 1, None, {"kv_free_blocks": 1}), workflows)
    result = make_formulation("exhaustive").solve(window, parse_objective("bottleneck"), Budget())
    assert result.value == Value(1.3, 1.3 + 26 / 100 + 0.61)
    (a, b) = result.plan
    assert (a.prefill, b.prefill) == (0, 1)
    assert b.priority < a.priority


def test_what_no_plan_can_do() -> None:
    calls = [call("a", [5], [6], kv_blocks=3), call("b", [5], [6])]
    window = small_window(calls, instances(1, 1, None, {"kv_free_blocks": 2}))
    result = make_formulation("exhaustive").solve(window, parse_objective("sum"), Budget())
    assert (result.status, result.plan, result.bound) == (Status.INFEASIBLE, None, None)
    capped = small_window([call("a", [5], [6]), call("b", [5], [6])], instances(1, 1, None, {"max_new": 1}))
    assert make_formulation("exhaustive").solve(capped, parse_objective("sum"), Budget()).status is Status.INFEASIBLE


def test_windows_that_are_too_large_are_refused_with_the_number() -> None:
    window = random_window(0, 6, "roomy", 2, 2)
    hint = tuple(Placement(0, c % 2, float(c)) for c in range(6))
    result = make_formulation("exhaustive", max_combinations=1000).solve(window, Objective(), Budget(), hint)
    assert (result.status, result.stop_reason) == (Status.MODEL_INVALID, StopReason.NOT_STARTED)
    assert "at most 1000 are enumerated" in result.note
    assert result.plan == hint
    with pytest.raises(ConfigError, match="max_combinations is 0"):
        make_formulation("exhaustive", max_combinations=0)


def test_it_keeps_its_time_limit() -> None:
    window = random_window(1, 5, "strict", 2, 2)
    result = make_formulation("exhaustive").solve(window, Objective(), Budget(time_limit_s=1e-6))
    assert result.stop_reason is StopReason.TIME_LIMIT
    assert result.status is Status.NO_INCUMBENT
    assert result.bound is None


def test_it_keeps_a_deterministic_budget_and_says_so() -> None:
    window, objective = random_window(1, 4, "tight-kv", 2, 2), parse_objective("sum")
    whole = make_formulation("exhaustive").solve(window, objective, Budget())
    some = [make_formulation("exhaustive").solve(window, objective, Budget(deterministic=0.005)) for _ in range(2)]
    assert whole.status is Status.OPTIMAL
    for result in some:
        assert (result.status, result.stop_reason) == (Status.FEASIBLE, StopReason.WORK_LIMIT)
        assert result.bound is None
        assert 0 < result.facts["judged"] < whole.facts["judged"]
    assert some[0].plan == some[1].plan
    ample = make_formulation("exhaustive").solve(window, objective, Budget(deterministic=10.0, iterations=1))
    assert (ample.value, ample.status) == (whole.value, Status.OPTIMAL)
    assert "iterations are no measure of an enumeration" in ample.note


def test_listing_placements_takes_time_too() -> None:
    window = random_window(1, 5, "roomy", 3, 3)  # 59,049 placements
    formulation = make_formulation("exhaustive", max_combinations=10**8)
    result = formulation.solve(window, Objective(), Budget(deterministic=0.001))
    assert (result.status, result.stop_reason) == (Status.NO_INCUMBENT, StopReason.WORK_LIMIT)
    assert result.facts["judged"] == 0
