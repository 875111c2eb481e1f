"""Service times of a cluster."""

from __future__ import annotations

import math
from typing import TypeVar

from hexopt.core.cluster import Cluster, DecodeInstance, PrefillInstance
from hexopt.core.view import DecodeView
from hexopt.errors import CalibrationRangeError
from hexopt.latency.curves import boundary_us, iterations_within, piecewise

V = TypeVar("V")

BASE_TOKENS = 512
"""Up to here prefill follows the knots of g; beyond, it grows linearly (semantics, section 3)."""


class ClusterLatency:
    """The latency model of a cluster: every time a policy or the engine asks for, in integer µs.

    Times are memoised per distinct instance specification, so equal instances share their tables.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.transfer_latency_us = cluster.network.latency_us
        self._block_tokens = cluster.block_tokens
        self.prefill_capacity_blocks = tuple(i.kv_tokens // cluster.block_tokens for i in cluster.prefill)
        self.decode_capacity_blocks = tuple(i.kv_tokens // cluster.block_tokens for i in cluster.decode)
        self.prefill_class = _classes([_prefill_key(i) for i in cluster.prefill])
        self.decode_class = _classes([_decode_key(i) for i in cluster.decode])
        self._prefill_tables: tuple[dict[int, int], ...] = _shared_tables(self.prefill_class)
        wire_tables: dict[tuple[float, int], dict[int, int]] = {}
        self._wire: list[list[tuple[float, int, dict[int, int]]]] = []
        for p in cluster.prefill:
            row = []
            for d in cluster.decode:
                rate = cluster.network.efficiency * min(p.nic_bytes_per_s, d.nic_bytes_per_s)
                table = wire_tables.setdefault((rate, d.kv_bytes_per_token), {})
                row.append((rate, d.kv_bytes_per_token, table))
            self._wire.append(row)
        self._b2 = tuple(i.latency.b2_ms for i in cluster.decode)
        self._iteration_tables: tuple[dict[int, float], ...] = _shared_tables(self.decode_class)
        self._counted: list[tuple[object, int]] = [((), 0)] * len(cluster.decode)

    def blocks(self, tokens: int) -> int:
        """KV blocks that hold ``tokens`` tokens."""
        return -(-tokens // self._block_tokens)

    def prefill_us(self, prefill: int, prompt_tokens: int) -> int:
        """Duration of a batch of this one prompt."""
        table = self._prefill_tables[prefill]
        us = table.get(prompt_tokens)
        if us is None:
            us = table[prompt_tokens] = self.prefill_batch_us(prefill, prompt_tokens, prompt_tokens * prompt_tokens)
        return us

    def prefill_batch_us(self, prefill: int, new_tokens: int, attention: int) -> int:
        """Duration of a batch with N = ``new_tokens`` and A = ``attention`` = Σ nᵢ(nᵢ + 2pᵢ)."""
        instance = self.cluster.prefill[prefill]
        model = instance.latency
        base = min(new_tokens, BASE_TOKENS)
        g = piecewise(
            model.g_knots, base, model.extrapolate, f"instance '{instance.name}': prefill of {new_tokens} tokens"
        )
        t_ms = g + model.a1_ms * max(0, new_tokens - BASE_TOKENS) + model.a2_ms * attention
        return max(1, math.ceil(1000 * (model.c0_ms + model.c1 * t_ms)))

    def wire_us(self, prefill: int, decode: int, prompt_tokens: int) -> int:
        """Time for which a prompt's KV transfer occupies both network interfaces."""
        rate, bytes_per_token, table = self._wire[prefill][decode]
        us = table.get(prompt_tokens)
        if us is None:
            us = table[prompt_tokens] = max(1, math.ceil(prompt_tokens * bytes_per_token * 1_000_000 / rate))
        return us

    def iteration_ms(self, decode: int, batch: int) -> float:
        """``h'(B)``: an iteration of ``batch`` calls without its context term, ms."""
        table = self._iteration_tables[decode]
        ms = table.get(batch)
        if ms is None:
            instance = self.cluster.decode[decode]
            model = instance.latency
            h = piecewise(model.h_knots, batch, model.extrapolate, f"instance '{instance.name}': decode batch")
            ms = table[batch] = h + model.o0_ms + model.o1_ms * batch
        return ms

    def context_ms(self, decode: int) -> float:
        """``b2``: what one token of context adds to an iteration, ms."""
        return self._b2[decode]

    def decode_us(self, decode: int, batch: int, context_tokens: int, iterations: int) -> int:
        """Time from the start of a segment to its boundary ``iterations``, with a fixed batch."""
        return boundary_us(self.iteration_ms(decode, batch), self._b2[decode], batch, context_tokens, iterations)

    def iterations_at(self, view: DecodeView, now_us: int) -> int:
        """Iterations that the instance has completed up to and including ``now_us``."""
        batch = view.segment_batch
        if batch == 0:
            return view.iterations
        d, span_us = view.index, now_us - view.segment_start_us
        segment = (span_us, batch, view.segment_context)
        known, iterations = self._counted[d]
        if known != segment:  # a policy and its fallback look at the same instant
            iterations = iterations_within(
                self.iteration_ms(d, batch), self._b2[d], batch, view.segment_context, span_us
            )
            self._counted[d] = segment, iterations
        return view.iterations + iterations

    def check_segment(self, decode: int, batch: int, context_tokens: int) -> None:
        """Raise :class:`~hexopt.errors.CalibrationRangeError` if an iteration would last less than 1 µs."""
        ms = self.iteration_ms(decode, batch) + self._b2[decode] * context_tokens
        if 1000 * ms < 1:
            raise CalibrationRangeError(
                f"instance '{self.cluster.decode[decode].name}': an iteration of {batch} calls takes {1000 * ms} µs, "
                "at least 1 µs is needed, raise h_knots"
            )


def _prefill_key(i: PrefillInstance) -> tuple[object, ...]:
    return (i.latency, i.kv_tokens, i.nic_bytes_per_s, i.max_batch_tokens)


def _decode_key(i: DecodeInstance) -> tuple[object, ...]:
    return (i.latency, i.kv_tokens, i.nic_bytes_per_s, i.kv_bytes_per_token, i.max_batch)


def _classes(keys: list[tuple[object, ...]]) -> tuple[int, ...]:
    numbers: dict[tuple[object, ...], int] = {}
    return tuple(numbers.setdefault(key, len(numbers)) for key in keys)


def _shared_tables(classes: tuple[int, ...]) -> tuple[dict[int, V], ...]:
    tables: dict[int, dict[int, V]] = {}
    return tuple(tables.setdefault(c, {}) for c in classes)
