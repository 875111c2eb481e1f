"""``earliest-finish``: calls by ready time, each on the pair that would finish it first.

It isolates placement from priority. With true lengths and no plan latency it also defines the standalone
latency of a workflow (docs/semantics.md, section 7).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel
from hexopt.core.view import Trigger, View
from hexopt.policies.projection import Estimator, Projection

_FORGET_ABOVE = 4096


class EarliestFinish(BasePolicy):
    """Over all (prefill, decode) pairs, the earliest projected finish; ties to lower indices."""

    name: ClassVar[str] = "earliest-finish"
    triggers = frozenset((Trigger.CALL_READY,))

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget the finishes projected so far."""
        self._estimator = Estimator(cluster, latency)
        self._finish_us: dict[int, int] = {}
        self._forget_above = _FORGET_ABOVE

    def plan(self, view: View) -> Plan:
        """Place every call of the pool, one by one."""
        finish_us = self._finish_us
        if len(finish_us) > self._forget_above:
            bound = {key for d in view.decode for key in d.bound}
            finish_us = self._finish_us = {k: t for k, t in finish_us.items() if k in bound}
            self._forget_above = max(_FORGET_ABOVE, 2 * len(finish_us))
        projection = Projection.of(self._estimator, view, finish_us)
        decisions = []
        last = len(view.pool) - 1
        for i, call in enumerate(view.pool):
            pair = projection.best(call)
            if pair is None:
                continue
            finish, p, d = pair
            if i < last:  # nobody looks at the projection after the last
                projection.commit(call, finish, p, d)
            finish_us[call.key] = finish
            decisions.append(Decision(call.key, p, d, float(call.ready_us)))
        return Plan(decisions)
