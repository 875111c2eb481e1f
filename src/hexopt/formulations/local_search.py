"""``local-search``: placements by moves, the order on each prefill instance by rule; compiled, and good at any time.

The mathematics is in ``formulations/local-search/model.md``; equation numbers here are those of that page.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.formulations.arrays import (
    AVAILABLE,
    ELAPSED,
    FLOOR,
    HORIZON,
    KV_BLOCKS,
    LATENCY,
    NIC,
    ONE,
    OPEN,
    PREFILL_KV,
    PROMPT_BLOCKS,
    SUM,
    TAIL,
    WORKFLOW,
    Floats,
    Goal,
    Ints,
    WindowArrays,
    arrays_of,
    goal_of,
)
from hexopt.formulations.checker import as_plan, keeps_placement_rules
from hexopt.formulations.jit import Compiler
from hexopt.formulations.objective import Objective, Value
from hexopt.formulations.protocol import Budget, Incumbents, SolveResult, Status, StopReason, claim
from hexopt.formulations.twin import load_kernels, plan_arrays

_MOVES_A_CALL = 2_000
"""Moves for each call of the window where the budget names no limit."""
_TWIN_COSTS = 16
"""Moves that one judged by the twin counts for, in a budget of iterations."""
_ROUNDS, _ROUNDS_WITH_ROOM = 12, 200
"""Constructions in a new order before the walk, where the objective is the sum; more where room is scarce."""
_ROUND_COSTS = 32
"""Moves that a construction counts for, in a budget of iterations."""
_ROUNDS_SHARE = 0.5
"""At most this share of a budget goes to constructions."""
_SHARE = 0.25
"""The share of the rest before the twin takes over, where already the first placement has to wait for room."""
_SMALL = 16
"""Up to so many calls the last part walks on the twin also where only the network makes calls wait."""
_FIRST_CHUNK = 32
"""Moves before the clock is looked at for the first time."""
_CHUNK_S = 3e-4
"""How long to go without looking at the clock."""
_CHECK_S_A_CALL = 1.5e-5
"""What the checker takes for one call; kept back from a time limit."""


class Search:
    """The search on arrays, for those who have no window: start it, run it, read the champion.

    Parameters
    ----------
    arrays
        The window.
    goal
        The objective.
    seed
        Of the moves.
    """

    def __init__(self, arrays: WindowArrays, goal: Goal, seed: int = 0) -> None:
        self._kernels = load_kernels()
        self.arrays = a = arrays
        self.goal = goal
        n, n_p, n_d = a.wire_us.shape
        one, is_open = a.calls[:, ONE] > 0, a.calls[:, OPEN] > 0
        workflow = a.calls[:, WORKFLOW]
        rest = a.wire_us + a.rules[LATENCY] + a.decode_us[:, None, :]
        rest[one] = 0
        ready = np.maximum(a.prefill[:, 1][:, None], a.decode[:, 0][None, :]) * a.rules[NIC]
        horizons = a.workflows[:, HORIZON]
        members = np.argsort(workflow, kind="stable")
        first = np.zeros(len(horizons) + 1, np.int64)
        np.cumsum(np.bincount(workflow, minlength=len(horizons)), out=first[1:])
        spent = a.workflows[workflow, ELAPSED] + a.calls[:, TAIL]
        scale = 1.0 / horizons
        self._facts = self._kernels.Facts(
            rest,
            ready,
            spent,
            scale[workflow],
            a.workflows[:, FLOOR] / horizons,
            first,
            members,
            np.ascontiguousarray(a.decode[:, 2]),
        )
        self._state = self._kernels.new_state(n, n_p, n_d, len(horizons), seed)
        choices = (a.prefill_us >= 0).sum(axis=1) * np.where(one, 1, (a.decode_us >= 0).sum(axis=1))
        self._movable = np.flatnonzero(choices > 1)
        kv = a.calls[:, KV_BLOCKS] * ~one
        prompts = (a.calls[:, PROMPT_BLOCKS] * is_open)[:, None] * (a.prefill_us >= 0)
        self._room_binds = bool(
            (np.where(a.decode_us >= 0, kv[:, None], 0).sum(axis=0) > a.decode[:, 1]).any()
            or (a.rules[PREFILL_KV] and (prompts.sum(axis=0) > a.prefill[:, 2]).any())
        )
        # Equation (2), over all pairs at once.
        end = np.where(is_open[:, None], a.prefill[:, 0] + a.prefill_us, a.calls[:, AVAILABLE][:, None])
        done = np.where(one[:, None, None], end[:, :, None], np.maximum(end[:, :, None], ready) + rest)
        may = (a.prefill_us >= 0)[:, :, None] & (a.decode_us >= 0)[:, None, :]
        earliest = np.where(may, done, np.iinfo(np.int64).max // 4).min(axis=(1, 2), initial=2**62)
        self.least_ends_us: Ints = a.workflows[:, FLOOR].copy()
        """Shape (W,): a lower bound on when each workflow is done, µs after its arrival."""
        np.maximum.at(self.least_ends_us, workflow, spent + earliest)
        value = np.empty(2)
        self._kernels.objective_of(self.least_ends_us / horizons, goal, value)
        self.bound = Value(float(value[0]), float(value[1]))
        """The single-call bound on the objective and on the sum of ratios."""
        self._spent_us, self._earliest_us, self._kv = spent, earliest, kv
        self.trajectory: list[tuple[float, float]] = []
        self.on_twin = False
        """Whether the last part of the search was done on the twin."""

    def start(self, hint: tuple[Ints, Ints, Ints] | None = None) -> bool:
        """Start from the better of a plan (prefill, decode, place in the order) and a greedy construction.

        Return whether there is any plan; if not, no placement keeps the caps.
        """
        k, a, f, s = self._kernels, self.arrays, self._facts, self._state
        limit = {0: self.bound.objective, 1: np.inf}.get(self.goal.kind, self.goal.alpha)
        found = False
        if hint is not None and k.take(a, f, s, hint[0], hint[1]):
            # With the decode instances that ``take`` names where the hint names none: moves need them.
            k.offer(a, self.goal, s, hint[0], s.d.copy(), hint[2])
            k.settle(a, f, self.goal, s, limit)
            k.keep(s)
            found = True
            best = tuple(s.value)
        if k.construct(a, f, s):
            k.settle(a, f, self.goal, s, limit)
            if not found or tuple(s.value) < best:
                k.keep(s)
            found = True
        elif not found:
            return False
        k.judge_best(a, self.goal, s)
        if self._room_binds and self.goal.kind != SUM and k.construct_with_room(a, f, s, np.empty(0, np.int64), s.rank):
            k.offer(a, self.goal, s, s.p.copy(), s.d.copy(), s.rank.copy())
            k.settle(a, f, self.goal, s, limit)
            s.rank[s.order] = np.arange(len(s.rank))
            k.offer(a, self.goal, s, s.p.copy(), s.d.copy(), s.rank.copy())
        return True

    def run(self, moves: int | None, until: float | None = None, zero: float = 0.0) -> StopReason:
        """Search for so many moves, or until the clock (``time.perf_counter``) says so, whichever is first.

        ``zero`` is the clock at the start of the solution, for the trajectory.
        """
        begin = time.perf_counter()
        self._note(begin - zero)
        if self._proved():
            return StopReason.PROVED
        if not len(self._movable) and not self._room_binds and not self.arrays.rules[NIC]:
            return StopReason.COMPLETE
        if self.goal.kind == SUM:
            moves = self._reorder(moves, until, zero)
            if self._proved():
                return StopReason.PROVED
            begin = time.perf_counter()
        share = _SHARE if self._waits() else 2 / 3
        numbers = self._state.numbers
        numbers[self._kernels.STALL], numbers[self._kernels.KICKS] = self._kernels.NOT_BEGUN, 0
        first_moves = None if moves is None else max(1, int(moves * share))
        first_until = None if until is None else begin + (until - begin) * share
        reason, left = self._go(False, first_moves, first_until, zero)
        if reason is StopReason.PROVED:
            return reason
        s = self._state
        self._kernels.judge_best(self.arrays, self.goal, s)
        self.on_twin = self._waits() or self._network_binds()
        more = None if moves is None or first_moves is None else moves - first_moves + left
        reason, _ = self._go(self.on_twin, more, until, zero)
        if not self.on_twin and self._kernels.judge_best(self.arrays, self.goal, s):
            self._note(time.perf_counter() - zero)
        return reason

    def _reorder(self, moves: int | None, until: float | None, zero: float) -> int | None:
        """Construct in better and better orders, then go where the best of them is; return the moves that are left."""
        k, a, f, s = self._kernels, self.arrays, self._facts, self._state
        rounds = _ROUNDS_WITH_ROOM if self._waits() else _ROUNDS
        if moves is not None:
            rounds = min(rounds, int(moves * _ROUNDS_SHARE) // _ROUND_COSTS)
        begin = time.perf_counter()
        latest = np.inf if until is None else begin + (until - begin) * _ROUNDS_SHARE
        least = self.least_ends_us / a.workflows[:, HORIZON]
        order = np.argsort(self._first_keys(), kind="stable")
        best, value = order.copy(), np.full(2, np.inf)
        before, chunk, at = int(s.numbers[k.INCUMBENTS]), 1 if Compiler.plain else 4, 0
        while at < rounds and (at == 0 or time.perf_counter() < latest):
            to = min(at + chunk, rounds)
            k.reorder(a, f, self.goal, s, least, order, best, value, at, to)
            at = to
        if int(s.numbers[k.INCUMBENTS]) > before:
            self._note(time.perf_counter() - zero)
            k.take(a, f, s, s.champion_p, s.champion_d)
            k.settle(a, f, self.goal, s, np.inf)
            k.keep(s)
            k.judge_best(a, self.goal, s)
        return None if moves is None else moves - at * _ROUND_COSTS

    def _first_keys(self) -> Floats:
        """Return by what the calls are ordered at first, small ones first; equation (9)."""
        a = self.arrays
        workflow, horizon = a.calls[:, WORKFLOW], a.workflows[:, HORIZON]
        far = np.iinfo(np.int64).max // 4
        prefill_us = np.where(a.prefill_us < 0, far, a.prefill_us).min(axis=1)
        decode_us = np.where(a.decode_us < 0, far, a.decode_us).min(axis=1)
        blocks = max(1, int(a.decode[:, 1].sum() + a.releases[:, 2].sum()))
        work = prefill_us / len(a.prefill) + decode_us.astype(np.float64) * self._kv / blocks
        total = np.bincount(workflow, work, len(horizon))[workflow] * horizon[workflow]
        slack = self.least_ends_us[workflow] - (self._spent_us + self._earliest_us)
        keys: Floats = slack / max(1.0, float(slack.mean())) + total / max(1.0, float(total.mean()))
        return keys

    def _go(self, twin: bool, moves: int | None, until: float | None, zero: float) -> tuple[StopReason, int]:
        """Search in chunks; return why it stopped and the moves that are left of those allowed."""
        k, a, f, s = self._kernels, self.arrays, self._facts, self._state
        cost = _TWIN_COSTS if twin else 1
        left = None if moves is None else moves // cost
        chunk = max(2, _FIRST_CHUNK // (cost * (20 if Compiler.plain else 1)))
        if until is None:
            chunk = 4096 // cost
        clock = time.perf_counter()
        fresh = True
        while True:
            if left is not None and left <= 0:
                return StopReason.WORK_LIMIT, 0
            if until is not None and clock >= until:
                return StopReason.TIME_LIMIT, left or 0
            count = chunk if left is None else min(chunk, left)
            before = int(s.numbers[k.INCUMBENTS])
            if twin:
                k.walk_on_twin(a, f, self.goal, s, self._movable_or_all(), count, fresh)
            elif len(self._movable):
                k.walk(a, f, self.goal, s, self._movable, self.bound.objective, count, self._room_binds)
            else:
                return StopReason.COMPLETE, 0
            fresh = False
            if left is not None:
                left -= count
            now = time.perf_counter()
            if until is not None:
                rate = max(now - clock, 1e-7) / count
                chunk = int(max(1, min(4 * chunk, _CHUNK_S / rate, (until - now) / rate + 1)))
            clock = now
            if int(s.numbers[k.INCUMBENTS]) > before:
                if not twin and not self._room_binds:
                    k.judge_best(a, self.goal, s)
                self._note(now - zero)
                if self._proved():
                    return StopReason.PROVED, left or 0

    def _waits(self) -> bool:
        """Say whether the champion is worse than the walk takes its best placement to be: somebody waits for room."""
        champion, best = self._state.champion_value, self._state.best_value
        more = champion > best * (1 + 1e-12)
        return bool(more[0] or (more[1] and champion[0] >= best[0]))

    def _network_binds(self) -> bool:
        """Say whether waits for the network, which orders on prefill instances ignore, cost a small window much."""
        if len(self.arrays.calls) > _SMALL:
            return False  # the twin's walk would come less far than the quick one
        relaxed = np.empty(2)
        self._kernels.objective_of(self._state.best_relaxed, self.goal, relaxed)
        return bool((self._state.best_value > relaxed * 1.001).any())

    def _movable_or_all(self) -> Ints:
        return self._movable if len(self._movable) else np.arange(len(self.arrays.calls))

    def _proved(self) -> bool:
        """Say whether both the objective and the sum are at their bounds: there is nothing left to gain."""
        value = self._state.champion_value
        return bool((value <= np.array(self.bound) * (1 + 1e-12)).all())

    def _note(self, at: float) -> None:
        value = float(self._state.champion_value[0])
        if value < 1e17 and (not self.trajectory or value < self.trajectory[-1][1]):
            self.trajectory.append((at, value))

    @property
    def champion(self) -> tuple[Ints, Ints, Ints]:
        """The best plan: prefill, decode, and place in the order of priorities, of each call."""
        s = self._state
        return s.champion_p, s.champion_d, s.champion_rank

    @property
    def value(self) -> Value:
        """The twin's word on the champion; above 10¹⁸ if a call is never done."""
        top, total = self._state.champion_value
        return Value(float(top), float(total))

    @property
    def moves(self) -> int:
        """How many moves were made."""
        return int(self._state.numbers[self._kernels.MOVES])


