"""Forecasts of what follows in a workflow: what they say, what they learn from, and what policies make of them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hexopt
from hexopt.core.protocols import NO_TAIL, Tail
from hexopt.core.view import CallState, CallView
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.errors import ConfigError, TraceError
from hexopt.latency.alone import Alone
from hexopt.policies.forecast import check_training, make_forecaster, make_learner, residual
from hexopt.policies.forecast.lessons import Facts, Lessons, as_log, tail_of_examples, tails_us
from hexopt.policies.forecast.tails import Tails
from hexopt.policies.hexagent import HexAGenT
from hexopt.policies.horizon import Horizon, UnloadedFinish
from hexopt.policies.projection import Estimator
from hexopt.sim.forecasters import make_knowing
from hexopt.testing import check_policy
from tests.policies.sample_run import TRACE
from tests.policies.views import Books, cluster, ready

# A prefill takes 10 ms, KV 1 µs a token on the wire, an iteration 2 ms.
SHORT_US = 10_000 + 100 + 10 * 2_000
"""100 prompt tokens, 11 output tokens."""


def chain(n: int, name: str = "w", tool_us: int = 5_000) -> Workflow:
    calls = [Call(f"c{i}", (i - 1,) if i else (), 100, 11, tool_us if i else 0) for i in range(n)]
    return Workflow(name, "app", 0, tuple(calls))


def fork() -> Workflow:
    """A root, two children of which one is long, and a call after both."""
    return Workflow(
        "fork",
        "app",
        0,
        (
            Call("root", (), 100, 11),
            Call("short", (0,), 100, 11, 1_000),
            Call("long", (0,), 100, 101),
            Call("join", (1, 2), 100, 1),
        ),
    )


def alone() -> Alone:
    books = Books(cluster(2, 2))
    return Alone(books.cluster, books.latency)


def asked(forecaster: Any, trace: Trace) -> list[list[Tail]]:
    books = Books(cluster(2, 2))
    forecaster.reset(books.cluster, books.latency)
    logs = [as_log(w, i, alone()) for i, w in enumerate(trace.workflows)]
    return [[forecaster.tail(c) for c in log.calls] for log in logs]


# -- the truth


def test_the_oracle_knows_the_longest_path() -> None:
    trace = Trace((chain(3), fork()))
    tails = asked(make_knowing("oracle", trace, None), trace)  # type: ignore[arg-type]
    step = 5_000 + SHORT_US
    assert [t.mean_us for t in tails[0]] == [2 * step, step, 0]
    long_us = 10_000 + 100 + 100 * 2_000
    # In order of revealing: root, long (no delay), short, join.
    assert [t.mean_us for t in tails[1]] == [long_us + 10_000, 10_000, 10_000, 0]
    assert tails[0][0] == Tail.certain(2 * step)


def test_noise_belongs_to_the_call() -> None:
    trace = Trace((chain(4, "a"), chain(4, "b")))
    from hexopt.core.streams import stream

    truth = asked(make_knowing("oracle", trace, None), trace)  # type: ignore[arg-type]
    noisy = [asked(make_knowing("noisy:0.5", trace, stream(1, "forecaster")), trace) for _ in range(2)]
    assert noisy[0] == noisy[1]
    assert len({t.mean_us for row in noisy[0] for t in row[:3]}) == 6
    assert asked(make_knowing("noisy:0", trace, stream(1, "forecaster")), trace) == truth


# -- learning


def test_what_a_workflow_teaches() -> None:
    log = as_log(fork(), 0, alone())
    assert [c.call_id for c in log.calls] == ["root", "long", "short", "join"]
    assert tails_us(log, alone()) == [10_000 + 100 + 100 * 2_000 + 10_000, 10_000, 10_000, 0]
    books = Books(cluster(2, 2))
    lesson = Lessons(Alone(books.cluster, books.latency)).lesson(log)
    assert (lesson.workflow, lesson.app) == (0, "app")
    facts = {c.call_id: f for c, (f, _) in zip(log.calls, lesson.rows, strict=True)}
    assert facts["root"] == Facts(0, 0, 1, 100, 100, 0, 0, 0)
    assert facts["short"] == Facts(1, 2, 1, 100, 0, 11, 11, 1_000)
    assert facts["join"] == Facts(2, 3, 1, 100, 0, 101, 56, 0)


def observed(books: Books, lessons: Lessons, now_us: int) -> list[int]:
    books.now_us = now_us
    return [lesson.workflow for lesson in lessons.look(books.view())]


def test_a_workflow_has_ended_when_it_is_silent_for_long() -> None:
    books = Books(cluster(2, 2))
    lessons = Lessons(Alone(books.cluster, books.latency))
    call = books.call()
    assert observed(books, lessons, 0) == []
    books.complete(call, 0, 10_000, 0, 100, 20_000)
    assert observed(books, lessons, 10_000_000) == []  # nothing is known of pauses yet: 10 s
    assert observed(books, lessons, 10_030_100) == [0]
    assert observed(books, lessons, 60_000_000) == []  # once
    # It goes on after 30 s, to everybody's surprise; after that nobody believes in less than a minute.
    later = books.call(workflow=call.workflow, parents=(call,), ready_us=30_030_100)
    assert observed(books, lessons, 61_000_000) == []
    books.complete(later, 30_030_100, 10_000, 0, 100, 20_000)
    assert observed(books, lessons, 80_000_000) == []
    assert observed(books, lessons, 30_060_200 + 60_000_000) == [0]
    assert [us for _, us in lessons.lesson(call.workflow).rows] == [30_000_000 + SHORT_US, 0]


def test_quantiles_of_examples() -> None:
    assert tail_of_examples(list(range(10))) == Tail(4, (1, 2, 3, 4, 5, 6, 7, 8, 9), 10)
    assert tail_of_examples([7]) == Tail(7, (7,) * 9, 1)


def test_app_residual_is_blind_for_age() -> None:
    learner = make_learner("app-residual")
    books = Books(cluster(2, 2))
    learner.reset(books.cluster, books.latency)
    log = as_log(chain(3), 0, alone())
    assert learner.tail(log.calls[0]) == NO_TAIL
    learner.learn(learner.lessons.lesson(log))
    step = 5_000 + SHORT_US
    assert {learner.tail(c) for c in log.calls} == {
        Tail(step, (0, 0, 0, step, step, step, 2 * step, 2 * step, 2 * step), 3)
    }
    learner.learn(learner.lessons.lesson(as_log(chain(1), 0, alone())))  # the same workflow, corrected
    assert learner.tail(log.calls[0]) == Tail(0, (0,) * 9, 1)


def test_app_residual_remembers_the_latest_calls_of_an_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual, "MOST_CALLS", 10)
    learner = make_learner("app-residual")
    books = Books(cluster(2, 2))
    learner.reset(books.cluster, books.latency)
    lessons = [learner.lessons.lesson(as_log(chain(1 + k % 4, tool_us=1_000 * k), k, alone())) for k in range(40)]
    lessons.append(lessons[38])  # corrected: the same workflow again, now the newest
    kept: dict[int, list[int]] = {}
    for lesson in lessons:
        learner.learn(lesson)
        kept.pop(lesson.workflow, None)
        kept[lesson.workflow] = [us for _, us in lesson.rows]
        while sum(map(len, kept.values())) > 10:
            del kept[next(iter(kept))]
        call = as_log(chain(1), 99, alone()).calls[0]
        assert learner.tail(call) == tail_of_examples(sorted(us for own in kept.values() for us in own))
    assert max(kept) == 39
    assert min(kept) > 30
    # Another application's calls push none of these out, and one workflow is kept however long it is.
    learner.learn(learner.lessons.lesson(as_log(replace(chain(12), app="other"), 50, alone())))
    assert learner.tail(call).examples == sum(map(len, kept.values()))
    assert sum(len(rows) for rows in learner._of["other"].values()) == len(learner._seen["other"]) == 12


def test_learned_sees_age() -> None:
    training = Trace(tuple(chain(6, f"w{i}") for i in range(40)))
    tails = asked(make_learner("learned", training), Trace((chain(6),)))[0]
    step = 5_000 + SHORT_US
    assert [t.mean_us for t in tails] == [k * step for k in (5, 4, 3, 2, 1, 0)]
    assert all(t.quantiles_us[0] == t.quantiles_us[-1] for t in tails)


def test_learned_sees_what_tells_workflows_apart() -> None:
    def made(i: int, n: int) -> Workflow:
        prompt = 1_000 if n > 2 else 100
        return Workflow(f"w{i}", "app", 0, tuple(replace(c, prompt_tokens=prompt) for c in chain(n).calls))

    training = Trace(tuple(made(i, 8 if i % 2 else 2) for i in range(200)))
    short, long = asked(make_learner("learned", training), Trace((made(0, 2), made(1, 8))))
    assert short[0].mean_us < long[0].mean_us / 3


def test_learned_goes_with_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hexopt.policies.forecast.learned.MOST_EXAMPLES", 60)
    learner = make_learner("learned", Trace(tuple(chain(3, f"w{i}") for i in range(20))))
    log = as_log(chain(3), 1000, alone())
    books = Books(cluster(2, 2))
    learner.reset(books.cluster, books.latency)
    assert learner.tail(log.calls[0]).mean_us > 0
    for k in range(60):  # as many examples as before, but nothing follows any more
        learner.learn(learner.lessons.lesson(as_log(chain(1, f"v{k}"), k, alone())))
    assert learner.tail(log.calls[0]).mean_us == 0


def test_few_workflows_teach_nothing() -> None:
    training = Trace(tuple(chain(3, f"w{i}") for i in range(7)))
    assert asked(make_learner("learned", training), Trace((chain(3),)))[0][0] == NO_TAIL


# -- what policies make of it


class Says:
    """Says the same of every call."""

    name = "says"

    def __init__(self, *tails: Tail) -> None:
        self.tails = tails
        self.asked: list[int] = []

    def reset(self, cluster: Any, latency: Any) -> None: ...

    def look(self, view: Any) -> None: ...

    def tail(self, call: CallView) -> Tail:
        self.asked.append(call.key)
        return self.tails[call.key % len(self.tails)]


def test_numbers_of_a_tail() -> None:
    tail = Tail(300, (0, 100, 100, 100, 200, 300, 400, 500, 1_000))
    books = Books(cluster())
    call = books.call()
    for tail_of, shrinkage, want in (
        ("mean", 1.0, 300),
        ("mean", 0.5, 150),
        ("median", 1.0, 200),
        ("low", 1.0, 0),
        ("cautious", 1.0, 65),  # (9 / (1/1⁴ + 3/2⁴ + 1/3⁴ + 1/4⁴ + 1/5⁴ + 1/6⁴ + 1/11⁴))^¼ · 100 − 100
        ("harmonic", 1.0, 154),  # 9 / (1/100 + 3/200 + 1/300 + 1/400 + 1/500 + 1/600 + 1/1100) − 100
    ):
        assert Tails(Says(tail), shrinkage, tail_of).of_call(call, 100) == want  # type: ignore[arg-type]


@given(st.integers(0, 10**12), st.integers(1, 10**12))
def test_what_is_certain_is_one_number(us: int, revealed_us: int) -> None:
    for tail_of in ("mean", "median", "harmonic", "cautious", "low"):
        tails = Tails(Says(Tail.certain(us)), 1.0, tail_of)  # type: ignore[arg-type]
        assert abs(tails.of_call(Books(cluster()).call(), revealed_us) - us) <= (us + revealed_us) * 1e-14


def test_what_is_said_of_all_calls_is_no_news() -> None:
    """Relative to itself a forecast is nothing, whatever the horizon, and so is none at all."""
    books = Books(cluster())
    tails = Tails(Says(Tail(300, (0, 100, 100, 100, 200, 300, 400, 500, 1_000))), 1.0, "relative")
    assert [tails.of_call(books.call(), us) for us in (100, 7, 5_000)] == [0, 0, 0]
    assert Tails(Says(NO_TAIL), 1.0, "relative").of_call(books.call(), 100) == 0


def test_a_relative_tail_compares_with_the_usual_one() -> None:
    books = Books(cluster())
    tails = Tails(Says(Tail.certain(0), Tail.certain(100)), 1.0, "relative")
    assert tails.of_call(books.call(), 100) == 0  # nothing else is known yet
    # The horizon of 100 would become 200; usually it becomes (mean of 1 and 1/2⁴)^-¼ · 100 = 117.1.
    assert tails.of_call(books.call(), 100) == round(100 * (2 / (17 / 32) ** -0.25 - 1)) == 71
    # Once more nothing follows: usual is (mean of 1, 1/2⁴ and 1)^-¼.
    assert tails.of_call(books.call(), 100) == round(100 * ((33 / 48) ** 0.25 - 1)) == -9
    assert Tails(Says(Tail.certain(100), Tail.certain(0)), 0.0, "relative").of_call(books.call(), 100) == 0


def test_a_horizon_stays_positive_under_a_negative_tail() -> None:
    books = Books(cluster(2, 2))
    call = books.call(100, 11)
    horizon = Horizon(call.workflow, UnloadedFinish(Estimator(books.cluster, books.latency)), False)
    tails = Tails(Says(Tail.certain(0), Tail.certain(10**12)), 1.0, "relative")
    for _ in range(3):
        tails.of_call(books.call(), 10**9)
    assert tails.of_call(call, 10**9) < -SHORT_US  # asked about when much more was revealed
    assert tails.horizon_us(horizon) == 1


def test_a_window_has_no_relative_tails() -> None:
    with pytest.raises(ConfigError, match="'rolling-search': tail_of is relative"):
        hexopt.make_policy("rolling-search", forecaster="learned", tail_of="relative")


def test_a_horizon_grows_by_the_longest_tail_of_its_open_calls() -> None:
    books = Books(cluster(2, 2))
    workflow = books.workflow()
    calls = [books.call(100, 11, workflow=workflow) for _ in range(2)]
    horizon = Horizon(workflow, UnloadedFinish(Estimator(books.cluster, books.latency)), False)
    says = Says(Tail.certain(500), Tail.certain(900))
    tails = Tails(says, 1.0, "mean")
    assert tails.horizon_us(horizon) == SHORT_US + 900
    calls[1].state = CallState.COMPLETE
    books.complete(calls[1], 0, 10_000, 0, 100, 20_000)
    assert tails.horizon_us(horizon) == SHORT_US + 500
    assert says.asked == [0, 1]  # each once


@pytest.mark.parametrize("calls", [2, 8])  # the plain loop and the compiled one
def test_hexagent_waits_with_a_workflow_that_has_far_to_go(calls: int) -> None:
    c = cluster()
    books = Books(c, now_us=500_000)
    for k in range(calls):
        books.call(100, 11, arrival_us=100_000 - k)

    def first(tails: tuple[Tail, ...]) -> int:
        policy = HexAGenT(forecaster="oracle")
        policy.handed_forecaster = Says(*tails)
        decisions = ready(policy, c).plan(books.view()).decisions
        return min(decisions, key=lambda d: d.priority).call

    assert first((NO_TAIL,)) == calls - 1  # the oldest
    # Waiting weighs less where much follows; the other half has nothing to follow.
    assert first((NO_TAIL, Tail.certain(10_000_000))) == calls - 2


def test_without_a_forecast_nothing_changes() -> None:
    trace = hexopt.load_trace(TRACE).head(25)
    runs = []
    for options in ({}, {"forecaster": "noisy:0.3", "shrinkage": 0.0}, {"forecaster": "oracle"}):
        policy = hexopt.make_policy("hexagent", **options)
        runs.append(hexopt.simulate(trace, hexopt.load_cluster("hetero-1-llama"), policy, arrivals="poisson:8"))
    assert runs[0].calls.equals(runs[1].calls)
    assert not runs[0].calls.equals(runs[2].calls)


@pytest.mark.parametrize("name", ["app-residual", "learned"])
def test_learning_in_a_run(name: str, tmp_path: Any) -> None:
    log = hexopt.load_trace(TRACE)
    trace = log.head(40)
    hexopt.traces.write_trace(Trace(log.workflows[40:60]), tmp_path / "past.jsonl")
    ends = []
    for text in ("none", name, f"{name}:{tmp_path / 'past.jsonl'}"):
        policy = hexopt.make_policy(
            "hexagent", forecaster=text, fallback=hexopt.make_policy("hexagent", forecaster=text)
        )
        run = hexopt.simulate(trace, hexopt.load_cluster("hetero-1-llama"), policy, arrivals="poisson:4", delays="zero")
        ends.append(run.workflows["complete_us"].tolist())
    assert ends[0] != ends[1] != ends[2]


def test_unknown_delays_of_the_past_are_no_zeros(tmp_path: Any) -> None:
    calls = (Call("c0", (), 100, 11), Call("c1", (0,), 100, 11, None))
    path = tmp_path / "past.jsonl"
    hexopt.traces.write_trace(Trace((Workflow("w", "app", 0, calls),)), path)
    policy = hexopt.make_policy("hexagent", forecaster=f"learned:{path}")
    with pytest.raises(TraceError, match="delay"):
        hexopt.simulate(Trace((chain(3),)), hexopt.load_cluster("tiny"), policy)


def test_who_is_tested_teaches_nothing(tmp_path: Any) -> None:
    workflow = chain(3)
    path = tmp_path / "past.jsonl"
    hexopt.traces.write_trace(Trace((chain(9, "v"), replace(workflow, app="other"))), path)
    policy = hexopt.make_policy("hexagent", forecaster=f"app-residual:{path}")
    with pytest.raises(ConfigError, match=r"1 of 2 workflows, 'w' first, are in the training .* train on other"):
        hexopt.simulate(Trace((chain(4, "v"), workflow)), hexopt.load_cluster("tiny"), policy)
    others = Trace((chain(4, "v"), chain(4, "w")))  # names alone say nothing
    hexopt.simulate(others, hexopt.load_cluster("tiny"), policy)


@pytest.mark.parametrize("delay_us", [None, 7])
def test_a_workflow_is_itself_whatever_its_delays(delay_us: int | None) -> None:
    later = replace(chain(2), calls=tuple(replace(c, tool_us=delay_us) for c in chain(2).calls))
    with pytest.raises(ConfigError, match="are in the training trace"):
        check_training(Trace((chain(2),)), Trace((later,)))


def test_names() -> None:
    assert make_forecaster("none") is None
    for text, message in (
        ("learnt", "forecaster 'learnt': it is unknown"),
        ("noisy", "it is written noisy:SIGMA"),
        ("noisy:x", "SIGMA is no number"),
        ("oracle:1", "it is written oracle"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            hexopt.make_policy("hexagent", forecaster=text)
    with pytest.raises(ConfigError, match=r"only hexopt\.simulate can hand it in"):
        ready(HexAGenT(forecaster="oracle"), cluster())
    with pytest.raises(ConfigError, match="policies read no files"):
        ready(HexAGenT(forecaster="learned:x.jsonl"), cluster())
    with pytest.raises(ConfigError, match=r"shrinkage is 1\.5"):
        HexAGenT(shrinkage=1.5)
    with pytest.raises(ConfigError, match="a horizon that does not grow has no forecast"):
        HexAGenT(forecaster="learned", horizon="arrival")


def test_conformance() -> None:
    assert check_policy(lambda: HexAGenT(forecaster="learned")).policy == "hexagent"
