"""A second simulator, written from the semantics page alone: slow, plain, and the judge of the fast one.

It keeps no counters, heaps or indices. What is queued, reserved or bound is found by looking at every call
again; decoding goes from one iteration boundary to the next; the next instant is the least of all instants at
which anything can happen. Section numbers refer to the semantics page. Nothing of ``hexopt.sim``,
``hexopt.latency`` or ``hexopt.policies`` is used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hexopt.core.cluster import Cluster, DecodeInstance, Knots, PrefillInstance
from hexopt.core.plan import Decision, Plan
from hexopt.core.streams import stream
from hexopt.core.view import CallState, CallView, DecodeView, PrefillView, Trigger, View, WorkflowView
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.errors import CalibrationRangeError, CapacityError, PlanError, SimulationStalled

Row = dict[str, Any]

# Section 3: the prompt's KV is on the prefill instance from batch start to transfer end.
ON_PREFILL = (CallState.PREFILLING, CallState.ADMISSION, CallState.TRANSFERRING)
# Section 4: the final length is reserved on the decode instance from admission to completion.
ON_DECODE = (CallState.TRANSFERRING, CallState.TRANSFERRED, CallState.RUNNING)


# ---------------------------------------------------------------------------------------------------------------
# Arithmetic (sections 1, 3, 4, 5)
# ---------------------------------------------------------------------------------------------------------------


def blocks(cluster: Cluster, tokens: int) -> int:
    return -(-tokens // cluster.block_tokens)


def capacity(cluster: Cluster, instance: PrefillInstance | DecodeInstance) -> int:
    return instance.kv_tokens // cluster.block_tokens


def piecewise(knots: Knots, x: int, extrapolate: bool) -> float:
    if x <= knots[0][0]:
        return knots[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(knots):
        if x0 <= x < x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    if x == knots[-1][0]:
        return knots[-1][1]
    if not extrapolate or len(knots) < 2:
        raise CalibrationRangeError(f"curve: {x} is beyond the last knot {knots[-1][0]}, not extrapolated, add a knot")
    (x0, y0), (x1, y1) = knots[-2:]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def prefill_us(instance: PrefillInstance, prompts: Sequence[int]) -> int:
    m = instance.latency
    n = sum(prompts)
    a = sum(p * p for p in prompts)  # n·(n + 2·cached), nothing is cached in version 1
    t = piecewise(m.g_knots, min(n, 512), m.extrapolate) + m.a1_ms * max(0, n - 512) + m.a2_ms * a
    return max(1, math.ceil(1000 * (m.c0_ms + m.c1 * t)))


def wire_us(cluster: Cluster, p: int, d: int, prompt: int) -> int:
    sender, receiver = cluster.prefill[p], cluster.decode[d]
    size = prompt * receiver.kv_bytes_per_token
    rate = cluster.network.efficiency * min(sender.nic_bytes_per_s, receiver.nic_bytes_per_s)
    return max(1, math.ceil(size * 1000000 / rate))


def iteration_ms(instance: DecodeInstance, batch: int) -> float:
    """h'(B)"""
    m = instance.latency
    return piecewise(m.h_knots, batch, m.extrapolate) + m.o0_ms + m.o1_ms * batch


