"""Least laxity first: the instant by which a call would have to start, by hand and against horizons built afresh."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

import hexopt
from hexopt.core.plan import Plan
from hexopt.core.view import CallState, Trigger, View
from hexopt.policies import open_calls
from hexopt.policies.fcfs import Fcfs
from hexopt.policies.horizon import Horizon
from hexopt.policies.workflow_llf import WorkflowLlf
from tests.invariants.runs import Setting, profile, run_settings
from tests.policies.random_views import FAST, books
from tests.policies.sample_run import finishes
from tests.policies.views import Books, by_call, cluster, decode, pairs, prefill, ready


def test_a_lone_call_has_to_start_at_once() -> None:
    # 10 ms prefill, 0.1 ms transfer, 10 iterations of 2 ms: horizon and remaining service are 30.1 ms both, no slack.
    c = cluster()
    books = Books(c, now_us=9_000)
    books.call(100, 11, arrival_us=4_000, ready_us=4_000)
    assert ready(WorkflowLlf(), c).plan(books.view()).decisions[0].priority == 4_000.0


def test_the_horizon_is_that_of_the_fastest_pair_and_the_rest_that_of_the_mean_type() -> None:
    # Fastest pair 10 + 0.1 + 10·2 = 30.1 ms. Mean of the types (10 + 30)/2 + 0.1 + (2 + 4)/2·10 = 50.1 ms: −20 ms.
    # By instances, three prefill of 10 and one of 30 ms: 15 + 0.1 + 30 = 45.1 ms: −15 ms.
    c = cluster(
        [prefill(f"p{i}", ms=10) for i in range(3)] + [prefill("p3", ms=30)],
        [decode("d0"), decode("d1", knots=((1, 4.0), (64, 4.0)))],
    )
    books = Books(c)
    books.call(100, 11)
    assert ready(WorkflowLlf(), c).plan(books.view()).decisions[0].priority == -20_000.0
    assert ready(WorkflowLlf(mean_over="instances"), c).plan(books.view()).decisions[0].priority == -15_000.0


def test_types_that_cannot_hold_the_call_do_not_count() -> None:
    # As above, but neither the 30 ms prefill nor the 4 ms decode instance holds 100 + 11 tokens.
    c = cluster(
        [prefill("p0"), prefill("p1", ms=30, kv_tokens=50)],
        [decode("d0"), decode("d1", knots=((1, 4.0), (64, 4.0)), kv_tokens=50)],
    )
    books = Books(c)
    books.call(100, 11)
    books.call(100, 1)  # one token: prefill alone, 10 ms, whatever decodes
    decisions = by_call(ready(WorkflowLlf(), c).plan(books.view()))
    assert decisions[0].priority == 0.0
    assert decisions[1].priority == 0.0


def test_fan_out_gives_slack_and_a_late_chain_has_none() -> None:
    # Three roots on one prefill instance: alone they would finish at 30.1, 40.1 and 50.1 ms. Slack 50.1 − 30.1 = 20 ms.
    # The chain: its first call took 10 + 0.1 + 20 ms of service (and 5 ms of waiting, which do not count), then 3 ms of
    # tool. The second call would start at 33.1 ms alone, so it should have started at 33.1 ms.
    c = cluster()
    books = Books(c, now_us=60_000)
    fan = books.workflow(50_000)
    for _ in range(3):
        books.call(100, 11, workflow=fan)
    chain = books.workflow(0)
    first = books.complete(books.call(100, 11, workflow=chain), 5_000, 10_000, 0, 100, 20_000)
    assert first.complete_us == 35_100
    books.call(700, 3, workflow=chain, ready_us=38_100, parents=(first,))
    decisions = by_call(ready(WorkflowLlf(), c).plan(books.view()))
    assert [decisions[k].priority for k in (0, 1, 2)] == [70_000.0] * 3
    assert decisions[4].priority == 33_100.0


def test_a_completion_moves_the_horizon_and_with_it_the_siblings_rank() -> None:
    # Two roots: alone at 30.1 and 40.1 ms, slack 10 ms. The first then takes 100 ms to decode: it would have finished
    # alone at 10 + 0.1 + 100 = 110.1 ms, so the second, 30.1 ms of work, has until 80 ms. It stays where it is.
    c = cluster(2, 2)
    books = Books(c)
    workflow = books.workflow(0)
    a, b = books.call(100, 11, workflow=workflow), books.call(100, 11, workflow=workflow)
    policy = ready(WorkflowLlf(), c)
    # With two instances of each kind the two do not delay each other.
    assert [d.priority for d in policy.plan(books.view()).decisions] == [0.0, 0.0]
    books.complete(a, 0, 10_000, 0, 100, 100_000)
    books.place(b, CallState.QUEUED, 1, 1)
    books.now_us = 110_100
    plan = policy.plan(books.view((Trigger.CALL_COMPLETE,)))
    assert [tuple(d) for d in plan.decisions] == [(1, 1, 1, 80_000.0)]
    # Nothing has changed since.
    b.priority = 80_000.0
    assert policy.plan(books.view((Trigger.CALL_COMPLETE,))).decisions == []


@pytest.mark.parametrize("state", [CallState.QUEUED, CallState.PREFILLING, CallState.ADMISSION, CallState.TRANSFERRED])
def test_a_revealed_sibling_moves_the_rank_of_those_that_wait_anywhere(state: CallState) -> None:
    # One root waits, slack 0. A second one, ready 7 ms later, is released at 7 ms: on one prefill instance the first
    # (30.1 ms; the later, longest path is planned first, 7 + 30.1) waits until 17 ms: finish 47.1 ms, slack 17 ms.
    c = cluster()
    books = Books(c)
    workflow = books.workflow(0)
    a = books.call(100, 11, workflow=workflow)
    policy = ready(WorkflowLlf(), c)
    policy.plan(books.view())
    books.place(a, state)
    books.now_us = 7_000
    books.call(100, 11, workflow=workflow, ready_us=7_000)
    decisions = by_call(policy.plan(books.view()))
    assert (decisions[0].priority, decisions[1].priority) == (17_000.0, 17_000.0)


def test_a_running_call_is_left_alone() -> None:
    c = cluster()
    books = Books(c)
    workflow = books.workflow(0)
    a = books.call(100, 11, workflow=workflow)
    policy = ready(WorkflowLlf(), c)
    policy.plan(books.view())
    books.place(a, CallState.RUNNING)
    books.call(100, 11, workflow=workflow)
    assert list(by_call(policy.plan(books.view()))) == [1]


def test_keep_maximum() -> None:
    # The horizon of two roots is 40.1 ms. The first turns out to take 10 + 0.1 + 2 ms: 30.1 ms for the rest, unless
    # the maximum is kept.
    for keep, expected in ((False, 0.0), (True, 10_000.0)):
        c = cluster()
        books = Books(c)
        workflow = books.workflow(0)
        a, b = books.call(100, 11, workflow=workflow), books.call(100, 11, workflow=workflow)
        policy = ready(WorkflowLlf(keep_maximum=keep), c)
        assert [d.priority for d in policy.plan(books.view()).decisions] == [10_000.0, 10_000.0]
        books.complete(a, 0, 10_000, 0, 100, 2_000)
        books.place(b, CallState.QUEUED, priority=-1.0)
        assert policy.plan(books.view((Trigger.CALL_COMPLETE,))).decisions[0].priority == expected


def test_a_maximum_is_kept_through_a_tool_call(monkeypatch: Any) -> None:
    # Two roots, 90 ms of decode expected of the second, which goes first: a horizon of 100.1 ms. Then both complete, at
    # 30.1 ms, and nothing of the workflow is open while its tool runs for 1 ms. The next call, 30.1 ms of work, would
    # finish at 61.2 ms alone: it has to start by 31.1 ms, but by 100.1 − 30.1 if the maximum is kept.
    monkeypatch.setattr(open_calls, "_FORGET_ABOVE", 0)
    c = cluster()
    books = Books(c)
    workflow = books.workflow(0)
    a, b = books.call(100, 11, workflow=workflow), books.call(100, 46, workflow=workflow)
    policy = ready(WorkflowLlf(keep_maximum=True), c)
    policy.plan(books.view())
    books.complete(a, 0, 10_000, 0, 100, 2_000)
    books.complete(b, 0, 10_000, 0, 100, 20_000)
    other = books.call(100, 11)
    policy.plan(books.view())
    books.place(other, CallState.QUEUED)
    books.call(100, 11, workflow=workflow, ready_us=31_100, parents=(a, b))
    assert by_call(policy.plan(books.view()))[3].priority == 100_100.0 - 30_100.0


def test_a_rank_that_a_fallback_overtook_is_given_again() -> None:
    # Placed by this policy and, while the plan was in flight, by the fallback on another instance, where its prefill
    # began: the plan came too late. The root, ready 5 ms after the arrival, would have to start then.
    c = cluster(2)
    books = Books(c, now_us=9_000)
    call = books.call(100, 11, arrival_us=4_000, ready_us=9_000)
    policy = ready(WorkflowLlf(plan_latency_us=1_000), c)
    assert policy.plan(books.view()).decisions[0].priority == 9_000.0
    books.place(call, CallState.ADMISSION, 1, 0, priority=77_000.0)
    assert [tuple(d) for d in policy.plan(books.view()).decisions] == [(0, 1, 0, 9_000.0)]


@FAST
@given(books())
def test_it_dispatches_as_fcfs_does(made: tuple[Books, dict[int, int]]) -> None:
    book, _ = made
    view = book.view()
    pool = {call.key for call in view.pool}
    placed = [pair for pair in pairs(ready(WorkflowLlf(), book.cluster).plan(view)) if pair[0] in pool]
    assert placed == pairs(ready(Fcfs(), book.cluster).plan(view))


def test_the_workflow_with_less_slack_overtakes_an_older_one() -> None:
    # One prefill of 10 ms. `wide` arrives at 0 with three roots: they have to start by 20 ms. `lone` arrives at 5 ms
    # and has to start by then, so it is next at 10 ms; under workflow-fcfs it is last.
    call = hexopt.Call
    trace = hexopt.Trace(
        (
            hexopt.Workflow("wide", "a", 0, tuple(call(f"c{i}", (), 100, 11) for i in range(3))),
            hexopt.Workflow("lone", "a", 5_000, (call("c0", (), 100, 11),)),
        )
    )
    starts = {
        name: list(
            hexopt.simulate(trace, cluster(), hexopt.make_policy(name), predictor="oracle").calls["prefill_start_us"]
        )
        for name in ("workflow-fcfs", "workflow-llf")
    }
    assert starts["workflow-fcfs"] == [0, 10_000, 20_000, 30_000]
    assert starts["workflow-llf"] == [0, 20_000, 30_000, 10_000]


class Checked(WorkflowLlf):
    """After each plan, every call that waits has the rank that a horizon built afresh gives it."""

    checked = 0

    def plan(self, view: View) -> Plan:
        plan = super().plan(view)
        decided = {d.call: d.priority for d in plan.decisions}
        placed = [c for d in view.decode for c in d.bound.values() if c.state <= CallState.TRANSFERRED]
        for call in [*view.pool, *placed]:
            horizon_us = Horizon(call.workflow, self._unloaded, False).current_us()
            expected = call.workflow.arrival_us + horizon_us - self._service.total_us(call)
            assert decided.get(call.key, call.priority) == expected
            self.checked += 1
        return plan


@pytest.mark.parametrize("forget_above", [0, open_calls._FORGET_ABOVE])
def test_ranks_are_up_to_date_without_looking_at_everything(forget_above: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(open_calls, "_FORGET_ABOVE", forget_above)
    checked = 0

    @profile(150)
    @given(run_settings(policies=("fcfs",), latencies=(0,)))
    def run(setting: Setting) -> None:
        nonlocal checked
        policy = Checked()
        setting.run(policy)
        checked += policy.checked

    run()
    assert checked > 1_000


@pytest.mark.parametrize("options", [{}, {"mean_over": "instances", "keep_maximum": True}])
def test_sample_run(options: dict[str, Any]) -> None:
    finishes("workflow-llf", **options)
