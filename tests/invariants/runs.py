"""Runs to check: random scenarios, every shipped policy, and a wrapper that writes down what a policy saw and did."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, assume, settings

import hexopt
from hexopt.core.cluster import (
    Cluster,
    DecodeInstance,
    DecodeLatency,
    Network,
    PrefillInstance,
    PrefillLatency,
)
from hexopt.core.plan import Plan
from hexopt.core.view import Trigger, View
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.errors import SimulationStalled
from hexopt.sim.result import RunResult
from tests.oracle.scenarios import ScriptedRandomPolicy, snapshot

POLICIES = (
    "fcfs",
    "workflow-fcfs",
    "round-robin",
    "random",
    "earliest-finish",
    "hexagent",
    "goodserve",
    "least-loaded",
    "netkv",
    "sjf",
    "srpt",
    "workflow-llf",
    "autellix-plas",
    "autellix-atlas",
    "kairos",
    "cortex",
)
"""Every shipped policy but ``replay``, which has a test of its own."""

LATENCIES = (0, 0, 7, 500, 10_000)
HUGE = 10**9
"""KV room (tokens) that no scenario fills."""


def profile(examples: int) -> settings:
    """Settings under which a test tries the same examples on every machine."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


# ----- scenarios: a seed makes them, so that they cost nothing to draw; sizes are drawn, so that they shrink ---------


def random_workflow(rng: random.Random, index: int, most_calls: int) -> Workflow:
    count = rng.randint(1, most_calls)
    prompts = rng.choice([(1, 2, 3, 8, 15, 16, 17, 33), (1, 16, 500, 512, 513, 700)])
    shape = rng.choice(["any", "any", "chain", "fan", "roots"])
    calls = []
    for i in range(count):
        if i == 0 or shape == "roots":
            parents: list[int] = []
        elif shape == "chain":
            parents = [i - 1]
        elif shape == "fan":
            parents = list(range(1, i)) if i == count - 1 and i > 1 else [0]
        else:
            parents = rng.sample(range(i), rng.randint(0, min(i, 3)))
        calls.append(
            Call(
                f"c{i}",
                tuple(sorted(parents)),
                rng.choice(prompts),
                rng.choice((1, 1, 2, 3, 4, 5, 9, 20)),
                rng.choice((0, 0, 0, 1000, 1000, 2000, 5000, 1, 777)),
            )
        )
    arrival = rng.choice((0, 0, 0, 1000, 2000, 3000, 4000, 10000, 777))
    return Workflow(f"w{index}", rng.choice("ab"), arrival, tuple(calls))


