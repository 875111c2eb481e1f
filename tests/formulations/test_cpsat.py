"""The constraint model: exact where it says so, a relaxation elsewhere, and never a word of its own on a value."""

from __future__ import annotations

import sys
from dataclasses import replace
from subprocess import run
from typing import Any

import pytest
from ortools.sat.python import cp_model

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.errors import ConfigError
from hexopt.formulations import (
    BOTTLENECK,
    Budget,
    Formulation,
    Objective,
    Status,
    StopReason,
    check,
    make_formulation,
    parse_objective,
)
from hexopt.formulations.cpsat import CpSat
from hexopt.formulations.cpsat.model import Rules, WindowModel, identical, latest_end_us
from hexopt.formulations.cpsat.objectives import state
from hexopt.formulations.earliest import earliest_times
from hexopt.formulations.greedy import greedy_plan
from tests.formulations.brute import best_value, random_plan
from tests.formulations.windows import REGIMES, random_window, refreshed

OBJECTIVES = [parse_objective(t) for t in ("bottleneck", "sum", "hinge:1.2", "hinge:0.8,give_up=0.4", "late:1.1")]
AMPLE = Budget(deterministic=0.05)


def two_calls(**changes: Any) -> Window:
    """Two calls of prefill 10 and 30, decode 5, on one pair; horizons 100."""

    def call(name: str, workflow: int, prefill: int) -> dict[str, Any]:
        return {
            "id": name,
            "workflow": workflow,
            "state": "open",
            "one_token": False,
            "prefill_blocks": 1,
            "kv_blocks": 2,
            "tail_us": 0,
            "prefill_us": [prefill],
            "wire_us": [[0]],
            "decode_us": [5],
        }

    found = {
        "schema_version": 1,
        "name": "two",
        "provenance": "",
        "options": {},
        "prefill": [{"name": "p", "type": "p", "free_us": 0, "nic_free_us": 0, "kv_blocks": 9}],
        "decode": [
            {
                "name": "d",
                "type": "d",
                "nic_free_us": 0,
                "kv_free_blocks": 9,
                "releases": [],
                "max_new": 2,
                "batch": 0,
                "context_tokens": 0,
            }
        ],
        "workflows": [{"id": n, "elapsed_us": 0, "horizon_us": 100} for n in "vw"],
        "calls": [call("short", 0, 10), call("long", 1, 30)],
    }
    return Window.from_json({**found, **changes})


def open_limits(window: Window) -> list[int]:
    ends = [w.elapsed_us + (w.floor_us or 0) for w in window.workflows]
    for c in window.calls:
        after = window.workflows[c.workflow].elapsed_us + c.tail_us
        ends[c.workflow] = max(ends[c.workflow], latest_end_us(window) + after)
    return ends


def is_point(window: Window, plan: WindowPlan, objective: Objective = BOTTLENECK) -> bool:
    """Say whether the times that the checker gives a plan are a solution of the full model."""
    verdict = check(window, plan, objective)
    limits = [max(pair) for pair in zip(open_limits(window), verdict.ends_us, strict=True)]
    model = WindowModel(window, earliest_times(window), limits, Rules(prefixes=True))
    assert model.feasible
    scaled = state(model, objective, limits, verdict.ends_us)
    model.hint(plan, verdict)
    model.model.minimize(scaled.expression)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.fix_variables_to_their_hinted_value = True
    if solver.solve(model.model) != cp_model.OPTIMAL:
        return False
    assert verdict.value is not None
    assert scaled.bound(solver.objective_value) <= verdict.value.objective * (1 + 1e-12)
    return True


def good_plans(window: Window, count: int) -> list[WindowPlan]:
    plans = [random_plan(window, seed) for seed in range(count)]
    greedy = greedy_plan(window)
    return [p for p in [*plans, *([greedy] if greedy else [])] if check(window, p).feasible]


