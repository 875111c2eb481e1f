"""``simulate``: what it accepts, and what it says to what it cannot use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import hexopt
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import Policy
from hexopt.errors import ClusterError, ConfigError, TraceError
from hexopt.sim.predictors import Constant
from hexopt.traces import apply_arrivals
from tests.policies.views import cluster
from tests.sim.toys import Acting, flows, place_all


class Bare:
    """No base class, no attribute but the three of the protocol."""

    name = "bare"

    def reset(self, cluster: Any, latency: Any, rng: Any) -> None:
        pass

    def plan(self, view: Any) -> Plan:
        return Plan([Decision(c.key, 0, 0, 0.0) for c in view.pool])


def unknown(arrival: int | None = None, tool: int | None = 0) -> hexopt.Trace:
    call = hexopt.Call("c", (), 100, 5, tool)
    return hexopt.Trace(tuple(hexopt.Workflow(f"w{i}", "a", arrival, (call,)) for i in range(3)))


def test_a_bare_object_with_the_protocol() -> None:
    assert isinstance(Bare(), Policy)
    result = hexopt.simulate(flows((0, 100, 5)), cluster(), Bare(), predictor="oracle")
    assert result.summary["finished_calls"] == 1
    assert (result.summary["policy"], result.summary["policy_options"]) == ("bare", {})
    assert result.summary["plan_latency_us"] == 0


def test_bare_means_all_triggers_no_latency_no_fallback() -> None:
    policy = Acting(place_all)
    hexopt.simulate(flows((0, 100, 5)), cluster(), policy, predictor="oracle")
    # Ready at 0; prefill over, so idle, at 10 ms; transferred at 10.1; complete at 18.1.
    assert policy.views == [0, 10_000, 10_100, 18_100]


@pytest.mark.parametrize("policy", ["fcfs", None, 3, object()])
def test_what_is_no_policy(policy: Any) -> None:
    with pytest.raises(ConfigError, match=r"it has no name, reset and plan.*hexopt\.make_policy"):
        hexopt.simulate(flows((0, 100, 5)), cluster(), policy)


def test_a_class_is_no_policy() -> None:
    with pytest.raises(ConfigError):
        hexopt.simulate(flows((0, 100, 5)), cluster(), Bare)  # type: ignore[arg-type]


class Doubling:
    """A predictor of one's own."""

    name = "doubling"

    def __init__(self) -> None:
        self.observed: list[tuple[int, int]] = []

    def reset(self, trace: hexopt.Trace, rng: np.random.Generator) -> None:
        self.trace = trace
        self.observed = []

    def predict(self, workflow: int, call: int) -> int:
        return 2 * self.trace.workflows[workflow].calls[call].output_tokens

    def observe(self, workflow: int, call: int) -> None:
        self.observed.append((workflow, call))


def test_predictor_objects() -> None:
    told = []
    predictor = Doubling()

    def act(view: Any) -> Any:
        told.extend(c.predicted_output_tokens for c in view.pool)
        return place_all(view)

    result = hexopt.simulate(flows((0, 100, 5), (1, 100, 7)), cluster(), Acting(act), predictor=predictor)
    assert told == [10, 14]
    assert predictor.observed == [(0, 0), (1, 0)]
    assert result.summary["predictor"] == "doubling"
    assert hexopt.simulate(
        flows((0, 100, 5)), cluster(), Bare(), predictor=Constant(4)
    ).summary["predictor"] == "constant:4"  # fmt: skip


def test_unknown_predictor() -> None:
    with pytest.raises(ConfigError, match="did you mean 'oracle'"):
        hexopt.simulate(flows((0, 100, 5)), cluster(), Bare(), predictor="orakle")


@pytest.mark.parametrize("predicted", [0, -3, 1.5])
def test_what_is_no_prediction(predicted: Any) -> None:
    class Strange(Doubling):
        def predict(self, workflow: int, call: int) -> int:
            return predicted  # type: ignore[no-any-return]

    with pytest.raises(ConfigError, match="predictor"):
        hexopt.simulate(flows((0, 100, 5)), cluster(), Bare(), predictor=Strange())


@pytest.mark.parametrize("predictor", [5, None, object(), Doubling, ["oracle"]])
def test_what_is_no_predictor(predictor: Any) -> None:
    with pytest.raises(ConfigError, match=r"^predictor: .* found, a rule or an object with .*, give one of .*oracle"):
        hexopt.simulate(flows((0, 100, 5)), cluster(), Bare(), predictor=predictor)


