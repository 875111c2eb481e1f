"""``sjf``: the call with the least predicted work first, in both phases; dispatch as ``fcfs``.

Shortest job first, without preemption, is the textbook rule for mean latency. For LLM serving on predicted output
lengths see Qiu et al., "Efficient Interactive LLM Serving with Proxy Model-based Sequence Length Prediction"
(arXiv 2404.08509). Long calls can starve: there is no ageing.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import Trigger, View
from hexopt.policies.dispatch import FewestOutstanding
from hexopt.policies.open_calls import rankable
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
        """Place every call of the pool. Ranks never change, so one priority serves in both phases.

        With a plan latency a fallback places calls, too, at ranks that are not work: these are ranked here.
        """
        decisions = []
        if self.plan_latency_us != 0:
            for call in rankable(view):
                work = float(sum(self._parts(call)))
                if call.priority != work:
                    decisions.append(Decision(call.key, call.prefill, call.decode, work))
        dispatch = FewestOutstanding(view)
        decisions.extend(dispatch.place(call, float(sum(self._parts(call)))) for call in view.pool)
        return Plan(decisions)
