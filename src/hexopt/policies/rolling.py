"""What the ``rolling-*`` policies share: an optimiser in the loop, over a horizon that rolls on.

At a trigger, HexAGenT plans for all calls that wait. The most urgent of them, and the calls past their prefill's start,
make a window (``cutting.py``); a formulation looks for a better plan of it, starting from HexAGenT's. The better of the
two by the checker's word decides where these calls go and in which order. As under HexAGenT only the next few calls of
each prefill instance are decided about. What has not started stays open, and the next round thinks of it again; but a
call without a place gets one, so that no instance idles while a plan exists.

The optimiser is advice: if it fails, hangs, finds nothing or talks nonsense, HexAGenT's plan stands.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import NO_PLAN, Plan
from hexopt.core.protocols import LatencyModel, PlanLatency, Policy
from hexopt.core.view import CallState, CallView, View
from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.errors import ConfigError
from hexopt.formulations.checker import Verdict, as_plan, check
from hexopt.formulations.objective import Objective, Value, parse_objective
from hexopt.formulations.protocol import Budget, Status
from hexopt.formulations.registry import make_formulation
from hexopt.formulations.single_call import single_call_ends
from hexopt.policies.cutting import Cut, Cutter, in_order
from hexopt.policies.forecast.tails import TailOf
from hexopt.policies.guard import Failure, Guard
from hexopt.policies.hexagent import HexAGenT, _Ranked, _to_plan

_log = logging.getLogger(__name__)

OUTCOMES = ("improved", "kept", "infeasible", "garbage", "error", "hang", "off")
"""What can come of a window, and is counted in ``counts``.

