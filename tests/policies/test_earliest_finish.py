"""The pair with the earliest projected finish: by hand, and against every pair written out on random views."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hexopt.core.cluster import Cluster
from hexopt.core.view import CallState
from hexopt.policies.earliest_finish import EarliestFinish
from hexopt.policies.projection import Estimator, Projection
from tests.policies import naive
from tests.policies.random_views import FAST, books, clusters
from tests.policies.views import Books, cluster, decode, pairs, prefill, ready


def test_prefill_queue_against_a_slower_idle_instance() -> None:
    # p0 takes 10 ms a prompt and has one running until 4 ms and one queued: a third would end at 4 + 10 + 10 = 24 ms.
    # p1 takes 25 ms and is idle: 25 ms. The third takes p0, a fourth would end at 34 ms there and takes p1.
    c = cluster([prefill("p0", ms=10), prefill("p1", ms=25)])
    books = Books(c)
    books.place(books.call(), CallState.PREFILLING)
    books.busy_until_us[0] = 4_000
    books.place(books.call(), CallState.QUEUED)
    books.call()
    books.call()
    assert pairs(ready(EarliestFinish(), c).plan(books.view())) == [(2, 0, 0), (3, 1, 0)]


def test_priority_is_the_ready_time() -> None:
    c = cluster()
    books = Books(c, now_us=7_000)
    books.call(arrival_us=1_000, ready_us=5_000)
    assert ready(EarliestFinish(), c).plan(books.view()).decisions[0].priority == 5_000.0


def test_slower_decode_with_a_fast_network_interface_wins_for_a_long_prompt() -> None:
    # KV takes 1 µs a token at 1e9 bytes/s, 100 µs at 1e7. d0 decodes at 1 ms behind the slow interface, d1 at 2 ms.
    # Prompt 100, 10 more tokens: d0 10 + 10 ms (wire) + 10, d1 10 + 0.1 + 20: d0 by 0.1 ms. Prompt 110: d0 a ms later.
    c = cluster(1, [decode("d0", knots=((1, 1.0), (64, 1.0)), nic=1e7), decode("d1")])
    books = Books(c)
    books.call(100, 11)
    short = Projection.of(Estimator(c, books.latency), books.view(), {})
    assert short.best(books.calls[0]) == (30_000, 0, 0)
    books.calls.clear()
    books.call(110, 11)
    assert short.best(books.calls[0]) == (30_110, 0, 1)


def test_batch_and_context_slow_the_decode() -> None:
    # h(1) = 1, h(2) = 3 ms, 0.5 ms a context token. Beside a running call of prompt 50 with 10 tokens produced:
    # K0 = 50 + 10 + 20 + 1 = 81, B = 2, two iterations: 2·3 + 0.5·(2·81 + 2·1) = 88 ms after 10 + 0.02 ms.
    c = cluster(1, [decode(knots=((1, 1.0), (2, 3.0)), b2_ms=0.5, max_batch=2)])
    books = Books(c)
    books.place(books.call(50, 40), CallState.RUNNING, produced=10)
    call = books.call(20, 3)
    assert Projection.of(Estimator(c, books.latency), books.view(), {}).best(call) == (98_020, 0, 0)
    # With a third call the batch stays at its limit of 2, and only the context grows, by 30 + 1: 2·0.5·31 = 31 ms.
    books.place(books.call(30, 5), CallState.TRANSFERRED)
    assert Projection.of(Estimator(c, books.latency), books.view(), {}).best(call) == (129_020, 0, 0)


def test_open_segment_counts_its_iterations_up_to_now() -> None:
    # A segment of one call began 6 ms ago at 2 ms an iteration: 3 more tokens than the 10 at its start, so 13.
    c = cluster(1, [decode(b2_ms=0.5)])
    books = Books(c, now_us=100_000)
    books.place(books.call(50, 40), CallState.RUNNING, produced=10)
    books.segment_start_us[0] = 100_000 - boundary(3)
    call = books.call(20, 2, arrival_us=100_000)
    # One iteration: 2 + 0.5·(50 + 13 + 21) = 44 ms after 10 + 0.02 ms.
    assert Projection.of(Estimator(c, books.latency), books.view(), {}).best(call) == (154_020, 0, 0)


def boundary(j: int) -> int:
    """Boundary j of a segment with one call of 60 context tokens, at 2 ms and 0.5 ms a token."""
    return 1000 * (2 * j) + 500 * (j * 60 + j * (j - 1) // 2)


def test_no_room_waits_for_the_projected_releases() -> None:
    # 100 blocks (of one token). A holds 60 until 50 ms, B 30 until 80 ms; 31 more fit when A, and with it 60, has left.
    # d1 has no room for it at all. Then B = 2 and 10 tokens take 20 ms: 70 ms.
    c = cluster(1, [decode(kv_tokens=100), decode("d1", kv_tokens=30)])
    books = Books(c)
    a = books.place(books.call(50, 10), CallState.RUNNING)
    b = books.place(books.call(20, 10), CallState.RUNNING)
    call = books.call(20, 11)
    finish = {a.key: 50_000, b.key: 80_000}
    assert Projection.of(Estimator(c, books.latency), books.view(), finish).best(call) == (70_000, 0, 0)
    # 21 blocks are wanting: if B leaves first, at 40 ms, its 30 do.
    finish = {a.key: 50_000, b.key: 40_000}
    assert Projection.of(Estimator(c, books.latency), books.view(), finish).best(call) == (60_000, 0, 0)
    # Overdue calls are expected to leave now: the wait is over before the KV arrives at 10.02 ms.
    finish = {a.key: 50_000, b.key: 90_000}
    books.now_us = 60_000
    assert Projection.of(Estimator(c, books.latency), books.view(), finish).best(call) == (90_020, 0, 0)


def test_the_policy_remembers_the_finishes_it_projected() -> None:
    # Two calls of 60 blocks on a decode instance of 100: the second waits for the first's projected finish,
    # 10 + 0.05 + 9·2 = 28.05 ms on p0, although p1 would have it there by 10.05 ms: 28.05 + 18 ms, on either.
    c = cluster(2, [decode(kv_tokens=100)])
    books = Books(c)
    policy = ready(EarliestFinish(), c)
    books.call(50, 10)
    first = policy.plan(books.view())
    assert pairs(first) == [(0, 0, 0)]
    books.place(books.calls[0], CallState.QUEUED)
    books.call(50, 10)
    # Both prefill instances finish it at the same instant, for want of room: the tie goes to p0.
    assert pairs(policy.plan(books.view())) == [(1, 0, 0)]
    assert policy._finish_us == {0: 28_050, 1: 46_050}
    policy = ready(policy, c)
    assert policy._finish_us == {}


def test_one_token_needs_no_decode() -> None:
    # The prediction of one token: only the prefill counts, and the decode instance is the first that it may use.
    c = cluster([prefill("p0", ms=10), prefill("p1", ms=9)], [decode(kv_tokens=4), decode("d1")])
    books = Books(c)
    books.place(books.call(500, 500), CallState.RUNNING, d=1)
    call = books.call(50, 1)
    assert call.decode_candidates == [0, 1]
    assert Projection.of(Estimator(c, books.latency), books.view(), {}).best(call) == (9_000, 1, 0)


def test_ties_go_to_lower_indices() -> None:
    c = cluster(3, 3)
    books = Books(c)
    for _ in range(4):
        books.call()
    # Each call occupies its prefill instance, the decode instances (2 ms at any batch) stay equal.
    assert pairs(ready(EarliestFinish(), c).plan(books.view())) == [(0, 0, 0), (1, 1, 0), (2, 2, 0), (3, 0, 0)]


# -- every pair, on random views


@FAST
@given(books())
def test_best_is_the_best_of_all_pairs(made: tuple[Books, dict[int, int]]) -> None:
    book, finish = made
    view = book.view()
    projection = Projection.of(Estimator(book.cluster, book.latency), view, finish)
    state = naive.State.of(book.cluster, view, finish)
    for call in view.pool:
        for room_now in (False, True):
            assert projection.best(call, room_now=room_now) == state.best(call, room_now=room_now)
        pair = state.best(call)
        assert pair is not None
        projection.commit(call, *pair)
        state.commit(call, pair)


@FAST
@given(books())
def test_plan_is_the_naive_plan(made: tuple[Books, dict[int, int]]) -> None:
    book, _ = made
    view = book.view()
    policy = ready(EarliestFinish(), book.cluster)
    known: dict[int, int] = {}
    assert list(policy.plan(view).decisions) == naive.earliest_finish(book.cluster, view, known)
    # A second round knows what the first projected.
    for call in [c for c in book.calls if c.state == CallState.POOL][::2]:
        decision = next(d for d in policy.plan(view).decisions if d.call == call.key)
        book.place(call, CallState.QUEUED, decision.prefill, decision.decode)
    known = dict(policy._finish_us)
    view = book.view()
    assert list(policy.plan(view).decisions) == naive.earliest_finish(book.cluster, view, known)


@FAST
@given(
    clusters(),
    st.lists(st.tuples(st.sampled_from((1, 10, 50)), st.sampled_from((1, 2, 9)), st.integers(0, 3)), max_size=8),
)
def test_idle_projection_with_release_times(c: Cluster, calls: list[tuple[int, int, int]]) -> None:
    book = Books(c)
    projection = Projection.idle(Estimator(c, book.latency))
    state = naive.State(c, 0)
    for prompt, predicted, release in calls:
        call, release_us = book.call(prompt, predicted), 7_000 * release
        pair = state.best(call, release_us)
        assert pair is not None
        assert projection.best(call, release_us) == pair
        projection.commit(call, *pair, release_us=release_us)
        state.commit(call, pair, release_us)


@FAST
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(2, 30)), min_size=3, max_size=12),
    st.sampled_from((1, 2)),
)
def test_a_crowd_without_room(calls: list[tuple[int, int]], decodes: int) -> None:
    """Each waits for those placed before it, which leave in an order that is not that of placement."""
    c = cluster(2, [decode(f"d{i}", kv_tokens=90) for i in range(decodes)])
    book = Books(c)
    projection, state = Projection.idle(Estimator(c, book.latency)), naive.State(c, 0)
    for prompt, predicted in calls:
        call = book.call(prompt, predicted)
        pair = state.best(call)
        assert pair is not None
        assert projection.best(call) == pair
        projection.commit(call, *pair)
        state.commit(call, pair)
