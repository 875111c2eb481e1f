"""``hexagent``: HexAGenT (arXiv 2605.16637), the reference heuristic.

Every planning round projects, for each waiting call, its finish at the best (prefill, decode) pair, and ranks
calls by their **projected ratio** ``R = (finish − arrival of the workflow) / horizon of the workflow``: the
largest, the call that most endangers its workflow's standalone completion, goes first, in both phases.

The paper has no public code. Where it is silent, the choice is a parameter, documented below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import NO_PLAN, Decision, Plan
from hexopt.core.protocols import BasePolicy, Forecaster, LatencyModel, PlanLatency, Policy
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.errors import ConfigError
from hexopt.policies.compiled import CompiledPlacement, load_kernels
from hexopt.policies.dispatch import FewestOutstanding
from hexopt.policies.forecast.tails import TailOf, check_forecast, tails_of
from hexopt.policies.horizon import Horizon, UnloadedFinish
from hexopt.policies.labels import relabel
from hexopt.policies.open_calls import contended
from hexopt.policies.projection import Estimator, Pair, Projection

Risk = tuple[float, int, int, int]
"""(minus the projected ratio, or the ready time; the workflow's arrival, its index, the call's): smallest first."""

_COMPILED_FROM = 6
"""Waiting calls from which on the compiled loop (``kernels.place``) is faster than the plain one, its equal."""


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
        Whether calls past prefill that wait on a contended decode instance (a call waits for KV room there, or its
        batch is full) are ranked anew in each round. Elsewhere they join at the next boundary whatever their rank.

    decide_ahead
        A round ranks and places all waiting calls, but decides only as far as the next so many calls of each prefill
        instance depend on it: they are the same, in the same order, as if all were decided about. The others, of which
        the next rounds think again, stay where they are. 0: about all.
    forecaster
        What may still come in a workflow beyond what is revealed: one of
        :data:`hexopt.policies.forecast.FORECASTERS`. The horizon and the projected finish grow by what is foretold.
        ``"none"``: by nothing, as in the paper.
    shrinkage
        What is left of the forecast, from 0 to 1: an uncertain one does harm in full.
    tail_of
        Which number of the forecast is used; see :data:`hexopt.policies.forecast.tails.TailOf`. The mean of an
        uncertain forecast does harm (docs/online-loop.md).
    horizon
        ``"arrival"``: the horizon stays the longest path of what was revealed at the workflow's start.
    priority
        ``"ready"``: calls are committed and queued by ready time; only the placement is HexAGenT's.
    placement
        ``"blind"``: calls go once to the instances with the fewest outstanding tokens, as under ``fcfs``, whether they
        have room or not; only the order is HexAGenT's.

    The last three, ``decode_priority``, a plan latency of 0 and the run's predictor ``oracle`` are its ablations.

    Ties: the older workflow (by arrival), then positions in the trace; pairs of equal finish go to the lower prefill
    index, then the lower decode index (of equal prefill instances, the one that is free first).
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
        decide_ahead: int = 4,
        forecaster: str = "none",
        shrinkage: float = 1.0,
        tail_of: TailOf = "cautious",
        horizon: Literal["running", "arrival"] = "running",
        priority: Literal["risk", "ready"] = "risk",
        placement: Literal["joint", "blind"] = "joint",
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
        self.decide_ahead = decide_ahead
        self.forecaster = forecaster
        self.shrinkage = shrinkage
        self.tail_of = tail_of
        check_forecast(self)
        if forecaster != "none" and horizon == "arrival":
            raise ConfigError(
                f"policy '{self.name}': horizon is arrival and forecaster is {forecaster}, a horizon that does not "
                "grow has no forecast, drop one of them"
            )
        self.handed_forecaster: Forecaster | None = None
        """A forecaster to be used in place of the named one, which knows what policies do not."""
        self.horizon = horizon
        self.priority = priority
        self.placement = placement

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget all workflows."""
        self._latency = latency
        self._estimator = Estimator(cluster, latency)
        self._unloaded = UnloadedFinish(self._estimator)
        self._horizons: dict[int, Horizon] = {}
        self._tails = tails_of(self, cluster, latency)
        self._finish_us: dict[int, int] = {}
        self._forget_above = [1024, 4096]
        self._rebind = cluster.binding == "handoff"
        self._compiled: CompiledPlacement | None = None
        plain = self.priority == "ready" or self.placement == "blind"
        kernels = None if plain else load_kernels()
        if kernels is not None and CompiledPlacement.suits(kernels, self._estimator):
            self._compiled = CompiledPlacement(kernels, self._estimator)

    def plan(self, view: View) -> Plan:
        """Rank the calls that wait for decode, then place and rank those that wait for prefill."""
        waiting, arrived = self._undecided(view)
        if not waiting and not arrived:
            return NO_PLAN
        if not arrived and len(waiting) >= _COMPILED_FROM and self._compiled is not None:
            plan = self._replan(self._compiled, view, waiting)
            if plan is not None:
                return plan
        return _to_plan(self._rank(view, waiting, arrived), self.decide_ahead)

    def _undecided(self, view: View) -> tuple[list[CallView], list[CallView]]:
        """Return the calls to be placed and those to be ranked for decode, and bring what is remembered up to date."""
        waiting = list(view.pool)
        if self.replan_queued:
            for p in view.prefill:
                waiting.extend(p.queue.values())
        arrived: list[CallView] = []
        if self.decode_priority:
            for d in view.decode:
                if d.waiting and contended(d):
                    arrived.extend(d.waiting.values())
        if self._tails is not None:
            self._tails.look(view)
        if waiting or arrived:
            self._forget(view)
        return waiting, arrived

    def _rank(self, view: View, waiting: list[CallView], arrived: list[CallView]) -> list[_Ranked]:
        """Return where all these calls belong, in order of commitment."""
        round_ = _Round(self, view, waiting, arrived)
        ranked = round_.rank_decode(arrived) if arrived else []
        if waiting:
            ranked.extend(round_.place(waiting))
        return ranked

    def _replan(self, compiled: CompiledPlacement, view: View, waiting: list[CallView]) -> Plan | None:
        """Plan the usual round of a long queue; ``None`` if a call's numbers are too large for it."""
        movable = {c.key: c for c in waiting}
        projection = Projection.of(
            self._estimator, view, self._finish_us, movable, queues_move=self.replan_queued, count_movable=True
        )
        horizons = self._horizons_us(waiting)
        made = compiled.replan(
            projection,
            waiting,
            horizons,
            self.small_queue,
            self.kv_room == "now",
            self.risk_until == "phase",
            self.decide_ahead,
            self._tails_us(waiting),
        )
        if made is None:
            return None
        plan, finishes = made
        self._finish_us.update((key, us) for key, us in zip(movable, finishes, strict=True) if us >= 0)
        return plan

    def _horizons_us(self, calls: list[CallView]) -> list[int]:
        """Return ``horizon_us`` of each of some waiting calls, with little ado where nothing has changed."""
        known = self._horizons
        asked: dict[int, int] = {}
        horizons = []
        if self._tails is not None:
            return [self.horizon_us(call) for call in calls]
        for call in calls:
            w = call.workflow.index
            horizon = known.get(w)
            if horizon is not None and horizon.lone is call:
                us = horizon.of_waiting_us(call)
            else:
                found = asked.get(w)
                us = asked[w] = self.horizon_us(call) if found is None else found
            horizons.append(us)
        return horizons

    def _tails_us(self, calls: list[CallView]) -> list[int] | None:
        """Return what is reckoned to follow each of some calls; ``None`` without a forecaster."""
        return None if self._tails is None else [self.tail_us(call) for call in calls]

    def tail_us(self, call: CallView) -> int:
        """Return what is reckoned to follow the call in its workflow, µs."""
        return 0 if self._tails is None else self._tails.of_call(call, self._horizon(call).current_us())

    def _forget(self, view: View) -> None:
        """Drop what is known of calls and workflows that have left, whenever it has doubled."""
        if len(self._finish_us) > self._forget_above[0]:
            bound = {key for d in view.decode for key in d.bound}
            self._finish_us = {k: t for k, t in self._finish_us.items() if k in bound}
            self._forget_above[0] = max(1024, 2 * len(self._finish_us))
        # A horizon can be rebuilt from its workflow's calls, all but its maximum.
        if len(self._horizons) > self._forget_above[1] and not self.keep_maximum:
            active = {c.workflow.index for d in view.decode for c in d.bound.values()}
            active.update(c.workflow.index for c in view.pool)
            self._horizons = {w: h for w, h in self._horizons.items() if w in active}
            self._forget_above[1] = max(4096, 2 * len(self._horizons))

    def horizon_us(self, call: CallView) -> int:
        """Return the running horizon of the call's workflow, µs after its arrival (at least 1)."""
        horizon = self._horizon(call)
        return horizon.current_us() if self._tails is None else self._tails.horizon_us(horizon)

    def _horizon(self, call: CallView) -> Horizon:
        workflow = call.workflow
        horizon = self._horizons.get(workflow.index)
        if horizon is None:
            horizon = self._horizons[workflow.index] = Horizon(
                workflow, self._unloaded, self.keep_maximum, self.horizon == "running"
            )
        return horizon


