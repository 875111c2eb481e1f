"""Random placement: seeded by the run, even over the instances that can hold the call, from a stream of its own."""

from __future__ import annotations

from collections import Counter

import hexopt
from hexopt.policies.random_choice import RandomChoice
from tests.policies.views import Books, cluster, decode, pairs, prefill, ready


def draws(calls: int, seed: int, prompt: int = 10) -> list[tuple[int, int]]:
    c = cluster(
        [prefill("p0", kv_tokens=50), prefill("p1"), prefill("p2")],
        [decode("d0"), decode("d1", kv_tokens=50), decode("d2"), decode("d3")],
    )
    books = Books(c)
    for _ in range(calls):
        books.call(prompt, 10)
    return [(p, d) for _, p, d in pairs(ready(RandomChoice(), c, seed).plan(books.view()))]


def test_the_seed_fixes_it() -> None:
    assert draws(50, 3) == draws(50, 3)
    assert draws(50, 3) != draws(50, 4)


def test_every_pair_is_equally_likely() -> None:
    # 6,000 draws over 12 pairs: 500 each, standard deviation sqrt(6000·(1/12)·(11/12)) = 21; five of them is 107.
    counts = Counter(draws(6000, 0))
    assert len(counts) == 12
    assert all(abs(n - 500) < 107 for n in counts.values())


def test_only_instances_that_hold_the_call() -> None:
    counts = Counter(draws(600, 0, prompt=100))
    assert set(counts) == {(p, d) for p in (1, 2) for d in (0, 2, 3)}


def test_priority_is_the_ready_time() -> None:
    c = cluster()
    books = Books(c)
    books.call(ready_us=4_000)
    assert ready(RandomChoice(), c).plan(books.view()).decisions[0].priority == 4_000.0


def trace(workflows: int) -> hexopt.Trace:
    return hexopt.Trace(
        tuple(hexopt.Workflow(f"w{i}", "a", None, (hexopt.Call("c", (), 100, 5),)) for i in range(workflows))
    )


def run(seed: int, predictor: str = "oracle", arrivals: str = "poisson:100") -> hexopt.RunResult:
    return hexopt.simulate(
        trace(60),
        hexopt.load_cluster("tiny"),
        hexopt.make_policy("random"),
        predictor=predictor,
        arrivals=arrivals,
        seed=seed,
    )


def test_runs_differ_by_seed_alone() -> None:
    columns = ["prefill_instance", "decode_instance"]
    again = run(1).calls
    assert run(1).calls.equals(again)
    assert not run(2).calls[columns].equals(again[columns])


def test_its_stream_is_its_own() -> None:
    # Other subsystems draw other numbers, or none: the policy's stay as they are.
    columns = ["call_id", "prefill_instance", "decode_instance"]
    want = run(1).calls[columns]
    assert run(1, predictor="noisy:1").calls[columns].equals(want)
    assert run(1, arrivals="fixed:0.01").calls[columns].equals(want)


def test_the_policy_leaves_the_trace_as_it_was() -> None:
    arrivals = run(1).workflows["arrival_us"]
    other = hexopt.simulate(
        trace(60), hexopt.load_cluster("tiny"), hexopt.make_policy("fcfs"), arrivals="poisson:100", seed=1
    )
    assert other.workflows["arrival_us"].equals(arrivals)
