"""The CP-SAT model of a window, without an objective: variables and constraints; equations of the page cited by number.

Every schedule that the checker can play within the limits is a feasible point (section 4 of the page), so what the
solver proves about the model holds for all plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from hexopt.core.window import Window, WindowPlan
from hexopt.formulations.checker import Verdict
from hexopt.formulations.earliest import FAR, Bools, EarliestTimes, Ints
from hexopt.formulations.extraction import to_plan
from hexopt.formulations.window_bound import usable_by


@dataclass(frozen=True, slots=True)
class Rules:
    """Which parts of the model are wanted; those that cannot bind are left out all the same."""

    transfers: bool = True
    kv: bool = True
    prefill_kv: bool = True
    prefixes: bool = False
    symmetry: bool = True


def latest_end_us(window: Window) -> int:
    """Return a time by which every plan that keeps the rules is played to its end; equation (6)."""
    latency = window.options.latency_us
    last = [0]
    for p in window.prefill:
        last += [p.free_us, p.nic_free_us, *(us for us, _ in p.held)]
    for d in window.decode:
        last += [d.nic_free_us, *(us for us, _ in d.releases)]
    work = 0
    for c in window.calls:
        last.append(c.available_us or 0)
        if c.is_open:
            work += max(us or 0 for us in c.prefill_us)
        if not c.one_token:
            work += latency + max(max(row) for row in c.wire_us) + max(us or 0 for us in c.decode_us)
    return max(last) + work


class WindowModel:
    """A CP-SAT model of a window in which workflow w ends by ``limits_us[w]``.

    ``feasible`` is false if the limits leave a call without a pair; there is no model then.
    """

    def __init__(self, window: Window, arrays: EarliestTimes, limits_us: Sequence[int], rules: Rules) -> None:
        self.window = window
        self.arrays = arrays
        self.model: Any = cp_model.CpModel()
        n = len(window.calls)
        self.latest: Ints = (
            np.array(limits_us, np.int64)[arrays.workflow] - arrays.after if n else np.zeros(0, np.int64)
        )
        self.ok: Bools = usable_by(arrays, self.latest)
        self.feasible = bool(self.ok.reshape(n, -1).any(axis=1).all()) and all(
            end <= limit for end, limit in zip(arrays.floor_ends.tolist(), limits_us, strict=True)
        )
        self.x: list[dict[int, Any]] = [{} for _ in range(n)]
        self.y: list[dict[int, Any]] = [{} for _ in range(n)]
        self.start: list[Any] = [None] * n
        """Start of prefill of the open calls."""
        self.begin: list[Any] = [None] * n
        """Start of transfer, with which admission coincides."""
        self.wire: list[Any] = [0] * n
        self.wired: list[Any] = [None] * n
        """End of transfer, where an interval needs it."""
        self.finish: list[Any] = [None] * n
        self.held: list[tuple[int, Any]] = []
        self.same_p: list[list[int]] = []
        self.same_d: list[list[int]] = []
        self.also: list[tuple[Any, int]] = []
        """Further variables of an objective with the values that a hint gives them."""
        self.parts: list[str] = []
        """The parts that can bind and are there."""
        if self.feasible:
            self._build(rules)

    # -- building --------------------------------------------------------------------------------------------------

    def _build(self, rules: Rules) -> None:
        window, a = self.window, self.arrays
        nic = window.options.contention == "nic"
        self.on_p: Bools = np.asarray(self.ok.any(axis=2))
        self.on_d: Bools = np.asarray(self.ok.any(axis=1))
        latency = window.options.latency_us
        late = self.latest[:, None, None]
        served = np.where(a.one_token[:, None, None], 0, a.wire_us + latency + a.decode_us[:, None, :])
        # Latest start of transfer and of prefill by pair and instance, under the limits.
        self.latest_begin = np.where(self.ok, late - served, -FAR)
        self.latest_end = self.latest_begin.max(axis=2)
        self.kv_on = [d for d in range(len(window.decode)) if rules.kv and self._kv_can_bind(d)]
        self.pkv_on = [p for p in range(len(window.prefill)) if rules.prefill_kv and self._prefill_kv_can_bind(p)]
        transfers = rules.transfers and nic
        self.transfers = transfers
        for c in range(len(window.calls)):
            self._call(c, transfers)
        self._prefill_machines()
        self._caps()
        if transfers:
            self._networks()
        for d in self.kv_on:
            self._kv(d)
        for p in self.pkv_on:
            self._prefill_kv(p)
        if rules.prefixes:
            self._prefixes()
        if rules.symmetry:
            self._symmetry()

    def _choice(self, options: list[int]) -> dict[int, Any]:
        """Return a literal for each option, exactly one of them true; equation (7)."""
        if len(options) == 1:
            return {options[0]: 1}
        literals = {k: self.model.new_bool_var("") for k in options}
        self.model.add_exactly_one(list(literals.values()))
        return literals

    def _call(self, c: int, transfers: bool) -> None:
        a, m, window = self.arrays, self.model, self.window
        call = window.calls[c]
        ps = np.flatnonzero(self.on_p[c]).tolist()
        ds = np.flatnonzero(self.on_d[c]).tolist()
        latest = int(self.latest[c])
        x = self.x[c] = self._choice(ps)
        end: Any
        if call.is_open:
            lows = [int(a.prefill_start[c, p]) for p in ps]
            highs = [int(self.latest_end[c, p] - a.prefill_us[c, p]) for p in ps]
            s = self.start[c] = m.new_int_var(min(lows), max(highs), "")
            if min(lows) != max(lows):
                m.add(s >= _sum(lows, x, ps))  # equation (8)
            if min(highs) != max(highs):
                m.add(s <= _sum(highs, x, ps))
            end = s + _sum([int(a.prefill_us[c, p]) for p in ps], x, ps)
        else:
            end = call.available_us or 0
        if call.one_token:
            f = self.finish[c] = m.new_int_var(int(a.finish[c].min()), latest, "") if call.is_open else end
            if call.is_open:
                m.add(f >= end)
            return
        y = self.y[c] = self._choice(ds)
        ok = self.ok[c][np.ix_(ps, ds)]
        wires = a.wire_us[c][np.ix_(ps, ds)]
        w = self.wire[c] = self._wire(wires, ok, x, y, ps, ds)
        decode = _sum([int(a.decode_us[c, d]) for d in ds], y, ds)
        latency = window.options.latency_us
        f = self.finish[c] = m.new_int_var(int(a.finish[c].min()), latest, "")
        first = np.where(ok, a.transfer_start[c][np.ix_(ps, ds)], FAR)
        waits = bool((ok & (first > a.prefill_end[c][ps][:, None])).any())
        b: Any = end
        if waits or transfers or any(d in self.kv_on for d in ds) or any(p in self.pkv_on for p in ps):
            b = self.begin[c] = m.new_int_var(int(first.min()), int(self.latest_begin[c].max()), "")
            m.add(b >= end)  # equation (9)
        if waits:
            m.add(b >= _sum([int(t) for t in first.min(axis=1)], x, ps))
            m.add(b >= _sum([int(t) for t in first.min(axis=0)], y, ds))
        m.add(f >= b + w + latency + decode)  # equation (10)

    def _wire(self, wires: Ints, ok: Any, x: dict[int, Any], y: dict[int, Any], ps: list[int], ds: list[int]) -> Any:
        """Return the time on the wire: a constant, or a variable of at least the pair's; equation (11)."""
        m = self.model
        low, high = int(wires[ok].min()), int(wires[ok].max())
        masked = np.where(ok, wires, FAR)
        by_p, by_d = masked.min(axis=1), masked.min(axis=0)
        w: Any = low
        if low != high:
            w = m.new_int_var(low, high, "")
            if (by_p > low).any():
                m.add(w >= _sum([int(u) for u in by_p], x, ps))
            if (by_d > low).any():
                m.add(w >= _sum([int(v) for v in by_d], y, ds))
        # Pairs that are no maximum; those that would be too late are excluded (by their time, if it is a maximum).
        for i, j in zip(*np.nonzero(wires > np.maximum(by_p[:, None], by_d[None, :])), strict=True):
            literals = [q for q in (x[ps[i]], y[ds[j]]) if not isinstance(q, int)]
            if ok[i, j]:
                m.add(w >= int(wires[i, j])).only_enforce_if(literals)
            else:
                m.add_bool_or([~q for q in literals])
        return w

    def _prefill_machines(self) -> None:
        a, m = self.arrays, self.model
        for p in range(len(self.window.prefill)):
            rows = [c for c in range(len(self.x)) if a.open[c] and p in self.x[c]]
            if len(rows) > 1:
                m.add_no_overlap(
                    [self._interval(self.start[c], int(a.prefill_us[c, p]), None, self.x[c][p]) for c in rows]
                )

    def _interval(self, start: Any, size: Any, end: Any, literal: Any) -> Any:
        """Return an interval that is there if ``literal`` is true (or 1)."""
        m = self.model
        if end is None:
            if isinstance(literal, int):
                return m.new_fixed_size_interval_var(start, size, "")
            return m.new_optional_fixed_size_interval_var(start, size, literal, "")
        if isinstance(literal, int):
            return m.new_interval_var(start, size, end, "")
        return m.new_optional_interval_var(start, size, end, literal, "")

    def _caps(self) -> None:
        """At most ``max_new`` open calls of more than one token a decode instance; equation (12)."""
        for d, decode in enumerate(self.window.decode):
            literals = [y[d] for c, y in enumerate(self.y) if d in y and self.arrays.open[c]]
            if len(literals) > decode.max_new:
                self.model.add(sum(literals) <= decode.max_new)

    def _networks(self) -> None:
        """No two transfers at once on a network interface; equation (13)."""
        self.parts.append("transfers")
        for side, count in ((self.x, len(self.window.prefill)), (self.y, len(self.window.decode))):
            for i in range(count):
                rows = [c for c in range(len(side)) if i in side[c] and self.begin[c] is not None]
                if len(rows) > 1:
                    self.model.add_no_overlap([self._transfer(c, side[c][i]) for c in rows])

    def _transfer(self, c: int, literal: Any) -> Any:
        if isinstance(self.wire[c], int):
            return self._interval(self.begin[c], self.wire[c], None, literal)
        return self._interval(self.begin[c], self.wire[c], self._wired(c), literal)

    def _wired(self, c: int) -> Any:
        if self.wired[c] is None:
            high = int(self.latest_begin[c].max()) + int(self.arrays.wire_us[c].max())
            self.wired[c] = self.model.new_int_var(0, high, "")
            self.model.add(self.wired[c] == self.begin[c] + self.wire[c])
        return self.wired[c]

    def _kv_can_bind(self, d: int) -> bool:
        """Say whether the calls that may be sent to d could ever ask for more than is free now."""
        decode, a = self.window.decode[d], self.arrays
        here = self.on_d[:, d] & ~a.one_token
        new = np.sort(a.kv_blocks[here & a.open])[::-1][: decode.max_new]
        return int(new.sum() + a.kv_blocks[here & ~a.open].sum()) > decode.kv_free_blocks

    def _kv(self, d: int) -> None:
        """KV on a decode instance; equation (14)."""
        decode, a, m = self.window.decode[d], self.arrays, self.model
        self.parts.append(f"kv:{d}")
        intervals, demands = [], []
        for us, blocks in decode.releases:
            intervals.append(m.new_fixed_size_interval_var(0, us, ""))
            demands.append(blocks)
        for c, y in enumerate(self.y):
            if d in y:
                size = self.wire[c] + self.window.options.latency_us + int(a.decode_us[c, d])
                intervals.append(self._interval(self.begin[c], size, self.finish[c], y[d]))
                demands.append(int(a.kv_blocks[c]))
        m.add_cumulative(intervals, demands, decode.kv_free_blocks + sum(blocks for _, blocks in decode.releases))

    def _prefill_kv_can_bind(self, p: int) -> bool:
        if not self.window.options.prefill_kv:
            return False
        prefill = self.window.prefill[p]
        total = sum(blocks for _, blocks in prefill.held)
        total += sum(c.prefill_blocks for c, on in zip(self.window.calls, self.on_p[:, p], strict=True) if on)
        return total > prefill.kv_blocks

    def _prefill_kv(self, p: int) -> None:
        """KV on a prefill instance, from the start of prefill to the end of transfer; equation (15)."""
        m, latency = self.model, self.window.options.latency_us
        prefill = self.window.prefill[p]
        self.parts.append(f"prefill-kv:{p}")
        intervals, demands = [], []
        now = 0
        for us, blocks in prefill.held:
            intervals.append(m.new_fixed_size_interval_var(0, us, ""))
            demands.append(blocks)
            now += blocks
        for c, call in enumerate(self.window.calls):
            if p not in self.x[c]:
                continue
            start = self.start[c] if call.is_open else 0
            now += 0 if call.is_open else call.prefill_blocks
            demands.append(call.prefill_blocks)
            if call.one_token:
                size = int(self.arrays.prefill_us[c, p]) if call.is_open else call.available_us or 0
                intervals.append(self._interval(start, size, None, self.x[c][p]))
                continue
            high = int(self.latest_begin[c].max()) + int(self.arrays.wire_us[c].max()) + latency
            held = m.new_int_var(0, high, "")
            end = (
                self.begin[c] + (self.wire[c] + latency) if isinstance(self.wire[c], int) else self._wired(c) + latency
            )
            intervals.append(self._interval(start, held, end, self.x[c][p]))
            self.held.append((c, held))
        # What is held at the cut may exceed the room; only what starts later has to fit.
        m.add_cumulative(intervals, demands, max(prefill.kv_blocks, now))

    def _prefixes(self) -> None:
        """Prefills that must end by some time fit before it: the single-machine bound; equation (16)."""
        a, m = self.arrays, self.model
        for p, prefill in enumerate(self.window.prefill):
            rows = [c for c in range(len(self.x)) if a.open[c] and p in self.x[c]]
            rows.sort(key=lambda c: int(self.latest_end[c, p]))
            total = 0
            terms: list[Any] = []
            for k, c in enumerate(rows):
                total += int(a.prefill_us[c, p])
                terms.append(int(a.prefill_us[c, p]) * self.x[c][p])
                room = int(self.latest_end[c, p]) - prefill.free_us
                last = k + 1 == len(rows) or self.latest_end[rows[k + 1], p] > self.latest_end[c, p]
                if last and total > room and k:
                    m.add(sum(terms) <= room)

    def _symmetry(self) -> None:
        """Identical instances are ordered by the lowest call on them; equation (17)."""
        self.same_p, self.same_d = identical(self.window)
        for groups, side in ((self.same_p, self.x), (self.same_d, self.y)):
            for group in groups:
                rows = [c for c in range(len(side)) if group[0] in side[c] and self.start[c] is not None]
                for before, after in pairwise(group):
                    for k, c in enumerate(rows):
                        self.model.add_bool_or([side[b][before] for b in rows[:k]] + [~side[c][after]])

    # -- hints and solutions ---------------------------------------------------------------------------------------

    def hint(self, plan: WindowPlan, verdict: Verdict) -> None:
        """Hint every variable from a plan that the checker has played."""
        m = self.model
        name_p, name_d = self._renamed(plan)
        for c, (p, d, _) in enumerate(plan):
            for literals, chosen in ((self.x[c], name_p[p]), (self.y[c], None if d is None else name_d[d])):
                for k, literal in literals.items():
                    if not isinstance(literal, int):
                        m.add_hint(literal, int(k == chosen))
            begin = verdict.transfer_start_us[c]
            wire = 0 if d is None else int(self.arrays.wire_us[c, p, d])
            times = (
                (self.start[c], verdict.prefill_start_us[c]),
                (self.begin[c], begin),
                (self.wire[c], wire),
                (self.wired[c], begin + wire),
                (self.finish[c], verdict.finish_us[c]),
            )
            for variable, value in times:
                if variable is not None and not isinstance(variable, int):
                    m.add_hint(variable, value)
        latency = self.window.options.latency_us
        for c, variable in self.held:
            p, d, _ = plan[c]
            wire = 0 if d is None else int(self.arrays.wire_us[c, p, d])
            start = max(0, verdict.prefill_start_us[c])
            m.add_hint(variable, verdict.transfer_start_us[c] + wire + latency - start)
        for variable, value in self.also:
            m.add_hint(variable, value)

    def _renamed(self, plan: WindowPlan) -> tuple[list[int], list[int]]:
        """Return the plan's instances under new names that keep the order of equation (17)."""
        result = []
        groups = (self.same_p, self.same_d)
        for k, count in enumerate((len(self.window.prefill), len(self.window.decode))):
            names = list(range(count))
            for group in groups[k]:
                first = {}
                for c in reversed(range(len(plan))):
                    if self.start[c] is not None and (k == 0 or self.y[c]):
                        first[plan[c][k]] = c
                by_first = sorted(group, key=lambda i: (first.get(i, len(plan)), i))
                for name, i in zip(group, by_first, strict=True):
                    names[i] = name
            result.append(names)
        return result[0], result[1]

    def plan(self, value: Any) -> WindowPlan:
        """Return the plan of a solution, given the function from a variable to its value."""
        prefill, decode, start, admit = [], [], [], []
        for c, call in enumerate(self.window.calls):
            p = _chosen(self.x[c], value)
            d = _chosen(self.y[c], value) if self.y[c] else None
            begin = 0 if self.start[c] is None else int(value(self.start[c]))
            end = begin + int(self.arrays.prefill_us[c, p]) if call.is_open else call.available_us or 0
            prefill.append(p)
            decode.append(d)
            start.append(begin)
            admit.append(end if self.begin[c] is None else int(value(self.begin[c])))
        return to_plan(self.window, prefill, decode, start, admit)

    def ends(self, value: Any) -> list[int]:
        """Return the ends of the workflows in a solution."""
        ends: list[int] = self.arrays.floor_ends.tolist()
        for c, w in enumerate(self.arrays.workflow.tolist()):
            finish = self.finish[c] if isinstance(self.finish[c], int) else int(value(self.finish[c]))
            ends[w] = max(ends[w], finish + int(self.arrays.after[c]))
        return ends

    def size(self) -> tuple[int, int]:
        """Return how many variables and constraints there are."""
        proto = self.model.proto
        return len(proto.variables), len(proto.constraints)


