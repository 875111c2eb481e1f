"""``milp-deadline``: at a given SLO scale, which calls are in time; equations (10) to (12).

No order and no big-M: on one machine the order of deadlines is as good as any. The mathematics is in
``formulations/milp-deadline/model.md``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from hexopt.core.window import Window, WindowPlan
from hexopt.formulations.milp.driver import Attempt, Milp
from hexopt.formulations.milp.frame import MS
from hexopt.formulations.milp.linear import LinearModel
from hexopt.formulations.milp.relaxation import Relaxation, Schedule
from hexopt.formulations.objective import Objective
from hexopt.formulations.protocol import StopReason


class MilpDeadline(Milp):
    """Counts late workflows (``late``); for ``bottleneck``, bisects over the scale at which none is late."""

    name: ClassVar[str] = "milp-deadline"

    def _cannot_state(self, window: Window, objective: Objective) -> str:
        if objective.kind in ("late", "bottleneck"):
            return ""
        return f"milp-deadline: objective '{objective.kind}' found, it states late and bottleneck only, choose another"

    def _solve(self, attempt: Attempt, hint: WindowPlan | None) -> None:
        relaxation = Relaxation(attempt.window, attempt.objective)
        known = relaxation.of_plan(hint)
        if attempt.objective.kind == "late":
            self._count_late(attempt, relaxation, known)
        else:
            self._bisect(attempt, relaxation, known)

    def _count_late(self, attempt: Attempt, relaxation: Relaxation, known: Schedule | None) -> None:
        begin = time.perf_counter()
        model = _Model(relaxation, LinearModel(attempt.deadline), attempt.objective.latest_us(attempt.window), True)
        if known is not None:
            model.start_from(known)
        attempt.build_s = time.perf_counter() - begin
        answer = attempt.run(model.linear)
        if answer is None:
            return
        attempt.stop = answer.stop_reason
        if answer.infeasible:
            attempt.infeasible = attempt.best.value is None
            return
        if answer.bound is not None:
            attempt.bound = max(attempt.bound, math.ceil(answer.bound - model.linear.proof_error(answer.bound)))
        if answer.values is not None:
            attempt.model_objective = answer.objective
            attempt.trajectory += list(answer.incumbents)
            attempt.best.offer(relaxation.plan(model.schedule(answer.values)))

    def _bisect(self, attempt: Attempt, relaxation: Relaxation, known: Schedule | None) -> None:
        """Keep ``low``, below which nothing is possible, and ``high``, the value of a schedule, and halve between."""
        horizons = [w.horizon_us for w in attempt.window.workflows]
        low, high = attempt.bound, math.inf if known is None else relaxation.value(known)
        listed = relaxation.list_schedule()
        # What is asked for: at first anything better than the hint, or as good as a list schedule.
        latest: list[int] | None = None
        asked = high
        if known is None and listed is not None:
            asked = relaxation.value(listed)
            latest = [math.floor(asked * h + 1e-6) for h in horizons]
        elif known is not None:
            attempt.model_objective = high
            latest = _below(high, horizons)
        while low < high:
            begin = time.perf_counter()
            model = _Model(relaxation, LinearModel(attempt.deadline), latest, False)
            attempt.build_s += time.perf_counter() - begin
            answer = attempt.run(model.linear)
            if answer is None:
                attempt.stop = StopReason.TIME_LIMIT if attempt.runs else StopReason.NOT_STARTED
                return
            attempt.stop = answer.stop_reason
            if answer.infeasible:
                if latest is None:
                    attempt.infeasible = attempt.best.value is None
                    return
                attempt.bound = low = max(low, asked)
            elif answer.values is not None:
                schedule = model.schedule(answer.values)
                before, high = high, min(high, relaxation.value(schedule))
                attempt.model_objective = high
                attempt.trajectory += [(s, high) for s, _ in answer.incumbents[-1:]]
                attempt.best.offer(relaxation.plan(schedule))
                if high == before:  # times so large that doubles do not hold what was asked for: it would ask for ever
                    attempt.stop = StopReason.COMPLETE
                    attempt.notes.append("the last question is beyond the precision of doubles")
                    return
            else:
                return
            # Very near, ask for anything better: if that is impossible, ``high`` itself is proved.
            asked = high if high - low <= 1e-6 * high else low + (high - low) / 2
            latest = _below(high, horizons) if asked == high else [math.floor(asked * h) for h in horizons]
        attempt.stop = StopReason.PROVED


def _below(value: float, horizons: Sequence[int]) -> list[int]:
    """Return the latest ends under which every ratio is below a value that is reached."""
    return [math.ceil(value * h - 1e-6) - 1 for h in horizons]


class _Column(NamedTuple):
    """Call c on p and d in time: its prefill must be over by ``due_us``."""

    c: int
    p: int
    d: int | None
    due_us: int
    column: int


class _Model:
    """Equations (10) to (12) for given latest ends of workflows, µs after their arrival (``None``: no limit)."""

    def __init__(
        self, relaxation: Relaxation, linear: LinearModel, latest: list[int] | None, may_be_late: bool
    ) -> None:
        self.relaxation, self.linear = relaxation, linear
        window = relaxation.window
        self._late = [linear.binary() for _ in window.workflows] if may_be_late else []
        self._columns: list[_Column] = []
        self._late_at: dict[int, dict[int, int]] = {}
        for w, (workflow, late) in enumerate(zip(window.workflows, self._late, strict=bool(self._late))):
            if latest is not None and workflow.elapsed_us + (workflow.floor_us or 0) > latest[w]:
                linear.add([(late, 1.0)], lower=1.0)
        if not may_be_late and latest is not None:
            for w, workflow in enumerate(window.workflows):
                if workflow.elapsed_us + (workflow.floor_us or 0) > latest[w]:
                    linear.add([], lower=1.0)  # not possible
        for c, call in enumerate(window.calls):
            linear.check_time()
            due = None
            if latest is not None:
                due = latest[call.workflow] - window.workflows[call.workflow].elapsed_us - call.tail_us
            self._cover(c, due)
        self._loads(latest is None)
        self._caps()

    def _cover(self, c: int, due: int | None) -> None:
        """(11): a call is in time on a pair, or its workflow is late and the call goes last somewhere."""
        relaxation, call = self.relaxation, self.relaxation.window.calls[c]
        mine = []
        ds: Sequence[int | None] = [None] if call.one_token else relaxation.decodes[c]
        for p in call.prefills():
            soonest = (
                relaxation.window.prefill[p].free_us + relaxation.prefill_us(c, p)
                if call.is_open
                else call.available_us or 0
            )
            for d in ds:
                end_by = _NEVER
                if due is not None:
                    if relaxation.finish(c, p, d, soonest) > due:
                        continue
                    end_by = due - (0 if d is None else relaxation.after_us(c, p, d))
                mine.append(_Column(c, p, d, end_by, self.linear.binary()))
        self._columns += mine
        cover = [(m.column, 1.0) for m in mine]
        if self._late:
            late = self._late[call.workflow]
            last = self._late_at[c] = {-1 if d is None else d: self.linear.binary() for d in ds}
            cover += [(column, 1.0) for column in last.values()]
            self.linear.add([*((column, 1.0) for column in last.values()), (late, -1.0)], upper=0.0)
        self.linear.add(cover, lower=1.0, upper=1.0)

    def _loads(self, unlimited: bool) -> None:
        """(10): by deadline on each prefill instance, what is due until then fits."""
        if unlimited:
            return
        relaxation = self.relaxation
        for p, instance in enumerate(relaxation.window.prefill):
            here = [m for m in self._columns if m.p == p and relaxation.window.calls[m.c].is_open]
            load: int | None = None
            # Half a µs more changes nothing for whole numbers, and keeps rounding errors from forbidding what is just
            # possible.
            for m in sorted(here, key=lambda m: (m.due_us, m.c, m.d or 0)):
                column = self.linear.real(0.0, MS * (m.due_us - instance.free_us + 0.5))
                before = [] if load is None else [(load, -1.0)]
                took = -MS * relaxation.prefill_us(m.c, p)
                self.linear.add([(column, 1.0), *before, (m.column, took)], lower=0.0)
                load = column

    def _caps(self) -> None:
        """(12): no decode instance gets more new calls than it may."""
        relaxation = self.relaxation
        sent = set(relaxation.sent)
        for d, instance in enumerate(relaxation.window.decode):
            here = [m.column for m in self._columns if m.c in sent and m.d == d]
            here += [at[d] for c, at in self._late_at.items() if c in sent and d in at]
            self.linear.add(((column, 1.0) for column in here), upper=instance.max_new)
        self.linear.minimise((late, 1.0) for late in self._late)

    def schedule(self, values: Sequence[float]) -> Schedule:
        """Return the schedule: calls in time by deadline, then the late ones, each where it ends soonest."""
        relaxation = self.relaxation
        calls = relaxation.window.calls
        prefill = [call.prefills()[0] for call in calls]
        decode: list[int | None] = [relaxation.idle_decode(c) for c in range(len(calls))]
        due: dict[int, int] = {}
        for m in self._columns:
            if values[m.column] > 0.5:
                prefill[m.c], due[m.c] = m.p, m.due_us
                if m.d is not None:
                    decode[m.c] = m.d
        order = sorted((c for c in due if calls[c].is_open), key=lambda c: (due[c], c))
        free = [instance.free_us for instance in relaxation.window.prefill]
        for c in order:
            free[prefill[c]] += relaxation.prefill_us(c, prefill[c])
        for c, at in self._late_at.items():
            if c in due:
                continue
            d = max(at, key=lambda d: (values[at[d]], -d))
            decode[c] = decode[c] if d < 0 else d
            if calls[c].is_open:
                prefill[c] = min(
                    calls[c].prefills(),
                    key=lambda p: (free[p] + relaxation.prefill_us(c, p), p),
                )
                free[prefill[c]] += relaxation.prefill_us(c, prefill[c])
                order.append(c)
        return relaxation.play(prefill, decode, order)

    def start_from(self, schedule: Schedule) -> None:
        """Set all columns to a schedule: what is in time there, and the late workflows."""
        relaxation, start = self.relaxation, self.linear.start
        start.update((j, 0.0) for j in range(len(self.linear.lower)))
        chosen: set[int] = set()
        for m in self._columns:
            d = None if relaxation.window.calls[m.c].one_token else schedule.decode[m.c]
            if (m.p, m.d) == (schedule.prefill[m.c], d) and schedule.end_us[m.c] <= m.due_us:
                start[m.column] = 1.0
                chosen.add(m.c)
        for c, at in self._late_at.items():
            if c not in chosen:
                d = schedule.decode[c]
                start[at[d if d in at and d is not None else -1]] = 1.0
                start[self._late[relaxation.window.calls[c].workflow]] = 1.0
        for row in self.linear.rows:
            # Loads, in the order in which their rows were made; and workflows that are late anyway.
            first = row.columns[0] if row.columns else None
            if first is not None and row.lower == 1.0 and len(row.columns) == 1 and first in self._late:
                start[first] = 1.0
            elif first is not None and not self.linear.integer[first] and row.lower == 0.0:
                start[first] = -sum(a * start[j] for j, a in zip(row.columns[1:], row.coefficients[1:], strict=True))


_NEVER = 2**53
