"""Labels: strictly increasing in the wanted order, and as few present ones changed as possible."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from hexopt.policies.labels import relabel
from tests.policies.random_views import FAST

NAN = math.nan


def test_an_order_that_stands_is_left_alone() -> None:
    assert relabel([-5.0, 0.0, 7.5], [1, 2, 3]) == [-5.0, 0.0, 7.5]
    assert relabel([], []) == []


def test_new_calls_at_the_end_get_their_ready_times() -> None:
    assert relabel([NAN, NAN], [100, 200]) == [100.0, 200.0]
    # A later place than the ready time allows: one after the call before it.
    assert relabel([NAN, NAN, NAN], [300, 100, 301]) == [300.0, 301.0, 302.0]


def test_one_call_that_moves_forward_is_the_only_one_to_change() -> None:
    assert relabel([40.0, 10.0, 20.0, 30.0], [4, 1, 2, 3]) == [9.0, 10.0, 20.0, 30.0]
    assert relabel([10.0, 40.0, 20.0, 30.0], [1, 4, 2, 3]) == [10.0, 15.0, 20.0, 30.0]


def test_equal_labels_are_told_apart() -> None:
    assert relabel([5.0, 5.0, 5.0], [1, 2, 3]) == [5.0, 6.0, 7.0] or len(set(relabel([5.0] * 3, [1, 2, 3]))) == 3


def test_no_double_is_left_between_two_labels() -> None:
    low, high = 1.0, math.nextafter(1.0, 2.0)
    labels = relabel([low, NAN, high], [10, 20, 30])
    assert labels == [10.0, 20.0, 30.0]


PRESENT = st.one_of(st.just(NAN), st.integers(-3, 8).map(float), st.sampled_from((0.5, math.nextafter(1.0, 2.0))))


@FAST
@given(st.lists(st.tuples(PRESENT, st.integers(0, 9)), max_size=8))
def test_increasing_and_no_more_changed_than_needed(calls: list[tuple[float, int]]) -> None:
    present = [label for label, _ in calls]
    labels = relabel(present, [ready for _, ready in calls])
    assert all(a < b for a, b in pairwise(labels))
    assert all(map(math.isfinite, labels))
    kept = sum(a == b for a, b in zip(present, labels, strict=True))
    runs = [
        chosen
        for size in range(len(present) + 1)
        for chosen in combinations([x for x in present if not math.isnan(x)], size)
        if all(a < b for a, b in pairwise(chosen))
    ]
    longest = max(map(len, runs))
    # Unless the doubles between two of them ran out, when all are made anew.
    near = any(0 < abs(a - b) < 1e-9 for a, b in combinations(present, 2))
    assert kept >= longest or near
