"""HexAGenT's placement loop, compiled: the results of the plain loop in ``hexagent.py``, for long queues.

Only that module uses it. :func:`compile_all` compiles (once per machine, the result is cached on disk), so that no
planning round ever does. All sums stay below 2**63 for calls within ``MAX_PROMPT`` and ``MAX_STEPS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MAX_PROMPT = 2**24
MAX_STEPS = 2**20
MAX_BATCH = 2**12

OWN, STEPS, NEED, ARRIVAL, TIE, FIRST_DECODE, TIMES = range(7)
"""Columns of ``facts``, one row per call: prompt + 1, predicted output − 1, KV blocks, the workflow's arrival, position
in the trace, lowest decode candidate; then prefill times by prefill class and transfer times by (decode
class, prefill class), −1 where an instance of the class cannot hold the call."""


class Site(NamedTuple):
    """What never changes about P prefill and D decode instances, in C and E classes."""

    prefill_class: Ints
    """Shape (P,)."""
    decode_class: Ints
    """Shape (D,)."""
    classes: Ints
    """Shape (2,): C and E."""
    capacity: Ints
    """Shape (D,), KV blocks."""
    max_batch: Ints
    """Shape (D,)."""
    h_ms: Floats
    """Shape (E, largest batch + 1): iteration time by batch."""
    b2_ms: Floats
    """Shape (D,)."""


class State(NamedTuple):
    """The projected cluster, which placements use up. The ``leaving`` tables list, by decode instance and in order of
    projected finish, the calls that will leave; they have no columns where no call can have to wait for room."""

    free: Ints
    """Shape (P,): when the next prefill can start, µs."""
    decoding: Ints
    """Shape (D,): calls."""
    blocks: Ints
    """Shape (D,)."""
    tokens: Ints
    """Shape (D,)."""
    leaving_count: Ints
    """Shape (D,)."""
    leaving: Ints
    """Shape (D, n, 4): finish, tie, and the blocks and tokens given back up to and with this call."""


def _jit(function: F) -> F:
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


@_jit
def _better(finish: int, p: int, d: int, best: Ints) -> Any:
    """Say whether (finish, p, d) comes before the best so far (finish, prefill −1 for none, decode)."""
    if best[1] < 0:
        return True
    if finish != best[0]:
        return finish < best[0]
    return p < best[1] or (p == best[1] and d < best[2])


@_jit
def _service(steps: int, h_ms: float, b2_ms: float, context: int, batch: int) -> int:
    """Time from a segment's start to its boundary ``steps``; the arithmetic of ``latency.curves.boundary_us``."""
    inner = steps * context + batch * (steps * (steps - 1) // 2)
    return math.ceil(1000 * (steps * h_ms + b2_ms * inner))


@_jit
def _gives_back(rows: Ints, n: int, blocks: int) -> int:
    """Return the first of n rows by which as many blocks are given back, n if there is none."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if rows[middle, 2] < blocks:
            low = middle + 1
        else:
            high = middle
    return low


@_jit
def _find_best(fact: Ints, site: Site, state: State, first: Ints, room_now: bool, best: Ints) -> None:
    """Fill ``best`` with the (finish, prefill, decode) that comes first; prefill −1: there is none."""
    n_classes, n_decode_classes = site.classes[0], site.classes[1]
    own, steps, need = fact[OWN], fact[STEPS], fact[NEED]
    best[:] = -1
    if steps <= 0:
        for c in range(n_classes):
            if fact[TIMES + c] >= 0 and _better(state.free[first[c]] + fact[TIMES + c], first[c], 0, best):
                best[0] = state.free[first[c]] + fact[TIMES + c]
                best[1] = first[c]
                best[2] = 0
        best[2] = fact[FIRST_DECODE]
        return
    arrive = np.full((n_decode_classes, 2), -1, np.int64)
    for e in range(n_decode_classes):
        for c in range(n_classes):
            if fact[TIMES + c] >= 0:
                p = first[c]
                at = state.free[p] + fact[TIMES + c] + fact[TIMES + n_classes * (1 + e) + c]
                if arrive[e, 1] < 0 or at < arrive[e, 0] or (at == arrive[e, 0] and p < arrive[e, 1]):
                    arrive[e, 0] = at
                    arrive[e, 1] = p
    for d in range(len(site.decode_class)):
        e = site.decode_class[d]
        if fact[TIMES + n_classes * (1 + e)] < 0:
            continue
        if state.blocks[d] == 0 or state.blocks[d] + need <= site.capacity[d]:
            batch = min(state.decoding[d] + 1, site.max_batch[d])
            finish = arrive[e, 0] + _service(steps, site.h_ms[e, batch], site.b2_ms[d], state.tokens[d] + own, batch)
            if _better(finish, arrive[e, 1], d, best):
                best[0] = finish
                best[1] = arrive[e, 1]
                best[2] = d
        elif not room_now:
            held = state.blocks[d] + need - site.capacity[d]
            count, context, room = state.decoding[d], state.tokens[d], 0
            k = min(_gives_back(state.leaving[d], state.leaving_count[d], held), state.leaving_count[d] - 1)
            if k >= 0:
                room = state.leaving[d, k, 0]
                context -= state.leaving[d, k, 3]
                count -= k + 1
            batch = min(count + 1, site.max_batch[d])
            service = _service(steps, site.h_ms[e, batch], site.b2_ms[d], context + own, batch)
            # A wait for room can hide a later prefill, so every prefill instance is looked at, not one a class.
            for p in range(len(site.prefill_class)):
                c = site.prefill_class[p]
                if fact[TIMES + c] >= 0:
                    at = state.free[p] + fact[TIMES + c] + fact[TIMES + n_classes * (1 + e) + c]
                    if _better(max(at, room) + service, p, d, best):
                        best[0] = max(at, room) + service
                        best[1] = p
                        best[2] = d


@_jit
def _commit(fact: Ints, finish: int, p: int, d: int, now: int, site: Site, state: State, first: Ints) -> None:
    """Add a placement to the projected cluster."""
    c = site.prefill_class[p]
    state.free[p] += fact[TIMES + c]
    if first[c] == p:
        for q in range(len(site.prefill_class)):
            if site.prefill_class[q] == c:
                later = state.free[first[c]] - state.free[q]
                if later > 0 or (later == 0 and q < first[c]):
                    first[c] = q
    if fact[STEPS] <= 0:
        return
    state.decoding[d] += 1
    state.blocks[d] += fact[NEED]
    state.tokens[d] += fact[OWN]
    if state.leaving.shape[1] == 0:
        return
    k = state.leaving_count[d]
    state.leaving_count[d] += 1
    at = max(now, finish)
    rows = state.leaving[d]
    while k > 0 and (rows[k - 1, 0] > at or (rows[k - 1, 0] == at and rows[k - 1, 1] > fact[TIE])):
        rows[k] = rows[k - 1]
        rows[k, 2] += fact[NEED]
        rows[k, 3] += fact[OWN]
        k -= 1
    rows[k, 0] = at
    rows[k, 1] = fact[TIE]
    rows[k, 2] = fact[NEED] + (rows[k - 1, 2] if k > 0 else 0)
    rows[k, 3] = fact[OWN] + (rows[k - 1, 3] if k > 0 else 0)


@_jit
def _score(i: int, facts: Ints, horizons: Floats, until_phase: bool, site: Site, state: State, best: Ints) -> Any:
    """Minus the projected ratio of a call at its best pair."""
    finish = best[0]
    if until_phase:
        finish = state.free[best[1]] + facts[i, TIMES + site.prefill_class[best[1]]]
    return -((finish - facts[i, ARRIVAL]) / horizons[i])


@_jit
def place(
    facts: Ints,
    horizons: Floats,
    small_queue: int,
    room_now: bool,
    until_phase: bool,
    now: int,
    site: Site,
    state: State,
    placed: Ints,
    risks: Floats,
) -> int:
    """Place calls by projected ratio; return how many could be placed. Of equal ratios the earlier row goes first.

    ``placed``, shape (n, 4), is filled with (row of ``facts``, finish, prefill, decode) in order of commitment, and
    ``risks``, shape (n,), with minus the projected ratio of each, made not to fall.
    """
    n = len(facts)
    first = np.full(site.classes[0], -1, np.int64)
    for p in range(len(site.prefill_class)):
        c = site.prefill_class[p]
        if first[c] < 0 or state.free[p] < state.free[first[c]]:
            first[c] = p
    best = np.empty((n, 3), np.int64)
    risk = np.empty(n, np.float64)
    waiting = np.empty(n, np.bool_)
    for i in range(n):
        _find_best(facts[i], site, state, first, room_now, best[i])
        waiting[i] = best[i, 1] >= 0
        if waiting[i]:
            risk[i] = _score(i, facts, horizons, until_phase, site, state, best[i])
    order = np.flatnonzero(waiting)
    rescore = len(order) <= small_queue
    if not rescore:
        order = order[np.argsort(risk[order], kind="mergesort")]
    done = 0
    for turn in range(len(order)):
        if rescore:
            i = -1
            for j in range(n):
                if waiting[j] and (i < 0 or risk[j] < risk[i]):
                    i = j
            if i < 0:
                break
        else:
            i = order[turn]
            _find_best(facts[i], site, state, first, room_now, best[i])
            if best[i, 1] < 0:
                continue
        waiting[i] = False
        finish, p, d = best[i]
        placed[done, 0] = i
        placed[done, 1] = finish
        placed[done, 2] = p
        placed[done, 3] = d
        risks[done] = risk[i] if done == 0 else max(risk[i], risks[done - 1])
        done += 1
        _commit(facts[i], finish, p, d, now, site, state, first)
        if rescore:
            for j in range(n):
                if waiting[j]:
                    _find_best(facts[j], site, state, first, room_now, best[j])
                    waiting[j] = best[j, 1] >= 0
                    if waiting[j]:
                        risk[j] = _score(j, facts, horizons, until_phase, site, state, best[j])
    return done


@_jit
def _longest_increasing(values: Floats) -> Any:
    """Return the positions of a longest strictly increasing subsequence, nan left out."""
    n = len(values)
    tails = np.empty(n, np.float64)
    ends = np.empty(n, np.int64)
    before = np.full(n, -1, np.int64)
    length = 0
    for i in range(n):
        value = values[i]
        if math.isnan(value):
            continue
        low, high = 0, length
        while low < high:
            middle = (low + high) // 2
            if tails[middle] < value:
                low = middle + 1
            else:
                high = middle
        before[i] = ends[low - 1] if low > 0 else -1
        tails[low] = value
        ends[low] = i
        if low == length:
            length += 1
    kept = np.empty(length, np.int64)
    i = ends[length - 1] if length > 0 else -1
    for k in range(length - 1, -1, -1):
        kept[k] = i
        i = before[i]
    return kept


@_jit
def _fill(present: Floats, ready_us: Ints, kept: Ints) -> Any:
    labels = np.zeros(len(present), np.float64)
    previous, low = -1, -np.inf
    for k in kept:
        high = present[k]
        labels[k] = high
        gap = k - previous - 1
        for j in range(gap):
            if previous < 0:
                labels[j] = high - (gap - j)
            else:
                labels[previous + 1 + j] = low + (high - low) * ((j + 1) / (gap + 1))
        previous, low = k, high
    for i in range(previous + 1, len(present)):
        low = max(low + 1.0, float(ready_us[i]))
        labels[i] = low
    return labels


@_jit
def relabel(present: Floats, ready_us: Ints) -> Any:
    """Return the labels of ``labels.relabel``."""
    kept = _longest_increasing(present)
    labels = _fill(present, ready_us, kept)
    for i in range(1, len(labels)):
        if labels[i] <= labels[i - 1]:
            return _fill(present, ready_us, kept[:0])
    return labels


@_jit
def near(before: Ints, after: Ints, present: Floats, labels: Floats, ahead: int) -> Any:
    """Say about which calls, in the wanted order, to decide so that the next ``ahead`` of each instance are as wanted.

    These are new calls (``before``, the prefill instance, −1), those that shall be among the next of the instance
    ``after``, and those that would stay, under the label ``present``, before the last of these.
    """
    n = len(after)
    result = np.empty(n, np.bool_)
    instances = max(before.max(), after.max()) + 1 if n > 0 else 0
    count = np.zeros(instances, np.int64)
    last = np.full(instances, np.inf)
    for i in range(n):
        p = after[i]
        count[p] += 1
        if count[p] == ahead:
            last[p] = labels[i]
        result[i] = before[i] < 0 or count[p] <= ahead
    for i in range(n):
        if not result[i] and present[i] <= last[before[i]]:
            result[i] = True
    return result


def compile_all() -> None:
    """Compile, or load what was compiled before, by placing one call on the smallest cluster."""
    relabel(np.array([math.nan, 1.0]), np.zeros(2, np.int64))
    near(np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2), np.zeros(2), 1)
    one, none = np.ones(1, np.int64), np.zeros(1, np.int64)
    site = Site(none, none, np.ones(2, np.int64), one, one, np.ones((1, 2)), np.ones(1))
    state = State(none.copy(), none.copy(), none.copy(), none.copy(), none.copy(), np.zeros((1, 0, 4), np.int64))
    facts = np.ones((1, TIMES + 2), np.int64)
    place(facts, np.ones(1), 1, False, False, 0, site, state, np.empty((1, 4), np.int64), np.empty(1))