class _Ranked(NamedTuple):
    """Where a call belongs. The lower ``risk`` (minus the projected ratio) goes first, then the older workflow."""

    risk: float
    call: CallView
    prefill: int
    decode: int


def _to_plan(ranked: list[_Ranked], ahead: int) -> Plan:
    """Give the calls priorities in order of risk and decide about those for which something near changes."""
    if len(ranked) == 1:
        (_, call, p, d) = ranked[0]
        label = call.priority if call.prefill >= 0 else float(call.ready_us)
        same = call.prefill == p and call.decode == d
        return NO_PLAN if same else Plan([Decision(call.key, p, d, label)])
    if len(ranked) > 1:
        # Stable: calls of equal risk stay in order of commitment, and so do those a commitment pushed behind.
        ranked.sort(key=lambda r: r.risk)
    present = [r.call.priority if r.call.prefill >= 0 else math.nan for r in ranked]
    labels = relabel(present, [r.call.ready_us for r in ranked])
    near = [True] * len(ranked)
    if ahead and any(old == new for old, new in zip(present, labels, strict=True)):
        near = _near(ranked, labels, ahead)
    decisions = []
    for (_, call, p, d), label, matters in zip(ranked, labels, near, strict=True):
        if matters and (call.prefill != p or call.decode != d or call.priority != label):
            decisions.append(Decision(call.key, p, d, label))
    return Plan(decisions)


