"""HexAGenT's running horizon: when would the revealed part of a workflow complete if it ran alone?

arXiv 2605.16637, section 4. It is list-scheduled on the idle cluster with the same projection that places calls, so
fan-out width counts. Finished calls enter with their measured service (execution and transfer, no queueing), observed
tool times sit on the edges, and revealed, unfinished calls with their estimate, longest path first. It grows as calls
are revealed and is corrected as calls finish.
"""

from __future__ import annotations

from hexopt.core.view import CallState, CallView, WorkflowView
from hexopt.policies.projection import Estimator, Projection


class Horizon:
    """The horizon of one workflow, µs after its arrival.

    Since a call is revealed when its parents are done, the unfinished revealed calls never depend on one another: only
    they are scheduled, each released when its parents would have finished alone.

    Without ``growth`` it stays what it was at first: the longest path of the calls revealed with the workflow's first.
    """

    __slots__ = (
        "_alone_us", "_finished_us", "_frontier", "_known", "_unloaded", "_us", "_workflow", "growth", "keep_maximum",
        "lone",
    )  # fmt: skip

    def __init__(
        self, workflow: WorkflowView, unloaded: UnloadedFinish, keep_maximum: bool, growth: bool = True
    ) -> None:
        self._workflow = workflow
        self.growth = growth
        self._unloaded = unloaded
        self.keep_maximum = keep_maximum
        self._known = 0
        self.lone: CallView | None = None
        """The only unfinished call, if there is but one."""
        self._frontier: list[CallView] = []
        self._alone_us: dict[int, int] = {}
        """When each finished call would have finished alone, by its index in the workflow."""
        self._finished_us = 0
        self._us = 0

    def current_us(self) -> int:
        """Bring the horizon up to date and return it."""
        calls = self._workflow.calls
        if not self.growth:
            if not self._us:
                first_us = calls[0].ready_us
                paths = (self._release_us(c) + self._unloaded.single_us(c) for c in calls if c.ready_us == first_us)
                self._us = max(1, *paths)
            return self._us
        lone = self.lone
        if lone is not None and lone.state != CallState.COMPLETE and len(calls) == self._known:
            return self._us  # the common case, told apart at once
        changed = False
        if len(calls) > self._known:
            self._frontier.extend(calls[self._known :])
            self._known = len(calls)
            changed = True
        if any(c.state == CallState.COMPLETE for c in self._frontier):
            changed = True
            open_calls = []
            for call in self._frontier:
                if call.state == CallState.COMPLETE:
                    alone = self._release_us(call) + _measured_us(call)
                    self._alone_us[call.index] = alone
                    self._finished_us = max(self._finished_us, alone)
                else:
                    open_calls.append(call)
            self._frontier = open_calls
        if changed:
            self.lone = self._frontier[0] if len(self._frontier) == 1 else None
            us = max(1, self._finished_us, self._unloaded.of([(self._release_us(c), c) for c in self._frontier]))
            self._us = max(self._us, us) if self.keep_maximum else us
        return self._us

    @property
    def open_calls(self) -> list[CallView]:
        """The calls that were unfinished when :meth:`current_us` last looked."""
        return self._frontier

    def of_waiting_us(self, call: CallView) -> int:
        """Return :meth:`current_us` for a call that is known to be unfinished, faster where it is the only one."""
        return self._us if self.lone is call and len(self._workflow.calls) == self._known else self.current_us()

    def _release_us(self, call: CallView) -> int:
        """When the call would become ready if its workflow ran alone."""
        if not call.parents:
            return call.ready_us - self._workflow.arrival_us
        alone = max(self._alone_us[p.index] for p in call.parents)
        tool_us = call.ready_us - max(p.complete_us for p in call.parents)
        return alone + tool_us


class UnloadedFinish:
    """Projected finishes on the idle cluster; a single call's is remembered by its lengths."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator
        self._single: dict[tuple[int, int, int], int] = {}

    def of(self, released: list[tuple[int, CallView]]) -> int:
        """Return the time by which calls with these release times would all finish, µs."""
        if not released:
            return 0
        if len(released) == 1:
            release, call = released[0]
            return release + self.single_us(call)
        # Longest path first; of equal paths the older call.
        order = sorted(released, key=lambda rc: (-(rc[0] + self.single_us(rc[1])), rc[1].key))
        idle = Projection.idle(self._estimator)
        last = 0
        for release, call in order:
            pair = idle.best(call, release)
            if pair is not None:
                idle.commit(call, *pair, release_us=release)
                last = max(last, pair[0])
        return last

    def single_us(self, call: CallView) -> int:
        """Return the service time of a call alone at its best pair, µs."""
        key = (call.prompt_tokens, call.predicted_output_tokens, len(call.decode_candidates))
        us = self._single.get(key)
        if us is None:
            pair = Projection.idle(self._estimator).best(call)
            us = self._single[key] = 0 if pair is None else pair[0]
        return us


def _measured_us(call: CallView) -> int:
    """Execution and transfer time of a finished call, without queueing."""
    us = call.prefill_end_us - call.prefill_start_us
    if call.join_us >= 0:
        us += call.transfer_end_us - call.transfer_start_us + call.complete_us - call.join_us
    return us
