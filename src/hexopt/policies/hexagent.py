"""``hexagent``: HexAGenT (arXiv 2605.16637), the reference heuristic.

Every planning round projects, for each waiting call, its finish at the best (prefill, decode) pair, and ranks
calls by their **projected ratio** ``R = (finish − arrival of the workflow) / horizon of the workflow``: the
largest, the call that most endangers its workflow's standalone completion, goes first, in both phases.

The paper has no public code. Where it is silent, the choice is a parameter, documented below.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import NO_PLAN, Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.policies.horizon import Horizon, UnloadedFinish
from hexopt.policies.projection import Estimator, Projection

Pair = tuple[int, int, int]
"""(projected finish, prefill, decode)."""


class HexAGenT(BasePolicy):
    """Joint prefill and decode placement and priority by projected risk, planned asynchronously.

    Parameters
    ----------
    plan_latency_us
        Planning time charged to each plan, µs, or ``"measured"``. The paper measures 7.1 to 14.7 ms a round.
    fallback
        Who places calls while a plan is in flight (by default the pair with the earliest projected finish).
    small_queue
        Up to this many waiting calls the best call is committed and the rest is scored again, one by one; above,
        all are scored once and placed in that order.
    risk_until
        Whether the projected ratio of a call waiting for prefill reaches to the end of the ``"call"`` or of the
        ``"phase"`` (its prefill); sources disagree.
    kv_room
        A decode instance without room for a call may be chosen and waited for (``"wait"``), or not (``"now"``; a call
        without any room stays where it is).
    keep_maximum
        Whether a horizon that measured service corrected downwards stays at its maximum.
    replan_queued
        Whether calls that are placed but not started are placed anew in each round.
    decode_priority
        Whether calls that wait on a decode instance are re-prioritised in each round.
    """

    name: ClassVar[str] = "hexagent"
    default_fallback: ClassVar[str] = "earliest-finish"
    triggers: ClassVar[frozenset[Trigger]] = frozenset((Trigger.CALL_READY, Trigger.TRANSFER_END))

    def __init__(
        self,
        *,
        plan_latency_us: PlanLatency = 10_000,
        fallback: Policy | None = None,
        small_queue: int = 32,
        risk_until: Literal["call", "phase"] = "call",
        kv_room: Literal["wait", "now"] = "wait",
        keep_maximum: bool = False,
        replan_queued: bool = True,
        decode_priority: bool = True,
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        self.small_queue = small_queue
        self.risk_until = risk_until
        self.kv_room = kv_room
        self.keep_maximum = keep_maximum
        self.replan_queued = replan_queued
        self.decode_priority = decode_priority

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget all workflows."""
        self._latency = latency
        self._estimator = Estimator(cluster, latency)
        self._unloaded = UnloadedFinish(self._estimator)
        self._horizons: dict[int, Horizon] = {}
        self._finish_us: dict[int, int] = {}
        self._rebind = cluster.binding == "handoff"

    def plan(self, view: View) -> Plan:
        """Place and rank the calls that wait for prefill, then rank those that wait for decode."""
        waiting = list(view.pool)
        if self.replan_queued:
            for p in view.prefill:
                waiting.extend(p.queue.values())
        decisions: list[Decision] = []
        self._forget(view)
        round_ = _Round(self, view, waiting)
        if waiting:
            round_.plan_prefill(waiting, decisions)
        if self.decode_priority:
            round_.plan_decode(decisions)
        return Plan(decisions) if decisions else NO_PLAN

    def _forget(self, view: View) -> None:
        """Drop what is known of calls and workflows that have left."""
        if len(self._finish_us) < 1024 and len(self._horizons) < 4096:
            return
        bound = {key: c for d in view.decode for key, c in d.bound.items()}
        if 2 * len(bound) < len(self._finish_us):
            self._finish_us = {k: t for k, t in self._finish_us.items() if k in bound}
        # Between two calls a workflow has none that is bound; its horizon is then rebuilt from its calls.
        active = {c.workflow.index for c in bound.values()} | {c.workflow.index for c in view.pool}
        if 2 * len(active) < len(self._horizons):
            self._horizons = {w: h for w, h in self._horizons.items() if w in active}

    def horizon_us(self, call: CallView) -> int:
        """Return the running horizon of the call's workflow, µs after its arrival (at least 1)."""
        workflow = call.workflow
        horizon = self._horizons.get(workflow.index)
        if horizon is None:
            horizon = self._horizons[workflow.index] = Horizon(workflow, self._unloaded, self.keep_maximum)
        return horizon.current_us()


