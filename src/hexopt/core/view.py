"""All that a policy may see, and nothing else.

The simulator keeps one set of these objects up to date and hands the same :class:`View` to every invocation;
a router can fill the same classes from its own books. They hold no reference to ground truth: true output
lengths, unrevealed calls and true KV reservations live in the simulator's own arrays, so a policy that writes
to its view deceives only itself. A policy must not write to it.

The one fact derived from truth is the pair ``prefill_candidates`` / ``decode_candidates`` of a call, the
instances whose *total* capacity holds it: a deployment knows as much from the request's token limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum


class Trigger(IntEnum):
    """Why a policy is called (semantics, section 6)."""

    CALL_READY = 0
    TRANSFER_END = 1
    CALL_COMPLETE = 2
    PREFILL_IDLE = 3
    WAKE_UP = 4


class CallState(IntEnum):
    """Where a revealed call stands."""

    POOL = 0
    """Not placed."""
    QUEUED = 1
    """In a prefill instance's queue; may be moved."""
    PREFILLING = 2
    ADMISSION = 3
    """Prefill over, waiting for KV room on its decode instance."""
    TRANSFERRING = 4
    """KV reserved, transfer booked."""
    TRANSFERRED = 5
    """Waiting for an iteration boundary with room in the batch."""
    RUNNING = 6
    COMPLETE = 7


@dataclass(slots=True, eq=False)
class WorkflowView:
    """The revealed part of a workflow. ``calls``: revealed calls, complete ones included, in order of revealing."""

    workflow_id: str
    index: int
    app: str
    arrival_us: int
    calls: list[CallView] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class CallView:
    """A revealed call.

    ``key`` numbers calls in order of revealing, from 0, and is how a decision names one. ``workflow.index``
    and ``index`` are positions in the trace and serve to break ties. ``parents`` are revealed (and complete).
    Times are µs; ``-1`` means *not yet*. ``prefill`` and ``decode`` are ``-1`` while the call is in the pool.
    ``predicted_output_tokens`` is the run's predictor's word, fixed at revealing; ``kv_blocks`` is the decode
    room the call would need if it were right. ``output_tokens`` is ``-1`` until the call is complete.
    ``joined_iteration``: the decode instance's count of iterations when the call joined its batch.
    """

    key: int
    workflow: WorkflowView
    index: int
    call_id: str
    parents: tuple[CallView, ...]
    ready_us: int
    prompt_tokens: int
    cached_prefix_tokens: int | None
    predicted_output_tokens: int
    kv_blocks: int
    prefill_candidates: Sequence[int]
    decode_candidates: Sequence[int]
    state: CallState = CallState.POOL
    prefill: int = -1
    decode: int = -1
    priority: float = 0.0
    prefill_start_us: int = -1
    prefill_end_us: int = -1
    admit_us: int = -1
    transfer_start_us: int = -1
    transfer_end_us: int = -1
    join_us: int = -1
    joined_iteration: int = -1
    complete_us: int = -1
    output_tokens: int = -1


@dataclass(slots=True, eq=False)
class PrefillView:
    """A prefill instance.

    ``queue``: placed calls that have not started, by key, unordered. ``queued_us``: the sum of their prefill
    times, each alone. ``busy_until_us``: the end of the running batch, ``-1`` when idle. Both are what the policy's
    latency model says: where that misjudges the cluster, a batch may run on after ``busy_until_us``.
    ``outstanding_tokens``: prompt tokens queued or in the running batch. ``kv_used_blocks``: prompts held from batch
    start to transfer end. ``nic_free_us``: when its network interface is free of booked transfers.
    """

    index: int
    name: str
    gpu: str
    kv_capacity_blocks: int
    queue: Mapping[int, CallView]
    queued_us: int = 0
    busy_until_us: int = -1
    outstanding_tokens: int = 0
    kv_used_blocks: int = 0
    nic_free_us: int = 0


@dataclass(slots=True, eq=False)
class DecodeView:
    """A decode instance.

    ``bound``: calls bound here and not complete, by key, from placement on. ``waiting``: those of them whose
    prefill is over and which have not joined the batch. ``outstanding_tokens``: prompt + predicted output of ``bound``.

    Sums over the bound calls that decode here, i.e. with a predicted output above one token or a finished prefill:
    ``decoding`` their number, ``decoding_blocks`` their ``kv_blocks``, ``decoding_tokens`` their prompt + 1.

    The batch: ``running`` calls whose ``joined_iteration`` sum to ``joined_sum``; the instance has completed
    ``iterations`` iterations up to ``segment_start_us`` and since then runs a segment with a fixed batch of
    ``segment_batch`` calls and ``segment_context`` tokens (``segment_batch`` is 0 when idle or between segments).
    :meth:`hexopt.latency.ClusterLatency.iterations_at` counts the iterations up to now.
    """

    index: int
    name: str
    gpu: str
    kv_capacity_blocks: int
    max_batch: int
    bound: Mapping[int, CallView]
    waiting: Mapping[int, CallView]
    outstanding_tokens: int = 0
    decoding: int = 0
    decoding_blocks: int = 0
    decoding_tokens: int = 0
    running: int = 0
    joined_sum: int = 0
    iterations: int = 0
    segment_start_us: int = 0
    segment_batch: int = 0
    segment_context: int = 0
    nic_free_us: int = 0


@dataclass(slots=True, eq=False)
class View:
    """The cluster at one instant, as a policy may know it.

    ``triggers``: what happened since the policy's last invocation, of the kinds it subscribes to. ``pool``:
    revealed calls that are not placed, in order of (ready, workflow, call); of one instant, that is (workflow, call).
    """

    prefill: Sequence[PrefillView]
    decode: Sequence[DecodeView]
    now_us: int = 0
    triggers: frozenset[Trigger] = frozenset()
    pool: Sequence[CallView] = ()
