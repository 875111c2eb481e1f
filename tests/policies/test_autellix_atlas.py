"""Autellix: programs sink through the queues as they are served, along the critical path, and rise when they starve."""

from __future__ import annotations

from typing import Any

import pytest

import hexopt
from hexopt.core.plan import Decision
from hexopt.core.view import CallState, CallView, Trigger, WorkflowView
from hexopt.errors import ConfigError
from hexopt.policies.autellix import Autellix
from hexopt.policies.autellix_atlas import AutellixAtlas
from hexopt.policies.autellix_plas import AutellixPlas
from hexopt.policies.bookkeeping import SPAN_US, waited_us
from tests.policies.views import Books, by_call, cluster, decode, pairs, prefill, ready

SECONDS: dict[str, Any] = {"bound_unit": "second"}
"""Queues end at 0.5, 1, 2, 4, ... s of attained service."""

WAKE = (Trigger.WAKE_UP,)


def served(books: Books, workflow: WorkflowView, ms: int, *parents: CallView, waited_ms: int = 0) -> CallView:
    """A call that became ready with its parents' completion, waited, was executed for so long and is complete."""
    at = max((p.complete_us for p in parents), default=workflow.arrival_us)
    call = books.call(workflow=workflow, ready_us=at, parents=parents)
    return books.complete(call, at + 1000 * waited_ms, 100 * ms, 0, 0, 900 * ms)


def queue_of(decision: Decision) -> tuple[int, int]:
    """The queue (0 is the first), and the rest of the priority."""
    return divmod(int(decision.priority), SPAN_US)


def queue_of_next(policy: Autellix, books: Books, workflow: WorkflowView, *parents: CallView) -> int:
    """The queue of a call that becomes ready when its parents are complete."""
    books.now_us = max(p.complete_us for p in parents)
    call = books.call(workflow=workflow, ready_us=books.now_us, parents=parents)
    queue, at_us = queue_of(by_call(policy.plan(books.view()))[call.key])
    assert at_us == books.now_us
    books.complete(call, books.now_us, 1, 0, 0, 0)
    return queue


def test_a_long_program_sinks_through_the_queues() -> None:
    # Calls of 0.4 s one after the other have attained 0, 0.4, 0.8, 1.2, 1.6, 2.0 s before each.
    c = cluster()
    policy = ready(AutellixAtlas(beta=0.0, **SECONDS), c)
    few = ready(AutellixAtlas(beta=0.0, queues=3, **SECONDS), c)
    books = Books(c)
    workflow = books.workflow()
    found, found_few = [], []
    parents: tuple[CallView, ...] = ()
    for _ in range(6):
        books.now_us = parents[0].complete_us if parents else 0
        call = books.call(workflow=workflow, ready_us=books.now_us, parents=parents)
        view = books.view()
        found.append(queue_of(by_call(policy.plan(view))[call.key]))
        found_few.append(queue_of(by_call(few.plan(view))[call.key])[0])
        books.complete(call, books.now_us, 100_000, 0, 0, 300_000)
        parents = (call,)
    assert found == [(0, 0), (0, 400_000), (1, 800_000), (2, 1_200_000), (2, 1_600_000), (3, 2_000_000)]
    assert found_few == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize("step_by_step", [True, False])
def test_a_new_call_inherits_the_critical_path(step_by_step: bool) -> None:
    # a 0.4 s; then b, c, d side by side for 0.4, 0.3, 0.2 s. The critical path is a, b: 0.8 s, queue 1 (0.5 to 1).
    # All calls together: 1.3 s, queue 2 (1 to 2). A policy that has not seen the calls before works the same out.
    c = cluster()
    for cls, queue in ((AutellixAtlas, 1), (AutellixPlas, 2)):
        policy = ready(cls(beta=0.0, **SECONDS), c)
        books = Books(c)
        workflow = books.workflow()
        a = served(books, workflow, 400)
        if step_by_step:
            assert queue_of_next(policy, books, workflow, a) == 0
        fan = [served(books, workflow, ms, a) for ms in (400, 300, 200)]
        assert queue_of_next(policy, books, workflow, *fan) == queue


