"""``sjf``: the call with the least predicted work first, in both phases; dispatch as ``fcfs``.

Shortest job first, without preemption, is the textbook rule for mean latency. For LLM serving on predicted output
lengths see Qiu et al., "Efficient Interactive LLM Serving with Proxy Model-based Sequence Length Prediction"
(arXiv 2404.08509). Long calls can starve: there is no ageing.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import Trigger, View
from hexopt.policies.dispatch import FewestOutstanding
from hexopt.policies.service import Measure, work_parts


class Sjf(BasePolicy):
    """Shortest job first, per call, on predicted lengths.

    Parameters
    ----------
    work
        What is least: prompt and predicted output (``"tokens"``), predicted ``"output"`` alone, or predicted service
        ``"time"``, the mean over the types of instances that can hold the call.
    """

    name: ClassVar[str] = "sjf"
    triggers = frozenset((Trigger.CALL_READY,))

    def __init__(
        self, *, plan_latency_us: PlanLatency = 0, fallback: Policy | None = None, work: Measure = "tokens"
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        self.work = work

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Prepare the measure of work."""
        self._parts = work_parts(self.work, latency)

    def plan(self, view: View) -> Plan:
        """Place every call of the pool; its rank never changes, so its priority serves in both phases."""
        dispatch = FewestOutstanding(view)
        return Plan([dispatch.place(call, float(sum(self._parts(call)))) for call in view.pool])
