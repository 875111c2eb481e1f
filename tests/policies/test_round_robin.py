"""Round robin: a turn in each pool, which passes over instances that cannot hold the call."""

from __future__ import annotations

from hexopt.policies.round_robin import RoundRobin
from tests.policies.views import Books, cluster, decode, pairs, prefill, ready


def test_pools_take_their_turns_on_their_own() -> None:
    c = cluster(2, 3)
    books = Books(c)
    for _ in range(7):
        books.call()
    assert [(p, d) for _, p, d in pairs(ready(RoundRobin(), c).plan(books.view()))] == [
        (0, 0), (1, 1), (0, 2), (1, 0), (0, 1), (1, 2), (0, 0),
    ]  # fmt: skip


def test_the_turn_goes_on_from_one_plan_to_the_next_and_starts_over_with_a_run() -> None:
    c = cluster(3, 3)
    books = Books(c)
    books.call()
    policy = ready(RoundRobin(), c)
    assert [pairs(policy.plan(books.view()))[0][1:] for _ in range(4)] == [(0, 0), (1, 1), (2, 2), (0, 0)]
    assert pairs(ready(policy, c).plan(books.view())) == [(0, 0, 0)]


def test_it_skips_instances_that_cannot_hold_the_call() -> None:
    # p0 and d1 hold 50 tokens. The long call skips p0, which therefore has not had its turn: after p1 comes p2.
    c = cluster(
        [prefill("p0", kv_tokens=50), prefill("p1"), prefill("p2")],
        [decode("d0"), decode("d1", kv_tokens=50), decode("d2")],
    )
    books = Books(c)
    for prompt in (100, 10, 10, 10, 100):
        books.call(prompt, 10)
    # Prefill: 100 -> p1 (from 0 on), 10 -> p2, 10 -> p0, 10 -> p1, 100 -> p2.
    # Decode: 100 -> d0, 10 -> d1, 10 -> d2, 10 -> d0, 100 -> d2 (d1 skipped).
    plan = pairs(ready(RoundRobin(), c).plan(books.view()))
    assert [(p, d) for _, p, d in plan] == [(1, 0), (2, 1), (0, 2), (1, 0), (2, 2)]


def test_priority_is_the_ready_time() -> None:
    c = cluster()
    books = Books(c)
    books.call(ready_us=4_000)
    assert ready(RoundRobin(), c).plan(books.view()).decisions[0].priority == 4_000.0
