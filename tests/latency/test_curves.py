"""Curves: semantics, sections 1 and 5."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexopt.errors import CalibrationRangeError
from hexopt.latency.curves import boundary_us, iterations_within, piecewise

KNOTS = ((2, 10.0), (4, 20.0), (8, 24.0))


@pytest.mark.parametrize(
    ("x", "expected"),
    [(0, 10.0), (1, 10.0), (2, 10.0), (3, 15.0), (4, 20.0), (5, 21.0), (7, 23.0), (8, 24.0)],
)
def test_piecewise_below_at_and_between_knots(x: int, expected: float) -> None:
    assert piecewise(KNOTS, x, False, "h") == expected
    assert piecewise(KNOTS, x, True, "h") == expected


def test_piecewise_beyond_the_last_knot_follows_the_last_two_if_asked() -> None:
    assert piecewise(KNOTS, 12, True, "h") == 28.0


def test_piecewise_refuses_beyond_the_last_knot() -> None:
    with pytest.raises(
        CalibrationRangeError, match=r"^h of 'd': 9 lies beyond the last knot 8, .* extrapolate = true$"
    ):
        piecewise(KNOTS, 9, False, "h of 'd'")


def test_one_knot_is_a_constant_that_cannot_be_extrapolated() -> None:
    assert piecewise(((4, 3.0),), 1, False, "h") == 3.0
    assert piecewise(((4, 3.0),), 4, False, "h") == 3.0
    with pytest.raises(CalibrationRangeError, match=r"5 lies beyond the only knot 4, .* add one$"):
        piecewise(((4, 3.0),), 5, True, "h")


@given(
    st.lists(st.tuples(st.integers(1, 20), st.floats(0, 1e3)), min_size=2, max_size=6, unique_by=lambda k: k[0]),
    st.integers(0, 25),
)
def test_piecewise_is_the_written_expression(knots: list[tuple[int, float]], x: int) -> None:
    knots.sort()
    value = piecewise(tuple(knots), x, True, "h")
    on = dict(knots)
    if x in on:
        assert value == on[x]
    elif x < knots[0][0]:
        assert value == knots[0][1]
    else:
        pairs = list(pairwise(knots))
        (x0, y0), (x1, y1) = next((p for p in pairs if p[0][0] < x < p[1][0]), pairs[-1])
        assert value == y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def test_boundary_by_hand() -> None:
    # j = 3, h' = 2 ms, b2 = 0.5 ms, B = 2, K0 = 10: 1000·(3·2 + 0.5·(3·10 + 2·3)) = 24,000 µs
    assert boundary_us(2.0, 0.5, 2, 10, 3) == 24_000
    assert boundary_us(2.0, 0.5, 2, 10, 0) == 0
    assert boundary_us(0.0015, 0.0, 1, 10, 1) == 2  # 1.5 µs, rounded up
    assert boundary_us(0.0015, 0.0, 1, 10, 2) == 3  # each boundary is rounded by itself


def scan(h_ms: float, b2_ms: float, batch: int, context: int, span_us: int) -> int:
    j = 0
    while boundary_us(h_ms, b2_ms, batch, context, j + 1) <= span_us:
        j += 1
    return j


def test_iterations_within_by_hand() -> None:
    assert iterations_within(2.0, 0.5, 2, 10, 24_000) == 3
    assert iterations_within(2.0, 0.5, 2, 10, 23_999) == 2
    assert iterations_within(2.0, 0.5, 2, 10, 0) == 0
    assert iterations_within(2.0, 0.5, 2, 10, -5) == 0


@settings(deadline=None)
@given(
    h_ms=st.floats(0.001, 100),
    b2_ms=st.one_of(st.just(0.0), st.floats(1e-9, 1e-2)),
    batch=st.integers(1, 512),
    per_call=st.integers(2, 40_000),
    iterations=st.integers(0, 400),
    offset=st.integers(-3, 3),
)
def test_iterations_within_is_a_scan_one_by_one(
    h_ms: float, b2_ms: float, batch: int, per_call: int, iterations: int, offset: int
) -> None:
    context = batch * per_call
    span = boundary_us(h_ms, b2_ms, batch, context, iterations) + offset
    assert iterations_within(h_ms, b2_ms, batch, context, span) == scan(h_ms, b2_ms, batch, context, span)


@given(
    h_ms=st.floats(0.001, 100),
    b2_ms=st.one_of(st.just(0.0), st.floats(1e-9, 1e-2)),
    batch=st.integers(1, 512),
    per_call=st.integers(2, 200_000),
    span=st.integers(0, 10**14),
)
def test_iterations_within_brackets_big_spans(h_ms: float, b2_ms: float, batch: int, per_call: int, span: int) -> None:
    context = batch * per_call
    j = iterations_within(h_ms, b2_ms, batch, context, span)
    assert j >= 0
    assert boundary_us(h_ms, b2_ms, batch, context, j) <= span
    assert boundary_us(h_ms, b2_ms, batch, context, j + 1) > span


@given(batch=st.integers(1, 64), per_call=st.integers(2, 1000), span=st.integers(0, 10**6))
def test_tiny_h_leaves_the_context_term_alone(batch: int, per_call: int, span: int) -> None:
    context = batch * per_call
    j = iterations_within(0.0, 0.001, batch, context, span)
    assert boundary_us(0.0, 0.001, batch, context, j) <= span < boundary_us(0.0, 0.001, batch, context, j + 1)


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0.001, 50), st.floats(0, 1e-3), st.integers(1, 64))
def test_boundaries_are_sums_of_iterations(iterations: int, h_ms: float, b2_ms: float, batch: int) -> None:
    context = 100 * batch
    total = math.fsum(1000 * (h_ms + b2_ms * (context + batch * i)) for i in range(iterations))
    assert boundary_us(h_ms, b2_ms, batch, context, iterations) == pytest.approx(total, rel=1e-12, abs=1.001)
