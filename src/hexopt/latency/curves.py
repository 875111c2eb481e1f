"""The arithmetic of semantics, sections 1, 3 and 5: double precision, evaluated in the written order."""

from __future__ import annotations

import math

from hexopt.core.cluster import Knots
from hexopt.errors import CalibrationRangeError


def piecewise(knots: Knots, x: int, extrapolate: bool, what: str) -> float:
    """Evaluate a piecewise linear curve (semantics, section 1).

    At a knot it is the knot's value, below the first the first's. Beyond the last it is the line through the
    last two if ``extrapolate``, and otherwise an error about ``what``.

    >>> piecewise(((1, 10.0), (3, 20.0)), 2, False, "h")
    15.0
    """
    x0, y0 = knots[0]
    if x <= x0:
        return y0
    for x1, y1 in knots[1:]:
        if x < x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        if x == x1:
            return y1
        x0, y0 = x1, y1
    if not extrapolate:
        raise CalibrationRangeError(
            f"{what}: {x} lies beyond the last knot {x0}, a model is not extrapolated unasked, "
            "add knots or set extrapolate = true"
        )
    if len(knots) < 2:
        raise CalibrationRangeError(f"{what}: {x} lies beyond the only knot {x0}, a line needs two knots, add one")
    (x0, y0), (x1, y1) = knots[-2:]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def boundary_us(h_ms: float, b2_ms: float, batch: int, context_tokens: int, iterations: int) -> int:
    """Return ``ceil(S(j))``: µs from a segment's start to its boundary ``j = iterations`` (semantics, section 5)."""
    inner = iterations * context_tokens + batch * (iterations * (iterations - 1) // 2)
    return math.ceil(1000 * (iterations * h_ms + b2_ms * inner))


def iterations_within(h_ms: float, b2_ms: float, batch: int, context_tokens: int, span_us: int) -> int:
    """Return the largest j ≥ 0 with ``boundary_us(j) ≤ span_us``, in constant time.

    The quadratic S is inverted in floating point, then corrected by evaluating the boundaries around it, so
    the answer is exact whatever the rounding of the inverse.
    """
    if span_us <= 0:
        return 0
    # 500·b2·B·j² + (1000·(h + b2·K) − 500·b2·B)·j = span, solved without cancellation
    half = 500.0 * b2_ms * batch
    linear = 1000.0 * (h_ms + b2_ms * context_tokens) - half
    j = int(2.0 * span_us / (linear + math.sqrt(linear * linear + 4.0 * half * span_us)))
    # What follows is boundary_us written out: it runs for every instance that a projection looks at. Rounding up to a
    # whole µs cannot lift S past a whole span, so S itself is compared.
    k = j + 1
    while 1000 * (k * h_ms + b2_ms * (k * context_tokens + batch * (k * j // 2))) <= span_us:
        j = k
        k += 1
    while j > 0 and 1000 * (j * h_ms + b2_ms * (j * context_tokens + batch * (j * (j - 1) // 2))) > span_us:
        j -= 1
    return j
