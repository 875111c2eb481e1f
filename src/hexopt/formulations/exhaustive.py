"""``exhaustive``: every placement and every order that can matter, judged by the checker; the referee of tiny windows.

The mathematics is in ``formulations/exhaustive/model.md``; equation numbers here are those of that page.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import Any, ClassVar

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.errors import ConfigError
from hexopt.formulations.checker import workflow_ends
from hexopt.formulations.objective import Objective, Value
from hexopt.formulations.protocol import Budget, Incumbents, SolveResult, Status, StopReason

_Pairs = tuple[tuple[int, int | None], ...]
"""The instances of each call."""


STEPS_PER_UNIT = 100_000
"""A deterministic unit of a budget is so many steps: placements listed, and beginnings of orders looked at."""


class _SpentError(Exception):
    """The budget is used up."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class _Meter:
    """Counts steps against a budget."""

    def __init__(self, budget: Budget, zero: float) -> None:
        self._until = None if budget.time_limit_s is None else zero + budget.time_limit_s
        self._most = None if budget.deterministic is None else max(1, round(budget.deterministic * STEPS_PER_UNIT))
        self._steps = 0

    def step(self) -> None:
        """Take a step, or raise :class:`_SpentError`."""
        if self._until is not None and time.perf_counter() > self._until:
            raise _SpentError(StopReason.TIME_LIMIT)
        if self._most is not None and self._steps >= self._most:
            raise _SpentError(StopReason.WORK_LIMIT)
        self._steps += 1


class Exhaustive:
    """Enumeration. It relaxes nothing: what it calls optimal is the best of all plans by the checker's word.

    Parameters
    ----------
    max_combinations
        Windows with more placements times orders are refused (status ``model-invalid``).
    """

    name: ClassVar[str] = "exhaustive"

    def __init__(self, max_combinations: int = 500_000) -> None:
        if max_combinations < 1:
            raise ConfigError(
                f"formulation 'exhaustive': max_combinations is {max_combinations}, at least 1, correct it"
            )
        self.max_combinations = max_combinations

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        """Enumerate, until the budget is spent. A hint only helps to leave out sooner what cannot be better."""
        zero = time.perf_counter()
        kept = Incumbents(window, objective)
        kept.offer(hint)
        ignored = "" if budget.iterations is None else "iterations are no measure of an enumeration and were ignored"
        combinations = math.factorial(len(window.calls)) * math.prod(len(_pairs(c)) for c in window.calls)

        def answer(status: Status, reason: StopReason, **more: Any) -> SolveResult:
            spent = time.perf_counter() - zero
            return SolveResult(
                self.name, objective, status, reason, kept.plan, kept.value, solve_s=spent, **{"note": ignored} | more
            )

        if combinations > self.max_combinations:
            note = f"{combinations} placements and orders, at most {self.max_combinations} are enumerated"
            return answer(Status.MODEL_INVALID, StopReason.NOT_STARTED, note=note)
        meter = _Meter(budget, zero)
        trajectory = [] if kept.value is None else [(time.perf_counter() - zero, kept.value.objective)]
        judged = 0
        try:
            for pairs, least in _placements(window, objective, meter):
                if not _can_beat(least, kept.value):
                    break  # those that follow promise no more
                for order in _orders(window, objective, pairs, kept, meter):
                    judged += 1
                    rank = {c: float(k) for k, c in enumerate(order)}
                    before = kept.value
                    kept.offer(tuple(Placement(p, d, rank[c]) for c, (p, d) in enumerate(pairs)))
                    if kept.value is not None and kept.value != before:
                        trajectory.append((time.perf_counter() - zero, kept.value.objective))
        except _SpentError as spent:
            status = Status.NO_INCUMBENT if kept.value is None else Status.FEASIBLE
            return answer(status, spent.reason, trajectory=tuple(trajectory), facts={"judged": judged})
        proved: dict[str, Any] = {"trajectory": tuple(trajectory), "facts": {"judged": judged}}
        if kept.value is None:
            return answer(Status.INFEASIBLE, StopReason.PROVED, **proved)
        value = kept.value.objective
        return answer(Status.OPTIMAL, StopReason.PROVED, model_objective=value, bound=value, **proved)


