"""Views made by hand: say where each call stands, and the sums a policy reads are added up from that, naively."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hexopt.core.cluster import (
    Binding,
    Cluster,
    DecodeInstance,
    DecodeLatency,
    Knots,
    Network,
    PrefillInstance,
    PrefillLatency,
)
from hexopt.core.plan import Decision, Plan
from hexopt.core.view import CallState, CallView, DecodeView, PrefillView, Trigger, View, WorkflowView
from hexopt.latency import ClusterLatency

FLAT_2_MS: Knots = ((1, 2.0), (64, 2.0))


def prefill(name: str = "p0", *, ms: float = 10.0, kv_tokens: int = 100_000, nic: float = 1e9) -> PrefillInstance:
    """Every prompt takes ``ms``, whatever its length."""
    return PrefillInstance(name, kv_tokens, nic, 1000, PrefillLatency(((512, ms),), 0.0, 0.0))


def decode(
    name: str = "d0",
    *,
    knots: Knots = FLAT_2_MS,
    b2_ms: float = 0.0,
    kv_tokens: int = 100_000,
    max_batch: int = 64,
    nic: float = 1e9,
) -> DecodeInstance:
    """Iterations of 2 ms, whatever the batch and context. A token's KV takes 1 µs on the wire."""
    return DecodeInstance(name, kv_tokens, nic, 1000, DecodeLatency(knots, b2_ms), max_batch)


def cluster(
    prefills: Sequence[PrefillInstance] | int = 1,
    decodes: Sequence[DecodeInstance] | int = 1,
    *,
    network_us: int = 0,
    binding: Binding = "dispatch",
    block_tokens: int = 1,
) -> Cluster:
    if isinstance(prefills, int):
        prefills = [prefill(f"p{i}") for i in range(prefills)]
    if isinstance(decodes, int):
        decodes = [decode(f"d{i}") for i in range(decodes)]
    made = Cluster(
        "hand-made",
        "toy",
        tuple(prefills),
        tuple(decodes),
        Network(1.0, network_us),
        block_tokens=block_tokens,
        binding=binding,
    )
    made.check()
    return made