``improved``: a plan better than HexAGenT's was found. ``kept``: none was. In the other cases the formulation failed,
and HexAGenT's plan stands unless the previous solution is better. ``infeasible``: its plan breaks a rule of the window,
or it says that none keeps them. ``garbage``: its answer is none. ``error``: it raised. ``hang``: it did not answer.
``off``: it was not asked, after too many of these.
"""


class Rolling(HexAGenT):
    """HexAGenT's plan, improved by a formulation within a budget.

    Parameters
    ----------
    formulation
        Who looks for a better plan; any name that :func:`hexopt.formulations.make_formulation` knows. Empty: the
        policy's own.
    solver
        The formulation's option of that name; empty: its own choice.
    objective
        What is minimised: ``bottleneck``, ``sum``, ``hinge:ALPHA[,give_up=SHARE]`` or ``late:ALPHA``, of projected
        ratios.
    iterations
        Iterations of a local search a window; 0: no limit. Without any of the three limits the policy's own holds.
    deterministic
        The solver's deterministic units a window; 0: no limit.
    time_limit_ms
        Wall-clock time a window, ms; 0: no limit. With it runs cannot be repeated but by ``replay``.
    most
        Open calls of a window, the most urgent by HexAGenT's plan; the rest goes where that puts it. 0: all.
    reuse
        Whether the previous solution is offered as a start too, where its calls still wait.
    patience_ms
        A formulation that has not answered by then (wall-clock) is given up on. That is a remedy for defects, no
        budget: it is to be far above it, so that on no machine a solve that ends takes as long. Each such answer is
        counted (``hang``, in the summary ``solver_hang``): a run without one did not depend on the clock, if its budget
        does not.
    plan_latency_us
        Planning time charged to each plan, µs, or ``"measured"``.
    """

    name: ClassVar[str] = "rolling"
    own_formulation: ClassVar[str] = ""
    own_iterations: ClassVar[int] = 0
    own_deterministic: ClassVar[float] = 0.0

    def __init__(
        self,
        *,
        plan_latency_us: PlanLatency = 10_000,
        fallback: Policy | None = None,
        formulation: str = "",
        solver: str = "",
        objective: str = "bottleneck",
        iterations: int = 0,
        deterministic: float = 0.0,
        time_limit_ms: float = 0.0,
        most: int = 32,
        reuse: bool = True,
        patience_ms: float = 60_000.0,
        decide_ahead: int = 4,
        forecaster: str = "none",
        shrinkage: float = 1.0,
        tail_of: TailOf = "cautious",
    ) -> None:
        super().__init__(
            plan_latency_us=plan_latency_us,
            fallback=fallback,
            decide_ahead=decide_ahead,
            forecaster=forecaster,
            shrinkage=shrinkage,
            tail_of=tail_of,
        )
        if tail_of == "relative":
            raise ConfigError(
                f"policy '{self.name}': tail_of is relative, such a tail may be negative and no window's is, "
                "choose another"
            )
        self.formulation = formulation or self.own_formulation
        self.solver = solver
        if not (iterations or deterministic or time_limit_ms):
            iterations, deterministic = self.own_iterations, self.own_deterministic
        self.objective = objective
        self.iterations = iterations
        self.deterministic = deterministic
        self.time_limit_ms = time_limit_ms
        self.most = most
        self.reuse = reuse
        self.patience_ms = patience_ms
        self._objective = parse_objective(objective)
        for option in ("deterministic", "time_limit_ms", "patience_ms"):
            value = getattr(self, option)
            if value < 0 or (option == "patience_ms" and value == 0):
                raise ConfigError(f"policy '{self.name}': {option} is {value}, it is no negative number, correct it")
        self._budget = Budget(
            time_limit_s=time_limit_ms / 1000 or None,
            deterministic=deterministic or None,
            iterations=iterations or None,
        )
        self.counts: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        """Windows by what came of them (:data:`OUTCOMES`)."""

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget all workflows, and build the formulation.

        Raises
        ------
        SolverMissing
            The formulation needs a solver that is not installed.
        """
        super().reset(cluster, latency, rng)
        self._cutter = Cutter(cluster, latency)
        self._guard = Guard(self._make_formulation, self.patience_ms / 1000)
        self._before: dict[int, tuple[int, int | None, int]] = {}
        self.counts = dict.fromkeys(OUTCOMES, 0)

    def _make_formulation(self) -> Any:
        return make_formulation(self.formulation, **({"solver": self.solver} if self.solver else {}))

    def plan(self, view: View) -> Plan:
        """Plan as HexAGenT does, then let the formulation improve on it.

        A single open call is worth a window too: HexAGenT's projection knows neither what is booked on the network nor
        room for prompts. Without one, all that is left is the order of started calls, which is HexAGenT's.
        """
        waiting, arrived = self._undecided(view)
        if not waiting and not arrived:
            return NO_PLAN
        ranked = self._rank(view, waiting, arrived)
        ranked.sort(key=lambda r: r.risk)
        placed = [r for r in ranked if r.call.state <= CallState.QUEUED]
        if not placed:
            return _to_plan(ranked, self.decide_ahead)
        urgent = placed[: self.most] if self.most else placed
        cut = self._cut(view, urgent, {r.call.key for r in ranked})
        start = _as_plan(cut, ranked)
        if len(placed) == 1 and self._cannot_be_beaten(cut.window, start):
            return _to_plan(ranked, self.decide_ahead)
        found = self._solve(cut, start)
        if found is not None:
            ranked = self._merge(view, cut, found, ranked)
        return _to_plan(ranked, self.decide_ahead)

    def _cut(self, view: View, urgent: list[_Ranked], decided: set[int]) -> Cut:
        sent = [0] * len(view.decode)
        for r in urgent:
            sent[r.decode] += r.call.predicted_output_tokens > 1
        cut = self._cutter.cut(
            view,
            self.horizon_us,
            tail_us=self.tail_us if self._tails is not None else None,
            calls=[r.call for r in urgent],
            at_least=sent,
        )
        if not self._rebind:
            return cut
        # Calls that the round does not decide about stay on their decode instance. Were they open here, plans would be
        # called better for moves that nobody makes.
        window_calls = tuple(
            w if w.is_open or w.decode is not None or c.key in decided else replace(w, decode=c.decode)
            for c, w in zip(cut.calls, cut.window.calls, strict=True)
        )
        return cut._replace(window=replace(cut.window, calls=window_calls))

    def _cannot_be_beaten(self, window: Window, plan: WindowPlan) -> bool:
        """Say whether every workflow ends as if its calls were alone, as is the rule where a single call is open."""
        value = check(window, plan, self._objective).value
        return value is not None and value <= self._objective.value(window, single_call_ends(window))

    def _solve(self, cut: Cut, start: WindowPlan) -> tuple[WindowPlan, Verdict] | None:
        """Return a plan better than HexAGenT's and what the checker says of it; ``None`` if there is none."""
        window = cut.window
        best, value = None, check(window, start, self._objective).value
        if self.reuse and (again := self._recall(cut, start)) is not None:
            verdict = check(window, again, self._objective)
            if _better(verdict.value, value):
                best, value = (again, verdict), verdict.value
        answer = self._guard.solve(window, self._objective, self._budget, start if best is None else best[0])
        outcome, reason = "kept", ""
        if isinstance(answer, Failure):
            outcome, reason = answer
        else:
            outcome, reason, found = _judge(answer, window, self._objective)
            if found is not None and _better(found[1].value, value):
                best = found
        if best is not None and outcome == "kept":
            outcome = "improved"
        self.counts[outcome] += 1
        if outcome not in ("improved", "kept"):
            _log.warning("policy '%s': formulation '%s': %s: %s", self.name, self.formulation, outcome, reason)
        self._before = {}
        if best is not None and self.reuse:
            rank = {c: k for k, c in enumerate(_order(best[0]))}
            for k, (call, placement) in enumerate(zip(cut.calls, best[0], strict=True)):
                self._before[call.key] = placement.prefill, placement.decode, rank[k]
        return best

    def _recall(self, cut: Cut, start: WindowPlan) -> WindowPlan | None:
        """Return the previous solution for the calls that were in it, among the others as ``start`` has them.

        Calls of the previous solution take the places, in the order of ``start``, that they have in it, but in the
        order of the previous solution.
        """
        window = cut.window
        known = [k for k, c in enumerate(cut.calls) if c.key in self._before]
        if len(known) < 2:
            return None
        order = _order(start)
        again = set(known)
        slots = [at for at, k in enumerate(order) if k in again]
        known.sort(key=lambda k: self._before[cut.calls[k].key][2])
        for at, k in zip(slots, known, strict=True):
            order[at] = k
        rank = {k: float(at) for at, k in enumerate(order)}
        plan = []
        for k, (call, old) in enumerate(zip(window.calls, start, strict=True)):
            p, d = old.prefill, old.decode
            if k in again and call.is_open:
                p, d, _ = self._before[cut.calls[k].key]
            plan.append(Placement(p, d, rank[k]))
        return tuple(plan)

    def _merge(self, view: View, cut: Cut, found: tuple[WindowPlan, Verdict], ranked: list[_Ranked]) -> list[_Ranked]:
        """Return where all calls belong: those of the window by its plan, before those left out of it.

        Calls whose KV is on its way or there go first: they joined the queues for decode first.
        """
        plan, verdict = found
        members = {c.key for c in cut.calls}
        arrived = {r.call.key: r for r in ranked if r.call.state > CallState.QUEUED}
        first = [r for r in ranked if r.call.key not in members and r.call.state > CallState.QUEUED]
        left_out = [r for r in ranked if r.call.key not in members and r.call.state <= CallState.QUEUED]
        middle = []
        for k in _order(plan):
            call, (p, d, _) = cut.calls[k], plan[k]
            at = call.decode if d is None else d
            if call.state <= CallState.QUEUED:
                self._finish_us[call.key] = view.now_us + verdict.finish_us[k]
                middle.append(_Ranked(0.0, call, p, at if at >= 0 else min(call.decode_candidates)))
            elif call.key in arrived:
                middle.append(_Ranked(0.0, call, call.prefill, at if self._rebind else call.decode))
        return [r._replace(risk=float(k)) for k, r in enumerate([*first, *middle, *left_out])]


