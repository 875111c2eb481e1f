"""First come, first served: fewest outstanding tokens in each pool, blind to everything else."""

from __future__ import annotations

from hexopt.core.view import CallState
from hexopt.policies.fcfs import Fcfs
from tests.policies.views import Books, cluster, decode, pairs, prefill, ready


def test_fewest_outstanding_tokens_of_each_pool_on_its_own() -> None:
    # Prefill counts prompts queued or running: p0 100 + 40, p1 120, p2 130. Decode counts prompt + prediction of all
    # that is bound, wherever it stands: d0 (100 + 10) + (40 + 10), d1 120 + 60, d2 130 + 10 + (1 + 18) (running).
    c = cluster(3, 3)
    books = Books(c)
    books.place(books.call(100, 10), CallState.PREFILLING, 0, 0)
    books.place(books.call(40, 10), CallState.QUEUED, 0, 0)
    books.place(books.call(120, 60), CallState.QUEUED, 1, 1)
    books.place(books.call(130, 10), CallState.QUEUED, 2, 2)
    books.place(books.call(1, 18), CallState.RUNNING, 0, 2)
    books.call()
    view = books.view()
    assert [p.outstanding_tokens for p in view.prefill] == [140, 120, 130]
    assert [d.outstanding_tokens for d in view.decode] == [160, 180, 159]
    assert pairs(ready(Fcfs(), c).plan(view)) == [(5, 1, 2)]


def test_it_is_blind_to_speed_and_busy_times() -> None:
    c = cluster([prefill("p0", ms=1000), prefill("p1", ms=1)], [decode("d0", knots=((64, 99.0),)), decode("d1")])
    books = Books(c)
    books.busy_until_us[0] = 10_000_000
    books.call()
    assert pairs(ready(Fcfs(), c).plan(books.view())) == [(0, 0, 0)]


def test_each_call_sees_the_placements_before_it() -> None:
    # Prompts 100, 30, 60, 20 with 10 predicted. Prefill: p0 100; p1 30; p1 (30 < 100) 90; p1 (90 < 100) 110.
    # Decode: d0 110; d1 40; d1 110; a tie, 110 each, goes to d0.
    c = cluster(2, 2)
    books = Books(c)
    for prompt in (100, 30, 60, 20):
        books.call(prompt, 10)
    assert pairs(ready(Fcfs(), c).plan(books.view())) == [(0, 0, 0), (1, 1, 1), (2, 1, 1), (3, 1, 0)]


def test_ties_go_to_the_lower_index() -> None:
    c = cluster(3, 2)
    books = Books(c)
    for _ in range(4):
        books.call(50, 5)
    assert pairs(ready(Fcfs(), c).plan(books.view())) == [(0, 0, 0), (1, 1, 1), (2, 2, 0), (3, 0, 1)]


def test_instances_that_cannot_hold_the_call_are_left_out() -> None:
    # p0 and d0 are empty but hold 50 tokens at most.
    c = cluster(
        [prefill("p0", kv_tokens=50), prefill("p1"), prefill("p2")],
        [decode("d0", kv_tokens=50), decode("d1"), decode("d2")],
    )
    books = Books(c)
    books.place(books.call(1000, 10), CallState.QUEUED, 1, 1)
    books.call(100, 10)
    books.call(45, 10)  # its prompt fits p0, with its output it needs 55 > 50
    assert pairs(ready(Fcfs(), c).plan(books.view())) == [(1, 2, 2), (2, 0, 2)]


def test_priority_is_the_ready_time_and_placed_calls_stay() -> None:
    c = cluster()
    books = Books(c, now_us=9_000)
    books.place(books.call(), CallState.QUEUED)
    books.call(arrival_us=1_000, ready_us=9_000)
    (decision,) = ready(Fcfs(), c).plan(books.view()).decisions
    assert (decision.call, decision.priority) == (1, 9_000.0)


def test_no_call_no_decision() -> None:
    c = cluster()
    assert list(ready(Fcfs(), c).plan(Books(c).view()).decisions) == []
