"""``random``: a uniformly random feasible pair, calls by ready time. The floor that any policy should beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel
from hexopt.core.view import Trigger, View


class RandomChoice(BasePolicy):
    """Draws from the policy's own random stream, so that a run's seed fixes it."""

    name: ClassVar[str] = "random"
    triggers = frozenset((Trigger.CALL_READY,))

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Take a fresh random stream."""
        self._rng = rng

    def plan(self, view: View) -> Plan:
        """Place every call of the pool."""
        draw = self._rng.integers
        decisions = []
        for call in view.pool:
            p = call.prefill_candidates[int(draw(len(call.prefill_candidates)))]
            d = call.decode_candidates[int(draw(len(call.decode_candidates)))]
            decisions.append(Decision(call.key, p, d, float(call.ready_us)))
        return Plan(decisions)
