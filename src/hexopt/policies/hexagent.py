"""``hexagent``: HexAGenT (arXiv 2605.16637), the reference heuristic.

Every planning round projects, for each waiting call, its finish at the best (prefill, decode) pair, and ranks
calls by their **projected ratio** ``R = (finish − arrival of the workflow) / horizon of the workflow``: the
largest, the call that most endangers its workflow's standalone completion, goes first, in both phases.

The paper has no public code. Where it is silent, the choice is a parameter, documented below.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import NO_PLAN, Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import CallState, CallView, DecodeView, Trigger, View
from hexopt.policies.compiled import CompiledPlacement, load_kernels
from hexopt.policies.horizon import Horizon, UnloadedFinish
from hexopt.policies.labels import relabel
from hexopt.policies.projection import Estimator, Pair, Projection

_COMPILED_FROM = 6
"""Waiting calls from which on the compiled loop is faster than the plain one."""


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
    triggers = frozenset((Trigger.CALL_READY, Trigger.TRANSFER_END))

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
        if kv_room == "now":
            # A call left without room is thought of again when a completion makes some.
            self.triggers = self.triggers | {Trigger.CALL_COMPLETE}
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
        self._compiled: CompiledPlacement | None = None
        kernels = load_kernels()
        if kernels is not None and CompiledPlacement.suits(kernels, self._estimator):
            self._compiled = CompiledPlacement(kernels, self._estimator)

    def plan(self, view: View) -> Plan:
        """Place and rank the calls that wait for prefill, rank those that wait for decode."""
        waiting = list(view.pool)
        if self.replan_queued:
            for p in view.prefill:
                waiting.extend(p.queue.values())
        contended = [d for d in view.decode if d.waiting and _contended(d)] if self.decode_priority else []
        if not waiting and not contended:
            return NO_PLAN
        self._forget(view)
        round_ = _Round(self, view, waiting)
        ranked = round_.place(waiting)
        for d in contended:
            ranked.extend(round_.rank_decode(d))
        return _to_plan(ranked)

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


class _Ranked(NamedTuple):
    """Where a call belongs. The lower ``risk`` (minus the projected ratio) goes first, then the older workflow."""

    risk: float
    call: CallView
    prefill: int
    decode: int


def _contended(d: DecodeView) -> bool:
    """Say whether calls wait on this instance for more than the next iteration boundary."""
    return d.running >= d.max_batch or any(c.state == CallState.ADMISSION for c in d.waiting.values())


def _to_plan(ranked: list[_Ranked]) -> Plan:
    """Give the calls priorities in order of risk and decide about those for which something changes."""
    if len(ranked) > 1:
        # Stable: calls of equal risk stay in order of commitment, and so do those a commitment pushed behind.
        ranked.sort(key=lambda r: r.risk)
    present = [r.call.priority if r.call.prefill >= 0 else math.nan for r in ranked]
    labels = relabel(present, [r.call.ready_us for r in ranked])
    decisions = []
    for (_, call, p, d), label in zip(ranked, labels, strict=True):
        if call.prefill != p or call.decode != d or call.priority != label:
            decisions.append(Decision(call.key, p, d, label))
    return Plan(decisions)


class _Round:
    """One planning round."""

    def __init__(self, policy: HexAGenT, view: View, waiting: list[CallView]) -> None:
        self._policy = policy
        self._view = view
        self._room_now = policy.kv_room == "now"
        self._until_phase = policy.risk_until == "phase"
        self._projection = Projection.of(
            policy._estimator, view, policy._finish_us, {c.key: c for c in waiting} if waiting else None
        )

    def _ratio(self, call: CallView, finish_us: int) -> float:
        return (finish_us - call.workflow.arrival_us) / self._policy.horizon_us(call)

    def place(self, waiting: list[CallView]) -> list[_Ranked]:
        """Commit calls one by one in order of projected ratio, each to its best pair.

        A long queue goes to the compiled loop, which does the same.
        """
        policy = self._policy
        if len(waiting) >= _COMPILED_FROM and policy._compiled is not None:
            horizons = [policy.horizon_us(call) for call in waiting]
            placed = policy._compiled.place(
                self._projection, waiting, horizons, policy.small_queue, self._room_now, self._until_phase
            )
            if placed is not None:
                for call, finish, p, d, _ in placed:
                    self._projection.commit(call, finish, p, d)
                policy._finish_us.update((call.key, finish) for call, finish, _, _, _ in placed)
                return [_Ranked(risk, call, p, d) for call, _, p, d, risk in placed]
        scored = [(call, pair) for call in waiting if (pair := self._best(call)) is not None]
        if len(scored) <= self._policy.small_queue:
            return self._commit_rescoring(scored)
        return self._commit_in_order(scored)

    def _best(self, call: CallView) -> Pair | None:
        return self._projection.best(call, room_now=self._room_now)

    def _risk(self, call: CallView, pair: Pair) -> tuple[float, int, int]:
        """Sort key: larger projected ratio first, then the older workflow, then ids."""
        finish, p, _ = pair
        if self._until_phase:
            finish = self._projection.prefill_free_us[p] + self._policy._latency.prefill_us(p, call.prompt_tokens)
        return -self._ratio(call, finish), call.workflow.index, call.index

    def _commit_rescoring(self, scored: list[tuple[CallView, Pair]]) -> list[_Ranked]:
        ranked: list[_Ranked] = []
        while scored:
            risks = [self._risk(call, pair) for call, pair in scored]
            call, pair = scored.pop(risks.index(min(risks)))
            self._commit(call, pair, min(risks)[0], ranked)
            scored = [(c, again) for c, _ in scored if (again := self._best(c)) is not None]
        return ranked

    def _commit_in_order(self, scored: list[tuple[CallView, Pair]]) -> list[_Ranked]:
        order = sorted((self._risk(call, pair), k) for k, (call, pair) in enumerate(scored))
        ranked: list[_Ranked] = []
        for risk, k in order:
            call = scored[k][0]
            pair = self._best(call)
            if pair is not None:
                self._commit(call, pair, risk[0], ranked)
        return ranked

    def _commit(self, call: CallView, pair: Pair, risk: float, ranked: list[_Ranked]) -> None:
        finish, p, d = pair
        self._projection.commit(call, finish, p, d)
        self._policy._finish_us[call.key] = finish
        if ranked and ranked[-1].risk > risk:
            risk = ranked[-1].risk  # who was committed before stays before
        ranked.append(_Ranked(risk, call, p, d))

    def rank_decode(self, d: DecodeView) -> list[_Ranked]:
        """Rank the calls past prefill that wait on a decode instance.

        A call whose KV is reserved is locked to its instance. Under ``handoff`` binding one still waiting for room
        may move to the instance where it would finish first.
        """
        rows = []
        for call in d.waiting.values():
            finish, target = self._decode_target(call)
            rows.append((-self._ratio(call, finish), call.workflow.index, call.index, target, call))
        rows.sort(key=lambda row: row[:3])
        return [_Ranked(risk, call, call.prefill, target) for risk, _, _, target, call in rows]

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