def _judge(answer: Any, window: Window, objective: Objective) -> tuple[str, str, tuple[WindowPlan, Verdict] | None]:
    """Return what an answer is, why, and its plan with what the checker says of it. It may be anything at all."""
    try:
        if answer.plan is None:
            if answer.status == Status.INFEASIBLE:
                return "infeasible", "it says that no plan keeps the rules, but one is known", None
            return "kept", "", None
        plan = as_plan(answer.plan)
        verdict = check(window, plan, objective)
    except Exception as error:
        return "garbage", f"{type(error).__name__}: {error}", None
    if verdict.violations:
        first = verdict.violations[0]
        return "garbage" if first.rule in _NONSENSE else "infeasible", first.message, None
    return "kept", "", (plan, verdict)


_NONSENSE = ("one-placement-a-call", "instance-unknown", "priority-finite")
"""Rules that only an answer breaks that is no plan of this window at all."""


def _better(found: Value | None, than: Value | None) -> bool:
    return found is not None and (than is None or found < than)


def _order(plan: WindowPlan) -> list[int]:
    """Return the calls in the order of a plan's priorities."""
    return sorted(range(len(plan)), key=lambda k: (plan[k].priority, k))


def _as_plan(cut: Cut, ranked: list[_Ranked]) -> WindowPlan:
    """Return HexAGenT's plan of a window; its bound calls that it has not ranked stay in their order, and go first."""
    at = {r.call.key: (k, r) for k, r in enumerate(ranked)}
    unranked = [c for c in cut.calls if c.key not in at]
    before = {c.key: float(k - len(unranked)) for k, c in enumerate(_by_priority(unranked))}
    plan = []
    for seen in cut.calls:
        if seen.key not in at:
            plan.append(Placement(seen.prefill, seen.decode, before[seen.key]))
            continue
        k, row = at[seen.key]
        plan.append(Placement(row.prefill, row.decode, float(k)))
    return tuple(plan)


def _by_priority(calls: list[CallView]) -> list[CallView]:
    return sorted(in_order(calls), key=lambda c: c.priority)