def random_cluster(rng: random.Random, calls: list[Call]) -> Cluster:
    """Coefficients are mostly whole milliseconds, so that events coincide; KV often holds little more than one call."""
    block = rng.choice((1, 4, 16, 16))
    prompt = block * max(-(-c.prompt_tokens // block) for c in calls)
    total = block * max(-(-(c.prompt_tokens + c.output_tokens) // block) for c in calls)
    large = rng.choice((0, 0, 10**6))

    def rooms(need: int) -> list[int]:
        found = [rng.randint(1, need + block) for _ in range(rng.randint(1, 3))]
        found[rng.randrange(len(found))] = need + large + rng.choice((0, 0, 1, block, 2 * block, 5 * block))
        return found

    def nic() -> float:
        return rng.choice((1e3, 1e4, 1e6, 1e6, 7777.0))

    g = (((512, 1.0),), ((1, 1.0), (512, 2.0)), ((1, 0.5), (16, 2.0), (512, 20.0)), ((1, 0.1), (16, 0.7), (600, 13.3)))
    h = (((1, 1.0), (8, 1.0)), ((1, 1.0), (2, 2.0), (8, 3.0)), ((2, 0.5), (8, 2.0)), ((1, 0.1), (3, 0.7), (8, 4 / 3)))
    return Cluster(
        name="random",
        model="none",
        prefill=tuple(
            PrefillInstance(
                f"p{i}",
                room,
                nic(),
                1,
                PrefillLatency(
                    rng.choice(g),
                    rng.choice((0.0, 1.0, 0.013)),
                    rng.choice((0.0, 0.0, 1e-6 / 3)),
                    rng.choice((0.0, 0.3)),
                ),
                rng.choice((1, 1, 8, 20, 40, 600)),
                "z",
            )
            for i, room in enumerate(rooms(prompt))
        ),
        decode=tuple(
            DecodeInstance(
                f"d{i}",
                room,
                nic(),
                rng.choice((1, 1, 2)),
                DecodeLatency(rng.choice(h), rng.choice((0.0, 0.001, 0.5, 1e-5 / 3)), rng.choice((0.0, 0.2)), 0.1),
                rng.choice((1, 1, 2, 2, 3, 4, 6)),
                rng.choice("xy"),
            )
            for i, room in enumerate(rooms(total))
        ),
        network=Network(
            rng.choice((1.0, 1.0, 0.75)), rng.choice((0, 0, 1000, 333)), rng.choice(("nic", "nic", "nic", "none"))
        ),
        block_tokens=block,
        kv_admission=rng.choice(("backfill", "strict")),
        binding=rng.choice(("dispatch", "handoff")),
    )


@dataclass(frozen=True)
class Setting:
    """What to simulate. Policy ``scripted`` is random and uses every liberty; its seed is the scenario's."""

    trace: Trace
    cluster: Cluster
    policy: str
    plan_latency_us: int
    predictor: str
    seed: int = 0

    def make_policy(self) -> Any:
        if self.policy != "scripted":
            return hexopt.make_policy(self.policy, plan_latency_us=self.plan_latency_us)
        return ScriptedRandomPolicy(
            self.seed,
            plan_latency_us=self.plan_latency_us,
            fallback=self.seed % 2 == 0,
            calm=self.seed % 5 == 0,
        )

    def run(self, policy: Any = None, stop_us: int | None = None) -> RunResult:
        """Simulate; a scripted policy may leave calls in the pool for good, and such an example is dropped."""
        chosen = self.make_policy() if policy is None else policy
        try:
            return hexopt.simulate(self.trace, self.cluster, chosen, predictor=self.predictor, seed=3, stop_us=stop_us)
        except SimulationStalled:
            assume(False)
            raise


PREDICTORS = ("oracle", "app-mean:8", "constant:1", "constant:8", "noisy:0.5")


@st.composite
def run_settings(
    draw: st.DrawFn,
    predictors: tuple[str, ...] = PREDICTORS,
    policies: tuple[str, ...] = (*POLICIES, "scripted", "scripted"),
    latencies: tuple[int, ...] = LATENCIES,
) -> Setting:
    most_workflows, most_calls = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**32))
    rng = random.Random(seed)
    trace = Trace(
        tuple(random_workflow(rng, i, most_calls) for i in range(rng.randint(1, most_workflows))), name="random"
    )
    return Setting(
        trace=trace,
        cluster=random_cluster(rng, [c for w in trace.workflows for c in w.calls]),
        policy=draw(st.sampled_from(policies)),
        plan_latency_us=draw(st.sampled_from(latencies)),
        predictor=draw(st.sampled_from(predictors)),
        seed=seed,
    )


def roomy(cluster: Cluster) -> Cluster:
    """The same cluster with KV room that never runs out."""
    return replace(
        cluster,
        prefill=tuple(replace(p, kv_tokens=HUGE) for p in cluster.prefill),
        decode=tuple(replace(d, kv_tokens=HUGE) for d in cluster.decode),
    )


class Recorder:
    """Wraps a policy: hands everything on and keeps what it saw and decided, instant by instant."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.name = inner.name
        self.plan_latency_us = getattr(inner, "plan_latency_us", 0)
        self.triggers = getattr(inner, "triggers", frozenset(Trigger))
        fallback = getattr(inner, "fallback", None)
        self.fallback = None if fallback is None else Recorder(fallback)
        self.seen: list[tuple[int, dict[str, Any], Plan]] = []

    def reset(self, cluster: Cluster, latency: Any, rng: np.random.Generator) -> None:
        self._nic = cluster.network.contention == "nic"
        self._latency = latency
        self.seen = []
        self.inner.reset(cluster, latency, rng)

    def plan(self, view: View) -> Plan:
        shot = snapshot(view, self._latency, self._nic)
        plan: Plan = self.inner.plan(view)
        self.seen.append((view.now_us, shot, Plan(tuple(plan.decisions), plan.wake_us)))
        return plan
