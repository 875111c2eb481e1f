"""What the kit accepts, what it reports, and that its scenarios are as hard as they claim to be."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest

import hexopt
from hexopt.core.plan import Decision
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.errors import ConfigError, ConformanceError
from hexopt.testing import check_policy
from hexopt.testing.foresight import HIDDEN
from hexopt.testing.runs import Run
from hexopt.testing.scenarios import Scenario, scenarios, workflows
from tests.conformance.broken import Decent


class Offset(Decent):
    """Needs an option. (It is asked seldom, and so is checked fast.)"""

    triggers = frozenset((Trigger.CALL_READY,))

    def __init__(self, by_us: int) -> None:
        self.by_us = by_us

    def priority(self, call: CallView) -> float:
        return float(call.ready_us + self.by_us)


def test_a_callable() -> None:
    assert check_policy(lambda: Offset(3)).policy == "decent"


def test_an_instance_is_left_as_it_was() -> None:
    used = Offset(3)
    hexopt.simulate(workflows(1, 3), hexopt.load_cluster("tiny"), used)
    kept = dict(vars(used))
    assert check_policy(used).policy == "decent"
    assert vars(used) == kept  # not even reset: copies were


def test_an_instance_is_checked_as_it_stands() -> None:
    with pytest.raises(ConformanceError, match="P2 survival"):
        check_policy(Offset(10**400))  # an option of which only this instance is guilty


def test_what_cannot_be_built_or_copied() -> None:
    with pytest.raises(ConfigError, match=r"missing 1 required positional argument.*lambda: MyPolicy"):
        check_policy(Offset)
    policy: Any = Offset(3)
    policy.lock = threading.Lock()
    with pytest.raises(ConfigError, match=r"cannot be copied.*callable without arguments"):
        check_policy(policy)
    with pytest.raises(ConfigError, match="policy 'fcsf': it is unknown, did you mean 'fcfs'"):
        check_policy("fcsf")


def test_the_report() -> None:
    report = check_policy(Decent)  # a class
    # Two resets and five triggers on the idle cluster, twice; more in each scenario.
    assert report.checks["P2"] == report.checks["P7"] > 4_000
    assert report.checks["P8"] == report.checks["P9"] == len(report.planning) == len(list(scenarios(False)))
    times = {time.scenario: time for time in report.planning}
    assert times["thousand"].most_waiting == 1_000
    assert times["saturated dispatch"].most_waiting == 100
    for time in report.planning:
        assert 0 < time.mean_us <= time.longest_us
    text = str(report)
    assert text.startswith("policy 'decent' keeps all rules\n")
    for words in ("P10 no foresight", "planning time", "thousand"):
        assert words in text


def test_the_global_generators_are_left_alone() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    check_policy("random")  # a name
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index, union-attr]


# ----- the scenarios --------------------------------------------------------------------------------------------------


class Observer(Decent):
    """Notes how bad it gets."""

    def __init__(self) -> None:
        self.empty_pools = self.kv_full = self.waiting = self.restricted = 0
        self.states: set[CallState] = set()
        self.triggers_seen: set[Trigger] = set()
        self.apps: set[str] = set()

    def place(self, call: CallView) -> Decision:
        p, d = (
            candidates[call.key % len(candidates)] for candidates in (call.prefill_candidates, call.decode_candidates)
        )
        return Decision(call.key, p, d, 0.0)

    def plan(self, view: View) -> Any:
        self.empty_pools += not view.pool
        self.triggers_seen |= view.triggers
        for d in view.decode:
            self.waiting = max(self.waiting, len(d.waiting))
            self.kv_full += any(c.kv_blocks + d.decoding_blocks > d.kv_capacity_blocks for c in d.waiting.values())
            self.states |= {c.state for c in d.bound.values()}
        for call in view.pool:
            self.apps.add(call.workflow.app)
            self.restricted += len(call.prefill_candidates) < len(view.prefill)
            self.restricted += len(call.decode_candidates) < len(view.decode)
        return super().plan(view)


def observed(scenario: Scenario) -> tuple[Observer, Run]:
    policy = Observer()
    return policy, Run(policy, scenario)


ALL = {scenario.name: scenario for scenario in scenarios(False)}


def test_scenarios_cover_every_mode() -> None:
    modes = {(s.cluster.binding, s.cluster.kv_admission, s.plan_latency_us > 0, s.fallback) for s in ALL.values()}
    assert {m[:2] for m in modes} == {(b, a) for b in ("dispatch", "handoff") for a in ("strict", "backfill")}
    assert {(b, asynchronous, fallback) for b, _, asynchronous, fallback in modes} >= {
        (b, *rest) for b in ("dispatch", "handoff") for rest in ((False, "none"), (True, "own"), (True, "none"))
    }
    assert {s.predictor.partition(":")[0] for s in ALL.values()} == {"constant", "oracle", "app-mean", "noisy"}
    assert {(len(s.cluster.prefill), len(s.cluster.decode)) for s in ALL.values()} >= {(1, 1), (3, 3)}
    outputs = [c.output_tokens for w in ALL["one-token outputs"].trace.workflows for c in w.calls]
    assert set(outputs) == {1}
    assert len(outputs) > 30


def test_saturated_scenarios_are() -> None:
    for name in ("saturated dispatch", "saturated handoff"):
        policy, run = observed(ALL[name])
        assert policy.kv_full > 20
        assert policy.waiting >= 5
        assert run.watch.most_waiting == 100


def test_mixed_scenarios_are() -> None:
    policy, _ = observed(ALL["mixed 0"])
    assert policy.apps == {"a", "b", "c"}
    assert policy.restricted > 10
    assert policy.empty_pools > 10
    assert policy.triggers_seen == set(Trigger) - {Trigger.WAKE_UP}
    assert policy.states == set(CallState) - {CallState.POOL, CallState.COMPLETE}


def test_storms_are_thousands_of_invocations_with_plans_in_flight() -> None:
    calm, storm = (observed(ALL[name])[1] for name in ("storm dispatch", "storm handoff"))
    assert len(calm.log) > 2_000
    by_fallback = sum(entry.who != "" for entry in storm.log)
    assert by_fallback > 300
    assert len(storm.log) - by_fallback > 500


def test_a_thousand_calls_wait_at_one_instant() -> None:
    _, run = observed(ALL["thousand"])
    assert len(run.log) == 6  # cut short
    assert len(run.log[0].plan.decisions) == 1_000


def test_what_is_hidden_is_changed_in_every_way() -> None:
    trace = workflows(1_000, 14)
    for hidden in HIDDEN:
        changed, calls = hidden.change(trace, random.Random(0))
        changed.check()
        assert changed != trace
        assert calls
        assert hidden.step in ("ready_us", "complete_us")
    lengths, calls = HIDDEN[0].change(trace, random.Random(0))
    assert len(calls) == lengths.call_count  # all of them


def test_thorough_is_more_of_everything() -> None:
    usual, thorough = (list(scenarios(flag)) for flag in (False, True))
    assert len(thorough) > 4 * len(usual)
    assert {s.name for s in usual} <= {s.name for s in thorough}
