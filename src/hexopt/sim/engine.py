"""The event loop and the dispatch phase (docs/semantics.md, sections 1 and 6).

All events of an instant are processed first; then comes one dispatch phase: the policy, admissions, prefill
batches, decode segments. Only instances that an event touched are looked at, so the cost of an instant does
not grow with the cluster.
"""

from __future__ import annotations

import heapq
import math
import operator
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hexopt.core.cluster import Cluster
from hexopt.core.plan import NO_PLAN, Decision, Plan
from hexopt.core.protocols import ALL_TRIGGERS, Policy, Predictor
from hexopt.core.streams import stream
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.core.workflow import MAX_US, Trace
from hexopt.errors import ConfigError, SimulationStalled, TraceError
from hexopt.latency import ClusterLatency
from hexopt.sim.candidates import Candidates, check_capacity
from hexopt.sim.decode import DecodeEngine
from hexopt.sim.live import LiveCall, LiveWorkflow
from hexopt.sim.network import Network
from hexopt.sim.plans import DecisionRules, check_plan, plan_latency
from hexopt.sim.prefill import PrefillEngine
from hexopt.sim.table import NONE, CallTable, DecisionTable

Progress = Callable[[int, int], None]
"""Called now and then with (completed calls, all calls)."""

# Kinds of events. Their order fixes nothing but the order of processing, which cannot change results.
_READY, _PREFILL_END, _TRANSFER_END, _BOUNDARY, _LANDING, _WAKE = range(6)

# Module constants spare the hot path the enum's attribute look-ups.
_POOL, _QUEUED, _PREFILLING, _ADMISSION = CallState.POOL, CallState.QUEUED, CallState.PREFILLING, CallState.ADMISSION
_TRANSFERRING, _TRANSFERRED = CallState.TRANSFERRING, CallState.TRANSFERRED
_RUNNING, _COMPLETE = CallState.RUNNING, CallState.COMPLETE

_CALL_READY, _TRANSFER_ENDED = Trigger.CALL_READY, Trigger.TRANSFER_END
_CALL_COMPLETE, _PREFILL_IDLE = Trigger.CALL_COMPLETE, Trigger.PREFILL_IDLE
_READY_ALONE = frozenset((_CALL_READY,))

_PROGRESS_EVERY = 1024

_PATIENCE = 100_000
"""Wake-ups in a row without a decision after which the engine looks whether anything else can still happen."""


@dataclass
class PlanningTime:
    """The policy's invocations: how long each was charged, and what they took on the wall clock.

    The latter is the only thing in a run that is not reproducible, unless the plan latency is ``"measured"``.
    """

    took_ns: array[int] = field(default_factory=lambda: array("q"))
    """How long each took on the wall clock."""
    at_us: array[int] = field(default_factory=lambda: array("q"))
    """When each plan was made."""
    latency_us: array[int] = field(default_factory=lambda: array("q"))
    """How long after it took effect: the fixed plan latency, or the measured one."""


