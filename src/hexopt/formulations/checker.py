"""The judge of every plan: it plays the plan under the window's own rules and says what comes of it.

It shares nothing with any model, imports no solver, and is written to be read. The rules, per instant:

1. What ends now ends: prefills, transfers, and what residents and calls in transfer hold.
2. Every decode instance, by index, walks the calls that wait for it in order of priority and admits those whose
   ``kv_blocks`` fit (``strict``: up to the first that does not). They are held until the call completes. The transfer
   is booked at once, from the instant at which both network interfaces are free of earlier ones; both are on the wire
   for ``wire_us``, the KV is there ``latency_us`` later, and ``decode_us`` after that the call completes.
3. Every idle prefill instance, by index, starts the first call of its queue if its ``prefill_blocks`` fit. They are
   held until the transfer ends (a call of one token: until its prefill does, and that completes it).

Queues are ordered by (priority, position in the window).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.errors import WindowError
from hexopt.formulations.objective import BOTTLENECK, Objective, Value


class Violation(NamedTuple):
    """A rule that a plan breaks: its name, and what, where and why."""

    rule: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comes of a plan. Times are µs after the cut, one a call, -1 for a step that does not occur.

    ``ends_us`` has one entry a workflow: when it is done, µs after its arrival. It is empty, and the value is ``None``,
    if the plan breaks a rule.
    """

    goal: Objective
    value: Value | None
    violations: tuple[Violation, ...]
    prefill_start_us: tuple[int, ...] = ()
    prefill_end_us: tuple[int, ...] = ()
    admit_us: tuple[int, ...] = ()
    transfer_start_us: tuple[int, ...] = ()
    finish_us: tuple[int, ...] = ()
    ends_us: tuple[int, ...] = ()

    @property
    def objective(self) -> float | None:
        """The value of the objective proper, ``None`` if the plan breaks a rule."""
        return None if self.value is None else self.value.objective

    @property
    def feasible(self) -> bool:
        """Whether the plan breaks no rule."""
        return not self.violations


def check(window: Window | Mapping[str, Any], plan: Any, objective: Objective = BOTTLENECK) -> Verdict:
    """Play a plan of a window.

    Parameters
    ----------
    window
        The window, or the plain values of one.
    plan
        A placement for each call: (prefill, decode, priority), or an object with these keys.

    Raises
    ------
    WindowError
        The plan is no list of placements at all. (What a plan may get wrong is a violation.)

    >>> call = {"id": "c", "workflow": 0, "state": "open", "one_token": False, "prefill_blocks": 1, "kv_blocks": 2,
    ...     "tail_us": 0, "prefill_us": [10], "wire_us": [[5]], "decode_us": [85]}
    >>> p = {"name": "p", "type": "p", "free_us": 0, "nic_free_us": 0, "kv_blocks": 9}
    >>> d = {"name": "d", "type": "d", "nic_free_us": 0, "kv_free_blocks": 9, "releases": [], "max_new": 4, "batch": 0,
    ...     "context_tokens": 0}
    >>> w = {"id": "w", "elapsed_us": 0, "horizon_us": 100}
    >>> window = {"schema_version": 1, "name": "one", "provenance": "", "options": {}, "prefill": [p], "decode": [d],
    ...     "workflows": [w], "calls": [call]}
    >>> check(window, [(0, 0, 0.0)]).objective
    1.0
    """
    if isinstance(window, Mapping):
        window = Window.from_json(window)
    placements = as_plan(plan)
    violations = list(_broken_rules(window, placements))
    if violations:
        return Verdict(objective, None, tuple(violations))
    run = _Run(window, placements)
    run.play()
    violations = [
        Violation("left-over", f"call '{window.calls[c].id}': it never {what}, its KV never fits, place it elsewhere")
        for c, what in run.left_over()
    ]
    ends = [] if violations else workflow_ends(window, run.finish)
    return Verdict(
        objective,
        None if violations else objective.value(window, ends),
        tuple(violations),
        tuple(run.start),
        tuple(run.prefill_end),
        tuple(run.admit),
        tuple(run.transfer_start),
        tuple(run.finish),
        tuple(ends),
    )


