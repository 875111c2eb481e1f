"""The cluster's service times: semantics, sections 3 to 5, by hand on coefficients that are exact in binary."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from hexopt.core.cluster import Cluster, DecodeInstance, DecodeLatency, Network, PrefillInstance, PrefillLatency
from hexopt.core.view import DecodeView
from hexopt.errors import CalibrationRangeError
from hexopt.latency import ClusterLatency

PREFILL = PrefillInstance(
    name="p0",
    kv_tokens=1000,
    nic_bytes_per_s=1e9,
    kv_bytes_per_token=999,
    latency=PrefillLatency(g_knots=((32, 4.0), (512, 64.0)), a1_ms=0.25, a2_ms=2.0**-10),
    max_batch_tokens=2048,
)
DECODE = DecodeInstance(
    name="d0",
    kv_tokens=2001,
    nic_bytes_per_s=2e9,
    kv_bytes_per_token=1000,
    latency=DecodeLatency(h_knots=((1, 2.0), (9, 4.0)), b2_ms=0.5),
    max_batch=9,
)


def cluster(*instances: PrefillInstance | DecodeInstance, network: Network | None = None) -> Cluster:
    made = Cluster(
        name="c",
        model="m",
        prefill=tuple(i for i in instances if isinstance(i, PrefillInstance)),
        decode=tuple(i for i in instances if isinstance(i, DecodeInstance)),
        network=network or Network(efficiency=0.5, latency_us=70),
    )
    made.check()
    return made


def test_prefill_of_one_prompt() -> None:
    latency = ClusterLatency(cluster(PREFILL, DECODE))
    assert latency.prefill_us(0, 1) == 4_001  # below the first knot its value, and 1 attention unit: 0.98 µs
    assert latency.prefill_us(0, 32) == 5_000
    assert latency.prefill_us(0, 512) == 64_000 + 256_000
    assert latency.prefill_us(0, 1024) == 64_000 + 128_000 + 1_024_000
    assert latency.prefill_us(0, 1024) == 64_000 + 128_000 + 1_024_000  # from the table


def test_prefill_of_a_batch_takes_sums_not_prompts() -> None:
    latency = ClusterLatency(cluster(PREFILL, DECODE))
    # two prompts of 512 tokens: N = 1024, A = 2·512²
    assert latency.prefill_batch_us(0, 1024, 2 * 512**2) == 64_000 + 128_000 + 512_000
    assert latency.prefill_batch_us(0, 1024, 1024**2) == latency.prefill_us(0, 1024)
    # a cached prefix of p tokens adds 2·n·p to A
    assert latency.prefill_batch_us(0, 32, 32 * (32 + 2 * 64)) == 4_000 + 5_000


def test_serving_overhead_of_prefill() -> None:
    served = replace(PREFILL, latency=replace(PREFILL.latency, c0_ms=3.0, c1=1.5))
    assert ClusterLatency(cluster(served, DECODE)).prefill_us(0, 32) == 3_000 + 7_500


def test_a_prefill_lasts_at_least_a_microsecond() -> None:
    free = replace(PREFILL, latency=PrefillLatency(((1, 0.0), (512, 0.0)), 0.0, 0.0))
    assert ClusterLatency(cluster(free, DECODE)).prefill_us(0, 100) == 1


def test_prefill_beyond_its_last_knot() -> None:
    short = replace(PREFILL, latency=PrefillLatency(((32, 4.0), (64, 8.0)), 0.0, 0.0))
    with pytest.raises(CalibrationRangeError, match=r"instance 'p0': prefill of 100 tokens: 100 lies beyond .* 64"):
        ClusterLatency(cluster(short, DECODE)).prefill_us(0, 100)
    asked = replace(short, latency=replace(short.latency, extrapolate=True))
    assert ClusterLatency(cluster(asked, DECODE)).prefill_us(0, 128) == 16_000


def test_wire_time_is_the_receivers_bytes_over_the_slower_interface() -> None:
    slow = replace(DECODE, name="d1", nic_bytes_per_s=0.5e9, kv_bytes_per_token=2000)
    latency = ClusterLatency(cluster(PREFILL, DECODE, slow))
    assert latency.transfer_latency_us == 70
    assert latency.wire_us(0, 0, 100) == 200  # 100·1000 bytes at 0.5·1e9 bytes/s
    assert latency.wire_us(0, 0, 100) == 200
    assert latency.wire_us(0, 1, 100) == 800  # 100·2000 bytes at 0.5·0.5e9 bytes/s
    odd = replace(DECODE, kv_bytes_per_token=3)
    assert ClusterLatency(cluster(PREFILL, odd)).wire_us(0, 0, 167) == 2  # 1.002 µs, rounded up
    assert ClusterLatency(cluster(PREFILL, odd)).wire_us(0, 0, 1) == 1


def test_blocks_round_up_and_capacity_rounds_down() -> None:
    latency = ClusterLatency(cluster(PREFILL, DECODE))
    assert [latency.blocks(x) for x in (0, 1, 16, 17)] == [0, 1, 1, 2]
    assert latency.prefill_capacity_blocks == (62,)
    assert latency.decode_capacity_blocks == (125,)


def test_iteration_and_its_overhead() -> None:
    served = replace(DECODE, name="d1", latency=replace(DECODE.latency, o0_ms=1.0, o1_ms=0.5))
    latency = ClusterLatency(cluster(PREFILL, DECODE, served))
    assert [latency.iteration_ms(0, b) for b in (1, 5, 9)] == [2.0, 3.0, 4.0]
    assert [latency.iteration_ms(1, b) for b in (1, 5, 9)] == [3.5, 6.5, 9.5]
    assert latency.context_ms(1) == 0.5
    assert latency.decode_us(0, 2, 10, 3) == 1000 * (3 * 2.25 + 0.5 * (30 + 2 * 3))


def test_decode_batch_beyond_its_last_knot() -> None:
    with pytest.raises(CalibrationRangeError, match=r"instance 'd0': decode batch: 10 lies beyond the last knot 9"):
        ClusterLatency(cluster(PREFILL, DECODE)).iteration_ms(0, 10)
    asked = replace(DECODE, max_batch=17, latency=replace(DECODE.latency, extrapolate=True))
    assert ClusterLatency(cluster(PREFILL, asked)).iteration_ms(0, 17) == 6.0


def test_iterations_below_a_microsecond_are_an_error() -> None:
    quick = replace(DECODE, latency=DecodeLatency(((1, 0.0), (9, 0.0)), 0.0001))
    latency = ClusterLatency(cluster(PREFILL, quick))
    latency.check_segment(0, 1, 10)
    with pytest.raises(CalibrationRangeError, match=r"^instance 'd0': an iteration of 1 calls .* raise h_knots$"):
        latency.check_segment(0, 1, 9)


def test_classes_are_of_equal_specifications() -> None:
    latency = ClusterLatency(
        cluster(
            PREFILL,
            replace(PREFILL, name="p1"),
            replace(PREFILL, name="p2", latency=replace(PREFILL.latency, a1_ms=0.5)),
            replace(PREFILL, name="p3", kv_tokens=2000),
            DECODE,
            replace(DECODE, name="d1", max_batch=8),
            replace(DECODE, name="d2"),
            replace(DECODE, name="d3", kv_bytes_per_token=2000),
        )
    )
    assert latency.prefill_class == (0, 0, 1, 2)
    assert latency.decode_class == (0, 1, 0, 2)


def test_equal_instances_share_their_times() -> None:
    latency = ClusterLatency(cluster(PREFILL, replace(PREFILL, name="p1"), DECODE))
    assert latency.prefill_us(0, 77) == latency.prefill_us(1, 77)


def test_iterations_at_counts_boundaries_up_to_now() -> None:
    latency = ClusterLatency(cluster(PREFILL, DECODE))
    view = DecodeView(0, "d0", "", 125, 9, MappingProxyType({}), MappingProxyType({}))
    view.iterations = 7
    assert latency.iterations_at(view, 10**9) == 7  # idle
    view.segment_batch, view.segment_context, view.segment_start_us = 2, 10, 500
    boundary = 500 + latency.decode_us(0, 2, 10, 3)
    assert latency.iterations_at(view, boundary - 1) == 9
    assert latency.iterations_at(view, boundary) == 10
    assert latency.iterations_at(view, 500) == 7


def test_what_was_counted_last_is_no_answer_to_another_question() -> None:
    """Asked again with one thing changed, a model that has just counted says what a fresh one says."""
    slow = replace(DECODE, name="d1", latency=replace(DECODE.latency, o0_ms=9.0))
    site = cluster(PREFILL, DECODE, slow)
    used = ClusterLatency(site)
    counts = set()
    for index, batch, context, span in ((0, 2, 10, 90_000), (1, 2, 10, 90_000), (1, 9, 10, 90_000), (1, 9, 99, 90_000)):
        for _ in range(2):
            view = DecodeView(index, "", "", 125, 9, MappingProxyType({}), MappingProxyType({}))
            view.segment_batch, view.segment_context, view.segment_start_us = batch, context, 500
            count = used.iterations_at(view, 500 + span)
            assert count == ClusterLatency(site).iterations_at(view, 500 + span)
        counts.add(count)
    assert len(counts) == 4
