"""The least loaded instance, where load is calls, tokens or each instance's own time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hexopt
from hexopt.core.view import CallState
from hexopt.policies.fcfs import Fcfs
from hexopt.policies.least_loaded import LeastLoaded
from tests.policies.random_views import FAST, books
from tests.policies.sample_run import finishes
from tests.policies.views import Books, cluster, decode, pairs, prefill, ready

SLOW = ((1, 4.0), (64, 4.0))


def chosen(books: Books, **options: Any) -> tuple[int, int]:
    """Where the one call of the pool goes."""
    plan = ready(hexopt.make_policy("least-loaded", **options), books.cluster).plan(books.view())
    ((_, p, d),) = pairs(plan)
    return p, d


def test_prefill_calls_tokens_and_time_disagree() -> None:
    # p0 takes 10 ms a prompt and has two of 200 tokens, one of them running for 6 ms more: 2 calls, 400 tokens, 16 ms.
    # p1 takes 20 ms and has one of 500: 1 call, 500 tokens, 20 ms. p2 takes 1 ms and has 3 of 150: 3 calls, 450, 3 ms.
    c = cluster([prefill("p0"), prefill("p1", ms=20), prefill("p2", ms=1)])
    books = Books(c, now_us=4_000)
    books.place(books.call(200), CallState.PREFILLING, 0)
    books.busy_until_us[0] = 10_000
    books.place(books.call(200), CallState.QUEUED, 0)
    books.place(books.call(500), CallState.QUEUED, 1)
    for _ in range(3):
        books.place(books.call(150), CallState.QUEUED, 2)
    books.call(100)
    assert chosen(books)[0] == 1
    assert chosen(books, load="calls")[0] == 1
    assert chosen(books, load="tokens")[0] == 0
    assert chosen(books, load="time")[0] == 2
    # With a running batch p2 has 17 ms, against p0's 16; but the call's own prefill takes 1 ms there, 10 ms on p0.
    books.busy_until_us[2] = 18_000
    assert chosen(books, load="time")[0] == 0
    assert chosen(books, load="time", with_call=True)[0] == 2


def test_decode_calls_tokens_and_time_disagree() -> None:
    # d0: two calls with 15 tokens more to produce each, at 2 ms: 60 ms; 232 tokens. d1, at 4 ms: one call, 20 more,
    # 80 ms, 121 tokens. d2, at 1 ms: three calls, 10 more each, 30 ms; 63 tokens.
    c = cluster(1, [decode("d0"), decode("d1", knots=SLOW), decode("d2", knots=((1, 1.0), (64, 1.0)))])
    books = Books(c)
    for prompt, predicted, d in ((100, 16, 0), (100, 16, 0), (100, 21, 1), (10, 11, 2), (10, 11, 2), (10, 11, 2)):
        books.place(books.call(prompt, predicted), CallState.ADMISSION, 0, d)
    books.call(100, 11)
    assert chosen(books, load="calls")[1] == 1
    assert chosen(books, load="tokens")[1] == 2
    assert chosen(books, load="time")[1] == 2
    books.place(books.call(10, 41), CallState.ADMISSION, 0, 2)
    # d2 now has 70 ms of work. With the call's own 10 tokens: 60 + 20, 80 + 40, 70 + 10 ms, a tie of d0 and d2.
    assert chosen(books, load="time")[1] == 0
    assert chosen(books, load="time", with_call=True)[1] == 0
    books.calls[-1].predicted_output_tokens = 40
    assert chosen(books, load="time")[1] == 0
    assert chosen(books, load="time", with_call=True)[1] == 2


def test_what_was_produced_is_no_load() -> None:
    # d0: 40 tokens predicted, 25 there when its segment began and 3 more since (6 ms at 2 ms): 12 left. d1: 14 left.
    c = cluster(1, 2)
    books = Books(c, now_us=100_000)
    books.place(books.call(100, 40), CallState.RUNNING, d=0, produced=25)
    books.segment_start_us[0] = 94_000
    books.place(books.call(100, 15), CallState.TRANSFERRED, d=1)
    books.call(100, 11)
    assert chosen(books, load="time")[1] == 0
    books.segment_start_us[0] = 98_000  # one token since: 14 left, a tie
    assert chosen(books, load="time")[1] == 0
    books.segment_start_us[0] = 99_000  # none: 15 left
    assert chosen(books, load="time")[1] == 1


def test_more_than_predicted_is_no_load_and_never_less_than_none() -> None:
    # d1 has produced 20 tokens more than predicted; d0 is idle. Neither has work left: the lower index.
    c = cluster(1, 2)
    books = Books(c)
    books.place(books.call(100, 5), CallState.RUNNING, d=1, produced=25)
    books.call(100, 11)
    assert chosen(books, load="time")[1] == 0


def test_calls_predicted_to_end_with_their_prefill_are_no_decode_load() -> None:
    # d0 has a call predicted to have one token, d1 another whose prefill is over (so it decodes, though nothing more is
    # predicted of it): a tie. A call of two tokens at d0 is one iteration.
    c = cluster(1, 2)
    books = Books(c)
    books.place(books.call(500, 1), CallState.QUEUED, d=0)
    books.place(books.call(500, 1), CallState.ADMISSION, d=1)
    books.call(100, 11)
    assert chosen(books, load="time")[1] == 0
    books.place(books.call(100, 2), CallState.QUEUED, d=0)
    assert chosen(books, load="time")[1] == 1


def test_batch_speed() -> None:
    # d0: four calls of 10 tokens more, d1: one of 16; h(1) = 2, h(4) = 4 ms. Alone, 40·2 against 16·2 ms: d1. In one
    # batch of four, 40·4/4 = 40 ms, still d1; at h(4) = 2 it is 20 ms: d0.
    for flat, expected in ((False, 1), (True, 0)):
        knots = ((1, 2.0), (4, 2.0 if flat else 4.0))
        c = cluster(1, [decode("d0", knots=knots, max_batch=4), decode("d1", max_batch=4)])
        books = Books(c)
        for _ in range(4):
            books.place(books.call(100, 11), CallState.ADMISSION, d=0)
        books.place(books.call(100, 17), CallState.ADMISSION, d=1)
        books.call(100, 11)
        assert chosen(books, load="time")[1] == 1
        assert chosen(books, load="time", decode_speed="batch")[1] == expected


def test_context_slows_decode() -> None:
    # 10 tokens at 2 ms, plus 0.01 ms a context token: of 1001 tokens 10·(2 + 10.01) ms, of 11 10·(2 + 0.11) ms.
    c = cluster(1, [decode("d0", b2_ms=0.01), decode("d1", b2_ms=0.01)])
    books = Books(c)
    books.place(books.call(1000, 11), CallState.ADMISSION, d=0)
    books.place(books.call(10, 12), CallState.ADMISSION, d=1)
    books.call(100, 11)
    assert chosen(books, load="time")[1] == 1


def test_calls_of_one_round_see_each_other() -> None:
    # Five calls on two idle pairs. p1 and d1 are half as fast: by calls they take turns; by time p0 has 10 when p1 gets
    # its first, then 10 < 20, 20 = 20 (a tie, p0), 30 > 20. Decode, 20 or 40 ms a call: the same.
    c = cluster([prefill("p0"), prefill("p1", ms=20)], [decode("d0"), decode("d1", knots=SLOW)])
    books = Books(c)
    for _ in range(5):
        books.call(100, 11)
    view = books.view()

    def run(**options: Any) -> list[tuple[int, int]]:
        return [(p, d) for _, p, d in pairs(ready(hexopt.make_policy("least-loaded", **options), c).plan(view))]

    assert run() == [(0, 0), (1, 1), (0, 0), (1, 1), (0, 0)]
    assert run(load="time") == [(0, 0), (1, 1), (0, 0), (0, 0), (1, 1)]
    # With their own 10 or 20 ms: 10 < 20, 20 = 20, 30 > 20, 30 < 40, 40 = 40.
    assert run(load="time", with_call=True) == [(0, 0), (0, 0), (1, 1), (0, 0), (0, 0)]


def test_priority_is_the_ready_time() -> None:
    c = cluster()
    books = Books(c, now_us=7_000)
    books.call(arrival_us=1_000, ready_us=5_000)
    for load in ("calls", "tokens", "time"):
        plan = ready(hexopt.make_policy("least-loaded", load=load), c).plan(books.view())
        assert plan.decisions[0].priority == 5_000.0


@FAST
@given(books())
def test_tokens_are_fcfs(made: tuple[Books, dict[int, int]]) -> None:
    book, _ = made
    view = book.view()
    assert ready(LeastLoaded(load="tokens"), book.cluster).plan(view) == ready(Fcfs(), book.cluster).plan(view)


@FAST
@given(books(), st.booleans())
def test_the_work_left_is_that_of_the_calls_added_up(made: tuple[Books, dict[int, int]], with_call: bool) -> None:
    """The sums of the view against every call on its own, for the first call of the pool."""
    book, _ = made
    view = book.view()
    if not view.pool:
        return
    call = view.pool[0]

    def load(d: int, mine: int) -> float:
        left, context, count = 0, 0, 0
        for c in view.decode[d].bound.values():
            if c.predicted_output_tokens == 1 and c.state < CallState.ADMISSION:
                continue
            produced = 1
            if c.state == CallState.RUNNING:
                produced += book.latency.iterations_at(view.decode[d], book.now_us) - c.joined_iteration
            left += c.predicted_output_tokens - produced
            context += c.prompt_tokens + produced
            count += 1
        if mine > 1:
            left, context, count = left + mine - 1, context + call.prompt_tokens + 1, count + 1
        if left <= 0:
            return 0.0
        return left * (book.latency.iteration_ms(d, 1) + book.latency.context_ms(d) * context / count)

    best = min(call.decode_candidates, key=lambda d: (load(d, call.predicted_output_tokens if with_call else 1), d))
    plan = ready(LeastLoaded(load="time", with_call=with_call), book.cluster).plan(view)
    assert plan.decisions[0].decode == best


@pytest.mark.parametrize(
    "options",
    [{}, {"load": "tokens"}, {"load": "time"}, {"load": "time", "with_call": True, "decode_speed": "batch"}],
)
def test_sample_run(options: dict[str, Any]) -> None:
    finishes("least-loaded", **options)