def test_what_completes_later_counts_later() -> None:
    # b (1 s) and c (0.1 s) follow a (0.1 s). When c is done at 0.2 s its child inherits 0.2 s, though the policy learns
    # of it only when b is done, too: queue 0. The next call, at 1.1 s, inherits a, b: 1.1 s, queue 2.
    c = cluster()
    policy = ready(AutellixAtlas(beta=0.0, **SECONDS), c)
    books = Books(c)
    workflow = books.workflow()
    a = served(books, workflow, 100)
    b = served(books, workflow, 1000, a)
    short = served(books, workflow, 100, a)
    child = books.call(workflow=workflow, ready_us=200_000, parents=(short,))
    last = books.call(workflow=workflow, ready_us=1_100_000, parents=(b,))
    books.now_us = 1_100_000
    decided = by_call(policy.plan(books.view()))
    assert queue_of(decided[child.key]) == (0, 200_000)
    assert queue_of(decided[last.key]) == (2, 1_100_000)


def test_a_program_of_one_chain_is_the_same_to_both() -> None:
    c = cluster()
    for cls in (AutellixAtlas, AutellixPlas):
        books = Books(c)
        workflow = books.workflow()
        a = served(books, workflow, 700)
        b = served(books, workflow, 700, a)
        assert queue_of_next(ready(cls(beta=0.0, **SECONDS), c), books, workflow, b) == 2  # 1.4 s: 1 to 2


def test_bounds_grow_with_the_mean_call() -> None:
    # In units of the mean call, queues end at 0.5, 1, 2, 4. Before the first completion the unit is 1 s; then a call
    # of 0.2 and one of 0.6 s make it 0.4 s: 0.2, 0.4, 0.8, 1.6 s. The second call's child inherits 0.6 s: queue 2.
    c = cluster()
    policy = ready(AutellixAtlas(beta=0.0), c)
    books = Books(c)
    first, second = books.call(), books.call()
    policy.plan(books.view())
    books.complete(first, 0, 100_000, 0, 0, 100_000)
    books.complete(second, 0, 100_000, 0, 0, 500_000)
    books.now_us = 600_000
    child = books.call(workflow=second.workflow, ready_us=600_000, parents=(second,))
    plan = policy.plan(books.view((Trigger.CALL_READY, Trigger.CALL_COMPLETE)))
    assert queue_of(by_call(plan)[child.key])[0] == 2


def starving(beta: float) -> tuple[Any, Books, CallView, Any]:
    """A program that was served for 1 s without waiting; its next call is ready at 1 s, in queue 2, and waits."""
    c = cluster()
    policy = ready(AutellixAtlas(beta=beta, **SECONDS), c)
    books = Books(c)
    workflow = books.workflow()
    a = served(books, workflow, 1000)
    books.now_us = 1_000_000
    call = books.call(workflow=workflow, ready_us=1_000_000, parents=(a,))
    plan = policy.plan(books.view())
    decision = by_call(plan)[call.key]
    assert queue_of(decision) == (2, 1_000_000)
    books.place(call, CallState.QUEUED, priority=decision.priority)
    return policy, books, call, plan


def test_it_rises_when_it_starves() -> None:
    # beta 2: (0 + W_c) / (1 s + 0) reaches 2 when it has waited for 2 s, at 3 s, and that is when it wants to be asked.
    policy, books, call, plan = starving(2.0)
    assert plan.wake_us == 3_000_000
    books.now_us = 2_999_999
    again = policy.plan(books.view(WAKE))
    assert not again.decisions
    assert again.wake_us is None  # it has asked for 3 s already
    books.now_us = 3_000_000
    plan = policy.plan(books.view(WAKE))
    assert plan.decisions == [Decision(call.key, 0, 0, 1_000_000.0)]


