"""Just enough: the weakest pair that meets the SLO by moving averages, the strongest when none does; by hand."""

from __future__ import annotations

from typing import Any

import pytest

import hexopt
from hexopt.core.cluster import Cluster
from hexopt.core.view import CallState
from hexopt.errors import ConfigError
from hexopt.policies.fcfs import Fcfs
from hexopt.policies.goodserve import GoodServe
from tests.policies.sample_run import finishes
from tests.policies.views import Books, cluster, decode, pairs, prefill, ready

SLOW = ((1, 4.0), (64, 4.0))


def two_by_two() -> Cluster:
    """Strong instances at index 0, weak ones at 1: 10 and 30 ms a prompt, 2 and 4 ms an output token."""
    return cluster([prefill("p0"), prefill("p1", ms=30)], [decode("d0"), decode("d1", knots=SLOW)])


def place(policy: GoodServe, books: Books) -> list[tuple[int, int]]:
    """Plan, and carry the plan out: its calls are queued then."""
    plan = policy.plan(books.view())
    for call, p, d, priority in plan.decisions:
        books.place(books.calls[call], CallState.QUEUED, p, d, priority=priority)
    return [(p, d) for _, p, d in pairs(plan)]


@pytest.mark.parametrize(
    ("slo_scale", "pair"),
    [(2.36, (1, 1)), (2.35, (1, 0)), (1.72, (1, 0)), (1.70, (0, 1)), (1.65, (0, 1)), (1.63, (0, 0)), (0.5, (0, 0))],
)
def test_the_weakest_that_meets_the_slo(slo_scale: float, pair: tuple[int, int]) -> None:
    # 100 tokens and 9 iterations, alone: (0, 0) 10 + 0.1 + 18 = 28.1 ms; (1, 0) 30 + 0.1 + 18 = 48.1, 1.712 times that;
    # (0, 1) 10 + 0.1 + 36 = 46.1, 1.641 times; (1, 1) 66.1, 2.352 times. Below 1 not even the strongest is in time.
    books = Books(two_by_two())
    books.call(100, 10)
    assert place(ready(GoodServe(slo_scale=slo_scale), books.cluster), books) == [pair]


def test_time_already_lost_counts() -> None:
    # SLO 2 · 30.1 = 60.2 ms: (1, 0) and (0, 1) with 50.1 ms meet it, the lower prefill class is first: (0, 1). When 11
    # ms are lost, 49.2 ms are left, and only the strongest will do.
    books = Books(two_by_two(), now_us=11_000)
    books.call(100, 11, ready_us=11_000)
    assert place(ready(GoodServe(), books.cluster), books) == [(0, 1)]
    books = Books(two_by_two(), now_us=11_000)
    books.call(100, 11, ready_us=0)
    assert place(ready(GoodServe(), books.cluster), books) == [(0, 0)]


def test_of_equal_instances_the_fewest_outstanding_tokens() -> None:
    c = cluster([prefill("p0"), prefill("p1"), prefill("p2")], [decode("d0"), decode("d1"), decode("d2")])
    books = Books(c)
    books.place(books.call(50, 1), CallState.QUEUED, 0, 1)
    for _ in range(4):
        books.call(100, 11)
    assert place(ready(GoodServe(), c), books) == [(1, 0), (2, 2), (0, 1), (1, 0)]


def one_type() -> tuple[Books, GoodServe]:
    """Two prefill instances of 10 ms, one decode instance of 2 ms; a first call has been placed on p0."""
    c = cluster(2, 1)
    books = Books(c)
    policy = ready(GoodServe(slo_scale=2.0, smoothing=0.25), c)
    books.call(100, 11)
    assert place(policy, books) == [(0, 0)]
    return books, policy


def test_averages_are_learnt_from_completions() -> None:
    # First: waits 8 ms for prefill, 10 ms of prefill (100 µs a token), 5 ms for room, 0.1 ms of transfer, 30 ms of
    # decode: 3 ms for each of 10 tokens after the first.
    books, policy = one_type()
    books.complete(books.calls[0], 8_000, 10_000, 5_000, 100, 30_000)
    books.now_us = 100_000
    books.call(100, 11, ready_us=100_000)
    assert place(policy, books) == [(0, 0)]
    p0, d0 = policy._prefill[0], policy._decode[0]
    assert (p0.wait_us, p0.per_token_us) == (8_000.0, 100.0)
    assert (d0.wait_us, d0.per_token_us) == (5_000.0, 3_000.0)
    assert policy._prefill[1].per_token_us < 0, "nothing was observed there"
    # The second, with weight 1/4: no wait, 14 ms of prefill (140 µs a token), no wait, 10 ms of decode (1 ms a token).
    books.complete(books.calls[1], 100_000, 14_000, 0, 100, 10_000)
    books.now_us = 200_000
    books.call(100, 11, ready_us=200_000)
    place(policy, books)
    assert (p0.wait_us, p0.per_token_us) == (6_000.0, 110.0)
    assert (d0.wait_us, d0.per_token_us) == (3_750.0, 2_500.0)
    policy = ready(policy, books.cluster)
    assert policy._prefill[0].per_token_us < 0, "a new run knows nothing"


def test_completions_are_averaged_in_their_order() -> None:
    # Two calls on one decode instance; the one placed later completes first: a wait of 4, then 4 + (8 − 4)/4 ms.
    books, policy = one_type()
    books.place(books.calls[0], CallState.QUEUED, 0, 0)
    books.call(100, 11)
    (pair,) = place(policy, books)
    assert pair == (1, 0)
    books.complete(books.calls[1], 0, 10_000, 4_000, 100, 20_000)
    books.complete(books.calls[0], 10_000, 10_000, 8_000, 100, 20_000)
    assert books.calls[1].complete_us < books.calls[0].complete_us
    books.call(100, 11)
    place(policy, books)
    assert policy._decode[0].wait_us == 5_000.0