def held_to(window: Window, objective: Objective, **options: Any) -> None:
    """Hold one window against every plan of it."""
    best = best_value(window, objective)
    found = CpSat(**options).solve(window, objective, AMPLE)
    if best is None:
        assert found.status is Status.INFEASIBLE
        return
    assert found.plan is not None
    assert found.value == check(window, found.plan, objective).value
    assert found.value is not None
    assert found.bound is not None
    assert found.value >= best
    assert found.bound <= best.objective * (1 + 1e-9)
    if found.status is Status.OPTIMAL:
        assert found.value.objective == pytest.approx(best.objective, rel=1e-8, abs=1e-8)


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_it_is_a_formulation_by_name() -> None:
    assert isinstance(make_formulation("cpsat"), Formulation)
    with pytest.raises(ConfigError, match="option 'hnt'"):
        make_formulation("cpsat", hnt=True)
    with pytest.raises(ConfigError, match="search"):
        CpSat(search="guess")


@pytest.mark.parametrize("search", ["targets", "objective"])
def test_the_shorter_first_for_the_sum_and_the_urgent_first_for_the_bottleneck(search: str) -> None:
    window = two_calls()
    found = CpSat(search=search).solve(window, parse_objective("sum"), AMPLE)
    assert found.status is Status.OPTIMAL
    assert found.value is not None
    assert found.value.objective == pytest.approx((15 + 45) / 100)
    late = [{"id": "v", "elapsed_us": 0, "horizon_us": 100}, {"id": "w", "elapsed_us": 60, "horizon_us": 100}]
    window = two_calls(workflows=late)
    wrong = (Placement(0, 0, 0.0), Placement(0, 0, 1.0))
    found = CpSat(search=search).solve(window, BOTTLENECK, AMPLE, wrong)
    assert found.status is Status.OPTIMAL
    assert found.stop_reason is StopReason.PROVED
    assert found.value is not None
    assert found.value.objective == pytest.approx((60 + 35) / 100)  # the other one ends at 45


def test_decode_memory_makes_the_second_wait() -> None:
    window = two_calls(decode=[{**two_calls().to_json()["decode"][0], "kv_free_blocks": 3}])
    decode = [{**d, "kv_free_blocks": 3} for d in window.to_json()["decode"]]
    calls = [{**c, "decode_us": [100]} for c in window.to_json()["calls"]]
    window = two_calls(decode=decode, calls=calls)
    found = CpSat(hint=False, tighten=False).solve(window, BOTTLENECK, AMPLE)
    assert found.status is Status.OPTIMAL
    assert found.value is not None
    assert found.value.objective == pytest.approx((10 + 100 + 100) / 100)
    assert "kv" in found.facts["parts"]


def test_ties_of_the_bottleneck_go_to_the_smaller_sum() -> None:
    floor = [{"id": "v", "elapsed_us": 0, "horizon_us": 100}, {"id": "w", "elapsed_us": 0, "horizon_us": 100}]
    floor.append({"id": "u", "elapsed_us": 500, "horizon_us": 100})
    window = two_calls(workflows=floor)
    wrong = (Placement(0, 0, 1.0), Placement(0, 0, 0.0))
    kept = CpSat(ties=False).solve(window, BOTTLENECK, AMPLE, wrong)
    assert kept.plan == wrong
    assert kept.status is Status.OPTIMAL
    better = CpSat().solve(window, BOTTLENECK, AMPLE, wrong)
    assert better.value is not None
    assert better.value == pytest.approx((5.0, 5.0 + (15 + 45) / 100))


def test_wire_times_of_pairs_that_are_no_maximum_are_exact() -> None:
    p = two_calls().to_json()["prefill"][0]
    d = two_calls().to_json()["decode"][0]
    call = {
        **two_calls().to_json()["calls"][0],
        "prefill_us": [10, 10],
        "decode_us": [5, 5],
        "wire_us": [[50, 1], [1, 60]],
    }
    other = {**call, "id": "other", "workflow": 1}
    window = two_calls(
        prefill=[p, {**p, "name": "q"}],
        decode=[{**d, "max_new": 1}, {**d, "name": "e", "max_new": 1}],
        calls=[call, other],
    )
    for objective in (BOTTLENECK, parse_objective("sum")):
        held_to(window, objective, hint=False, tighten=False)
    found = CpSat(hint=False, tighten=False).solve(window, BOTTLENECK, AMPLE)
    assert found.value is not None
    assert found.value.objective == pytest.approx((10 + 1 + 5) / 100)


