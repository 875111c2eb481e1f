"""``app-residual``: what followed calls of the application, in the mean over all its calls, wherever they stood."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import ClassVar

from hexopt.core.protocols import NO_TAIL, Tail
from hexopt.core.view import CallView
from hexopt.policies.forecast.lessons import Learner, Lesson, tail_of_examples

MOST_CALLS = 10_000
"""What followed so many calls of an application is kept, the latest; so many make no mean or decile uncertain."""


class AppResidual(Learner):
    """Knows nothing of an application before its first workflow ended.

    It remembers the latest :data:`MOST_CALLS` calls of each application, whole workflows, at least one: those whose
    lessons came first are forgotten first. A corrected lesson counts as new.
    """

    name: ClassVar[str] = "app-residual"

    def forget(self) -> None:
        """Forget everything."""
        self._seen: dict[str, list[int]] = {}
        self._of: dict[str, dict[int, list[int]]] = {}
        """By application and workflow, in order of lessons."""
        self._tails: dict[str, Tail] = {}

    def learn(self, lesson: Lesson) -> None:
        """Take in a workflow that ended."""
        examples = self._seen.setdefault(lesson.app, [])
        of = self._of.setdefault(lesson.app, {})
        for us in of.pop(lesson.workflow, ()):
            _remove(examples, us)
        own = of[lesson.workflow] = [us for _, us in lesson.rows]
        for us in own:
            insort(examples, us)
        while len(examples) > MOST_CALLS and len(of) > 1:
            for us in of.pop(next(iter(of))):
                _remove(examples, us)
        self._tails.pop(lesson.app, None)

    def tail(self, call: CallView) -> Tail:
        """Return the mean and the quantiles of what followed any call of the application."""
        app = call.workflow.app
        tail = self._tails.get(app)
        if tail is None:
            examples = self._seen.get(app)
            tail = self._tails[app] = tail_of_examples(examples) if examples else NO_TAIL
        return tail


def _remove(ordered: list[int], us: int) -> None:
    del ordered[bisect_left(ordered, us)]
