"""Policies by name: what there is, what each takes, and what a wrong name, option or value is told."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

import hexopt
from hexopt.core.cluster import Cluster
from hexopt.core.protocols import BasePolicy, LatencyModel, Policy
from hexopt.errors import ConfigError
from hexopt.policies import registry
from hexopt.policies.registry import make_policy, policy_names, policy_options, policy_record, policy_summary

NAMES = [
    "autellix-atlas",
    "autellix-plas",
    "cortex",
    "earliest-finish",
    "fcfs",
    "goodserve",
    "hexagent",
    "kairos",
    "least-loaded",
    "netkv",
    "random",
    "replay",
    "rolling-cpsat",
    "rolling-milp",
    "rolling-search",
    "round-robin",
    "sjf",
    "srpt",
    "workflow-fcfs",
    "workflow-llf",
]


def told(name: str, options: dict[str, Any], *parts: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_policy(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_shipped_names() -> None:
    assert policy_names() == NAMES


@pytest.mark.parametrize("name", [n for n in NAMES if n != "replay"])
def test_every_policy_is_built_by_its_name(name: str) -> None:
    policy = make_policy(name)
    assert policy.name == name
    assert isinstance(policy, Policy)


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_and_option_is_documented(name: str) -> None:
    assert policy_summary(name)
    options = {o.name: o for o in policy_options(name)}
    assert {"plan_latency_us", "fallback"} <= set(options)
    assert all(o.doc for o in options.values()), [o.name for o in options.values() if not o.doc]


def test_defaults() -> None:
    def defaults(name: str) -> dict[str, Any]:
        return {o.name: o.default for o in policy_options(name)}

    assert defaults("fcfs") == {"plan_latency_us": 0, "fallback": "fcfs"}
    assert defaults("hexagent") == {
        "plan_latency_us": 10_000,
        "fallback": "earliest-finish",
        "small_queue": 32,
        "risk_until": "call",
        "kv_room": "wait",
        "keep_maximum": False,
        "replan_queued": True,
        "decode_priority": True,
        "decide_ahead": 4,
        "forecaster": "none",
        "shrinkage": 1.0,
        "tail_of": "cautious",
        "horizon": "running",
        "priority": "risk",
        "placement": "joint",
    }
    assert defaults("replay")["decisions"] is inspect.Parameter.empty


def test_unknown_names_suggest_the_nearest() -> None:
    told("hexagnt", {}, "policy 'hexagnt'", "did you mean 'hexagent'?", "known: autellix-atlas, autellix-plas")
    told("", {}, "policy ''", "known:")
    told("workflow_fcfs", {}, "did you mean 'workflow-fcfs'?")


def test_unknown_options_suggest_the_nearest() -> None:
    told("hexagent", {"smal_queue": 3}, "option 'smal_queue' is unknown", "did you mean 'small_queue'?")
    told("fcfs", {"small_queue": 3}, "policy 'fcfs'", "known: fallback, plan_latency_us")


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("plan_latency_us", -1, "whole number of µs of at least 0, or measured"),
        ("plan_latency_us", 1.5, "whole number of µs"),
        ("plan_latency_us", True, "whole number of µs"),
        ("plan_latency_us", "10", "whole number of µs"),
        ("small_queue", -1, "a whole number of at least 0"),
        ("small_queue", True, "a whole number of at least 0"),
        ("small_queue", 3.0, "a whole number of at least 0"),
        ("risk_until", "stage", "one of call, phase"),
        ("kv_room", None, "one of wait, now"),
        ("keep_maximum", 1, "true or false"),
        ("replan_queued", "yes", "true or false"),
    ],
)
def test_wrong_values(option: str, value: Any, rule: str) -> None:
    told("hexagent", {option: value}, f"option '{option}' is {value!r}", rule)


def test_what_must_be_given() -> None:
    told("replay", {}, "policy 'replay'", "option 'decisions' is missing", "CSV file")


def test_fallback() -> None:
    assert make_policy("fcfs").fallback.name == "fcfs"  # type: ignore[attr-defined]
    assert make_policy("hexagent").fallback.name == "earliest-finish"  # type: ignore[attr-defined]
    assert make_policy("hexagent", fallback="random").fallback.name == "random"  # type: ignore[attr-defined]
    assert make_policy("hexagent", fallback="random").fallback.fallback is None  # type: ignore[attr-defined]
    assert make_policy("hexagent", fallback="none").fallback is None  # type: ignore[attr-defined]
    own = make_policy("round-robin")
    assert make_policy("hexagent", fallback=own).fallback is own  # type: ignore[attr-defined]
    told("hexagent", {"fallback": "fcsf"}, "policy 'fcsf'", "did you mean 'fcfs'?")


def test_fallback_that_is_no_policy() -> None:
    told("hexagent", {"fallback": 3}, "option 'fallback' is 3")


def test_record_rebuilds_the_policy() -> None:
    policy = make_policy("hexagent", small_queue=7, kv_room="now", fallback="random", plan_latency_us="measured")
    record = policy_record(policy)
    assert record["name"] == "hexagent"
    assert record["options"]["small_queue"] == 7
    assert record["options"]["fallback"] == "random"
    assert policy_record(make_policy(record["name"], **record["options"])) == record


# -- policies of other packages


class Mine(BasePolicy):
    """Places everything on the first pair.

    Parameters
    ----------
    depth
        How deep.
    mode
        Which way.
    share
        How much.
    """

    name: ClassVar[str] = "mine"

    def __init__(
        self,
        *,
        plan_latency_us: int = 0,
        fallback: Policy | None = None,
        depth: int,
        mode: Literal["up", "down"] = "up",
        share: float = 0.5,
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        self.depth, self.mode, self.share = depth, mode, share

    def plan(self, view: hexopt.View) -> hexopt.Plan:
        return hexopt.Plan([hexopt.Decision(c.key, 0, 0, float(c.ready_us)) for c in view.pool])


class Bare:
    """Needs nothing."""

    name: ClassVar[str] = "bare"

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        pass

    def plan(self, view: hexopt.View) -> hexopt.Plan:
        return hexopt.Plan([hexopt.Decision(c.key, 0, 0, float(c.ready_us)) for c in view.pool])


class Entry:
    def __init__(self, name: str, cls: type[Any]) -> None:
        self.name = name
        self._cls = cls

    def load(self) -> type[Any]:
        return self._cls


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(group: str) -> list[Entry]:
        assert group == "hexopt.policies"
        return [Entry("mine", Mine), Entry("bare", Bare), Entry("fcfs", Bare)]

    monkeypatch.setattr(registry, "entry_points", entries)


@pytest.mark.usefixtures("_installed")
def test_entry_points() -> None:
    assert policy_names() == sorted([*NAMES, "mine", "bare"])
    assert policy_summary("mine") == "Places everything on the first pair."
    assert [(o.name, o.doc) for o in policy_options("mine")][2:] == [
        ("depth", "How deep."),
        ("mode", "Which way."),
        ("share", "How much."),
    ]
    policy = make_policy("mine", depth=3, share=1)
    assert isinstance(policy, Mine)
    assert (policy.depth, policy.fallback.name) == (3, "fcfs")  # type: ignore[union-attr]
    assert type(make_policy("bare")) is Bare
    # A shipped name stays what it is.
    assert type(make_policy("fcfs")) is not Bare


@pytest.mark.usefixtures("_installed")
def test_options_of_entry_points_are_checked_too() -> None:
    told("mine", {}, "policy 'mine'", "option 'depth' is missing", "How deep.")
    told("mine", {"depth": 1, "mode": "left"}, "option 'mode' is 'left'", "one of up, down")
    told("mine", {"depth": 1, "share": float("nan")}, "option 'share' is nan", "a finite number")
    told("mine", {"depth": 1, "shore": 1}, "did you mean 'share'?")
    told("bare", {"depth": 1}, "policy 'bare'", "option 'depth' is unknown")
    told("min", {}, "did you mean 'mine'?")


@pytest.mark.usefixtures("_installed")
def test_bare_entry_point_as_fallback() -> None:
    assert type(make_policy("hexagent", fallback="bare").fallback) is Bare  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_installed")
def test_a_bare_policy_runs() -> None:
    trace = hexopt.Trace((hexopt.Workflow("w", "a", 0, (hexopt.Call("c", (), 10, 3),)),))
    result = hexopt.simulate(trace, hexopt.load_cluster("tiny"), make_policy("bare"))
    assert result.summary["policy"] == "bare"
    assert result.summary["policy_options"] == {}
    assert result.summary["finished_calls"] == 1
