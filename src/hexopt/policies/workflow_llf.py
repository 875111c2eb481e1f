"""``workflow-llf``: the call with the least laxity first; dispatch as ``fcfs``.

The least-laxity-first baseline of HexAGenT's evaluation (arXiv 2605.16637, section 5). The paper names it without a
formula; ours is

    laxity(c, t) = a_w + H_w(t) − t − rem(c)

with the arrival a_w of the call's workflow, its running horizon H_w(t) (``horizon.py``) as the deadline, and rem(c),
the standalone time of the longest revealed path from c. A call is revealed when its parents are complete, so a call
that waits has no revealed descendants, and the longest revealed path from it is the call itself. It counts in full
until the call is complete.

Of two calls the one with less laxity stays so as time goes by, since −t is common to all. So the priority is
a_w + H_w(t) − rem(c), the instant by which the call would have to start. It only changes with the horizon: when a
sibling is revealed or completes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import Trigger, View
from hexopt.policies.dispatch import FewestOutstanding
from hexopt.policies.horizon import Horizon, UnloadedFinish
from hexopt.policies.open_calls import OpenWorkflow, OpenWorkflows, rankable
from hexopt.policies.projection import Estimator
from hexopt.policies.service import MeanOver, MeanService


class WorkflowLlf(BasePolicy):
    """Least laxity first: what is left until the workflow's horizon, less the call's own service.

    Parameters
    ----------
    mean_over
        The speed at which the call's own service is estimated: the mean over the ``"types"`` of instances that can
        hold it, each counted once, or over the ``"instances"``.
    keep_maximum
        Whether a horizon that measured service corrected downwards stays at its maximum.
    """

    name: ClassVar[str] = "workflow-llf"
    triggers = frozenset((Trigger.CALL_READY, Trigger.CALL_COMPLETE))

    def __init__(
        self,
        *,
        plan_latency_us: PlanLatency = 0,
        fallback: Policy | None = None,
        mean_over: MeanOver = "types",
        keep_maximum: bool = False,
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        self.mean_over = mean_over
        self.keep_maximum = keep_maximum

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget all workflows."""
        self._unloaded = UnloadedFinish(Estimator(cluster, latency))
        self._service = MeanService(latency, self.mean_over)
        # A horizon can be rebuilt from its workflow's calls, all but its maximum.
        self._open = OpenWorkflows(forgets=not self.keep_maximum)

    def plan(self, view: View) -> Plan:
        """Rank the waiting calls whose workflow's horizon has moved, then place every call of the pool.

        With a plan latency a fallback places calls, too, at ranks that are not laxities.
        """
        decisions = []
        deadline_us: dict[int, int] = {}
        fallback_places = self.plan_latency_us != 0  # and may have overtaken what was decided in the last round
        others = rankable(view) if fallback_places else ()
        pool = {call.workflow.index for call in view.pool}
        for known in self._open.look(view, wide=Trigger.CALL_COMPLETE in view.triggers, also=others):
            workflow = known.workflow
            if not (known.changed or fallback_places or workflow.index in pool):
                continue
            deadline = deadline_us[workflow.index] = workflow.arrival_us + self._horizon_us(known)
            for call in known.waiting():
                start_us = deadline - self._service.total_us(call)
                if call.priority != start_us:
                    decisions.append(Decision(call.key, call.prefill, call.decode, start_us))
        if view.pool:
            dispatch = FewestOutstanding(view)
            for call in view.pool:
                start_us = deadline_us[call.workflow.index] - self._service.total_us(call)
                decisions.append(dispatch.place(call, start_us))
        return Plan(decisions)

    def _horizon_us(self, known: OpenWorkflow) -> int:
        horizon = known.horizon
        if horizon is None:
            horizon = known.horizon = Horizon(known.workflow, self._unloaded, self.keep_maximum)
        return horizon.current_us()