class Books:
    """What a router would note down about a cluster's calls; ``view`` adds it up."""

    def __init__(self, cluster: Cluster, now_us: int = 0) -> None:
        self.cluster = cluster
        self.latency = ClusterLatency(cluster)
        self.now_us = now_us
        self.calls: list[CallView] = []
        self.workflows: list[WorkflowView] = []
        self.busy_until_us = [-1] * len(cluster.prefill)
        self.segment_start_us = [-1] * len(cluster.decode)
        self.iterations = [1000] * len(cluster.decode)
        self._running_since: dict[int, int] = {}

    def workflow(self, arrival_us: int = 0) -> WorkflowView:
        index = len(self.workflows)
        self.workflows.append(WorkflowView(f"w{index}", index, "app", arrival_us))
        return self.workflows[-1]

    def call(
        self,
        prompt: int = 100,
        predicted: int = 11,
        *,
        workflow: WorkflowView | None = None,
        arrival_us: int = 0,
        ready_us: int | None = None,
        parents: tuple[CallView, ...] = (),
    ) -> CallView:
        """A call revealed and not placed, of a new workflow unless one is given."""
        workflow = workflow or self.workflow(arrival_us)
        blocks = self.latency.blocks
        need = blocks(prompt + predicted)
        call = CallView(
            key=len(self.calls),
            workflow=workflow,
            index=len(workflow.calls),
            call_id=f"c{len(workflow.calls)}",
            parents=parents,
            ready_us=workflow.arrival_us if ready_us is None else ready_us,
            prompt_tokens=prompt,
            cached_prefix_tokens=None,
            predicted_output_tokens=predicted,
            kv_blocks=need,
            prefill_candidates=[
                i for i, room in enumerate(self.latency.prefill_capacity_blocks) if blocks(prompt) <= room
            ],
            decode_candidates=[
                i for i, room in enumerate(self.latency.decode_capacity_blocks) if predicted == 1 or need <= room
            ],
        )
        workflow.calls.append(call)
        self.calls.append(call)
        return call

    def place(
        self, call: CallView, state: CallState, p: int = 0, d: int = 0, *, priority: float = 0.0, produced: int = 1
    ) -> CallView:
        """Move a call to where it stands. ``produced``: tokens so far (of a running call: when its segment began)."""
        call.state, call.prefill, call.decode, call.priority = state, p, d, priority
        now = self.now_us
        if state >= CallState.PREFILLING:
            call.prefill_start_us = now
            if state == CallState.PREFILLING and self.busy_until_us[p] < 0:
                self.busy_until_us[p] = now + self.latency.prefill_us(p, call.prompt_tokens)
        if state >= CallState.ADMISSION:
            call.prefill_end_us = now
        if state >= CallState.TRANSFERRING:
            call.admit_us = call.transfer_start_us = now
        if state >= CallState.TRANSFERRED:
            call.transfer_end_us = now
        if state == CallState.RUNNING:
            call.join_us = now
            call.joined_iteration = self.iterations[d] - (produced - 1)
            self._running_since[call.key] = produced
        return call

    def complete(
        self, call: CallView, start_us: int, prefill_us: int, wait_us: int, transfer_us: int, decode_us: int
    ) -> CallView:
        """The call ran: prefill, then a wait for room, the transfer, and its decode at once."""
        call.state = CallState.COMPLETE
        call.prefill = call.decode = 0
        call.prefill_start_us = start_us
        call.prefill_end_us = start_us + prefill_us
        call.admit_us = call.transfer_start_us = call.prefill_end_us + wait_us
        call.transfer_end_us = call.transfer_start_us + transfer_us
        call.join_us = call.transfer_end_us
        call.complete_us = call.join_us + decode_us
        call.output_tokens = call.predicted_output_tokens
        return call

    def view(self, triggers: Sequence[Trigger] = (Trigger.CALL_READY,)) -> View:
        pool = sorted(
            (c for c in self.calls if c.state == CallState.POOL), key=lambda c: (c.ready_us, c.workflow.index, c.index)
        )
        return View(
            [self._prefill(i) for i in range(len(self.cluster.prefill))],
            [self._decode(i) for i in range(len(self.cluster.decode))],
            self.now_us,
            frozenset(triggers),
            pool,
        )

    def _prefill(self, i: int) -> PrefillView:
        spec = self.cluster.prefill[i]
        queue = {c.key: c for c in self.calls if c.state == CallState.QUEUED and c.prefill == i}
        running = [c for c in self.calls if c.state == CallState.PREFILLING and c.prefill == i]
        return PrefillView(
            index=i,
            name=spec.name,
            gpu=spec.gpu,
            kv_capacity_blocks=self.latency.prefill_capacity_blocks[i],
            queue=queue,
            queued_us=sum(self.latency.prefill_us(i, c.prompt_tokens) for c in queue.values()),
            busy_until_us=self.busy_until_us[i],
            outstanding_tokens=sum(c.prompt_tokens for c in [*queue.values(), *running]),
            kv_used_blocks=sum(self.latency.blocks(c.prompt_tokens) for c in running),
        )

    def _decode(self, i: int) -> DecodeView:
        spec = self.cluster.decode[i]
        bound = {c.key: c for c in self.calls if CallState.QUEUED <= c.state < CallState.COMPLETE and c.decode == i}
        decoding = [c for c in bound.values() if c.predicted_output_tokens > 1 or c.state >= CallState.ADMISSION]
        running = [c for c in bound.values() if c.state == CallState.RUNNING]
        open_segment = bool(running) and self.segment_start_us[i] >= 0
        return DecodeView(
            index=i,
            name=spec.name,
            gpu=spec.gpu,
            kv_capacity_blocks=self.latency.decode_capacity_blocks[i],
            max_batch=spec.max_batch,
            bound=bound,
            waiting={k: c for k, c in bound.items() if CallState.ADMISSION <= c.state <= CallState.TRANSFERRED},
            outstanding_tokens=sum(c.prompt_tokens + c.predicted_output_tokens for c in bound.values()),
            decoding=len(decoding),
            decoding_blocks=sum(c.kv_blocks for c in decoding),
            decoding_tokens=sum(c.prompt_tokens + 1 for c in decoding),
            running=len(running),
            joined_sum=sum(c.joined_iteration for c in running),
            iterations=self.iterations[i],
            segment_start_us=self.segment_start_us[i] if open_segment else 0,
            segment_batch=len(running) if open_segment else 0,
            segment_context=(sum(c.prompt_tokens + self._running_since[c.key] for c in running) if open_segment else 0),
        )


def ready(policy: Any, cluster: Cluster, seed: int = 0) -> Any:
    """Reset a policy for a cluster and return it."""
    policy.reset(cluster, ClusterLatency(cluster), np.random.default_rng(seed))
    return policy


def by_call(plan: Plan) -> dict[int, Decision]:
    assert len({d.call for d in plan.decisions}) == len(plan.decisions)
    return {d.call: d for d in plan.decisions}


def pairs(plan: Plan) -> list[tuple[int, int, int]]:
    return [(d.call, d.prefill, d.decode) for d in plan.decisions]
