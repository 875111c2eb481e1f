"""Ground truth: workflows and their calls, as a trace states them.

Only the simulator, the predictors and offline bounds may look here. A policy sees
:class:`hexopt.core.view.CallView` instead, which has no way back to these objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hexopt.errors import TraceError

EMPTY: Mapping[str, Any] = {}
"""The ``extra`` of an object that carries no unknown keys, shared by all of them. (A plain dict: it must pickle.)"""

MAX_TOKENS = 2**40
"""Token counts above this are refused: sums of products stay exact in the double they are converted to once."""

MAX_US = 2**53
"""Instants above this (285 years) are refused: a microsecond would no longer be exact in a double."""


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM invocation.

    ``parents`` are positions in the workflow's ``calls``. ``tool_us`` is the delay in µs between the last
    parent's completion (a root: the arrival) and this call becoming ready; ``None`` is unknown and needs a
    delay rule before a simulation. ``cached_prefix_tokens``: how many prompt tokens repeat earlier context.
    """

    call_id: str
    parents: tuple[int, ...]
    prompt_tokens: int
    output_tokens: int
    tool_us: int | None = 0
    cached_prefix_tokens: int | None = None
    delay_kind: str | None = None
    extra: Mapping[str, Any] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True)
class Workflow:
    """One user request: a DAG of calls. ``arrival_us`` is ``None`` where the log does not know it."""

    workflow_id: str
    app: str
    arrival_us: int | None
    calls: tuple[Call, ...]
    source: str = ""
    license: str = ""
    extra: Mapping[str, Any] = field(default_factory=lambda: EMPTY)

    @property
    def shape(self) -> tuple[tuple[tuple[int, ...], int, int, int | None], ...]:
        """All that the standalone latency of this workflow depends on, as a hashable key."""
        return tuple((c.parents, c.prompt_tokens, c.output_tokens, c.tool_us) for c in self.calls)

    @property
    def given_us(self) -> int:
        """The arrival and all known delays added up: what the trace alone says of how late it may become."""
        return (self.arrival_us or 0) + sum([c.tool_us or 0 for c in self.calls])

    def check(self) -> None:
        """Raise :class:`~hexopt.errors.TraceError` unless this is a well-formed DAG of plausible calls."""
        _check_id("workflow: workflow_id", self.workflow_id)
        who = f"workflow '{self.workflow_id}'"
        if self.arrival_us is not None:
            _check_int(f"{who}: arrival_us", self.arrival_us, 0, MAX_US)
        if not self.calls:
            raise TraceError(f"{who}: calls is empty, a workflow has at least one call, drop the workflow")
        ids: set[str] = set()
        for call in self.calls:
            _check_id(f"{who}: call_id", call.call_id)
            what = f"{who}: call '{call.call_id}'"
            if call.call_id in ids:
                raise TraceError(f"{what}: call_id occurs twice, ids are unique within a workflow, rename one")
            ids.add(call.call_id)
            _check_int(f"{what}: prompt_tokens", call.prompt_tokens, 1, MAX_TOKENS)
            _check_int(f"{what}: output_tokens", call.output_tokens, 1, MAX_TOKENS)
            if call.tool_us is not None:
                _check_int(f"{what}: tool_us", call.tool_us, 0, MAX_US)
            if call.cached_prefix_tokens is not None:
                _check_int(f"{what}: cached_prefix_tokens", call.cached_prefix_tokens, 0, call.prompt_tokens)
            if len(set(call.parents)) != len(call.parents):
                raise TraceError(f"{what}: parents names a call twice, a parent counts once, drop the repetition")
            for parent in call.parents:
                if not 0 <= parent < len(self.calls):
                    raise TraceError(
                        f"{what}: parents has position {parent}, positions lie in 0..{len(self.calls) - 1}, "
                        "name a call of the same workflow"
                    )
        if self.given_us > MAX_US:
            raise TraceError(
                f"{who}: arrival and tool delays add up to {self.given_us} µs, instants end at {MAX_US} µs, "
                "shorten them"
            )
        self._check_acyclic(who)

    def _check_acyclic(self, who: str) -> None:
        # Logs list calls in order, so that every parent comes first; only otherwise is a search needed.
        if all(parent < i for i, call in enumerate(self.calls) for parent in call.parents):
            return
        waiting = [len(call.parents) for call in self.calls]
        children: list[list[int]] = [[] for _ in self.calls]
        for i, call in enumerate(self.calls):
            for parent in call.parents:
                children[parent].append(i)
        free = [i for i, n in enumerate(waiting) if n == 0]
        done = 0
        while free:
            done += 1
            for child in children[free.pop()]:
                waiting[child] -= 1
                if waiting[child] == 0:
                    free.append(child)
        if done < len(self.calls):
            stuck = ", ".join(f"'{c.call_id}'" for c, n in zip(self.calls, waiting, strict=True) if n > 0)
            raise TraceError(f"{who}: calls {stuck} wait for each other, a workflow has no cycle, mend parents")


@dataclass(frozen=True)
class Trace:
    """Workflows in file order, and how their unknown times were filled in.

    ``provenance`` says where the trace came from (file, sha256) and which rules were applied to it, with
    their seeds; it is copied into every result.
    """

    workflows: tuple[Workflow, ...]
    name: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.workflows)

    @property
    def call_count(self) -> int:
        """Number of calls in all workflows."""
        return sum(len(w.calls) for w in self.workflows)

    @property
    def unknown_arrivals(self) -> int:
        """Number of workflows whose arrival is unknown."""
        return sum(w.arrival_us is None for w in self.workflows)

    @property
    def unknown_delays(self) -> int:
        """Number of calls whose tool delay is unknown."""
        return sum(c.tool_us is None for w in self.workflows for c in w.calls)

    def head(self, workflows: int) -> Trace:
        """Return the first ``workflows`` workflows as a trace of their own."""
        return replace(self, workflows=self.workflows[:workflows], provenance={**self.provenance, "head": workflows})

    def alone(self, index: int) -> Trace:
        """Return one workflow as a trace of its own, arriving at 0."""
        return Trace((replace(self.workflows[index], arrival_us=0),))

    def check(self) -> None:
        """Raise :class:`~hexopt.errors.TraceError` unless every workflow is well formed and ids are unique."""
        if not self.workflows:
            raise TraceError(f"trace '{self.name}': it is empty, a trace has at least one workflow, check the file")
        ids: set[str] = set()
        for workflow in self.workflows:
            if workflow.workflow_id in ids:
                raise TraceError(
                    f"workflow '{workflow.workflow_id}': workflow_id occurs twice, ids are unique, rename one"
                )
            ids.add(workflow.workflow_id)
            workflow.check()


def _check_id(what: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise TraceError(f"{what}: {value!r} found, an id is a text of at least one character, correct it")


def _check_int(what: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TraceError(f"{what}: {value!r} is no integer, whole numbers from {low} to {high} are legal, correct it")
    if not low <= value <= high:
        raise TraceError(f"{what}: {value} is out of range, it lies in {low}..{high}, correct it")
