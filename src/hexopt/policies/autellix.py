"""What ``autellix-plas`` and ``autellix-atlas`` share (Autellix, arXiv 2502.13965): a program is a workflow.

Each program has one attained service, which its new calls inherit. It says in which of K queues a call waits; inside a
queue calls go by ready time. A call that uses up its queue's time quantum sinks to the next one. A call whose program
has waited too long for what it was served, ``(W_p + W_c) / (T_p + T_c) ≥ β``, rises to the first queue; W are waiting
and T execution times of the program's completed calls (p) and of the call itself (c). Short calls go to the least used
instance, longer ones to their program's own.

What the source has and this engine lacks: prefill and decode share no engine here, so a program has an instance of
each; and calls that run are never preempted. A quantum can only be used up by a prefill, and where the call stands in
the queues for KV room and for the batch is all that sinking, or rising, then changes. The time a transfer takes is
neither service nor waiting.
"""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Literal

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import CallState, CallView, Trigger, View, WorkflowView
from hexopt.errors import ConfigError
from hexopt.policies.bookkeeping import Alarms, Completions, executed_us, ranked, reorder, waited_us
from hexopt.policies.dispatch import FewestOutstanding
from hexopt.policies.open_calls import by_key

_FORGET_ABOVE = 4096
_PRIOR_US = 1_000_000
_SHORTEST_LOOK_US = 1000


