"""Random small traces on small clusters that are short of something, and whatever a policy may make of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from hexopt.core.cluster import Cluster, DecodeInstance, DecodeLatency, Network, PrefillInstance, PrefillLatency
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.offline import STARTERS, at_once

REGIMES = ("plain", "batched", "tight-kv", "slow-network", "one-token", "decode", "fan", "cached", "knotty")


def small_trace(rng: random.Random, regime: str) -> Trace:
    """One to eight workflows of one to six calls that arrive nearly together."""
    flows = []
    for w in range(rng.choice((1, 2, 3, 5, 8))):
        count = 1 if regime == "plain" and rng.random() < 0.5 else rng.randint(1, 6)
        shape = "fan" if regime == "fan" else rng.choice(("chain", "fan", "any", "roots"))
        calls = []
        for i in range(count):
            parents: tuple[int, ...] = ()
            if i and shape == "chain":
                parents = (i - 1,)
            elif i and shape == "fan":
                parents = tuple(range(1, i)) if i == count - 1 and i > 1 else (0,)
            elif i and shape == "any":
                parents = tuple(sorted(rng.sample(range(i), rng.randint(0, min(i, 3)))))
            prompt = rng.choice((1, 7, 16, 17, 100, 300, 511, 513, 900))
            long = (30, 80, 150) if regime == "decode" else (2, 3, 5, 20)
            output = 1 if regime == "one-token" and rng.random() < 0.6 else rng.choice((1, *long))
            cached = rng.randint(0, prompt) if regime == "cached" else None
            calls.append(Call(f"c{i}", parents, prompt, output, rng.choice((0, 0, 1000, 7777)), cached))
        arrival = rng.choice((0, 0, 0, 1000, 5000, 50_000))
        flows.append(Workflow(f"w{w}", rng.choice("ab"), arrival, tuple(calls)))
    return Trace(tuple(flows), name=regime)


def small_cluster(rng: random.Random, regime: str, trace: Trace) -> Cluster:
    """One to three instances of each role, often equal, of which one at least holds every call."""
    calls = [c for w in trace.workflows for c in w.calls]
    prompt, total = max(c.prompt_tokens for c in calls), max(c.prompt_tokens + c.output_tokens for c in calls)
    tight = regime == "tight-kv"
    nic = 2e6 if regime == "slow-network" else 1e9
    kinds = rng.choice((1, 2))

    def prefill(i: int) -> PrefillInstance:
        kind = i % kinds
        g = ((1, 1.0 + kind), (256, 4.0 + 3 * kind), (512, 11.0 + kind))
        if regime == "knotty":
            g = ((8, 3.0), (64, 2.0 + kind), (512, 30.0))  # a curve that falls
        return PrefillInstance(
            name=f"p{i}",
            kv_tokens=(prompt + 16 if tight else 100_000) if i == 0 or rng.random() < 0.7 else max(16, prompt // 2),
            nic_bytes_per_s=nic * (1 + kind),
            kv_bytes_per_token=100,
            latency=PrefillLatency(g, 0.02, 1e-6, rng.choice((0.0, 1.3)), rng.choice((1.0, 0.9))),
            max_batch_tokens=rng.choice((64, 600, 2048)) if regime in ("batched", "knotty") else 1,
        )

    def decode(i: int) -> DecodeInstance:
        kind = i % kinds
        h = (
            ((1, 1.0 + kind), (2, 1.7 + kind), (8, 4.0))
            if regime != "knotty"
            else ((1, 2.0), (3, 1.0), (8, 6.0 + kind))
        )
        return DecodeInstance(
            name=f"d{i}",
            kv_tokens=(total + 32 if tight else 100_000) if i == 0 or rng.random() < 0.7 else max(16, total // 2),
            nic_bytes_per_s=nic,
            kv_bytes_per_token=100,
            latency=DecodeLatency(h, rng.choice((0.0, 1e-4)), 0.0, rng.choice((0.0, 0.1))),
            max_batch=rng.choice((1, 2, 8)),
        )

    return Cluster(
        name=regime,
        model="none",
        prefill=tuple(prefill(i) for i in range(rng.choice((1, 1, 2, 3)))),
        decode=tuple(decode(i) for i in range(rng.choice((1, 1, 2, 3)))),
        network=Network(rng.choice((1.0, 0.7)), rng.choice((0, 500)), rng.choice(("nic", "nic", "none"))),
        kv_admission=rng.choice(("backfill", "strict")),
        binding=rng.choice(("dispatch", "handoff")),
    )


def cases(count: int, first: int = 0) -> Iterator[tuple[int, Trace, Cluster, random.Random]]:
    """Yield numbered traces and clusters, the regimes in turn; the number makes each again."""
    for number in range(first, first + count):
        rng = random.Random(number)
        regime = REGIMES[number % len(REGIMES)]
        trace = small_trace(rng, regime)
        cluster = small_cluster(rng, regime, trace)
        trace.check()
        cluster.check()
        yield number, trace, cluster, rng


def some_policies(rng: random.Random, count: int) -> list[Any]:
    """Return some of the shipped policies, with no plan latency."""
    return [at_once(name) for name in rng.sample(STARTERS, count)]
