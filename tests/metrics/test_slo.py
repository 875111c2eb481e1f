"""Req_q and attainment, straight from their definitions."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexopt.errors import ConfigError
from hexopt.metrics.slo import attainment, req

FAST = settings(max_examples=150, derandomize=True, deadline=None, database=None)
RATIOS = st.lists(st.one_of(st.integers(1, 20).map(lambda x: x / 4), st.just(math.inf)), min_size=1, max_size=40)
SHARES = st.sampled_from(("0.5", "0.9", "0.95", "0.99", "1", "0.01", "0.333"))


def test_rank_is_exact() -> None:
    # ⌈0.95·20⌉ = 19 and ⌈0.95·100⌉ = 95; in floating point 0.95·20 is 19 and 0.95·100 is 95, but 0.07·100 is 7.000…01.
    assert req(range(1, 21), "0.95") == 19  # type: ignore[arg-type]
    assert req(range(1, 101), "0.95") == 95  # type: ignore[arg-type]
    assert 0.07 * 100 > 7
    assert req(range(1, 101), "0.07") == 7  # type: ignore[arg-type]
    assert req(range(1, 101), Decimal("0.07")) == 7  # type: ignore[arg-type]
    assert req([3.0], "0.01") == req([3.0], "1") == 3.0


def test_order_does_not_matter_and_ties_count() -> None:
    assert req([4.0, 1.0, 2.0, 2.0], "0.5") == 2.0
    assert req([2.0, 4.0, 2.0, 1.0], "0.75") == 2.0


def test_unfinished_workflows_are_infinite() -> None:
    ratios = [1.0] * 95 + [math.inf] * 5
    assert req(ratios, "0.95") == 1.0
    assert req(ratios, "0.96") == math.inf


@FAST
@given(RATIOS, SHARES)
def test_it_is_the_smallest_scale_that_attains_the_share(ratios: list[float], q: str) -> None:
    scale = req(ratios, q)
    assert Fraction(sum(r <= scale for r in ratios), len(ratios)) >= Fraction(q)
    smaller = [r for r in ratios if r < scale]
    if smaller:
        assert Fraction(sum(r <= max(smaller) for r in ratios), len(ratios)) < Fraction(q)


@FAST
@given(RATIOS, st.integers(0, 24).map(lambda x: x / 4))
def test_attainment_is_the_share_within_the_scale(ratios: list[float], scale: float) -> None:
    assert attainment(ratios, scale) * len(ratios) == pytest.approx(sum(1 for r in ratios if r <= scale))


def test_attainment_by_hand() -> None:
    assert attainment([0.5, 1.0, 2.0, math.inf], 1.0) == 0.5
    assert attainment([0.5, 1.0, 2.0, math.inf], 0.1) == 0.0
    assert attainment([1.0, 2.0], 2.0) == 1.0
    assert attainment([math.inf], 1e300) == 0.0


@pytest.mark.parametrize("q", ["0", "-0.5", "1.01", "95"])
def test_shares_out_of_range(q: str) -> None:
    with pytest.raises(ConfigError, match=r"lies in \(0, 1\]"):
        req([1.0], q)


@pytest.mark.parametrize("metric", [lambda: req([], "0.95"), lambda: attainment([], 1.0)])
def test_nothing_to_measure(metric: Any) -> None:
    with pytest.raises(ConfigError, match="there are no workflows"):
        metric()