def workflow_ends(window: Window, finish_us: Sequence[int]) -> list[int]:
    """Return when each workflow is done, µs after its arrival, by the completions of its calls; equation (1)."""
    ends = [w.elapsed_us + (w.floor_us or 0) for w in window.workflows]
    for call, finish in zip(window.calls, finish_us, strict=True):
        elapsed = window.workflows[call.workflow].elapsed_us
        ends[call.workflow] = max(ends[call.workflow], elapsed + finish + call.tail_us)
    return ends


def as_plan(plan: Any) -> WindowPlan:
    """Return a plan given as placements, triples or objects with the keys prefill, decode and priority."""
    try:
        rows = [(r["prefill"], r["decode"], r["priority"]) if isinstance(r, Mapping) else tuple(r) for r in plan]
        return tuple(Placement(*row) for row in rows)
    except (TypeError, KeyError):
        raise WindowError(
            f"plan: {str(plan)[:60]!r} found, it is a list of (prefill, decode, priority), one a call, correct it"
        ) from None


def keeps_placement_rules(window: Window, plan: WindowPlan) -> bool:
    """Say whether a plan breaks no rule before anything is played: only such plans can be given to a compiled twin."""
    return not any(_broken_rules(window, plan))


def _broken_rules(window: Window, plan: WindowPlan) -> list[Violation]:
    """Find what is wrong with a plan before anything is played."""
    if len(plan) != len(window.calls):
        told = f"plan: {len(plan)} placements found, the window has {len(window.calls)} calls, give one for each"
        return [Violation("one-placement-a-call", told)]
    found = []
    new = [0] * len(window.decode)
    for call, (p, d, priority) in zip(window.calls, plan, strict=True):
        where = f"call '{call.id}'"
        idle = call.one_token and d is None
        if not _is_index(p, window.prefill) or not (idle or _is_index(d, window.decode)):
            told = f"pair ({p!r}, {d!r}) found, there are {len(window.prefill)} and {len(window.decode)} instances"
            found.append(Violation("instance-unknown", f"{where}: {told}, choose one of them"))
            continue
        if not _is_finite(priority):
            found.append(
                Violation("priority-finite", f"{where}: priority {priority!r} found, it is a finite number, correct it")
            )
        if not (call.may_prefill(p) and (d is None or call.may_decode(d))):
            rule = "candidate" if call.is_open else "bound"
            told = f"prefill {call.prefills()}, decode {call.decodes()}"
            found.append(Violation(rule, f"{where}: pair ({p}, {d}) found, it may go to {told}, choose from them"))
        if call.is_open and not call.one_token and d is not None:
            new[d] += 1
    for d, count in enumerate(new):
        if count > window.decode[d].max_new:
            told = f"{count} open calls are sent to it, at most {window.decode[d].max_new} may be, move some"
            found.append(Violation("max-new", f"decode '{window.decode[d].name}': {told}"))
    return found


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all doubles
        return False


