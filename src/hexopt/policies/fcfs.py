"""``fcfs``: calls by ready time, dispatched to the fewest outstanding tokens.

The per-call baseline of HexAGenT's motivation (arXiv 2605.16637, section 2): it knows neither workflows nor
GPU types.
"""

from __future__ import annotations

from typing import ClassVar

from hexopt.core.plan import Plan
from hexopt.core.protocols import BasePolicy
from hexopt.core.view import Trigger, View
from hexopt.policies.dispatch import FewestOutstanding


class Fcfs(BasePolicy):
    """First come, first served, per call."""

    name: ClassVar[str] = "fcfs"
    triggers = frozenset((Trigger.CALL_READY,))

    def plan(self, view: View) -> Plan:
        """Place every call of the pool."""
        dispatch = FewestOutstanding(view)
        return Plan([dispatch.place(call, float(call.ready_us)) for call in view.pool])
