"""Compiled loops over a window's arrays: the checker's twin, and the moves of the local search.

All kernels are in one file, because what Numba keeps on disk is renewed when the file of a kernel changes, not when a
kernel that it calls does. ``twin.py`` and ``local_search.py`` use them; ``formulations/local-search/model.md`` has the
equations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hexopt.formulations.arrays import (
    AVAILABLE,
    BOTTLENECK,
    ELAPSED,
    FLOOR,
    HINGE,
    HORIZON,
    KV_BLOCKS,
    LATE,
    LATENCY,
    NIC,
    ONE,
    OPEN,
    PREFILL_KV,
    PROMPT_BLOCKS,
    STRICT,
    SUM,
    TAIL,
    WORKFLOW,
    Floats,
    Goal,
    Ints,
    WindowArrays,
)
from hexopt.formulations.jit import inlined, jit

# --- The twin -------------------------------------------------------------------------------------------------------

START, PREFILL_END, ADMIT, TRANSFER_START, FINISH = range(5)
"""Columns of ``times``."""
_IDLE, _ENDS, _SENT, _DONE, _HELD, _RELEASE = range(6)
"""Kinds of events, in the upper bits of what the heap holds beside the instant."""
_SHIFT = 32
_LEFT_OVER = 1e18
"""What a call that is never done adds to a value: far more than any ratio."""


@jit
def _push(when: Ints, what: Ints, size: int, at: int, item: int) -> None:
    """Add to a heap of ``size`` entries."""
    k = size
    while k > 0:
        above = (k - 1) >> 1
        if when[above] <= at:
            break
        when[k] = when[above]
        what[k] = what[above]
        k = above
    when[k] = at
    what[k] = item


@jit
def _pop(when: Ints, what: Ints, size: int) -> None:
    """Drop the first of ``size`` entries of a heap."""
    at, item = when[size - 1], what[size - 1]
    size -= 1
    k = 0
    while True:
        child = 2 * k + 1
        if child >= size:
            break
        if child + 1 < size and when[child + 1] < when[child]:
            child += 1
        if when[child] >= at:
            break
        when[k] = when[child]
        what[k] = what[child]
        k = child
    when[k] = at
    what[k] = item


@jit
def play(a: WindowArrays, p: Ints, d: Ints, rank: Ints, times: Ints) -> int:
    """Play a plan by the rules of the checker; return how many calls are never done.

    ``p`` and ``d`` are the instances of each call (``d`` −1 where a call of one token has none), ``rank`` its place in
    the order of (priority, position). ``times`` (N, 5) is filled with what the columns above name, −1 for what does not
    occur.
    """
    n, n_p, n_d = len(a.calls), len(a.prefill), len(a.decode)
    nic, strict, prompts_bind = a.rules[NIC] > 0, a.rules[STRICT] > 0, a.rules[PREFILL_KV] > 0
    latency = a.rules[LATENCY]
    times[:, :] = -1
    room_p, idle_at, nic_p = a.prefill[:, 2].copy(), a.prefill[:, 0].copy(), a.prefill[:, 1].copy()
    room_d, nic_d = a.decode[:, 1].copy(), a.decode[:, 0].copy()
    # Where everything fits at once nobody ever waits for room, and what becomes free is no event.
    ask_p, ask_d = np.zeros(n_p, np.int64), np.zeros(n_d, np.int64)
    order = np.empty(n, np.int64)
    begin = np.zeros(n_p + 1, np.int64)
    for c in range(n):
        order[rank[c]] = c
        if a.calls[c, OPEN]:
            begin[p[c] + 1] += 1
            ask_p[p[c]] += a.calls[c, PROMPT_BLOCKS]
        if not a.calls[c, ONE]:
            ask_d[d[c]] += a.calls[c, KV_BLOCKS]
    queue = np.empty(n, np.int64)
    first, last = np.empty(n_p, np.int64), np.empty(n_p, np.int64)
    for i in range(n_p):
        begin[i + 1] += begin[i]
        first[i] = last[i] = begin[i]
    for k in range(n):
        c = order[k]
        if a.calls[c, OPEN]:
            queue[last[p[c]]] = c
            last[p[c]] += 1
    head = np.full(n_d, -1, np.int64)
    after = np.full(n, -1, np.int64)
    most = n_p + 4 * n + len(a.held) + len(a.releases)
    when, what = np.empty(most, np.int64), np.empty(most, np.int64)
    size = 0
    tight_p, tight_d = np.zeros(n_p, np.bool_), np.zeros(n_d, np.bool_)
    for i in range(n_p):
        tight_p[i] = prompts_bind and ask_p[i] > room_p[i]
        _push(when, what, size, idle_at[i], (_IDLE << _SHIFT) + i)
        size += 1
    for i in range(n_d):
        tight_d[i] = ask_d[i] > room_d[i]
    for k in range(len(a.held)):
        if tight_p[a.held[k, 1]]:
            _push(when, what, size, a.held[k, 0], (_HELD << _SHIFT) + k)
            size += 1
    for k in range(len(a.releases)):
        if tight_d[a.releases[k, 1]]:
            _push(when, what, size, a.releases[k, 0], (_RELEASE << _SHIFT) + k)
            size += 1
    for c in range(n):
        if not a.calls[c, OPEN]:
            _push(when, what, size, a.calls[c, AVAILABLE], (_ENDS << _SHIFT) + c)
            size += 1
    left = n
    look_p, look_d = np.zeros(n_p, np.bool_), np.zeros(n_d, np.bool_)
    while size > 0:
        now = when[0]
        while size > 0 and when[0] == now:
            kind, i = what[0] >> _SHIFT, what[0] & ((1 << _SHIFT) - 1)
            _pop(when, what, size)
            size -= 1
            if kind == _IDLE:
                look_p[i] = True
            elif kind == _SENT:
                room_p[p[i]] += a.calls[i, PROMPT_BLOCKS]
                look_p[p[i]] = True
            elif kind == _DONE:
                room_d[d[i]] += a.calls[i, KV_BLOCKS]
                look_d[d[i]] = True
            elif kind == _HELD:
                room_p[a.held[i, 1]] += a.held[i, 2]
                look_p[a.held[i, 1]] = True
            elif kind == _RELEASE:
                room_d[a.releases[i, 1]] += a.releases[i, 2]
                look_d[a.releases[i, 1]] = True
            else:
                times[i, PREFILL_END] = now
                look_p[p[i]] = True
                if a.calls[i, ONE]:
                    times[i, FINISH] = now
                    left -= 1
                    room_p[p[i]] += a.calls[i, PROMPT_BLOCKS]
                else:
                    e = d[i]
                    look_d[e] = True
                    before, here = -1, head[e]
                    while here >= 0 and rank[here] < rank[i]:
                        before, here = here, after[here]
                    after[i] = here
                    if before < 0:
                        head[e] = i
                    else:
                        after[before] = i
        for e in range(n_d):
            if not look_d[e]:
                continue
            look_d[e] = False
            before, c = -1, head[e]
            while c >= 0:
                following = after[c]
                if a.calls[c, KV_BLOCKS] > room_d[e]:
                    if strict:
                        break
                    before = c
                else:
                    if before < 0:
                        head[e] = following
                    else:
                        after[before] = following
                    i = p[c]
                    start = now
                    if nic:
                        start = max(now, nic_p[i], nic_d[e])
                        nic_p[i] = nic_d[e] = start + a.wire_us[c, i, e]
                    end = start + a.wire_us[c, i, e] + latency
                    done = end + a.decode_us[c, e]
                    times[c, ADMIT], times[c, TRANSFER_START], times[c, FINISH] = now, start, done
                    left -= 1
                    room_d[e] -= a.calls[c, KV_BLOCKS]
                    if tight_p[i]:
                        _push(when, what, size, end, (_SENT << _SHIFT) + c)
                        size += 1
                    if tight_d[e]:
                        _push(when, what, size, done, (_DONE << _SHIFT) + c)
                        size += 1
                c = following
        for i in range(n_p):
            if not look_p[i]:
                continue
            look_p[i] = False
            if first[i] == last[i] or now < idle_at[i]:
                continue
            c = queue[first[i]]
            if tight_p[i] and a.calls[c, PROMPT_BLOCKS] > room_p[i]:
                continue
            first[i] += 1
            room_p[i] -= a.calls[c, PROMPT_BLOCKS]
            times[c, START] = now
            idle_at[i] = now + a.prefill_us[c, i]
            _push(when, what, size, idle_at[i], (_ENDS << _SHIFT) + c)
            size += 1
    return left


# --- Objectives -----------------------------------------------------------------------------------------------------


@inlined
def objective_of(ratios: Floats, goal: Goal, value: Floats) -> None:
    """Fill ``value`` with the objective of workflows of these ratios, and their sum."""
    total, top = 0.0, 0.0
    for ratio in ratios:
        total += ratio
    if goal.kind == BOTTLENECK:
        for ratio in ratios:
            top = max(top, ratio)
    elif goal.kind == HINGE:
        excess = np.empty(len(ratios))
        for w in range(len(ratios)):
            excess[w] = max(0.0, ratios[w] - goal.alpha)
            top += excess[w]
        for _ in range(goal.given_up):
            worst = np.argmax(excess)
            top -= excess[worst]
            excess[worst] = 0.0
        top = max(0.0, top)
    elif goal.kind == LATE:
        for ratio in ratios:
            if ratio > goal.alpha * _CLOSE:
                top += 1.0
    else:
        top = total
    value[0], value[1] = top, total


_CLOSE = 1.0 + 1e-12
"""Doubles that differ by less are the same."""


@inlined
def _less(value: Floats, other: Floats) -> bool:
    """Say whether a value is smaller than another by more than rounding."""
    if value[0] * _CLOSE < other[0]:
        return True
    return value[0] <= other[0] * _CLOSE and value[1] * _CLOSE < other[1]  # type: ignore[no-any-return]


@jit
def judge(a: WindowArrays, goal: Goal, p: Ints, d: Ints, rank: Ints, times: Ints, ratios: Floats, value: Floats) -> int:
    """Play a plan and fill in its value; a call that is never done makes it huge. Return how many such calls."""
    left = play(a, p, d, rank, times)
    for w in range(len(ratios)):
        ratios[w] = a.workflows[w, FLOOR] / a.workflows[w, HORIZON]
    for c in range(len(a.calls)):
        w = a.calls[c, WORKFLOW]
        end = (a.workflows[w, ELAPSED] + times[c, FINISH] + a.calls[c, TAIL]) / a.workflows[w, HORIZON]
        ratios[w] = max(ratios[w], end)
    objective_of(ratios, goal, value)
    value[0] += left * _LEFT_OVER
    return left


# --- Local search: one machine --------------------------------------------------------------------------------------


class Facts(NamedTuple):
    """What the search asks again and again, worked out once."""

    rest_us: Ints
    """Shape (N, P, D): wire, latency and decode; 0 for a call of one token."""
    ready_us: Ints
    """Shape (P, D): when both network interfaces are free of earlier transfers; 0 without contention."""
    spent_us: Ints
    """Shape (N,): elapsed and tail."""
    scale: Floats
    """Shape (N,): 1 / horizon."""
    floor: Floats
    """Shape (W,): the ratio that nothing can lower."""
    first: Ints
    """Shape (W + 1,): where the calls of a workflow begin in ``members``."""
    members: Ints
    """Shape (N,)."""
    cap: Ints
    """Shape (D,): open calls of more than one token that may be sent there."""


class State(NamedTuple):
    """A walk: where it is, the best it has seen by its own reckoning, and the best that the twin has judged."""

    p: Ints
    d: Ints
    end_us: Ints
    """Shape (N,): when each prefill ends."""
    ratio: Floats
    """Shape (N,): of the workflow, if this call decided it, network and room never waited for."""
    rows: Ints
    """Shape (P, N): the open calls of each prefill instance, in order."""
    length: Ints
    """Shape (P,)."""
    used: Ints
    """Shape (D,): open calls of more than one token."""
    relaxed: Floats
    """Shape (W,): ratios, network and room never waited for."""
    order: Ints
    """Shape (N,): calls by (end of prefill, decode, position)."""
    value: Floats
    """Shape (2,), waits for the network counted."""
    best_p: Ints
    best_d: Ints
    best_end_us: Ints
    best_ratio: Floats
    best_rows: Ints
    best_length: Ints
    best_used: Ints
    best_relaxed: Floats
    best_order: Ints
    best_value: Floats
    champion_p: Ints
    champion_d: Ints
    champion_rank: Ints
    champion_value: Floats
    rank: Ints
    """Shape (N,): of the walk on the twin."""
    numbers: Ints
    """Shape (8,): what the names below say."""


RANDOM, STALL, KICKS, MOVES, INCUMBENTS = range(5)
"""Entries of ``numbers``: the random state, moves since the last success, forced moves to come, moves, incumbents."""


NOT_BEGUN = 2**40
"""Moves without success that stand for a walk that has still to go to its best placement."""


def new_state(n: int, n_p: int, n_d: int, n_w: int, seed: int) -> State:
    """Return an empty state for N calls, P and D instances, W workflows."""
    huge = [np.full(2, np.inf) for _ in range(3)]
    one, two = (
        (
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.zeros(n, np.float64),
            np.zeros((n_p, n), np.int64),
            np.zeros(n_p, np.int64),
            np.zeros(n_d, np.int64),
            np.zeros(n_w, np.float64),
            np.arange(n),
        )
        for _ in range(2)
    )
    numbers = np.zeros(8, np.int64)
    numbers[RANDOM] = (seed * 2654435761 + 88172645) % 4294967291 + 1
    champion = np.zeros(n, np.int64), np.zeros(n, np.int64), np.arange(n), huge[2]
    return State(*one, huge[0], *two, huge[1], *champion, np.arange(n), numbers)


@inlined
def _draw(numbers: Ints, n: int) -> int:
    """Return a random number below n (xorshift, 32 bits)."""
    x = numbers[RANDOM]
    x ^= (x << 13) & 0xFFFFFFFF
    x ^= x >> 17
    x ^= (x << 5) & 0xFFFFFFFF
    numbers[RANDOM] = x
    return (x * n) >> 32  # type: ignore[no-any-return]


@inlined
def _mark_late(a: WindowArrays, i: int, line: Ints, n: int, due: Ints, late: Ints) -> None:
    """Moore and Hodgson: mark the calls of a line that will be late, as few as can be. ``due`` −1: it is late anyway.

    ``late`` is 1 for a late call and 0 for one on time, by place in the line.
    """
    by_due = np.empty(n, np.int64)
    kept = 0
    for k in range(n):
        late[k] = due[k] < 0
        if not late[k]:
            j = kept
            while j > 0 and due[by_due[j - 1]] > due[k]:
                by_due[j] = by_due[j - 1]
                j -= 1
            by_due[j] = k
            kept += 1
    now = a.prefill[i, 0]
    for j in range(kept):
        now += a.prefill_us[line[by_due[j]], i]
        if now > due[by_due[j]]:
            longest = -1
            for h in range(j + 1):
                k = by_due[h]
                if not late[k] and (longest < 0 or a.prefill_us[line[k], i] > a.prefill_us[line[longest], i]):
                    longest = k
            late[longest] = 1
            now -= a.prefill_us[line[longest], i]


@inlined
def _sequence(
    a: WindowArrays,
    f: Facts,
    goal: Goal,
    limit: float,
    i: int,
    line: Ints,
    n: int,
    d: Ints,
    outside: Floats,
    end_us: Ints,
    ratio: Floats,
) -> None:
    """Order the n open calls of prefill instance i, last one first; equations (3) to (5) of the model.

    ``line`` is put in order; ``end_us`` and ``ratio`` of its calls are filled in. ``outside`` holds the ratio that each
    workflow has without the calls still to be ordered, and is kept up.
    """
    rest, ready = np.empty(n, np.int64), np.empty(n, np.int64)
    late = np.zeros(n, np.int64)
    end = a.prefill[i, 0]
    for k in range(n):
        c = line[k]
        end += a.prefill_us[c, i]
        rest[k] = f.spent_us[c] + f.rest_us[c, i, d[c]]
        ready[k] = 0 if a.calls[c, ONE] else f.ready_us[i, d[c]]
    if goal.kind == LATE:
        due = np.empty(n, np.int64)
        for k in range(n):
            due[k] = -1
            if outside[a.calls[line[k], WORKFLOW]] <= goal.alpha * _CLOSE:
                latest = np.int64(goal.alpha * _CLOSE / f.scale[line[k]]) - rest[k]
                due[k] = latest if latest >= ready[k] else -1
        _mark_late(a, i, line, n, due, late)
    for place in range(n - 1, -1, -1):
        chosen, level, key, its_ratio = -1, 9, 0.0, 0.0
        for k in range(place + 1):
            c = line[k]
            r = (rest[k] + max(end, ready[k])) * f.scale[c]
            if r <= outside[a.calls[c, WORKFLOW]]:
                lev, y = 0, float(a.prefill_us[c, i])  # it delays nobody: the longest
            elif late[k]:
                lev, y = 1, a.prefill_us[c, i] / f.scale[c]
            elif r <= limit:
                lev, y = 2, a.prefill_us[c, i] / f.scale[c]  # Smith, backward
            elif goal.kind == BOTTLENECK:
                lev, y = 3, -r  # Lawler
            else:
                lev, y = 3, a.prefill_us[c, i] / f.scale[c]
            if lev < level or (lev == level and y > key):
                chosen, level, key, its_ratio = k, lev, y, r
        c = line[chosen]
        w = a.calls[c, WORKFLOW]
        end_us[c], ratio[c] = end, its_ratio
        outside[w] = max(outside[w], its_ratio)
        end -= a.prefill_us[c, i]
        # The chosen one goes to the end of what is left.
        line[chosen], line[place] = line[place], c
        rest[chosen] = rest[place]
        ready[chosen] = ready[place]
        late[chosen] = late[place]


# --- Local search: a whole placement ---------------------------------------------------------------------------------


@inlined
def _sort_by_end(order: Ints, end_us: Ints, d: Ints) -> None:
    """Sort calls by (end of prefill, decode, position); quick where little has changed."""
    for k in range(1, len(order)):
        c = order[k]
        j = k
        while j > 0:
            b = order[j - 1]
            if end_us[b] < end_us[c]:
                break
            if end_us[b] == end_us[c] and (d[b] < d[c] or (d[b] == d[c] and b < c)):
                break
            order[j] = b
            j -= 1
        order[j] = c


@inlined
def _sweep(a: WindowArrays, f: Facts, p: Ints, d: Ints, end_us: Ints, order: Ints, ratios: Floats) -> None:
    """Fill in the ratios of workflows with waits for the network; equation (6). ``order`` as in the state."""
    nic_p, nic_d = a.prefill[:, 1].copy(), a.decode[:, 0].copy()
    ratios[:] = f.floor
    for c in order:
        end = end_us[c]
        i, e = p[c], d[c]
        if not a.calls[c, ONE]:
            start = max(end, nic_p[i], nic_d[e])
            nic_p[i] = nic_d[e] = start + a.wire_us[c, i, e]
            end = start + f.rest_us[c, i, e]
        w = a.calls[c, WORKFLOW]
        ratios[w] = max(ratios[w], (f.spent_us[c] + end) * f.scale[c])


@inlined
def _best_decode(a: WindowArrays, f: Facts, used: Ints, c: int, i: int, end: int, leaves: int) -> int:
    """Return the decode instance with room where a call whose prefill on i ends then is done first; −1 for none.

    ``leaves``: the instance on which the call itself is counted, −1 for none.
    """
    best, best_us = -1, 0
    for e in range(len(a.decode)):
        if a.decode_us[c, e] < 0:
            continue
        if a.calls[c, OPEN] and not a.calls[c, ONE] and used[e] - (e == leaves) >= f.cap[e]:
            continue
        us = max(end, f.ready_us[i, e]) + f.rest_us[c, i, e]
        if best < 0 or us < best_us:
            best, best_us = e, us
    return best


@jit
def _make_room(a: WindowArrays, f: Facts, s: State, placed: Ints, c: int) -> int:
    """Shift placed calls between decode instances so that one that c may go to has room; return it, −1 for none.

    A search for an augmenting path over decode instances: where it fails, no placement keeps the caps.
    """
    n, n_d = len(a.calls), len(a.decode)
    source, mover = np.full(n_d, -2, np.int64), np.full(n_d, -1, np.int64)
    queue = np.empty(n_d, np.int64)
    head, tail = 0, 0
    for e in range(n_d):
        if a.decode_us[c, e] >= 0:
            source[e] = -1
            queue[tail] = e
            tail += 1
    while head < tail:
        e = queue[head]
        head += 1
        if s.used[e] < f.cap[e]:
            while source[e] >= 0:
                b, origin = mover[e], source[e]
                s.d[b] = e
                s.used[e] += 1
                s.used[origin] -= 1
                e = origin
            return e  # type: ignore[no-any-return]
        for b in range(n):
            if placed[b] and a.calls[b, OPEN] and not a.calls[b, ONE] and s.d[b] == e:
                for g in range(n_d):
                    if a.decode_us[b, g] >= 0 and source[g] == -2:
                        source[g], mover[g] = e, b
                        queue[tail] = g
                        tail += 1
    return -1


@jit
def _find_pair(a: WindowArrays, f: Facts, used: Ints, free: Ints, c: int, pair: Ints) -> None:
    """Fill ``pair`` with the (finish, prefill, decode) at which a call is done first; prefill −1 for none."""
    pair[1] = -1
    for i in range(len(a.prefill)):
        if a.prefill_us[c, i] < 0:
            continue
        end = free[i] + a.prefill_us[c, i] if a.calls[c, OPEN] else a.calls[c, AVAILABLE]
        e = _best_decode(a, f, used, c, i, end, -1)
        if e >= 0:
            us = end
            if not a.calls[c, ONE]:
                us = max(end, f.ready_us[i, e]) + f.rest_us[c, i, e]
            if pair[1] < 0 or us < pair[0]:
                pair[0], pair[1], pair[2] = us, i, e


@jit
def construct(a: WindowArrays, f: Facts, s: State) -> bool:
    """Place calls, that of the largest projected ratio first, where it is done first; all are rescored after each.

    Return whether all could be placed; if not, no placement keeps the caps.
    """
    n = len(a.calls)
    free = a.prefill[:, 0].copy()
    pairs = np.zeros((n, 3), np.int64)
    placed = np.zeros(n, np.int64)
    s.used[:] = 0
    s.length[:] = 0
    for c in range(n):
        _find_pair(a, f, s.used, free, c, pairs[c])
    for _ in range(n):
        chosen, risk = -1, -1.0
        for c in range(n):
            if not placed[c]:
                ratio = np.inf if pairs[c, 1] < 0 else (f.spent_us[c] + pairs[c, 0]) * f.scale[c]
                if ratio > risk:
                    chosen, risk = c, ratio
        c = chosen
        if pairs[c, 1] < 0:
            e = _make_room(a, f, s, placed, c)
            if e < 0:
                return False
            best = -1
            for i in range(len(a.prefill)):
                if a.prefill_us[c, i] >= 0 and (
                    best < 0 or free[i] + a.prefill_us[c, i] < free[best] + a.prefill_us[c, best]
                ):
                    best = i
            pairs[c, 1], pairs[c, 2] = best, e
        i, e = pairs[c, 1], pairs[c, 2]
        placed[c] = 1
        s.p[c], s.d[c] = i, e
        if not a.calls[c, OPEN]:
            continue
        s.rows[i, s.length[i]] = c
        s.length[i] += 1
        free[i] += a.prefill_us[c, i]
        if not a.calls[c, ONE]:
            s.used[e] += 1
        for b in range(n):
            if not placed[b] and (pairs[b, 1] < 0 or pairs[b, 1] == i or (pairs[b, 2] == e and s.used[e] >= f.cap[e])):
                _find_pair(a, f, s.used, free, b, pairs[b])
    return True


@jit
def construct_with_room(a: WindowArrays, f: Facts, s: State, order: Ints, rank: Ints) -> bool:
    """As :func:`construct`, but a call waits for room and for transfers of those placed before; equation (8).

    Calls are placed in a given order, or, where ``order`` is empty, that of the largest projected ratio first. ``rank``
    is filled with the order of placing. Return whether all could be placed, which proves nothing if not.
    """
    n, n_p, n_d = len(a.calls), len(a.prefill), len(a.decode)
    given = len(order) > 0
    free, room = a.prefill[:, 0].copy(), a.decode[:, 1].copy()
    sent_p, sent_d = a.prefill[:, 1] * a.rules[NIC], a.decode[:, 0] * a.rules[NIC]
    leave = np.empty((n_d, n + len(a.releases), 2), np.int64)
    count = np.zeros(n_d, np.int64)
    for k in range(len(a.releases)):
        _add_leaver(leave, count, a.releases[k, 1], a.releases[k, 0], a.releases[k, 2])
    pairs = np.full((n, 3), -1, np.int64)
    end = np.empty(n_p, np.int64)
    placed = np.zeros(n, np.int64)
    fresh = np.zeros(n, np.int64)
    s.used[:] = 0
    s.length[:] = 0
    for turn in range(n):
        chosen, risk = -1, -1.0
        first, last = (turn, turn + 1) if given else (0, n)
        for at in range(first, last):
            c = order[at] if given else at
            if placed[c]:
                continue
            if not fresh[c]:
                fresh[c] = 1
                pairs[c, 1] = -1
                one, is_open = a.calls[c, ONE] > 0, a.calls[c, OPEN] > 0
                best_us, best_end = 0, 0
                for i in range(n_p):
                    end[i] = free[i] + a.prefill_us[c, i] if is_open else a.calls[c, AVAILABLE]
                for e in range(n_d):
                    if a.decode_us[c, e] < 0 or (is_open and not one and s.used[e] >= f.cap[e]):
                        continue
                    when = 0
                    if not one:
                        need = a.calls[c, KV_BLOCKS] - room[e]
                        for k in range(count[e]):
                            if need <= 0:
                                break
                            need -= leave[e, k, 1]
                            when = leave[e, k, 0]
                        if need > 0:
                            continue
                        when = max(when, sent_d[e])
                    for i in range(n_p):
                        if a.prefill_us[c, i] < 0:
                            continue
                        us = end[i] if one else max(end[i], sent_p[i], when) + f.rest_us[c, i, e]
                        # Of pairs on which it is done at once that whose prefill ends first.
                        if pairs[c, 1] < 0 or us < best_us or (us == best_us and end[i] < best_end):
                            best_us, best_end = us, end[i]
                            pairs[c, 0], pairs[c, 1], pairs[c, 2] = us, i, e
                if pairs[c, 1] < 0:
                    return False
            ratio = (f.spent_us[c] + pairs[c, 0]) * f.scale[c]
            if ratio > risk:
                chosen, risk = c, ratio
        c = chosen
        us, i, e = pairs[c]
        placed[c] = 1
        rank[c] = turn
        s.p[c], s.d[c] = i, e
        if a.calls[c, OPEN]:
            s.rows[i, s.length[i]] = c
            s.length[i] += 1
            free[i] += a.prefill_us[c, i]
        if not a.calls[c, ONE]:
            s.used[e] += a.calls[c, OPEN]
            room[e] -= a.calls[c, KV_BLOCKS]
            _add_leaver(leave, count, e, us, a.calls[c, KV_BLOCKS])
            sent_p[i] += a.wire_us[c, i, e] * a.rules[NIC]
            sent_d[e] += a.wire_us[c, i, e] * a.rules[NIC]
        if not given:
            for b in range(n):
                if pairs[b, 1] == i or pairs[b, 2] == e:
                    fresh[b] = 0
    return True


@jit
def reorder(
    a: WindowArrays,
    f: Facts,
    goal: Goal,
    s: State,
    least: Floats,
    order: Ints,
    best: Ints,
    value: Floats,
    at: int,
    to: int,
) -> None:
    """Construct again and again, from the round ``at`` up to ``to``; equation (9).

    ``least`` holds the ratios below which no workflow gets. ``order`` is that of the next construction; ``best`` the
    order of the best so far, and ``value`` its value. What is better than the champion becomes champion.
    """
    n = len(a.calls)
    new, ratios, times = np.empty(2), np.empty(len(a.workflows)), np.empty((n, 5), np.int64)
    rank, key = np.empty(n, np.int64), np.empty(n)
    for turn in range(at, to):
        if turn >= BLAMED:
            order[:] = best
            for k in range(n):
                key[order[k]] = k + _SHAKE * (_draw(s.numbers, 1024) - 512)
            _sort_by(order, key)
        if not construct_with_room(a, f, s, order, rank):
            return
        judge(a, goal, s.p, s.d, rank, times, ratios, new)
        if _less(new, value):
            value[:] = new
            best[:] = order
        if _less(new, s.champion_value):
            s.champion_p[:] = s.p
            s.champion_d[:] = s.d
            s.champion_rank[:] = rank
            s.champion_value[:] = new
            s.numbers[INCUMBENTS] += 1
        if turn + 1 >= BLAMED:
            continue
        total = 0.0
        for c in range(n):
            w = a.calls[c, WORKFLOW]
            decides = (f.spent_us[c] + times[c, FINISH]) * f.scale[c] * _CLOSE >= ratios[w]
            key[c] = ratios[w] - least[w] if decides else 0.0
            total += key[c]
        if total <= 0.0:
            return
        step = _STEP * n / total
        for _ in range(turn):
            step *= _COOLING
        for k in range(n):
            key[order[k]] = k - step * key[order[k]]
        _sort_by(order, key)


BLAMED = 12
"""Rounds in which the order follows the blame; in later ones it is the best, shaken."""
_STEP, _COOLING = 3.0, 0.9
"""Places by which the mean call moves forward in the first round, and what of it is left in each later one."""
_SHAKE = 5.0 / 512
"""A shaken order has each call moved by up to five places."""


@inlined
def _sort_by(order: Ints, key: Floats) -> None:
    """Sort calls by a key of theirs; quick where little has changed."""
    for k in range(1, len(order)):
        c = order[k]
        j = k
        while j > 0 and key[order[j - 1]] > key[c]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = c


@jit
def _add_leaver(leave: Ints, count: Ints, e: int, when: int, blocks: int) -> None:
    """Add to the table of who leaves an instance, in order of time."""
    k = count[e]
    count[e] += 1
    while k > 0 and leave[e, k - 1, 0] > when:
        leave[e, k] = leave[e, k - 1]
        k -= 1
    leave[e, k, 0], leave[e, k, 1] = when, blocks


@jit
def take(a: WindowArrays, f: Facts, s: State, p: Ints, d: Ints) -> bool:
    """Start from the instances of a plan (``d`` −1 for a call without decode); return whether it keeps the rules."""
    s.used[:] = 0
    s.length[:] = 0
    for c in range(len(a.calls)):
        i, e = p[c], d[c]
        if e < 0 and a.calls[c, ONE]:
            e = 0
            while e + 1 < len(a.decode) and a.decode_us[c, e] < 0:
                e += 1
        if i < 0 or e < 0 or i >= len(a.prefill) or e >= len(a.decode):
            return False
        if a.prefill_us[c, i] < 0 or a.decode_us[c, e] < 0:
            return False
        s.p[c], s.d[c] = i, e
        if a.calls[c, OPEN]:
            s.rows[i, s.length[i]] = c
            s.length[i] += 1
            if not a.calls[c, ONE]:
                s.used[e] += 1
                if s.used[e] > f.cap[e]:
                    return False
    return True


@jit
def settle(a: WindowArrays, f: Facts, goal: Goal, s: State, limit: float) -> None:
    """Order every machine of a fresh placement and work out its value."""
    s.relaxed[:] = f.floor
    for c in range(len(a.calls)):
        if not a.calls[c, OPEN]:
            s.end_us[c] = a.calls[c, AVAILABLE]
            s.ratio[c] = _bound_ratio(a, f, s.p[c], s.d[c], c)
            w = a.calls[c, WORKFLOW]
            s.relaxed[w] = max(s.relaxed[w], s.ratio[c])
    for i in range(len(a.prefill)):
        _sequence(a, f, goal, limit, i, s.rows[i], s.length[i], s.d, s.relaxed, s.end_us, s.ratio)
    s.order[:] = np.argsort(s.end_us, kind="mergesort")
    _sort_by_end(s.order, s.end_us, s.d)
    if a.rules[NIC]:
        ratios = np.empty(len(f.floor))
        _sweep(a, f, s.p, s.d, s.end_us, s.order, ratios)
        objective_of(ratios, goal, s.value)
    else:
        objective_of(s.relaxed, goal, s.value)


@inlined
def _bound_ratio(a: WindowArrays, f: Facts, i: int, e: int, c: int) -> float:
    end = a.calls[c, AVAILABLE]
    if not a.calls[c, ONE]:
        end = max(end, f.ready_us[i, e]) + f.rest_us[c, i, e]
    return (f.spent_us[c] + end) * f.scale[c]  # type: ignore[no-any-return]


@jit
def keep(s: State) -> None:
    """Make the present placement the best."""
    _sort_by_end(s.order, s.end_us, s.d)
    s.best_p[:] = s.p
    s.best_d[:] = s.d
    s.best_end_us[:] = s.end_us
    s.best_ratio[:] = s.ratio
    s.best_rows[:] = s.rows
    s.best_length[:] = s.length
    s.best_used[:] = s.used
    s.best_relaxed[:] = s.relaxed
    s.best_order[:] = s.order
    s.best_value[:] = s.value


@jit
def _restore(s: State) -> None:
    """Go back to the best."""
    s.p[:] = s.best_p
    s.d[:] = s.best_d
    s.end_us[:] = s.best_end_us
    s.ratio[:] = s.best_ratio
    s.rows[:] = s.best_rows
    s.length[:] = s.best_length
    s.used[:] = s.best_used
    s.relaxed[:] = s.best_relaxed
    s.order[:] = s.best_order
    s.value[:] = s.best_value


@jit
def judge_best(a: WindowArrays, goal: Goal, s: State) -> bool:
    """Let the twin judge the best placement, and make it champion if it is; return whether it became champion."""
    n = len(a.calls)
    rank, times = np.empty(n, np.int64), np.empty((n, 5), np.int64)
    for k in range(n):
        rank[s.best_order[k]] = k
    ratios, value = np.empty(len(a.workflows)), np.empty(2)
    judge(a, goal, s.best_p, s.best_d, rank, times, ratios, value)
    if not _less(value, s.champion_value):
        return False
    s.champion_p[:] = s.best_p
    s.champion_d[:] = s.best_d
    s.champion_rank[:] = rank
    s.champion_value[:] = value
    return True


@jit
def offer(a: WindowArrays, goal: Goal, s: State, p: Ints, d: Ints, rank: Ints) -> None:
    """Let the twin judge a plan that keeps the rules, and make it champion if it is."""
    times = np.empty((len(a.calls), 5), np.int64)
    ratios, value = np.empty(len(a.workflows)), np.empty(2)
    judge(a, goal, p, d, rank, times, ratios, value)
    if _less(value, s.champion_value):
        s.champion_p[:] = p
        s.champion_d[:] = d
        s.champion_rank[:] = rank
        s.champion_value[:] = value


@inlined
def _critical(s: State) -> int:
    """Return a call of the prefill instance on which the largest ratio arises, any of those up to it; −1 for none."""
    worst, i = -1, -1
    top = -1.0
    for j in range(len(s.length)):
        for k in range(s.length[j]):
            if s.ratio[s.rows[j, k]] > top:
                top = s.ratio[s.rows[j, k]]
                worst, i = k, j
    if worst < 0:
        return -1
    return s.rows[i, _draw(s.numbers, worst + 1)]  # type: ignore[no-any-return]


@inlined
def _propose(a: WindowArrays, f: Facts, s: State, movable: Ints, first: int, move: Ints) -> bool:
    """Fill ``move`` with (call, prefill, decode, other call or −1, its prefill, its decode); return if there is one.

    ``first`` −1: any call.
    """
    numbers = s.numbers
    c = movable[_draw(numbers, len(movable))] if first < 0 else first
    i, e = s.p[c], s.d[c]
    n_p, n_d = len(a.prefill), len(a.decode)
    kind = _draw(numbers, 100)
    one, is_open = a.calls[c, ONE] > 0, a.calls[c, OPEN] > 0
    move[0], move[1], move[2], move[3] = c, i, e, -1
    if is_open and n_p > 1 and kind < 55:
        to = _draw(numbers, n_p - 1)
        to += to >= i
        if a.prefill_us[c, to] < 0:
            return False
        move[1] = to
        if not one and _draw(numbers, 4) > 0:
            move[2] = _best_decode(a, f, s.used, c, to, 0, e)
        return True
    if kind < 70 or not is_open:
        if one or n_d == 1:
            return False
        to = _draw(numbers, n_d - 1)
        to += to >= e
        if a.decode_us[c, to] < 0:
            return False
        move[2] = to
        if not is_open or s.used[to] < f.cap[to]:
            return True
        # It is full: somebody there takes the place that becomes free, if one of a few drawn can.
        for _ in range(4):
            b = movable[_draw(numbers, len(movable))]
            if s.d[b] == to and a.calls[b, OPEN] and not a.calls[b, ONE] and a.decode_us[b, e] >= 0:
                move[3], move[4], move[5] = b, s.p[b], e
                return True
        return False
    b = movable[_draw(numbers, len(movable))]
    if b == c or not a.calls[b, OPEN] or s.p[b] == i:
        return False
    j, g = s.p[b], s.d[b]
    if a.prefill_us[c, j] < 0 or a.prefill_us[b, i] < 0:
        return False
    move[1], move[3], move[4], move[5] = j, b, i, g
    if kind >= 85 and not one and not a.calls[b, ONE] and a.decode_us[c, g] >= 0 and a.decode_us[b, e] >= 0:
        move[2], move[5] = g, e
    return True


class Guide(NamedTuple):
    """What the estimates of :func:`_promising` need to know of the present placement."""

    weight: Floats
    """Shape (N,): what a delay of a call costs, per µs; nothing if another call or a floor decides its workflow."""
    outside: Floats
    """Shape (N,): the ratio that the workflow has without the call."""
    gain: Floats
    """Shape (N,): what the sum of ratios loses if the call is taken out of its line."""


@jit
def _look_around(a: WindowArrays, f: Facts, s: State, guide: Guide) -> None:
    """Fill in the guide."""
    for w in range(len(f.floor)):
        # The two largest of the workflow; a call's outside is the largest of the others.
        first, second = f.floor[w], f.floor[w]
        who = -1
        for h in range(f.first[w], f.first[w + 1]):
            r = s.ratio[f.members[h]]
            if r > first:
                first, second, who = r, first, f.members[h]
            elif r > second:
                second = r
        for h in range(f.first[w], f.first[w + 1]):
            c = f.members[h]
            guide.outside[c] = second if c == who else first
            guide.weight[c] = f.scale[c] if c == who else 0.0
    for i in range(len(a.prefill)):
        behind = 0.0
        for k in range(s.length[i] - 1, -1, -1):
            c = s.rows[i, k]
            guide.gain[c] = max(guide.outside[c], s.ratio[c]) + behind * a.prefill_us[c, i]
            behind += guide.weight[c]


@inlined
def _insertion(
    prefill_us: Ints,
    rows: Ints,
    n: int,
    end: int,
    weight: Floats,
    c: int,
    j: int,
    rest: int,
    ready: int,
    scale: float,
    without: int,
    outside: float,
) -> float:
    """Return what a call adds to the sum of ratios at its best place in the line of j, which ends at ``end``.

    One call of the line is left out. Plain arrays, because what a kernel is given as a tuple is copied at each call.
    """
    mine = prefill_us[c, j]
    if without >= 0:
        end -= prefill_us[without, j]
    behind = 0.0
    last = end + mine
    best = max(outside, (rest + (last if last > ready else ready)) * scale)
    for k in range(n - 1, -1, -1):
        g = rows[j, k]
        if g == without:
            continue
        behind += weight[g] * mine
        last -= prefill_us[g, j]
        here = (rest + (last if last > ready else ready)) * scale
        if here < outside:
            here = outside
        if behind + here < best:
            best = behind + here
    return best


@inlined
def _line_end(rows: Ints, count: Ints, end_us: Ints, prefill: Ints, j: int) -> int:
    return end_us[rows[j, count[j] - 1]] if count[j] > 0 else prefill[j, 0]  # type: ignore[no-any-return]


@jit
def _promising(a: WindowArrays, f: Facts, s: State, guide: Guide, movable: Ints, move: Ints) -> bool:
    """Fill ``move`` with the best of many moves of one call by a quick estimate; return whether it promises anything.

    Equation (7): calls are inserted into, and taken out of, present lines.
    """
    numbers = s.numbers
    c = movable[_draw(numbers, len(movable))]
    if not a.calls[c, OPEN]:
        return False
    prefill_us, rows, count, end_us, weight = a.prefill_us, s.rows, s.length, s.end_us, guide.weight
    i, e = s.p[c], s.d[c]
    one = a.calls[c, ONE] > 0
    gain = guide.gain[c]
    best = -1e-9 * gain
    found = False
    move[3] = -1
    if _draw(numbers, 3) > 0:
        for j in range(len(a.prefill)):
            if prefill_us[c, j] < 0 or j == i:
                continue
            to, us = e, 0
            if not one:
                us = f.rest_us[c, j, e]
                for g in range(len(a.decode)):
                    if a.decode_us[c, g] >= 0 and f.rest_us[c, j, g] < us and s.used[g] < f.cap[g]:
                        to, us = g, f.rest_us[c, j, g]
            change = -gain + _insertion(
                prefill_us,
                rows,
                count[j],
                _line_end(rows, count, end_us, a.prefill, j),
                weight,
                c,
                j,
                f.spent_us[c] + us,
                0 if one else f.ready_us[j, to],
                f.scale[c],
                -1,
                guide.outside[c],
            )
            if change < best:
                best, found = change, True
                move[0], move[1], move[2] = c, j, to
        return found
    j = _draw(numbers, len(a.prefill))
    if j == i or prefill_us[c, j] < 0:
        return False
    end_i = _line_end(rows, count, end_us, a.prefill, i)
    end_j = _line_end(rows, count, end_us, a.prefill, j)
    for k in range(count[j]):
        b = rows[j, k]
        if prefill_us[b, i] < 0:
            continue
        g = s.d[b]
        to, other = e, g
        single = a.calls[b, ONE] > 0
        if not one and not single and a.decode_us[c, g] >= 0 and a.decode_us[b, e] >= 0:
            stay = f.rest_us[c, j, e] * f.scale[c] + f.rest_us[b, i, g] * f.scale[b]
            if f.rest_us[c, j, g] * f.scale[c] + f.rest_us[b, i, e] * f.scale[b] < stay:
                to, other = g, e
        change = _insertion(
            prefill_us,
            rows,
            count[j],
            end_j,
            weight,
            c,
            j,
            f.spent_us[c] + f.rest_us[c, j, to],
            0 if one else f.ready_us[j, to],
            f.scale[c],
            b,
            guide.outside[c],
        ) + _insertion(
            prefill_us,
            rows,
            count[i],
            end_i,
            weight,
            b,
            i,
            f.spent_us[b] + f.rest_us[b, i, other],
            0 if single else f.ready_us[i, other],
            f.scale[b],
            c,
            guide.outside[b],
        )
        change -= gain + guide.gain[b]
        if change < best:
            best, found = change, True
            move[0], move[1], move[2], move[3], move[4], move[5] = c, j, to, b, i, other
    return found


@jit
def walk(
    a: WindowArrays, f: Facts, goal: Goal, s: State, movable: Ints, bound: float, moves: int, by_twin: bool
) -> None:
    """Make so many moves. ``bound`` is the single-call bound; ``by_twin``: whether the twin judges each new best."""
    n, n_w = len(a.calls), len(f.floor)
    p, d = s.p.copy(), s.d.copy()
    end_us, ratio, order = s.end_us.copy(), s.ratio.copy(), s.order.copy()
    relaxed, swept = s.relaxed.copy(), np.empty(n_w)
    value, move = np.empty(2), np.zeros(6, np.int64)
    outside = np.empty(n_w)
    touched, seen = np.full(n, -1, np.int64), np.full(n_w, -1, np.int64)
    lines, sizes, machines = np.empty((2, n), np.int64), np.zeros(2, np.int64), np.full(2, -1, np.int64)
    affected = np.empty(n, np.int64)
    numbers = s.numbers
    nic = a.rules[NIC] > 0
    patience = 60 + 12 * n
    guide = Guide(np.zeros(n), np.zeros(n), np.zeros(n))
    stale, fresh = True, False
    for step in range(moves):
        numbers[MOVES] += 1
        forced = numbers[KICKS] > 0
        stalled = not forced and numbers[STALL] > patience
        if fresh and (forced or stalled):
            fresh = False
            keep(s)
            if by_twin:
                judge_best(a, goal, s)
        if stalled:
            _restore(s)
            p[:] = s.p
            d[:] = s.d
            end_us[:] = s.end_us
            ratio[:] = s.ratio
            order[:] = s.order
            relaxed[:] = s.relaxed
            # At first it only goes there.
            numbers[KICKS] = max(2, n // 16) if numbers[STALL] < NOT_BEGUN else 0
            forced = numbers[KICKS] > 0
            numbers[STALL] = 0
            stale = True
        numbers[STALL] += 1
        limit = np.inf
        c = -1
        if goal.kind == BOTTLENECK:
            limit = s.value[0] * _CLOSE
            if s.value[0] > bound * _CLOSE and _draw(numbers, 2) == 0:
                limit = bound * _CLOSE
                c = _critical(s)
        elif goal.kind != SUM:
            limit = goal.alpha * _CLOSE
        if c < 0 and not forced and goal.kind <= SUM and _draw(numbers, 100) < 70:
            if stale:
                _look_around(a, f, s, guide)
                stale = False
            if not _promising(a, f, s, guide, movable, move):
                continue
        elif not _propose(a, f, s, movable, c, move):
            continue
        # What the move touches: up to two machines, and workflows.
        c, b = move[0], move[3]
        machines[0] = machines[1] = -1
        if a.calls[c, OPEN]:
            machines[0] = s.p[c]
            other = move[1] if move[1] != s.p[c] else (s.p[b] if b >= 0 else -1)
            machines[1] = other if other != machines[0] else -1
        p[c], d[c] = move[1], move[2]
        if b >= 0:
            p[b], d[b] = move[4], move[5]
        total = 0
        for m in range(2):
            sizes[m] = 0
            i = machines[m]
            if i < 0:
                continue
            for k in range(s.length[i]):
                g = s.rows[i, k]
                if p[g] == i:
                    lines[m, sizes[m]] = g
                    sizes[m] += 1
            if s.p[c] != i and p[c] == i:
                lines[m, sizes[m]] = c
                sizes[m] += 1
            if b >= 0 and s.p[b] != i and p[b] == i:
                lines[m, sizes[m]] = b
                sizes[m] += 1
            for k in range(sizes[m]):
                touched[lines[m, k]] = step
                affected[total] = lines[m, k]
                total += 1
        if not a.calls[c, OPEN]:
            touched[c] = step
            affected[total] = c
            total += 1
        for k in range(total):
            w = a.calls[affected[k], WORKFLOW]
            if seen[w] != step:
                seen[w] = step
                top = f.floor[w]
                for h in range(f.first[w], f.first[w + 1]):
                    g = f.members[h]
                    if touched[g] != step:
                        top = max(top, s.ratio[g])
                outside[w] = top
        if not a.calls[c, OPEN]:
            ratio[c] = _bound_ratio(a, f, p[c], d[c], c)
            w = a.calls[c, WORKFLOW]
            outside[w] = max(outside[w], ratio[c])
        for m in range(2):
            if machines[m] >= 0:
                _sequence(a, f, goal, limit, machines[m], lines[m], sizes[m], d, outside, end_us, ratio)
        for k in range(total):
            w = a.calls[affected[k], WORKFLOW]
            relaxed[w] = outside[w]
        # Waiting can only make it worse, so most moves need no sweep.
        objective_of(relaxed, goal, value)
        good = forced or _less(value, s.value)
        if good and nic:
            _sort_by_end(order, end_us, d)
            _sweep(a, f, p, d, end_us, order, swept)
            objective_of(swept, goal, value)
            good = forced or _less(value, s.value)
            if not good:
                order[:] = s.order
        if not good:
            for k in range(total):
                g = affected[k]
                w = a.calls[g, WORKFLOW]
                relaxed[w] = s.relaxed[w]
                p[g], d[g], end_us[g], ratio[g] = s.p[g], s.d[g], s.end_us[g], s.ratio[g]
            p[c], d[c] = s.p[c], s.d[c]
            if b >= 0:
                p[b], d[b] = s.p[b], s.d[b]
            continue
        for g in (c, b):
            if g >= 0 and a.calls[g, OPEN] and not a.calls[g, ONE]:
                s.used[s.d[g]] -= 1
                s.used[d[g]] += 1
        for m in range(2):
            i = machines[m]
            if i >= 0:
                s.length[i] = sizes[m]
                for k in range(sizes[m]):
                    s.rows[i, k] = lines[m, k]
        for k in range(total):
            g = affected[k]
            w = a.calls[g, WORKFLOW]
            s.relaxed[w] = relaxed[w]
            s.p[g], s.d[g], s.end_us[g], s.ratio[g] = p[g], d[g], end_us[g], ratio[g]
        s.value[:] = value
        stale = True
        if nic:
            s.order[:] = order
        if forced:
            numbers[KICKS] -= 1
        numbers[STALL] = 0
        if _less(s.value, s.best_value):
            # It is kept only when the walk is about to leave it: until then it gets better move by move.
            s.best_value[:] = s.value
            fresh = True
            numbers[INCUMBENTS] += 1
    if fresh:
        keep(s)
        if by_twin:
            judge_best(a, goal, s)


# --- Local search: on the twin ---------------------------------------------------------------------------------------


@jit
def _move_rank(rank: Ints, c: int, to: int) -> None:
    """Give a call a rank; those between make room."""
    old = rank[c]
    for b in range(len(rank)):
        if old < rank[b] <= to:
            rank[b] -= 1
        elif to <= rank[b] < old:
            rank[b] += 1
    rank[c] = to


@jit
def walk_on_twin(a: WindowArrays, f: Facts, goal: Goal, s: State, movable: Ints, moves: int, fresh: bool) -> None:
    """Make so many moves, each judged by the twin, from the champion (``fresh``) or from where the last call ended."""
    n = len(a.calls)
    numbers = s.numbers
    p, d, rank = s.p, s.d, s.rank
    value, ratios, times = np.empty(2), np.empty(len(a.workflows)), np.empty((n, 5), np.int64)
    new_p, new_d, new_rank = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    move = np.zeros(6, np.int64)
    patience = 20 + 3 * n
    if fresh:
        numbers[STALL], numbers[KICKS] = patience + 1, 0
    for _ in range(moves):
        numbers[MOVES] += 1
        if numbers[STALL] > patience:
            p[:] = s.champion_p
            d[:] = s.champion_d
            rank[:] = s.champion_rank
            s.value[:] = s.champion_value
            s.used[:] = 0
            for c in range(n):
                if a.calls[c, OPEN] and not a.calls[c, ONE]:
                    s.used[d[c]] += 1
            numbers[STALL] = 0
            numbers[KICKS] = 0 if fresh else 2
            fresh = False
        numbers[STALL] += 1
        new_p[:] = p
        new_d[:] = d
        new_rank[:] = rank
        c = -1
        if _draw(numbers, 100) < 40:
            c, b = _draw(numbers, n), _draw(numbers, n)
            if c == b or (p[c] != p[b] and d[c] != d[b]):
                continue
            if _draw(numbers, 2) == 0:
                new_rank[c], new_rank[b] = rank[b], rank[c]
            else:
                _move_rank(new_rank, c, rank[b])
            c = -1
        else:
            if not _propose(a, f, s, movable, -1, move):
                continue
            c = move[0]
            new_p[c], new_d[c] = move[1], move[2]
            if move[3] >= 0:
                new_p[move[3]], new_d[move[3]] = move[4], move[5]
            if _draw(numbers, 2) == 0:
                _move_rank(new_rank, c, rank[_draw(numbers, n)])
        judge(a, goal, new_p, new_d, new_rank, times, ratios, value)
        if numbers[KICKS] == 0 and _less(s.value, value):
            continue
        if numbers[KICKS] > 0:
            numbers[KICKS] -= 1
        if _less(value, s.value):
            numbers[STALL] = 0
        for g in range(n):
            if a.calls[g, OPEN] and not a.calls[g, ONE] and new_d[g] != d[g]:
                s.used[d[g]] -= 1
                s.used[new_d[g]] += 1
        p[:] = new_p
        d[:] = new_d
        rank[:] = new_rank
        s.value[:] = value
        if _less(value, s.champion_value):
            s.champion_p[:] = p
            s.champion_d[:] = d
            s.champion_rank[:] = rank
            s.champion_value[:] = value
            numbers[INCUMBENTS] += 1


def compile_all() -> None:
    """Compile, or load what was compiled before, by using every kernel on a small window."""
    n = 3
    calls = np.zeros((n, 7), np.int64)
    calls[:, OPEN] = 1
    calls[:, WORKFLOW] = 0
    rules = np.array([1, 0, 1, 0], np.int64)
    table, one = np.full((1, 3), 9, np.int64), np.ones((n, 2), np.int64)
    two = np.full((2, 3), 9, np.int64)
    a = WindowArrays(rules, two, two, table * 0, table * 0, table, calls, one, np.ones((n, 2, 2), np.int64), one)
    f = Facts(
        a.wire_us,
        np.zeros((2, 2), np.int64),
        np.zeros(n, np.int64),
        np.ones(n),
        np.ones(1),
        np.array([0, n]),
        np.arange(n),
        np.full(2, n),
    )
    s = new_state(n, 2, 2, 1, 0)
    goal = Goal(BOTTLENECK, 0.0, 0)
    construct(a, f, s)
    settle(a, f, goal, s, 0.0)
    construct_with_room(a, f, s, np.empty(0, np.int64), s.rank)
    settle(a, f, goal, s, 0.0)
    reorder(a, f, goal, s, np.zeros(1), np.arange(n), np.arange(n), np.full(2, np.inf), 0, 1)
    take(a, f, s, s.p.copy(), s.d.copy())
    keep(s)
    offer(a, goal, s, s.p.copy(), s.d.copy(), s.rank.copy())
    judge_best(a, goal, s)
    play(a, s.p, s.d, s.rank, np.empty((n, 5), np.int64))
    judge(a, goal, s.p, s.d, s.rank, np.empty((n, 5), np.int64), np.empty(1), np.empty(2))
    walk(a, f, goal, s, np.arange(n), 0.0, 1, True)
    walk_on_twin(a, f, goal, s, np.arange(n), 1, True)