def _pairs(call: Any) -> list[tuple[int, int | None]]:
    """Return the pairs that can make a difference for a call; its decode instance makes none to one of one token."""
    decodes: list[int | None] = call.decodes()
    if call.one_token:
        decodes = decodes[:1] or [None]
    return [(p, d) for p in call.prefills() for d in decodes]


def _can_beat(least: Value, value: Value | None) -> bool:
    return value is None or least < value


def _finish_us(window: Window, c: int, pair: tuple[int, int | None], end: int) -> int | None:
    """Return the earliest completion of a call on a pair if its prefill ends no sooner than ``end``; equation (2).

    ``None`` if its KV never fits there.
    """
    call = window.calls[c]
    p, d = pair
    if call.one_token or d is None:
        return end
    room = window.decode[d].kv_free_blocks
    for us, blocks in sorted(window.decode[d].releases):
        if room >= call.kv_blocks:
            break
        room += blocks
        end = max(end, us)
    if room < call.kv_blocks:
        return None
    if window.options.contention == "nic":
        end = max(end, window.prefill[p].nic_free_us, window.decode[d].nic_free_us)
    return end + call.wire_us[p][d] + window.options.latency_us + (call.decode_us[d] or 0)


def _placements(window: Window, objective: Objective, meter: _Meter) -> list[tuple[_Pairs, Value]]:
    """Return all placements within the caps, with what each call alone would make of them; the most promising first."""
    found = []
    for pairs in itertools.product(*(_pairs(c) for c in window.calls)):
        meter.step()
        new = [0] * len(window.decode)
        for call, (_, d) in zip(window.calls, pairs, strict=True):
            if call.is_open and not call.one_token and d is not None:
                new[d] += 1
        if any(count > d.max_new for count, d in zip(new, window.decode, strict=True)):
            continue
        ends = [_end_us(window, c, p, window.prefill[p].free_us) for c, (p, _) in enumerate(pairs)]
        finish = [_finish_us(window, c, pair, end) for c, (pair, end) in enumerate(zip(pairs, ends, strict=True))]
        known = [us for us in finish if us is not None]
        if len(known) == len(finish):
            found.append((pairs, objective.value(window, workflow_ends(window, known))))
    found.sort(key=lambda item: item[1])
    return found


def _end_us(window: Window, c: int, p: int, free: int) -> int:
    """Return when the prefill of a call ends if it starts at ``free``."""
    call = window.calls[c]
    return free + (call.prefill_us[p] or 0) if call.is_open else call.available_us or 0


def _orders(
    window: Window, objective: Objective, pairs: _Pairs, kept: Incumbents, meter: _Meter
) -> Iterator[tuple[int, ...]]:
    """Yield one order of priorities of each kind that the queues can tell apart, less what cannot be better.

    Two calls that share no queue may change places; of orders that differ by such changes only the smallest is yielded,
    equation (3). Equation (4) bounds what an order that begins so can bring.
    """
    calls = window.calls
    n = len(calls)

    def meet(a: int, b: int) -> bool:
        one, other = calls[a], calls[b]
        if one.is_open and other.is_open and pairs[a][0] == pairs[b][0]:
            return True
        return not one.one_token and not other.one_token and pairs[a][1] == pairs[b][1]

    meets = [[meet(a, b) for b in range(n)] for a in range(n)]
    free = [p.free_us for p in window.prefill]
    ends = [0] * n
    order: list[int] = []
    left = set(range(n))

    def extend() -> Iterator[tuple[int, ...]]:
        meter.step()
        finish = [
            _finish_us(
                window, c, pairs[c], _end_us(window, c, pairs[c][0], free[pairs[c][0]]) if c in left else ends[c]
            )
            for c in range(n)
        ]
        # (That none is None has been seen to where the placement was accepted.)
        known = [us or 0 for us in finish]
        if not _can_beat(objective.value(window, workflow_ends(window, known)), kept.value):
            return
        if not left:
            yield tuple(order)
            return
        for c in sorted(left):
            smallest = True
            for b in reversed(order):
                if meets[b][c]:
                    break
                if b > c:
                    smallest = False
                    break
            if not smallest:
                continue
            p = pairs[c][0]
            before = free[p]
            ends[c] = _end_us(window, c, p, before)
            if calls[c].is_open:
                free[p] = ends[c]
            order.append(c)
            left.remove(c)
            yield from extend()
            left.add(c)
            order.pop()
            free[p] = before

    yield from extend()
