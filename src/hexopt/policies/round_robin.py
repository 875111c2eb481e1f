"""``round-robin``: the next prefill and the next decode instance in turn, calls by ready time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel
from hexopt.core.view import Trigger, View


class RoundRobin(BasePolicy):
    """Each call goes to the first instance, from the turn on, that can hold it; the turn moves past it."""

    name: ClassVar[str] = "round-robin"
    triggers = frozenset((Trigger.CALL_READY,))

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Start over at the first instances."""
        self._sizes = (len(cluster.prefill), len(cluster.decode))
        self._turns = [0, 0]

    def plan(self, view: View) -> Plan:
        """Place every call of the pool."""
        return Plan(
            [
                Decision(
                    call.key,
                    self._next(0, call.prefill_candidates),
                    self._next(1, call.decode_candidates),
                    float(call.ready_us),
                )
                for call in view.pool
            ]
        )

    def _next(self, role: int, candidates: Sequence[int]) -> int:
        size, turn = self._sizes[role], self._turns[role]
        chosen = min(candidates, key=lambda i: (i - turn) % size)
        self._turns[role] = (chosen + 1) % size
        return chosen