@pytest.mark.parametrize("value", ["w.jsonl", None, 3, ()])
def test_what_is_no_trace_and_no_cluster(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^trace: .* found, a Trace is needed, read one with hexopt\.load_trace"):
        hexopt.simulate(value, cluster(), Bare())
    with pytest.raises(ConfigError, match=r"^cluster: .* found, a Cluster is needed, read .* hexopt\.load_cluster"):
        hexopt.simulate(flows((0, 100, 5)), value, Bare())


@pytest.mark.parametrize("what", ["arrivals", "delays"])
def test_what_is_no_rule(what: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{what}: 5 found, a rule is a text, give one of .*fixed"):
        hexopt.simulate(flows((0, 100, 5)), cluster(), Bare(), **{what: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, 0, 5, b"x", ["tiny"]])
def test_what_is_no_file(value: Any) -> None:
    with pytest.raises(TraceError, match="no path found, a trace is read from a file"):
        hexopt.load_trace(value)
    with pytest.raises(ClusterError, match=r"no name and no path found, a cluster is a TOML file or one of .*tiny"):
        hexopt.load_cluster(value)


def test_rules_are_recorded_with_the_seed_that_drew() -> None:
    """Also those applied before: the seed of the run says nothing of them."""
    drawn = apply_arrivals(unknown(None, None), "poisson:10", seed=7)
    summary = hexopt.simulate(drawn, cluster(), Bare(), delays="zero", seed=3).summary
    assert (summary["arrivals"], summary["arrivals_seed"]) == ("poisson:10", 7)
    assert (summary["delays"], summary["delays_seed"]) == ("zero", 3)
    summary = hexopt.simulate(flows((0, 100, 5)), cluster(), Bare(), seed=3).summary
    assert (summary["arrivals"], summary["arrivals_seed"]) == ("recorded", None)
    assert (summary["delays"], summary["delays_seed"]) == ("recorded", None)


@pytest.mark.parametrize("stop_us", [-1, 1.5, True, "1"])
def test_bad_stop(stop_us: Any) -> None:
    with pytest.raises(ConfigError, match=r"stop_us: .* is no instant, a whole number of µs"):
        hexopt.simulate(flows((0, 100, 5)), cluster(), Bare(), stop_us=stop_us)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1", None])
def test_bad_seed(seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"seed: .* found, a whole number from 0 is legal"):
        hexopt.simulate(flows((0, 100, 5)), cluster(), Bare(), seed=seed)


def test_unknown_times_need_a_rule() -> None:
    with pytest.raises(TraceError, match="3"):
        hexopt.simulate(unknown(), cluster(), Bare())
    with pytest.raises(TraceError, match="3"):
        hexopt.simulate(unknown(0, None), cluster(), Bare())
    with pytest.raises(TraceError):
        hexopt.simulate(unknown(None, None), cluster(), Bare(), arrivals="burst")
    result = hexopt.simulate(unknown(None, None), cluster(), Bare(), arrivals="fixed:0.1", delays="zero")
    assert list(result.calls["ready_us"]) == [0, 100_000, 200_000]
    assert (result.summary["arrivals"], result.summary["delays"]) == ("fixed:0.1", "zero")


@pytest.mark.parametrize(("arrivals", "delays"), [("fixd:1", None), ("poisson:0", None), (None, "zro")])
def test_bad_rules(arrivals: str | None, delays: str | None) -> None:
    with pytest.raises(hexopt.HexoptError) as caught:
        hexopt.simulate(unknown(None, None), cluster(), Bare(), arrivals=arrivals, delays=delays)
    assert "\n" not in str(caught.value)


def test_the_seed_reaches_the_arrivals() -> None:
    def ready(seed: int) -> list[int]:
        result = hexopt.simulate(unknown(), cluster(), Bare(), arrivals="poisson:10", seed=seed)
        return list(result.calls["ready_us"])

    assert ready(0) == ready(0)
    assert ready(0) != ready(1)


def test_a_malformed_trace_is_refused() -> None:
    good = flows((0, 100, 5)).workflows[0]
    call = good.calls[0]
    for bad in (
        (),
        (good, good),
        (replace(good, calls=()),),
        (replace(good, calls=(replace(call, prompt_tokens=0),)),),
        (replace(good, calls=(replace(call, output_tokens=True),)),),
        (replace(good, calls=(replace(call, parents=(0,)),)),),
        (replace(good, arrival_us=-1),),
        (replace(good, arrival_us=0.5),),  # type: ignore[arg-type]
    ):
        with pytest.raises(TraceError):
            hexopt.simulate(hexopt.Trace(bad), cluster(), Bare())


def test_a_malformed_cluster_is_refused() -> None:
    site = cluster()
    for bad in (
        replace(site, prefill=()),
        replace(site, decode=()),
        replace(site, block_tokens=0),
        replace(site, binding="later"),  # type: ignore[arg-type]
        replace(site, decode=(replace(site.decode[0], max_batch=65),)),
    ):
        with pytest.raises(ClusterError):
            hexopt.simulate(flows((0, 100, 5)), bad, Bare())


@pytest.mark.parametrize("value", [-1, 2.0, "fast", None, False])
def test_bad_plan_latency_attribute(value: Any) -> None:
    with pytest.raises(ConfigError, match="policy 'acting': plan_latency_us is"):
        hexopt.simulate(flows((0, 100, 5)), cluster(), Acting(place_all, plan_latency_us=value))


def test_positional_options_are_refused() -> None:
    with pytest.raises(TypeError):
        hexopt.simulate(flows((0, 100, 5)), cluster(), Bare(), "oracle")  # type: ignore[misc]


def test_standalone_latencies_are_shared_between_runs_and_stay_the_same() -> None:
    from hexopt import api

    trace, cluster = unknown(arrival=0), hexopt.load_cluster("tiny")
    api._known_alone.cache_clear()
    first = hexopt.simulate(trace, cluster, hexopt.make_policy("fcfs")).workflows["standalone_us"].tolist()
    known = dict(api._known_alone(cluster))
    assert len(first) == 3
    assert list(known.values()) == first[:1], "three workflows of one shape"
    second = hexopt.simulate(trace, cluster, hexopt.make_policy("hexagent"), seed=1).workflows["standalone_us"].tolist()
    assert second == first
    assert api._known_alone(cluster) == known
    assert api._known_alone(hexopt.load_cluster("hetero-1-llama")) == {}
