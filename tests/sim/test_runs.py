"""How a run ends: complete, stalled, refused beforehand, outside the calibration, stopped; and its progress."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import hexopt
from hexopt.core.cluster import PrefillLatency
from hexopt.core.plan import Decision, Plan
from hexopt.core.view import View
from hexopt.errors import CalibrationRangeError, CapacityError, ClusterError, SimulationStalled
from hexopt.sim import engine
from hexopt.sim.engine import Simulation
from hexopt.sim.predictors import Oracle
from tests.policies.views import cluster, decode, prefill
from tests.sim.toys import Acting, chain, flows, nothing, place_all, run


def test_one_call_by_hand() -> None:
    # 10 ms prefill, 0.1 ms on the wire and 1 ms latency, 4 iterations of 2 ms.
    row = run(flows((3, 100, 5)), cluster(network_us=1000), place_all).calls.iloc[0]
    assert (row["ready_us"], row["placed_us"], row["prefill_start_us"], row["prefill_end_us"]) == (3, 3, 3, 10_003)
    assert (row["admit_us"], row["transfer_start_us"], row["transfer_end_us"]) == (10_003, 10_003, 11_103)
    assert (row["join_us"], row["complete_us"], row["decode_iterations"]) == (11_103, 19_103, 4)


# -- stalled


def test_calls_left_in_the_pool() -> None:
    with pytest.raises(SimulationStalled) as caught:
        run(flows((0, 100, 5), (0, 100, 5)), cluster(), nothing)
    message = str(caught.value)
    assert message.startswith("policy 'acting': 2 calls are left but no event is, 2 in state pool (first: 'w0/c'), ")
    assert message.endswith("every ready call must be placed, and a policy that waits must ask for a wake-up")


def test_where_the_calls_are_that_are_left() -> None:
    # The first call of each workflow is placed. The chain's second is revealed and left, its third not even revealed.
    trace = hexopt.Trace((*flows((0, 10, 2), (0, 10, 2)).workflows, chain(2, 2, 2)))
    with pytest.raises(
        SimulationStalled, match=r"2 calls are left but no event is, 1 in state pool \(first: 'chain/c1'\)"
    ):
        run(trace, cluster(), lambda view: [Decision(c.key, 0, 0, 0.0) for c in view.pool if c.index == 0])


def test_a_decode_queue_that_never_moves() -> None:
    # Strict admission is no reason to stall, nor is a prefill instance that one prompt fills.
    site = cluster([prefill(kv_tokens=100)], [decode(kv_tokens=110)])
    result = run(flows((0, 100, 10), (0, 100, 10), (0, 100, 10)), site, place_all)
    assert result.summary["finished_calls"] == 3


# -- refused before anything happens


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        ((1_001, 1), ("'w1/c'", "1001 KV blocks for 1001 tokens", "largest prefill instance", "holds 1000 blocks")),
        ((900, 1_101), ("'w1/c'", "2001 KV blocks for 2001 tokens", "largest decode instance", "holds 2000 blocks")),
    ],
)
def test_a_call_too_large_for_every_instance(call: tuple[int, int], parts: tuple[str, ...]) -> None:
    site = cluster([prefill(kv_tokens=1_000), prefill("p1", kv_tokens=10)], [decode(kv_tokens=2_000)])
    policy = Acting(place_all)
    with pytest.raises(CapacityError) as caught:
        run(flows((0, 10, 2), (10**12, *call)), site, policy)
    for part in (*parts, "cluster 'hand-made'", "raise kv_tokens or leave the workflow out"):
        assert part in str(caught.value)
    assert policy.views == []


def test_a_call_that_just_fits() -> None:
    site = cluster([prefill(kv_tokens=1_000)], [decode(kv_tokens=2_000)])
    # With one output token there is no decode, whatever the prompt.
    assert run(flows((0, 1_000, 1_000), (0, 1_000, 1)), site, place_all).summary["finished_calls"] == 2
    small = cluster([prefill(kv_tokens=1_000)], [decode(kv_tokens=10)])
    assert run(flows((0, 1_000, 1)), small, place_all).summary["finished_calls"] == 1


def test_capacity_counts_whole_blocks() -> None:
    # 31 tokens are one block of 16 and no second.
    site = cluster([prefill(kv_tokens=31)], 1, block_tokens=16)
    assert run(flows((0, 16, 1)), site, place_all).summary["finished_calls"] == 1
    with pytest.raises(CapacityError, match="2 KV blocks for 17 tokens"):
        run(flows((0, 17, 1)), site, place_all)


# -- outside the calibration


def site_without_extrapolation() -> Any:
    p = replace(prefill(), latency=PrefillLatency(((1, 1.0), (64, 4.0)), 0.0, 0.0))
    return cluster([p])


def test_prefill_beyond_the_last_knot() -> None:
    policy = Acting(place_all)
    with pytest.raises(CalibrationRangeError) as caught:
        run(flows((0, 64, 2), (1_000_000, 65, 2)), site_without_extrapolation(), policy)
    assert "instance 'p0': prefill of 65 tokens: 65 lies beyond the last knot 64" in str(caught.value)
    assert "extrapolate = true" in str(caught.value)
    assert 1_000_000 in policy.views  # mid-run


def test_extrapolation_is_told() -> None:
    site = site_without_extrapolation()
    p = replace(site.prefill[0], latency=replace(site.prefill[0].latency, extrapolate=True))
    site = replace(site, prefill=(p,))
    assert run(flows((0, 64, 2)), site, place_all).summary["g_extrapolated"] is False
    assert run(flows((0, 65, 2)), site, place_all).summary["g_extrapolated"] is True


def test_decode_batch_beyond_the_last_knot() -> None:
    with pytest.raises(ClusterError, match="max_batch 3 lies beyond the last calibrated batch 2"):
        cluster(1, [decode(knots=((1, 1.0), (2, 2.0)), max_batch=3)])
    d = decode(knots=((1, 1.0), (2, 2.0)), max_batch=3)
    site = cluster(
        [prefill("p0"), prefill("p1"), prefill("p2")], [replace(d, latency=replace(d.latency, extrapolate=True))]
    )

    def spread(view: View) -> Any:
        return [Decision(c.key, c.key, 0, 0.0) for c in view.pool]

    two = run(flows((0, 10, 9), (0, 10, 9)), site, spread)
    three = run(flows((0, 10, 9), (0, 10, 9), (0, 10, 9)), site, spread)
    assert (two.summary["h_extrapolated"], three.summary["h_extrapolated"]) == (False, True)
    # The first joins alone, for 1 ms, while the others' KV arrives. Then h(3) = 3 on the line through the last two
    # knots: 7 iterations until the first leaves, and one of 2 ms for the two that are left.
    assert three.calls["complete_us"][2] - three.calls["join_us"][2] == 7 * 3_000 + 2_000


def test_iterations_below_a_microsecond() -> None:
    site = cluster(1, [decode(knots=((1, 0.0009), (2, 0.0009)), max_batch=2)])
    with pytest.raises(
        CalibrationRangeError, match=r"instance 'd0': an iteration of 1 calls takes 0\.9 µs, at least 1 µs"
    ):
        run(flows((0, 10, 2)), site, place_all)


# -- stopped


def test_stop_us() -> None:
    # The first call: prefill 0 to 10 ms, decode 10.1 to 18.1. The second: prefill 10 to 20. Third: ready at 40 ms.
    trace = flows((0, 100, 5), (0, 100, 5), (40_000, 100, 5))
    result = run(trace, cluster(), place_all, stop_us=15_000)
    calls = result.calls
    assert list(calls["prefill_start_us"].astype(object)) == [0, 10_000, calls["prefill_start_us"].array[2]]
    assert calls["join_us"][0] == 10_100
    assert calls["complete_us"].isna().all()
    assert calls["ready_us"].isna().tolist() == [False, False, True]
    summary = result.summary
    assert (summary["finished_calls"], summary["finished_workflows"], summary["stop_us"]) == (0, 0, 15_000)
    assert summary["req95"] == float("inf")
    assert result.workflows["ratio"].tolist() == [float("inf")] * 3
    assert result.workflows["latency_us"].isna().all()
    instances = result.instances.set_index("name")
    # Up to 15 ms the prefill instance was busy all the time, decode for 4.9 ms, which is two iterations.
    assert instances["busy_us"].to_dict() == {"p0": 15_000, "d0": 4_900}
    assert instances["iterations"]["d0"] == 2
    assert summary["prefill_utilisation"] == 1.0
    assert summary["makespan_s"] == 0.015


def test_events_at_the_stop_are_processed() -> None:
    trace = flows((0, 100, 5))
    assert run(trace, cluster(), place_all, stop_us=18_100).summary["finished_calls"] == 1
    assert run(trace, cluster(), place_all, stop_us=18_099).summary["finished_calls"] == 0
    assert run(trace, cluster(), place_all, stop_us=10**9).summary["finished_calls"] == 1


def test_a_stop_is_no_stall() -> None:
    assert run(flows((0, 100, 5)), cluster(), nothing, stop_us=5).summary["finished_calls"] == 0


def test_a_run_before_the_first_arrival_has_a_result() -> None:
    result = run(flows((50, 100, 5)), cluster(), place_all, stop_us=10)
    assert result.calls["ready_us"].isna().all()
    assert len(result.decisions) == 0
    assert result.summary["finished_workflows"] == 0


# -- progress, and what a run leaves alone


def test_progress() -> None:
    seen: list[tuple[int, int]] = []
    trace = flows(*((0, 10, 1) for _ in range(2500)))
    run(trace, cluster(), place_all, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1024, 2500), (2048, 2500)]


def test_an_interrupt_in_progress_passes() -> None:
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(flows(*((0, 10, 1) for _ in range(1500))), cluster(), place_all, progress=interrupt)


def test_trace_and_cluster_are_left_as_they_were() -> None:
    trace, site = hexopt.Trace((chain(3, 4, 5, tool_us=100),)), cluster(2, 2)
    before = repr(trace), repr(site)
    run(trace, site, hexopt.make_policy("hexagent"))
    assert (repr(trace), repr(site)) == before


def test_reset_comes_before_the_first_plan_and_gives_a_stream() -> None:
    class Recording(Acting):
        def reset(self, cluster: Any, latency: Any, rng: Any) -> None:
            super().reset(cluster, latency, rng)
            self.draw = rng.integers(1 << 30)

    draws = set()
    for seed in (0, 0, 1):
        policy = Recording(place_all, fallback=Recording(place_all))
        run(flows((0, 10, 1)), cluster(), policy, seed=seed)
        draws |= {policy.draw, policy.fallback.draw}  # type: ignore[attr-defined]
    # Two seeds, and a fallback's stream is not the policy's.
    assert len(draws) == 4


def test_simulation_needs_known_times() -> None:
    trace = hexopt.Trace((hexopt.Workflow("w", "a", None, (hexopt.Call("c", (), 10, 1),)),))
    with pytest.raises(hexopt.HexoptError, match="a time is unknown"):
        Simulation(trace, cluster(), Acting(place_all), Oracle())


def test_endless_wake_ups_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_PATIENCE", 50)
    with pytest.raises(
        SimulationStalled, match="asked for 50 wake-ups in a row without a decision and nothing else can"
    ):
        run(flows((0, 10, 2)), cluster(), lambda view: Plan((), view.now_us + 1))


def test_waiting_for_something_is_no_endless_waking(monkeypatch: pytest.MonkeyPatch) -> None:
    # It wakes every 10 µs, in vain nearly always. At 22 ms a prefill ends, as it wakes for the thousandth time since
    # the last decision: no event is left for the moment, but the call is about to be admitted.
    monkeypatch.setattr(engine, "_PATIENCE", 50)

    def act(view: View) -> Any:
        return Plan(list(place_all(view)) if view.now_us in (0, 12_000) else (), view.now_us + 10)

    trace = flows((0, 10, 2), (5, 10, 2), (12_000, 10, 2))
    assert run(trace, cluster(), act).summary["finished_calls"] == 3
