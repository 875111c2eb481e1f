"""The constraint-programming model of a window; see ``formulations/cpsat/model.md``."""

from __future__ import annotations

from hexopt.formulations.cpsat.solve import CpSat

__all__ = ["CpSat"]