def _near(ranked: list[_Ranked], labels: list[float], ahead: int) -> list[bool]:
    """Say about which calls to decide; ``kernels.near`` for calls of any state.

    With these decisions the next ``ahead`` calls of every prefill instance are the same as with all of them: those
    that shall be among them, and those that would stay, under an old label, before the last of them or on an
    instance that shall have fewer.
    """
    count: dict[int, int] = {}
    last: dict[int, float] = {}
    near = []
    for (_, call, p, _), label in zip(ranked, labels, strict=True):
        if call.state <= CallState.QUEUED:
            count[p] = count.get(p, 0) + 1
            if count[p] == ahead:
                last[p] = label
        near.append(call.state != CallState.QUEUED or count[p] <= ahead)
    return [
        is_near or call.priority <= last.get(call.prefill, math.inf)
        for is_near, (_, call, _, _) in zip(near, ranked, strict=True)
    ]


class _Round:
    """One planning round."""

    def __init__(self, policy: HexAGenT, view: View, waiting: list[CallView], arrived: list[CallView]) -> None:
        self._policy = policy
        self._view = view
        self._room_now = policy.kv_room == "now"
        self._until_phase = policy.risk_until == "phase"
        movable = {c.key: c for c in waiting}
        movable.update((c.key, c) for c in arrived if c.state == CallState.ADMISSION)
        self._projection = Projection.of(
            policy._estimator, view, policy._finish_us, movable, queues_move=policy.replan_queued
        )
        self._blind = FewestOutstanding(view) if policy.placement == "blind" else None

    def _ratio(self, call: CallView, finish_us: int) -> float:
        policy = self._policy
        return (finish_us + policy.tail_us(call) - call.workflow.arrival_us) / policy.horizon_us(call)

    def place(self, waiting: list[CallView]) -> list[_Ranked]:
        """Commit calls one by one in order of projected ratio, each to its best pair.

        A long queue goes to the compiled loop, which does the same.
        """
        policy = self._policy
        if len(waiting) >= _COMPILED_FROM and policy._compiled is not None:
            horizons = policy._horizons_us(waiting)
            placed = policy._compiled.place(
                self._projection,
                waiting,
                horizons,
                policy.small_queue,
                self._room_now,
                self._until_phase,
                policy._tails_us(waiting),
            )
            if placed is not None:
                policy._finish_us.update((call.key, finish) for call, finish, _, _, _ in placed)
                return [_Ranked(risk, call, p, d) for call, _, p, d, risk in placed]
        if self._blind is not None:
            return self._one_by_one(waiting, self._blind_pair, self._risk, self._commit_blindly, last_phase=True)
        return self._one_by_one(waiting, self._best, self._risk, self._projection.commit, last_phase=True)

    def _one_by_one(
        self,
        calls: list[CallView],
        best: Callable[[CallView], Pair | None],
        risk: Callable[[CallView, Pair], Risk],
        commit: Callable[[CallView, int, int, int], None],
        last_phase: bool = False,
    ) -> list[_Ranked]:
        """Commit the call most at risk to its best pair; with few calls, score the rest again each time.

        ``last_phase``: nobody looks at the projection afterwards.
        """
        scored = [(risk(call, pair), call, pair) for call in calls if (pair := best(call)) is not None]
        if len(scored) == 1 and last_phase:  # the common case: nobody is left to see the commitment
            key, call, pair = scored[0]
            self._policy._finish_us[call.key] = pair[0]
            return [_Ranked(key[0], call, pair[1], pair[2])]
        # By ready time the order is the same however often it is asked for.
        rescore = len(scored) <= self._policy.small_queue and self._policy.priority == "risk"
        if not rescore:
            scored.sort(key=lambda row: row[0], reverse=True)
        ranked: list[_Ranked] = []
        last = -math.inf
        while scored:
            if rescore:
                key, call, pair = scored.pop(min(range(len(scored)), key=lambda k: scored[k][0]))
            else:
                key, call, _ = scored.pop()
                again = best(call)
                if again is None:
                    continue
                pair = again
            commit(call, *pair)
            self._policy._finish_us[call.key] = pair[0]
            last = max(key[0], last)  # who was committed before stays before
            ranked.append(_Ranked(last, call, pair[1], pair[2]))
            if rescore:
                scored = [(risk(c, new), c, new) for _, c, _ in scored if (new := best(c)) is not None]
        return ranked

    def _best(self, call: CallView) -> Pair | None:
        return self._projection.best(call, room_now=self._room_now)

    def _blind_pair(self, call: CallView) -> Pair | None:
        if self._blind is None:
            return None
        p, d = self._blind.pair(call) if call.state == CallState.POOL else (call.prefill, call.decode)
        return self._projection.finish_at(call, p, d), p, d

    def _commit_blindly(self, call: CallView, finish_us: int, p: int, d: int) -> None:
        self._projection.commit(call, finish_us, p, d)
        if self._blind is not None and call.state == CallState.POOL:
            self._blind.add(call, p, d)

    def _risk(self, call: CallView, pair: Pair) -> Risk:
        """Sort key: larger projected ratio first, then the older workflow, then positions in the trace."""
        finish, p, _ = pair
        if self._until_phase:
            finish = self._projection.prefill_free_us[p] + self._policy._latency.prefill_us(p, call.prompt_tokens)
        return self._key(call, finish)

    def _key(self, call: CallView, finish_us: int) -> Risk:
        workflow = call.workflow
        if self._policy.priority == "ready":
            return float(call.ready_us), workflow.arrival_us, workflow.index, call.index
        return -self._ratio(call, finish_us), workflow.arrival_us, workflow.index, call.index

    def rank_decode(self, arrived: list[CallView]) -> list[_Ranked]:
        """Rank the calls past prefill that wait on a decode instance, by the same loop.

        A call whose KV is reserved is locked to its instance. One still waiting for room stays on its instance too,
        but under ``handoff`` binding it may move to where it would finish first.
        """
        projection = self._projection
        rebind = self._policy._rebind

        def best(call: CallView) -> Pair:
            finish, d = projection.best_decode(call, call.decode_candidates if rebind else (call.decode,))
            return finish, call.prefill, d

        ranked = self._one_by_one(
            [c for c in arrived if c.state == CallState.ADMISSION],
            best,
            lambda call, pair: self._key(call, pair[0]),
            lambda call, finish, _, d: projection.commit_decode(call, finish, d),
        )
        latency = self._policy._latency
        locked = []
        for call in arrived:
            if call.state != CallState.ADMISSION:
                wire = latency.wire_us(call.prefill, call.decode, call.prompt_tokens)
                arrive = max(self._view.now_us, call.transfer_start_us + wire + latency.transfer_latency_us)
                locked.append((self._key(call, projection.locked_finish(call, arrive)), call))
        locked.sort(key=lambda row: row[0])
        ranked.extend(_Ranked(key[0], call, call.prefill, call.decode) for key, call in locked)
        return ranked