def test_a_one_token_call_says_nothing_of_decode() -> None:
    books, policy = one_type()
    call = books.calls[0]
    call.state, call.prefill_start_us, call.prefill_end_us, call.complete_us = CallState.COMPLETE, 0, 10_000, 10_000
    call.output_tokens = 1
    books.call(100, 1)
    place(policy, books)
    assert policy._prefill[0].per_token_us == 100.0
    assert policy._decode[0].per_token_us < 0


def test_an_instance_found_slow_is_avoided() -> None:
    # SLO 60.2 ms. A pair takes 30.1 ms alone; on p0 a call has waited for 40 ms: 70.1 ms, while something is there.
    # p1, although it has more outstanding tokens, is in time.
    books, policy = one_type()
    books.complete(books.calls[0], 40_000, 10_000, 0, 100, 20_000)
    books.place(books.call(100, 11), CallState.QUEUED, 0, 0)
    books.place(books.call(300, 11), CallState.QUEUED, 1, 0)
    books.now_us = 100_000
    books.call(100, 11, ready_us=100_000)
    view = books.view()
    policy._open[0].update(view.decode[0].bound)
    assert pairs(policy.plan(view)) == [(3, 1, 0)]


@pytest.mark.parametrize(("idle_waits", "p"), [(False, 0), (True, 1)])
def test_waiting_on_an_idle_instance(idle_waits: bool, p: int) -> None:
    # The same 40 ms, but nothing is on p0 now.
    c = cluster(2, 1)
    books = Books(c)
    policy = ready(GoodServe(idle_waits=idle_waits), c)
    books.call(100, 11)
    place(policy, books)
    books.complete(books.calls[0], 40_000, 10_000, 0, 100, 20_000)
    books.now_us = 100_000
    books.call(100, 11, ready_us=100_000)
    assert place(policy, books) == [(p, 0)]


@pytest.mark.parametrize(("when_late", "p"), [("strongest", 0), ("earliest", 1)])
def test_when_no_pair_is_in_time(when_late: Any, p: int) -> None:
    # One call waited 70 ms on p0, the strongest, and one 45 ms on p1. The SLO is 60.2 ms; p0 is expected to take
    # 70 + 10 + 20.1 = 100.1 ms, p1, of 30 ms a prompt, 45 + 30 + 20.1 = 95.1 ms.
    c = cluster([prefill("p0"), prefill("p1", ms=30)])
    books = Books(c)
    policy = ready(GoodServe(when_late=when_late, idle_waits=True), c)
    for start_us, prefill_us in ((70_000, 10_000), (45_000, 30_000)):
        books.call(100, 11)
        place(policy, books)
        # Put it where the case wants it, whatever was planned.
        books.complete(books.calls[-1], start_us, prefill_us, 0, 100, 20_000)
        books.calls[-1].prefill = 0 if prefill_us == 10_000 else 1
    books.call(100, 11)
    assert place(policy, books) == [(p, 0)]


def test_with_a_plan_latency_calls_of_the_fallback_teach_too() -> None:
    c = cluster(2, 1)
    books = Books(c)
    policy = ready(GoodServe(plan_latency_us=1_000, fallback=Fcfs()), c)
    books.place(books.call(100, 11), CallState.QUEUED, 1, 0)
    policy.plan(books.view())
    books.complete(books.calls[0], 8_000, 10_000, 0, 100, 20_000)
    books.calls[0].prefill = 1
    policy.plan(books.view())
    assert policy._prefill[1].wait_us == 8_000.0


def test_only_candidates_are_chosen() -> None:
    # The weak instances could serve it in time, but do not hold it.
    c = cluster(
        [prefill("p0"), prefill("p1", ms=11, kv_tokens=50)], [decode("d0"), decode("d1", knots=SLOW, kv_tokens=50)]
    )
    books = Books(c)
    books.call(100, 11)
    assert place(ready(GoodServe(slo_scale=9.0), c), books) == [(0, 0)]
    # A call of one token needs no room for decode, and all of its time is prefill.
    books = Books(c)
    books.call(20, 1)
    assert place(ready(GoodServe(slo_scale=1.1), c), books) == [(1, 0)]


def test_what_completed_is_found_in_a_run() -> None:
    # Three workflows of two calls, one after the other on one pair: 10 ms for 100 tokens, then 2 ms a token.
    call = hexopt.Call
    flows = [
        hexopt.Workflow(f"w{i}", "a", 100_000 * i, (call("a", (), 100, 5), call("b", (0,), 100, 5))) for i in range(3)
    ]
    policy = GoodServe()
    hexopt.simulate(hexopt.Trace(tuple(flows)), cluster(), policy, predictor="oracle")
    assert (policy._prefill[0].wait_us, policy._prefill[0].per_token_us) == (0.0, 100.0)
    assert (policy._decode[0].wait_us, policy._decode[0].per_token_us) == (0.0, 2_000.0)
    assert len(policy._open[0]) == 1, "the last call completes after the last look"


@pytest.mark.parametrize(
    ("option", "value"), [("slo_scale", 0.0), ("slo_scale", -1), ("smoothing", 0.0), ("smoothing", 1.5)]
)
def test_values_out_of_range(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"policy 'goodserve': {option} is {value}"):
        hexopt.make_policy("goodserve", **{option: value})


@pytest.mark.parametrize("options", [{}, {"when_late": "earliest", "idle_waits": True}, {"slo_scale": 5.0}])
def test_sample_run(options: dict[str, Any]) -> None:
    finishes("goodserve", **options)
