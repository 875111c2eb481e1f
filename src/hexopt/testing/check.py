""":func:`check_policy`: build fresh instances, run them through the scenarios, compare."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hexopt.core.plan import Plan
from hexopt.core.protocols import ALL_TRIGGERS, Policy
from hexopt.core.view import DecodeView, PrefillView, Trigger, View
from hexopt.errors import ConfigError, PlanError
from hexopt.latency import ClusterLatency
from hexopt.policies.registry import make_policy
from hexopt.sim.plans import check_plan, plan_latency
from hexopt.testing.foresight import check_foresight
from hexopt.testing.report import ConformanceReport, PlanningTime
from hexopt.testing.rules import broken
from hexopt.testing.runs import Run, difference
from hexopt.testing.scenarios import Scenario, mixed_cluster, pair, scenarios
from hexopt.testing.watch import Watch


def check_policy(policy: Policy | Callable[[], Policy] | str, *, thorough: bool = False) -> ConformanceReport:
    """Hold a policy against :data:`hexopt.testing.RULES`.

    Parameters
    ----------
    policy
        A class or any callable without arguments that builds the policy, a fresh one at every call; or an instance, of
        which deep copies as it stands serve as the fresh ones; or a name that :func:`hexopt.make_policy` knows.
    thorough
        Many more scenarios and longer ones: some ten times as long.

    Raises
    ------
    ConformanceError
        A rule is broken. The message names the policy, the scenario, what was observed and when, the rule and the
        remedy; what the policy itself raised is the cause.
    ConfigError
        No policy can be built from what was given.

    Notes
    -----
    Plan latency and fallback are set by each scenario: no latency, and some with the policy's own fallback (``fcfs`` if
    it has none) or without any. Of its own settings only ``triggers`` and ``fallback`` count. Nothing is judged by the
    clock; the planning times in the report are for the reader.

    >>> print(check_policy("round-robin").checks["P10"])
    15
    """
    fresh = _maker(policy)
    name = _check_protocol(fresh())
    checks = dict.fromkeys(("P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P10"), 0)
    looks = _check_idle(fresh())
    planning = []
    runs: list[tuple[Scenario, Run]] = []
    for scenario in scenarios(thorough):
        run = Run(fresh(), scenario, closely=True)
        runs.append((scenario, run))
        looks += run.watch.looks
        planning.append(_planning_time(scenario, run))
    for scenario, run in runs:
        seen = difference(run, Run(fresh(), scenario, mirrored=True))
        if seen:
            raise run.watch.breach("P8", f"of two fresh instances {seen}")
        checks["P8"] += 1
    checks["P9"] = _check_reset(fresh(), runs)
    checks["P10"] = check_foresight(fresh, thorough)
    checks["P1"] = 1
    checks |= dict.fromkeys(("P2", "P3", "P4", "P5", "P6", "P7"), looks)
    return ConformanceReport(name, checks, tuple(planning))


def _maker(policy: Policy | Callable[[], Policy] | str) -> Callable[[], Policy]:
    if isinstance(policy, str):
        name = policy
        return lambda: make_policy(name)
    if isinstance(policy, type) or (callable(policy) and not isinstance(policy, Policy)):
        factory = policy
        return lambda: _built(factory)
    instance = policy
    try:
        pristine = copy.deepcopy(instance)
    except Exception as error:
        raise ConfigError(
            f"policy {instance!r}: it cannot be copied ({error}), a check needs fresh instances, "
            "give a callable without arguments that builds it"
        ) from error
    return lambda: copy.deepcopy(pristine)


def _built(factory: Callable[[], Policy]) -> Policy:
    try:
        return factory()
    except TypeError as error:
        raise ConfigError(
            f"policy {factory!r}: it cannot be built ({error}), a check builds it without arguments, "
            "give a callable such as lambda: MyPolicy(option=1)"
        ) from error


def _check_protocol(policy: object) -> str:
    """P1. Return the policy's name."""
    name = getattr(policy, "name", None)
    if not isinstance(policy, Policy) or isinstance(policy, type) or not isinstance(name, str) or not name:
        found = ", ".join(part for part in ("name", "reset", "plan") if hasattr(policy, part)) or "none of them"
        raise broken(str(name or type(policy).__name__), "P1", f"of name (a text), reset and plan it has {found}")
    triggers = getattr(policy, "triggers", ALL_TRIGGERS)
    try:
        unknown = [t for t in triggers if not isinstance(t, Trigger)]
    except TypeError:
        unknown = [triggers]
    if unknown:
        raise broken(name, "P1", f"its triggers hold {unknown[0]!r}, which is no hexopt.core.view.Trigger")
    try:
        plan_latency(policy)
    except ConfigError as error:
        raise broken(name, "P1", str(error).removeprefix(f"policy '{name}': ")) from error
    fallback = getattr(policy, "fallback", None)
    if fallback is not None and (not isinstance(fallback, Policy) or isinstance(fallback, type)):
        raise broken(name, "P1", f"its fallback is {fallback!r}, which is neither a policy nor None")
    return name


def _check_idle(policy: Policy) -> int:
    """Ask about a cluster without calls, for each event the policy wants to be called for; return how often."""
    watch = Watch(policy, "an idle cluster")
    for cluster in (pair(), mixed_cluster("handoff", "strict")):
        latency = ClusterLatency(cluster)
        watch.reset(cluster, latency, np.random.default_rng(0))
        view = View(
            [
                PrefillView(i, p.name, p.gpu, room, {})
                for i, (p, room) in enumerate(zip(cluster.prefill, latency.prefill_capacity_blocks, strict=True))
            ],
            [
                DecodeView(i, d.name, d.gpu, room, d.max_batch, {}, {})
                for i, (d, room) in enumerate(zip(cluster.decode, latency.decode_capacity_blocks, strict=True))
            ],
            pool=[],
        )
        for trigger in sorted(watch.triggers):
            view.now_us += 1_000
            view.triggers = frozenset((trigger,))
            plan = watch.plan(view)
            try:
                check_plan(policy, view.now_us, plan)
            except PlanError as error:
                raise watch.breach("P4", f"made an illegal plan: {error}") from error
            if isinstance(plan, Plan) and plan.decisions:
                raise watch.breach("P4", f"decided {tuple(plan.decisions[0])} at {view.now_us} µs about no call")
    return watch.looks


def _check_reset(used: Policy, runs: list[tuple[Scenario, Run]]) -> int:
    """P9: one instance runs all scenarios, after runs that were broken off, as fresh ones did; return how many."""
    for scenario, _ in runs:
        if scenario.name.startswith("saturated"):
            Run(used, replace(scenario, stop_us=20_000), " broken off")
    for scenario, fresh in runs:
        again = Run(used, scenario, " after other runs")
        seen = difference(fresh, again)
        if seen:
            raise again.watch.breach("P9", f"of a fresh and a used instance {seen}")
    return len(runs)


def _planning_time(scenario: Scenario, run: Run) -> PlanningTime:
    took = run.watch.took_ns
    return PlanningTime(
        scenario.name,
        len(took),
        run.watch.most_waiting,
        sum(took) / len(took) / 1000 if took else 0.0,
        max(took, default=0) / 1000,
    )
