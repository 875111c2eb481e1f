"""The loop around an optimiser: what it commits, and that nothing a formulation does stops it."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

import hexopt
from hexopt.core.cluster import PrefillInstance, PrefillLatency
from hexopt.core.view import CallState
from hexopt.core.window import Placement
from hexopt.errors import ConfigError
from hexopt.formulations import registry
from hexopt.policies.guard import MOST_HANGS
from hexopt.policies.hexagent import HexAGenT
from hexopt.policies.registry import policy_record
from hexopt.policies.rolling import OUTCOMES, Rolling
from hexopt.testing import check_policy
from tests.policies import standins
from tests.policies.sample_run import TRACE
from tests.policies.views import Books, by_call, cluster, decode, pairs, ready

BROKEN = {
    "Raises": "error",
    "Exits": "error",
    "NoPlan": "kept",
    "SaysInfeasible": "infeasible",
    "IllegalPair": "garbage",
    "WrongLength": "garbage",
    "NotANumber": "garbage",
    "Nonsense": "garbage",
    "NoResult": "garbage",
}


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Tries", "Echo", "Hangs", "ForeignPair", *BROKEN):
        monkeypatch.setitem(registry.FORMULATIONS, name, f"{standins.MODULE}:{name}")


def rolling(formulation: str = "Tries", **options: Any) -> Rolling:
    return Rolling(formulation=formulation, **options)


def run(policy: Any, workflows: int = 15, cluster: str = "hetero-1-llama", **options: Any) -> Any:
    trace = hexopt.load_trace(TRACE).head(workflows)
    return hexopt.simulate(trace, hexopt.load_cluster(cluster), policy, arrivals="poisson:6", **options)


def one_pair(formulation: str, **options: Any) -> tuple[Rolling, Books]:
    books = Books(cluster(), now_us=1_000_000)
    return ready(rolling(formulation, **options), books.cluster), books


# -- what is decided


def test_the_objective_decides() -> None:
    # A prefill takes 0.3 ms a token. The long call is late in the eyes of HexAGenT, which serves it first.
    latency = PrefillLatency(((1, 0.3), (512, 153.6)), 0.3, 0.0)
    c = cluster([PrefillInstance("p0", 100_000, 1e9, 1000, latency)])

    def order(policy: Any) -> list[int]:
        books = Books(c, now_us=1_000_000)
        books.call(1000, 2, arrival_us=500_000)
        books.call(100, 2, arrival_us=990_000)
        plan = ready(policy, c).plan(books.view())
        return [d.call for d in sorted(plan.decisions, key=lambda d: d.priority)]

    # Ratios, in ms, alone 303 and 32.1: long first (500 + 303) / 303 and (10 + 332) / 32.1 = 2.65 + 10.6,
    # short first (500 + 333) / 303 and (10 + 32) / 32.1 = 2.75 + 1.3.
    assert order(HexAGenT()) == [0, 1]
    assert order(rolling(objective="sum")) == [1, 0]
    assert order(rolling(objective="bottleneck")) == [1, 0]  # HexAGenT does not see the second ratio grow
    assert order(rolling(objective="late:3")) == [1, 0]
    assert order(rolling("Echo", objective="sum")) == [0, 1]


def test_a_single_call_is_placed_by_what_hexagent_does_not_see() -> None:
    def placed(policy: Any, booked_us: int) -> list[tuple[int, int, int]]:
        books = Books(cluster(2, 2), now_us=1_000_000)
        books.call()
        view = books.view()
        view.prefill[0].nic_free_us = books.now_us + booked_us
        return pairs(ready(policy, books.cluster).plan(view))

    assert placed(HexAGenT(), 5_000_000) == [(0, 0, 0)]  # its KV would wait there for five seconds
    assert placed(rolling(), 5_000_000) == [(0, 1, 0)]
    free = rolling("Raises")
    assert placed(free, 0) == [(0, 0, 0)]  # it cannot be better than alone, so nobody is asked
    assert sum(free.counts.values()) == 0


def test_without_an_open_call_nobody_is_asked() -> None:
    policy, books = one_pair("Raises")
    books.place(books.call(), CallState.RUNNING)
    assert pairs(policy.plan(books.view())) == []
    assert sum(policy.counts.values()) == 0


def test_only_the_most_urgent_make_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(standins.Echo, "answer", lambda self, window, hint: seen.append(len(window.calls)) or hint)
    policy, books = one_pair("Echo", most=2)
    for us in (0, 300_000, 600_000, 900_000):
        books.call(arrival_us=us)
    plan = policy.plan(books.view())
    assert seen == [2]
    assert [d.call for d in sorted(plan.decisions, key=lambda d: d.priority)] == [0, 1, 2, 3]


def test_calls_that_hold_nothing_up_stay_as_they_are() -> None:
    policy, books = one_pair("Echo", decide_ahead=1)
    for k, us in enumerate((0, 300_000, 600_000)):
        books.place(books.call(arrival_us=us), CallState.QUEUED, priority=float(k))
    new = books.call(arrival_us=100_000)
    plan = policy.plan(books.view())
    assert set(by_call(plan)) <= {0, new.key}  # it gets a place; nobody else moves


def test_started_calls_are_reordered_and_rebound_only_where_they_may_be() -> None:
    for binding in ("dispatch", "handoff"):
        c = cluster(2, [decode(f"d{i}", kv_tokens=150) for i in range(2)], binding=binding)  # type: ignore[arg-type]
        books = Books(c, now_us=100_000)
        books.place(books.call(100, 30), CallState.RUNNING, d=0)
        for _ in range(2):
            books.place(books.call(90, 11), CallState.ADMISSION, d=0)
        for _ in range(2):
            books.call(50, 11)
        policy = ready(rolling(objective="sum"), c)
        decisions = by_call(policy.plan(books.view()))
        moved = {d.decode for key, d in decisions.items() if key in (1, 2)}
        assert (1 in moved) == (binding == "handoff")


def test_calls_that_are_not_decided_about_stay_in_the_window_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    solve = standins.Echo.solve
    monkeypatch.setattr(standins.Echo, "solve", lambda self, w, *rest: (seen.append(w), solve(self, w, *rest))[1])
    c = cluster(2, [decode(f"d{i}", kv_tokens=400) for i in range(2)], binding="handoff")
    books = Books(c, now_us=100_000)
    books.place(books.call(90, 11), CallState.PREFILLING, d=1)  # HexAGenT leaves it alone
    for _ in range(2):
        books.call(50, 11)
    ready(rolling("Echo"), c).plan(books.view())
    assert [w.decode for w in seen[0].calls if not w.is_open] == [1]


def test_with_nothing_better_it_is_hexagent() -> None:
    for latency_us in (0, 10_000):
        mine = run(rolling("Echo", most=0, plan_latency_us=latency_us), 25)
        theirs = run(HexAGenT(plan_latency_us=latency_us), 25)
        assert mine.calls.equals(theirs.calls), latency_us


def test_the_previous_solution_is_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Any] = []
    monkeypatch.setattr(standins.Echo, "answer", lambda self, window, hint: starts.append(hint) or hint)
    for reuse in (True, False):
        c = cluster(1)
        books = Books(c, now_us=1_000_000)
        for _ in range(3):
            books.call(100, 11)
        policy = ready(rolling("Tries", objective="sum", reuse=reuse), c)
        policy.plan(books.view())
        policy._before = {0: (0, 0, 2), 1: (0, 0, 1), 2: (0, 0, 0)} if reuse else {}
        cut = policy._cut(books.view(), policy._rank(books.view(), list(books.calls), []), set())
        start = tuple(Placement(0, 0, float(k)) for k in (0, 1, 2))
        again = policy._recall(cut, start)
        assert again is None if not reuse else [p.priority for p in again or ()] == [2.0, 1.0, 0.0]


# -- nothing stops it


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_formulation_does_wrong_is_counted_and_hexagent_serves(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = rolling(name)
    with caplog.at_level(logging.WARNING):
        mine = run(policy)
    assert mine.calls.equals(run(HexAGenT()).calls)
    assert policy.counts[BROKEN[name]] > 5
    assert sum(policy.counts.values()) == policy.counts[BROKEN[name]]
    assert (f"'{name}': {BROKEN[name]}" in caplog.text) == (BROKEN[name] != "kept")
    assert mine.summary["solver_windows"] == policy.counts[BROKEN[name]]


def test_a_plan_that_breaks_the_windows_rules() -> None:
    policy = rolling("ForeignPair", objective="sum")
    run(policy, 25)
    assert policy.counts["infeasible"] > 0
    assert policy.counts["garbage"] == 0


def test_a_formulation_that_hangs_is_given_up_on() -> None:
    policy = rolling("Hangs", patience_ms=20.0, deterministic=1.0)
    begin = time.monotonic()
    mine = run(policy)
    assert time.monotonic() - begin < 30
    assert mine.calls.equals(run(HexAGenT()).calls)
    # The clock has decided, whatever the budget: the summary says so.
    assert mine.summary["solver_hang"] == policy.counts["hang"] == MOST_HANGS
    assert mine.summary["solver_off"] == policy.counts["off"]
    assert policy.counts["off"] > 0


def test_counts_begin_anew() -> None:
    policy = rolling("Raises")
    run(policy, 5)
    first = dict(policy.counts)
    run(policy, 5)
    assert policy.counts == first
    assert set(first) == set(OUTCOMES)


# -- options


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    init = standins.Echo.__init__
    monkeypatch.setattr(standins.Echo, "__init__", lambda self, solver="": made.append(solver) or init(self, solver))
    ready(rolling("Echo", solver="highs"), cluster())
    assert made == ["highs"]
    with pytest.raises(ConfigError, match="formulation 'nobody': it is unknown"):
        ready(rolling("nobody"), cluster())
    with pytest.raises(ConfigError, match="patience_ms is 0"):
        rolling(patience_ms=0.0)
    with pytest.raises(ConfigError, match="shrinkage is 2"):
        rolling(shrinkage=2.0)
    with pytest.raises(hexopt.HexoptError, match="objective 'least'"):
        rolling(objective="least")


def test_a_slow_machine_is_no_hang() -> None:
    for name in ("rolling-search", "rolling-cpsat", "rolling-milp"):
        assert policy_record(hexopt.make_policy(name))["options"]["patience_ms"] >= 60_000


def test_own_budgets() -> None:
    policy: Any = hexopt.make_policy("rolling-search")
    assert (policy.formulation, policy.iterations, policy._budget.time_limit_s) == ("local-search", 2_000, None)
    policy = hexopt.make_policy("rolling-cpsat", time_limit_ms=5.0)
    assert (policy.deterministic, policy._budget.time_limit_s) == (0.0, 0.005)
    record = policy_record(policy)
    assert record["options"]["formulation"] == "cpsat"


def test_conformance() -> None:
    assert check_policy(lambda: rolling("Tries", iterations=20)).policy == "rolling"
