"""The conformance kit: does a policy, or a formulation, keep the rules that others rely on?

>>> from hexopt.testing import check_policy
>>> check_policy("fcfs").policy
'fcfs'

:func:`check_policy` runs a policy through small hard scenarios and raises :class:`ConformanceError` for the first of
the numbered :data:`RULES` that it breaks. ``docs/writing-a-policy.md`` has a worked example. :func:`check_formulation`
does the same for formulations, with :data:`FORMULATION_RULES` and ``docs/writing-a-formulation.md``.
"""

from __future__ import annotations

from hexopt.errors import ConformanceError
from hexopt.testing.check import check_policy
from hexopt.testing.formulations import FORMULATION_RULES, FormulationReport, check_formulation
from hexopt.testing.report import ConformanceReport, PlanningTime
from hexopt.testing.rules import RULES, Rule

__all__ = [
    "FORMULATION_RULES",
    "RULES",
    "ConformanceError",
    "ConformanceReport",
    "FormulationReport",
    "PlanningTime",
    "Rule",
    "check_formulation",
    "check_policy",
]
