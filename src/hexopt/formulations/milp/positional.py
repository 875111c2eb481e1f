"""``milp-positional``: each call takes a position in the queue of its prefill instance; equations (19) to (22).

The mathematics is in ``formulations/milp-positional/model.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from hexopt.formulations.milp.driver import Milp, Order
from hexopt.formulations.milp.frame import MS, Frame
from hexopt.formulations.milp.relaxation import Schedule


class MilpPositional(Milp):
    """A binary for each call, prefill instance and position; big-M rows tie a position's end to its call."""

    name: ClassVar[str] = "milp-positional"

    def _order(self, frame: Frame) -> Order:
        return _Positional(frame)


class _Positional:
    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        model, relaxation = frame.model, frame.relaxation
        self._z: list[list[dict[int, int]]] = []
        """By prefill instance, position and call."""
        self._ends: list[list[int]] = []
        for p, instance in enumerate(relaxation.window.prefill):
            here = [c for c in relaxation.open if p in frame.x[c]]
            latest = max((relaxation.latest_end(c, p) for c in here), default=0)
            count = _positions(instance.free_us, [relaxation.prefill_us(c, p) for c in here], latest)
            z = [{c: model.binary() for c in here} for _ in range(count)]
            self._z.append(z)
            ends = [model.real(MS * instance.free_us, MS * latest) for _ in range(count)]
            self._ends.append(ends)
            for c in here:  # (19)
                model.add([*((at[c], 1.0) for at in z), (frame.x[c][p], -1.0)], lower=0.0, upper=0.0)
            for k, (at, end) in enumerate(zip(z, ends, strict=True)):
                taken = [(column, 1.0) for column in at.values()]
                if k:  # (20)
                    model.add([*((column, 1.0) for column in z[k - 1].values()), *_minus(taken)], lower=0.0)
                else:
                    model.add(taken, upper=1.0)
                times = [(column, -MS * relaxation.prefill_us(c, p)) for c, column in at.items()]
                before = [(ends[k - 1], -1.0)] if k else []
                model.add([(end, 1.0), *before, *times], lower=0.0 if k else MS * instance.free_us)  # (21)
                for c, column in at.items():  # (22)
                    big = MS * latest - model.lower[frame.end[c]]
                    model.add([(frame.end[c], 1.0), (end, -1.0), (column, -big)], lower=-big)

    def orders(self, values: Sequence[float]) -> list[list[int]]:
        position: dict[int, int] = {}
        for z in self._z:
            for k, at in enumerate(z):
                position.update((c, k) for c, column in at.items() if values[column] > 0.5)
        return [sorted(self._frame.relaxation.open, key=lambda c: (position.get(c, len(position)), c))]

    def start_from(self, schedule: Schedule) -> None:
        start = self._frame.model.start
        for p, (z, ends) in enumerate(zip(self._z, self._ends, strict=True)):
            queue = sorted(
                (c for c in self._frame.relaxation.open if schedule.prefill[c] == p), key=lambda c: schedule.end_us[c]
            )
            last = MS * self._frame.relaxation.window.prefill[p].free_us
            for k, (at, end) in enumerate(zip(z, ends, strict=True)):
                here = queue[k] if k < len(queue) else -1
                last = MS * schedule.end_us[here] if here >= 0 else last
                start[end] = last
                start.update((column, float(c == here)) for c, column in at.items())


def _positions(free_us: int, prefill_us: list[int], latest_us: int) -> int:
    """Return how many of these calls can be over by then."""
    count = 0
    for us in sorted(prefill_us):
        free_us += us
        if free_us > latest_us:
            break
        count += 1
    return count


def _minus(terms: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(column, -coefficient) for column, coefficient in terms]
