"""What policies that learn from completed calls share: measured times, stages, completions, alarms, ranked priorities.

All of it is worked out from what the view shows. A policy is not told which calls completed, nor that a workflow has
ended, so completions are found by looking at the open calls, seldom enough that it costs little.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Literal

from hexopt.core.plan import Decision
from hexopt.core.protocols import LatencyModel
from hexopt.core.view import CallState, CallView, Trigger, View

Stage = tuple[str, int]
"""Application label and a number within it."""

StageKey = Literal["app", "root", "depth"]
"""What makes a stage (in Kairos: an agent). The view knows no roles, so they are told apart by where calls stand."""

SPAN_US = 2**50
"""Ranks lie this far apart on the time axis, so that rank 0 compares with first-come-first-served priorities."""

_SWEEP_SHARE = 16
_MEMO_LIMIT = 2**16


# -- measured times, µs


def executed_us(call: CallView) -> int:
    """Return for how long a call has been executed so far, prefill and decode; one under way counts up to nothing."""
    us = call.prefill_end_us - call.prefill_start_us if call.prefill_end_us >= 0 else 0
    return us + (call.complete_us - call.join_us if call.join_us >= 0 and call.complete_us >= 0 else 0)


def waited_us(call: CallView, now_us: int) -> int:
    """Return for how long a call has waited so far: for its prefill, for KV room, for its interface, and to join."""
    if call.prefill_start_us < 0:
        return now_us - call.ready_us
    us = call.prefill_start_us - call.ready_us
    one_token = call.state == CallState.COMPLETE and call.join_us < 0
    if call.prefill_end_us < 0 or one_token:
        return us
    if call.transfer_start_us < 0:
        return us + now_us - call.prefill_end_us
    us += min(call.transfer_start_us, now_us) - call.prefill_end_us  # a booked transfer may lie ahead
    if call.transfer_end_us < 0:
        return us
    return us + (call.join_us if call.join_us >= 0 else now_us) - call.transfer_end_us


def service_us(call: CallView) -> int:
    """Return what a completed call took without waiting: prefill, transfer and decode."""
    us = executed_us(call)
    return us + call.transfer_end_us - call.transfer_start_us if call.join_us >= 0 else us


def alone_us(latency: LatencyModel, call: CallView) -> int:
    """Return the service time of a call alone on its first candidates: an estimate before anything was learnt."""
    p, d = min(call.prefill_candidates), min(call.decode_candidates)
    us = latency.prefill_us(p, call.prompt_tokens)
    steps = call.predicted_output_tokens - 1
    if steps > 0:
        us += latency.wire_us(p, d, call.prompt_tokens) + latency.transfer_latency_us
        us += latency.decode_us(d, 1, call.prompt_tokens + 1, steps)
    return us


# -- the revealed DAG


def fold(call: CallView, memo: dict[int, int], combine: Callable[[CallView, int], int]) -> int:
    """Return ``combine(call, largest value of its parents)`` (-1 without parents), remembering values by call key.

    The memory is dropped when it is large: what is still needed is worked out again from the parents.
    """
    if len(memo) > _MEMO_LIMIT:
        memo.clear()
    stack = [call]
    while stack:
        top = stack[-1]
        missing = [p for p in top.parents if p.key not in memo]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if top.key not in memo:
            memo[top.key] = combine(top, max([memo[p.key] for p in top.parents], default=-1))
    return memo[call.key]


class Stages:
    """Names the stage of a call.

    ``"app"``: its application; ``"root"``: that, and whether the call has parents; ``"depth"``: that, and the depth
    of the call in the revealed DAG in buckets 0, 1, 2 to 3, 4 to 7, 8 to 15, and so on.
    """

    def __init__(self, kind: StageKey) -> None:
        self._kind = kind
        self._depth: dict[int, int] = {}

    def of(self, call: CallView) -> Stage:
        """Return the stage of a call."""
        app = call.workflow.app
        if self._kind == "app":
            return app, 0
        if self._kind == "root":
            return app, 1 if call.parents else 0
        return app, fold(call, self._depth, lambda _, parents: parents + 1).bit_length()


# -- what happened since


class Completions:
    """Finds the calls that completed.

    All open calls are looked at once in a while: after as many invocations with a completion as a sixteenth of them.
    So a completion is noticed a little late when many calls are open, and the cost an invocation is constant.
    """

    def __init__(self) -> None:
        self.open: dict[int, CallView] = {}
        self._events = 0

    def add(self, call: CallView) -> None:
        """Watch a call."""
        self.open[call.key] = call

    def adopt(self, view: View) -> list[CallView]:
        """Watch, and return in order of revealing, the placed calls that are not watched: a fallback placed them."""
        found = [d.bound[key] for d in view.decode for key in d.bound.keys() - self.open.keys()]
        found.sort(key=lambda c: c.key)
        for call in found:
            self.add(call)
        return found

    def new(self, view: View) -> list[CallView]:
        """Return the calls noticed to be complete, in order of completion, and watch them no longer."""
        if Trigger.CALL_COMPLETE in view.triggers:
            self._events += 1
        if not self._events or self._events * _SWEEP_SHARE < len(self.open):
            return []
        self._events = 0
        done = [c for c in self.open.values() if c.state == CallState.COMPLETE]
        done.sort(key=lambda c: (c.complete_us, c.key))
        for call in done:
            del self.open[call.key]
        return done


class Alarms:
    """Instants at which a waiting call is to be looked at again."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, CallView]] = []
        self._count = 0
        self._asked_us = -1

    def set(self, at_us: int, call: CallView) -> None:
        """Look at ``call`` at ``at_us``, if it still waits then."""
        self._count += 1
        heapq.heappush(self._heap, (at_us, self._count, call))

    def due(self, now_us: int) -> list[CallView]:
        """Return the calls whose instant has come and that can still be reordered."""
        found = []
        while self._heap and self._heap[0][0] <= now_us:
            call = heapq.heappop(self._heap)[2]
            if is_waiting(call):
                found.append(call)
        return found

    def wake_us(self, now_us: int) -> int | None:
        """Return the next instant of a call that still waits, unless a wake-up no later than that was asked for."""
        while self._heap and not is_waiting(self._heap[0][2]) and self._heap[0][2].state != CallState.POOL:
            heapq.heappop(self._heap)
        if not self._heap or now_us < self._asked_us <= self._heap[0][0]:
            return None
        self._asked_us = max(now_us + 1, self._heap[0][0])
        return self._asked_us


def is_waiting(call: CallView) -> bool:
    """Say whether a call is placed and its priority still matters."""
    return CallState.QUEUED <= call.state < CallState.RUNNING


# -- priorities


def ranked(rank: int, at_us: int) -> float:
    """Return the priority of a call in queue ``rank`` (0 goes first), by ``at_us`` within it."""
    return float(rank * SPAN_US + min(max(at_us, 0), SPAN_US - 1))


def reorder(call: CallView, priority: float) -> list[Decision]:
    """Return the decision that gives a placed call another priority; none where nothing would change."""
    if call.priority == priority or not is_waiting(call):
        return []
    return [Decision(call.key, call.prefill, call.decode, priority)]