class Simulation:
    """One run. Build it, call :meth:`run` once, read the tables.

    Parameters
    ----------
    trace
        Its arrivals and delays are all known (:func:`hexopt.traces.require_known`) and it is well formed.
    policy
        Reset at the start of the run.
    stop_us
        Events later than this are not processed; ``None``: run until no event is left.
    latency
        The cluster's latency model, if one with warm tables is at hand.
    estimates
        What policies are told instead of ``latency``; the truth if absent. Its instances have the same capacities.
    """

    def __init__(
        self,
        trace: Trace,
        cluster: Cluster,
        policy: Policy,
        predictor: Predictor,
        *,
        seed: int = 0,
        stop_us: int | None = None,
        latency: ClusterLatency | None = None,
        estimates: ClusterLatency | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.trace = trace
        self.cluster = cluster
        self.policy = policy
        self.latency = latency if latency is not None else ClusterLatency(cluster)
        estimates = estimates if estimates is not None else self.latency
        self.stop_us = stop_us
        self.table = CallTable(trace.call_count)
        self.decisions = DecisionTable()
        self.planning = PlanningTime()
        self.workflow_complete_us = [NONE] * len(trace.workflows)
        self.prefill = [PrefillEngine(i, spec, self.latency, estimates) for i, spec in enumerate(cluster.prefill)]
        self.decode = [DecodeEngine(i, spec, self.latency) for i, spec in enumerate(cluster.decode)]
        self.network = Network(self.latency, [p.view for p in self.prefill], [d.view for d in self.decode])
        self.now_us = 0
        self._view = View([p.view for p in self.prefill], [d.view for d in self.decode])
        self._predictor = predictor
        self._progress = progress
        self._candidates = Candidates(self.latency)
        self._rules = DecisionRules(cluster.binding)
        check_capacity(trace, cluster, self.latency)

        self._wakes_in_vain = 0
        self._plan_latency_us = plan_latency(policy)
        self._subscribed: frozenset[Trigger] = frozenset(getattr(policy, "triggers", ALL_TRIGGERS))
        self._fallback: Policy | None = getattr(policy, "fallback", None)
        # The predictor's stream does not depend on the policy, nor the policy's on its fallback's.
        predictor.reset(trace, stream(seed, "predictor"))
        policy.reset(estimates.cluster, estimates, stream(seed, "policy"))
        if self._fallback is not None:
            self._fallback.reset(estimates.cluster, estimates, stream(seed, "fallback"))

        self._heap: list[tuple[int, int, int, Any]] = []
        self._sequence = 0
        self._live: dict[int, LiveCall] = {}
        self._workflows: dict[int, LiveWorkflow] = {}
        self._revealed = 0
        self._complete = 0
        self._newly_ready: list[tuple[int, int]] = []
        self._pool: dict[int, CallView] = {}
        self._triggers: set[Trigger] = set()
        self._in_flight: Plan | None = None
        self._landing: Plan | None = None
        self._quiet_until_us = NONE
        """When an empty plan in flight lands that has no event of its own: it needs one only if a trigger waits."""
        self._idled: list[PrefillEngine] = []
        self._touched_admission: set[int] = set()
        self._touched_prefill: set[int] = set()
        self._touched_batch: set[int] = set()
        self._strict = cluster.kv_admission == "strict"
        self._first_row: list[int] = []
        self._roots = self._plan_roots()
        self._next_root = 0

    # -- before the run

    def _plan_roots(self) -> list[tuple[int, int, int]]:
        roots: list[tuple[int, int, int]] = []
        row = 0
        for wi, workflow in enumerate(self.trace.workflows):
            self._first_row.append(row)
            row += len(workflow.calls)
            arrival = workflow.arrival_us
            for ci, call in enumerate(workflow.calls):
                if not call.parents:
                    roots.append((_known(arrival) + _known(call.tool_us), wi, ci))
        roots.sort()
        return roots

    # -- the loop

    def run(self) -> None:
        """Simulate to the end (or to ``stop_us``).

        Raises
        ------
        PlanError
            The policy decided something that can never be carried out.
        SimulationStalled
            No event is left, but calls are.
        CalibrationRangeError
            A batch lies outside what the latency model was calibrated on.
        """
        heap = self._heap
        roots = self._roots
        n_roots = len(roots)
        stop_us = math.inf if self.stop_us is None else self.stop_us
        handlers: tuple[Callable[[int, Any], None], ...] = (
            self._on_ready,
            self._on_prefill_end,
            self._on_transfer_end,
            self._on_boundary,
            self._on_landing,
            self._on_wake,
        )
        calls = self.trace.call_count
        # Once every call is complete, what is left (stale boundaries, wake-ups) can change nothing.
        while self._complete < calls:
            if self._next_root < n_roots and (not heap or roots[self._next_root][0] <= heap[0][0]):
                now = roots[self._next_root][0]
            elif heap:
                now = heap[0][0]
            else:
                break
            if now > stop_us:
                break
            self.now_us = now
            while self._next_root < n_roots and roots[self._next_root][0] == now:
                self._newly_ready.append(roots[self._next_root][1:])
                self._next_root += 1
            while heap and heap[0][0] == now:
                _, kind, _, payload = heapq.heappop(heap)
                handlers[kind](now, payload)
            self._dispatch(now)
            if self._wakes_in_vain >= _PATIENCE:
                self._check_wakes()
        self._finish()

    def _finish(self) -> None:
        if self.stop_us is not None:
            for p in self.prefill:
                if p.batch:
                    p.busy_us -= p.end_us - self.stop_us
            for d in self.decode:
                d.stop(self.stop_us)
            for call in self._live.values():
                start = self.table.transfer_start_us[call.row]
                if start != NONE:
                    self.network.cut(start, self.stop_us, call.prefill, call.decode, call.prompt_tokens)
                    if start > self.stop_us:
                        self.table.transfer_start_us[call.row] = NONE
            return
        left = self.trace.call_count - self._complete
        if left:
            raise SimulationStalled(
                f"policy '{self.policy.name}': {left} calls are left but no event is, {self._where_stuck()}, "
                "every ready call must be placed, and a policy that waits must ask for a wake-up"
            )

    def _where_stuck(self) -> str:
        counts: dict[str, int] = {}
        for call in self._live.values():
            name = CallState(call.state).name.lower()
            counts[name] = counts.get(name, 0) + 1
        stuck = ", ".join(f"{n} in state {state}" for state, n in sorted(counts.items()))
        first = min(self._live.values(), key=lambda c: c.row, default=None)
        who = "" if first is None else f" (first: '{first.workflow.truth.workflow_id}/{first.call_id}')"
        return (stuck or "none of them revealed") + who

    def _push(self, at_us: int, kind: int, payload: object) -> None:
        if at_us > MAX_US:
            raise TraceError(
                f"trace '{self.trace.name}': something would happen at {at_us} µs, instants end at {MAX_US} µs, "
                "shorten its delays or outputs"
            )
        self._sequence += 1
        heapq.heappush(self._heap, (at_us, kind, self._sequence, payload))

    # -- events

    def _on_ready(self, now: int, payload: tuple[int, int]) -> None:
        self._newly_ready.append(payload)

    def _on_prefill_end(self, now: int, p: PrefillEngine) -> None:
        self._touched_prefill.add(p.index)
        end_column = self.table.prefill_end_us
        for call in p.end_batch():
            end_column[call.row] = call.view.prefill_end_us = now
            d = self.decode[call.decode]
            if call.output_tokens == 1:
                p.release(call)
                self._on_complete(now, call, d)
                continue
            call.state = call.view.state = _ADMISSION
            if not call.counted:
                d.count(call)
            d.admission.add(call)
            d.waiting_view[call.key] = call.view
            self._touched_admission.add(d.index)
        self._idled.append(p)

    def _on_transfer_end(self, now: int, call: LiveCall) -> None:
        self.table.transfer_end_us[call.row] = call.view.transfer_end_us = now
        call.state = call.view.state = _TRANSFERRED
        p = self.prefill[call.prefill]
        p.release(call)
        self._touched_prefill.add(p.index)
        d = self.decode[call.decode]
        d.joiners.add(call)
        if d.open:
            at = d.join_boundary_us(now)
            if at >= 0:
                self._push(at, _BOUNDARY, d)
        else:
            self._touched_batch.add(d.index)
        self._triggers.add(_TRANSFER_ENDED)

    def _on_boundary(self, now: int, d: DecodeEngine) -> None:
        if d.next_us != now:
            return  # overtaken by an earlier boundary at which a call joined
        for call in d.reach_boundary(now):
            self._on_complete(now, call, d)
        if d.admission.items:
            self._touched_admission.add(d.index)
        self._touched_batch.add(d.index)

    def _on_complete(self, now: int, call: LiveCall, d: DecodeEngine) -> None:
        seen = call.view
        self.table.complete_us[call.row] = seen.complete_us = now
        seen.state = _COMPLETE
        seen.output_tokens = call.output_tokens
        d.unbind(call)
        del self._live[call.key]
        self._complete += 1
        if self._progress is not None and self._complete % _PROGRESS_EVERY == 0:
            self._progress(self._complete, self.trace.call_count)
        workflow = call.workflow
        self._predictor.observe(workflow.index, call.index)
        self._triggers.add(_CALL_COMPLETE)
        workflow.remaining -= 1
        if workflow.remaining == 0:
            self.workflow_complete_us[workflow.index] = now
            del self._workflows[workflow.index]
            return
        waiting = workflow.waiting_parents
        for child in workflow.children[call.index]:
            waiting[child] -= 1
            if waiting[child] == 0:
                tool_us = _known(workflow.truth.calls[child].tool_us)
                if tool_us:
                    self._push(now + tool_us, _READY, (workflow.index, child))
                else:
                    self._newly_ready.append((workflow.index, child))

    def _on_landing(self, now: int, plan: Plan) -> None:
        self._landing = plan

    def _on_wake(self, now: int, payload: None) -> None:
        self._triggers.add(Trigger.WAKE_UP)
        self._wakes_in_vain += 1

    def _check_wakes(self) -> None:
        """Find out a policy that waits for nothing."""
        self._wakes_in_vain = 0  # look again after as many
        if self._next_root == len(self._roots) and all(event[1] in (_WAKE, _LANDING) for event in self._heap):
            raise SimulationStalled(
                f"policy '{self.policy.name}': it asked for {_PATIENCE} wake-ups in a row without a decision and "
                f"nothing else can happen, {self._where_stuck()}, every ready call must be placed"
            )

    # -- the dispatch phase

    def _dispatch(self, now: int) -> None:
        newly = self._reveal(now) if self._newly_ready else ()
        if self._idled:
            for p in self._idled:
                if not p.queue.items:
                    self._triggers.add(_PREFILL_IDLE)
            self._idled.clear()
        if self._quiet_until_us != NONE:
            self._stay_quiet(now)
        if self._landing is not None:
            for decision in self._landing.decisions:
                # It was checked when it was made; since then the call may have moved on.
                call = self._live.get(decision.call)
                if call is not None and not self._rules.overtaken(call, decision):
                    self._apply(now, call, decision)
            self._landing = self._in_flight = None
        if self._triggers and self._in_flight is None:
            self._invoke(now)
        if newly and self._in_flight is not None and self._fallback is not None:
            self._fall_back(now, newly)

        if self._touched_admission:
            for i in sorted(self._touched_admission):
                if self.decode[i].admission.items:
                    self._admit(now, self.decode[i])
            self._touched_admission.clear()
        if self._touched_prefill:
            for i in sorted(self._touched_prefill):
                p = self.prefill[i]
                if not p.batch and p.queue.items:
                    self._start_batch(now, p)
            self._touched_prefill.clear()
        if self._touched_batch:
            for i in sorted(self._touched_batch):
                self._start_segment(now, self.decode[i])
            self._touched_batch.clear()

    def _reveal(self, now: int) -> list[CallView]:
        """Make the calls that became ready known, in (workflow, call) order.

        It happens after all events of the instant, so that a predictor has learnt from every completion of it.
        """
        newly = self._newly_ready
        if len(newly) > 1:
            newly.sort()
        views = []
        blocks = self.latency.blocks
        for wi, ci in newly:
            workflow = self._workflows.get(wi)
            if workflow is None:
                truth = self.trace.workflows[wi]
                workflow = LiveWorkflow(wi, self._first_row[wi], truth, _known(truth.arrival_us))
                self._workflows[wi] = workflow
            c = workflow.truth.calls[ci]
            prompt, output = c.prompt_tokens, c.output_tokens
            predicted = self._predictor.predict(wi, ci)
            if not isinstance(predicted, int) or predicted < 1:
                raise ConfigError(
                    f"predictor '{self._predictor.name}': it foretells {predicted!r} tokens for call "
                    f"'{workflow.truth.workflow_id}/{c.call_id}', a whole number of at least 1 is needed, correct it"
                )
            prompt_blocks = blocks(prompt)
            kv_blocks = blocks(prompt + output)
            key = self._revealed
            self._revealed = key + 1
            prefill_candidates = self._candidates.prefill(prompt_blocks)
            decode_candidates = self._candidates.decode(kv_blocks if output > 1 else 0)
            seen = CallView(
                key,
                workflow.view,
                ci,
                c.call_id,
                tuple(workflow.views[parent] for parent in c.parents),
                now,
                prompt,
                c.cached_prefix_tokens,
                predicted,
                blocks(prompt + predicted),
                prefill_candidates,
                decode_candidates,
            )
            workflow.views[ci] = seen
            workflow.view.calls.append(seen)
            self._live[key] = call = LiveCall(
                workflow, ci, seen, prompt_blocks, kv_blocks, output, prefill_candidates, decode_candidates
            )
            self._pool[key] = seen
            self.table.ready_us[call.row] = now
            views.append(seen)
        newly.clear()
        self._triggers.add(_CALL_READY)
        return views

    def _invoke(self, now: int) -> None:
        triggers = self._triggers & self._subscribed
        self._triggers.clear()
        if not triggers:
            return
        view = self._view
        view.now_us = now
        view.triggers = frozenset(triggers)
        view.pool = list(self._pool.values())
        start = time.perf_counter_ns()
        plan = self.policy.plan(view)
        took = time.perf_counter_ns() - start
        planning = self.planning
        planning.took_ns.append(took)
        if plan is not NO_PLAN:
            check_plan(self.policy, now, plan)
        if plan.wake_us is not None:
            self._push(plan.wake_us, _WAKE, None)
        latency_us = self._plan_latency_us
        if latency_us is None:
            latency_us = -(-took // 1000)
        planning.at_us.append(now)
        planning.latency_us.append(latency_us)
        for decision in plan.decisions:
            if latency_us:
                self._check(self.policy, now, decision)
            else:
                self._apply(now, self._check(self.policy, now, decision), decision)
        if not latency_us:
            return
        if plan.decisions:
            # The policy may reuse its list; what was decided is fixed now.
            self._in_flight = Plan(tuple(plan.decisions), None)
            self._push(now + latency_us, _LANDING, self._in_flight)
        else:
            self._in_flight = NO_PLAN
            self._quiet_until_us = now + latency_us

    def _stay_quiet(self, now: int) -> None:
        """See to an empty plan in flight: it has landed, or a trigger waits for its landing, or all stays quiet."""
        if now >= self._quiet_until_us:
            self._in_flight = None
        elif self._triggers.isdisjoint(self._subscribed):
            return
        else:
            self._push(self._quiet_until_us, _LANDING, NO_PLAN)
        self._quiet_until_us = NONE

    def _fall_back(self, now: int, newly: Sequence[CallView]) -> None:
        unplaced = [c for c in newly if c.key in self._pool]
        if not unplaced or self._fallback is None:
            return
        view = self._view
        view.now_us = now
        view.triggers = _READY_ALONE
        view.pool = unplaced
        plan = self._fallback.plan(view)
        check_plan(self._fallback, now, plan)
        for decision in plan.decisions:
            call = self._live.get(decision.call)
            if call is not None:
                decision = decision._replace(priority=float(call.ready_us))
            self._apply(now, self._check(self._fallback, now, decision), decision)

    def _check(self, policy: Policy, now: int, decision: Decision) -> LiveCall:
        return self._rules.check(policy, now, decision, self._live.get(decision.call), self._revealed)

    def _apply(self, now: int, call: LiveCall, decision: Decision) -> None:
        p, d = operator.index(decision.prefill), operator.index(decision.decode)
        priority = float(decision.priority)
        if call.state != _POOL and p == call.prefill and d == call.decode and priority == call.priority:
            return
        seen = call.view
        self._wakes_in_vain = 0
        self.decisions.add(now, call.row, p, d, priority)
        reordered = priority != call.priority
        call.priority = seen.priority = self.table.priority[call.row] = priority
        if call.state <= _QUEUED:
            if call.state == _POOL:
                del self._pool[call.key]
                self.table.placed_us[call.row] = now
                call.state = seen.state = _QUEUED
                self.prefill[p].enqueue(call)
                self._touched_prefill.add(p)
            elif p != call.prefill:
                self.prefill[call.prefill].withdraw(call)
                self._touched_prefill.add(call.prefill)
                self.prefill[p].enqueue(call)
                self._touched_prefill.add(p)
            elif reordered:
                self.prefill[p].queue.reorder(call)
                self._touched_prefill.add(p)
            call.prefill = seen.prefill = p
            self.table.prefill[call.row] = p
        if d != call.decode:
            self._bind(call, d)
        elif reordered and call.state == _ADMISSION:
            self.decode[d].admission.reorder(call)
            self._touched_admission.add(d)
        elif reordered and call.state == _TRANSFERRED:
            self.decode[d].joiners.reorder(call)

    def _bind(self, call: LiveCall, d: int) -> None:
        seen = call.view
        new = self.decode[d]
        if call.decode >= 0:
            old = self.decode[call.decode]
            old.unbind(call)
            if call.state == _ADMISSION:
                old.admission.remove(call)
                del old.waiting_view[call.key]
                self._touched_admission.add(old.index)
        if call.state == _ADMISSION:
            new.admission.add(call)
            new.waiting_view[call.key] = seen
            self._touched_admission.add(d)
        call.decode = seen.decode = d
        self.table.decode[call.row] = d
        new.bind(call)

    def _admit(self, now: int, d: DecodeEngine) -> None:
        table = self.table
        for call in d.admit(self._strict):
            start, end = self.network.book(now, call.prefill, d.index, call.prompt_tokens)
            row = call.row
            seen = call.view
            table.admit_us[row] = seen.admit_us = now
            table.transfer_start_us[row] = seen.transfer_start_us = start
            call.state = seen.state = _TRANSFERRING
            self._push(end, _TRANSFER_END, call)

    def _start_batch(self, now: int, p: PrefillEngine) -> None:
        end = p.start_batch(now)
        if end < 0:
            return
        start_column = self.table.prefill_start_us
        for call in p.batch:
            start_column[call.row] = call.view.prefill_start_us = now
            call.state = call.view.state = _PREFILLING
        self._push(end, _PREFILL_END, p)

    def _start_segment(self, now: int, d: DecodeEngine) -> None:
        join_column = self.table.join_us
        iterations = d.iterations
        for call in d.start_segment(now):
            seen = call.view
            join_column[call.row] = seen.join_us = now
            seen.joined_iteration = iterations
            call.state = seen.state = _RUNNING
            del d.waiting_view[call.key]
        if d.open:
            self._push(d.next_us, _BOUNDARY, d)


def _known(us: int | None) -> int:
    if us is None:
        raise ConfigError("trace: a time is unknown (null), a simulation needs all of them, apply a rule first")
    return us
