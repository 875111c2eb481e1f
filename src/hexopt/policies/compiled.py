"""Feeds HexAGenT's compiled placement loop: turns views into arrays and its answer back."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from hexopt.core.plan import Decision, Plan
from hexopt.core.view import CallView
from hexopt.policies.projection import Estimator, Projection

if TYPE_CHECKING:
    from hexopt.policies.kernels import Floats, Ints

Placed = tuple[CallView, int, int, int, float]
"""A placement: (call, projected finish, prefill, decode, risk)."""

_TIE_BITS = 20


def load_kernels() -> ModuleType | None:
    """Return the compiled kernels, ready to run.

    ``None`` where Numba is not installed, or finds no folder to keep what it compiles: the plain loop then does all.
    """
    try:
        from hexopt.policies import kernels

        kernels.compile_all()
    except (ImportError, RuntimeError, OSError):
        return None
    return kernels


class CompiledPlacement:
    """The cluster as arrays, and one row of facts for every waiting call, made when it is first seen.

    Parameters
    ----------
    origin_us
        The instant (µs) from which the time to a call's projected finish counts in its ratio, asked for when the call
        is first seen; the arrival of its workflow if absent.
    """

    def __init__(
        self, kernels: ModuleType, estimator: Estimator, origin_us: Callable[[CallView], int] | None = None
    ) -> None:
        self._kernels = kernels
        self._estimator = estimator
        self._origin_us = origin_us or _arrival_us
        e = estimator
        width = max(e.max_batch) + 1
        h_ms = np.zeros((e.decode_classes, width))
        for c, d in enumerate(e.representative):
            for batch in range(1, e.max_batch[d] + 1):
                h_ms[c, batch] = e.latency.iteration_ms(d, batch)
        self._site = kernels.Site(
            np.array(e.prefill_class, np.int64),
            np.array(e.decode_class, np.int64),
            np.array([len(e.prefill_groups), e.decode_classes], np.int64),
            np.array(e.capacity_blocks, np.int64),
            np.array(e.max_batch, np.int64),
            h_ms,
            np.array(e.context_ms, np.float64),
        )
        columns = kernels.TIMES + len(e.prefill_groups) * (1 + e.decode_classes)
        self._facts = np.empty((64, columns), np.int64)
        self._rows: dict[int, int] = {}

    @staticmethod
    def suits(kernels: ModuleType, estimator: Estimator) -> bool:
        """Say whether the batch limits are small enough to be tabulated."""
        return bool(max(estimator.max_batch) <= kernels.MAX_BATCH)

    def place(
        self,
        projection: Projection,
        waiting: list[CallView],
        horizons: list[int],
        small_queue: int,
        room_now: bool,
        until_phase: bool,
        tails: list[int] | None = None,
    ) -> list[Placed] | None:
        """Place calls on a projection, which is left as it was; ``None`` if a call's numbers are too large for it.

        ``tails``: what is reckoned to follow each call, µs, which its projected ratio counts.
        """
        facts = self._gather(waiting)
        if facts is None:
            return None
        placed, risks = self._place(projection, facts, None, horizons, small_queue, room_now, until_phase, tails)
        return [
            (waiting[i], finish, p, d, risk)
            for (i, finish, p, d), risk in zip(placed.tolist(), risks.tolist(), strict=True)
        ]

    def replan(
        self,
        projection: Projection,
        waiting: list[CallView],
        horizons: list[int],
        small_queue: int,
        room_now: bool,
        until_phase: bool,
        ahead: int,
        tails: list[int] | None = None,
    ) -> tuple[Plan, list[int]] | None:
        """Plan a round whose only business is calls that wait for prefill; as ``place`` and its labels would.

        The projection still counts the calls on their present decode instances. Returns the plan and the projected
        finishes, in the order of ``waiting`` (−1: could not be placed).
        """
        facts = self._gather(waiting)
        if facts is None:
            return None
        decode = np.array([call.decode for call in waiting], np.int64)
        placed, _ = self._place(projection, facts, decode, horizons, small_queue, room_now, until_phase, tails)
        # Columns of their own: kernels are compiled for contiguous arrays.
        who, finish, p, d = np.ascontiguousarray(placed.T)
        prefill = np.array([call.prefill for call in waiting], np.int64)[who]
        priority = np.array([call.priority for call in waiting], np.float64)[who]
        ready = np.array([call.ready_us for call in waiting], np.int64)[who]
        present = np.where(prefill >= 0, priority, np.nan)
        labels = self._kernels.relabel(present, ready)
        change = (p != prefill) | (d != decode[who]) | (labels != present)
        if ahead and (labels == present).any():
            change &= self._kernels.near(prefill, p, present, labels, ahead)
        changed = np.flatnonzero(change)
        decisions = [
            Decision(waiting[i].key, to_p, to_d, label)
            for i, to_p, to_d, label in zip(
                who[changed].tolist(), p[changed].tolist(), d[changed].tolist(), labels[changed].tolist(), strict=True
            )
        ]
        finishes = np.full(len(waiting), -1, np.int64)
        finishes[who] = finish
        return Plan(decisions), finishes.tolist()

    def _place(
        self,
        projection: Projection,
        facts: Ints,
        counted_on: Ints | None,
        horizons: list[int],
        small_queue: int,
        room_now: bool,
        until_phase: bool,
        tails: list[int] | None,
    ) -> tuple[Ints, Floats]:
        """Return rows (call, finish, prefill, decode) and risks, in order of commitment.

        ``counted_on``: the decode instance that still counts a call, −1 for none; ``None``: no instance counts any.
        """
        kernels = self._kernels
        decoding = np.array(projection.decoding, np.int64)
        blocks = np.array(projection.blocks, np.int64)
        tokens = np.array(projection.tokens, np.int64)
        if counted_on is not None:
            there = (counted_on >= 0) & (facts[:, kernels.STEPS] > 0)
            on = counted_on[there]
            np.subtract.at(decoding, on, 1)
            np.subtract.at(blocks, on, facts[there, kernels.NEED])
            np.subtract.at(tokens, on, facts[there, kernels.OWN])
        order = np.lexsort((facts[:, kernels.TIE], facts[:, kernels.ARRIVAL]))  # equal risks: the older workflow
        facts = facts[order]
        if tails is not None:
            # The loop needs arrivals for ratios alone: what follows a call counts as if its workflow were older.
            facts[:, kernels.ARRIVAL] -= np.array(tails, np.int64)[order]
        n = len(facts)
        placed = np.empty((n, 4), np.int64)
        risks = np.empty(n, np.float64)
        state = kernels.State(
            np.array(projection.prefill_free_us, np.int64),
            decoding,
            blocks,
            tokens,
            *self._leaving(projection, n, bool((blocks + facts[:, kernels.NEED].sum() > self._site.capacity).any())),
        )
        done = kernels.place(
            facts,
            np.array(horizons, np.float64)[order],
            small_queue,
            room_now,
            until_phase,
            projection.now_us,
            self._site,
            state,
            placed,
            risks,
        )
        placed = placed[:done]
        placed[:, 0] = order[placed[:, 0]]
        return placed, risks[:done]

    def _gather(self, waiting: list[CallView]) -> Ints | None:
        """Return the facts of calls, one row each; ``None`` if a call's numbers are too large."""
        rows = self._row_numbers(waiting)
        return None if rows is None else self._facts[rows]

    def _leaving(self, projection: Projection, n: int, needed: bool) -> tuple[Ints, Ints]:
        """Return who leaves each decode instance and when; empty unless a call may have to wait for room."""
        count = self._estimator.decode_count
        if not needed:
            return np.zeros(count, np.int64), np.empty((count, 0, 4), np.int64)
        orders = [projection.leaving(d) for d in range(count)]
        counts = np.array([len(order) for order in orders], np.int64)
        table = np.zeros((count, int(counts.max()) + n, 4), np.int64)
        for d, order in enumerate(orders):
            if order:
                rows = np.array(order, np.int64)
                table[d, : len(rows), 0] = rows[:, 0]
                table[d, : len(rows), 1] = (rows[:, 1] << _TIE_BITS) + rows[:, 2]
                table[d, : len(rows), 2:] = np.cumsum(rows[:, 3:], axis=0)
        return counts, table

    def _row_numbers(self, waiting: list[CallView]) -> list[int] | None:
        known = self._rows
        rows = [known.get(call.key, -1) for call in waiting]
        if -1 not in rows:
            return rows
        rows = []
        for call in waiting:
            row = known.get(call.key)
            if row is None:
                if len(known) == len(self._facts):
                    self._make_room(waiting)
                    return self._row_numbers(waiting)
                fact = self._fact(call)
                if fact is None:
                    return None
                row = known[call.key] = len(known)
                self._facts[row] = fact
            rows.append(row)
        return rows

    def _make_room(self, waiting: list[CallView]) -> None:
        """Forget calls that wait no more, and leave room for as many again as do."""
        keys = [call.key for call in waiting if call.key in self._rows]
        facts = np.empty((max(64, 4 * len(waiting)), self._facts.shape[1]), np.int64)
        facts[: len(keys)] = self._facts[[self._rows[key] for key in keys]]
        self._facts = facts
        self._rows = {key: row for row, key in enumerate(keys)}

    def _fact(self, call: CallView) -> list[int] | None:
        kernels = self._kernels
        steps = call.predicted_output_tokens - 1
        too_large = call.prompt_tokens >= kernels.MAX_PROMPT or steps >= kernels.MAX_STEPS
        if too_large or call.index >> _TIE_BITS:
            return None
        e = self._estimator
        prefill_us, transfer_us = e.prompt_times(call)
        fits = [group[0] in call.prefill_candidates for group in e.prefill_groups]
        fact = [
            call.prompt_tokens + 1,
            steps,
            call.kv_blocks,
            self._origin_us(call),
            (call.workflow.index << _TIE_BITS) + call.index,
            min(call.decode_candidates),
        ]
        fact.extend(us if fit else -1 for us, fit in zip(prefill_us, fits, strict=True))
        for d, row in zip(e.representative, transfer_us, strict=True):
            if d in call.decode_candidates:
                fact.extend(row)
            else:
                fact.extend([-1] * len(row))
        return fact


def _arrival_us(call: CallView) -> int:
    return call.workflow.arrival_us
