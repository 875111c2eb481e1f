"""HexAGenT against itself written down naively: every round from scratch, all calls scored anew after a commitment.

Only the labels that priorities become are made by the same function; ``test_labels.py`` is about them.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings

import hexopt
from hexopt.core.cluster import Cluster
from hexopt.core.plan import Plan
from hexopt.core.view import View
from hexopt.errors import CapacityError
from hexopt.policies import hexagent
from hexopt.policies.hexagent import HexAGenT
from tests.oracle.scenarios import Scenario, scenarios, unstopped
from tests.policies.naive import NaiveHexagent, Options
from tests.policies.random_views import FAST, books
from tests.policies.views import Books, ready

OPTIONS = st.builds(
    Options,
    small_queue=st.sampled_from((0, 2, 32, 32)),
    risk_until=st.sampled_from(("call", "call", "phase")),
    kv_room=st.sampled_from(("wait", "wait", "now")),
    replan_queued=st.sampled_from((True, True, False)),
    decode_priority=st.sampled_from((True, True, True, False)),
    decide_ahead=st.sampled_from((4, 4, 1, 2, 0)),
    horizon=st.sampled_from(("running",) * 5 + ("arrival",)),
    priority=st.sampled_from(("risk",) * 7 + ("ready",)),
    placement=st.sampled_from(("joint",) * 7 + ("blind",)),
)


def make(options: Options, c: Cluster, compiled: bool) -> HexAGenT:
    policy: HexAGenT = ready(HexAGenT(**asdict(options)), c)
    if not compiled:
        policy._compiled = None
    return policy


def check(made: tuple[Books, dict[int, int]], options: Options, *, compiled: bool) -> None:
    book, finish = made
    view = book.view()
    policy = make(options, book.cluster, compiled)
    other = NaiveHexagent(book.cluster, options)
    policy._finish_us.update(finish)
    other.finish_us.update(finish)
    with patch.object(hexagent, "_COMPILED_FROM", 1):
        assert list(policy.plan(view).decisions) == other.plan(view)


@settings(FAST, max_examples=200)
@given(books(), OPTIONS)
def test_random_views(made: tuple[Books, dict[int, int]], options: Options) -> None:
    check(made, options, compiled=False)


@settings(FAST, max_examples=200)
@given(books(min_calls=8, max_calls=20), OPTIONS)
def test_random_views_of_long_queues(made: tuple[Books, dict[int, int]], options: Options) -> None:
    check(made, options, compiled=True)


def fronts(view: View, plan: Plan, ahead: int) -> list[list[int]]:
    """Return the next calls of every prefill instance, as they would be if the plan took effect now."""
    decided = {d.call: d for d in plan.decisions}
    queues: list[list[tuple[float, int, int, int, int]]] = [[] for _ in view.prefill]
    for call in [*view.pool, *(c for p in view.prefill for c in p.queue.values())]:
        decision = decided.get(call.key)
        p, priority = (call.prefill, call.priority) if decision is None else (decision.prefill, decision.priority)
        if p >= 0:
            queues[p].append((priority, call.ready_us, call.workflow.index, call.index, call.key))
    return [[row[-1] for row in sorted(queue)[:ahead]] for queue in queues]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_what_is_not_decided_does_not_matter_yet(compiled: bool, ahead: int) -> None:
    """The next calls of every prefill instance are the same, in the same order, as if all had been decided."""

    @settings(FAST, max_examples=80)
    @given(books(min_calls=8, max_calls=24), OPTIONS)
    def check(made: tuple[Books, dict[int, int]], options: Options) -> None:
        book, finish = made
        view = book.view()
        plans = []
        for count in (ahead, 0):
            policy = make(replace(options, decide_ahead=count), book.cluster, compiled)
            policy._finish_us.update(finish)
            with patch.object(hexagent, "_COMPILED_FROM", 1):
                plans.append(policy.plan(view))
        some, everything = plans
        assert set(some.decisions) <= set(everything.decisions)
        assert fronts(view, some, ahead) == fronts(view, everything, ahead)

    check()


class Watched(HexAGenT):
    """Plans both ways and compares; so it meets the views of real runs, round after round."""

    def __init__(self, options: Options, **more: Any) -> None:
        super().__init__(**asdict(options), **more)
        self.options = options
        self.rounds = 0

    def reset(self, cluster: Cluster, latency: Any, rng: Any) -> None:
        super().reset(cluster, latency, rng)
        self.cluster = cluster
        self.other = NaiveHexagent(cluster, self.options)

    def plan(self, view: View) -> Plan:
        want = self.other.plan(view)
        plan = super().plan(view)
        assert list(plan.decisions) == want
        for d in view.decode:
            for call in d.bound.values():
                assert self.horizon_us(call) == self.other.horizon_us(call.workflow)
        self.rounds += 1
        return plan


@settings(FAST, max_examples=80)
@given(scenarios(), OPTIONS, st.sampled_from((0, 1000, 5000)), st.sampled_from(("oracle", "constant:8", "app-mean:2")))
def test_every_round_of_random_runs(scenario: Scenario, options: Options, plan_latency_us: int, predictor: str) -> None:
    policy = Watched(options, plan_latency_us=plan_latency_us, fallback=hexopt.make_policy("earliest-finish"))
    try:
        hexopt.simulate(unstopped(scenario).trace, scenario.cluster, policy, predictor=predictor)
    except CapacityError:
        assume(False)
    assert policy.rounds
