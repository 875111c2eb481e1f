"""``milp-disjunctive``: of any two calls of a prefill instance one comes first; equations (13) and (14).

The mathematics is in ``formulations/milp-disjunctive/model.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar

from hexopt.formulations.milp.driver import Milp, Order
from hexopt.formulations.milp.frame import MS, Frame
from hexopt.formulations.milp.relaxation import Schedule


class MilpDisjunctive(Milp):
    """A binary for the order of each two calls, tied to their times by big-M rows."""

    name: ClassVar[str] = "milp-disjunctive"

    def _order(self, frame: Frame) -> Order:
        return _Disjunctive(frame)


class _Disjunctive:
    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._before: dict[tuple[int, int], int] = {}
        model, relaxation = frame.model, frame.relaxation
        for one, other in combinations(relaxation.open, 2):
            shared = [p for p in frame.x[one] if p in frame.x[other]]
            if not shared:
                continue
            before = self._before[one, other] = model.binary()
            # (13): ``other`` ends its own prefill later if ``one`` is first and both are on p; (14): the reverse.
            for first, second, sign in ((one, other, 1.0), (other, one, -1.0)):
                least = model.lower[frame.end[second]]
                for p in shared:
                    took = MS * relaxation.prefill_us(second, p)
                    big = MS * relaxation.latest_end(first, p) + took - least
                    # E_second − E_first >= took − big · (1 − [first before]) − big · (2 − x_first − x_second); where x
                    # is 1, E_first is at most its latest end on p.
                    most = model.upper[frame.end[first]] + took - least
                    model.add(
                        [
                            (frame.end[second], 1.0),
                            (frame.end[first], -1.0),
                            (before, -big * sign),
                            (frame.x[first][p], -most),
                            (frame.x[second][p], -most),
                        ],
                        lower=took - 2 * most - (big if sign > 0 else 0.0),
                    )

    def orders(self, values: Sequence[float]) -> list[list[int]]:
        return [sorted(self._frame.relaxation.open, key=lambda c: (values[self._frame.end[c]], c))]

    def start_from(self, schedule: Schedule) -> None:
        for (one, other), before in self._before.items():
            first = (schedule.start_us[one], one) < (schedule.start_us[other], other)
            self._frame.model.start[before] = float(first)
