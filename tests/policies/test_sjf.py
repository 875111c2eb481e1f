"""Shortest job first on predicted lengths, in the prefill queue and at the decode instance."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

import hexopt
from hexopt.core.view import CallState
from hexopt.policies.fcfs import Fcfs
from hexopt.policies.sjf import Sjf
from tests.policies.random_views import FAST, books
from tests.policies.sample_run import finishes
from tests.policies.views import Books, by_call, cluster, decode, pairs, prefill, ready


def test_three_measures_of_work() -> None:
    # Tokens: 300 + 3 and 100 + 31. Output: 3 and 31. Time, in the mean over a prefill type of 10 and one of 20 ms:
    # 15 + 0.3 + 2·2 and 15 + 0.1 + 30·2 ms.
    c = cluster([prefill("p0"), prefill("p1"), prefill("p2", ms=20)])
    books = Books(c)
    books.call(300, 3)
    books.call(100, 31)
    for work, expected in (("tokens", [303, 131]), ("output", [3, 31]), ("time", [19_300, 75_100])):
        plan = ready(hexopt.make_policy("sjf", work=work), c).plan(books.view())
        assert [d.priority for d in plan.decisions] == expected


def test_time_knows_decode_types_and_the_network() -> None:
    # 10 ms of prefill; the wire takes 100 µs to d0 and 10 ms to d1, 2 ms of latency more; 10 iterations of 2 or 4 ms.
    c = cluster(1, [decode("d0"), decode("d1", knots=((1, 4.0), (64, 4.0)), nic=1e7)], network_us=2_000)
    books = Books(c)
    books.call(100, 11)
    books.call(100, 1)  # predicted to end with its prefill
    plan = ready(Sjf(work="time"), c).plan(books.view())
    assert [d.priority for d in plan.decisions] == [10_000 + 5_050 + 2_000 + 30_000, 10_000]


@FAST
@given(books())
def test_it_dispatches_as_fcfs_does(made: tuple[Books, dict[int, int]]) -> None:
    book, _ = made
    view = book.view()
    assert pairs(ready(Sjf(), book.cluster).plan(view)) == pairs(ready(Fcfs(), book.cluster).plan(view))


def test_the_short_call_overtakes_in_both_phases() -> None:
    # One prefill of 10 ms, a batch of one, 2 ms a token, 0.1 ms on the wire. `first` decodes from 10.1 to 90.1 ms.
    # `long` is ready at 1 ms and prefills at 10. `mid` and `tiny` are ready at 15 and 16: at 20 ms tiny goes first. All
    # are there when first leaves: tiny (2 iterations) joins, at 94.1 mid (5), at 104.1 long.
    names = {"first": (0, 41), "long": (1_000, 31), "mid": (15_000, 6), "tiny": (16_000, 3)}
    flows = [hexopt.Workflow(n, "a", t, (hexopt.Call("c", (), 100, m),)) for n, (t, m) in names.items()]
    site = cluster(1, [decode(max_batch=1)])
    calls = hexopt.simulate(
        hexopt.Trace(tuple(flows)), site, hexopt.make_policy("sjf"), predictor="oracle"
    ).calls.set_index("workflow_id")
    assert dict(calls["prefill_start_us"]) == {"first": 0, "long": 10_000, "tiny": 20_000, "mid": 30_000}
    assert dict(calls["join_us"]) == {"first": 10_100, "tiny": 90_100, "mid": 94_100, "long": 104_100}


def test_it_goes_by_the_prediction() -> None:
    # constant:8 takes all for equally long: by ready time.
    flows = [hexopt.Workflow(f"w{i}", "a", i, (hexopt.Call("c", (), 100, m),)) for i, m in enumerate((9, 40, 3))]
    calls = hexopt.simulate(
        hexopt.Trace(tuple(flows)), cluster(), hexopt.make_policy("sjf"), predictor="constant:8"
    ).calls
    assert list(calls["prefill_start_us"]) == [0, 10_000, 20_000]


def test_calls_that_a_fallback_placed_are_ranked_in_the_next_round() -> None:
    # The fallback's priority is the ready time. One call is queued, one waits for KV room, one runs.
    c = cluster()
    books = Books(c, now_us=50_000)
    for state in (CallState.QUEUED, CallState.ADMISSION, CallState.RUNNING, CallState.POOL):
        call = books.call(100, 11, ready_us=50_000)
        if state != CallState.POOL:
            books.place(call, state, priority=50_000.0)
    at_once = by_call(ready(Sjf(), c).plan(books.view()))
    later = by_call(ready(Sjf(plan_latency_us=5_000), c).plan(books.view()))
    assert {k: d.priority for k, d in at_once.items()} == {3: 111.0}
    assert {k: d.priority for k, d in later.items()} == {0: 111.0, 1: 111.0, 3: 111.0}


@pytest.mark.parametrize("work", ["tokens", "output", "time"])
def test_sample_run(work: Any) -> None:
    finishes("sjf", work=work)
