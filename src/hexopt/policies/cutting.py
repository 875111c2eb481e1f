"""Cuts windows: the planning problem that a policy faces at one instant, as plain data for a formulation.

A window (``core/window.py``) is made of what the view shows and of the cluster's latency model, and of nothing else:
lengths are the predictor's, and so are the times at which residents leave.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hexopt.core.cluster import Cluster
from hexopt.core.protocols import LatencyModel
from hexopt.core.view import CallState, CallView, DecodeView, View
from hexopt.core.window import (
    Window,
    WindowCall,
    WindowDecode,
    WindowOptions,
    WindowPrefill,
    WindowWorkflow,
)
from hexopt.policies.horizon import Horizon, UnloadedFinish
from hexopt.policies.open_calls import by_key
from hexopt.policies.projection import Estimator

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

OfCall = Callable[[CallView], int]
"""Something about a call or its workflow, µs."""


class Cut(NamedTuple):
    """A window, and who its calls are.

    ``calls`` has one entry for each call of the window, in its order; ``workflows`` the index of each of its workflows.
    """

    window: Window
    calls: tuple[CallView, ...]
    workflows: tuple[int, ...]


def waiting_calls(view: View) -> list[CallView]:
    """Return the calls whose placement is still open, those of the pool and those queued, in queue order."""
    return in_order([*view.pool, *by_key(p.queue for p in view.prefill)])


def in_order(calls: Iterable[CallView]) -> list[CallView]:
    """Return calls in the order in which local queues break ties of priority."""
    return sorted(calls, key=lambda c: (c.ready_us, c.workflow.index, c.index))


class Horizons:
    """The running horizons of workflows, for whoever is no HexAGenT."""

    def __init__(self, estimator: Estimator) -> None:
        self._unloaded = UnloadedFinish(estimator)
        self._known: dict[int, Horizon] = {}

    def of(self, call: CallView) -> int:
        """Return the horizon of the call's workflow, µs after its arrival (at least 1)."""
        horizon = self._known.get(call.workflow.index)
        if horizon is None:
            horizon = self._known[call.workflow.index] = Horizon(call.workflow, self._unloaded, False)
        return horizon.current_us()

    def alone_us(self, call: CallView) -> int:
        """Return the service time of a call alone on the idle cluster, µs."""
        return self._unloaded.single_us(call)


