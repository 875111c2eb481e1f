"""A call of one token needs no decode instance, so it may have none at all."""

from __future__ import annotations

import pytest

from hexopt.core.window import Placement, Window
from hexopt.formulations import BOTTLENECK, Budget, Status, check, make_formulation, parse_objective
from hexopt.formulations.greedy import greedy_plan
from hexopt.formulations.library import read_plan, write_plan
from hexopt.formulations.pressure import pressure
from hexopt.formulations.registry import FORMULATIONS
from hexopt.formulations.single_call import single_call_bound
from hexopt.formulations.twin import play
from hexopt.formulations.window_bound import window_bound
from tests.formulations.small import bound, call, instances, small_window


def window_of() -> Window:
    """a and c of one token, c bound, b of more: with a first, a ends at 5 and b at 17; with b first both end at 12."""
    calls = [
        call("a", [5], [None], one_token=True, workflow=0),
        call("b", [7], [4], wire=1, workflow=1),
        bound("c", [1], [None], one_token=True, workflow=1, decode=None, available_us=3),
    ]
    workflows = [{"id": k, "elapsed_us": 0, "horizon_us": 10} for k in "uv"]
    return small_window(calls, instances(1, 1, None, {"max_new": 1}), workflows)


def test_the_checker_the_twin_and_the_bounds() -> None:
    window = window_of()
    assert Window.from_json(window.to_json()) == window
    plan = (Placement(0, None, 0.0), Placement(0, 0, 1.0), Placement(0, None, 2.0))
    verdict = check(window, plan)
    assert verdict.finish_us == (5, 17, 3)
    assert verdict.value == (1.7, 1.7 + 0.5)
    assert play(window, plan)[:, 4].tolist() == [5, 17, 3]
    (violation,) = check(window, [plan[0]._replace(decode=0), *plan[1:]]).violations
    assert violation.rule == "candidate"
    assert single_call_bound(window, BOTTLENECK) == window_bound(window, BOTTLENECK) == 1.2
    assert not pressure(window).kv
    greedy = greedy_plan(window)
    assert greedy is not None
    assert check(window, greedy).feasible
    assert read_plan(window, write_plan(plan)) == plan


@pytest.mark.parametrize("name", sorted(FORMULATIONS))
def test_every_formulation(name: str) -> None:
    window = window_of()
    found = make_formulation(name).solve(window, BOTTLENECK, Budget(deterministic=1.0, iterations=500))
    assert found.value is not None, (name, found.note)
    assert found.value.objective == pytest.approx(1.2)  # b first: 12 and 12
    assert found.status is Status.OPTIMAL
    late = make_formulation(name).solve(window, parse_objective("late:1.2"), Budget(deterministic=1.0, iterations=500))
    assert late.plan is not None


@pytest.mark.parametrize("name", sorted(FORMULATIONS))
@pytest.mark.parametrize("decode_us", [[None], [4]])
def test_a_hint_that_names_no_decode_instance_is_a_plan(name: str, decode_us: list[int | None]) -> None:
    window = small_window([call("a", [5], decode_us, one_token=True)], instances(1, 1))
    hint = (Placement(0, None, 0.0),)
    assert check(window, hint).feasible
    found = make_formulation(name).solve(window, BOTTLENECK, Budget(deterministic=1.0, iterations=1), hint)
    assert found.value == check(window, hint).value
