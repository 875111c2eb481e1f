"""KV transfers: each instance has one network interface, a transfer occupies both ends (semantics, section 4)."""

from __future__ import annotations

from hexopt.core.view import DecodeView, PrefillView
from hexopt.latency import ClusterLatency


class Network:
    """Books transfers as they are admitted, never moves a booking."""

    def __init__(self, latency: ClusterLatency, prefill: list[PrefillView], decode: list[DecodeView]) -> None:
        self._latency = latency
        self._views = (prefill, decode)
        self._contention = latency.cluster.network.contention == "nic"
        self._prefill_free = [0] * len(prefill)
        self._decode_free = [0] * len(decode)
        self.prefill_busy_us = [0] * len(prefill)
        self.decode_busy_us = [0] * len(decode)

    def book(self, now_us: int, p: int, d: int, prompt_tokens: int) -> tuple[int, int]:
        """Book a prompt's transfer from prefill instance p to decode instance d; return its (start, end), µs."""
        wire = self._latency.wire_us(p, d, prompt_tokens)
        self.prefill_busy_us[p] += wire
        self.decode_busy_us[d] += wire
        start = now_us
        if self._contention:
            start = max(now_us, self._prefill_free[p], self._decode_free[d])
            free = start + wire
            self._prefill_free[p] = self._decode_free[d] = free
            self._views[0][p].nic_free_us = self._views[1][d].nic_free_us = free
        return start, start + wire + self._latency.transfer_latency_us

    def cut(self, start_us: int, stop_us: int, p: int, d: int, prompt_tokens: int) -> None:
        """The run stops: of a transfer booked from ``start_us``, count only what lies before."""
        wire = self._latency.wire_us(p, d, prompt_tokens)
        after = max(0, start_us + wire - max(start_us, stop_us))
        self.prefill_busy_us[p] -= after
        self.decode_busy_us[d] -= after
