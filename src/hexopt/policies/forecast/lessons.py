"""What a router can learn from: workflows that have ended, and what followed each of their calls.

Nobody tells a router that a workflow has ended. One without an open call is taken to have ended when it has been so
for longer than any workflow of its application was before it went on; if it goes on after all, the lesson is corrected.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from hexopt.core.cluster import Cluster
from hexopt.core.protocols import TAIL_LEVELS, LatencyModel, Tail
from hexopt.core.view import CallState, CallView, View, WorkflowView
from hexopt.core.workflow import Trace, Workflow
from hexopt.latency.alone import Alone

LEAST_PATIENCE_US = 1_000_000
FIRST_PATIENCE_US = 10_000_000
"""How long a workflow must be without an open call before it counts as ended, before a pause was seen."""


class Facts(NamedTuple):
    """What is known of a call when it is revealed, beside its application."""

    depth: int
    """Calls on its longest path from the start."""
    calls: int
    """Calls of the workflow revealed before it."""
    width: int
    """Calls revealed together with it."""
    prompt_tokens: int
    growth_tokens: int
    """Of its prompt over the longest of its parents'."""
    last_output_tokens: int
    """The most that one of its parents produced."""
    mean_output_tokens: int
    """The mean over its ancestors along the longest path."""
    tool_us: int
    """From the last parent's completion to its being ready."""


class Lesson(NamedTuple):
    """A workflow that has ended: facts of each call, and what followed it (µs, as :class:`Tail` counts)."""

    workflow: int
    app: str
    rows: list[tuple[Facts, int]]


class Reader:
    """Works out the facts of calls, once each."""

    def __init__(self) -> None:
        self._paths: dict[int, tuple[int, int]] = {}
        """By call key: calls on the longest path to it, and the output tokens of those before it."""

    def facts(self, call: CallView) -> Facts:
        """Return the facts of a call."""
        calls = call.workflow.calls
        # Calls are listed in order of revealing.
        before = bisect_left(calls, call.ready_us, key=lambda c: c.ready_us)
        after = bisect_right(calls, call.ready_us, lo=before, key=lambda c: c.ready_us)
        parents = call.parents
        depth, output = self._path(call)
        return Facts(
            depth,
            before,
            after - before,
            call.prompt_tokens,
            call.prompt_tokens - max([p.prompt_tokens for p in parents], default=0),
            max([p.output_tokens for p in parents], default=0),
            output // depth if depth else 0,
            call.ready_us - max([p.complete_us for p in parents], default=call.workflow.arrival_us),
        )

    def forget(self, workflow: WorkflowView) -> None:
        """Drop what was worked out for a workflow."""
        for call in workflow.calls:
            self._paths.pop(call.key, None)

    def _path(self, call: CallView) -> tuple[int, int]:
        known = self._paths
        stack = [call]
        while stack:
            top = stack[-1]
            missing = [p for p in top.parents if p.key not in known]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            if top.key not in known:
                steps = [(known[p.key][0] + 1, known[p.key][1] + p.output_tokens) for p in top.parents]
                known[top.key] = max(steps, default=(0, 0))
        return known[call.key]


class Lessons:
    """Watches views and tells of workflows that have ended."""

    def __init__(self, alone: Alone) -> None:
        self.reader = Reader()
        self._alone = alone
        self._last_key = -1
        self._watched: dict[int, WorkflowView] = {}
        self._due: list[tuple[int, int]] = []
        self._pause_us: dict[str, int] = {}

    def look(self, view: View) -> Iterator[Lesson]:
        """Take note of a view; yield lessons, in order of workflows' ends."""
        now = view.now_us
        last = self._last_key
        new = [c for c in view.pool if c.key > last]
        for d in view.decode:
            new.extend(c for key, c in d.bound.items() if key > last)
        if new:
            new.sort(key=lambda c: c.key)
            self._last_key = new[-1].key
            for call in new:
                index = call.workflow.index
                if index not in self._watched:
                    self._watched[index] = call.workflow
                    heapq.heappush(self._due, (now + LEAST_PATIENCE_US, index))
        while self._due and self._due[0][0] <= now:
            index = heapq.heappop(self._due)[1]
            lesson = self._examine(self._watched[index], now)
            if lesson is not None:
                yield lesson

    def _examine(self, workflow: WorkflowView, now_us: int) -> Lesson | None:
        calls = workflow.calls
        at_us = now_us + LEAST_PATIENCE_US
        if all(c.state == CallState.COMPLETE for c in calls):
            self._note_pauses(workflow)
            at_us = max(c.complete_us for c in calls) + self._patience_us(workflow.app)
            if at_us <= now_us:
                del self._watched[workflow.index]
                return self.lesson(workflow)
        heapq.heappush(self._due, (at_us, workflow.index))
        return None

    def lesson(self, workflow: WorkflowView) -> Lesson:
        """Return what a complete workflow teaches."""
        rows = [
            (self.reader.facts(c), us) for c, us in zip(workflow.calls, tails_us(workflow, self._alone), strict=True)
        ]
        self.reader.forget(workflow)
        return Lesson(workflow.index, workflow.app, rows)

    def _note_pauses(self, workflow: WorkflowView) -> None:
        pauses = [c.ready_us - max(p.complete_us for p in c.parents) for c in workflow.calls if c.parents]
        if pauses:
            self._pause_us[workflow.app] = max(self._pause_us.get(workflow.app, 0), *pauses)

    def _patience_us(self, app: str) -> int:
        pause_us = self._pause_us.get(app)
        return FIRST_PATIENCE_US if pause_us is None else max(LEAST_PATIENCE_US, 2 * pause_us)


