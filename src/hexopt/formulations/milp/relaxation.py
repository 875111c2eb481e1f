"""The problem that all four models solve: a window without KV, without prefill KV, and without network contention.

Equation numbers are those of ``formulations/milp/model.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from hexopt.core.window import Window, WindowPlan
from hexopt.formulations.checker import check, workflow_ends
from hexopt.formulations.extraction import to_plan
from hexopt.formulations.objective import Objective
from hexopt.formulations.single_call import earliest_finish_us, single_call_ends


class Schedule(NamedTuple):
    """Each call's pair (decode ``None`` for one that has none), its prefill's start and end, and its completion."""

    prefill: tuple[int, ...]
    decode: tuple[int | None, ...]
    start_us: tuple[int, ...]
    end_us: tuple[int, ...]
    finish_us: tuple[int, ...]


class Relaxation:
    """Times, candidates and their reductions; everything in whole µs."""

    def __init__(self, window: Window, objective: Objective) -> None:
        self.window = window
        self.objective = objective
        self.open = [c for c, call in enumerate(window.calls) if call.is_open]
        self.sent = [c for c in self.open if not window.calls[c].one_token]
        """Open calls that are sent to a decode instance, and count for its ``max_new``."""
        self.least_ends = single_call_ends(window)
        self.prefills = {c: window.calls[c].prefills() for c in self.open}
        self.decodes = {
            c: call.decodes() for c, call in enumerate(window.calls) if not call.one_token and len(call.decodes()) > 0
        }
        self._load = [
            instance.free_us + sum(window.calls[c].prefill_us[p] or 0 for c in self.open if p in self.prefills[c])
            for p, instance in enumerate(window.prefill)
        ]
        self.latest_finish: list[int | None] = [None] * len(window.calls)

    def prefill_us(self, c: int, p: int) -> int:
        """Return how long a call's prefill takes on p."""
        return self.window.calls[c].prefill_us[p] or 0

    def after_us(self, c: int, p: int, d: int) -> int:
        """Return what follows a transfer's start: wire, latency and decode."""
        call = self.window.calls[c]
        return call.wire_us[p][d] + self.window.options.latency_us + (call.decode_us[d] or 0)

    def booked_us(self, p: int, d: int) -> int:
        """Return until when a pair's interfaces are booked at the cut."""
        if self.window.options.contention == "none":
            return 0
        return max(self.window.prefill[p].nic_free_us, self.window.decode[d].nic_free_us)

    def finish(self, c: int, p: int, d: int | None, end_us: int) -> int:
        """Return a call's completion if its prefill ends at ``end_us``; equation (4)."""
        if d is None:
            return end_us
        return max(end_us, self.booked_us(p, d)) + self.after_us(c, p, d)

    def latest_end(self, c: int, p: int) -> int:
        """Return a time by which an open call's prefill on p is over in some best schedule; equations (7) and (8)."""
        latest = self.latest_finish[c]
        if latest is None:
            return self._load[p]
        if self.window.calls[c].one_token:
            return min(self._load[p], latest)
        return min(self._load[p], latest - min(self.after_us(c, p, d) for d in self.decodes[c]))

    def cut_off(self, value: float) -> None:
        """Drop what no schedule of at most this value of the objective needs; equation (8)."""
        kind = self.objective.kind
        if kind not in ("bottleneck", "sum"):
            return
        window = self.window
        horizons = [w.horizon_us for w in window.workflows]
        least = [e / h for e, h in zip(self.least_ends, horizons, strict=True)]
        for c, call in enumerate(window.calls):
            w = call.workflow
            room = value if kind == "bottleneck" else value - (math.fsum(least) - least[w])
            # Up by rounding errors and a µs: what is cut off is worse for certain.
            end = math.floor(room * horizons[w] * (1 + 1e-9)) + 1
            self.latest_finish[c] = end - window.workflows[w].elapsed_us - call.tail_us
        for c in self.open:
            self.prefills[c] = [
                p
                for p in self.prefills[c]
                if self.window.prefill[p].free_us + self.prefill_us(c, p) <= self.latest_end(c, p)
            ]

    # ----- schedules --------------------------------------------------------------------------------------------------

    def play(self, prefill: Sequence[int], decode: Sequence[int | None], order: Sequence[int]) -> Schedule:
        """Return the schedule in which each prefill instance serves its open calls in an order without idling."""
        calls = self.window.calls
        free = [instance.free_us for instance in self.window.prefill]
        start, end = [0] * len(calls), [call.available_us or 0 for call in calls]
        for c in order:
            if calls[c].is_open:
                p = prefill[c]
                start[c] = free[p]
                end[c] = free[p] = free[p] + self.prefill_us(c, p)
        finish = [
            self.finish(c, prefill[c], None if call.one_token else decode[c], end[c]) for c, call in enumerate(calls)
        ]
        return Schedule(tuple(prefill), tuple(decode), tuple(start), tuple(end), tuple(finish))

    def value(self, schedule: Schedule) -> float:
        """Return the objective of a schedule without the rules that are left out."""
        return self.objective.value(self.window, workflow_ends(self.window, schedule.finish_us)).objective

    def plan(self, schedule: Schedule) -> WindowPlan:
        """Return the plan that follows a schedule."""
        return to_plan(self.window, schedule.prefill, schedule.decode, schedule.start_us, schedule.end_us)

    def of_plan(self, plan: WindowPlan | None) -> Schedule | None:
        """Return the schedule of a plan; ``None`` if it breaks a rule."""
        if plan is None or check(self.window, plan).value is None:
            return None
        order = sorted(range(len(plan)), key=lambda c: (plan[c].priority, c))
        return self.play([row.prefill for row in plan], [row.decode for row in plan], order)

    def idle_decode(self, c: int) -> int | None:
        """Return the decode instance that is named for a call of one token: where it is queued, or the first."""
        call = self.window.calls[c]
        choices = call.decodes()
        return call.decode if call.decode in choices else next(iter(choices), None)

    def list_schedule(self) -> Schedule | None:
        """Return a quick schedule: the most urgent call first, each where it completes soonest.

        ``None`` if it leaves a call without a decode instance. It serves as a cut-off, never as an answer.
        """
        window, calls = self.window, self.window.calls

        def urgency(c: int) -> tuple[float, int]:
            workflow = window.workflows[calls[c].workflow]
            end = workflow.elapsed_us + earliest_finish_us(window, calls[c]) + calls[c].tail_us
            return -end / workflow.horizon_us, c

        order = sorted(range(len(calls)), key=urgency)
        free = [instance.free_us for instance in window.prefill]
        left = [instance.max_new for instance in window.decode]
        prefill = [0] * len(calls)
        decode: list[int | None] = [None] * len(calls)
        for c in order:
            call = calls[c]
            best: tuple[int, int, int, int | None] | None = None
            for p in call.prefills():
                end = free[p] + self.prefill_us(c, p) if call.is_open else call.available_us or 0
                if call.one_token:
                    idle = (end, p, 0, self.idle_decode(c))  # p tells any two of them apart
                    best = idle if best is None else min(best, idle)
                    continue
                for d in call.decodes():
                    if not call.is_open or left[d]:
                        finish = self.finish(c, p, d, end)
                        best = min(best or (finish, p, d, d), (finish, p, d, d))
            if best is None:
                return None
            _, prefill[c], place, decode[c] = best
            if call.is_open:
                free[best[1]] += self.prefill_us(c, best[1])
                if not call.one_token:
                    left[place] -= 1
        return self.play(prefill, decode, order)
