"""Which instances' total capacity holds a call."""

from __future__ import annotations

from collections.abc import Sequence

from hexopt.core.cluster import Cluster
from hexopt.core.workflow import Trace
from hexopt.errors import CapacityError
from hexopt.latency import ClusterLatency


class Candidates:
    """Answers by KV blocks; calls with the same answer share it."""

    def __init__(self, latency: ClusterLatency) -> None:
        self._rooms = (latency.prefill_capacity_blocks, latency.decode_capacity_blocks)
        self._least = tuple(min(room) for room in self._rooms)
        # A range answers "is it in there" without looking at each instance.
        self._all = tuple(range(len(room)) for room in self._rooms)
        self._known: tuple[dict[int, tuple[int, ...]], ...] = ({}, {})

    def prefill(self, blocks: int) -> Sequence[int]:
        """Return the prefill instances that hold a prompt of ``blocks`` blocks."""
        return self._all[0] if blocks <= self._least[0] else self._some(0, blocks)

    def decode(self, blocks: int) -> Sequence[int]:
        """Return the decode instances that hold ``blocks`` blocks; a one-token call needs none."""
        return self._all[1] if blocks <= self._least[1] else self._some(1, blocks)

    def _some(self, role: int, blocks: int) -> tuple[int, ...]:
        known = self._known[role]
        if blocks not in known:
            known[blocks] = tuple(i for i, room in enumerate(self._rooms[role]) if blocks <= room)
        return known[blocks]


def check_capacity(trace: Trace, cluster: Cluster, latency: ClusterLatency) -> None:
    """Raise :class:`~hexopt.errors.CapacityError` for the first call that fits on no instance of a role."""
    room_p = max(latency.prefill_capacity_blocks)
    room_d = max(latency.decode_capacity_blocks)
    tokens_p, tokens_d = room_p * cluster.block_tokens, room_d * cluster.block_tokens
    for w in trace.workflows:
        for c in w.calls:
            if c.prompt_tokens > tokens_p:
                role, tokens, room = "prefill", c.prompt_tokens, room_p
            elif c.output_tokens > 1 and c.prompt_tokens + c.output_tokens > tokens_d:
                role, tokens, room = "decode", c.prompt_tokens + c.output_tokens, room_d
            else:
                continue
            raise CapacityError(
                f"call '{w.workflow_id}/{c.call_id}': it needs {latency.blocks(tokens)} KV blocks for {tokens} tokens, "
                f"the largest {role} instance of cluster '{cluster.name}' holds {room} blocks, "
                "raise kv_tokens or leave the workflow out"
            )
