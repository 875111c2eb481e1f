"""The front door: policies by name, and one simulated run."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import hexopt
from hexopt.capacity import apply_arrivals_on
from hexopt.core.cluster import Cluster
from hexopt.core.protocols import Policy, Predictor
from hexopt.core.streams import stream
from hexopt.core.workflow import Trace, Workflow
from hexopt.errors import ConfigError
from hexopt.latency import ClusterLatency
from hexopt.latency.estimates import check_error, misjudged
from hexopt.policies.forecast import KNOWING, check_training, make_learner, training_file
from hexopt.policies.registry import make_policy, policy_record
from hexopt.sim.engine import Progress, Simulation
from hexopt.sim.forecasters import make_knowing
from hexopt.sim.predictors import PREDICTORS, Oracle, make_predictor
from hexopt.sim.result import RunResult
from hexopt.traces import apply_arrivals, apply_delays, load_trace, require_known
from hexopt.traces.rules import ARRIVAL_RULES, DELAY_RULES
from hexopt.traces.schema import show

__all__ = ["make_policy", "simulate", "standalone_us"]


def simulate(
    trace: Trace,
    cluster: Cluster,
    policy: Policy,
    *,
    predictor: str | Predictor = "app-mean",
    seed: int = 0,
    arrivals: str | None = None,
    delays: str | None = None,
    stop_us: int | None = None,
    estimate_error: float = 0.0,
    progress: Progress | None = None,
) -> RunResult:
    """Simulate a trace on a cluster under a policy.

    Parameters
    ----------
    predictor
        Where output lengths come from: ``"app-mean"``, ``"constant:N"``, ``"noisy:SIGMA"``, ``"oracle"``, or an object
        with the Predictor protocol.
    seed
        Of every random stream of the run: arrivals, delays, predictor, policy.
    arrivals, delays
        Rules for arrival times and unknown tool delays, such as ``"poisson:10"``, ``"utilisation:0.8"`` and
        ``"zero"``. For ``utilisation`` the result's ``arrivals_rate_per_s`` is the rate that it led to.
    stop_us
        Stop at this instant (µs); what is left counts as unfinished.
    estimate_error
        Half the width of the multiplicative error of what policies are told about service times, in [0, 1):
        :func:`hexopt.latency.estimates.misjudged`. The cluster itself, and standalone latencies, stay as they are.
    progress
        Called now and then with (completed calls, all calls).

    Raises
    ------
    TraceError
        The trace is malformed, or it has unknown times and no rule is given.
    CapacityError
        A call fits on no instance.
    ConfigError
        An argument is of the wrong type; a rule, a predictor or an attribute of the policy is not usable.
    PlanError, SimulationStalled, CalibrationRangeError
        See :meth:`hexopt.sim.engine.Simulation.run`.

    >>> import hexopt
    >>> call = hexopt.Call("c0", (), prompt_tokens=100, output_tokens=5)
    >>> trace = hexopt.Trace((hexopt.Workflow("w0", "demo", 0, (call,)),))
    >>> result = simulate(trace, hexopt.load_cluster("tiny"), make_policy("fcfs"), predictor="oracle")
    >>> result.summary["finished_workflows"]
    1
    """
    if not isinstance(trace, Trace):
        raise ConfigError(f"trace: {show(trace)} found, a Trace is needed, read one with hexopt.load_trace(path)")
    if not isinstance(cluster, Cluster):
        raise ConfigError(
            f"cluster: {show(cluster)} found, a Cluster is needed, read one with hexopt.load_cluster(name)"
        )
    if not isinstance(policy, Policy) or isinstance(policy, type):
        raise ConfigError(
            f"policy {policy!r}: it has no name, reset and plan, a policy has the Policy protocol, "
            "build one with hexopt.make_policy(name)"
        )
    if not isinstance(predictor, str) and (isinstance(predictor, type) or not _foretells(predictor)):
        raise ConfigError(
            f"predictor: {show(predictor)} found, a rule or an object with name, reset, predict and observe is needed, "
            f"give one of {', '.join(PREDICTORS)}"
        )
    for what, rule, rules in (("arrivals", arrivals, ARRIVAL_RULES), ("delays", delays, DELAY_RULES)):
        if rule is not None and not isinstance(rule, str):
            raise ConfigError(
                f"{what}: {show(rule)} found, a rule is a text, give one of {', '.join(sorted(rules))} or None"
            )
    stream(seed, "policy")  # refuses what is no seed
    seed = int(seed)
    if stop_us is not None and (isinstance(stop_us, bool) or not isinstance(stop_us, int) or stop_us < 0):
        raise ConfigError(
            f"stop_us: {stop_us!r} is no instant, a whole number of µs of at least 0 is needed, correct it"
        )
    check_error(estimate_error)
    if arrivals is not None:
        trace = apply_arrivals_on(cluster, trace, arrivals, seed)
    if delays is not None:
        trace = apply_delays(trace, delays, seed)
    trace.check()
    require_known(trace)
    cluster.check()
    foretell = make_predictor(predictor) if isinstance(predictor, str) else predictor
    latency = ClusterLatency(cluster)
    hand_forecasters(policy, trace, seed, delays)
    believed = ClusterLatency(misjudged(cluster, estimate_error, stream(seed, "estimates"))) if estimate_error else None
    simulation = Simulation(
        trace,
        cluster,
        policy,
        foretell,
        seed=seed,
        stop_us=stop_us,
        latency=latency,
        estimates=believed,
        progress=progress,
    )
    simulation.run()
    record = policy_record(policy)
    about: dict[str, Any] = {
        "hexopt": hexopt.__version__,
        "trace": trace.name,
        "cluster": cluster.name,
        "policy": record["name"],
        "policy_options": record["options"],
        "plan_latency_us": getattr(policy, "plan_latency_us", 0),
        "predictor": foretell.name,
        "estimate_error": float(estimate_error),
        "seed": seed,
        "stop_us": stop_us,
        "arrivals": _rule(trace, "arrivals")[0],
        "arrivals_seed": _rule(trace, "arrivals")[1],
        "arrivals_rate_per_s": trace.provenance.get("arrivals", {}).get("rate_per_s"),
        "delays": _rule(trace, "delays")[0],
        "delays_seed": _rule(trace, "delays")[1],
    }
    counts = getattr(policy, "counts", None)
    if isinstance(counts, dict):
        about["solver_windows"] = sum(counts.values())
        about |= {f"solver_{outcome}": count for outcome, count in counts.items()}
    alone = Standalone(trace, cluster, latency)
    return RunResult(simulation, about, alone.of)


def standalone_us(workflow: Workflow, cluster: Cluster) -> int:
    """Return the latency (µs) of a workflow alone on the idle cluster (docs/semantics.md, section 7)."""
    return Standalone(Trace((workflow,)), cluster, ClusterLatency(cluster)).of(0)


class Standalone:
    """Standalone latencies of a trace's workflows, one simulation per distinct shape (docs/semantics.md, section 7).

    Within the package, for what needs those of a whole trace; :func:`standalone_us` is for one workflow.

    Parameters
    ----------
    trace
        With all tool delays known.
    latency
        The cluster's own times, not misjudged ones.
    """

    def __init__(self, trace: Trace, cluster: Cluster, latency: ClusterLatency) -> None:
        self._trace = trace
        self._cluster = cluster
        self._latency = latency
        self._policy = make_policy("earliest-finish", plan_latency_us=0, fallback="none")
        self._known = _known_alone(cluster)

    def of(self, index: int) -> int:
        """Return the standalone latency (µs) of the workflow at a position of the trace."""
        shape = self._trace.workflows[index].shape
        latency_us = self._known.get(shape)
        if latency_us is None:
            alone = self._trace.alone(index)
            simulation = Simulation(alone, self._cluster, self._policy, Oracle(), latency=self._latency)
            simulation.run()
            latency_us = simulation.workflow_complete_us[0]
            if len(self._known) >= _MOST_ALONE:
                self._known.clear()
            self._known[shape] = latency_us
        return latency_us


_MOST_ALONE = 20_000
"""So many standalone latencies are kept per cluster."""


@lru_cache(maxsize=4)
def _known_alone(cluster: Cluster) -> dict[object, int]:
    """Return what is known of a cluster's standalone latencies: runs of a study share shapes."""
    return {}


