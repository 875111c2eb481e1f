"""Lower bounds on the bottleneck of a window that no search is needed for, and a test that refutes a value at once.

To refute a value is to show that no plan ends every workflow by its limit. Necessary conditions are tried, each with
its proof in ``formulations/cpsat/model.md``, section 5: every call alone (the improved single-call bound), the caps on
the decode instances as a matching, and the work that must be done by some time on the prefill instances, network
interfaces and decode memory. The last of them is computed in doubles, with a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hexopt.core.window import Window
from hexopt.formulations.earliest import FAR, Bools, EarliestTimes, Ints, earliest_times
from hexopt.formulations.objective import Objective

Floats = npt.NDArray[np.float64]

_MARGIN = 1e-9
"""By this share work must exceed what there is before it counts as too much: sums are rounded."""
_BEGINS = 16
"""At most so many beginnings of an interval are tried."""


def strict_limits(ends_us: Sequence[int], horizons_us: Sequence[int], strict: bool = True) -> list[int]:
    """Return the latest end of each workflow whose ratio is below (``strict``) or at most the largest of some ends."""
    end, horizon = largest_ratio(ends_us, horizons_us)
    return [(end * h - strict) // horizon for h in horizons_us]


def largest_ratio(ends_us: Sequence[int], horizons_us: Sequence[int]) -> tuple[int, int]:
    """Return the pair (end, horizon) of largest ratio, compared exactly."""
    best = (0, 1)
    for end, horizon in zip(ends_us, horizons_us, strict=True):
        if end * best[1] > best[0] * horizon:
            best = (end, horizon)
    return best


def window_bound(window: Window, objective: Objective, arrays: EarliestTimes | None = None) -> float:
    """Return a lower bound on the objective over all plans, infinity where no plan keeps the rules.

    It is at least that of ``single_call_bound``.

    For the bottleneck it is the largest value that :func:`refuted` refutes, to a millionth; for the other objectives
    the value of the workflows' earliest ends.
    """
    arrays = arrays or earliest_times(window)
    ends = arrays.earliest_ends()
    if hopeless(window, arrays):
        return float("inf")
    bound = objective.value(window, ends).objective
    if objective.kind != "bottleneck" or not bound:
        return bound
    horizons = [w.horizon_us for w in window.workflows]
    end, horizon = largest_ratio(ends, horizons)
    low, step = Fraction(end, horizon), Fraction(1, 64)
    high = low
    while True:  # until a value that is not refuted
        limits = limits_at(high, horizons)
        if not refuted(window, arrays, limits):
            break
        bound = max(bound, refuted_bound(limits, horizons))
        low, high, step = high, high * (1 + step), step * 2
        if step > 2**20:
            return bound
    while high > low and high - low > low / 10**6:
        middle = (low + high) / 2
        limits = limits_at(middle, horizons)
        if refuted(window, arrays, limits):
            low, bound = middle, max(bound, refuted_bound(limits, horizons))
        else:
            high = middle
    return bound


def limits_at(ratio: Fraction, horizons_us: Sequence[int]) -> list[int]:
    """Return the latest end of each workflow at a ratio."""
    return [ratio.numerator * h // ratio.denominator for h in horizons_us]


def refuted_bound(limits_us: Sequence[int], horizons_us: Sequence[int]) -> float:
    """Return the bound that refuted limits prove: some workflow ends later than its own."""
    return min((limit + 1) / h for limit, h in zip(limits_us, horizons_us, strict=True))


def hopeless(window: Window, arrays: EarliestTimes) -> bool:
    """Say whether a call can never complete anywhere, or the caps leave a call without a decode instance."""
    if not len(arrays.after):
        return False
    counted = arrays.open & ~arrays.one_token
    caps = [d.max_new for d in window.decode]
    return int(arrays.earliest_finish().max()) >= FAR or not _can_assign(
        np.asarray(arrays.usable.any(axis=1))[counted], caps
    )


def refuted(window: Window, arrays: EarliestTimes, limits_us: Sequence[int]) -> bool:
    """Say whether it is proved that no plan ends every workflow w by ``limits_us[w]``, µs after its arrival."""
    limits = np.array([min(limit, FAR) for limit in limits_us], np.int64)
    if (arrays.floor_ends > limits).any():
        return True
    if not len(arrays.after):
        return False
    latest = limits[arrays.workflow] - arrays.after
    ok = usable_by(arrays, latest)
    if not ok.reshape(len(ok), -1).any(axis=1).all():
        return True  # equation (18): a call alone
    counted = arrays.open & ~arrays.one_token
    caps = [d.max_new for d in window.decode]
    if not _can_assign(np.asarray(ok.any(axis=1))[counted], caps):
        return True  # equation (19): the caps
    return _overloaded_anywhere(window, arrays, latest, ok)


def usable_by(arrays: EarliestTimes, latest_us: Ints) -> Bools:
    """Return the pairs on which each call can complete by ``latest_us``, (N, P, D)."""
    result: Bools = arrays.usable & (arrays.finish <= latest_us[:, None, None])
    return result


def _can_assign(edges: Bools, caps: Sequence[int]) -> bool:
    """Say whether each row can be given a column that it has an edge to, column d at most ``caps[d]`` times."""
    on: list[list[int]] = [[] for _ in caps]
    options = [np.flatnonzero(row).tolist() for row in edges]

    def place(c: int, seen: set[int]) -> bool:
        for d in options[c]:
            if len(on[d]) < caps[d]:
                on[d].append(c)
                return True
        for d in options[c]:
            if d in seen:
                continue
            seen.add(d)
            for k, other in enumerate(on[d]):
                if place(other, seen):
                    on[d][k] = c
                    return True
        return False

    return all(place(c, set()) for c in sorted(range(len(options)), key=lambda c: len(options[c])))


def _overloaded_anywhere(window: Window, arrays: EarliestTimes, latest: Ints, ok: Bools) -> bool:
    """Try the overload tests, equations (20) to (22)."""
    lat = window.options.latency_us
    late = latest[:, None, None]
    served = np.where(arrays.one_token[:, None, None], 0, arrays.wire_us + lat + arrays.decode_us[:, None, :])
    free_p = np.array([p.free_us for p in window.prefill], np.int64)
    rows = arrays.open
    if rows.any():
        deadline = np.where(ok, late - served, -FAR)[rows].max(axis=2)
        release = np.broadcast_to(free_p, deadline.shape)
        if _overloaded(arrays.prefill_us[rows], release, deadline, np.asarray(ok[rows].any(axis=2)), _idle(free_p)):
            return True
    rows = ~arrays.one_token
    if not rows.any():
        return False
    ok, start, late = ok[rows], arrays.transfer_start[rows], late[rows]
    wire, decode_us = arrays.wire_us[rows], arrays.decode_us[rows][:, None, :]
    if window.options.contention == "nic":
        deadline = np.where(ok, late - lat - decode_us, -FAR)
        for axis, nics in ((2, window.prefill), (1, window.decode)):
            free = np.array([i.nic_free_us for i in nics], np.int64)
            size = np.where(ok, wire, FAR).min(axis=axis)
            on = np.asarray(ok.any(axis=axis))
            if _overloaded(size, start.min(axis=axis), deadline.max(axis=axis), on, _idle(free)):
                return True
    size = np.where(ok, wire + lat + decode_us, FAR).min(axis=1)
    on = np.asarray(ok.any(axis=1))
    energy = np.where(on, size, 0).astype(np.float64) * arrays.kv_blocks[rows][:, None]
    deadline = np.where(on, late[:, 0], -FAR)
    return _overloaded(energy, start.min(axis=1), deadline, on, _room(window))


def _idle(free: Ints) -> Callable[[Ints, Ints], Floats]:
    """Return the time that instances free from ``free`` have between two instants, (..., M)."""

    def between(begin: Ints, end: Ints) -> Floats:
        return np.maximum(0, end[..., None] - np.maximum(begin[..., None], free)).astype(np.float64)

    return between


def _room(window: Window) -> Callable[[Ints, Ints], Floats]:
    """Return the blocks times µs that decode instances have between two instants, (..., D)."""

    def between(begin: Ints, end: Ints) -> Floats:
        columns = []
        for d in window.decode:
            area = np.maximum(0, end - begin).astype(np.float64) * d.kv_free_blocks
            for us, blocks in d.releases:
                area = area + np.maximum(0, end - np.maximum(begin, us)).astype(np.float64) * blocks
            columns.append(area)
        return np.stack(columns, axis=-1)

    return between


def _overloaded(
    size: Ints | Floats, release: Ints, deadline: Ints, on: Bools, area: Callable[[Ints, Ints], Floats]
) -> bool:
    """Say whether some calls need more than there is between the first release and the last deadline among them.

    All are (calls, machines); ``on`` says where a call may go. Each price vector over the machines gives one test: what
    a call pays on its cheapest machine, against what the machines' time is worth, equation (20).
    """
    begin, end = np.where(on, release, FAR).min(axis=1), np.where(on, deadline, -FAR).max(axis=1)
    order = np.argsort(end, kind="stable")
    begins = np.unique(begin)
    if len(begins) > _BEGINS:  # each is a valid test; a few spread ones are enough
        begins = begins[np.linspace(0, len(begins) - 1, _BEGINS).astype(np.int64)]
    there = area(begins[:, None], end[order][None, :])  # (B, N, M)
    member = begin[order][None, :] >= begins[:, None]
    mean = np.where(on, size, 0).sum(axis=0) / np.maximum(1, on.sum(axis=0))
    machines = size.shape[1]
    slow = np.maximum(mean, 1.0)
    for price in (*np.eye(machines), slow.min() / slow):
        pays = np.where(on, size * price, np.inf).min(axis=1)[order]
        needed = np.cumsum(np.where(member, pays[None, :], 0.0), axis=1)
        if (needed > (there * price).sum(axis=-1) * (1 + _MARGIN) + _MARGIN).any():
            return True
    return False
