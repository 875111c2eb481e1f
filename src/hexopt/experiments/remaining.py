"""How long a study will still take, from what its runs have cost so far.

A share of runs done says little: policies differ in cost by a factor of a hundred, and the order of runs is not random.
So costs are measured by kind of run (cluster, trace, policy), in this call and in earlier ones, and what is left is
added up. The clock is used for this alone; no result depends on it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from hexopt.experiments.grid import RunSpec

Kind = tuple[str, str, str]


def kind(spec: RunSpec) -> Kind:
    """Return what runs of about the same cost have in common."""
    return spec.cluster, spec.trace, spec.policy


class Remaining:
    """Told when runs start and end; says how long the rest will take.

    Parameters
    ----------
    pending
        Runs to be done.
    earlier
        Finished runs and what they cost, s.

    Attributes
    ----------
    workers
        How many runs are carried out at a time.
    """

    def __init__(
        self,
        pending: Iterable[RunSpec],
        earlier: Iterable[tuple[RunSpec, float]] = (),
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.workers = workers
        self._clock = clock
        self._left = Counter(kind(spec) for spec in pending)
        self._cost: dict[Kind, tuple[float, int]] = {}
        self._at_work: dict[str, tuple[Kind, float]] = {}
        self._since: float | None = None
        self._spent_since = 0.0
        self._ended_since = 0
        for spec, seconds in earlier:
            self._measure(kind(spec), seconds)

    def started(self, spec: RunSpec) -> None:
        """A worker has a run."""
        self._at_work[spec.key] = kind(spec), self._clock()

    def ended(self, spec: RunSpec, seconds: float | None) -> None:
        """A run is over and took so long; ``None`` if it failed, which says nothing about the others."""
        self._at_work.pop(spec.key, None)
        self._left[kind(spec)] -= 1
        if self._since is None:  # workers have started up
            self._since = self._clock()
        elif seconds is not None:
            self._spent_since += seconds
            self._ended_since += 1
        if seconds is not None:
            self._measure(kind(spec), seconds)

    @property
    def unmeasured(self) -> int:
        """How many kinds of run are still to be done of which none has been measured."""
        return sum(1 for k, count in self._left.items() if count > 0 and k not in self._cost)

    @property
    def seconds(self) -> float | None:
        """How long the rest will take; ``None`` before anything is measured.

        The work left, divided among the workers, but no less than the longest run left. A kind that is not measured
        counts as the mean of its policy's, or else of its cluster's and trace's, or else of all.
        """
        if not self._cost:
            return None
        costs = {k: self._expected(k) for k, count in self._left.items() if count > 0}
        work = sum(costs[k] * self._left[k] for k in costs)
        longest = max(costs.values(), default=0.0)
        now = self._clock()
        at_work = sorted(self._at_work.values(), key=lambda run: run[1])[: self.workers]  # others only wait there
        done = sum(min(costs.get(k, 0.0), now - start) for k, start in at_work)
        if self._at_work and sum(self._left.values()) <= len(at_work):
            longest = max(max(0.0, costs.get(k, 0.0) - (now - start)) for k, start in at_work)
        return max((work - done) / self.workers, longest) * self._pace(now)

    def _pace(self, now: float) -> float:
        """Return by how much the study is slower than its runs alone would be, as seen so far; at least 1."""
        if self._since is None or self._ended_since < 2 * self.workers or not self._spent_since:
            return 1.0
        return max(1.0, (now - self._since) * self.workers / self._spent_since)

    def _measure(self, what: Kind, seconds: float) -> None:
        total, count = self._cost.get(what, (0.0, 0))
        self._cost[what] = total + seconds, count + 1

    def _expected(self, what: Kind) -> float:
        for alike in (
            lambda k: k == what,
            lambda k: k[2] == what[2],
            lambda k: k[:2] == what[:2],
            lambda k: True,
        ):
            means = [total / count for k, (total, count) in self._cost.items() if alike(k)]
            if means:
                return sum(means) / len(means)
        return 0.0


def earlier_costs(specs: Iterable[RunSpec], timings: Mapping[str, Mapping[str, float]]) -> list[tuple[RunSpec, float]]:
    """Return the finished runs among ``specs`` with what they cost, by their timings."""
    return [(spec, timings[spec.key]["run_wall_s"]) for spec in specs if "run_wall_s" in timings.get(spec.key, {})]