class Learner:
    """A forecaster that learns from workflows that ended, in the run and before; it says how from a lesson.

    Parameters
    ----------
    training
        Workflows of the past; not those that are to be forecast.
    """

    name: ClassVar[str]

    def __init__(self, training: Trace | None = None) -> None:
        self._training = training

    def reset(self, cluster: Cluster, latency: LatencyModel) -> None:
        """Forget what was learnt in a run, and learn from the training trace."""
        self.alone = Alone(cluster, latency)
        self.lessons = Lessons(self.alone)
        self.forget()
        for i, workflow in enumerate(self._training.workflows if self._training is not None else ()):
            self.learn(self.lessons.lesson(as_log(workflow, -1 - i, self.alone)))

    def look(self, view: View) -> None:
        """Learn from workflows that ended."""
        for lesson in self.lessons.look(view):
            self.learn(lesson)

    def forget(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    def learn(self, lesson: Lesson) -> None:
        """Take in a workflow that ended, in place of what it taught before."""
        raise NotImplementedError

    def tail(self, call: CallView) -> Tail:
        """Return what is expected to follow an open call."""
        raise NotImplementedError


def tails_us(workflow: WorkflowView, alone: Alone) -> list[int]:
    """Return, for each call of a complete workflow, the longest path of what followed it, µs."""
    tails = {c.key: 0 for c in workflow.calls}
    for call in reversed(workflow.calls):  # children are revealed after their parents
        if call.parents:
            us = call.ready_us - max(p.complete_us for p in call.parents)
            us += alone.us(call.prompt_tokens, call.output_tokens) + tails[call.key]
            for parent in call.parents:
                tails[parent.key] = max(tails[parent.key], us)
    return [tails[c.key] for c in workflow.calls]


def as_log(workflow: Workflow, index: int, alone: Alone) -> WorkflowView:
    """Return a workflow of a training trace as a router would have logged it, had it run alone."""
    seen = WorkflowView(workflow.workflow_id, index, workflow.app, 0)
    made: dict[int, CallView] = {}
    waits = [len(c.parents) for c in workflow.calls]
    children: list[list[int]] = [[] for _ in workflow.calls]
    for i, c in enumerate(workflow.calls):
        for parent in c.parents:
            children[parent].append(i)
    ready = [(c.tool_us or 0, i) for i, c in enumerate(workflow.calls) if not c.parents]
    heapq.heapify(ready)
    while ready:
        ready_us, i = heapq.heappop(ready)
        c = workflow.calls[i]
        call = made[i] = CallView(
            len(made),
            seen,
            i,
            c.call_id,
            tuple(made[p] for p in c.parents),
            ready_us,
            c.prompt_tokens,
            c.cached_prefix_tokens,
            c.output_tokens,
            0,
            (),
            (),
            CallState.COMPLETE,
            complete_us=ready_us + alone.us(c.prompt_tokens, c.output_tokens),
            output_tokens=c.output_tokens,
        )
        seen.calls.append(call)
        for child in children[i]:
            waits[child] -= 1
            if waits[child] == 0:
                done_us = max(made[p].complete_us for p in workflow.calls[child].parents)
                heapq.heappush(ready, (done_us + (workflow.calls[child].tool_us or 0), child))
    return seen


def tail_of_examples(sorted_us: list[int]) -> Tail:
    """Return the tail that some observations, in order, speak for; at least one is needed."""
    n = len(sorted_us)
    quantiles = tuple(sorted_us[min(n - 1, int(level * n))] for level in TAIL_LEVELS)
    return Tail(sum(sorted_us) // n, quantiles, n)
