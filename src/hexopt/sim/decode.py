"""A decode instance: KV reservation and continuous batching in closed-form segments (semantics, sections 4 and 5).

A call that joins after ``i`` iterations of its instance leaves after ``i + output_tokens − 1``, whatever
happens in between. So a heap of these counts tells the next completion, and a segment, a stretch with a fixed
batch, is crossed in one step: the work per call does not grow with its output length or with the batch.
"""

from __future__ import annotations

import heapq

from hexopt.core.cluster import DecodeInstance
from hexopt.core.view import CallState, CallView, DecodeView
from hexopt.latency import ClusterLatency
from hexopt.latency.curves import boundary_us, iterations_within
from hexopt.sim.live import LiveCall
from hexopt.sim.queues import AdmissionQueue, LocalQueue

NEVER = -1


class DecodeEngine:
    """State of one decode instance.

    ``next_us`` is the one boundary event that counts (``NEVER``: none); an event of another time is stale.
    ``open`` says that a segment runs; it is false when the instance is idle or at a boundary where its batch changes.
    """

    def __init__(self, index: int, instance: DecodeInstance, latency: ClusterLatency) -> None:
        self.index = index
        self.admission = AdmissionQueue()
        self.joiners = LocalQueue()
        self.capacity_blocks = latency.decode_capacity_blocks[index]
        self.used_blocks = 0
        self.peak_blocks = 0
        self.max_batch = instance.max_batch
        self.batch = 0
        self.open = False
        self.next_us = NEVER
        self.busy_us = 0
        self.iterations = 0
        self.segments = 0
        self.largest_batch = 0
        self._latency = latency
        self._b2 = latency.context_ms(index)
        self._h_ms = 0.0
        self._start_us = 0
        self._context = 0
        self._next_boundary = 0
        self._leaving: list[tuple[int, int, LiveCall]] = []
        self._joined_at: dict[int, int] = {}
        self.bound_view: dict[int, CallView] = {}
        self.waiting_view: dict[int, CallView] = {}
        self.view = DecodeView(
            index,
            instance.name,
            instance.gpu,
            self.capacity_blocks,
            instance.max_batch,
            self.bound_view,
            self.waiting_view,
        )

    # -- what policies see of the calls bound here

    def bind(self, call: LiveCall) -> None:
        """A call is placed here."""
        view = self.view
        self.bound_view[call.key] = call.view
        view.outstanding_tokens += call.prompt_tokens + call.predicted_tokens
        if call.predicted_tokens > 1 or call.state > CallState.PREFILLING:
            self.count(call)

    def count(self, call: LiveCall) -> None:
        """The call is known, or predicted, to decode here."""
        call.counted = True
        view = self.view
        view.decoding += 1
        view.decoding_blocks += call.predicted_blocks
        view.decoding_tokens += call.prompt_tokens + 1

    def unbind(self, call: LiveCall) -> None:
        """The call is complete, or placed elsewhere."""
        view = self.view
        del self.bound_view[call.key]
        view.outstanding_tokens -= call.prompt_tokens + call.predicted_tokens
        if call.counted:
            call.counted = False
            view.decoding -= 1
            view.decoding_blocks -= call.predicted_blocks
            view.decoding_tokens -= call.prompt_tokens + 1

    # -- KV

    def admit(self, strict: bool) -> list[LiveCall]:
        """Reserve KV for the waiting calls that get it now, in queue order."""
        admitted = self.admission.admit(self.capacity_blocks - self.used_blocks, strict)
        for call in admitted:
            self.used_blocks += call.kv_blocks
        if self.used_blocks > self.peak_blocks:
            self.peak_blocks = self.used_blocks
        return admitted

    # -- the batch

    def join_boundary_us(self, now_us: int) -> int:
        """First boundary at or after ``now_us`` if it comes before the next event and has room, else ``NEVER``."""
        if self.batch >= self.max_batch:
            return NEVER
        span = now_us - self._start_us
        j = iterations_within(self._h_ms, self._b2, self.batch, self._context, span - 1) + 1
        if j >= self._next_boundary:
            return NEVER
        self._next_boundary = j
        self.next_us = self._start_us + boundary_us(self._h_ms, self._b2, self.batch, self._context, j)
        return self.next_us

    def reach_boundary(self, now_us: int) -> list[LiveCall]:
        """Advance to the boundary at ``now_us`` and return the calls that complete there."""
        j = self._next_boundary
        self.busy_us += now_us - self._start_us
        self.iterations += j
        self._context += self.batch * j
        complete: list[LiveCall] = []
        leaving = self._leaving
        view = self.view
        while leaving and leaving[0][0] == self.iterations:
            call = heapq.heappop(leaving)[2]
            self.batch -= 1
            self._context -= call.prompt_tokens + call.output_tokens
            self.used_blocks -= call.kv_blocks
            view.joined_sum -= self._joined_at.pop(call.row)
            complete.append(call)
        self.open = False
        self.next_us = NEVER
        view.iterations = self.iterations
        view.segment_batch = 0
        view.running = self.batch
        return complete

    def start_segment(self, now_us: int) -> list[LiveCall]:
        """Take transferred calls into the batch and, unless it stays empty, start a segment; return who joined."""
        joined: list[LiveCall] = []
        view = self.view
        iterations = self.iterations
        while self.joiners.items and self.batch < self.max_batch:
            call = self.joiners.take()
            self.batch += 1
            self._context += call.prompt_tokens + 1
            heapq.heappush(self._leaving, (iterations + call.output_tokens - 1, call.row, call))
            self._joined_at[call.row] = iterations
            view.joined_sum += iterations
            joined.append(call)
        if self.batch:
            self._latency.check_segment(self.index, self.batch, self._context)
            self._h_ms = self._latency.iteration_ms(self.index, self.batch)
            self._start_us = now_us
            self._next_boundary = j = self._leaving[0][0] - iterations
            self.next_us = now_us + boundary_us(self._h_ms, self._b2, self.batch, self._context, j)
            self.open = True
            self.segments += 1
            if self.batch > self.largest_batch:
                self.largest_batch = self.batch
            view.running = self.batch
            view.segment_start_us = now_us
            view.segment_batch = self.batch
            view.segment_context = self._context
        return joined

    def stop(self, now_us: int) -> None:
        """The run stops in the middle of a segment: count what has happened up to ``now_us``."""
        if self.open:
            self.busy_us += now_us - self._start_us
            self.iterations += iterations_within(
                self._h_ms, self._b2, self.batch, self._context, now_us - self._start_us
            )
