"""A prefill instance: one batch at a time, and the KV of its prompts (semantics, section 3)."""

from __future__ import annotations

from hexopt.core.cluster import PrefillInstance
from hexopt.core.view import CallView, PrefillView
from hexopt.latency import ClusterLatency
from hexopt.latency.model import BASE_TOKENS
from hexopt.sim.live import LiveCall
from hexopt.sim.queues import LocalQueue


class PrefillEngine:
    """State of one prefill instance. ``batch`` is empty when idle.

    What lasts how long is ``latency``'s word; what its view foretells is ``estimates``'.
    """

    def __init__(
        self, index: int, instance: PrefillInstance, latency: ClusterLatency, estimates: ClusterLatency
    ) -> None:
        self.index = index
        self.queue = LocalQueue()
        self.batch: list[LiveCall] = []
        self.capacity_blocks = latency.prefill_capacity_blocks[index]
        self.used_blocks = 0
        self.peak_blocks = 0
        self.end_us = 0
        self.busy_us = 0
        self.batches = 0
        self.max_batch_tokens = instance.max_batch_tokens
        self._latency = latency
        self._estimates = estimates
        self._last_knot = instance.latency.g_knots[-1][0]
        self.extrapolated = False
        self.queue_view: dict[int, CallView] = {}
        self.view = PrefillView(index, instance.name, instance.gpu, self.capacity_blocks, self.queue_view)

    def start_batch(self, now_us: int) -> int:
        """Form and start a batch from the front of the queue; return its end, or -1 if nothing can start.

        The walk stops at the first call that would exceed ``max_batch_tokens`` (never the first call) or whose
        KV does not fit beside those taken.
        """
        queue = self.queue
        free = self.capacity_blocks - self.used_blocks
        tokens = attention = 0
        batch = self.batch
        while queue.items:
            call = queue.first()
            n = call.prompt_tokens
            if call.prompt_blocks > free or (batch and tokens + n > self.max_batch_tokens):
                break
            queue.take()
            free -= call.prompt_blocks
            tokens += n
            attention += n * n
            batch.append(call)
        if not batch:
            return -1
        self.used_blocks = self.capacity_blocks - free
        if self.used_blocks > self.peak_blocks:
            self.peak_blocks = self.used_blocks
        if len(batch) == 1:
            duration = self._latency.prefill_us(self.index, tokens)
        else:
            duration = self._latency.prefill_batch_us(self.index, tokens, attention)
        if self._last_knot < BASE_TOKENS and tokens > self._last_knot:
            self.extrapolated = True
        self.end_us = now_us + duration
        self.batches += 1
        self.busy_us += duration
        view = self.view
        view.busy_until_us = now_us + (
            duration if self._estimates is self._latency else self._estimate(tokens, attention)
        )
        view.kv_used_blocks = self.used_blocks
        for call in batch:
            del self.queue_view[call.key]
            view.queued_us -= self._estimates.prefill_us(self.index, call.prompt_tokens)
        return now_us + duration

    def _estimate(self, tokens: int, attention: int) -> int:
        return self._estimates.prefill_batch_us(self.index, tokens, attention)

    def enqueue(self, call: LiveCall) -> None:
        """Queue a call just placed here."""
        self.queue.add(call)
        view = self.view
        self.queue_view[call.key] = call.view
        view.queued_us += self._estimates.prefill_us(self.index, call.prompt_tokens)
        view.outstanding_tokens += call.prompt_tokens

    def withdraw(self, call: LiveCall) -> None:
        """Take a queued call out again: it is placed elsewhere."""
        self.queue.remove(call)
        view = self.view
        del self.queue_view[call.key]
        view.queued_us -= self._estimates.prefill_us(self.index, call.prompt_tokens)
        view.outstanding_tokens -= call.prompt_tokens

    def end_batch(self) -> list[LiveCall]:
        """Return the calls of the batch that ends now, and turn idle."""
        batch, self.batch = self.batch, []
        view = self.view
        view.busy_until_us = -1
        for call in batch:
            view.outstanding_tokens -= call.prompt_tokens
        return batch

    def release(self, call: LiveCall) -> None:
        """Free the KV of a prompt that has been transferred, or needs no transfer."""
        self.used_blocks -= call.prompt_blocks
        self.view.kv_used_blocks = self.used_blocks
