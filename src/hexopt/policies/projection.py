"""When would this call finish there? The projection that earliest-finish and HexAGenT share.

It is the ``finish`` of semantics, section 7, on predicted lengths: prefill queueing and service, KV transfer, wait
for KV room, decode at the batch and context that the instance would have. Prefill KV and contention for network
interfaces are not projected.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import ceil

from hexopt.core.cluster import Cluster
from hexopt.core.protocols import LatencyModel
from hexopt.core.view import CallState, CallView, View

Pair = tuple[int, int, int]
"""(projected finish, prefill instance, decode instance)."""

Leaving = tuple[int, int, int, int, int]
"""A call that leaves a decode instance: (projected finish, workflow, index, KV blocks, tokens)."""

PromptTimes = tuple[list[int], list[list[int]]]
"""Prefill time by prefill class, and wire time plus latency by (decode class, prefill class), µs."""


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
        self.prefill_class = latency.prefill_class
        self.prefill_groups: list[list[int]] = [[] for _ in range(max(latency.prefill_class) + 1)]
        for p, c in enumerate(latency.prefill_class):
            self.prefill_groups[c].append(p)
        # One decode instance of each class stands for all of them where only the class matters.
        self.representative = [latency.decode_class.index(c) for c in range(self.decode_classes)]
        self.prefill_count = len(cluster.prefill)
        self.decode_count = len(cluster.decode)
        self._prompts: dict[int, PromptTimes] = {}

    def prompt_times(self, call: CallView) -> PromptTimes:
        """Return what the call's prompt takes on each class of instances; 0 where the class cannot hold it.

        Nobody is asked for times of an instance that is no candidate: it need not be calibrated for such a prompt.
        """
        n = call.prompt_tokens
        times = self._prompts.get(n)
        if times is None:
            model = self.latency
            candidates = call.prefill_candidates  # whether a class holds a prompt depends on the prompt alone
            firsts = [group[0] for group in self.prefill_groups]
            prefill_us = [model.prefill_us(p, n) if p in candidates else 0 for p in firsts]
            transfer_us = [
                [model.wire_us(p, d, n) + self.transfer_latency_us for p in firsts] for d in self.representative
            ]
            times = self._prompts[n] = prefill_us, transfer_us
        return times


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
        self._first = [min(group, key=prefill_free_us.__getitem__) for group in estimator.prefill_groups]
        self._placed: dict[int, list[tuple[int, CallView]]] = {}
        self._leaving: dict[int, _LeavingOrder] = {}  # made where a call has to wait for room
        self._batch = [n + 1 if n < limit else limit for n, limit in zip(decoding, estimator.max_batch, strict=True)]
        iteration_ms = estimator.latency.iteration_ms
        self._h_ms = [iteration_ms(d, batch) for d, batch in enumerate(self._batch)]

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
        *,
        queues_move: bool = False,
        count_movable: bool = False,
    ) -> Projection:
        """Return the projection of a view.

        ``finish_us`` remembers, by call, the finish projected at placement. ``movable`` calls, of the pool or waiting
        for KV room, shall be placed anew: they are left out. ``queues_move``: so are all calls queued for prefill,
        which are among them. ``count_movable``: the caller takes movable calls off their decode instances itself.
        """
        now = view.now_us
        if queues_move:
            free = [p.busy_until_us if p.busy_until_us > now else now for p in view.prefill]
        else:
            free = [max(now, p.busy_until_us) + p.queued_us for p in view.prefill]
        decoding, blocks, tokens = [], [], []
        iterations_at = estimator.latency.iterations_at
        for d in view.decode:
            decoding.append(d.decoding)
            blocks.append(d.decoding_blocks)
            running = d.running
            produced = running * iterations_at(d, now) - d.joined_sum if running else 0
            tokens.append(d.decoding_tokens + produced)
        if movable and not count_movable:
            for call in movable.values():
                decodes = call.predicted_output_tokens > 1 or call.state == CallState.ADMISSION
                if decodes and call.state != CallState.POOL:
                    decoding[call.decode] -= 1
                    blocks[call.decode] -= call.kv_blocks
                    tokens[call.decode] -= call.prompt_tokens + 1
        return cls(estimator, now, free, decoding, blocks, tokens, view, finish_us, movable)

    def best(self, call: CallView, release_us: int = 0, room_now: bool = False) -> Pair | None:
        """Return (finish, prefill, decode) of the pair with the earliest projected finish; ties to lower indices.

        ``release_us``: its prefill cannot start before. ``room_now``: consider only decode instances with KV room
        at once; ``None`` if there is none.
        """
        est = self._estimator
        m = call.predicted_output_tokens
        candidates = call.decode_candidates
        if m <= 1:
            end, p = min((end, p) for end, p in self._earliest_prefills(call, release_us) if p >= 0)
            return end, p, min(candidates)
        prefill_us, transfer_us = est.prompt_times(call)
        free = self.prefill_free_us
        if release_us == 0 and len(call.prefill_candidates) == est.prefill_count:
            starts = [(free[p] + us, p) for p, us in zip(self._first, prefill_us, strict=True)]
        else:
            starts = self._earliest_prefills(call, release_us)
        # The earliest arrival on each class of decode instances; equal arrivals go to the lower prefill index.
        arrivals = [
            min([(end + us, p) for (end, p), us in zip(starts, row, strict=True) if p >= 0]) for row in transfer_us
        ]
        need = call.kv_blocks
        capacity, blocks, batch, h_ms, tokens = est.capacity_blocks, self.blocks, self._batch, self._h_ms, self.tokens
        b2_ms, decode_class = est.context_ms, est.decode_class
        steps = m - 1
        triangle = steps * (steps - 1) // 2
        own = call.prompt_tokens + 1
        best_finish, best_p, best_d = -1, -1, -1
        tight: list[int] = []
        for d in candidates:
            if blocks[d] and blocks[d] + need > capacity[d]:  # an empty instance has nothing to wait for
                tight.append(d)
                continue
            arrive, p = arrivals[decode_class[d]]
            service = 1000 * (steps * h_ms[d] + b2_ms[d] * (steps * (tokens[d] + own) + batch[d] * triangle))
            finish = arrive + ceil(service)
            if best_d < 0 or finish < best_finish or (finish == best_finish and p < best_p):
                best_finish, best_p, best_d = finish, p, d
        found = None if best_d < 0 else (best_finish, best_p, best_d)
        if tight and not room_now:
            return self._best_after_wait(call, release_us, tight, found)
        return found

    def _best_after_wait(self, call: CallView, release_us: int, tight: list[int], found: Pair | None) -> Pair | None:
        """Improve on ``found`` with the instances where the call would wait for KV room."""
        est = self._estimator
        n = call.prompt_tokens
        steps = call.predicted_output_tokens - 1
        for d in tight:
            room_us, batch, context = self._wait_for_room(d, call.kv_blocks)
            service = est.latency.decode_us(d, batch, context + n + 1, steps)
            # A wait for room can hide a later prefill, so every prefill instance is looked at, not one a class.
            for p in call.prefill_candidates:
                end = max(self.prefill_free_us[p], release_us) + est.latency.prefill_us(p, n)
                arrive = end + est.latency.wire_us(p, d, n) + est.transfer_latency_us
                pair = max(arrive, room_us) + service, p, d
                if found is None or pair < found:
                    found = pair
        return found

    def finish_at(self, call: CallView, p: int, d: int) -> int:
        """Return the projected finish of a call, not yet counted, at a given pair."""
        est = self._estimator
        n = call.prompt_tokens
        end = self.prefill_free_us[p] + est.latency.prefill_us(p, n)
        if call.predicted_output_tokens <= 1:
            return end
        start = end + est.latency.wire_us(p, d, n) + est.transfer_latency_us
        batch, context = self._batch[d], self.tokens[d]
        if self._is_tight(d, call.kv_blocks):
            room_us, batch, context = self._wait_for_room(d, call.kv_blocks)
            start = max(start, room_us)
        return start + est.latency.decode_us(d, batch, context + n + 1, call.predicted_output_tokens - 1)

    def commit(self, call: CallView, finish_us: int, p: int, d: int, release_us: int = 0) -> None:
        """Add a placement: later calls queue behind it and share the decode instance with it."""
        est = self._estimator
        start = self.prefill_free_us[p]
        self.prefill_free_us[p] = max(start, release_us) + est.latency.prefill_us(p, call.prompt_tokens)
        group = est.prefill_class[p]
        if self._first[group] == p:
            self._first[group] = min(est.prefill_groups[group], key=self.prefill_free_us.__getitem__)
        if call.predicted_output_tokens <= 1:
            return
        self.commit_decode(call, finish_us, d)

    def locked_finish(self, call: CallView, arrive_us: int) -> int:
        """Projected finish of a call that has its KV room, and so is counted, on its decode instance."""
        d = call.decode
        est = self._estimator
        batch = min(max(1, self.decoding[d]), est.max_batch[d])
        context = max(self.tokens[d], call.prompt_tokens + 1)
        return arrive_us + est.latency.decode_us(d, batch, context, max(1, call.predicted_output_tokens - 1))

    def best_decode(self, call: CallView, targets: Sequence[int]) -> tuple[int, int]:
        """Return (finish, decode) where a call past prefill that waits for KV room, not counted, would finish first."""
        est = self._estimator
        n, p = call.prompt_tokens, call.prefill
        steps = max(1, call.predicted_output_tokens - 1)
        found: tuple[int, int] | None = None
        for d in targets:
            start = self.now_us + est.latency.wire_us(p, d, n) + est.transfer_latency_us
            batch, context = self._batch[d], self.tokens[d]
            if self._is_tight(d, call.kv_blocks):
                room_us, batch, context = self._wait_for_room(d, call.kv_blocks)
                start = max(start, room_us)
            pair = start + est.latency.decode_us(d, batch, context + n + 1, steps), d
            if found is None or pair < found:
                found = pair
        if found is None:
            raise ValueError(f"call '{call.call_id}' has no decode instance to choose from")
        return found

    def commit_decode(self, call: CallView, finish_us: int, d: int) -> None:
        """Add a call past prefill to decode instance d."""
        self.decoding[d] += 1
        self.blocks[d] += call.kv_blocks
        self.tokens[d] += call.prompt_tokens + 1
        self._placed.setdefault(d, []).append((finish_us, call))
        order = self._leaving.get(d)
        if order is not None:
            order.add(_leaving(self.now_us, finish_us, call, 1))
        batch = min(self.decoding[d] + 1, self._estimator.max_batch[d])
        if batch != self._batch[d]:
            self._batch[d] = batch
            self._h_ms[d] = self._estimator.latency.iteration_ms(d, batch)

    def _is_tight(self, d: int, need: int) -> bool:
        """Say whether ``need`` blocks must wait for room. On an empty instance there is nothing to wait for."""
        return self.blocks[d] > 0 and self.blocks[d] + need > self._estimator.capacity_blocks[d]

    def _earliest_prefills(self, call: CallView, release_us: int) -> list[tuple[int, int]]:
        """Return (end, instance) of the earliest prefill in each group of equal instances; instance -1: too small."""
        free = self.prefill_free_us
        candidates = call.prefill_candidates
        prefill_us = self._estimator.prompt_times(call)[0]
        ends = []
        for group, us in zip(self._estimator.prefill_groups, prefill_us, strict=True):
            if group[0] not in candidates:  # equal instances have equal capacity
                ends.append((-1, -1))
                continue
            start, p = min((max(free[p], release_us), p) for p in group)
            ends.append((start + us, p))
        return ends

    def _wait_for_room(self, d: int, need: int) -> tuple[int, int, int]:
        """Return (time, batch, context) when enough calls have left decode instance d for ``need`` blocks.

        Calls leave in order of their projected finish. Batch and context count those that remain.
        """
        est = self._estimator
        held = self.blocks[d] + need - est.capacity_blocks[d]
        order = self._leaving.get(d)
        if order is None:
            order = self._leaving[d] = _LeavingOrder(self.leaving(d))
        room_us, count, tokens = order.until(held)
        return room_us, min(self.decoding[d] - count + 1, est.max_batch[d]), self.tokens[d] - tokens

    def leaving(self, d: int) -> list[Leaving]:
        """Return the calls counted on d, first to leave first."""
        now = self.now_us
        rows = [_leaving(now, finish, c, 1) for finish, c in self._placed.get(d, ())]
        if self._view is not None:
            seen = self._view.decode[d]
            iterations = self._estimator.latency.iterations_at(seen, now)
            for key, c in seen.bound.items():
                if key in self._movable or (c.predicted_output_tokens <= 1 and c.state <= CallState.PREFILLING):
                    continue
                produced = 1 + iterations - c.joined_iteration if c.state == CallState.RUNNING else 1
                rows.append(_leaving(now, self._finish_us.get(key, now), c, produced))
        rows.sort()
        return rows


def _leaving(now_us: int, finish_us: int, call: CallView, produced: int) -> Leaving:
    return max(now_us, finish_us), call.workflow.index, call.index, call.kv_blocks, call.prompt_tokens + produced


class _LeavingOrder:
    """Calls in the order in which they leave a decode instance, with running sums of what they give back."""

    def __init__(self, rows: list[Leaving]) -> None:
        self._rows = rows
        self._blocks = list(accumulate(row[3] for row in rows))
        self._tokens = list(accumulate(row[4] for row in rows))

    def until(self, blocks: int) -> tuple[int, int, int]:
        """Return (time, calls, tokens) of the shortest start of the order that gives back as many blocks.

        All of it, if all is not enough.
        """
        k = min(bisect_left(self._blocks, blocks), len(self._rows) - 1)
        return (self._rows[k][0], k + 1, self._tokens[k]) if k >= 0 else (0, 0, 0)

    def add(self, row: Leaving) -> None:
        """Insert a call; it costs what leaves after it, and most calls leave after those placed before."""
        k = bisect_left(self._rows, row)
        self._rows.insert(k, row)
        for sums, column in ((self._blocks, 3), (self._tokens, 4)):
            before = sums[k - 1] if k else 0
            sums[k:] = list(accumulate((r[column] for r in self._rows[k:]), initial=before))[1:]
