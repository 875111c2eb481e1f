"""``learned``: what followed calls like this one, by the facts that a router sees.

Nearest neighbours: of all calls of the application in workflows that have ended, those whose facts are most like the
call's. A fact counts by how far it goes with what followed (its rank correlation), so that one which says nothing in an
application adds no noise there. The neighbours' own tails are the forecast, quantiles and all: where facts say little,
they spread as far as those of the whole application.
"""

from __future__ import annotations

from math import isqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hexopt.core.protocols import NO_TAIL, Tail
from hexopt.core.view import CallView
from hexopt.policies.forecast.lessons import Facts, Learner, Lesson, tail_of_examples

Floats = NDArray[np.float64]

LEAST_NEIGHBOURS = 8
"""A call has as many neighbours as the root of the number of examples, and at least these."""
LEAST_WORKFLOWS = 8
"""Below so many ended workflows of the application nothing is foretold."""
MOST_EXAMPLES = 8192
"""Of an application; the oldest workflows are forgotten first."""
LEAST_WEIGHT = 0.08
"""Facts whose rank correlation with what followed is below this are taken to say nothing."""


class Learned(Learner):
    """Nearest neighbours by what a router sees; see above."""

    name: ClassVar[str] = "learned"

    def forget(self) -> None:
        """Forget everything."""
        self._apps: dict[str, _App] = {}

    def learn(self, lesson: Lesson) -> None:
        """Take in a workflow that ended."""
        self._apps.setdefault(lesson.app, _App()).learn(lesson)

    def tail(self, call: CallView) -> Tail:
        """Return what followed the calls most like this one."""
        app = self._apps.get(call.workflow.app)
        if app is None or len(app) < LEAST_WORKFLOWS:
            return NO_TAIL
        return app.tail(self.lessons.reader.facts(call))


class _App:
    """The calls of one application in workflows that have ended."""

    def __init__(self) -> None:
        self._rows: dict[int, list[tuple[Facts, int]]] = {}
        self._count = 0
        self._new = 0
        """Examples that came since the last fit."""
        self._facts: Floats = np.empty((0, len(Facts._fields)))
        self._tails: NDArray[np.int64] = np.empty(0, np.int64)
        self._scale: Floats = np.empty(0)
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def learn(self, lesson: Lesson) -> None:
        self._count -= len(self._rows.pop(lesson.workflow, ()))
        self._rows[lesson.workflow] = lesson.rows
        self._count += len(lesson.rows)
        self._new += len(lesson.rows)
        while self._count > MOST_EXAMPLES and len(self._rows) > 1:
            self._count -= len(self._rows.pop(next(iter(self._rows))))

    def tail(self, facts: Facts) -> Tail:
        # Fitting costs a pass over all examples; so it is done whenever a ninth of them is new, also when as many old
        # ones were forgotten.
        if 9 * self._new >= self._count:
            self._fit()
        far = np.abs(self._facts - _as_row(facts) * self._scale)
        distance = np.square(far).sum(axis=1)
        k = min(max(LEAST_NEIGHBOURS, isqrt(len(distance))), len(distance))
        # Of equal distances, those learnt first: the answer must not depend on the selection algorithm.
        within = np.partition(distance, k - 1)[k - 1]
        near = np.flatnonzero(distance <= within)
        return tail_of_examples(sorted(self._tails[near].tolist()))

    def _fit(self) -> None:
        rows = [row for rows in self._rows.values() for row in rows]
        self._new = 0
        self._tails = np.array([us for _, us in rows], np.int64)
        facts = np.array([_as_row(f) for f, _ in rows])
        spread = facts.std(axis=0)
        weight = np.array([_rank_correlation(facts[:, j], self._tails) for j in range(facts.shape[1])])
        self._scale = np.where((spread > 0) & (weight >= LEAST_WEIGHT), weight / np.where(spread > 0, spread, 1.0), 0.0)
        self._facts = facts * self._scale


def _as_row(facts: Facts) -> Floats:
    return np.log1p(np.maximum(0.0, np.array(facts, np.float64)))


def _rank_correlation(x: Floats, y: NDArray[np.int64]) -> float:
    """Return the absolute rank correlation, ranks of equal values averaged; 0 where one of them does not vary."""
    a, b = _ranks(x), _ranks(y)
    a -= a.mean()
    b -= b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return abs(float((a * b).sum())) / norm if norm > 0 else 0.0


def _ranks(values: NDArray[np.float64] | NDArray[np.int64]) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse].astype(np.float64)
