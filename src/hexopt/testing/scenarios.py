"""The scenarios: small, hard, and the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from hexopt.core.cluster import (
    Binding,
    Cluster,
    Contention,
    DecodeInstance,
    DecodeLatency,
    KvAdmission,
    Network,
    PrefillInstance,
    PrefillLatency,
)
from hexopt.core.workflow import Call, Trace, Workflow

HUGE = 2**30
"""KV room (tokens) that no scenario fills."""

_MODES: tuple[tuple[Binding, KvAdmission], ...] = (
    ("dispatch", "backfill"),
    ("handoff", "strict"),
    ("dispatch", "strict"),
    ("handoff", "backfill"),
)
_PREDICTORS = ("constant:8", "oracle", "app-mean:8", "constant:1", "noisy:0.5")
_LATENCIES: tuple[tuple[int, Literal["own", "none"]], ...] = ((0, "none"), (3_000, "own"), (700, "none"))


@dataclass(frozen=True)
class Scenario:
    """One run that every policy must come through.

    ``fallback``: the policy's own (``fcfs`` if it has none), or none at all. ``at_most``: the run is cut short after
    this many invocations. ``stop_us``: it ends at that instant. ``estimate_error``: of the service times that the
    policy is told, as in :func:`hexopt.simulate`.
    """

    name: str
    cluster: Cluster
    trace: Trace
    predictor: str = "constant:8"
    plan_latency_us: int = 0
    fallback: Literal["own", "none"] = "none"
    at_most: int | None = None
    stop_us: int | None = None
    estimate_error: float = 0.0
    seed: int = 7


def scenarios(thorough: bool) -> Iterator[Scenario]:
    """Yield the scenarios, the easiest first."""
    yield Scenario("one call", pair(), alone(Call("c0", (), 100, 5)))
    yield Scenario("one token", pair(), alone(Call("c0", (), 1, 1)), plan_latency_us=1, fallback="own")
    for seed in range(4):
        binding, admission = _MODES[seed]
        latency_us, fallback = _LATENCIES[seed % 3]
        yield Scenario(
            f"pair {seed}",
            replace(pair(), binding=binding, kv_admission=admission),
            workflows(seed, 8, prompts=(1, 16, 90, 400), outputs=(1, 2, 9, 30)),
            plan_latency_us=latency_us,
            fallback=fallback,
        )
    yield Scenario("one-token outputs", mixed_cluster(*_MODES[0]), workflows(5, 16, outputs=(1,)))
    # 12 and more: every mode with every latency.
    for seed in range(100 if thorough else 12):
        yield mixed(seed)
    for mode, (latency_us, fallback) in ((_MODES[0], _LATENCIES[0]), (_MODES[1], _LATENCIES[1])):
        yield Scenario(
            f"saturated {mode[0]}",
            mixed_cluster(*mode),
            burst(400 if thorough else 100),
            plan_latency_us=latency_us,
            fallback=fallback,
        )
    for mode, (latency_us, fallback) in ((_MODES[2], (0, "none")), (_MODES[3], (500, "own"))):
        yield Scenario(
            f"storm {mode[0]}",
            roomy(mixed_cluster(*mode)),
            chains(200 if thorough else 45, 20),
            plan_latency_us=latency_us,
            fallback=fallback,
        )
    yield Scenario("thousand", wide(), crowd(1_000), at_most=200 if thorough else 6)
    if thorough:
        yield Scenario("thousand asynchronous", wide(), crowd(1_000), plan_latency_us=10_000, at_most=200)


def mixed(seed: int) -> Scenario:
    """Random workflows of several applications on a mixed cluster with little KV."""
    binding, admission = _MODES[seed % 4]
    latency_us, fallback = _LATENCIES[seed % 3]
    return Scenario(
        f"mixed {seed}",
        mixed_cluster(binding, admission, "none" if seed % 7 == 6 else "nic"),
        workflows(100 + seed, 12),
        predictor=_PREDICTORS[seed % 5],
        plan_latency_us=latency_us,
        fallback=fallback,
        estimate_error=0.3 if seed % 4 == 1 else 0.0,
        seed=seed,
    )


# ----- clusters -------------------------------------------------------------------------------------------------------


def pair() -> Cluster:
    """One prefill and one decode instance, with room for two or three calls."""
    return Cluster("pair", "toy", (_prefill("p0", 1024, 1.0),), (_decode("d0", 1024, 2.0, 4),), Network(0.5, 1_000))


def mixed_cluster(binding: Binding, kv_admission: KvAdmission, contention: Contention = "nic") -> Cluster:
    """Instances of different speeds and sizes; the fastest of each role hold only the small calls."""
    return Cluster(
        "mixed",
        "toy",
        (_prefill("p0", 256, 0.5), _prefill("p1", 2048, 2.0, nic=1e7), _prefill("p2", 1024, 1.0, batch=512)),
        (_decode("d0", 320, 1.0, 4), _decode("d1", 1024, 3.0, 2, nic=1e7), _decode("d2", 1536, 2.0, 8)),
        Network(0.5, 500, contention),
        kv_admission=kv_admission,
        binding=binding,
    )


def wide() -> Cluster:
    """Four and four instances of two kinds each, with much room."""
    return Cluster(
        "wide",
        "toy",
        tuple(_prefill(f"p{i}", 65_536, 1.0 + i // 2) for i in range(4)),
        tuple(_decode(f"d{i}", 65_536, 2.0 + i // 2, 64) for i in range(4)),
        Network(0.5, 500),
    )


def roomy(cluster: Cluster) -> Cluster:
    """Return the same cluster with KV room that never runs out."""
    return replace(
        cluster,
        prefill=tuple(replace(p, kv_tokens=HUGE) for p in cluster.prefill),
        decode=tuple(replace(d, kv_tokens=HUGE) for d in cluster.decode),
    )


def _prefill(name: str, kv_tokens: int, factor: float, nic: float = 1e8, batch: int = 1) -> PrefillInstance:
    latency = PrefillLatency(((1, 0.5 * factor), (512, 4.0 * factor)), 0.01 * factor, 1e-7)
    return PrefillInstance(name, kv_tokens, nic, 1000, latency, batch, gpu=f"x{factor:g}")


def _decode(name: str, kv_tokens: int, factor: float, max_batch: int, nic: float = 1e8) -> DecodeInstance:
    latency = DecodeLatency(((1, 0.5 * factor), (64, 1.0 * factor)), 1e-5)
    return DecodeInstance(name, kv_tokens, nic, 1000, latency, max_batch, gpu=f"x{factor:g}")


# ----- traces ---------------------------------------------------------------------------------------------------------


def alone(*calls: Call) -> Trace:
    """One workflow of these calls."""
    return Trace((Workflow("w0", "a", 0, calls),), "alone")


def workflows(
    seed: int,
    count: int,
    prompts: tuple[int, ...] = (1, 16, 17, 120, 240, 500, 900),
    outputs: tuple[int, ...] = (1, 1, 2, 5, 20, 60),
) -> Trace:
    """Random chains, fans and free DAGs of three applications; half of them arrive at 0, the others one by one."""
    rng = random.Random(seed)
    flows = []
    for w in range(count):
        shape = rng.choice(("chain", "fan", "any"))
        calls = []
        for i in range(rng.randint(1, 5)):
            if i == 0:
                parents: list[int] = []
            elif shape == "chain":
                parents = [i - 1]
            elif shape == "fan":
                parents = [0]
            else:
                parents = rng.sample(range(i), rng.randint(0, min(i, 2)))
            tool_us = rng.choice((0, 0, 1_000, 7_777))
            calls.append(
                Call(f"c{i}", tuple(sorted(parents)), rng.choice(prompts), rng.choice(outputs), tool_us=tool_us)
            )
        arrival_us = 0 if w % 2 == 0 else rng.randint(1, 60_000)
        flows.append(Workflow(f"w{w}", "abc"[w % 3], arrival_us, tuple(calls)))
    return Trace(tuple(flows), "workflows")


def burst(count: int) -> Trace:
    """Calls of all sizes at one instant, far more than the KV of the mixed cluster holds."""
    sizes = ((200, 100), (900, 100), (16, 300), (500, 1), (240, 60))
    return _single((0, *sizes[i % 5]) for i in range(count))


def chains(count: int, length: int) -> Trace:
    """Chains of short calls, each with an event of every kind; so no queue grows long, whatever a policy does."""
    return Trace(
        tuple(
            Workflow(
                f"w{w}",
                "abc"[w % 3],
                15_000 * w,
                tuple(
                    Call(f"c{i}", (i - 1,) if i else (), 1 + (7 * i + w) % 40, 1 + (i + w) % 4, tool_us=700 * (i % 3))
                    for i in range(length)
                ),
            )
            for w in range(count)
        ),
        "chains",
    )


def crowd(count: int) -> Trace:
    """Calls at one instant, for a cluster with room for all of them."""
    return _single((0, 20 + 37 * i % 400, 2 + 11 * i % 50) for i in range(count))


def _single(calls: Iterator[tuple[int, int, int]]) -> Trace:
    return Trace(
        tuple(
            Workflow(f"w{i}", "abc"[i % 3], arrival_us, (Call("c0", (), prompt, output),))
            for i, (arrival_us, prompt, output) in enumerate(calls)
        ),
        "single calls",
    )
