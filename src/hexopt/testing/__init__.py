"""The conformance kit: does a policy keep the rules that the simulator, and a router, rely on?

>>> from hexopt.testing import check_policy
>>> check_policy("fcfs").policy
'fcfs'

:func:`check_policy` runs a policy through small hard scenarios and raises :class:`ConformanceError` for the first of
the numbered :data:`RULES` that it breaks. ``docs/writing-a-policy.md`` has a worked example.
"""

from __future__ import annotations

from hexopt.errors import ConformanceError
from hexopt.testing.check import check_policy
from hexopt.testing.report import ConformanceReport, PlanningTime
from hexopt.testing.rules import RULES, Rule

__all__ = ["RULES", "ConformanceError", "ConformanceReport", "PlanningTime", "Rule", "check_policy"]
