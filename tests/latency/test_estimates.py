"""Misjudged clusters: one factor per specification, and nothing but what policies believe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hexopt
from hexopt.core.cluster import Cluster
from hexopt.core.protocols import LatencyModel
from hexopt.core.view import CallState, View
from hexopt.errors import ConfigError
from hexopt.latency import ClusterLatency
from hexopt.latency.estimates import misjudged
from hexopt.policies.earliest_finish import EarliestFinish

SAMPLE = Path(__file__).parents[2] / "traces" / "samples" / "bfcl_multi_turn.jsonl"


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return hexopt.load_cluster("hetero-1-llama")


def test_one_factor_per_specification(cluster: Cluster) -> None:
    believed = misjudged(cluster, 0.3, np.random.default_rng(1))
    truth, wrong = ClusterLatency(cluster), ClusterLatency(believed)
    factors = {}
    for p, spec in enumerate(cluster.prefill):
        ratios = {round(wrong.prefill_us(p, n) / truth.prefill_us(p, n), 4) for n in (100, 512, 3000, 20000)}
        assert len(ratios) == 1
        factors.setdefault(("prefill", spec.gpu), set()).update(ratios)
    for d, spec_d in enumerate(cluster.decode):
        ratios = {round(wrong.decode_us(d, b, 5000, 400) / truth.decode_us(d, b, 5000, 400), 4) for b in (1, 7, 64)}
        assert len(ratios) == 1
        factors.setdefault(("decode", spec_d.gpu), set()).update(ratios)
    assert len(factors) == 6
    values = [next(iter(v)) for v in factors.values() if len(v) == 1]
    assert len(set(values)) == 6  # one each, and all different
    assert all(0.7 <= v <= 1.3 for v in values)


def test_another_error_scales_the_same_draws(cluster: Cluster) -> None:
    small = misjudged(cluster, 0.1, np.random.default_rng(5)).prefill[0].latency.a2_ms
    large = misjudged(cluster, 0.3, np.random.default_rng(5)).prefill[0].latency.a2_ms
    true = cluster.prefill[0].latency.a2_ms
    assert large / true - 1 == pytest.approx(3 * (small / true - 1))


def test_truth_does_not_change(cluster: Cluster) -> None:
    """Under a policy that looks at no estimate, the run is the same; standalone latencies are, under any."""
    trace = hexopt.load_trace(SAMPLE).head(20)
    runs = {
        (name, error): hexopt.simulate(
            trace, cluster, hexopt.make_policy(name), arrivals="poisson:2", estimate_error=error
        )
        for name in ("fcfs", "earliest-finish")
        for error in (0.0, 0.4)
    }
    assert runs["fcfs", 0.0].calls.equals(runs["fcfs", 0.4].calls)
    assert not runs["earliest-finish", 0.0].calls.equals(runs["earliest-finish", 0.4].calls)
    alone = [tuple(run.workflows["standalone_us"]) for run in runs.values()]
    assert len(set(alone)) == 1
    assert runs["fcfs", 0.4].summary["estimate_error"] == 0.4


class Watching(EarliestFinish):
    def plan(self, view: View) -> object:  # type: ignore[override]
        for p in view.prefill:
            expected = sum(self._estimator.latency.prefill_us(p.index, c.prompt_tokens) for c in p.queue.values())
            assert p.queued_us == expected
        for call in (c for d in view.decode for c in d.bound.values() if c.state == CallState.PREFILLING):
            took = self._estimator.latency.prefill_us(call.prefill, call.prompt_tokens)
            assert view.prefill[call.prefill].busy_until_us == call.prefill_start_us + took
        return super().plan(view)


def test_the_view_speaks_of_estimates(cluster: Cluster) -> None:
    trace = hexopt.load_trace(SAMPLE).head(30)
    hexopt.simulate(trace, cluster, Watching(), arrivals="burst", estimate_error=0.5)


def test_overheads_are_misjudged_too(cluster: Cluster) -> None:
    p, d = cluster.prefill[0], cluster.decode[0]
    serving = replace(
        cluster,
        prefill=(replace(p, latency=replace(p.latency, c0_ms=7.0, c1=1.5)),),
        decode=(replace(d, latency=replace(d.latency, o0_ms=3.0, o1_ms=0.5)),),
    )
    believed = ClusterLatency(misjudged(serving, 0.5, np.random.default_rng(1)))
    truth = ClusterLatency(serving)
    prefill = [believed.prefill_us(0, n) / truth.prefill_us(0, n) for n in (1, 3000)]
    assert prefill[0] == pytest.approx(prefill[1], rel=1e-3)
    iteration = [believed.iteration_ms(0, b) / truth.iteration_ms(0, b) for b in (1, 64)]
    assert iteration[0] == pytest.approx(iteration[1])
    assert prefill[0] != pytest.approx(1, abs=0.01)


class Told(EarliestFinish):
    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        super().reset(cluster, latency, rng)
        self.told = cluster, latency


def test_policy_and_fallback_are_told_the_same(cluster: Cluster) -> None:
    policy, fallback = Told(plan_latency_us=1000), Told()
    policy.fallback = fallback
    trace = hexopt.load_trace(SAMPLE).head(2)
    hexopt.simulate(trace, cluster, policy, arrivals="burst", estimate_error=0.3)
    assert policy.told == fallback.told
    assert policy.told[0] != cluster
    assert policy.told[1].prefill_us(0, 1000) != ClusterLatency(cluster).prefill_us(0, 1000)


@pytest.mark.parametrize("error", [-0.1, 1.0, float("nan"), True, "0.3"])
def test_illegal_errors(cluster: Cluster, error: object) -> None:
    trace = hexopt.load_trace(SAMPLE).head(1)
    with pytest.raises(ConfigError, match="estimate_error"):
        hexopt.simulate(trace, cluster, hexopt.make_policy("fcfs"), arrivals="burst", estimate_error=error)  # type: ignore[arg-type]
