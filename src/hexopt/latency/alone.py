"""What a call takes alone on the idle cluster, at the pair of instances that serves it best."""

from __future__ import annotations

from hexopt.core.cluster import Cluster
from hexopt.core.protocols import LatencyModel


class Alone:
    """Times of calls alone on the idle cluster, each at its best pair, µs."""

    def __init__(self, cluster: Cluster, latency: LatencyModel) -> None:
        self._latency = latency
        self._known: dict[tuple[int, int], int] = {}
        self._prefill = [(p, cluster.prefill[p].kv_tokens) for p in _firsts(latency.prefill_class)]
        self._decode = [(d, cluster.decode[d].kv_tokens) for d in _firsts(latency.decode_class)]
        self._block_tokens = cluster.block_tokens

    def us(self, prompt_tokens: int, output_tokens: int) -> int:
        """Return the least time over the pairs that hold the call."""
        key = prompt_tokens, output_tokens
        us = self._known.get(key)
        if us is None:
            us = self._known[key] = self._work_out(*key)
        return us

    def _work_out(self, n: int, m: int) -> int:
        model, blocks = self._latency, self._latency.blocks
        prefills = [p for p, room in self._prefill if blocks(n) <= room // self._block_tokens]
        if m <= 1:
            return min(model.prefill_us(p, n) for p in prefills)
        decodes = [d for d, room in self._decode if blocks(n + m) <= room // self._block_tokens]
        return min(
            model.prefill_us(p, n)
            + model.wire_us(p, d, n)
            + model.transfer_latency_us
            + model.decode_us(d, 1, n + 1, m - 1)
            for p in prefills
            for d in decodes
        )


def _firsts(classes: tuple[int, ...]) -> list[int]:
    return [classes.index(c) for c in range(max(classes) + 1)]
