"""The engine's private record of a revealed, incomplete call. Ground truth: no view refers to it."""

from __future__ import annotations

from collections.abc import Sequence

from hexopt.core.view import CallView, WorkflowView
from hexopt.core.workflow import Workflow

Entry = tuple[float, int, int, int, "LiveCall"]
"""A place in a local queue: (priority, ready_us, workflow index, call index, call); the first four are unique."""


class LiveWorkflow:
    """A workflow with revealed, incomplete calls: how many parents each call waits for, and who waits for whom."""

    __slots__ = ("children", "first_row", "index", "remaining", "truth", "view", "views", "waiting_parents")

    def __init__(self, index: int, first_row: int, truth: Workflow, arrival_us: int) -> None:
        self.index = index
        self.first_row = first_row
        self.truth = truth
        self.remaining = len(truth.calls)
        self.waiting_parents = [len(c.parents) for c in truth.calls]
        self.children: list[list[int]] = [[] for _ in truth.calls]
        for i, call in enumerate(truth.calls):
            for parent in call.parents:
                self.children[parent].append(i)
        self.views: dict[int, CallView] = {}
        self.view = WorkflowView(truth.workflow_id, index, truth.app, arrival_us)


class LiveCall:
    """Truth and whereabouts of one call. ``entry`` is its place in the one local queue that holds it, if any.

    It repeats what the view says of the call, since the engine never reads a view back.
    """

    __slots__ = (
        "call_id",
        "counted",
        "decode",
        "decode_candidates",
        "entry",
        "index",
        "key",
        "kv_blocks",
        "output_tokens",
        "predicted_blocks",
        "predicted_tokens",
        "prefill",
        "prefill_candidates",
        "priority",
        "prompt_blocks",
        "prompt_tokens",
        "ready_us",
        "row",
        "state",
        "view",
        "workflow",
    )

    def __init__(
        self,
        workflow: LiveWorkflow,
        index: int,
        view: CallView,
        prompt_blocks: int,
        kv_blocks: int,
        output_tokens: int,
        prefill_candidates: Sequence[int],
        decode_candidates: Sequence[int],
    ) -> None:
        self.workflow = workflow
        self.index = index
        self.row = workflow.first_row + index
        self.view = view
        self.key = view.key
        self.call_id = view.call_id
        self.ready_us = view.ready_us
        self.prompt_tokens = view.prompt_tokens
        self.output_tokens = output_tokens
        self.prompt_blocks = prompt_blocks
        self.kv_blocks = kv_blocks
        self.predicted_tokens = view.predicted_output_tokens
        self.predicted_blocks = view.kv_blocks
        self.prefill_candidates = prefill_candidates
        self.decode_candidates = decode_candidates
        self.state = 0
        self.prefill = -1
        self.decode = -1
        self.priority = 0.0
        self.counted = False
        self.entry: Entry | None = None

    def make_entry(self) -> Entry:
        """Return, and remember, this call's place in a queue under its present priority."""
        self.entry = entry = (self.priority, self.ready_us, self.workflow.index, self.index, self)
        return entry