def segment_us(instance: DecodeInstance, batch: int, context: int, j: int) -> float:
    """S(j)"""
    tokens = j * context + batch * (j * (j - 1) // 2)
    return 1000 * (j * iteration_ms(instance, batch) + instance.latency.b2_ms * tokens)


def boundary(instance: DecodeInstance, batch: int, context: int, j: int) -> int:
    """ceil(S(j)): µs from the start of a segment to its boundary j."""
    return math.ceil(segment_us(instance, batch, context, j))


class ReferenceLatency:
    """The latency model that policies are given, on the arithmetic above."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.prefill_class = _classes(
            [(i.latency, i.kv_tokens, i.nic_bytes_per_s, i.max_batch_tokens) for i in cluster.prefill]
        )
        self.decode_class = _classes(
            [(i.latency, i.kv_tokens, i.nic_bytes_per_s, i.kv_bytes_per_token, i.max_batch) for i in cluster.decode]
        )
        self.transfer_latency_us = cluster.network.latency_us

    def blocks(self, tokens: int) -> int:
        return blocks(self.cluster, tokens)

    def prefill_us(self, prefill: int, prompt_tokens: int) -> int:
        return prefill_us(self.cluster.prefill[prefill], [prompt_tokens])

    def wire_us(self, prefill: int, decode: int, prompt_tokens: int) -> int:
        return wire_us(self.cluster, prefill, decode, prompt_tokens)

    def iteration_ms(self, decode: int, batch: int) -> float:
        return iteration_ms(self.cluster.decode[decode], batch)

    def decode_us(self, decode: int, batch: int, context_tokens: int, iterations: int) -> int:
        return boundary(self.cluster.decode[decode], batch, context_tokens, iterations) if iterations > 0 else 0

    def iterations_at(self, view: DecodeView, now_us: int) -> int:
        j = 0
        while view.segment_batch > 0 and (
            view.segment_start_us + self.decode_us(view.index, view.segment_batch, view.segment_context, j + 1)
            <= now_us
        ):
            j += 1
        return view.iterations + j


def _classes(keys: list[tuple[Any, ...]]) -> tuple[int, ...]:
    different = list(dict.fromkeys(keys))
    return tuple(different.index(key) for key in keys)


# ---------------------------------------------------------------------------------------------------------------
# State
# ---------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class RefCall:
    """A call of the trace, revealed or not; ``None`` stands for an instant not known yet."""

    w: int
    c: int
    spec: Call
    prefill_candidates: tuple[int, ...]
    decode_candidates: tuple[int, ...]
    state: CallState | None = None  # None: not revealed
    prefill: int | None = None
    decode: int | None = None
    priority: float | None = None
    produced: int = 0
    ready: int | None = None
    placed: int | None = None
    prefill_start: int | None = None
    prefill_end: int | None = None
    admit: int | None = None
    transfer_start: int | None = None
    transfer_end: int | None = None
    join: int | None = None
    joined_iteration: int | None = None
    complete: int | None = None
    predicted: int = 0
    view: CallView | None = None

    def order(self) -> tuple[float, int, int, int]:
        """Order in every local queue (section 6)."""
        assert self.priority is not None
        assert self.ready is not None
        return (self.priority, self.ready, self.w, self.c)


@dataclass(eq=False)
class RefPrefill:
    index: int
    spec: PrefillInstance
    batch: list[RefCall] = field(default_factory=list)
    batch_end: int | None = None
    ended_now: bool = False
    nic_free: int = 0
    kv_peak: int = 0
    busy: int = 0
    batches: int = 0


@dataclass(eq=False)
class RefDecode:
    index: int
    spec: DecodeInstance
    batch: list[RefCall] = field(default_factory=list)
    segment_start: int = 0
    segment_batch: int = 0  # 0: idle, or between segments
    segment_context: int = 0
    segment_done: int = 0  # iterations of this segment
    iterations: int = 0  # of all segments
    segments: int = 0
    boundary_now: bool = False
    nic_free: int = 0
    kv_peak: int = 0
    busy: int = 0

    def next_boundary(self) -> int:
        return self.segment_start + boundary(self.spec, self.segment_batch, self.segment_context, self.segment_done + 1)


@dataclass
class ReferenceResult:
    calls: list[Row]
    workflows: list[Row]
    instances: list[Row]
    decisions: list[Row]


# ---------------------------------------------------------------------------------------------------------------
# The run
# ---------------------------------------------------------------------------------------------------------------


class Run:
    """One simulation. ``now`` only ever takes instants at which something happens."""

    def __init__(self, trace: Trace, cluster: Cluster, policy: Any, predictor: Any, seed: int) -> None:
        self.trace, self.cluster, self.policy, self.predictor = trace, cluster, policy, predictor
        self.plan_latency = getattr(policy, "plan_latency_us", 0)
        self.subscribed = frozenset(getattr(policy, "triggers", Trigger))
        self.fallback = getattr(policy, "fallback", None)
        self.now = 0
        self.calls = [self._call(w, c) for w, flow in enumerate(trace.workflows) for c in range(len(flow.calls))]
        self.by_key: list[RefCall] = []  # revealed calls, in order of revealing
        self.workflow_views: dict[int, WorkflowView] = {}
        self.prefills = [RefPrefill(i, spec) for i, spec in enumerate(cluster.prefill)]
        self.decodes = [RefDecode(i, spec) for i, spec in enumerate(cluster.decode)]
        self.remembered: set[Trigger] = set()
        self.happened: set[Trigger] = set()
        self.in_flight: tuple[int, list[Decision]] | None = None
        self.wakes: list[int] = []
        self.decision_rows: list[Row] = []
        latency = ReferenceLatency(cluster)
        policy.reset(cluster, latency, stream(seed, "policy"))
        if self.fallback is not None:
            self.fallback.reset(cluster, latency, stream(seed, "fallback"))
        predictor.reset(trace, stream(seed, "predictor"))

    def _call(self, w: int, c: int) -> RefCall:
        spec = self.trace.workflows[w].calls[c]
        prompt = blocks(self.cluster, spec.prompt_tokens)
        total = blocks(self.cluster, spec.prompt_tokens + spec.output_tokens)
        prefill = [i for i, p in enumerate(self.cluster.prefill) if prompt <= capacity(self.cluster, p)]
        decode = [
            i
            for i, d in enumerate(self.cluster.decode)
            if spec.output_tokens == 1 or total <= capacity(self.cluster, d)
        ]
        if not prefill or not decode:
            raise CapacityError(f"call '{spec.call_id}': {total} blocks, no instance holds as many, add KV room")
        return RefCall(w, c, spec, tuple(prefill), tuple(decode))

    def run(self, stop_us: int | None) -> None:
        while any(call.complete is None for call in self.calls):
            future = self._future_instants()
            if not future or (stop_us is not None and min(future) > stop_us):
                break
            self._advance(min(future))
            self._process_events()
            self._dispatch()
        if stop_us is not None and self._future_instants():
            self._advance(stop_us)
        if stop_us is None and any(call.complete is None for call in self.calls):
            raise SimulationStalled("run: calls are left but no event, every call must be placed, mend the policy")

    def _advance(self, instant: int) -> None:
        for instance in (*self.prefills, *self.decodes):
            if instance.batch:
                instance.busy += instant - self.now
        self.now = instant

    def _future_instants(self) -> list[int]:
        instants = [self._ready_instant(call) for call in self.calls if call.state is None]
        instants += [p.batch_end for p in self.prefills]
        instants += [call.transfer_end for call in self.calls if call.state == CallState.TRANSFERRING]
        instants += [d.next_boundary() for d in self.decodes if d.batch]
        instants += [self.in_flight[0]] if self.in_flight else []
        instants += self.wakes
        return [instant for instant in instants if instant is not None]

    def _ready_instant(self, call: RefCall) -> int | None:
        """Section 2: the tool delay after the last parent's completion; a root: after the arrival."""
        flow = self.trace.workflows[call.w]
        ends = [other.complete for other in self.calls if other.w == call.w and other.c in call.spec.parents]
        if any(end is None for end in ends):
            return None
        assert flow.arrival_us is not None
        assert call.spec.tool_us is not None
        return max((end for end in ends if end is not None), default=flow.arrival_us) + call.spec.tool_us

    # ----- all events of this instant ---------------------------------------------------------------------------

    def _process_events(self) -> None:
        """Completions come before revealing, so that one pass also sees calls that are ready with no delay."""
        self.happened = set()
        for p in self.prefills:
            p.ended_now = p.batch_end == self.now
            if p.ended_now:
                self._end_batch(p)
        for call in self.calls:
            if call.state == CallState.TRANSFERRING and call.transfer_end == self.now:
                call.state = CallState.TRANSFERRED
                self.happened.add(Trigger.TRANSFER_END)
        for d in self.decodes:
            d.boundary_now = bool(d.batch) and d.next_boundary() == self.now
            if d.boundary_now:
                self._end_iteration(d)
        for call in self.calls:
            if call.state is None and self._ready_instant(call) == self.now:
                self._reveal(call)
        if self.now in self.wakes:
            self.happened.add(Trigger.WAKE_UP)
            self.wakes = [wake for wake in self.wakes if wake > self.now]

    def _end_batch(self, p: RefPrefill) -> None:
        for call in p.batch:
            call.prefill_end = self.now
            call.produced = 1
            call.state = CallState.ADMISSION
            if call.spec.output_tokens == 1:
                self._complete(call)
        p.batch, p.batch_end = [], None

    def _end_iteration(self, d: RefDecode) -> None:
        d.segment_done += 1
        d.iterations += 1
        for call in d.batch:
            call.produced += 1
        leaving = [call for call in d.batch if call.produced == call.spec.output_tokens]
        d.batch = [call for call in d.batch if call not in leaving]
        for call in leaving:
            self._complete(call)
        if leaving:
            d.segment_start, d.segment_batch, d.segment_context, d.segment_done = self.now, 0, 0, 0

    def _complete(self, call: RefCall) -> None:
        call.state = CallState.COMPLETE
        call.complete = self.now
        self.happened.add(Trigger.CALL_COMPLETE)
        self.predictor.observe(call.w, call.c)

    def _reveal(self, call: RefCall) -> None:
        call.state = CallState.POOL
        call.ready = self.now
        call.predicted = self.predictor.predict(call.w, call.c)
        flow = self.trace.workflows[call.w]
        if call.w not in self.workflow_views:
            assert flow.arrival_us is not None
            self.workflow_views[call.w] = WorkflowView(flow.workflow_id, call.w, flow.app, flow.arrival_us)
        known = {other.c: other.view for other in self.calls if other.w == call.w and other.view is not None}
        call.view = CallView(
            key=len(self.by_key),
            workflow=self.workflow_views[call.w],
            index=call.c,
            call_id=call.spec.call_id,
            parents=tuple(known[parent] for parent in call.spec.parents),
            ready_us=self.now,
            prompt_tokens=call.spec.prompt_tokens,
            cached_prefix_tokens=call.spec.cached_prefix_tokens,
            predicted_output_tokens=call.predicted,
            kv_blocks=blocks(self.cluster, call.spec.prompt_tokens + call.predicted),
            prefill_candidates=call.prefill_candidates,
            decode_candidates=call.decode_candidates,
        )
        call.view.workflow.calls.append(call.view)
        self.by_key.append(call)
        self.happened.add(Trigger.CALL_READY)

    # ----- dispatch phase (section 6) ---------------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._step_1_policy()
        for d in self.decodes:
            self._step_2_admission(d)
        for p in self.prefills:
            self._step_3_prefill(p)
        for d in self.decodes:
            self._step_4_join(d)
        for p in self.prefills:
            p.kv_peak = max(p.kv_peak, self.prefill_used(p))
        for d in self.decodes:
            d.kv_peak = max(d.kv_peak, self.decode_used(d))

    def _step_1_policy(self) -> None:
        if any(p.ended_now and not self.queue(p) for p in self.prefills):
            self.happened.add(Trigger.PREFILL_IDLE)
        self.remembered |= self.happened & self.subscribed
        if self.in_flight is not None and self.in_flight[0] == self.now:
            decisions, self.in_flight = self.in_flight[1], None
            self._apply(decisions)
        if self.remembered and self.in_flight is None:
            pool = sorted(
                (call for call in self.calls if call.state == CallState.POOL), key=lambda c: (c.ready, c.w, c.c)
            )
            view = self.build_view(pool, frozenset(self.remembered))
            self.remembered = set()
            plan = self.policy.plan(view)
            self._validate(plan)
            if plan.wake_us is not None:
                self.wakes.append(plan.wake_us)
            if self.plan_latency == 0:
                self._apply(plan.decisions)
            else:
                self.in_flight = (self.now + self.plan_latency, list(plan.decisions))
        if self.in_flight is not None and self.fallback is not None:
            self._ask_fallback()

    def _ask_fallback(self) -> None:
        fresh = [call for call in self.calls if call.state == CallState.POOL and call.ready == self.now]
        if fresh:
            plan = self.fallback.plan(self.build_view(fresh, frozenset({Trigger.CALL_READY})))
            self._validate(plan._replace(wake_us=None))
            self._apply([d._replace(priority=float(view_of(self.by_key[d.call]).ready_us)) for d in plan.decisions])

    def _validate(self, plan: Plan) -> None:
        if plan.wake_us is not None and plan.wake_us <= self.now:
            raise PlanError(f"plan: wake_us {plan.wake_us} is not after now, only the future can be asked for, mend it")
        keys = [decision.call for decision in plan.decisions]
        if len(set(keys)) < len(keys):
            raise PlanError("plan: two decisions for one call, one is enough, drop the other")
        for decision in plan.decisions:
            legal = (
                0 <= decision.call < len(self.by_key)
                and decision.prefill in self.by_key[decision.call].prefill_candidates
                and decision.decode in self.by_key[decision.call].decode_candidates
                and math.isfinite(decision.priority)
                and not self._overtaken(decision)
            )
            if not legal:
                raise PlanError(f"plan: {decision} can never be carried out, see the view, mend the policy")

    def _overtaken(self, decision: Decision) -> bool:
        call = self.by_key[decision.call]
        if call.state in (CallState.POOL, CallState.QUEUED):
            return False
        if call.state in (CallState.RUNNING, CallState.COMPLETE):
            return True
        if decision.prefill != call.prefill:
            return True
        if decision.decode != call.decode:
            unreserved = call.state in (CallState.PREFILLING, CallState.ADMISSION)
            return not (self.cluster.binding == "handoff" and unreserved)
        return False

    def _apply(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if self._overtaken(decision):
                continue
            call = self.by_key[decision.call]
            new = (decision.prefill, decision.decode, decision.priority)
            if new == (call.prefill, call.decode, call.priority):
                continue
            call.prefill, call.decode, call.priority = new
            if call.state == CallState.POOL:
                call.state = CallState.QUEUED
                call.placed = self.now
            flow = self.trace.workflows[call.w]
            self.decision_rows.append(
                {
                    "at_us": self.now,
                    "workflow_id": flow.workflow_id,
                    "call_id": call.spec.call_id,
                    "prefill_instance": self.cluster.prefill[decision.prefill].name,
                    "decode_instance": self.cluster.decode[decision.decode].name,
                    "priority": decision.priority,
                }
            )

    def _step_2_admission(self, d: RefDecode) -> None:
        waiting = [call for call in self.calls if call.state == CallState.ADMISSION and call.decode == d.index]
        for call in sorted(waiting, key=RefCall.order):
            need = blocks(self.cluster, call.spec.prompt_tokens + call.spec.output_tokens)
            if self.decode_used(d) + need <= capacity(self.cluster, d.spec):
                self._admit(call, d)
            elif self.cluster.kv_admission == "strict":
                break

    def _admit(self, call: RefCall, d: RefDecode) -> None:
        assert call.prefill is not None
        p = self.prefills[call.prefill]
        wire = wire_us(self.cluster, p.index, d.index, call.spec.prompt_tokens)
        start = self.now
        if self.cluster.network.contention == "nic":
            start = max(self.now, p.nic_free, d.nic_free)
        p.nic_free = d.nic_free = start + wire
        call.state = CallState.TRANSFERRING
        call.admit = self.now
        call.transfer_start = start
        call.transfer_end = start + wire + self.cluster.network.latency_us

    def _step_3_prefill(self, p: RefPrefill) -> None:
        if p.batch:
            return
        room = capacity(self.cluster, p.spec) - self.prefill_used(p)
        for call in self.queue(p):
            tokens = sum(other.spec.prompt_tokens for other in p.batch) + call.spec.prompt_tokens
            need = sum(blocks(self.cluster, other.spec.prompt_tokens) for other in [*p.batch, call])
            if need > room or (p.batch and tokens > p.spec.max_batch_tokens):
                break
            p.batch.append(call)
        if p.batch:
            p.batch_end = self.now + prefill_us(p.spec, [call.spec.prompt_tokens for call in p.batch])
            p.batches += 1
            for call in p.batch:
                call.state = CallState.PREFILLING
                call.prefill_start = self.now

    def _step_4_join(self, d: RefDecode) -> None:
        if d.batch and not d.boundary_now:
            return
        waiting = [call for call in self.calls if call.state == CallState.TRANSFERRED and call.decode == d.index]
        for call in sorted(waiting, key=RefCall.order)[: d.spec.max_batch - len(d.batch)]:
            call.state = CallState.RUNNING
            call.join = self.now
            call.joined_iteration = d.iterations
            d.batch.append(call)
            d.segment_batch = 0  # the batch changed
        if d.batch and d.segment_batch == 0:
            d.segment_start = self.now
            d.segment_batch = len(d.batch)
            d.segment_context = sum(call.spec.prompt_tokens + call.produced for call in d.batch)
            d.segment_done = 0
            d.segments += 1
            if segment_us(d.spec, d.segment_batch, d.segment_context, 1) < 1:
                raise CalibrationRangeError(f"instance '{d.spec.name}': an iteration below 1 us, mend h_knots")

    # ----- what is where, by looking at every call --------------------------------------------------------------

    def queue(self, p: RefPrefill) -> list[RefCall]:
        queued = [call for call in self.calls if call.state == CallState.QUEUED and call.prefill == p.index]
        return sorted(queued, key=RefCall.order)

    def prefill_used(self, p: RefPrefill) -> int:
        held = [call for call in self.calls if call.state in ON_PREFILL and call.prefill == p.index]
        return sum(blocks(self.cluster, call.spec.prompt_tokens) for call in held)

    def decode_used(self, d: RefDecode) -> int:
        held = [call for call in self.calls if call.state in ON_DECODE and call.decode == d.index]
        return sum(blocks(self.cluster, call.spec.prompt_tokens + call.spec.output_tokens) for call in held)

    def bound(self, d: RefDecode) -> list[RefCall]:
        return [call for call in self.calls if call.decode == d.index and call.complete is None]

    # ----- view -------------------------------------------------------------------------------------------------

    def build_view(self, pool: list[RefCall], triggers: frozenset[Trigger]) -> View:
        for call in self.by_key:
            self._update_call_view(call)
        return View(
            prefill=[self._prefill_view(p) for p in self.prefills],
            decode=[self._decode_view(d) for d in self.decodes],
            now_us=self.now,
            triggers=triggers,
            pool=[view_of(call) for call in pool],
        )

    def _update_call_view(self, call: RefCall) -> None:
        def shown(value: int | None) -> int:
            return -1 if value is None else value

        view = view_of(call)
        assert call.state is not None
        # A transfer's start is booked at admission and shows from then on, be it still to come.
        view.state = call.state
        view.prefill = shown(call.prefill)
        view.decode = shown(call.decode)
        view.priority = 0.0 if call.priority is None else call.priority
        view.prefill_start_us = shown(call.prefill_start)
        view.prefill_end_us = shown(call.prefill_end)
        view.admit_us = shown(call.admit)
        view.transfer_start_us = shown(call.transfer_start)
        view.transfer_end_us = call.transfer_end or -1 if call.state > CallState.TRANSFERRING else -1
        view.join_us = shown(call.join)
        view.joined_iteration = shown(call.joined_iteration)
        view.complete_us = shown(call.complete)
        view.output_tokens = call.spec.output_tokens if call.complete is not None else -1

    def _prefill_view(self, p: RefPrefill) -> PrefillView:
        queue = self.queue(p)
        return PrefillView(
            index=p.index,
            name=p.spec.name,
            gpu=p.spec.gpu,
            kv_capacity_blocks=capacity(self.cluster, p.spec),
            queue={view_of(call).key: view_of(call) for call in queue},
            queued_us=sum(prefill_us(p.spec, [call.spec.prompt_tokens]) for call in queue),
            busy_until_us=-1 if p.batch_end is None else p.batch_end,
            outstanding_tokens=sum(call.spec.prompt_tokens for call in [*queue, *p.batch]),
            kv_used_blocks=self.prefill_used(p),
            nic_free_us=p.nic_free,
        )

    def _decode_view(self, d: RefDecode) -> DecodeView:
        bound = self.bound(d)
        waiting = [call for call in bound if call.prefill_end is not None and call.join is None]
        decoding = [call for call in bound if call.predicted > 1 or call.prefill_end is not None]
        return DecodeView(
            index=d.index,
            name=d.spec.name,
            gpu=d.spec.gpu,
            kv_capacity_blocks=capacity(self.cluster, d.spec),
            max_batch=d.spec.max_batch,
            bound={view_of(call).key: view_of(call) for call in bound},
            waiting={view_of(call).key: view_of(call) for call in waiting},
            outstanding_tokens=sum(call.spec.prompt_tokens + call.predicted for call in bound),
            decoding=len(decoding),
            decoding_blocks=sum(view_of(call).kv_blocks for call in decoding),
            decoding_tokens=sum(call.spec.prompt_tokens + 1 for call in decoding),
            running=len(d.batch),
            joined_sum=sum(call.joined_iteration or 0 for call in d.batch),
            iterations=d.iterations - d.segment_done,
            segment_start_us=d.segment_start,
            segment_batch=d.segment_batch,
            segment_context=d.segment_context,
            nic_free_us=d.nic_free,
        )

    # ----- tables -----------------------------------------------------------------------------------------------

    def result(self) -> ReferenceResult:
        return ReferenceResult(
            calls=[self._call_row(call) for call in self.calls],
            workflows=[self._workflow_row(w) for w in range(len(self.trace.workflows))],
            instances=[self._prefill_row(p) for p in self.prefills] + [self._decode_row(d) for d in self.decodes],
            decisions=self.decision_rows,
        )

    def _wire_time(self, instance: RefPrefill | RefDecode, call_side: str) -> int:
        """Time on the wire so far: at a stop, a transfer counts up to the stop, like a batch."""
        total = 0
        for call in self.calls:
            if call.transfer_start is None or getattr(call, call_side) != instance.index:
                continue
            assert call.prefill is not None
            assert call.decode is not None
            wire = wire_us(self.cluster, call.prefill, call.decode, call.spec.prompt_tokens)
            total += max(0, min(call.transfer_start + wire, self.now) - call.transfer_start)
        return total

    def _past(self, instant: int | None) -> int | None:
        """An instant, or None where it is still to come: at a stop, a booked transfer is nothing that happened."""
        return instant if instant is not None and instant <= self.now else None

    def _call_row(self, call: RefCall) -> Row:
        return {
            "workflow_id": self.trace.workflows[call.w].workflow_id,
            "call_id": call.spec.call_id,
            "ready_us": call.ready,
            "placed_us": call.placed,
            "prefill_instance": None if call.prefill is None else self.cluster.prefill[call.prefill].name,
            "decode_instance": None if call.decode is None else self.cluster.decode[call.decode].name,
            "priority": call.priority,
            "prefill_start_us": call.prefill_start,
            "prefill_end_us": call.prefill_end,
            "admit_us": call.admit,
            "transfer_start_us": self._past(call.transfer_start),
            "transfer_end_us": self._past(call.transfer_end),
            "join_us": call.join,
            "complete_us": call.complete,
            "decode_iterations": None if call.complete is None else call.spec.output_tokens - 1,
        }

    def _workflow_row(self, w: int) -> Row:
        flow = self.trace.workflows[w]
        ends = [call.complete for call in self.calls if call.w == w]
        complete = None if None in ends else max(end for end in ends if end is not None)
        latency = None if complete is None or flow.arrival_us is None else complete - flow.arrival_us
        standalone = reference_standalone_us(flow, self.cluster)
        return {
            "workflow_id": flow.workflow_id,
            "app": flow.app,
            "arrival_us": flow.arrival_us,
            "complete_us": complete,
            "latency_us": latency,
            "standalone_us": standalone,
            "ratio": math.inf if latency is None else latency / standalone,
        }

    def _prefill_row(self, p: RefPrefill) -> Row:
        return {
            "name": p.spec.name,
            "role": "prefill",
            "gpu": p.spec.gpu,
            "kv_capacity_blocks": capacity(self.cluster, p.spec),
            "kv_peak_blocks": p.kv_peak,
            "busy_us": p.busy,
            "nic_busy_us": self._wire_time(p, call_side="prefill"),
            "batches": p.batches,
            "iterations": None,
            "segments": None,
        }

    def _decode_row(self, d: RefDecode) -> Row:
        return {
            "name": d.spec.name,
            "role": "decode",
            "gpu": d.spec.gpu,
            "kv_capacity_blocks": capacity(self.cluster, d.spec),
            "kv_peak_blocks": d.kv_peak,
            "busy_us": d.busy,
            "nic_busy_us": self._wire_time(d, call_side="decode"),
            "batches": None,
            "iterations": d.iterations,
            "segments": d.segments,
        }


def view_of(call: RefCall) -> CallView:
    assert call.view is not None
    return call.view


def run_reference(
    trace: Trace, cluster: Cluster, policy: Any, predictor: Any, *, stop_us: int | None = None, seed: int = 0
) -> ReferenceResult:
    run = Run(trace, cluster, policy, predictor, seed)
    run.run(stop_us)
    return run.result()


# ---------------------------------------------------------------------------------------------------------------
# Standalone latency (section 7)
# ---------------------------------------------------------------------------------------------------------------


class TrueLengths:
    name = "oracle"

    def reset(self, trace: Trace, rng: np.random.Generator) -> None:
        self.trace = trace

    def predict(self, workflow: int, call: int) -> int:
        return self.trace.workflows[workflow].calls[call].output_tokens

    def observe(self, workflow: int, call: int) -> None:
        pass


class EarliestFinish:
    """Earliest-finish with a look into the engine itself, so that it needs no arithmetic on views."""

    name = "reference-earliest-finish"
    triggers = frozenset({Trigger.CALL_READY})
    run: Run

    def reset(self, cluster: Cluster, latency: ReferenceLatency, rng: np.random.Generator) -> None:
        self.cluster = cluster
        self.projected: dict[RefCall, int] = {}

    def plan(self, view: View) -> Plan:
        chosen: dict[RefCall, Decision] = {}  # by this plan, so that each call sees the placements before it
        for call in [self.run.by_key[c.key] for c in view.pool]:
            finish, p, d = min(
                (self._finish(call, p, d, view.now_us, chosen), p, d)
                for p in call.prefill_candidates
                for d in call.decode_candidates
            )
            self.projected[call] = finish
            assert call.ready is not None
            chosen[call] = Decision(view_of(call).key, p, d, float(call.ready))
        return Plan(list(chosen.values()))

    def _finish(self, call: RefCall, p: int, d: int, t: int, chosen: dict[RefCall, Decision]) -> int:
        n, m = call.spec.prompt_tokens, call.spec.output_tokens
        prefill, decode = self.run.prefills[p], self.run.decodes[d]
        ahead = self.run.queue(prefill) + [other for other, decision in chosen.items() if decision.prefill == p]
        end = t if prefill.batch_end is None else prefill.batch_end
        end += sum(prefill_us(prefill.spec, [other.spec.prompt_tokens]) for other in ahead)
        end += prefill_us(prefill.spec, [n])
        if m == 1:
            return end
        arrive = end + wire_us(self.cluster, p, d, n) + self.cluster.network.latency_us
        others = self.run.bound(decode) + [other for other, decision in chosen.items() if decision.decode == d]
        others = [other for other in others if other.spec.output_tokens > 1]
        others.sort(key=lambda other: (max(t, self.projected[other]), other.w, other.c))
        start = arrive
        while self._blocks([*others, call]) > capacity(self.cluster, decode.spec):
            first = others.pop(0)
            start = max(arrive, max(t, self.projected[first]))
        batch = min(len(others) + 1, decode.spec.max_batch)
        context = sum(other.spec.prompt_tokens + max(1, other.produced) for other in others) + n + 1
        return start + boundary(decode.spec, batch, context, m - 1)

    def _blocks(self, calls: list[RefCall]) -> int:
        return sum(blocks(self.cluster, call.spec.prompt_tokens + call.spec.output_tokens) for call in calls)


def reference_standalone_us(workflow: Workflow, cluster: Cluster) -> int:
    policy = EarliestFinish()
    run = Run(Trace((replace(workflow, arrival_us=0),)), cluster, policy, TrueLengths(), seed=0)
    policy.run = run
    run.run(stop_us=None)
    return max(call.complete for call in run.calls if call.complete is not None)
