"""Optimisation models of one window, and the checker that judges every plan.

The mathematics is in ``formulations/NAME/model.md`` at the root of the project. Solvers are imported where a
formulation is used, never here.
"""

from __future__ import annotations

from hexopt.formulations.checker import Verdict, Violation, check
from hexopt.formulations.objective import BOTTLENECK, Objective, Value, objective_text, parse_objective
from hexopt.formulations.protocol import Budget, Formulation, SolveResult, Status, StopReason
from hexopt.formulations.registry import formulation_names, make_formulation

__all__ = [
    "BOTTLENECK",
    "Budget",
    "Formulation",
    "Objective",
    "SolveResult",
    "Status",
    "StopReason",
    "Value",
    "Verdict",
    "Violation",
    "check",
    "formulation_names",
    "make_formulation",
    "objective_text",
    "parse_objective",
]