def test_it_never_rises_without_beta() -> None:
    policy, books, _, plan = starving(0.0)
    assert plan.wake_us is None
    books.now_us = 10**9
    assert not policy.plan(books.view(WAKE)).decisions


def test_a_call_that_has_started_to_decode_does_not_rise() -> None:
    policy, books, call, _ = starving(2.0)
    books.place(call, CallState.RUNNING, priority=call.priority)
    books.now_us = 3_000_000
    assert policy.plan(books.view(WAKE)) == hexopt.Plan([], None)


@pytest.mark.parametrize(("waited_ms", "queue"), [(1999, 2), (2000, 0)])
def test_the_programs_earlier_waits_count(waited_ms: int, queue: int) -> None:
    # W_p 2 s over T_p 1 s is 2: the next call starts in the first queue.
    c = cluster()
    books = Books(c)
    workflow = books.workflow()
    a = served(books, workflow, 1000, waited_ms=waited_ms)
    assert queue_of_next(ready(AutellixAtlas(beta=2.0, **SECONDS), c), books, workflow, a) == queue


def test_a_starved_program_gets_its_turn() -> None:
    # One prefill of 10 ms, decode 2 ms a token; a new one-call program every 10 ms from 1 ms on keeps it busy, each
    # started at the next multiple of 10 ms. `long`: c0 prefills 0-10, is transferred in 0.1 ms, has its 100 further
    # tokens at 210.1 ms. Executed 0.21 s, bounds 0.1, 0.2, 0.4: c1 waits in queue 2 behind every newcomer. With beta 2
    # it rises after 0.42 s, at 630.1 ms, and goes at 640 ms. Otherwise it goes after all 100 newcomers, at 1,010 ms.
    call = hexopt.Call
    long = hexopt.Workflow("long", "a", 0, (call("c0", (), 100, 101), call("c1", (0,), 100, 2)))
    short = [hexopt.Workflow(f"s{i}", "a", 1000 + 10_000 * i, (call("c0", (), 100, 2),)) for i in range(100)]
    starts = []
    for beta in (2.0, 0.0):
        policy = AutellixAtlas(beta=beta, first_bound=0.1, **SECONDS)
        table = hexopt.simulate(hexopt.Trace((long, *short)), cluster(), policy, predictor="oracle").calls
        starts.append(table["prefill_start_us"][1])
    assert starts == [640_000, 1_010_000]


def past_prefill(policy: Any, books: Books, state: CallState = CallState.ADMISSION) -> CallView:
    """A program's first call, whose prefill took 1.2 s and which now waits on the decode instance."""
    call = books.call()
    books.place(call, CallState.QUEUED, priority=by_call(policy.plan(books.view()))[call.key].priority)
    books.now_us = 1_200_000
    books.place(call, state, priority=call.priority)
    call.prefill_start_us, call.prefill_end_us = 0, 1_200_000
    return call


@pytest.mark.parametrize(("quantum", "queue"), [(1.0, 2), (2.0, 1), (3.0, 0)])
def test_a_used_up_quantum_sinks_a_call(quantum: float, queue: int) -> None:
    # Queues are 0.5, 0.5, 1, 2 s wide. Of 1.2 s, 0.5 are used in the first, 0.5 in the second, 0.2 in the third.
    # With quanta twice as long 1.0 is used in the first and 0.2 in the second; with thrice, all in the first.
    c = cluster()
    policy = ready(AutellixAtlas(quantum=quantum, **SECONDS), c)
    books = Books(c)
    call = past_prefill(policy, books)
    plan = policy.plan(books.view((Trigger.CALL_COMPLETE,)))
    assert plan.decisions == ([Decision(call.key, 0, 0, float(queue * SPAN_US))] if queue else [])
    for decision in plan.decisions:
        call.priority = decision.priority
    assert not policy.plan(books.view((Trigger.CALL_COMPLETE,))).decisions  # once