def _is_index(value: Any, instances: Sequence[Any]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(instances)


class _Run:
    """A plan being played."""

    def __init__(self, window: Window, plan: WindowPlan) -> None:
        calls = window.calls
        self.window = window
        self.plan = plan
        self.start = [-1] * len(calls)
        self.prefill_end = [-1] * len(calls)
        self.admit = [-1] * len(calls)
        self.transfer_start = [-1] * len(calls)
        self.finish = [-1] * len(calls)
        self.free_blocks = [p.kv_blocks - sum(blocks for _, blocks in p.held) for p in window.prefill]
        self.kv_free = [d.kv_free_blocks for d in window.decode]
        self.prefill_free = [p.free_us for p in window.prefill]
        self.nic_p = [p.nic_free_us for p in window.prefill]
        self.nic_d = [d.nic_free_us for d in window.decode]
        self.queued: list[list[int]] = [[] for _ in window.prefill]
        self.waiting: list[list[int]] = [[] for _ in window.decode]
        self.events: list[tuple[int, int, int, int]] = []
        """(when, kind, instance or call, blocks); kinds below, in no particular order within an instant."""
        for p, prefill in enumerate(window.prefill):
            self.events.append((prefill.free_us, _PREFILL_ROOM, p, 0))
            self.events.extend((us, _PREFILL_ROOM, p, blocks) for us, blocks in prefill.held)
        for d, decode in enumerate(window.decode):
            self.events.extend((us, _DECODE_ROOM, d, blocks) for us, blocks in decode.releases)
        for c, call in enumerate(calls):
            if call.is_open:
                self.queued[plan[c].prefill].append(c)
            else:
                self.free_blocks[plan[c].prefill] -= call.prefill_blocks
                self.events.append((call.available_us or 0, _PREFILL_END, c, 0))
        for queue in self.queued:
            queue.sort(key=self._rank)
        heapq.heapify(self.events)

    def play(self) -> None:
        while self.events:
            now = self.events[0][0]
            # Nothing changes on the other instances: whoever waits there goes on waiting.
            prefills: set[int] = set()
            decodes: set[int] = set()
            while self.events and self.events[0][0] == now:
                _, kind, index, blocks = heapq.heappop(self.events)
                if kind == _DECODE_ROOM:
                    self.kv_free[index] += blocks
                    decodes.add(index)
                elif kind == _PREFILL_END:
                    p, d, _ = self.plan[index]
                    self._end_prefill(index, now)
                    prefills.add(p)
                    if d is not None:
                        decodes.add(d)
                else:
                    self.free_blocks[index] += blocks
                    prefills.add(index)
            for d in sorted(decodes):
                self._admit(d, now)
            for p in sorted(prefills):
                self._start_prefill(p, now)

    def left_over(self) -> list[tuple[int, str]]:
        """Return the calls that are not done, and what they never do."""
        left = [(c, "starts" if end < 0 else "is admitted") for c, end in enumerate(self.prefill_end)]
        return [(c, what) for c, what in left if self.finish[c] < 0]

    def _rank(self, c: int) -> tuple[float, int]:
        return self.plan[c].priority, c

    def _end_prefill(self, c: int, now: int) -> None:
        self.prefill_end[c] = now
        call = self.window.calls[c]
        if call.one_token:
            self.finish[c] = now
            self.free_blocks[self.plan[c].prefill] += call.prefill_blocks
            return
        d = self.plan[c].decode
        assert d is not None  # _broken_rules has seen to it
        self.waiting[d].append(c)
        self.waiting[d].sort(key=self._rank)

    def _admit(self, d: int, now: int) -> None:
        options = self.window.options
        left: list[int] = []
        for k, c in enumerate(self.waiting[d]):
            call = self.window.calls[c]
            if call.kv_blocks > self.kv_free[d]:
                if options.kv_admission == "strict":
                    left.extend(self.waiting[d][k:])
                    break
                left.append(c)
                continue
            p = self.plan[c].prefill
            start = now
            wire, decode_us = call.wire_us[p][d], call.decode_us[d] or 0
            if options.contention == "nic":
                start = max(now, self.nic_p[p], self.nic_d[d])
                self.nic_p[p] = self.nic_d[d] = start + wire
            end = start + wire + options.latency_us
            self.admit[c], self.transfer_start[c], self.finish[c] = now, start, end + decode_us
            self.kv_free[d] -= call.kv_blocks
            heapq.heappush(self.events, (end, _PREFILL_ROOM, p, call.prefill_blocks))
            heapq.heappush(self.events, (end + decode_us, _DECODE_ROOM, d, call.kv_blocks))
        self.waiting[d] = left

    def _start_prefill(self, p: int, now: int) -> None:
        if now < self.prefill_free[p] or not self.queued[p]:
            return
        c = self.queued[p][0]
        call = self.window.calls[c]
        if self.window.options.prefill_kv and call.prefill_blocks > self.free_blocks[p]:
            return
        self.queued[p].pop(0)
        self.free_blocks[p] -= call.prefill_blocks
        self.start[c] = now
        self.prefill_free[p] = now + (call.prefill_us[p] or 0)
        heapq.heappush(self.events, (self.prefill_free[p], _PREFILL_END, c, 0))


_PREFILL_END, _PREFILL_ROOM, _DECODE_ROOM = range(3)
"""Kinds of events: a call's prefill ends, room becomes free (perhaps none: a prefill instance becomes idle)."""
