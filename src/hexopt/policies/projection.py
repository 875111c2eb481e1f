"""When would this call finish there? The projection that earliest-finish and HexAGenT share.

It is the ``finish`` of semantics, section 7, on predicted lengths: prefill queueing and service, KV transfer, wait
for KV room, decode at the batch and context that the instance would have. Prefill KV and contention for network
interfaces are not projected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil

from hexopt.core.cluster import Cluster
from hexopt.core.protocols import LatencyModel
from hexopt.core.view import CallState, CallView, View


class Estimator:
    """The facts about a cluster that a projection needs, gathered once per run."""

    def __init__(self, cluster: Cluster, latency: LatencyModel) -> None:
        self.latency = latency
        self.capacity_blocks = [d.kv_tokens // cluster.block_tokens for d in cluster.decode]
        self.max_batch = [d.max_batch for d in cluster.decode]
        self.transfer_latency_us = latency.transfer_latency_us
        self.context_ms = [d.latency.b2_ms for d in cluster.decode]
        self.decode_class = latency.decode_class
        self.decode_classes = max(latency.decode_class) + 1
        self.prefill_groups: list[list[int]] = [[] for _ in range(max(latency.prefill_class) + 1)]
        for p, c in enumerate(latency.prefill_class):
            self.prefill_groups[c].append(p)
        # One decode instance of each class stands for all of them where only the class matters.
        self.representative = [latency.decode_class.index(c) for c in range(self.decode_classes)]
        self.prefill_count = len(cluster.prefill)
        self.decode_count = len(cluster.decode)


class Projection:
    """A cluster's projected future, to which placements are added one by one.

    Times are µs. ``best`` asks, ``commit`` adds. Building it costs one pass over the instances.
    """

    def __init__(
        self,
        estimator: Estimator,
        now_us: int,
        prefill_free_us: list[int],
        decoding: list[int],
        blocks: list[int],
        tokens: list[int],
        view: View | None = None,
        finish_us: Mapping[int, int] | None = None,
        movable: Mapping[int, CallView] | None = None,
    ) -> None:
        self.now_us = now_us
        self.prefill_free_us = prefill_free_us
        self.decoding = decoding
        self.blocks = blocks
        self.tokens = tokens
        self._estimator = estimator
        self._view = view
        self._finish_us = finish_us or {}
        self._movable = movable or {}
        self._placed: list[list[tuple[int, CallView]]] = [[] for _ in decoding]
        model = estimator.latency
        self._iteration_ms = model.iteration_ms
        limit = estimator.max_batch
        self._batch = [min(n + 1, limit[d]) for d, n in enumerate(decoding)]
        self._h_ms = [model.iteration_ms(d, b) for d, b in enumerate(self._batch)]

    @classmethod
    def idle(cls, estimator: Estimator) -> Projection:
        """Return the projection of the idle cluster at time 0."""
        d = estimator.decode_count
        return cls(estimator, 0, [0] * estimator.prefill_count, [0] * d, [0] * d, [0] * d)

    @classmethod
    def of(
        cls,
        estimator: Estimator,
        view: View,
        finish_us: Mapping[int, int],
        movable: Mapping[int, CallView] | None = None,
    ) -> Projection:
        """Return the projection of a view.

        ``finish_us`` remembers, by call, the finish projected at placement. ``movable`` calls are queued but shall be
        placed anew: they are left out.
        """
        now = view.now_us
        free = [max(now, p.busy_until_us) + p.queued_us for p in view.prefill]
        decoding, blocks, tokens = [], [], []
        iterations_at = estimator.latency.iterations_at
        for d in view.decode:
            decoding.append(d.decoding)
            blocks.append(d.decoding_blocks)
            produced = d.running * iterations_at(d, now) - d.joined_sum if d.running else 0
            tokens.append(d.decoding_tokens + produced)
        if movable:
            prefill_us = estimator.latency.prefill_us
            for call in movable.values():
                if call.state == CallState.QUEUED:
                    free[call.prefill] -= prefill_us(call.prefill, call.prompt_tokens)
                    if call.predicted_output_tokens > 1:
                        decoding[call.decode] -= 1
                        blocks[call.decode] -= call.kv_blocks
                        tokens[call.decode] -= call.prompt_tokens + 1
        return cls(estimator, now, free, decoding, blocks, tokens, view, finish_us, movable)

    def best(self, call: CallView, release_us: int = 0, room_now: bool = False) -> tuple[int, int, int] | None:
        """Return (finish, prefill, decode) of the pair with the earliest projected finish; ties to lower indices.

        ``release_us``: its prefill cannot start before. ``room_now``: consider only decode instances with KV room
        at once; ``None`` if there is none.
        """
        est = self._estimator
        n, m = call.prompt_tokens, call.predicted_output_tokens
        free = self.prefill_free_us
        prefill_us = est.latency.prefill_us
        starts = self._earliest_prefills(call, release_us)
        if m <= 1:
            finish, p = min((end, p) for end, p in starts)
            return finish, p, min(call.decode_candidates)
        need = call.kv_blocks
        capacity, blocks = est.capacity_blocks, self.blocks
        candidates = call.decode_candidates
        tight = [d for d in candidates if blocks[d] + need > capacity[d]]
        if tight and room_now:
            candidates = [d for d in candidates if blocks[d] + need <= capacity[d]]
            if not candidates:
                return None
            tight = []
        if tight:
            # A wait for room can hide a later prefill, so every instance is looked at.
            starts = [(max(free[p], release_us) + prefill_us(p, n), p) for p in call.prefill_candidates]
        wire_us = est.latency.wire_us
        representative = est.representative
        arrivals = [
            [(end + wire_us(p, rep, n) + est.transfer_latency_us, p) for end, p in starts] for rep in representative
        ]
        if not tight:
            arrivals = [[min(row)] for row in arrivals]
        steps = m - 1
        triangle = steps * (steps - 1) // 2
        own = n + 1
        batch, h_ms, b2_ms, tokens = self._batch, self._h_ms, est.context_ms, self.tokens
        decode_class = est.decode_class
        found: tuple[int, int, int] | None = None
        for d in candidates:
            if tight and blocks[d] + need > capacity[d]:
                room_us, b, context = self._wait_for_room(d, need)
                h = self._iteration_ms(d, b)
            else:
                room_us, b, context, h = 0, batch[d], tokens[d], h_ms[d]
            service = ceil(1000 * (steps * h + b2_ms[d] * (steps * (context + own) + b * triangle)))
            for arrive, p in arrivals[decode_class[d]]:
                finish = (arrive if arrive > room_us else room_us) + service
                if found is None or (finish, p, d) < found:
                    found = (finish, p, d)
        return found

    def commit(self, call: CallView, finish_us: int, p: int, d: int, release_us: int = 0) -> None:
        """Add a placement: later calls queue behind it and share the decode instance with it."""
        est = self._estimator
        start = self.prefill_free_us[p]
        self.prefill_free_us[p] = max(start, release_us) + est.latency.prefill_us(p, call.prompt_tokens)
        if call.predicted_output_tokens <= 1:
            return
        self.decoding[d] += 1
        self.blocks[d] += call.kv_blocks
        self.tokens[d] += call.prompt_tokens + 1
        self._placed[d].append((finish_us, call))
        batch = min(self.decoding[d] + 1, est.max_batch[d])
        if batch != self._batch[d]:
            self._batch[d] = batch
            self._h_ms[d] = self._iteration_ms(d, batch)

    def decode_finish(self, call: CallView, arrive_us: int, reserved: bool) -> int:
        """Projected finish of a call past prefill on the decode instance it is bound to, where it is counted already.

        ``reserved``: it has its KV room and need not wait for it.
        """
        d = call.decode
        est = self._estimator
        start = arrive_us
        if not reserved and self.blocks[d] > est.capacity_blocks[d]:
            start = max(arrive_us, self._wait_for_room(d, 0)[0])
        batch = min(max(1, self.decoding[d]), est.max_batch[d])
        context = max(self.tokens[d], call.prompt_tokens + 1)
        return start + est.latency.decode_us(d, batch, context, max(1, call.predicted_output_tokens - 1))

    def other_decode_finish(self, call: CallView, d: int, arrive_us: int) -> int:
        """Projected finish of a call past prefill if it moved to decode instance d, where it is not counted yet."""
        est = self._estimator
        start, batch, context = arrive_us, self._batch[d], self.tokens[d]
        if self.blocks[d] + call.kv_blocks > est.capacity_blocks[d]:
            room_us, batch, context = self._wait_for_room(d, call.kv_blocks)
            start = max(arrive_us, room_us)
        context += call.prompt_tokens + 1
        return start + est.latency.decode_us(d, batch, context, max(1, call.predicted_output_tokens - 1))

    def _earliest_prefills(self, call: CallView, release_us: int) -> list[tuple[int, int]]:
        """Return (end, instance) of the earliest prefill in each group of equal instances."""
        free = self.prefill_free_us
        prefill_us = self._estimator.latency.prefill_us
        candidates = call.prefill_candidates
        n = call.prompt_tokens
        starts = []
        for group in self._estimator.prefill_groups:
            if group[0] not in candidates:
                continue  # equal instances have equal capacity
            p = group[0]
            if len(group) > 1:
                # An instance that is free before the release is no earlier than another such: ties to the index.
                p = (
                    min(group, key=free.__getitem__)
                    if release_us == 0
                    else min(group, key=lambda i: max(free[i], release_us))
                )
            starts.append((max(free[p], release_us) + prefill_us(p, n), p))
        return starts

    def _wait_for_room(self, d: int, need: int) -> tuple[int, int, int]:
        """Return (time, batch, context) when enough calls have left decode instance d for ``need`` blocks.

        Calls leave in order of their projected finish. Batch and context count those that remain.
        """
        est = self._estimator
        now = self.now_us
        held = self.blocks[d] + need - est.capacity_blocks[d]
        count, context = self.decoding[d], self.tokens[d]
        room_us = 0
        for finish, _, _, call, produced in self._leaving_order(d):
            if held <= 0:
                break
            held -= call.kv_blocks
            count -= 1
            context -= call.prompt_tokens + produced
            room_us = max(now, finish)
        return room_us, min(count + 1, est.max_batch[d]), context

    def _leaving_order(self, d: int) -> Iterable[tuple[int, int, int, CallView, int]]:
        now = self.now_us
        rows = [(max(now, finish), c.workflow.index, c.index, c, 1) for finish, c in self._placed[d]]
        if self._view is not None:
            seen = self._view.decode[d]
            iterations = self._estimator.latency.iterations_at(seen, now)
            for key, c in seen.bound.items():
                if key in self._movable or (c.predicted_output_tokens <= 1 and c.state <= CallState.PREFILLING):
                    continue
                produced = 1 + iterations - c.joined_iteration if c.state == CallState.RUNNING else 1
                rows.append((max(now, self._finish_us.get(key, now)), c.workflow.index, c.index, c, produced))
        rows.sort(key=lambda row: row[:3])
        return rows
