"""Quantiles of finite samples, without interpolation: a figure in a table is a value that occurred."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def quantile(values: Sequence[float] | NDArray[np.float64] | NDArray[np.int64], q: str) -> float:
    """Return the ⌈q·n⌉-th smallest of n values, ``nan`` if there are none.

    >>> quantile([4, 1, 3, 2], "0.5")
    2.0
    """
    if len(values) == 0:
        return math.nan
    return float(np.sort(np.asarray(values))[math.ceil(Fraction(q) * len(values)) - 1])