def test_transfers_are_stated_where_a_solution_needs_them() -> None:
    window = two_calls(calls=[{**c, "wire_us": [[500]]} for c in two_calls().to_json()["calls"]])
    for transfers in ("lazy", True):
        found = CpSat(hint=False, tighten=False, transfers=transfers).solve(window, BOTTLENECK, AMPLE)
        assert found.status is Status.OPTIMAL
        assert found.value is not None
        assert found.value.objective == pytest.approx((10 + 500 + 500 + 5) / 100)
    relaxed = CpSat(hint=False, tighten=False, transfers=False).solve(window, BOTTLENECK, AMPLE)
    assert relaxed.status is Status.FEASIBLE
    assert "transfers are relaxed" in relaxed.note


def test_statuses_say_what_is_known() -> None:
    full = two_calls(decode=[{**two_calls().to_json()["decode"][0], "kv_free_blocks": 1}])
    assert CpSat().solve(full, BOTTLENECK, AMPLE).status is Status.INFEASIBLE
    capped = two_calls(decode=[{**two_calls().to_json()["decode"][0], "max_new": 1}])
    found = CpSat().solve(capped, BOTTLENECK, AMPLE)
    assert found.status is Status.INFEASIBLE
    assert found.plan is None
    assert found.stop_reason is StopReason.PROVED
    window = refreshed(random_window(3, 24, "roomy"))
    none = CpSat(hint=False).solve(window, BOTTLENECK, Budget(time_limit_s=1e-6))
    assert none.status is Status.NO_INCUMBENT
    assert none.plan is None
    assert none.value is None
    assert none.stop_reason is StopReason.NOT_STARTED
    huge = two_calls(workflows=[{"id": n, "elapsed_us": 2**52, "horizon_us": 100} for n in "vw"])
    assert CpSat(hint=False).solve(huge, BOTTLENECK, AMPLE).status is Status.MODEL_INVALID


def test_an_empty_window_is_solved() -> None:
    found = CpSat().solve(two_calls(calls=[]), BOTTLENECK, AMPLE)
    assert found.status is Status.OPTIMAL
    assert found.plan == ()


def test_a_hint_is_never_made_worse() -> None:
    for seed in range(4):
        window = random_window(seed, 10, "tight-kv")
        for plan in good_plans(window, 3):
            value = check(window, plan).value
            found = CpSat(hint=False).solve(window, BOTTLENECK, Budget(time_limit_s=1e-3), plan)
            assert found.value is not None
            assert value is not None
            assert found.value <= value


def test_the_same_work_gives_the_same_answer() -> None:
    window = refreshed(random_window(1, 12, "uneven"))
    for objective in OBJECTIVES[:2]:
        first, second = (CpSat().solve(window, objective, Budget(deterministic=0.02)) for _ in range(2))
        assert first.plan == second.plan
        assert first.bound == second.bound
        assert first.facts["branches"] == second.facts["branches"]


def test_identical_instances_are_found_and_ordered() -> None:
    window = random_window(5, 6, "roomy")
    one = window.prefill[0]
    calls = tuple(replace(c, prefill_us=(c.prefill_us[0],) * 3, decode_us=(c.decode_us[0],) * 3) for c in window.calls)
    same = replace(
        window,
        prefill=tuple(replace(one, name=f"p{p}") for p in range(3)),
        decode=tuple(replace(window.decode[0], name=f"d{d}") for d in range(3)),
        calls=calls,
    )
    assert identical(same) == ([[0, 1, 2]], [[0, 1, 2]])
    values = [
        CpSat(symmetry=on, tighten=False, ties=False).solve(refreshed(same), BOTTLENECK, AMPLE) for on in (True, False)
    ]
    assert values[0].value is not None
    assert values[1].value is not None
    assert values[0].value.objective == values[1].value.objective
    for plan in good_plans(same, 6):
        assert is_point(same, plan)