class Cutter:
    """Cuts windows of views of one cluster; made once a run, it remembers times by prompt length.

    Where the policy is told misjudged service times, the window has them too.
    """

    def __init__(self, cluster: Cluster, latency: LatencyModel) -> None:
        self._latency = latency
        self._rebind = cluster.binding == "handoff"
        self._options = WindowOptions(
            cluster.network.contention, cluster.kv_admission, True, latency.transfer_latency_us
        )
        self._capacity = [d.kv_tokens // cluster.block_tokens for d in cluster.decode]
        self._least_capacity = min(self._capacity)
        self._max_batch = [d.max_batch for d in cluster.decode]
        self._context_ms = [d.latency.b2_ms for d in cluster.decode]
        self._prefill_type = [i.gpu or f"type-{c}" for i, c in zip(cluster.prefill, latency.prefill_class, strict=True)]
        self._decode_type = [i.gpu or f"type-{c}" for i, c in zip(cluster.decode, latency.decode_class, strict=True)]
        self._prompts: dict[int, tuple[tuple[int | None, ...], tuple[tuple[int, ...], ...]]] = {}

    def cut(
        self,
        view: View,
        horizon_us: OfCall,
        *,
        tail_us: OfCall | None = None,
        calls: Sequence[CallView] | None = None,
        at_least: Sequence[int] = (),
        max_new: Sequence[int] | None = None,
        name: str = "window",
        provenance: str = "",
    ) -> Cut:
        """Return the window of a view.

        Parameters
        ----------
        horizon_us, tail_us
            The horizon of a call's workflow, and what is expected to follow the call in it.
        calls
            The open calls of the window, of the pool or queued; all of them if ``None``. The others are left out: they
            come later.
        at_least
            Shape (D,): so many open calls each decode instance may be sent in any case, for a known plan to be legal.
        max_new
            Shape (D,): so many may be, neither more nor fewer; ``None``: what :meth:`_max_new` finds. Decode times are
            those of that many.
        name, provenance
            What the window shall be called, and where it comes from.
        """
        now = view.now_us
        free = in_order(calls) if calls is not None else waiting_calls(view)
        bound = [_Placed(d, view, self._latency) for d in view.decode]
        locked = in_order(c for placed in bound for c in placed.bound)
        members = in_order([*free, *locked])
        is_free = {c.key for c in free}
        own = _mean_context(free)
        if max_new is None:
            max_new = self._max_new(free, bound, own)
        if at_least:
            max_new = [max(new, least) for new, least in zip(max_new, at_least, strict=True)]
        decodes = [
            _Decoder(self._latency, d, placed, new, self._max_batch[d], own)
            for d, (placed, new) in enumerate(zip(bound, max_new, strict=True))
        ]
        position: dict[int, int] = {}
        first_call: list[CallView] = []
        for call in members:
            if call.workflow.index not in position:
                position[call.workflow.index] = len(first_call)
                first_call.append(call)
        floors: list[int | None] = [None] * len(first_call)
        for placed in bound:
            for call, leaves_us in placed.leaving:
                w = position.get(call.workflow.index)
                if w is not None:
                    floors[w] = max(floors[w] or 0, leaves_us + (tail_us(call) if tail_us else 0))
        one_token = [c.predicted_output_tokens <= 1 and c.state != CallState.ADMISSION for c in members]
        steps = [0 if one else max(1, c.predicted_output_tokens - 1) for c, one in zip(members, one_token, strict=True)]
        facts = [(c.prompt_tokens + 1, n, c.key in is_free) for c, n in zip(members, steps, strict=True)]
        decode_us = _decode_us(decodes, self._latency, self._context_ms, facts)
        window = Window(
            name,
            provenance,
            self._options,
            tuple(self._prefill(view, p, bound) for p in range(len(view.prefill))),
            tuple(
                WindowDecode(
                    seen.name,
                    self._decode_type[d],
                    max(0, seen.nic_free_us - now),
                    *placed.room(self._capacity[d]),
                    max_new[d],
                    placed.batch,
                    placed.context,
                )
                for d, (seen, placed) in enumerate(zip(view.decode, bound, strict=True))
            ),
            tuple(
                WindowWorkflow(
                    c.workflow.workflow_id,
                    max(0, now - c.workflow.arrival_us),
                    max(1, horizon_us(c)),
                    floor,
                )
                for c, floor in zip(first_call, floors, strict=True)
            ),
            tuple(
                self._call(
                    view, c, c.key in is_free, position[c.workflow.index], tail_us(c) if tail_us else 0, one, row
                )
                for c, one, row in zip(members, one_token, decode_us, strict=True)
            ),
        )
        return Cut(window, tuple(members), tuple(c.workflow.index for c in first_call))

    def _prefill(self, view: View, p: int, bound: Sequence[_Placed]) -> WindowPrefill:
        seen, now = view.prefill[p], view.now_us
        held = [row[1:] for placed in bound for row in placed.in_transfer if row[0] == p]
        return WindowPrefill(
            seen.name,
            self._prefill_type[p],
            max(0, seen.busy_until_us - now),
            max(0, seen.nic_free_us - now),
            seen.kv_capacity_blocks,
            tuple(sorted(held)),
        )

    def _call(
        self,
        view: View,
        call: CallView,
        is_free: bool,
        workflow: int,
        tail_us: int,
        one_token: bool,
        decode_us: Sequence[int],
    ) -> WindowCall:
        prefill_us, wire_us = self._prompt(call)
        may = call.decode_candidates
        everywhere = len(may) == len(decode_us)
        # Every candidate holds the call, so it needs no more than the smallest of them has.
        room = self._least_capacity if everywhere else min([self._capacity[d] for d in may])
        available = None
        if not is_free:
            ends_us = view.prefill[call.prefill].busy_until_us if call.state == CallState.PREFILLING else 0
            available = max(0, ends_us - view.now_us)
        placed = call.state != CallState.POOL
        stays = placed and (is_free or not self._rebind or one_token)
        return WindowCall(
            f"{call.workflow.workflow_id}/{call.call_id}",
            workflow,
            "open" if is_free else "bound",
            call.prefill if placed else None,
            call.decode if stays else None,
            available,
            one_token,
            self._latency.blocks(call.prompt_tokens),
            0 if one_token else min(call.kv_blocks, room),
            tail_us,
            prefill_us,
            wire_us,
            tuple(decode_us) if everywhere else tuple(us if d in may else None for d, us in enumerate(decode_us)),
        )

    def _prompt(self, call: CallView) -> tuple[tuple[int | None, ...], tuple[tuple[int, ...], ...]]:
        """Return ``prefill_us`` and ``wire_us`` of a call: they, and its prefill candidates, depend on the prompt."""
        n = call.prompt_tokens
        times = self._prompts.get(n)
        if times is None:
            model, may = self._latency, call.prefill_candidates
            prefill_us = tuple(model.prefill_us(p, n) if p in may else None for p in range(len(self._prefill_type)))
            wire_us = tuple(
                tuple(model.wire_us(p, d, n) for d in range(len(self._decode_type)))
                for p in range(len(self._prefill_type))
            )
            if len(self._prompts) >= _MOST_PROMPTS:
                self._prompts.clear()
            times = self._prompts[n] = prefill_us, wire_us
        return times

    def _max_new(self, free: Sequence[CallView], bound: Sequence[_Placed], own: int) -> list[int]:
        """Return how many open calls each decode instance may be sent.

        Calls are dealt out, those with the fewest candidates first, each to the instance whose iterations would be the
        shortest with it: what an equal load would look like. Every instance may then take some more, in all half as
        many again and one each at least, so that a plan can differ from that; but never more than there are calls.
        """
        decoding = [c for c in free if c.predicted_output_tokens > 1]
        new = [0] * len(bound)
        if not decoding:
            return new

        def iteration_ms(d: int) -> float:
            batch = min(bound[d].batch + new[d] + 1, self._max_batch[d])
            return self._latency.iteration_ms(d, batch) + self._context_ms[d] * (bound[d].context + own * (new[d] + 1))

        anywhere = 0
        for call in sorted(decoding, key=lambda c: len(c.decode_candidates)):
            if len(call.decode_candidates) == len(bound):
                anywhere += 1
                continue
            d = min(call.decode_candidates, key=lambda d: (iteration_ms(d), d))
            new[d] += 1
        heap = [(iteration_ms(d), d) for d in range(len(bound))]
        heapq.heapify(heap)
        for _ in range(anywhere):
            d = heap[0][1]
            new[d] += 1
            heapq.heapreplace(heap, (iteration_ms(d), d))
        spare = max(1, -(-len(decoding) // (2 * len(bound))))
        return [min(len(decoding), count + spare) for count in new]


_MOST_PROMPTS = 1 << 15
"""So many prompt lengths are remembered."""


class _Placed:
    """Who is on a decode instance, or on its way there, and cannot go elsewhere.

    ``bound``: calls of the window, in prefill or waiting for admission. ``leaving``: residents, those after them, with
    the time (µs after the cut) at which each is projected to leave, were the batch to stay as it is with all ``bound``
    calls in it. ``in_transfer``: (prefill instance, until, prompt blocks). ``batch`` and ``context``: calls and their
    tokens, residents and ``bound``.
    """

    def __init__(self, seen: DecodeView, view: View, latency: LatencyModel) -> None:
        now = view.now_us
        self.bound: list[CallView] = []
        self.leaving: list[tuple[CallView, int]] = []
        self.in_transfer: list[tuple[int, int, int]] = []
        self.batch = self.context = 0
        self._blocks: list[int] = []
        residents: list[tuple[CallView, int, int]] = []  # (call, when its next token counts from, tokens produced)
        iterations = latency.iterations_at(seen, now)
        # The iteration under way began at the last boundary.
        since_us = 0
        if seen.segment_batch:
            done = iterations - seen.iterations
            spent = latency.decode_us(seen.index, seen.segment_batch, seen.segment_context, done) if done else 0
            since_us = seen.segment_start_us + spent - now
        for call in sorted(seen.bound.values(), key=lambda c: c.key):
            if call.state <= CallState.QUEUED:
                continue
            produced = 1
            if call.state <= CallState.ADMISSION:
                self.bound.append(call)
                if call.state == CallState.PREFILLING and call.predicted_output_tokens <= 1:
                    continue
            elif call.state == CallState.RUNNING:
                produced += iterations - call.joined_iteration
                residents.append((call, since_us, produced))
            elif call.state == CallState.TRANSFERRED:
                residents.append((call, 0, produced))
            else:
                wire_us = latency.wire_us(call.prefill, seen.index, call.prompt_tokens)
                ends_us = max(0, call.transfer_start_us + wire_us + latency.transfer_latency_us - now)
                residents.append((call, ends_us, produced))
                self.in_transfer.append((call.prefill, ends_us, latency.blocks(call.prompt_tokens)))
            self.batch += 1
            self.context += call.prompt_tokens + produced
        batch = min(self.batch, seen.max_batch)
        for call, from_us, produced in residents:
            left = max(1, call.predicted_output_tokens - produced)
            us = latency.decode_us(seen.index, batch, self.context * batch // max(1, self.batch), left)
            self.leaving.append((call, max(0, from_us + us)))
            # A call that has outlived its prediction holds room for what it has, and for a token more.
            self._blocks.append(max(call.kv_blocks, latency.blocks(call.prompt_tokens + produced + 1)))

    def room(self, capacity: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Return the free blocks and the releases; together they are the capacity, whatever was predicted."""
        rows = sorted((us, blocks) for (_, us), blocks in zip(self.leaving, self._blocks, strict=True))
        free = capacity - sum(self._blocks)
        releases = []
        for us, blocks in rows:
            owed = min(blocks, max(0, -free))
            free += owed
            if blocks > owed:
                releases.append((us, blocks - owed))
        return free, tuple(releases)


class _Decoder:
    """Decode times of calls of the window on one instance: a batch of all that are bound to it and all it may be sent.

    Where that is more than ``max_batch``, a full batch of such calls.
    """

    def __init__(self, latency: LatencyModel, d: int, placed: _Placed, new: int, max_batch: int, own: int) -> None:
        self._latency = latency
        self._index = d
        self._calls = placed.batch + new
        self._context = placed.context + own * new
        self.batch = max(1, min(self._calls, max_batch))
        self._own = own

    def context(self, mine: int, is_free: bool) -> int:
        """Return the tokens of the batch with a call of ``mine`` in it.

        ``is_free``: it takes the place of one of the open calls that may be sent here.
        """
        others, context = self._calls - 1, max(0, self._context - (self._own if is_free else mine))
        if others >= self.batch:
            context = context * (self.batch - 1) // others
        return context + mine

    def contexts(self, mine: Ints, is_free: Bools) -> Ints:
        """Return :meth:`context` of many calls."""
        others = self._calls - 1
        context: Ints = np.maximum(0, self._context - np.where(is_free, self._own, mine))
        if others >= self.batch:
            context = context * (self.batch - 1) // others
        return context + mine

    def decode_us(self, mine: int, steps: int, is_free: bool) -> int:
        """Return the time of ``steps`` iterations with the call in the batch."""
        if not steps:
            return 0
        return self._latency.decode_us(self._index, self.batch, self.context(mine, is_free), steps)


def _decode_us(
    decodes: Sequence[_Decoder],
    latency: LatencyModel,
    context_ms: Sequence[float],
    calls: Sequence[tuple[int, int, bool]],
) -> list[list[int]]:
    """Return :meth:`_Decoder.decode_us` of calls (tokens, steps, free) on all instances: a row each.

    In arrays, by the arithmetic of ``latency.curves.boundary_us``, unless a sum could exceed 64 bits.
    """
    mine = max([m for m, _, _ in calls], default=0)
    steps = max([s for _, s, _ in calls], default=0)
    batch = max(d.batch for d in decodes)
    most = max([max(d.context(mine, True), d.context(1, True)) for d in decodes]) + mine
    if not calls or most >= 2**42 or steps * (most + batch * steps) >= 2**62:
        return [[d.decode_us(*call) for d in decodes] for call in calls]
    own, rows, free = (np.array(column) for column in zip(*calls, strict=True))
    triangle = rows * (rows - 1) // 2
    columns = []
    for i, d in enumerate(decodes):
        inner = (rows * d.contexts(own, free) + d.batch * triangle).astype(np.float64)
        ms = rows * latency.iteration_ms(i, d.batch) + context_ms[i] * inner
        columns.append(np.ceil(1000 * ms).astype(np.int64))
    table: list[list[int]] = np.stack(columns, axis=1).tolist()
    return table


def _mean_context(calls: Sequence[CallView]) -> int:
    decoding = [c.prompt_tokens + 1 for c in calls if c.predicted_output_tokens > 1]
    return sum(decoding) // len(decoding) if decoding else 0