def test_short_calls_go_to_the_least_used_instance_and_long_ones_home() -> None:
    # p0 and d0 have a call of 500 tokens, so the program's first long call, of 2,049 tokens, goes to p1 and d1, which
    # are its home from then on. Its later long calls go there, too, though they are used most; short ones, and those
    # of another program, to p0, d0.
    c = cluster(2, 2)
    policy = ready(AutellixAtlas(**SECONDS), c)
    books = Books(c)
    books.place(books.call(500), CallState.QUEUED)
    workflow = books.workflow()
    first, long = books.call(2049, workflow=workflow), books.call(9000, workflow=workflow)
    short, other = books.call(2048, workflow=workflow), books.call(2049)
    assert pairs(policy.plan(books.view())) == [
        (first.key, 1, 1),
        (long.key, 1, 1),
        (short.key, 0, 0),
        (other.key, 0, 0),
    ]
    for call in (first, long):
        books.place(call, CallState.QUEUED, 1, 1)
    later = books.call(2049, workflow=workflow, ready_us=5)
    del books.calls[short.key : other.key + 1]
    assert pairs(policy.plan(books.view())) == [(later.key, 1, 1)]
    assert pairs(ready(AutellixAtlas(**SECONDS), c).plan(books.view())) == [(later.key, 1, 1)]


def test_a_home_that_cannot_hold_a_call_is_left() -> None:
    c = cluster([prefill("p0", kv_tokens=4000), prefill("p1")], [decode("d0", kv_tokens=4000), decode("d1")])
    books = Books(c)
    workflow = books.workflow()
    small, large = books.call(2049, workflow=workflow), books.call(5000, workflow=workflow)
    plan = ready(AutellixAtlas(**SECONDS), c).plan(books.view())
    assert pairs(plan) == [(small.key, 0, 0), (large.key, 1, 1)]


def test_a_call_that_a_fallback_placed_gets_its_queue() -> None:
    c = cluster()
    policy = ready(AutellixAtlas(plan_latency_us=1000, beta=0.0, **SECONDS), c)
    books = Books(c)
    workflow = books.workflow()
    a = served(books, workflow, 600)
    call = books.call(workflow=workflow, ready_us=600_000, parents=(a,))
    books.now_us = 700_000
    books.place(call, CallState.QUEUED, priority=600_000.0)
    assert policy.plan(books.view()).decisions == [Decision(call.key, 0, 0, float(SPAN_US + 600_000))]


def test_waiting_time() -> None:
    # Ready at 0, prefill 5-15, room at 20 but the interface at 22, there at 30, in the batch at 33, done at 50 ms.
    books = Books(cluster())
    call = books.call()
    assert waited_us(call, 4_000) == 4_000
    books.place(call, CallState.PREFILLING)
    call.prefill_start_us = 5_000
    assert waited_us(call, 9_000) == 5_000
    call.state, call.prefill_end_us = CallState.ADMISSION, 15_000
    assert waited_us(call, 18_000) == 5_000 + 3_000
    call.state, call.admit_us, call.transfer_start_us = CallState.TRANSFERRING, 20_000, 22_000
    assert waited_us(call, 21_000) == 5_000 + 6_000
    assert waited_us(call, 25_000) == 5_000 + 7_000
    call.state, call.transfer_end_us = CallState.TRANSFERRED, 30_000
    assert waited_us(call, 32_000) == 5_000 + 7_000 + 2_000
    call.state, call.join_us, call.complete_us = CallState.COMPLETE, 33_000, 50_000
    assert waited_us(call, 50_000) == 5_000 + 7_000 + 3_000


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"queues": 0}, "queues"),
        ({"first_bound": 0.0}, "first_bound"),
        ({"quantum": -1.0}, "quantum"),
        ({"beta": -0.5}, "beta"),
    ],
)
def test_illegal_options(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=f"policy 'autellix-atlas': option '{what}'"):
        AutellixAtlas(**options)