def identical(window: Window) -> tuple[list[list[int]], list[list[int]]]:
    """Return the groups of two or more prefill and decode instances that no rule and no call tells apart."""
    bound_p = {c.prefill for c in window.calls if not c.is_open}
    bound_d = {c.decode for c in window.calls if not c.is_open}
    kinds_p: dict[Any, list[int]] = {}
    for p, prefill in enumerate(window.prefill):
        if p not in bound_p:
            own = (prefill.free_us, prefill.nic_free_us, prefill.kv_blocks, tuple(sorted(prefill.held)))
            kinds_p.setdefault((own, tuple((c.prefill_us[p], c.wire_us[p]) for c in window.calls)), []).append(p)
    kinds_d: dict[Any, list[int]] = {}
    for d, decode in enumerate(window.decode):
        if d not in bound_d:
            rest = (decode.nic_free_us, decode.kv_free_blocks, tuple(sorted(decode.releases)), decode.max_new)
            calls = tuple((c.decode_us[d], tuple(row[d] for row in c.wire_us)) for c in window.calls)
            kinds_d.setdefault((rest, calls), []).append(d)
    return [g for g in kinds_p.values() if len(g) > 1], [g for g in kinds_d.values() if len(g) > 1]


def _chosen(literals: dict[int, Any], value: Any) -> int:
    return next(k for k, literal in literals.items() if isinstance(literal, int) or value(literal))


def _sum(values: Sequence[int], literals: dict[int, Any], keys: Sequence[int]) -> Any:
    """Return the value of the chosen one of ``keys``."""
    low = min(values)
    return low + sum((v - low) * literals[k] for v, k in zip(values, keys, strict=True) if v != low)