class _Round:
    """One planning round."""

    def __init__(self, policy: HexAGenT, view: View, waiting: list[CallView]) -> None:
        self._policy = policy
        self._view = view
        self._room_now = policy.kv_room == "now"
        self._until_phase = policy.risk_until == "phase"
        self._horizon: dict[int, int] = {}
        self._projection = Projection.of(
            policy._estimator, view, policy._finish_us, {c.key: c for c in waiting} if waiting else None
        )

    def _ratio(self, call: CallView, finish_us: int) -> float:
        workflow = call.workflow
        horizon = self._horizon.get(workflow.index)
        if horizon is None:
            horizon = self._horizon[workflow.index] = self._policy.horizon_us(call)
        return (finish_us - workflow.arrival_us) / horizon

    def plan_prefill(self, waiting: list[CallView], decisions: list[Decision]) -> None:
        """Commit calls one by one in order of projected ratio, each to its best pair."""
        scored = [(call, pair) for call in waiting if (pair := self._best(call)) is not None]
        if len(scored) <= self._policy.small_queue:
            self._commit_rescoring(scored, decisions)
        else:
            self._commit_in_order(scored, decisions)

    def _best(self, call: CallView) -> Pair | None:
        return self._projection.best(call, room_now=self._room_now)

    def _risk(self, call: CallView, pair: Pair) -> tuple[float, int, int]:
        """Sort key: larger projected ratio first, then the older workflow, then ids."""
        finish, p, _ = pair
        if self._until_phase:
            finish = self._projection.prefill_free_us[p] + self._policy._latency.prefill_us(p, call.prompt_tokens)
        return -self._ratio(call, finish), call.workflow.index, call.index

    def _commit_rescoring(self, scored: list[tuple[CallView, Pair]], decisions: list[Decision]) -> None:
        # A commitment makes only its own two instances worse, so the best pair of a call that uses neither stands.
        rows = [(self._risk(call, pair), call, pair) for call, pair in scored]
        last = -math.inf
        while rows:
            i = min(range(len(rows)), key=lambda k: rows[k][0])
            risk, call, pair = rows.pop(i)
            last = self._commit(call, pair, risk[0], last, decisions)
            p, d = pair[1:]
            kept = []
            for row in rows:
                if row[2][1] == p or row[2][2] == d:
                    again = self._best(row[1])
                    if again is None:
                        continue
                    row = (self._risk(row[1], again), row[1], again)
                kept.append(row)
            rows = kept

    def _commit_in_order(self, scored: list[tuple[CallView, Pair]], decisions: list[Decision]) -> None:
        order = sorted((self._risk(call, pair), k) for k, (call, pair) in enumerate(scored))
        last = -math.inf
        for risk, k in order:
            call = scored[k][0]
            pair = self._best(call)
            if pair is not None:
                last = self._commit(call, pair, risk[0], last, decisions)

    def _commit(self, call: CallView, pair: Pair, risk: float, last: float, decisions: list[Decision]) -> float:
        """Commit a call and return its priority, which keeps the order of commitment."""
        finish, p, d = pair
        self._projection.commit(call, finish, p, d)
        self._policy._finish_us[call.key] = finish
        priority = risk if risk > last else math.nextafter(last, math.inf)
        if call.prefill != p or call.decode != d or call.priority != priority:
            decisions.append(Decision(call.key, p, d, priority))
        return priority

    def plan_decode(self, decisions: list[Decision]) -> None:
        """Rank the calls past prefill that wait on a decode instance where there is something to wait for.

        A call whose KV is reserved is locked to its instance. Under ``handoff`` binding one still waiting for room may
        move to the instance where it would finish first.
        """
        for d in self._view.decode:
            contended = d.running >= d.max_batch or any(c.state == CallState.ADMISSION for c in d.waiting.values())
            if not d.waiting or not contended:
                continue
            rows = []
            for call in d.waiting.values():
                finish, target = self._decode_target(call)
                rows.append((-self._ratio(call, finish), call.workflow.index, call.index, target, call))
            rows.sort(key=lambda row: row[:3])
            last = -math.inf
            for risk, _, _, target, call in rows:
                priority = risk if risk > last else math.nextafter(last, math.inf)
                last = priority
                if target != call.decode or priority != call.priority:
                    decisions.append(Decision(call.key, call.prefill, target, priority))

    def _decode_target(self, call: CallView) -> tuple[int, int]:
        """Return the call's projected finish and the decode instance it belongs on."""
        now = self._view.now_us
        projection = self._projection
        if call.state != CallState.ADMISSION:
            arrive = max(now, call.transfer_start_us + self._transfer_us(call, call.decode))
            return projection.decode_finish(call, arrive, reserved=True), call.decode
        best = projection.decode_finish(call, now + self._transfer_us(call, call.decode), reserved=False), call.decode
        if self._policy._rebind:
            for d in call.decode_candidates:
                if d != call.decode:
                    arrive = now + self._transfer_us(call, d)
                    best = min(best, (projection.other_decode_finish(call, d, arrive), d))
        return best

    def _transfer_us(self, call: CallView, d: int) -> int:
        latency = self._policy._latency
        return latency.wire_us(call.prefill, d, call.prompt_tokens) + latency.transfer_latency_us