def test_parts_that_cannot_bind_are_left_out() -> None:
    window = refreshed(random_window(0, 8, "roomy"))
    assert CpSat(tighten=False, ties=False, transfers=False).solve(window, BOTTLENECK, AMPLE).facts["parts"] == []
    tight = refreshed(random_window(0, 8, "tight-kv"))
    assert "kv" in CpSat(tighten=False, ties=False).solve(tight, BOTTLENECK, AMPLE).facts["parts"]


def test_importing_formulations_loads_no_solver() -> None:
    code = "import sys, hexopt.formulations; sys.exit('ortools' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


# -- the model holds every schedule that the checker can play ----------------------------------------------------------


@pytest.mark.parametrize("regime", REGIMES)
def test_every_played_plan_is_a_point_of_the_model(regime: str) -> None:
    for seed in range(4):
        window = random_window(seed, 9, regime)
        for k, plan in enumerate(good_plans(window, 2)):
            assert is_point(window, plan, OBJECTIVES[(seed + k) % len(OBJECTIVES)]), (regime, seed, k)


@pytest.mark.slow
@pytest.mark.parametrize("regime", REGIMES)
def test_every_played_plan_is_a_point_of_the_model_at_length(regime: str) -> None:
    for seed in range(100, 125):
        window = random_window(seed, 6 + seed % 20, regime, 1 + seed % 4, 1 + seed % 3)
        for plan in good_plans(window, 4):
            for objective in OBJECTIVES:
                assert is_point(window, plan, objective), (regime, seed)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.kind)
def test_no_plan_of_a_tiny_window_beats_the_bound(regime: str, objective: Objective) -> None:
    held_to(random_window(11, 3, regime, 2, 2), objective)


@pytest.mark.slow
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.kind)
def test_no_plan_of_many_tiny_windows_beats_the_bound(regime: str, objective: Objective) -> None:
    for seed in range(8):
        window = random_window(seed, 3, regime, 2, 2)
        held_to(window, objective)
        held_to(refreshed(window), objective, hint=False, tighten=False, search="objective")
        held_to(refreshed(window), objective, symmetry=False, presolve=False, transfers=True)


@pytest.mark.parametrize("regime", ["roomy", "uneven", "fan-out"])
def test_without_pressure_it_is_exact(regime: str) -> None:
    for seed in range(2):
        window = refreshed(random_window(seed, 3, regime, 2, 2))
        window = replace(window, options=replace(window.options, contention="none"))
        for objective in OBJECTIVES[:2]:
            found = CpSat().solve(window, objective, AMPLE)
            best = best_value(window, objective)
            assert best is not None
            assert found.status is Status.OPTIMAL
            assert found.value is not None
            assert found.value.objective == pytest.approx(best.objective, rel=1e-9)


def test_an_slo_scale_beyond_all_times_of_the_solver() -> None:
    window = random_window(0, 4)
    for text in ("hinge:1e200", "hinge:1e200,give_up=0.5", "late:1e200"):
        result = make_formulation("cpsat").solve(window, parse_objective(text), Budget(deterministic=1.0))
        assert (result.status, result.value.objective, result.bound) == (Status.OPTIMAL, 0.0, 0.0)  # type: ignore[union-attr]


def test_blocks_that_no_solver_can_add_up_are_not_stated() -> None:
    window = random_window(0, 2)
    many = tuple((us, 2**53) for us in range(1, 1200))
    window = replace(window, decode=tuple(replace(d, releases=many) for d in window.decode))
    result = make_formulation("cpsat").solve(window, BOTTLENECK, Budget(deterministic=1.0))
    assert result.status is Status.MODEL_INVALID
    assert "blocks would overflow" in result.note


def test_a_window_that_is_not_stated_keeps_its_hint_and_says_so() -> None:
    huge = two_calls(workflows=[{"id": n, "elapsed_us": 2**52, "horizon_us": 100} for n in "vw"])
    hint = (Placement(0, 0, 0.0), Placement(0, 0, 1.0))
    result = CpSat().solve(huge, BOTTLENECK, AMPLE, hint)
    assert (result.status, result.stop_reason) == (Status.MODEL_INVALID, StopReason.NOT_STARTED)
    assert (result.plan, result.value) == (hint, check(huge, hint).value)
    assert "sums of times would overflow" in result.note
    assert result.bound is None
