"""The decode instance to which the KV gets soonest: room, transfer, queue and first iteration, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import hexopt
from hexopt.core.cluster import Cluster
from hexopt.core.view import CallState, CallView, Trigger
from hexopt.errors import ConfigError
from hexopt.policies.netkv import NetKv
from tests.policies.sample_run import finishes
from tests.policies.views import Books, cluster, decode, pairs, prefill, ready

SLOW = ((1, 4.0), (64, 4.0))


def chosen(books: Books, **options: Any) -> tuple[int, int]:
    """Where the one call of the pool goes."""
    plan = ready(hexopt.make_policy("netkv", **options), books.cluster).plan(books.view())
    ((_, p, d),) = pairs(plan)
    return p, d


def near_and_far(**more: Any) -> Cluster:
    """d0: 100 µs a token of KV on the wire, iterations of 2 ms. d1: 1 µs a token, 4 ms."""
    return cluster(1, [decode("d0", nic=1e7, **more), decode("d1", knots=SLOW, **more)])


@pytest.mark.parametrize(("prompt", "d"), [(10, 0), (19, 0), (21, 1), (100, 1)])
def test_transfer_against_the_first_iteration(prompt: int, d: int) -> None:
    # d0: prompt/10 + 2 ms; d1: prompt/1000 + 4 ms. Equal at 20.2 tokens.
    books = Books(near_and_far())
    books.call(prompt, 11)
    assert chosen(books) == (0, d)


def test_own_transfers_in_flight_from_the_same_source_divide_the_bandwidth() -> None:
    # 10 tokens: d0 1·k + 2 ms, d1 0.01·k + 4 ms, k − 1 transfers in flight from the source. k = 3: 5 against 4.03 ms.
    # They go to d2, which is too slow for anything else.
    c = cluster(2, [*near_and_far().decode, decode("d2", knots=((1, 99.0), (64, 99.0)))])
    books = Books(c)
    books.place(books.call(500, 1), CallState.QUEUED, p=1)  # p0 has the fewest outstanding tokens
    books.call(10, 11)
    for in_flight, d in ((0, 0), (1, 0), (2, 1)):
        if in_flight:
            books.place(books.call(10, 11), CallState.TRANSFERRING, 0, 2)
        assert chosen(books) == (0, d)
    # Those of another source do not count, nor does what waits for room or is there.
    for state, p in ((CallState.TRANSFERRING, 1), (CallState.ADMISSION, 0), (CallState.TRANSFERRED, 0)):
        books.calls[-1].state, books.calls[-1].prefill = state, p
        assert chosen(books) == (0, 0)


def test_calls_ahead_cost_an_iteration_each() -> None:
    # 10 tokens: d0 1 + 2·(ahead + 1), d1 0.01 + 4 ms. With one ahead 5 ms: d1. One that runs is not ahead.
    books = Books(near_and_far())
    books.call(10, 11)
    other = books.place(books.call(10, 11), CallState.RUNNING, d=0)
    assert chosen(books) == (0, 0)
    for state in (CallState.QUEUED, CallState.PREFILLING, CallState.ADMISSION, CallState.TRANSFERRED):
        books.busy_until_us[0] = -1
        books.place(other, state, d=0)
        assert chosen(books) == (0, 1)
        # By those that wait there, only a call past its prefill is ahead.
        assert chosen(books, queue="waiting") == (0, 1 if state >= CallState.ADMISSION else 0)


def test_the_first_iteration_is_that_of_the_batch_it_joins() -> None:
    # d0: h(1) = 1, h(2) = 3 ms; d1: 2 ms. With a call running, d0 takes 3 ms; with a batch limit of one it stays 1 ms.
    for max_batch, d in ((2, 1), (1, 0)):
        c = cluster(1, [decode("d0", knots=((1, 1.0), (2, 3.0)), max_batch=max_batch), decode("d1", max_batch=2)])
        books = Books(c)
        books.place(books.call(10, 11), CallState.RUNNING, d=0)
        books.call(10, 11)
        assert chosen(books) == (0, d)


def test_context_slows_the_first_iteration() -> None:
    # 2 ms and 0.01 ms a context token: beside a running call of 500 tokens, 7.1 ms against 2.1 ms.
    c = cluster(1, [decode("d0", b2_ms=0.01), decode("d1", b2_ms=0.01)])
    books = Books(c)
    books.place(books.call(500, 11), CallState.RUNNING, d=0)
    books.call(10, 11)
    assert chosen(books) == (0, 1)


def test_no_room_for_the_kv_and_the_reserve() -> None:
    # Blocks of one token, 1000 of them; the call needs 10 + 11. d0 is the cheaper one. With 900 in use 100 are free:
    # enough beside a reserve of 5% (50), and of 7.9% (79), but not of 8% (80).
    books = Books(near_and_far(kv_tokens=1000))
    books.place(books.call(800, 100), CallState.RUNNING, d=0)
    books.call(10, 11)
    assert chosen(books) == (0, 0)
    assert chosen(books, reserve=0.079) == (0, 0)
    assert chosen(books, reserve=0.08) == (0, 1)
    # The KV of calls still in prefill counts as used.
    books.place(books.call(40, 10), CallState.QUEUED, d=0)
    assert chosen(books, queue="waiting") == (0, 1)
    assert chosen(books, queue="waiting", reserve=0) == (0, 0)


def test_when_nothing_has_room() -> None:
    # Free: 90 and 95 blocks of 1000, needed 21 and a reserve of 100. The cheaper one is d0, more room has d1.
    books = Books(near_and_far(kv_tokens=1000))
    books.place(books.call(810, 100), CallState.RUNNING, d=0)
    books.place(books.call(805, 100), CallState.RUNNING, d=1)
    books.call(10, 11)
    assert chosen(books, reserve=0.1) == (0, 0)
    assert chosen(books, reserve=0.1, when_full="room") == (0, 1)
    assert chosen(books, reserve=0.0, when_full="room") == (0, 0)


def test_only_candidates_are_chosen() -> None:
    c = cluster(1, [decode("d0", kv_tokens=50), decode("d1", knots=SLOW)])
    books = Books(c)
    books.call(100, 11)
    assert chosen(books) == (0, 1)
    assert chosen(books, when_full="room") == (0, 1)


def test_cached_prefix() -> None:
    # 100 tokens: d0 10 + 2 ms, d1 0.1 + 4 ms. With 90 of them cached at d0, where the parent ran: 1 + 2 ms.
    books = Books(near_and_far())
    flow = books.workflow()
    parent = books.complete(books.call(80, 11, workflow=flow), 0, 10_000, 0, 100, 20_000)
    call = books.call(100, 11, workflow=flow, parents=(parent,))
    assert chosen(books, cached_prefix=True) == (0, 1), "the trace does not say what is cached"
    call.cached_prefix_tokens = 90
    assert chosen(books) == (0, 1), "the engine keeps nothing"
    assert chosen(books, cached_prefix=True) == (0, 0)
    parent.decode = 1
    assert chosen(books, cached_prefix=True) == (0, 1)
    call.cached_prefix_tokens = 100  # nothing is left to be sent
    parent.decode = 0
    assert chosen(books, cached_prefix=True) == (0, 0)


def test_prefill_goes_to_the_fewest_outstanding_tokens_and_priority_is_the_ready_time() -> None:
    c = cluster([prefill("p0"), prefill("p1", ms=99)])
    books = Books(c, now_us=9_000)
    books.place(books.call(500, 11), CallState.QUEUED, 0)
    books.call(300, 11, ready_us=7_000)
    books.call(300, 11, ready_us=8_000)
    books.call(300, 11, ready_us=9_000)  # 500 and 600 tokens by now
    plan = ready(NetKv(), c).plan(books.view())
    assert [tuple(d) for d in plan.decisions] == [(1, 1, 0, 7_000.0), (2, 1, 0, 8_000.0), (3, 0, 0, 9_000.0)]


def test_calls_of_one_round_see_each_other() -> None:
    # 10 tokens: d0 1 + 2, then 1 + 4 against 4.01 ms, then 5 against 8.01, 7 against 8.01, 9 against 8.01 ms.
    books = Books(near_and_far())
    for _ in range(5):
        books.call(10, 11)
    plan = ready(NetKv(), books.cluster).plan(books.view())
    assert [d for _, _, d in pairs(plan)] == [0, 1, 0, 0, 1]


# -- binding at the handoff


def waiting_for_room(binding: Any, **options: Any) -> tuple[Books, CallView, NetKv]:
    """A call waits for room on d0, which is full; d1 has room."""
    c = replace(cluster(1, [decode("d0", kv_tokens=1000), decode("d1", knots=SLOW, kv_tokens=1000)]), binding=binding)
    books = Books(c)
    books.place(books.call(890, 100), CallState.RUNNING, d=0)
    call = books.place(books.call(10, 11), CallState.ADMISSION, d=0, priority=3.0)
    return books, call, ready(NetKv(**options), c)


def test_rebinding_at_the_handoff() -> None:
    books, call, policy = waiting_for_room("handoff", rebind=True)
    assert Trigger.CALL_COMPLETE in policy.triggers
    plan = policy.plan(books.view((Trigger.TRANSFER_END,)))
    assert [tuple(d) for d in plan.decisions] == [(call.key, 0, 1, 3.0)]
    # Its own 21 blocks on d0 do not stand in its way: with 920 others, 80 are free, and 21 + 50 needed.
    books.calls[0].state = CallState.COMPLETE
    books.place(books.call(820, 100), CallState.RUNNING, d=0)
    assert policy.plan(books.view((Trigger.CALL_COMPLETE,))).decisions == []


def test_no_rebinding_unless_asked_for_or_possible() -> None:
    assert frozenset((Trigger.CALL_READY,)) == NetKv().triggers
    for binding, options in (("handoff", {}), ("dispatch", {"rebind": True})):
        books, _, policy = waiting_for_room(binding, **options)
        assert policy.plan(books.view()).decisions == ()


@pytest.mark.parametrize("reserve", [-0.1, 1.0, 2])
def test_a_reserve_is_a_share(reserve: float) -> None:
    with pytest.raises(ConfigError, match=f"policy 'netkv': reserve is {reserve}"):
        hexopt.make_policy("netkv", reserve=reserve)


@pytest.mark.parametrize("options", [{}, {"queue": "waiting", "when_full": "room"}, {"cached_prefix": True}])
def test_sample_run(options: dict[str, Any]) -> None:
    finishes("netkv", **options)


def test_handoff_run() -> None:
    # Little room, so that calls wait for it, and are bound anew.
    site = cluster(2, [decode("d0", kv_tokens=150), decode("d1", kv_tokens=150, knots=SLOW)], binding="handoff")
    flows = [hexopt.Workflow(f"w{i}", "a", 0, (hexopt.Call("c", (), 100, 11),)) for i in range(8)]
    decisions = {}
    for rebind in (False, True):
        result = hexopt.simulate(
            hexopt.Trace(tuple(flows)), site, hexopt.make_policy("netkv", rebind=rebind), predictor="oracle"
        )
        assert result.summary["finished_calls"] == 8
        decisions[rebind] = len(result.decisions)
    assert decisions[False] == 8 < decisions[True]