class Autellix(BasePolicy):
    """Least attained service first, by program.

    Parameters
    ----------
    queues
        Number of queues (K), at least 1. That, and every value below but ``short_tokens``, is a choice of ours.
    first_bound
        Where the service range of the first queue ends; each further queue's is twice as far, the last has no end.
        With 8 queues that is 0.5 to 32.
    bound_unit
        What the bounds count: ``"mean-call"``, the mean execution time of the calls completed so far (1 s before the
        first), or ``"second"``.
    quantum
        Time quantum of a queue, as a share of the width of its service range.
    beta
        Waiting over execution time (β) from which on a call rises to the first queue; 0 for never.
    short_tokens
        Calls with a prompt of up to so many tokens go to the least used instances, with the fewest outstanding tokens;
        a program's first longer call does, too, and later longer ones follow it.
    """

    triggers = frozenset((Trigger.CALL_READY, Trigger.CALL_COMPLETE, Trigger.WAKE_UP))
    critical_path: ClassVar[bool] = True
    """Whether service adds up along the critical path only, or over all calls."""

    def __init__(
        self,
        *,
        plan_latency_us: PlanLatency = 0,
        fallback: Policy | None = None,
        queues: int = 8,
        first_bound: float = 0.5,
        bound_unit: Literal["mean-call", "second"] = "mean-call",
        quantum: float = 1.0,
        beta: float = 10.0,
        short_tokens: int = 2048,
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        if queues < 1:
            raise ConfigError(f"policy '{self.name}': option 'queues' is {queues}, at least 1 is needed, raise it")
        for what, value in (("first_bound", first_bound), ("quantum", quantum)):
            if value <= 0:
                raise ConfigError(
                    f"policy '{self.name}': option '{what}' is {value}, a number above 0 is needed, raise it"
                )
        if beta < 0:
            raise ConfigError(f"policy '{self.name}': option 'beta' is {beta}, at least 0 is needed, raise it")
        self.queues = queues
        self.first_bound = first_bound
        self.bound_unit = bound_unit
        self.quantum = quantum
        self.beta = beta
        self.short_tokens = short_tokens

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget all programs."""
        self._programs: dict[int, Program] = {}
        self._forget_above = _FORGET_ABOVE
        self._completions = Completions()
        self._alarms = Alarms()
        self._queue: dict[int, int] = {}
        self._risen: set[int] = set()
        self._judged: set[int] = set()
        self._executed_us = 0
        self._completed = 0

    def plan(self, view: View) -> Plan:
        """Place new calls, sink those that used up their quantum, lift those that starve."""
        now = view.now_us
        self._learn(view)
        dispatch = FewestOutstanding(view)
        decisions = []
        if self.plan_latency_us:
            for call in self._completions.adopt(view):
                decisions.extend(reorder(call, ranked(self._enter(call, now), call.ready_us)))
        for call in view.pool:
            decisions.append(self._place(call, now, dispatch))
            self._completions.add(call)
        changed = {d.call for d in decisions}
        for call in self._starving(now):
            if call.key not in changed:
                decisions.extend(reorder(call, ranked(0, call.ready_us)))
                changed.add(call.key)
        for call in self._used_up(view):
            if call.key not in changed:
                decisions.extend(reorder(call, ranked(self._queue[call.key], call.ready_us)))
        return Plan(decisions, self._alarms.wake_us(now))

    def _learn(self, view: View) -> None:
        for call in self._completions.new(view):
            self._executed_us += executed_us(call)
            self._completed += 1
            self._queue.pop(call.key, None)
            self._risen.discard(call.key)
            self._judged.discard(call.key)
        if len(self._programs) > self._forget_above:
            # What is known of a program can be worked out again from its calls.
            active = {c.workflow.index for c in self._completions.open.values()}
            self._programs = {w: p for w, p in self._programs.items() if w in active}
            self._forget_above = max(_FORGET_ABOVE, 2 * len(self._programs))

    # -- queues

    def _first_bound_us(self) -> float:
        """Where the service range of the first queue ends now."""
        if self.bound_unit == "second" or not self._completed:
            return self.first_bound * _PRIOR_US
        return self.first_bound * self._executed_us / self._completed

    def _queue_of(self, service_us: int) -> int:
        bound = self._first_bound_us()
        queue = 0
        while queue < self.queues - 1 and service_us >= bound:
            bound *= 2
            queue += 1
        return queue

    def _enter(self, call: CallView, now_us: int) -> int:
        """Return the queue of a new call."""
        program = self._program(call.workflow)
        queue = self._queue_of(program.inherited_us(call))
        if queue and self._starves(call, program, now_us):
            queue = 0
        self._queue[call.key] = queue
        return queue

    def _used_up(self, view: View) -> list[CallView]:
        """Sink the calls past prefill that wait on a decode instance, once each; return them."""
        sunk = []
        for call in by_key(d.waiting for d in view.decode if d.waiting):
            key = call.key
            if key in self._judged or key not in self._queue:
                continue
            self._judged.add(key)
            queue = self._queue[key]
            sinks = queue if key in self._risen else self._sink(queue, executed_us(call))
            if sinks != queue:
                self._queue[key] = sinks
                sunk.append(call)
        return sunk

    def _sink(self, queue: int, executed: int) -> int:
        first = self._first_bound_us()
        while queue < self.queues - 1:
            # The first range is as wide as its bound, and so is the second; from then on each is twice as wide.
            quantum = self.quantum * first * 2 ** max(0, queue - 1)
            if executed < quantum:
                break
            executed -= ceil(quantum)
            queue += 1
        return queue

    # -- starvation

    def _starves(self, call: CallView, program: Program, now_us: int) -> bool:
        """Say whether the call is to rise now; if not, look at it again when it may be."""
        if not self.beta:
            return False
        waited = program.waited_us + waited_us(call, now_us)
        executed = program.executed_us + executed_us(call)
        left_us = ceil(self.beta * executed) - waited
        if left_us <= 0:
            self._risen.add(call.key)
            return True
        # While it waits its wait grows as time goes by; otherwise this is a lower bound.
        waits = call.state in (CallState.POOL, CallState.QUEUED, CallState.ADMISSION, CallState.TRANSFERRED)
        self._alarms.set(now_us + (left_us if waits else max(left_us, _SHORTEST_LOOK_US)), call)
        return False

    def _starving(self, now_us: int) -> list[CallView]:
        starving = []
        for call in self._alarms.due(now_us):
            if self._queue.get(call.key, 0) and self._starves(call, self._program(call.workflow), now_us):
                self._queue[call.key] = 0
                starving.append(call)
        return starving

    # -- programs

    def _program(self, workflow: WorkflowView) -> Program:
        """Return what is known of a workflow, brought up to date."""
        program = self._programs.get(workflow.index)
        if program is None:
            program = self._programs[workflow.index] = Program(workflow, self.critical_path)
            long = [c for c in workflow.calls if c.prompt_tokens > self.short_tokens and c.prefill >= 0]
            if long:
                program.home = (long[0].prefill, long[0].decode)
        program.update()
        return program

    def _place(self, call: CallView, now_us: int, dispatch: FewestOutstanding) -> Decision:
        priority = ranked(self._enter(call, now_us), call.ready_us)
        if call.prompt_tokens <= self.short_tokens:
            return dispatch.place(call, priority)
        program = self._programs[call.workflow.index]
        if program.home is not None:
            return dispatch.place_at(call, priority, *program.home)
        decision = dispatch.place(call, priority)
        program.home = (decision.prefill, decision.decode)
        return decision


class Program:
    """A workflow's attained service and waiting, µs.

    It is brought up to date when asked for: a completion counts for the calls that become ready at that instant or
    later. ``home``: the prefill and decode instance of its first long call.
    """

    __slots__ = (
        "_critical_path",
        "_inherited_us",
        "_known",
        "_workflow",
        "executed_us",
        "home",
        "service_us",
        "waited_us",
    )

    def __init__(self, workflow: WorkflowView, critical_path: bool) -> None:
        self._workflow = workflow
        self._critical_path = critical_path
        self._known = 0
        self._inherited_us: dict[int, tuple[CallView, int]] = {}
        """Open calls, each with the service that it inherited, by position in the trace."""
        self.service_us = 0
        self.executed_us = 0
        self.waited_us = 0
        self.home: tuple[int, int] | None = None

    def inherited_us(self, call: CallView) -> int:
        """Return the service that an open call inherited."""
        return self._inherited_us[call.index][1]

    def update(self) -> None:
        """Take in new calls and completions, in order of time."""
        calls = self._workflow.calls
        seen_us = -1
        for call in calls[self._known :]:
            if call.ready_us != seen_us:
                seen_us = call.ready_us
                self._complete(seen_us)
            self._inherited_us[call.index] = (call, self.service_us)
        self._known = len(calls)

    def _complete(self, until_us: int) -> None:
        done = [
            (call, inherited)
            for call, inherited in self._inherited_us.values()
            if call.state == CallState.COMPLETE and call.complete_us <= until_us
        ]
        for call, inherited in done:
            del self._inherited_us[call.index]
            executed = executed_us(call)
            self.executed_us += executed
            self.waited_us += waited_us(call, call.complete_us)
            if self._critical_path:
                self.service_us = max(self.service_us, inherited + executed)
            else:
                self.service_us += executed
