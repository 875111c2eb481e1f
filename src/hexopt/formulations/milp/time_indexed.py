"""``milp-time-indexed``: each call starts its prefill in a slot of time; equations (15) to (18).

Starts are rounded down to slots and so are durations where they take room, so every schedule has an image in the model
that is no later: it is a relaxation and has a bound. The proof is in ``formulations/milp-time-indexed/model.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from hexopt.errors import ConfigError
from hexopt.formulations.milp.driver import Milp, Order
from hexopt.formulations.milp.frame import MS, Frame
from hexopt.formulations.milp.relaxation import Schedule


class MilpTimeIndexed(Milp):
    """A binary for each call, prefill instance and slot; no big-M.

    Parameters
    ----------
    slot_us
        Length of a slot in µs.
    """

    name: ClassVar[str] = "milp-time-indexed"

    def __init__(self, solver: str = "highs", ties: bool = True, slot_us: int = 25_000) -> None:
        if slot_us < 1:
            raise ConfigError(f"formulation '{self.name}': slot_us is {slot_us}, it is at least 1, correct it")
        self.slot_us = slot_us
        super().__init__(solver, ties)

    def _order(self, frame: Frame) -> Order:
        return _TimeIndexed(frame, self.slot_us)


class _TimeIndexed:
    def __init__(self, frame: Frame, slot_us: int) -> None:
        self._frame, self._slot_us = frame, slot_us
        model, relaxation = frame.model, frame.relaxation
        self._starts: dict[int, dict[tuple[int, int], int]] = {c: {} for c in relaxation.open}
        """By call: the column of each (prefill instance, slot)."""
        self._work: list[tuple[int, list[tuple[int, float]]]] = []
        for p, instance in enumerate(relaxation.window.prefill):
            free = instance.free_us
            columns: list[tuple[int, int, int]] = []  # (slot, duration in µs, column)
            for c in relaxation.open:
                if p not in frame.x[c]:
                    continue
                model.check_time()
                took = relaxation.prefill_us(c, p)
                slots = range(free // slot_us, (relaxation.latest_end(c, p) - took) // slot_us + 1)
                here = {s: model.binary() for s in slots}
                self._starts[c].update(((p, s), column) for s, column in here.items())
                columns += [(s, took, column) for s, column in here.items()]
                model.add([*((column, 1.0) for column in here.values()), (frame.x[c][p], -1.0)], lower=0.0, upper=0.0)
            self._capacity(p, free, columns)
        for c, starts in self._starts.items():  # (16)
            ends = [
                (
                    column,
                    -MS * (max(s * slot_us, relaxation.window.prefill[p].free_us) + relaxation.prefill_us(c, p)),
                )
                for (p, s), column in starts.items()
            ]
            model.add([(frame.end[c], 1.0), *ends], lower=0.0)

    def _capacity(self, p: int, free: int, columns: list[tuple[int, int, int]]) -> None:
        slot_us, model = self._slot_us, self._frame.model
        done: int | None = None
        for k in range(min((s for s, _, _ in columns), default=0), max((s for s, _, _ in columns), default=-1) + 1):
            model.check_time()
            # (17): with durations rounded down, one call at a time.
            running = [(column, 1.0) for s, took, column in columns if s <= k < s + took // slot_us]
            if len(running) > 1:
                model.add(running, upper=1.0)
            # (18): what calls have done for certain by the end of slot k fits before it.
            more = [
                (column, -MS * (min(took, (k - s) * slot_us) - (k - 1 - s) * slot_us))
                for s, took, column in columns
                if s < k and (k - 1 - s) * slot_us < took
            ]
            if done is None and not more:
                continue
            before = [] if done is None else [(done, -1.0)]
            done = model.real(0.0, MS * ((k + 1) * slot_us - free))
            model.add([(done, 1.0), *before, *more], lower=0.0)
            self._work.append((done, [*before, *more]))

    def orders(self, values: Sequence[float]) -> list[list[int]]:
        """Within a slot: the shorter first, or the more urgent."""
        relaxation = self._frame.relaxation
        window = relaxation.window
        prefill, decode = self._frame.pairs(values)
        slot = {
            c: max(starts, key=lambda at, starts=starts: (values[starts[at]], at))[1]  # type: ignore[misc]
            for c, starts in self._starts.items()
        }

        def urgency(c: int) -> float:
            call = window.calls[c]
            d = None if call.one_token else decode[c]
            end = window.workflows[call.workflow].elapsed_us + relaxation.finish(c, prefill[c], d, 0) + call.tail_us
            return -end / window.workflows[call.workflow].horizon_us

        return [
            sorted(slot, key=lambda c: (slot[c], relaxation.prefill_us(c, prefill[c]), c)),
            sorted(slot, key=lambda c: (slot[c], urgency(c), c)),
        ]

    def start_from(self, schedule: Schedule) -> None:
        start = self._frame.model.start
        for c, starts in self._starts.items():
            at = schedule.prefill[c], schedule.start_us[c] // self._slot_us
            start.update((column, float(here == at)) for here, column in starts.items())
        for done, terms in self._work:
            start[done] = -sum(coefficient * start[column] for column, coefficient in terms)
