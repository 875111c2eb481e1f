"""HexAGenT's defining behaviour, one choice at a time, with numbers that can be worked out by hand.

Unless said otherwise a prefill takes 10 ms, KV 1 µs a token on the wire, an iteration 2 ms: a call of 100 prompt tokens
with 11 predicted ones takes 10 + 0.1 + 10·2 = 30.1 ms alone, one with 101 takes 10 + 0.1 + 100·2 = 210.1 ms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import hexopt
from hexopt.core.cluster import Cluster
from hexopt.core.plan import NO_PLAN, Plan
from hexopt.core.view import CallState, Trigger
from hexopt.policies.compiled import load_kernels
from hexopt.policies.hexagent import HexAGenT
from tests.policies.views import Books, by_call, cluster, decode, pairs, prefill, ready

SHORT_US = 30_100
LONG_US = 210_100


def order(plan: Plan) -> list[int]:
    """Calls as their queue would have them."""
    return [d.call for d in sorted(plan.decisions, key=lambda d: d.priority)]


# -- horizon


def test_horizon_of_one_call() -> None:
    c = cluster(2, 2)
    books = Books(c, now_us=500_000)
    policy = ready(HexAGenT(), c)
    assert policy.horizon_us(books.call(100, 11)) == SHORT_US
    # A root may become ready after its workflow's arrival: that delay is part of it.
    assert policy.horizon_us(books.call(100, 11, arrival_us=1_000, ready_us=5_000)) == SHORT_US + 4_000
    # One token needs no decode.
    assert policy.horizon_us(books.call(100, 1)) == 10_000


def test_horizon_is_that_of_the_idle_cluster_at_its_best_pair() -> None:
    c = cluster([prefill("p0", ms=30), prefill("p1", ms=10)], [decode("d0", knots=((64, 9.0),)), decode("d1")])
    books = Books(c)
    for _ in range(5):
        books.place(books.call(), CallState.QUEUED, 1, 1)
    assert ready(HexAGenT(), c).horizon_us(books.call(100, 11)) == SHORT_US


def test_horizon_grows_as_calls_are_revealed() -> None:
    c = cluster(2)
    books = Books(c)
    policy = ready(HexAGenT(), c)
    workflow = books.workflow()
    first = books.call(100, 11, workflow=workflow)
    assert policy.horizon_us(first) == SHORT_US
    # It queued for 5 ms, prefilled 12, waited 3, moved in 0.4 and decoded in 25: what counts is 12 + 0.4 + 25 ms.
    books.complete(first, start_us=5_000, prefill_us=12_000, wait_us=3_000, transfer_us=400, decode_us=25_000)
    assert first.complete_us == 45_400
    # Its child comes after 5 ms of tool time.
    second = books.call(100, 11, workflow=workflow, ready_us=50_400, parents=(first,))
    assert policy.horizon_us(second) == 37_400 + 5_000 + SHORT_US
    # A join starts with the later parent; the other root took 100 ms, of which 40 in a queue.
    other = books.call(100, 11, workflow=workflow, ready_us=0)
    books.complete(other, start_us=40_000, prefill_us=10_000, wait_us=0, transfer_us=100, decode_us=49_900)
    join = books.call(100, 11, workflow=workflow, ready_us=100_000, parents=(first, other))
    assert policy.horizon_us(join) == 60_000 + SHORT_US


@pytest.mark.parametrize(("keep", "want"), [(False, 18_100), (True, SHORT_US)])
def test_horizon_is_corrected_by_measured_service(keep: bool, want: int) -> None:
    c = cluster()
    books = Books(c)
    policy = ready(HexAGenT(keep_maximum=keep), c)
    call = books.call(100, 11)
    assert policy.horizon_us(call) == SHORT_US
    books.complete(call, start_us=0, prefill_us=8_000, wait_us=0, transfer_us=100, decode_us=10_000)
    assert policy.horizon_us(call) == want


def test_fan_out_width_counts() -> None:
    # Three calls at once: on one prefill instance the last prefill ends at 30 ms, on three all end at 10 ms.
    for width, want in ((1, 20_000 + SHORT_US), (3, SHORT_US)):
        c = cluster(width)
        books = Books(c)
        workflow = books.workflow()
        calls = [books.call(100, 11, workflow=workflow) for _ in range(3)]
        assert ready(HexAGenT(), c).horizon_us(calls[0]) == want


def test_fan_out_shares_the_decode_batch() -> None:
    # h(1) = 2, h(2) = 3 ms: the second of two calls is projected at a batch of two.
    c = cluster(2, [decode(knots=((1, 2.0), (2, 3.0)), max_batch=2)])
    books = Books(c)
    workflow = books.workflow()
    call = books.call(100, 11, workflow=workflow)
    books.call(100, 11, workflow=workflow)
    assert ready(HexAGenT(), c).horizon_us(call) == 10_000 + 100 + 10 * 3_000


def test_horizon_schedules_the_longest_path_first() -> None:
    # One prefill instance: the long call goes first and ends at 210.1 ms. The other way round it would at 220.1.
    c = cluster()
    books = Books(c)
    workflow = books.workflow()
    call = books.call(100, 11, workflow=workflow)
    books.call(100, 101, workflow=workflow)
    assert ready(HexAGenT(), c).horizon_us(call) == LONG_US


# -- projected ratio


def test_a_young_short_workflow_overtakes_an_old_long_one_when_it_is_more_at_risk() -> None:
    # One pair of instances. Long: arrival 0, short: arrival 90 ms.
    # At 100 ms: long (100 + 210.1)/210.1 = 1.48, short (100 + 30.1 − 90)/30.1 = 1.33: the long one goes first.
    # At 130 ms: long (130 + 210.1)/210.1 = 1.62, short (130 + 30.1 − 90)/30.1 = 2.33: the short one does.
    for now, want in ((100_000, [0, 1]), (130_000, [1, 0])):
        c = cluster()
        books = Books(c, now_us=now)
        books.call(100, 101, arrival_us=0)
        books.call(100, 11, arrival_us=90_000)
        assert order(ready(HexAGenT(), c).plan(books.view())) == want


def test_equal_ratios_go_to_the_older_workflow_then_to_the_earlier_call() -> None:
    c = cluster()
    books = Books(c)
    a, b = books.workflow(), books.workflow()
    for workflow in (b, a, b, a):
        books.call(100, 11, workflow=workflow)
    # Each workflow has two equal calls. Calls 1 and 3 are a's; a's first goes first. Then the ratios are equal again.
    assert order(ready(HexAGenT(), c).plan(books.view())) == [1, 3, 0, 2]


@pytest.mark.parametrize(("until", "want"), [("call", [0, 1]), ("phase", [1, 0])])
def test_risk_until(until: Any, want: list[int]) -> None:
    # At 50 ms, arrivals 0 and 45 ms. To the end of the call: long 260.1/210.1 = 1.24, short 35.1/30.1 = 1.17.
    # To the end of its prefill at 60 ms: long 60/210.1 = 0.29, short (60 − 45)/30.1 = 0.50.
    c = cluster()
    books = Books(c, now_us=50_000)
    books.call(100, 101, arrival_us=0)
    books.call(100, 11, arrival_us=45_000)
    assert order(ready(HexAGenT(risk_until=until), c).plan(books.view())) == want


# -- placement


def test_the_best_pair_is_not_the_best_of_each() -> None:
    # p0: 10 ms behind a slow interface, p1: 12 ms behind a fast one. d0: 1 ms a token, slow, d1: 1.5 ms, fast.
    # 100 tokens of KV take 10 ms if an end is slow, 0.1 ms if both are fast. Ten more tokens: 10 or 15 ms.
    # (p0, d0) 10 + 10 + 10 = 30; (p0, d1) 35; (p1, d0) 32; (p1, d1) 12 + 0.1 + 15 = 27.1, though p0 prefills
    # earlier and d0 decodes faster.
    c = cluster(
        [prefill("p0", ms=10, nic=1e7), prefill("p1", ms=12)],
        [decode("d0", knots=((64, 1.0),), nic=1e7), decode("d1", knots=((64, 1.5),))],
    )
    books = Books(c)
    books.call(100, 11)
    assert pairs(ready(HexAGenT(), c).plan(books.view())) == [(0, 1, 1)]


def test_placements_see_those_before_them() -> None:
    c = cluster(2, [decode("d0", knots=((1, 2.0), (2, 4.0)), max_batch=2), decode("d1", knots=((64, 3.0),))])
    books = Books(c)
    for _ in range(3):
        books.call(100, 11)
    # First: p0, d0 (2 ms alone). Second: p1; d0 at a batch of two costs 4 ms, d1 3. Third: p0 again, d1 stays at 3.
    assert pairs(ready(HexAGenT(), c).plan(books.view())) == [(0, 0, 0), (1, 1, 1), (2, 0, 1)]


@pytest.mark.parametrize(("small_queue", "want"), [(32, [0, 2, 1]), (3, [0, 2, 1]), (2, [0, 1, 2]), (0, [0, 1, 2])])
def test_small_queues_are_scored_again_after_each_commitment(small_queue: int, want: list[int]) -> None:
    # One pair of instances, 100 ms. X: arrival 50, short: (100 + 30.1 − 50)/30.1 = 2.66, first either way.
    # Y: arrival 16, long: (100 + 210.1 − 16)/210.1 = 1.40. Z: arrival 90, short: (100 + 30.1 − 90)/30.1 = 1.33.
    # Behind X both end 10 ms later: Y (304.1)/210.1 = 1.45, Z 50.1/30.1 = 1.66. Scored once, Y stays before Z.
    c = cluster()
    books = Books(c, now_us=100_000)
    books.call(100, 11, arrival_us=50_000)
    books.call(100, 101, arrival_us=16_000)
    books.call(100, 11, arrival_us=90_000)
    assert order(ready(HexAGenT(small_queue=small_queue), c).plan(books.view())) == want


def full(decodes: list[Any]) -> tuple[Cluster, Books]:
    """d0 has room for 100 tokens and a call of 60 running; another of 50 + 10 waits for placement."""
    c = cluster(1, decodes)
    books = Books(c)
    books.place(books.call(50, 10), CallState.RUNNING)
    books.call(50, 10)
    return c, books


def test_kv_room_wait_or_now() -> None:
    # d0 (2 ms) is full until the running call leaves, any moment now: 10 + 0.05 + 9·2 = 28.05 ms.
    # d1 (10 ms) has room: 10 + 0.05 + 9·10 = 100.05 ms.
    c, books = full([decode("d0", kv_tokens=100), decode("d1", knots=((64, 10.0),))])
    assert pairs(ready(HexAGenT(kv_room="wait"), c).plan(books.view())) == [(1, 0, 0)]
    assert pairs(ready(HexAGenT(kv_room="now"), c).plan(books.view())) == [(1, 0, 1)]


def test_kv_room_now_leaves_a_call_without_any_room_where_it_is() -> None:
    c, books = full([decode("d0", kv_tokens=100)])
    assert pairs(ready(HexAGenT(kv_room="wait"), c).plan(books.view())) == [(1, 0, 0)]
    assert pairs(ready(HexAGenT(kv_room="now"), c).plan(books.view())) == []


def two_flows(*calls: tuple[int, int, int]) -> hexopt.Trace:
    """One workflow of one call for each (arrival µs, prompt, output)."""
    return hexopt.Trace(
        tuple(
            hexopt.Workflow(f"w{i}", "a", arrival, (hexopt.Call("c", (), prompt, output),))
            for i, (arrival, prompt, output) in enumerate(calls)
        )
    )


def test_replan_queued() -> None:
    # Two calls queue on p0, and p1 is idle: replanned, one of them moves there. A new call comes along.
    for replan, want in ((True, {0: 0, 1: 1, 2: 0}), (False, {2: 1})):
        c = cluster(2)
        books = Books(c)
        for _ in range(2):
            books.place(books.call(), CallState.QUEUED, 0, 0, priority=-5.0)
        books.call()
        plan = ready(HexAGenT(replan_queued=replan), c).plan(books.view())
        assert {key: d.prefill for key, d in by_call(plan).items()} == want


def test_no_call_comes_first_because_nothing_was_decided_about_it() -> None:
    # Equal calls: the older the workflow, the more at risk. Wanted: 0, 1, 2, 3, of which 0 and 1 can keep their labels
    # and 3 leaves the front. About 2, now second and then third, must be decided too: its label is the lowest left.
    c = cluster()
    books = Books(c, now_us=100_000)
    for arrival, label in ((0, 6.0), (10_000, 7.0), (20_000, 5.0), (30_000, 1.0)):
        books.place(books.call(arrival_us=arrival), CallState.QUEUED, priority=label)
    plan = by_call(ready(HexAGenT(decide_ahead=1), c).plan(books.view()))
    assert set(plan) == {2, 3}
    labels = {call.key: call.priority for call in books.calls} | {key: d.priority for key, d in plan.items()}
    assert sorted(labels, key=labels.__getitem__) == [0, 1, 2, 3]


def test_what_can_wait_is_not_decided() -> None:
    # The last two of six change places; the next four are as wanted whatever becomes of them.
    c = cluster()
    books = Books(c, now_us=100_000)
    for arrival, label in ((0, 1.0), (1_000, 2.0), (2_000, 3.0), (3_000, 4.0), (4_000, 6.0), (5_000, 5.0)):
        books.place(books.call(arrival_us=arrival), CallState.QUEUED, priority=label)
    for ahead, decided in ((4, 0), (5, 1), (0, 1)):
        for compiled in (True, False):
            policy = ready(HexAGenT(decide_ahead=ahead), c)
            if not compiled:
                policy._compiled = None
            assert len(policy.plan(books.view()).decisions) == decided


def test_no_round_compiles() -> None:
    kernels = load_kernels()
    if kernels is None:
        pytest.skip("Numba is missing, or has no folder to keep what it compiles")
    c = cluster(2, [decode("d0", kv_tokens=400), decode("d1", kv_tokens=400)])
    books = Books(c, now_us=100_000)
    for i in range(12):
        books.place(books.call(arrival_us=100 * i), CallState.QUEUED, i % 2, priority=-float(i % 5))
    books.call()
    policy = ready(HexAGenT(), c)
    assert policy.plan(books.view()).decisions
    ready(HexAGenT(decide_ahead=1, kv_room="now"), c).plan(books.view())
    for kernel in (kernels.place, kernels.relabel, kernels.near):
        assert len(kernel.signatures) == 1


def test_a_plan_has_only_what_changes() -> None:
    c = cluster(2)
    books = Books(c)
    books.call()
    policy = ready(HexAGenT(), c)
    (decision,) = policy.plan(books.view()).decisions
    books.place(books.calls[0], CallState.QUEUED, decision.prefill, decision.decode, priority=decision.priority)
    assert list(policy.plan(books.view()).decisions) == []
    books.place(books.calls[0], CallState.PREFILLING)
    assert policy.plan(books.view()) == NO_PLAN


def test_what_it_forgets_it_does_not_need() -> None:
    c = cluster(2, 2)
    books = Books(c)
    books.place(books.call(), CallState.RUNNING)
    for _ in range(4):
        books.call()
    fresh = ready(HexAGenT(), c)
    burdened = ready(HexAGenT(), c)
    burdened._finish_us.update((key, 1) for key in range(1000, 3000))
    for index in range(5000):
        burdened._horizons[10_000 + index] = None
    assert list(burdened.plan(books.view()).decisions) == list(fresh.plan(books.view()).decisions)
    assert len(burdened._finish_us) < 10
    assert len(burdened._horizons) < 10


# -- decode


def waiting_for_a_place(state: CallState) -> tuple[Cluster, Books]:
    """One place in the batch, taken; a long call waits before a short one of a workflow that is more at risk."""
    c = cluster(3, [decode(max_batch=1, kv_tokens=400)])
    books = Books(c, now_us=100_000)
    books.place(books.call(100, 100, arrival_us=0), CallState.RUNNING)
    books.place(books.call(100, 101, arrival_us=1_000), state, 1, priority=1.0)
    books.place(books.call(100, 11, arrival_us=20_000), state, 2, priority=2.0)
    return c, books


@pytest.mark.parametrize("state", [CallState.ADMISSION, CallState.TRANSFERRING, CallState.TRANSFERRED])
def test_waiting_for_decode_is_reprioritised(state: CallState) -> None:
    # Long: (100 + 200 − 1)/210.1 = 1.42, short: (100 + 20 − 20)/30.1 = 3.32 (a transfer in flight adds 0.1 ms to both).
    c, books = waiting_for_a_place(state)
    plan = by_call(ready(HexAGenT(), c).plan(books.view([Trigger.TRANSFER_END])))
    priorities = {1: 1.0, 2: 2.0} | {key: d.priority for key, d in plan.items()}
    assert priorities[2] < priorities[1]
    # Only the priority changes: prefill is over, the decode instance is theirs.
    assert all((d.prefill, d.decode) == (d.call, 0) for d in plan.values())
    assert ready(HexAGenT(decode_priority=False), c).plan(books.view()) == NO_PLAN


def test_decode_order_is_left_alone_where_there_is_nothing_to_wait_for() -> None:
    c, books = waiting_for_a_place(CallState.TRANSFERRED)
    books.cluster = c = cluster(3, [decode(max_batch=2)])
    assert ready(HexAGenT(), c).plan(books.view()) == NO_PLAN


@pytest.mark.parametrize(("decode_priority", "joins"), [(True, [130_100, 110_100]), (False, [110_100, 310_100])])
def test_decode_priority_changes_who_joins_first(decode_priority: bool, joins: list[int]) -> None:
    # One place in the batch. R (51 tokens) decodes from 10.1 ms to 110.1. Long (ready 1 ms, there at 11.1) and short
    # (ready 20, there at 30.1) wait. A one-token call at 100 ms is the occasion to rank them: as above, short first.
    # Then short decodes 110.1 to 130.1 and long follows; else long decodes 110.1 to 310.1.
    trace = two_flows((0, 100, 51), (1_000, 100, 101), (20_000, 100, 11), (100_000, 100, 1))
    policy = hexopt.make_policy("hexagent", plan_latency_us=0, decode_priority=decode_priority)
    result = hexopt.simulate(trace, cluster(3, [decode(max_batch=1)]), policy, predictor="oracle")
    assert list(result.calls["join_us"].iloc[1:3]) == joins


@pytest.mark.parametrize(("binding", "want"), [("handoff", 1), ("dispatch", 0)])
def test_handoff_binding_moves_a_call_that_waits_for_room(binding: Any, want: int) -> None:
    # d1 takes 3 ms a token alone and 20 in company, which it has at first: R (50 + 40) and C (50 + 10) are planned on
    # d0, of 100 tokens. R is to hold 90 of them until 10 + 0.05 + 39·2 = 88.05 ms, C to follow and finish at 106.05 ms.
    # At 20 ms C, past its prefill, waits for that room, and d1 is idle: there it would be done at 20.05 + 9·3 = 47.05.
    d1 = decode("d1", knots=((1, 3.0), (2, 20.0)), max_batch=2)
    c = cluster(2, [decode("d0", kv_tokens=100), d1], binding=binding)
    books = Books(c)
    policy = ready(HexAGenT(), c)
    company = books.place(books.call(50, 40), CallState.RUNNING, 0, 1)
    r, call = books.call(50, 40), books.call(50, 10)
    assert pairs(policy.plan(books.view())) == [(1, 0, 0), (2, 0, 0)]
    books.now_us = 20_000
    books.place(company, CallState.COMPLETE)
    books.place(r, CallState.RUNNING)
    books.place(call, CallState.ADMISSION, priority=1.0)
    moved = {d.call: (d.prefill, d.decode) for d in policy.plan(books.view()).decisions}
    assert moved == ({2: (0, 1)} if want else {})


def test_a_reserved_call_is_locked() -> None:
    c = cluster(1, [decode("d0", max_batch=1, knots=((64, 50.0),)), decode("d1")], binding="handoff")
    books = Books(c)
    books.place(books.call(), CallState.RUNNING)
    for _ in range(2):
        books.place(books.call(), CallState.TRANSFERRED, priority=9.0)
    plan = ready(HexAGenT(), c).plan(books.view())
    assert plan.decisions
    assert all(d.decode == 0 for d in plan.decisions)


# -- asynchrony


def runs(trace: hexopt.Trace, c: Cluster, **options: Any) -> hexopt.RunResult:
    return hexopt.simulate(trace, c, hexopt.make_policy("hexagent", **options), predictor="oracle")


def test_calls_are_placed_by_the_fallback_while_the_plan_is_in_flight() -> None:
    # At 0 the first plan sets off and lands at 10 ms; the fallback has placed the call by then, under its ready time.
    trace = two_flows((0, 100, 11), (5_000, 100, 11))
    calls = runs(trace, cluster(2)).calls
    assert list(calls["placed_us"]) == [0, 5_000]
    assert list(calls["prefill_start_us"]) == [0, 5_000]
    assert list(calls["prefill_instance"]) == ["p0", "p1"]  # earliest-finish sees p0 busy


def test_without_a_fallback_calls_wait_for_the_landing() -> None:
    # The second call comes while the first plan is in flight; the next one sets off at its landing, 10 ms.
    calls = runs(two_flows((0, 100, 11), (5_000, 100, 11)), cluster(2), fallback="none").calls
    assert list(calls["placed_us"]) == [10_000, 20_000]


def test_plan_latency_zero_needs_no_fallback() -> None:
    calls = runs(two_flows((0, 100, 11), (5_000, 100, 11)), cluster(2), plan_latency_us=0, fallback="none").calls
    assert list(calls["placed_us"]) == [0, 5_000]


def test_a_landing_plan_reorders_what_still_waits_and_drops_the_rest() -> None:
    # One prefill instance, calls ready at 0, 1, 2 and 3 ms, which the fallback queues under their ready times. The plan
    # that sets off at 10 ms, when the second call starts, lands at 20 ms. By then that call cannot be helped, but of
    # the last two the fourth, which is short, is more at risk than the third, which takes 610 ms: it goes first.
    trace = two_flows((0, 100, 2), (1_000, 100, 101), (2_000, 100, 301), (3_000, 100, 2))
    result = runs(trace, cluster())
    assert list(result.calls["prefill_start_us"]) == [0, 10_000, 30_000, 20_000]
    fcfs = runs(trace, cluster(), plan_latency_us=1_000_000)
    assert list(fcfs.calls["prefill_start_us"]) == [0, 10_000, 20_000, 30_000]
    assert list(fcfs.calls["priority"]) == [0.0, 1000.0, 2000.0, 3000.0]


def test_kv_room_now_calls_left_in_the_pool_are_seen_again() -> None:
    # Room for one call of 60; the second stays in the pool until the first has left, and must then be placed.
    c = cluster(1, [decode(kv_tokens=100)])
    result = runs(two_flows((0, 50, 10), (0, 50, 10)), c, plan_latency_us=0, kv_room="now")
    assert result.summary["finished_calls"] == 2


def test_the_compiled_loop_plans_what_the_plain_one_does() -> None:
    # C waits for room on d1 (6 ms a token). d0 takes as many ms as its batch has calls and is empty: C, which is past
    # prefill and so is ranked first, moves there. Six calls about to be placed then find 2, 3, 4, 5, 6 ms there; the
    # sixth would find 7 and goes to d1. With Numba or without.
    c = cluster(6, [decode("d0", knots=((1, 1.0), (16, 16.0)), max_batch=16), decode("d1", knots=((64, 6.0),))])
    c = replace(c, binding="handoff")
    books = Books(c)
    books.place(books.call(100, 11), CallState.ADMISSION, 0, 1)
    for _ in range(6):
        books.call(100, 11)
    plain = ready(HexAGenT(), c)
    plain._compiled = None
    want = pairs(plain.plan(books.view()))
    assert sorted(want) == [(0, 0, 0), *((key, key - 1, 0) for key in range(1, 6)), (6, 5, 1)]
    assert pairs(ready(HexAGenT(), c).plan(books.view())) == want


def test_a_commitment_can_make_an_instance_better() -> None:
    # d0 takes as many ms as its batch has calls. Six calls of 10 blocks run there, 40 of 100 are free. B (1 + 39): a
    # batch of 7 there, 7 ms a token, but 6 ms on d1. A (28 + 2) is more at risk and takes d0. Now B has no room there
    # before three calls have left, any moment now; then it would be one of 5: 5 ms. A's prompt is long and avoids the
    # slow network interfaces of p1 and d1, B's does not: they share no instance, and B is not looked at again.
    d0 = decode("d0", knots=((1, 1.0), (8, 8.0)), max_batch=8, kv_tokens=100)
    d1 = decode("d1", knots=((64, 6.0),), kv_tokens=100, nic=1e7)
    c = cluster([prefill("p0"), prefill("p1", ms=9, nic=1e7)], [d0, d1])
    books = Books(c, now_us=100_000)
    for _ in range(6):
        books.place(books.call(5, 5), CallState.RUNNING)
    books.call(28, 2, arrival_us=0)
    books.call(1, 39, arrival_us=100_000)
    assert pairs(ready(HexAGenT(), c).plan(books.view())) == [(6, 0, 0), (7, 1, 0)]


def test_decode_planning_places_one_call_after_the_other() -> None:
    # Four calls of 40 blocks wait on d0, which is full until its call has left, far in the future; d1 has room for two.
    # By the same loop as for prefill, two move to d1, and the others wait wherever they are served first.
    d0, d1 = (decode(name, knots=((64, 1.0),), kv_tokens=100) for name in ("d0", "d1"))
    c = replace(cluster(1, [d0, d1]), binding="handoff")
    books = Books(c)
    resident = books.place(books.call(90, 10), CallState.RUNNING)
    for _ in range(4):
        books.place(books.call(30, 10), CallState.ADMISSION, 0, 0)
    policy = ready(HexAGenT(), c)
    policy._finish_us[resident.key] = 10**9
    moved = [d for _, _, d in pairs(policy.plan(books.view()))]
    assert moved.count(1) == 4  # the last two wait for the first two, which leave d1 long before d0 is free
    finishes = sorted(policy._finish_us[key] for key in range(1, 5))
    assert finishes[1] < finishes[2]


def test_a_call_predicted_larger_than_every_instance_is_placed_all_the_same() -> None:
    c = cluster(1, [decode(kv_tokens=100)])
    result = hexopt.simulate(
        two_flows((0, 50, 10), (0, 50, 10)),
        c,
        HexAGenT(plan_latency_us=0, kv_room="now"),
        predictor="constant:100000",
    )
    assert result.summary["finished_calls"] == 2


def test_a_kept_maximum_outlives_a_forgetting() -> None:
    policy = ready(HexAGenT(keep_maximum=True), cluster(1, [decode()]))
    policy._forget_above = [0, 0]
    books = Books(cluster(1, [decode()]))
    call = books.call(100, 50)
    policy.horizon_us(call)
    policy._forget(Books(cluster(1, [decode()])).view())
    assert call.workflow.index in policy._horizons


# -- ablations


def test_a_horizon_without_growth_stays_the_longest_path_at_arrival() -> None:
    # Two calls at arrival on one prefill instance: list-scheduled they end at 220.1 ms, their longest path at 210.1.
    c = cluster()
    books = Books(c)
    policy = ready(HexAGenT(horizon="arrival"), c)
    workflow = books.workflow()
    first = books.call(100, 101, workflow=workflow)
    books.call(100, 11, workflow=workflow)
    assert policy.horizon_us(first) == LONG_US
    books.complete(first, start_us=5_000, prefill_us=99_000, wait_us=0, transfer_us=400, decode_us=250_000)
    child = books.call(100, 101, workflow=workflow, parents=(first,))
    assert policy.horizon_us(child) == LONG_US
    assert ready(HexAGenT(), c).horizon_us(child) > LONG_US


def test_placement_only_queues_by_ready_time() -> None:
    # The case in which the young short workflow overtakes; the pair is chosen as ever.
    c = cluster([prefill("p0", ms=30), prefill("p1", ms=10)])
    for priority, want in (("risk", [1, 0]), ("ready", [0, 1])):
        books = Books(c, now_us=130_000)
        books.call(100, 101, arrival_us=0, ready_us=0)
        books.call(100, 11, arrival_us=90_000, ready_us=90_000)
        plan = ready(HexAGenT(priority=priority), c).plan(books.view())
        assert order(plan) == want
        assert {d.prefill for d in plan.decisions} == {1}


def test_priority_only_goes_where_fewest_tokens_are_outstanding() -> None:
    # p1 and d1 are the fast ones, but a call waits on each: 100 prompt tokens against none.
    c = cluster(
        [prefill("p0", ms=30), prefill("p1", ms=10)], [decode("d0", knots=((64, 9.0),)), decode("d1", max_batch=4)]
    )
    books = Books(c, now_us=130_000)
    waiting = books.place(books.call(100, 101, arrival_us=0), CallState.QUEUED, 1, 1)
    books.call(100, 11, arrival_us=90_000)
    books.call(100, 11, arrival_us=91_000)
    blind = ready(HexAGenT(placement="blind"), c).plan(books.view())
    # The first goes to (p0, d0) with 100 and 111 tokens, the second finds (100, 111) there and (100, 201) here: p0 by
    # its index, d0 by its load. The queued call keeps its pair, but both are more at risk than it.
    assert sorted(pairs(blind)) == [(1, 0, 0), (2, 0, 0)]
    assert all(d.priority < waiting.priority for d in blind.decisions)
    joint = ready(HexAGenT(), c).plan(books.view())
    assert {d.decode for d in joint.decisions} == {1}
