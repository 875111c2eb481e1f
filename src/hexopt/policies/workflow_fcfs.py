"""``workflow-fcfs``: calls by their workflow's arrival, then by ready time; dispatch as ``fcfs``.

The per-workflow baseline of HexAGenT's evaluation (arXiv 2605.16637, section 5).
"""

from __future__ import annotations

from typing import ClassVar

from hexopt.core.plan import Plan
from hexopt.core.protocols import BasePolicy
from hexopt.core.view import Trigger, View
from hexopt.policies.dispatch import FewestOutstanding


class WorkflowFcfs(BasePolicy):
    """First come, first served, per workflow."""

    name: ClassVar[str] = "workflow-fcfs"
    triggers = frozenset((Trigger.CALL_READY,))

    def plan(self, view: View) -> Plan:
        """Place every call of the pool; queues break ties of arrival by ready time themselves."""
        dispatch = FewestOutstanding(view)
        return Plan([dispatch.place(call, float(call.workflow.arrival_us)) for call in view.pool])
