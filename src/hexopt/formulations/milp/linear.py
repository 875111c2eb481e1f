"""A mixed-integer linear model as plain data: every formulation is written once in it, for all solvers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import NamedTuple

Terms = Iterable[tuple[int, float]]
"""A linear expression: (column, coefficient)."""


class Row(NamedTuple):
    """``lower <= sum of coefficients · columns <= upper``; no column occurs twice."""

    columns: tuple[int, ...]
    coefficients: tuple[float, ...]
    lower: float
    upper: float


class OutOfTime(Exception):  # noqa: N818 - says what happened
    """Building the model took all the time there was."""


class LinearModel:
    """Minimise ``cost · x`` subject to rows and bounds. All columns are bounded on both sides.

    Parameters
    ----------
    deadline_s
        On the clock of :func:`time.perf_counter`: when building has to end with :class:`OutOfTime`.
    """

    def __init__(self, deadline_s: float = math.inf) -> None:
        self.deadline_s = deadline_s
        self.lower: list[float] = []
        self.upper: list[float] = []
        self.integer: list[bool] = []
        self.cost: dict[int, float] = {}
        self.rows: list[Row] = []
        self.start: dict[int, float] = {}
        """A solution to start from, by column; empty if there is none."""

    def binary(self) -> int:
        """Add a column that is 0 or 1."""
        return self._column(0.0, 1.0, True)

    def real(self, lower: float, upper: float) -> int:
        """Add a continuous column."""
        return self._column(lower, max(lower, upper), False)

    def _column(self, lower: float, upper: float, integer: bool) -> int:
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(integer)
        return len(self.lower) - 1

    def add(self, terms: Terms, *, lower: float = -math.inf, upper: float = math.inf) -> None:
        """Add a row; columns may occur more than once in ``terms``."""
        if not len(self.rows) % 64:
            self.check_time()
        merged = _merged(terms)
        if not merged:
            if lower <= 0.0 <= upper:
                return
            merged = {self.real(0.0, 0.0): 1.0}  # solvers differ on rows without columns
        self.rows.append(Row(tuple(merged), tuple(merged.values()), lower, upper))

    def minimise(self, terms: Terms) -> None:
        """Set the objective."""
        self.cost = _merged(terms)

    def check_time(self) -> None:
        """Raise :class:`OutOfTime` if the time for building is over."""
        if time.perf_counter() > self.deadline_s:
            raise OutOfTime

    def proof_error(self, bound: float) -> float:
        """Return by how much a solver's bound may be too high.

        Primal tolerances and big-M rows only let solutions in that are none, so they can lower a bound and never lift
        it. What can lift it: reduced costs of the wrong sign within :data:`DUAL_TOLERANCE`, each over the range of its
        column; the absolute gap and the least improvement within which solvers stop looking, :data:`CUTOFF`; rounding.
        """
        reach = sum(u - v for u, v in zip(self.upper, self.lower, strict=True))
        return DUAL_TOLERANCE * reach + CUTOFF + 1e-9 * abs(bound)


DUAL_TOLERANCE = 1e-9
"""What every solver is told to use."""
INTEGER_TOLERANCE = 1e-9
"""Likewise. Times a big M of 10⁴ ms it hides 0.01 µs of a solution; it has no part in a bound."""
CUTOFF = 2e-5
"""Above the 1e-5 by which CBC wants an incumbent improved, and the 1e-6 of HiGHS."""


def _merged(terms: Terms) -> dict[int, float]:
    merged: dict[int, float] = {}
    for column, coefficient in terms:
        merged[column] = merged.get(column, 0.0) + coefficient
    return {column: coefficient for column, coefficient in merged.items() if coefficient}
