"""Ratios to the standalone latency, SLO attainment and Req_q (docs/semantics.md, section 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from hexopt.errors import ConfigError


def req(ratios: Sequence[float], q: str | Decimal) -> float:
    """Return Req_q: the smallest SLO scale α at which a fraction q of the workflows finishes within α × standalone.

    It is the ⌈q·n⌉-th smallest of all n ratios, unfinished workflows being infinite.

    Parameters
    ----------
    ratios
        Shape (n,), n ≥ 1; ``math.inf`` for an unfinished workflow.
    q
        An exact decimal in (0, 1], such as ``"0.95"``; a float would make ⌈q·n⌉ ambiguous.

    Raises
    ------
    ConfigError
        ``ratios`` is empty or q is out of range.

    >>> req([1.0, 2.0, 3.0, 4.0], "0.75")
    3.0
    """
    exact = Fraction(str(q))
    if not 0 < exact <= 1:
        raise ConfigError(f"Req_q: q = {q} is out of range, it lies in (0, 1], correct it")
    if not ratios:
        raise ConfigError("Req_q: there are no workflows, at least one is needed, check the trace")
    return sorted(ratios)[math.ceil(exact * len(ratios)) - 1]


def attainment(ratios: Sequence[float], scale: float) -> float:
    """Return the share of workflows with a ratio of at most the SLO scale.

    >>> attainment([1.0, 2.0, 3.0, 4.0], 2.0)
    0.5
    """
    if not ratios:
        raise ConfigError("attainment: there are no workflows, at least one is needed, check the trace")
    return sum(r <= scale for r in ratios) / len(ratios)
