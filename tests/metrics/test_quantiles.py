"""Quantiles: values that occurred, at exact ranks."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hexopt.metrics.quantiles import quantile

FAST = settings(max_examples=150, derandomize=True, deadline=None, database=None)


def test_by_hand() -> None:
    assert quantile([4, 1, 3, 2], "0.5") == 2.0
    assert quantile([4, 1, 3, 2], "0.51") == 3.0
    assert quantile([4, 1, 3, 2], "1") == 4.0
    assert quantile([4, 1, 3, 2], "0.01") == 1.0
    assert quantile(list(range(1, 101)), "0.07") == 7.0
    assert quantile(np.array([7], np.int64), "0.99") == 7.0


def test_of_nothing() -> None:
    assert math.isnan(quantile([], "0.5"))
    assert math.isnan(quantile(np.array([], np.int64), "0.5"))


def test_the_sample_is_left_as_it_was() -> None:
    values = np.array([3, 1, 2], np.int64)
    quantile(values, "0.5")
    assert values.tolist() == [3, 1, 2]


@FAST
@given(
    st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=50),
    st.sampled_from(("0.01", "0.25", "0.5", "0.95", "0.99", "1")),
)
def test_it_is_the_value_of_its_rank(values: list[int], q: str) -> None:
    assert quantile(values, q) == sorted(values)[math.ceil(Fraction(q) * len(values)) - 1]
