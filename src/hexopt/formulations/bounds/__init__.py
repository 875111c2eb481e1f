"""Lower bounds on Req_q and on the largest ratio of a whole trace; proofs in ``formulations/bounds/model.md``."""

from __future__ import annotations

from hexopt.formulations.bounds.bound import Bounds, trace_bounds
from hexopt.formulations.bounds.certificate import Prices, Problem, proves
from hexopt.formulations.bounds.lp import LpBound, Settings, lp_bound

__all__ = ["Bounds", "LpBound", "Prices", "Problem", "Settings", "lp_bound", "proves", "trace_bounds"]
