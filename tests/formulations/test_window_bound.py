"""The bound without a search: never above a plan, and above the single-call bound where something else is scarce."""

from __future__ import annotations

from fractions import Fraction

import pytest

from hexopt.formulations import BOTTLENECK, check, parse_objective
from hexopt.formulations.earliest import earliest_times
from hexopt.formulations.greedy import greedy_plan
from hexopt.formulations.single_call import earliest_finish_us, single_call_bound
from hexopt.formulations.window_bound import limits_at, refuted, strict_limits, window_bound
from tests.formulations.brute import best_value
from tests.formulations.test_cpsat import good_plans, two_calls
from tests.formulations.windows import REGIMES, random_window, refreshed


def test_two_calls_on_one_machine_are_seen() -> None:
    # Alone they end at 15 and 35; one of them ends at 45, so the best bottleneck is .45.
    window = two_calls()
    assert single_call_bound(window, BOTTLENECK) == pytest.approx(0.35)
    assert window_bound(window, BOTTLENECK) == pytest.approx(0.45, rel=1e-4)


def test_a_cap_is_seen() -> None:
    # Each of two decode instances may take one call; the second one is slow.
    rows = two_calls().to_json()
    decode = [{**rows["decode"][0], "name": n, "max_new": 1} for n in "de"]
    calls = [{**c, "decode_us": [5, 95], "wire_us": [[0, 0]]} for c in rows["calls"]]
    window = two_calls(decode=decode, calls=calls)
    assert single_call_bound(window, BOTTLENECK) == pytest.approx(0.35)
    assert window_bound(window, BOTTLENECK) == pytest.approx(1.05, rel=1e-4)  # the short one there, first
    assert best_value(window, BOTTLENECK)[0] == pytest.approx(1.05)  # type: ignore[index]


def test_room_that_must_be_waited_for_is_seen() -> None:
    decode = {**two_calls().to_json()["decode"][0], "kv_free_blocks": 1, "releases": [[50, 1], [70, 5]]}
    window = two_calls(decode=[decode])
    assert earliest_times(window).earliest_finish().tolist() == [55, 55]
    prefill = {**two_calls().to_json()["prefill"][0], "kv_blocks": 2, "held": [[40, 2]]}
    window = two_calls(prefill=[prefill])
    assert earliest_times(window).earliest_finish().tolist() == [40 + 15, 40 + 35]


def test_memory_and_network_energy_are_seen() -> None:
    rows = two_calls().to_json()
    slow = two_calls(calls=[{**c, "wire_us": [[500]]} for c in rows["calls"]])
    assert window_bound(slow, BOTTLENECK) == pytest.approx((10 + 500 + 500 + 5) / 100, rel=1e-4)
    decode = {**rows["decode"][0], "kv_free_blocks": 2}
    tight = two_calls(decode=[decode], calls=[{**c, "decode_us": [800]} for c in rows["calls"]])
    assert window_bound(tight, BOTTLENECK) == pytest.approx((10 + 800 + 800) / 100, rel=1e-4)


@pytest.mark.parametrize("regime", REGIMES)
def test_it_lies_between_the_single_call_bound_and_every_plan(regime: str) -> None:
    for seed in range(6):
        for window in (random_window(seed, 10, regime), refreshed(random_window(seed, 10, regime))):
            earliest = earliest_times(window)
            alone = [earliest_finish_us(window, c) for c in window.calls]
            assert all(a <= b for a, b in zip(alone, earliest.earliest_finish().tolist(), strict=True))
            for objective in (BOTTLENECK, parse_objective("sum"), parse_objective("late:1.2")):
                bound = window_bound(window, objective)
                assert bound >= single_call_bound(window, objective)
                for plan in good_plans(window, 3):
                    verdict = check(window, plan, objective)
                    assert verdict.value is not None
                    assert bound <= verdict.value.objective
                    assert not refuted(window, earliest, verdict.ends_us)
                    for c, finish in enumerate(verdict.finish_us):
                        assert finish >= alone[c]


@pytest.mark.parametrize("regime", REGIMES)
def test_it_never_exceeds_the_best_plan_of_a_tiny_window(regime: str) -> None:
    for seed in range(3):
        window = refreshed(random_window(seed, 3, regime, 2, 1))
        best = best_value(window, BOTTLENECK)
        assert best is not None
        assert window_bound(window, BOTTLENECK) <= best.objective


def test_limits_are_exact() -> None:
    assert strict_limits([3, 1], [2, 7]) == [2, 10]  # 3/2 · 7 = 10.5
    assert strict_limits([4, 1], [2, 7]) == [3, 13]  # 2 · 7 = 14 is not below
    assert strict_limits([4, 1], [2, 7], strict=False) == [4, 14]
    assert limits_at(Fraction(3, 2), [2, 7]) == [3, 10]


@pytest.mark.parametrize("regime", REGIMES)
def test_the_greedy_plan_keeps_the_rules(regime: str) -> None:
    for seed in range(5):
        window = random_window(seed, 20, regime)
        plan = greedy_plan(window)
        assert plan is not None
        assert check(window, plan).feasible


def test_greedy_takes_the_urgent_call_first() -> None:
    late = [{"id": "v", "elapsed_us": 0, "horizon_us": 100}, {"id": "w", "elapsed_us": 60, "horizon_us": 100}]
    plan = greedy_plan(two_calls(workflows=late))
    assert plan is not None
    assert [p.priority for p in plan] == [1.0, 0.0]
    assert greedy_plan(two_calls(decode=[{**two_calls().to_json()["decode"][0], "max_new": 1}])) is None
