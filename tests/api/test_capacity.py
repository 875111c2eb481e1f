"""Demand, capacity and utilisation (semantics, section 7.1): by hand, and against the simulator."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hexopt
from hexopt.capacity import Demand, apply_arrivals_on
from hexopt.core.cluster import Cluster
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.errors import CapacityError, ConfigError
from hexopt.experiments.config import load_config
from hexopt.experiments.grid import make_grid
from tests.experiments.small import EXPERIMENT, write_small_trace

TINY = hexopt.load_cluster("tiny")
"""2P: g(n) = 1 ms at 1 token to 10 ms at 512, a1 = 0.02 ms, a2 = 1e-6 ms; 4096 tokens.
2D: h = 2 ms at 1 call to 4 ms at 8, b2 = 1e-4 ms; 8192 tokens, at most 8 calls. Blocks of 16."""


def trace(*calls: tuple[int, int], workflows: int = 1) -> Trace:
    row = tuple(Call(f"c{i}", (), prompt, output) for i, (prompt, output) in enumerate(calls))
    return Trace(tuple(Workflow(f"w{i}", "a", None, row) for i in range(workflows)))


def first_prefill(cluster: Cluster, **changes: Any) -> Cluster:
    return replace(cluster, prefill=(replace(cluster.prefill[0], **changes), *cluster.prefill[1:]))


def first_decode(cluster: Cluster, **changes: Any) -> Cluster:
    return replace(cluster, decode=(replace(cluster.decode[0], **changes), *cluster.decode[1:]))


def test_prefill() -> None:
    """A prompt of 512 takes 10 + 0.262144 ms, rounded up to 10,263 µs, on each of two instances."""
    assert hexopt.demand(trace((512, 1)), TINY).prefill_us == 10_263 / 2
    # 1,024 tokens: 10 + 0.02·512 + 1.048576 = 21.288576 ms
    assert hexopt.demand(trace((512, 1), (1024, 1)), TINY).prefill_us == pytest.approx((10_263 + 21_289) / 2)


def test_prefill_of_unequal_instances_adds_their_rates() -> None:
    slow = first_prefill(TINY, latency=replace(TINY.prefill[0].latency, c1=3.0))  # 30.786432 ms
    assert hexopt.demand(trace((512, 1)), slow).prefill_us == pytest.approx(1 / (1 / 30_787 + 1 / 10_263))
    small = first_prefill(TINY, kv_tokens=256)  # does not hold it at all
    assert hexopt.demand(trace((512, 1)), small).prefill_us == pytest.approx(10_263)


def test_prefill_batches_as_large_as_they_can_be() -> None:
    """Two of 200 tokens in 512: N = 400, g(400) by interpolation, A = 2·200²; the KV of a small instance holds one."""
    batched = replace(TINY, prefill=tuple(replace(p, max_batch_tokens=512) for p in TINY.prefill))
    us = 1000 * (1 + 9 * 399 / 511 + 1e-6 * 80_000)
    assert hexopt.demand(trace((200, 1)), batched).prefill_us == pytest.approx(us / 2 / 2, rel=1e-4)
    full = replace(batched, prefill=tuple(replace(p, kv_tokens=400) for p in batched.prefill))  # 25 blocks, 13 each
    assert hexopt.demand(trace((200, 1)), full).prefill_us == hexopt.demand(trace((200, 1)), TINY).prefill_us


def test_decode() -> None:
    """Eight calls of 100 + 11 tokens: S(10) = 1000·(10·4 + 1e-4·(10·808 + 8·45)) = 40,844 µs, on two instances."""
    found = hexopt.demand(trace((100, 11)), TINY)
    assert found.decode_us == pytest.approx(40_844 / 8 / 2)
    assert hexopt.demand(trace((100, 1)), TINY).decode_us == 0


def test_decode_holds_as_many_as_its_kv() -> None:
    """Twenty blocks hold two calls of seven: h(2) = 2 + 2/7 ms, K0 = 202, S(10) = 1000·(10·h + 1e-4·(2020 + 90))."""
    small = first_decode(TINY, kv_tokens=320)
    two = 1000 * (10 * (2 + 2 / 7) + 1e-4 * 2110)
    expected = 1 / (2 / two + 8 / 40_844)
    assert hexopt.demand(trace((100, 11)), small).decode_us == pytest.approx(expected, rel=1e-4)


def test_a_workflow_is_the_mean_of_all() -> None:
    both = Trace((trace((512, 1)).workflows[0], replace(trace((512, 1), (512, 1)).workflows[0], workflow_id="x")))
    found = hexopt.demand(both, TINY)
    assert (found.workflows, found.calls, found.prefill_us) == (2, 3, 1.5 * 10_263 / 2)
    assert hexopt.demand(trace((100, 11), workflows=5), TINY).decode_us == pytest.approx(40_844 / 8 / 2)


def test_utilisation_is_the_larger_pools() -> None:
    found = Demand(1, 1, prefill_us=20_000, decode_us=50_000)
    assert found.bottleneck == "decode"
    assert found.rate_at(0.5) == 10
    assert found.utilisation(10) == {"prefill": 0.2, "decode": 0.5}
    assert Demand(1, 1, prefill_us=20_000, decode_us=0).bottleneck == "prefill"
    for wrong in (0, -1, True, "1", float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="a number above 0 is legal"):
            found.rate_at(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("call", "role"), [((5000, 1), "prefill"), ((4000, 5000), "decode")])
def test_a_call_that_fits_nowhere(call: tuple[int, int], role: str) -> None:
    with pytest.raises(CapacityError, match=rf"call 'w0/c0': .* fit on no {role} instance of cluster 'tiny'"):
        hexopt.demand(trace(call), TINY)


def test_the_rule_is_poisson_at_its_rate() -> None:
    many = trace((512, 20), workflows=200)
    rate = hexopt.demand(many, TINY).rate_at(0.8)
    result = hexopt.simulate(many, TINY, hexopt.make_policy("fcfs"), arrivals="utilisation:0.8", seed=4)
    assert result.summary["arrivals"] == "utilisation:0.8"
    assert result.summary["arrivals_seed"] == 4
    assert result.summary["arrivals_rate_per_s"] == rate
    plain = hexopt.simulate(many, TINY, hexopt.make_policy("fcfs"), arrivals=f"poisson:{rate!r}", seed=4)
    assert plain.calls.equals(result.calls)
    assert plain.summary["arrivals_rate_per_s"] is None
    bursty = apply_arrivals_on(TINY, many, "utilisation:0.8,cv=3", 4)
    assert bursty.workflows == apply_arrivals_on(TINY, many, f"gamma:{rate!r},cv=3", 4).workflows
    assert bursty.provenance["arrivals"] == {"rule": "utilisation:0.8,cv=3", "seed": 4, "rate_per_s": rate}


def test_the_rate_is_kept_with_the_trace() -> None:
    """Applied before, as a saved trace of a run has it."""
    drawn = apply_arrivals_on(TINY, trace((512, 20), workflows=5), "utilisation:0.5", 1)
    summary = hexopt.simulate(drawn, TINY, hexopt.make_policy("fcfs")).summary
    assert summary["arrivals_rate_per_s"] == drawn.provenance["arrivals"]["rate_per_s"]


@pytest.mark.parametrize("rule", ["utilisation:0", "utilisation:x", "utilisation:1,cv=0", "utilisation:"])
def test_bad_rules(rule: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--arrivals '{rule}': ")):
        hexopt.simulate(trace((512, 20)), TINY, hexopt.make_policy("fcfs"), arrivals=rule)


def test_an_experiment_has_a_rate_per_cluster(tmp_path: Path) -> None:
    write_small_trace(tmp_path / "small.jsonl")
    text = EXPERIMENT.replace('"poisson:20"', '"utilisation:0.5"').replace('"tiny"', '["tiny", "homogeneous-llama"]')
    (tmp_path / "e.toml").write_text(text)
    assert len(make_grid(load_config(tmp_path / "e.toml")).runs) == 8
    (tmp_path / "e.toml").write_text(text.replace("utilisation:0.5", "utilisation:x"))
    with pytest.raises(ConfigError, match="U 'x' found"):
        make_grid(load_config(tmp_path / "e.toml"))


@pytest.mark.parametrize("utilisation", [0.3, 0.5])
def test_prefill_is_as_busy_as_claimed(utilisation: float) -> None:
    """Prefill times do not depend on who is beside whom, so that a simulation must find the claimed share.

    Round-robin on equal instances. The 1,500 arrivals of a Poisson process last a share of 1/sqrt(1500) = 2.6% more
    or less than expected (4 standard deviations are allowed), and the run goes on until the last ones are complete.
    """
    chats = hexopt.generate_trace("bfcl", workflows=1500, seed=1)
    cluster = hexopt.load_cluster("homogeneous-llama")
    found = hexopt.demand(chats, cluster)
    assert found.bottleneck == "prefill"
    rule = f"utilisation:{utilisation}"
    result = hexopt.simulate(chats, cluster, hexopt.make_policy("round-robin"), arrivals=rule, seed=2)
    busy = result.instances.loc[result.instances["role"] == "prefill", "busy_us"].sum()
    assert busy / len(cluster.prefill) == pytest.approx(len(chats) * found.prefill_us, rel=1e-9)
    last = max(w.arrival_us or 0 for w in result.trace.workflows)
    measured = busy / len(cluster.prefill) / last
    assert measured == pytest.approx(utilisation, rel=4 * 0.026)
    assert result.summary["prefill_utilisation"] == pytest.approx(utilisation, rel=4 * 0.026)


def test_decode_keeps_up_with_full_batches() -> None:
    """Calls all alike, all at once: decode completes them at the rate that demand says."""
    alike = trace((16, 65), workflows=4000)
    fast = replace(TINY.prefill[0], latency=replace(TINY.prefill[0].latency, c1=0.001))
    cluster = replace(TINY, prefill=(fast,))
    found = hexopt.demand(alike, cluster)
    assert found.bottleneck == "decode"
    result = hexopt.simulate(alike, cluster, hexopt.make_policy("round-robin"), arrivals="burst")
    assert result.summary["makespan_s"] * 1e6 == pytest.approx(4000 * found.decode_us, rel=0.02)
