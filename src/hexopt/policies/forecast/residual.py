"""``app-residual``: what followed calls of the application, in the mean over all its calls, wherever they stood."""

from __future__ import annotations

from bisect import insort
from typing import ClassVar

from hexopt.core.protocols import NO_TAIL, Tail
from hexopt.core.view import CallView
from hexopt.policies.forecast.lessons import Learner, Lesson, tail_of_examples


class AppResidual(Learner):
    """Knows nothing of an application before its first workflow ended."""

    name: ClassVar[str] = "app-residual"

    def forget(self) -> None:
        """Forget everything."""
        self._seen: dict[str, list[int]] = {}
        self._of: dict[int, list[int]] = {}
        self._tails: dict[str, Tail] = {}

    def learn(self, lesson: Lesson) -> None:
        """Take in a workflow that ended."""
        examples = self._seen.setdefault(lesson.app, [])
        for us in self._of.pop(lesson.workflow, ()):
            examples.remove(us)
        own = self._of[lesson.workflow] = [us for _, us in lesson.rows]
        for us in own:
            insort(examples, us)
        self._tails.pop(lesson.app, None)

    def tail(self, call: CallView) -> Tail:
        """Return the mean and the quantiles of what followed any call of the application."""
        app = call.workflow.app
        tail = self._tails.get(app)
        if tail is None:
            examples = self._seen.get(app)
            tail = self._tails[app] = tail_of_examples(examples) if examples else NO_TAIL
        return tail
