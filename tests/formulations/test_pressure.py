"""No pressure means that nothing outside a model without KV and contention can ever matter."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexopt.core.window import Window, WindowOptions
from hexopt.formulations import BOTTLENECK, check
from hexopt.formulations.milp.relaxation import Relaxation
from hexopt.formulations.pressure import Pressure, pressure
from hexopt.testing.windows import make_window, random_plans
from tests.formulations.windows import REGIMES, random_window

FREE = WindowOptions(contention="none", prefill_kv=False)


def test_nothing_is_scarce() -> None:
    assert pressure(replace(make_window("w", 4), options=FREE)) == Pressure(False, False, False)


def test_kv_is_scarce_from_the_block_on_that_does_not_fit() -> None:
    window = replace(make_window("w", 4), options=FREE)
    # Two new calls at most, so only the two largest count.
    need = sum(sorted(call.kv_blocks for call in window.calls)[-2:])
    for room, scarce in ((need, False), (need - 1, True)):
        decode = tuple(replace(d, max_new=2, kv_free_blocks=room) for d in window.decode)
        assert pressure(replace(window, decode=decode)).kv is scarce


def test_prefill_kv_counts_all_calls_and_what_is_held() -> None:
    window = replace(make_window("w", 4), options=WindowOptions(contention="none", prefill_kv=True))
    need = sum(call.prefill_blocks for call in window.calls) + 20
    for room, scarce in ((need, False), (need - 1, True)):
        there = replace(window, prefill=tuple(replace(p, kv_blocks=room) for p in window.prefill))
        assert pressure(there).prefill_kv is scarce
        assert not pressure(replace(there, options=FREE)).prefill_kv


def network(wire_us: int, prefills: int = 1) -> Window:
    window = make_window("w", 3, prefills=prefills)
    calls = tuple(
        replace(call, prefill_us=(10_000,) * prefills, wire_us=((wire_us,) * 2,) * prefills) for call in window.calls
    )
    return replace(window, calls=calls, options=WindowOptions(prefill_kv=False))


def test_one_prefill_instance_spaces_transfers_out() -> None:
    """Its next call ends 10 ms later at the soonest; a transfer of up to 10 ms is over by then."""
    assert not pressure(network(10_000)).nic
    assert pressure(network(10_001)).nic
    assert not pressure(replace(network(10_001), options=FREE)).nic


def test_from_two_prefill_instances_transfers_can_meet() -> None:
    assert pressure(network(1, prefills=2)).nic


def test_a_booked_interface_makes_transfers_meet() -> None:
    window = network(10)
    booked = tuple(replace(d, nic_free_us=1_000_000) for d in window.decode)
    assert pressure(replace(window, decode=booked)).nic


def test_where_kv_is_scarce_the_network_may_be() -> None:
    window = network(10)
    assert pressure(replace(window, decode=tuple(replace(d, kv_free_blocks=9) for d in window.decode))).nic


@pytest.mark.parametrize("regime", REGIMES)
@given(seed=st.integers(0, 10**6), prefills=st.integers(1, 2), free=st.booleans())
@settings(max_examples=8, deadline=None, derandomize=True)
def test_without_pressure_plans_are_played_as_the_relaxation_says(
    regime: str, seed: int, prefills: int, free: bool
) -> None:
    """With it, never earlier: so the relaxation is one, and exact where it claims to be."""
    window = random_window(seed, 5, regime, prefills, 2)
    if free:
        window = replace(window, options=replace(window.options, contention="none", prefill_kv=False))
    relaxation = Relaxation(window, BOTTLENECK)
    for plan in random_plans(window, 20, seed):
        verdict = check(window, plan)
        schedule = relaxation.of_plan(plan)
        if schedule is None:
            assert not verdict.feasible
            continue
        assert all(a <= b for a, b in zip(schedule.finish_us, verdict.finish_us, strict=True))
        if not any(pressure(window)):
            assert schedule.finish_us == verdict.finish_us
