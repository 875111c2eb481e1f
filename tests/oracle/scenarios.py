"""Random small scenarios in which much happens at one instant, and a policy that uses every liberty it has.

Coefficients are mostly whole milliseconds, so that events coincide; a few are not, so that rounding matters.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st

from hexopt.core.cluster import (
    Cluster,
    DecodeInstance,
    DecodeLatency,
    Network,
    PrefillInstance,
    PrefillLatency,
)
from hexopt.core.plan import NO_PLAN, Decision, Plan
from hexopt.core.view import CallState, CallView, DecodeView, PrefillView, Trigger, View
from hexopt.core.workflow import Call, Trace, Workflow

# ---------------------------------------------------------------------------------------------------------------
# Predictors
# ---------------------------------------------------------------------------------------------------------------


@dataclass
class ConstantPredictor:
    tokens: int

    @property
    def name(self) -> str:
        return f"constant:{self.tokens}"

    def reset(self, trace: Trace, rng: np.random.Generator) -> None:
        pass

    def predict(self, workflow: int, call: int) -> int:
        return self.tokens

    def observe(self, workflow: int, call: int) -> None:
        pass


@dataclass
class HistoryPredictor:
    """The mean of all lengths observed so far: it tells apart whether a completion was reported before a revealing."""

    name: str = "history"
    seen: list[int] = field(default_factory=list)

    def reset(self, trace: Trace, rng: np.random.Generator) -> None:
        self.trace = trace
        self.seen = []

    def predict(self, workflow: int, call: int) -> int:
        return 1 + sum(self.seen) // max(1, len(self.seen))

    def observe(self, workflow: int, call: int) -> None:
        self.seen.append(self.trace.workflows[workflow].calls[call].output_tokens)


@dataclass
class OraclePredictor:
    name: str = "oracle"

    def reset(self, trace: Trace, rng: np.random.Generator) -> None:
        self.trace = trace

    def predict(self, workflow: int, call: int) -> int:
        return self.trace.workflows[workflow].calls[call].output_tokens

    def observe(self, workflow: int, call: int) -> None:
        pass


# ---------------------------------------------------------------------------------------------------------------
# What a policy saw, as plain values
# ---------------------------------------------------------------------------------------------------------------

CALL_FIELDS = (
    "call_id", "ready_us", "prompt_tokens", "cached_prefix_tokens", "predicted_output_tokens", "kv_blocks", "prefill",
    "decode", "priority", "prefill_start_us", "prefill_end_us", "admit_us", "transfer_start_us", "transfer_end_us",
    "join_us", "joined_iteration", "complete_us", "output_tokens",
)  # fmt: skip
PREFILL_FIELDS = (
    "index", "name", "gpu", "kv_capacity_blocks", "queued_us", "busy_until_us", "outstanding_tokens", "kv_used_blocks",
)  # fmt: skip
DECODE_FIELDS = (
    "index", "name", "gpu", "kv_capacity_blocks", "max_batch", "outstanding_tokens", "decoding", "decoding_blocks",
    "decoding_tokens", "running", "joined_sum",
)  # fmt: skip


def _name(call: CallView) -> tuple[int, int]:
    return (call.workflow.index, call.index)


def _names(calls: Mapping[int, CallView]) -> list[tuple[int, int]]:
    if any(key != call.key for key, call in calls.items()):
        raise AssertionError("a mapping of calls is not by key")
    return sorted(_name(call) for call in calls.values())


def _call_snapshot(call: CallView) -> dict[str, Any]:
    shot: dict[str, Any] = {name: getattr(call, name) for name in CALL_FIELDS}
    shot["state"] = int(call.state)
    shot["prefill_candidates"] = list(call.prefill_candidates)
    shot["decode_candidates"] = list(call.decode_candidates)
    shot["parents"] = [_name(parent) for parent in call.parents]
    shot["workflow"] = (call.workflow.workflow_id, call.workflow.app, call.workflow.arrival_us)
    return shot


def _prefill_snapshot(prefill: PrefillView, now: int, nic: bool) -> dict[str, Any]:
    shot: dict[str, Any] = {name: getattr(prefill, name) for name in PREFILL_FIELDS}
    shot["queue"] = _names(prefill.queue)
    shot["nic_free_us"] = max(now, prefill.nic_free_us) if nic else None
    return shot


def _decode_snapshot(decode: DecodeView, now: int, nic: bool, latency: Any) -> dict[str, Any]:
    shot: dict[str, Any] = {name: getattr(decode, name) for name in DECODE_FIELDS}
    shot["bound"] = _names(decode.bound)
    shot["waiting"] = _names(decode.waiting)
    shot["nic_free_us"] = max(now, decode.nic_free_us) if nic else None
    # At a boundary a segment may be shown closed or still open; the iterations up to now are the same.
    shot["iterations"] = latency.iterations_at(decode, now)
    shot["segment"] = None
    if decode.segment_batch and shot["iterations"] == latency.iterations_at(decode, now - 1):
        shot["segment"] = (decode.iterations, decode.segment_start_us, decode.segment_batch, decode.segment_context)
    return shot


def snapshot(view: View, latency: Any, nic: bool) -> dict[str, Any]:
    """The whole view in plain values that do not depend on keys or on anything the page leaves open."""
    workflows = {}
    for calls in [view.pool, *(p.queue.values() for p in view.prefill), *(d.bound.values() for d in view.decode)]:
        for call in calls:
            workflows[call.workflow.index] = call.workflow
    return {
        "now": view.now_us,
        "triggers": sorted(int(trigger) for trigger in view.triggers),
        "pool": [_name(call) for call in view.pool],
        "prefill": [_prefill_snapshot(p, view.now_us, nic) for p in view.prefill],
        "decode": [_decode_snapshot(d, view.now_us, nic, latency) for d in view.decode],
        "calls": {
            _name(call): _call_snapshot(call)
            for _, flow in sorted(workflows.items())
            for call in sorted(flow.calls, key=_name)
        },
    }


# ---------------------------------------------------------------------------------------------------------------
# Policies
# ---------------------------------------------------------------------------------------------------------------


@dataclass
class FallbackPolicy:
    """Round robin over the candidates by call position; asks for a wake-up that the engine has to ignore."""

    name: ClassVar[str] = "scripted-fallback"

    def reset(self, cluster: Cluster, latency: Any, rng: np.random.Generator) -> None:
        self.nic = cluster.network.contention == "nic"
        self.latency = latency
        self.seen: list[dict[str, Any]] = []

    def plan(self, view: View) -> Plan:
        self.seen.append(snapshot(view, self.latency, self.nic))
        decisions = []
        for call in view.pool:
            i = call.workflow.index + call.index
            prefill = call.prefill_candidates[i % len(call.prefill_candidates)]
            decode = call.decode_candidates[i % len(call.decode_candidates)]
            decisions.append(Decision(call.key, prefill, decode, -7.5))
        return Plan(decisions, wake_us=view.now_us + 1)


class ScriptedRandomPolicy:
    """Random, but a function of its seed and of what it sees: equal views get equal plans, whatever the engine.

    It leaves calls in the pool, asks for wake-ups, re-places and re-orders queued calls, re-binds where the view
    says it may (and so, with a plan latency, is overtaken at times), and writes down every view in ``seen``.
    """

    name: ClassVar[str] = "scripted-random"

    def __init__(
        self,
        seed: int,
        *,
        plan_latency_us: int = 0,
        triggers: frozenset[Trigger] = frozenset(Trigger),
        fallback: bool = False,
        patience: int = 12,
        calm: bool = False,
        reckless: bool = False,
    ) -> None:
        self.seed = seed
        self.plan_latency_us = plan_latency_us
        self.triggers = triggers
        self.fallback = FallbackPolicy() if fallback else None
        self.patience = patience
        self.calm = calm
        self.reckless = reckless

    def reset(self, cluster: Cluster, latency: Any, rng: np.random.Generator) -> None:
        self.nic = cluster.network.contention == "nic"
        self.handoff = cluster.binding == "handoff"
        self.latency = latency
        self.seen: list[dict[str, Any]] = []
        self.known: dict[int, CallView] = {}

    def plan(self, view: View) -> Plan:
        shot = snapshot(view, self.latency, self.nic)
        self.seen.append(shot)
        digest = hashlib.blake2b(repr((self.seed, shot)).encode(), digest_size=8).digest()
        rng = random.Random(digest)
        impatient = len(self.seen) > self.patience
        decisions = []
        left = False
        for call in self._remember(view):
            if call.state == CallState.POOL and not impatient and rng.random() < 0.25:
                left = True
            elif call.state == CallState.POOL or (not self.calm and rng.random() < 0.35):
                decision = self._decide(call, rng)
                if decision is not None:
                    decisions.append(decision)
        if not self.calm:
            rng.shuffle(decisions)
        if self.reckless and rng.random() < 0.2:
            decisions.append(self._reckless(rng))
        if (left or rng.random() < 0.1) and not impatient:
            return Plan(decisions, wake_us=view.now_us + rng.choice([1, 500, 1000, 1000, 2000, 5000]))
        return Plan(decisions) if decisions else NO_PLAN

    def _remember(self, view: View) -> list[CallView]:
        """All revealed calls this policy has met, from what it may know: pool, queues, bindings and workflows."""
        sources = [view.pool, *(p.queue.values() for p in view.prefill), *(d.bound.values() for d in view.decode)]
        for calls in sources:
            for call in calls:
                for sibling in call.workflow.calls:
                    self.known[sibling.key] = sibling
        return sorted(self.known.values(), key=_name)

    def _reckless(self, rng: random.Random) -> Decision:
        """Anything at all about any call, which may be legal as well as absurd."""
        key = rng.choice([*self.known, 0, len(self.known), -1])
        call = self.known.get(key)
        prefill, decode = rng.randrange(-1, 4), rng.randrange(-1, 4)
        if call is not None and call.prefill >= 0 and rng.random() < 0.7:
            prefill = call.prefill
            decode = call.decode if rng.random() < 0.6 else decode
        return Decision(key, prefill, decode, rng.choice([0.0, 1.0, 2.0, 3.0, float("nan"), float("inf")]))

    def _decide(self, call: CallView, rng: random.Random) -> Decision | None:
        if call.state >= CallState.RUNNING:
            return None
        priority = rng.choice([0.0, 0.0, 1.0, -1.0, float(call.ready_us), 0.1 * rng.randrange(30)])
        prefill, decode = call.prefill, call.decode
        if call.state in (CallState.POOL, CallState.QUEUED):
            prefill = rng.choice(list(call.prefill_candidates))
            decode = rng.choice(list(call.decode_candidates))
        elif self.handoff and call.state in (CallState.PREFILLING, CallState.ADMISSION):
            decode = rng.choice(list(call.decode_candidates))
        return Decision(call.key, prefill, decode, priority)


# ---------------------------------------------------------------------------------------------------------------
# Scenarios
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    trace: Trace
    cluster: Cluster
    predictor: str
    policy: Mapping[str, Any]
    stop_us: int | None = None

    def make_policy(self) -> ScriptedRandomPolicy:
        return ScriptedRandomPolicy(**self.policy)

    def make_predictor(self) -> ConstantPredictor | HistoryPredictor | OraclePredictor:
        if self.predictor == "history":
            return HistoryPredictor()
        if self.predictor == "oracle":
            return OraclePredictor()
        return ConstantPredictor(int(self.predictor.removeprefix("constant:")))


def rarely(draw: st.DrawFn, n: int) -> bool:
    """True about once in n times; the middle of a range, because its ends are favoured."""
    return draw(st.integers(1, n)) == n // 2


SMALL = (1, 1, 2, 3, 4, 8, 15, 16, 17, 33, 49)
LARGE = (1, 16, 511, 512, 513, 700)
OUTPUTS = (1, 1, 2, 2, 3, 4, 5, 9, 20)
LONG_OUTPUTS = (1, 40, 150, 400)
MILLISECONDS = (0, 0, 0, 1000, 1000, 2000, 5000, 1, 777)


@st.composite
def workflows(draw: st.DrawFn, index: int, least: int = 1, most: int = 5) -> Workflow:
    count = draw(st.integers(least, most))
    prompts = draw(st.sampled_from([SMALL, SMALL, SMALL, LARGE]))
    outputs = draw(st.sampled_from((OUTPUTS,) * 11 + (LONG_OUTPUTS,)))
    shape = draw(st.sampled_from(["any", "any", "chain", "fan", "roots"]))
    parents: list[tuple[int, ...]] = []
    for i in range(count):
        if i == 0 or shape == "roots":
            parents.append(())
        elif shape == "chain":
            parents.append((i - 1,))
        elif shape == "fan":
            parents.append(tuple(range(1, i)) if i == count - 1 and i > 1 else (0,))
        else:
            parents.append(tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=3)))))
    # A trace may list a call before its parents.
    place = draw(st.permutations(range(count))) if draw(st.integers(0, 3)) == 0 else list(range(count))
    calls: list[Call | None] = [None] * count
    for i in range(count):
        calls[place[i]] = Call(
            call_id=f"c{i}",
            parents=tuple(place[parent] for parent in parents[i]),
            prompt_tokens=draw(st.sampled_from(prompts)),
            output_tokens=draw(st.sampled_from(outputs)),
            tool_us=draw(st.sampled_from(MILLISECONDS)),
        )
    arrival = draw(st.sampled_from((0, 0, 0, 1000, 2000, 3000, 4000, 10000, 777)))
    return Workflow(f"w{index}", draw(st.sampled_from(("a", "b"))), arrival, tuple(c for c in calls if c is not None))


@st.composite
def prefill_latencies(draw: st.DrawFn) -> PrefillLatency:
    knots = draw(
        st.sampled_from(
            (
                ((512, 1.0),),
                ((1, 1.0), (512, 1.0)),
                ((1, 1.0), (2, 2.0)),
                ((1, 0.5), (16, 2.0), (512, 20.0)),
                ((8, 1.0), (24, 3.0), (512, 64.0)),
                ((1, 0.1), (16, 0.7), (600, 13.3)),
            )
        )
    )
    return PrefillLatency(
        g_knots=knots,
        a1_ms=draw(st.sampled_from((0.0, 1.0, 0.013))),
        a2_ms=draw(st.sampled_from((0.0, 0.0, 0.001, 1e-6 / 3))),
        c0_ms=draw(st.sampled_from((0.0, 0.0, 1.0, 0.3))),
        c1=draw(st.sampled_from((1.0, 1.0, 2.0, 0.9))),
        extrapolate=knots[-1][0] < 512 and not rarely(draw, 40),  # else a prompt may be refused
    )


@st.composite
def decode_instances(draw: st.DrawFn, index: int, kv_tokens: int, nic: float) -> DecodeInstance:
    knots = draw(
        st.sampled_from(
            (
                ((1, 1.0), (4, 1.0)),
                ((1, 1.0), (2, 2.0)),
                ((1, 1.0), (2, 1.5), (4, 2.0)),
                ((2, 0.5), (8, 2.0)),
                ((1, 0.1), (3, 0.7), (5, 1 / 3 + 1)),
            )
        )
    )
    if rarely(draw, 40):
        knots = ((1, 0.0009), (2, 0.0011))  # below 1 µs for one call, unless the overhead or the context lifts it
    max_batch = draw(st.sampled_from((1, 1, 2, 2, 3, 4, 6)))
    return DecodeInstance(
        name=f"d{index}",
        kv_tokens=kv_tokens,
        nic_bytes_per_s=nic,
        kv_bytes_per_token=draw(st.sampled_from((1, 1, 2))),
        latency=DecodeLatency(
            h_knots=knots,
            b2_ms=draw(st.sampled_from((0.0, 0.0, 0.001, 0.5, 1e-5 / 3))),
            o0_ms=draw(st.sampled_from((0.0, 0.0, 1.0, 0.2))),
            o1_ms=draw(st.sampled_from((0.0, 0.0, 0.5, 0.1))),
            extrapolate=max_batch > knots[-1][0] or draw(st.booleans()),
        ),
        max_batch=max_batch,
        gpu=draw(st.sampled_from(("x", "y"))),
    )


@st.composite
def clusters(draw: st.DrawFn, calls: list[Call]) -> Cluster:
    block = draw(st.sampled_from((1, 4, 16, 16)))
    # Room for the largest call on one instance at least, in whole blocks, and often for little more.
    prompt = block * max(-(-c.prompt_tokens // block) for c in calls)
    total = block * max(-(-(c.prompt_tokens + c.output_tokens) // block) for c in calls)
    prefills = draw(st.integers(1, 3))
    decodes = draw(st.integers(1, 3))
    large = 1000000 if draw(st.booleans()) else 0
    slack = st.sampled_from((0, 0, 1, block, 2 * block, 5 * block))
    nics = st.sampled_from((1e3, 1e4, 1e6, 1e6, 7777.0))
    any_prefill_room = [draw(st.integers(1, prompt + block)) for _ in range(prefills)]
    any_decode_room = [draw(st.integers(1, total + block)) for _ in range(decodes)]
    any_prefill_room[draw(st.integers(0, prefills - 1))] = prompt + large + draw(slack)
    any_decode_room[draw(st.integers(0, decodes - 1))] = total + large + draw(slack)
    return Cluster(
        name="random",
        model="none",
        prefill=tuple(
            PrefillInstance(
                name=f"p{i}",
                kv_tokens=room,
                nic_bytes_per_s=draw(nics),
                kv_bytes_per_token=1,
                latency=draw(prefill_latencies()),
                max_batch_tokens=draw(st.sampled_from((1, 1, 8, 20, 40, 600))),
                gpu="z",
            )
            for i, room in enumerate(any_prefill_room)
        ),
        decode=tuple(draw(decode_instances(i, room, draw(nics))) for i, room in enumerate(any_decode_room)),
        network=Network(
            efficiency=draw(st.sampled_from((1.0, 1.0, 0.75, 0.7))),
            latency_us=draw(st.sampled_from((0, 0, 1000, 2000, 333))),
            contention=draw(st.sampled_from(("nic", "nic", "nic", "none"))),
        ),
        block_tokens=block,
        kv_admission=draw(st.sampled_from(("backfill", "strict"))),
        binding=draw(st.sampled_from(("dispatch", "handoff"))),
    )


@st.composite
def scripted_policies(draw: st.DrawFn) -> dict[str, Any]:
    triggers = frozenset(Trigger)
    if draw(st.integers(0, 3)) == 0:
        triggers = frozenset(draw(st.sets(st.sampled_from(sorted(Trigger)))) | {Trigger.CALL_READY, Trigger.WAKE_UP})
    elif rarely(draw, 30):
        triggers = frozenset(draw(st.sets(st.sampled_from(sorted(Trigger)), min_size=1)))  # may stall, in both engines
    return {
        "seed": draw(st.integers(0, 2**16)),
        "plan_latency_us": draw(st.sampled_from((0, 0, 1, 500, 1000, 1000, 2000, 3000, 10000))),
        "triggers": triggers,
        "fallback": draw(st.booleans()),
        "patience": draw(st.sampled_from((0, 5, 12, 30))),
        "calm": draw(st.integers(0, 4)) == 0,
        "reckless": rarely(draw, 15),
    }


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    count = draw(st.integers(8, 12) if rarely(draw, 10) else st.integers(1, 5))
    return Trace(tuple(draw(workflows(i)) for i in range(count)), name="random")


@st.composite
def scenarios(draw: st.DrawFn, stop: bool = True) -> Scenario:
    trace = draw(traces())
    cluster = draw(clusters([c for w in trace.workflows for c in w.calls]))
    trace.check()
    cluster.check()
    return Scenario(
        trace=trace,
        cluster=cluster,
        predictor=draw(st.sampled_from(("oracle", "constant:1", "constant:8", "history"))),
        policy=draw(scripted_policies()),
        stop_us=draw(st.sampled_from((None,) * 6 + (0, 3000, 9000, 20000))) if stop else None,
    )


def unstopped(scenario: Scenario) -> Scenario:
    return replace(scenario, stop_us=None)