class LocalSearch:
    """Anytime local search over placements.

    With a budget of ``iterations`` (moves) the answer depends on nothing but window, objective, hint, seed and that
    number. Without any limit it makes 2,000 moves for each call.
    """

    name: ClassVar[str] = "local-search"

    def __init__(self) -> None:
        load_kernels()  # here, so that no solution waits for it

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        """Search from the better of the hint and a greedy construction."""
        zero = time.perf_counter()
        notes = ["plain Python, Numba is missing or cannot keep what it compiles"] if Compiler.plain else []
        if budget.deterministic is not None:
            notes.append("it has no deterministic units, use iterations")
        kept = Incumbents(window, objective)
        arrays = arrays_of(window)

        def answer(status: Status, reason: StopReason, note: str = "", **more: Any) -> SolveResult:
            return SolveResult(
                self.name,
                objective,
                status,
                reason,
                kept.plan,
                kept.value,
                note="; ".join([*notes, note] if note else notes),
                **more,
            )

        if arrays is None:
            kept.offer(hint)
            return answer(Status.MODEL_INVALID, StopReason.ERROR, "sums of the window's times could exceed 2**61 µs")
        search = Search(arrays, goal_of(objective, len(window.workflows)), budget.seed)
        bound = objective.value(window, search.least_ends_us.tolist()).objective
        placed = None if hint is None else as_plan(hint)
        usable = placed if placed is not None and keeps_placement_rules(window, placed) else None
        started = search.start(None if usable is None else plan_arrays(window, usable))
        build_s = time.perf_counter() - zero
        if not started:
            return answer(
                Status.INFEASIBLE,
                StopReason.PROVED,
                "more calls than the decode instances may be sent",
                build_s=build_s,
            )
        moves, until = budget.iterations, None
        if budget.time_limit_s is not None:
            reserve = min(_CHECK_S_A_CALL * len(window.calls), budget.time_limit_s / 3)
            until = zero + budget.time_limit_s - reserve
        unlimited = moves is None and until is None
        if unlimited:
            moves = _MOVES_A_CALL * max(1, len(window.calls))
        reason = search.run(moves, until, zero)
        if unlimited and reason is StopReason.WORK_LIMIT:
            reason = StopReason.COMPLETE
        kept.offer(champion_plan(search, window))
        status, reported, contradiction = claim(kept.value, bound, window, objective)
        facts: dict[str, Any] = {"moves": search.moves, "on_twin": search.on_twin}
        if status is Status.OPTIMAL and search.trajectory:
            facts["proved_s"] = search.trajectory[-1][0]  # the objective fell for the last time; the rest is for ties
        return answer(
            status,
            StopReason.ERROR if contradiction else reason,
            contradiction,
            bound=reported,
            model_objective=search.value.objective if kept.plan is not None else None,
            build_s=build_s,
            solve_s=time.perf_counter() - zero - build_s,
            trajectory=tuple(search.trajectory),
            facts=facts,
        )


def champion_plan(search: Search, window: Window) -> WindowPlan:
    """Return the champion as placements; without a decode instance where a call of one token has none."""
    p, d, rank = (x.tolist() for x in search.champion)
    return tuple(
        Placement(i, None if call.one_token and not call.decodes() else e, float(r))
        for call, i, e, r in zip(window.calls, p, d, rank, strict=True)
    )
