"""All bounds of a trace at a quantile."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from hexopt.errors import ConfigError
from hexopt.formulations.bounds.certificate import Prices, Problem
from hexopt.formulations.bounds.lp import LpBound, Settings, lp_bound


@dataclass(frozen=True)
class Bounds:
    """Lower bounds on Req_q: by the longest paths alone, and by what the cluster can do.

    ``late``: so many workflows may exceed Req_q.
    """

    quantile: str
    late: int
    path: float
    lp: LpBound | None

    @property
    def value(self) -> float:
        """The best of them."""
        return self.path if self.lp is None else max(self.path, self.lp.value)


def rank(quantile: str | Decimal, workflows: int) -> int:
    """Return which of the ratios, in increasing order and from 1, Req_q is."""
    try:
        exact = Fraction(Decimal(str(quantile)))
    except (ArithmeticError, ValueError):  # no number; one that is not finite
        exact = Fraction(0)
    if not 0 < exact <= 1:
        raise ConfigError(
            f"quantile: {quantile} found, a decimal in (0, 1] is legal (1: the largest ratio), correct it"
        )
    return math.ceil(exact * workflows)


def trace_bounds(
    problem: Problem,
    quantile: str | Decimal = "0.99",
    *,
    lp: bool = True,
    settings: Settings | None = None,
    progress: Callable[[float], None] | None = None,
    hint: Prices | None = None,
    met: float = math.inf,
) -> Bounds:
    """Return proved lower bounds on Req_q of a trace, valid for every policy whatever it knows.

    Parameters
    ----------
    problem
        The trace, all of whose times are known, on the cluster.
    quantile
        An exact decimal in (0, 1]; 1 is the largest ratio.
    lp
        Whether to solve linear programs beyond the path bound.
    progress
        Called with the bound so far after each program.
    hint
        Prices found for another quantile.
    met
        Req_q of some schedule: where to look first. A bound does not depend on whether it is true.
    """
    number = rank(quantile, problem.workflows)
    path = float(sorted(problem.path_ratios.tolist())[number - 1])
    late = problem.workflows - number
    found = lp_bound(problem, late, path, settings, progress, hint, met) if lp else None
    return Bounds(str(quantile), late, path, found)