def hand_forecasters(policy: Policy | None, trace: Trace, seed: int, delays: str | None) -> None:
    """Hand a policy, those within it and its fallback a forecaster that it cannot make itself, if it wants one."""
    if policy is None:
        return
    text = getattr(policy, "forecaster", None)
    if isinstance(text, str) and hasattr(policy, "handed_forecaster"):
        policy.handed_forecaster = None
        name = text.partition(":")[0]
        past = training_file(text)
        if name in KNOWING:
            policy.handed_forecaster = make_knowing(text, trace, stream(seed, "forecaster"))
        elif past is not None:
            training = load_trace(past)
            check_training(training, trace)
            training = training if delays is None else apply_delays(training, delays, seed)
            require_known(apply_arrivals(training, "fixed:1", seed))  # arrivals do not matter, delays do
            policy.handed_forecaster = make_learner(name, training)
    for part in ("policy", "fallback"):
        hand_forecasters(getattr(policy, part, None), trace, seed, delays)


def _foretells(predictor: object) -> bool:
    return all(hasattr(predictor, part) for part in ("name", "reset", "predict", "observe"))


def _rule(trace: Trace, kind: str) -> tuple[str, int | None]:
    """Return the rule that set a trace's times and its seed, wherever it was applied: here or before."""
    rule = trace.provenance.get(kind)
    return ("recorded", None) if rule is None else (str(rule["rule"]), rule.get("seed"))
