"""``srpt``: the least remaining predicted work first, in both phases; dispatch as ``fcfs``.

Shortest remaining processing time (Schrage, "A Proof of the Optimality of the Shortest Remaining Processing Time
Discipline", Operations Research 16, 1968). The rule is about jobs whose remaining work is known, and preempts. Here:

- A job is a *workflow*, and what remains of it is only known as far as it is revealed: the sum over its revealed,
  unfinished calls. In a chain that is the present call; in a fan-out all open branches. Or a job is a *call*
  (option ``of``).
- A phase's work counts in full until the phase is over. Counting the tokens of running calls one by one would change
  every sum at every iteration.
- Neither a running prefill batch nor a running decode is preempted: the engine cannot. The rank decides who waits.
"""

from __future__ import annotations

from itertools import chain
from typing import ClassVar, Literal

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.policies.dispatch import FewestOutstanding
from hexopt.policies.open_calls import OpenWorkflows, arrived, rankable
from hexopt.policies.service import Measure, work_parts


class Srpt(BasePolicy):
    """Shortest remaining processing time on predicted lengths, per workflow or per call.

    Parameters
    ----------
    of
        Whose remaining work: of all revealed calls of the ``"workflow"``, or of the ``"call"`` alone.
    work
        What is least: prompt and predicted output (``"tokens"``), predicted ``"output"`` alone, or predicted service
        ``"time"``, the mean over the types of instances that can hold the call.

    Ranks are brought up to date when a call becomes ready, arrives at its decode instance or completes. Of calls past
    their prefill only those on a contended decode instance (a call waits for KV room there, or its batch is full) are
    ranked anew: elsewhere they join at the next boundary whatever their rank.
    """

    name: ClassVar[str] = "srpt"
    triggers = frozenset((Trigger.CALL_READY, Trigger.TRANSFER_END, Trigger.CALL_COMPLETE))

    def __init__(
        self,
        *,
        plan_latency_us: PlanLatency = 0,
        fallback: Policy | None = None,
        of: Literal["workflow", "call"] = "workflow",
        work: Measure = "tokens",
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        self.of = of
        self.work = work

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget all workflows."""
        self._parts = work_parts(self.work, latency)
        self._open = OpenWorkflows()

    def plan(self, view: View) -> Plan:
        """Rank the waiting calls of which, or of whose workflow, less or more is left; then place the pool.

        With a plan latency a fallback places calls, too, at ranks that are not work.
        """
        others = rankable(view) if self.plan_latency_us != 0 else arrived(view)
        left: dict[int, float] = {}
        if self.of == "call":
            waiting = others
            for call in chain(others, view.pool):
                left[call.key] = self._left(call)
        else:
            waiting = []
            pool = {call.workflow.index for call in view.pool}
            for known in self._open.look(view, wide=True, also=others):
                if not (known.moved or known.workflow.index in pool):
                    continue
                work = sum([self._left(call) for call in known.calls])
                for call in known.calls:
                    left[call.key] = work
                waiting.extend(known.waiting())
        decisions = [
            Decision(call.key, call.prefill, call.decode, left[call.key])
            for call in waiting
            if call.priority != left[call.key]
        ]
        if view.pool:
            dispatch = FewestOutstanding(view)
            decisions.extend(dispatch.place(call, left[call.key]) for call in view.pool)
        return Plan(decisions)

    def _left(self, call: CallView) -> float:
        prefill, after = self._parts(call)
        return float(after if call.state >= CallState.ADMISSION else prefill + after)
