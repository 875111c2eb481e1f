"""Turn an order of calls into queue priorities, changing as few of the present ones as possible.

A policy that ranks all waiting calls anew in each round would otherwise re-prioritise all of them each time, though
their order hardly changes. Here priorities are mere labels: the longest run of calls that already stand in the wanted
order keeps its labels, the others get new ones in between. New labels live on the time axis (a call's ready time where
nothing speaks against it), so that they compare with first-come-first-served priorities as one would expect.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise


def relabel(present: Sequence[float], ready_us: Sequence[int]) -> list[float]:
    """Return strictly increasing labels for calls in the wanted order.

    Parameters
    ----------
    present
        Shape (n,): the labels they have now, ``nan`` for a call without one.
    ready_us
        Shape (n,): their ready times, where a label after all others starts.

    >>> relabel([5.0, 1.0, 2.0, math.nan], [5, 1, 2, 9])
    [0.0, 1.0, 2.0, 9.0]
    """
    kept = _longest_increasing(present)
    if len(kept) == len(present):
        return list(present)
    labels = _fill(present, ready_us, kept)
    if any(b <= a for a, b in pairwise(labels)):
        # The doubles between two kept labels are used up: label everything anew.
        labels = _fill(present, ready_us, [])
    return labels


def _longest_increasing(values: Sequence[float]) -> list[int]:
    """Return the positions of a longest strictly increasing subsequence, ``nan`` left out."""
    tails: list[float] = []
    ends: list[int] = []
    before = [-1] * len(values)
    for i, value in enumerate(values):
        if math.isnan(value):
            continue
        at = bisect_left(tails, value)
        before[i] = ends[at - 1] if at else -1
        if at == len(tails):
            tails.append(value)
            ends.append(i)
        else:
            tails[at] = value
            ends[at] = i
    kept = []
    i = ends[-1] if ends else -1
    while i >= 0:
        kept.append(i)
        i = before[i]
    kept.reverse()
    return kept


def _fill(present: Sequence[float], ready_us: Sequence[int], kept: list[int]) -> list[float]:
    labels = [0.0] * len(present)
    previous, low = -1, -math.inf
    for k in kept:
        high = labels[k] = present[k]
        gap = k - previous - 1
        for j in range(gap):
            if previous < 0:
                labels[j] = high - (gap - j)
            else:
                labels[previous + 1 + j] = low + (high - low) * ((j + 1) / (gap + 1))
        previous, low = k, high
    for i in range(previous + 1, len(present)):
        low = labels[i] = max(low + 1.0, float(ready_us[i]))
    return labels
