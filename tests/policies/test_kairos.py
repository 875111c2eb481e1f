"""Kairos: agents in the order of what they have left to do, learned; calls to where memory will peak lowest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import hexopt
from hexopt.core.plan import Decision
from hexopt.core.view import CallState, CallView, Trigger, WorkflowView
from hexopt.errors import ConfigError
from hexopt.policies.bookkeeping import SPAN_US
from hexopt.policies.kairos import QUANTILES, Kairos, away_from_ideal
from hexopt.policies.memory import MemoryForecast
from tests.policies.views import Books, by_call, cluster, decode, pairs, ready

DONE = (Trigger.CALL_COMPLETE,)


def workflow(books: Books, app: str, arrival_us: int = 0) -> WorkflowView:
    made = books.workflow(arrival_us)
    made.app = app
    return made


def rank_of(decision: Decision) -> tuple[int, int]:
    """The agent's rank (0: unknown and first), and the rest of the priority."""
    return divmod(int(decision.priority), SPAN_US)


def learn(policy: Kairos, books: Books, ms: dict[str, Sequence[int]]) -> None:
    """Let the policy see calls of one-call workflows, by application, and their completion after so many ms."""
    calls = [(books.call(workflow=workflow(books, app)), t) for app, times in ms.items() for t in times]
    policy.plan(books.view())
    for call, t in calls:
        books.complete(call, 0, 1000, 0, 0, 1000 * (t - 1))
    books.now_us = max(c.complete_us for c, _ in calls)
    policy.plan(books.view(DONE))


# -- the order of agents


def test_agents_with_less_left_to_do_go_first() -> None:
    # `slow` has 1.0 and 2.0 s left, `quick` 0.3, `mid` 0.9 s: 1.5, 0.3, 0.9 s from the ideal agent, all on a line.
    # Inside an agent the older application goes first, however late its call.
    c = cluster()
    policy = ready(Kairos(agent="app"), c)
    books = Books(c)
    learn(policy, books, {"slow": [1000, 2000], "quick": [300], "mid": [900]})
    books.now_us += 1_000_000  # silent for a second: these workflows have ended
    calls = {
        (app, arrival): books.call(workflow=workflow(books, app, arrival), ready_us=books.now_us)
        for app, arrival in (("slow", 7), ("quick", 900), ("quick", 8), ("mid", 5), ("new", 6))
    }
    decided = by_call(policy.plan(books.view()))
    assert {key: rank_of(decided[call.key]) for key, call in calls.items()} == {
        ("new", 6): (0, 6),
        ("quick", 8): (1, 8),
        ("quick", 900): (1, 900),
        ("mid", 5): (2, 5),
        ("slow", 7): (3, 7),
    }


def test_an_unknown_agent_may_go_last() -> None:
    c = cluster()
    policy = ready(Kairos(agent="app", unknown="last"), c)
    books = Books(c)
    learn(policy, books, {"slow": [2000], "quick": [300]})
    books.now_us += 1_000_000
    known = books.call(workflow=workflow(books, "slow"))
    unknown = books.call(workflow=workflow(books, "new"))
    decided = by_call(policy.plan(books.view()))
    assert rank_of(decided[known.key]) == (2, 0)
    assert rank_of(decided[unknown.key]) == (3, 0)


def test_nothing_is_learned_before_a_workflow_has_settled() -> None:
    c = cluster()
    policy = ready(Kairos(agent="app"), c)
    books = Books(c)
    learn(policy, books, {"slow": [2000]})
    books.now_us = 2_999_999
    early = books.call(workflow=workflow(books, "slow"))
    assert rank_of(by_call(policy.plan(books.view()))[early.key]) == (0, 0)
    books.place(early, CallState.QUEUED, priority=0.0)
    books.now_us = 3_000_000
    # Now it is: rank 1, and the call that waits is reordered.
    assert policy.plan(books.view(DONE)).decisions == [Decision(early.key, 0, 0, float(SPAN_US))]


def test_agents_are_ranked_again_once_in_a_while() -> None:
    # At 3 s `a` is known, at 3.3 s `b` could be, but the next ranking is due at 4 s.
    c = cluster()
    policy = ready(Kairos(agent="app", rank_ms=1000), c)
    books = Books(c)
    learn(policy, books, {"a": [2000], "b": [2300]})
    ranks = []
    for now in (3_000_000, 3_300_000, 3_999_999, 4_000_000):
        books.now_us = now
        call = books.call(workflow=workflow(books, "b"))
        ranks.append(rank_of(by_call(policy.plan(books.view()))[call.key])[0])
        books.complete(call, now, 1, 0, 0, 0)
    assert ranks == [0, 0, 0, 2]


def test_only_the_latest_samples_count() -> None:
    # `a` took 5 s twice and then 0.1 s twice; of two samples that is less than the 1 s of `b`, of four it is more.
    for samples, rank in ((2, 1), (4, 2)):
        c = cluster()
        policy = ready(Kairos(agent="app", samples=samples), c)
        books = Books(c)
        learn(policy, books, {"a": [5000, 5000]})
        books.now_us = 10_000_000
        late = [books.call(workflow=workflow(books, app), ready_us=10_000_000) for app in ("a", "a", "b")]
        policy.plan(books.view())
        for call, ms in zip(late, (100, 100, 1000), strict=True):
            books.complete(call, 10_000_000, 1000, 0, 0, 1000 * (ms - 1))
        books.now_us = 11_000_000
        policy.plan(books.view(DONE))
        books.now_us = 12_000_000
        call = books.call(workflow=workflow(books, "a"))
        assert rank_of(by_call(policy.plan(books.view()))[call.key])[0] == rank


# -- what is learned


def remaining(policy: Kairos) -> dict[Any, list[int]]:
    return {stage: list(agent.remaining_us) for stage, agent in policy._agents.items() if agent.remaining_us}


def see(policy: Kairos, books: Books, at_us: int, triggers: Sequence[Trigger] = DONE) -> None:
    books.now_us = at_us
    policy.plan(books.view(triggers))


@pytest.mark.parametrize(
    ("kind", "root_ms", "others_ms"), [("execution", [210], [130, 30, 40]), ("elapsed", [330], [150, 120, 50])]
)
def test_what_remains(kind: Any, root_ms: list[int], others_ms: list[int]) -> None:
    # r: ready 0, waits 100 ms, runs 30, done at 130. 50 ms later x is ready, waits 10, runs 30: done at 220.
    # y is ready 80 ms after r, at 210, and runs 30 ms: 240. z follows x after 60 ms, at 280, waits 10, runs 40: 330 ms.
    # Left without waiting: z 40; x 30 + 60 + 40 = 130; y 30; r 30 + 50 + 130 = 210. On the clock: to 330 ms.
    c = cluster()
    policy = ready(Kairos(agent="root", remaining=kind), c)
    books = Books(c)
    w = books.workflow()
    r = books.call(workflow=w)
    see(policy, books, 0)
    books.complete(r, 100_000, 10_000, 0, 0, 20_000)
    x = books.call(workflow=w, ready_us=180_000, parents=(r,))
    see(policy, books, 180_000)
    y = books.call(workflow=w, ready_us=210_000, parents=(r,))
    see(policy, books, 210_000)
    books.complete(x, 190_000, 10_000, 0, 0, 20_000)
    books.complete(y, 210_000, 10_000, 0, 0, 20_000)
    z = books.call(workflow=w, ready_us=280_000, parents=(x,))
    see(policy, books, 280_000)
    books.complete(z, 290_000, 10_000, 0, 0, 30_000)
    see(policy, books, 330_000)
    assert not remaining(policy)
    see(policy, books, 1_330_000)
    expected = {("app", 0): root_ms, ("app", 1): others_ms}
    assert remaining(policy) == {agent: [1000 * t for t in ms] for agent, ms in expected.items()}


def test_a_workflow_that_goes_on_after_a_silence_is_sampled_anew() -> None:
    # c0 runs 30 ms. Its child c1 comes 2 s later: c0 was taken to be the last. c1's samples are its own.
    c = cluster()
    policy = ready(Kairos(agent="root"), c)
    books = Books(c)
    w = books.workflow()
    c0 = books.call(workflow=w)
    see(policy, books, 0)
    books.complete(c0, 0, 10_000, 0, 0, 20_000)
    see(policy, books, 30_000)
    c1 = books.call(workflow=w, ready_us=2_030_000, parents=(c0,))
    see(policy, books, 2_030_000)
    assert remaining(policy) == {}  # by the time it looked, c1 was there
    books.complete(c1, 2_030_000, 10_000, 0, 0, 50_000)
    see(policy, books, 2_090_000)
    see(policy, books, 3_090_000)
    assert remaining(policy) == {("app", 1): [60_000]}


@pytest.mark.parametrize(
    ("kind", "stages"),
    [("app", [0, 0, 0, 0, 0]), ("root", [0, 1, 1, 1, 1]), ("depth", [0, 1, 2, 2, 3])],
)
def test_agents_by_where_a_call_stands(kind: Any, stages: list[int]) -> None:
    # A chain of five calls: depths 0, 1, 2, 3, 4; buckets 0, 1, 2 to 3, 4 to 7.
    c = cluster()
    policy = ready(Kairos(agent=kind), c)
    books = Books(c)
    w = books.workflow()
    chain: list[CallView] = []
    for _ in range(5):
        chain.append(books.call(workflow=w, parents=tuple(chain[-1:])))
        see(policy, books, books.now_us)
        books.complete(chain[-1], 0, 1, 0, 0, 1)
    assert [policy._stages.of(call) for call in chain] == [("app", k) for k in stages]


# -- Wasserstein distances on a line


def rows(*samples: Sequence[float]) -> Any:
    return np.array([np.repeat(s, QUANTILES // len(s)) for s in samples], dtype=float)


def test_agents_on_a_line_keep_their_distances() -> None:
    # Always 1, always 3: the distances 1, 3 and 2 fit on a line exactly.
    assert away_from_ideal(rows([1], [3])) == pytest.approx([1, 3])
    # {1, 3} and {4, 6}: every quantile is 3 apart, means 2 and 5: the same.
    assert away_from_ideal(rows([1, 3], [4, 6])) == pytest.approx([2, 5])


def test_an_equilateral_triangle_is_a_tie() -> None:
    # {0, 2} and {1, 1} are 1 from the ideal agent and (1 + 1) / 2 = 1 from each other. No line is better than another;
    # the one nearest to the distances from the ideal agent puts both at the same place.
    a, b = away_from_ideal(rows([0, 2], [1, 1]))
    assert a == pytest.approx(b)
    assert a > 0.5


def test_no_difference_at_all() -> None:
    assert away_from_ideal(rows([0], [0])) == pytest.approx([0, 0])


# -- where calls go


def made(books: Books, prompt: int, output: int) -> CallView:
    return books.call(prompt, output)


def forecast(*rooms: int, ramp: bool = True) -> tuple[MemoryForecast, Books]:
    c = cluster(1, [decode(f"d{i}") for i in range(len(rooms))])
    return MemoryForecast(rooms, 500_000, ramp=ramp), Books(c)


def test_the_lowest_peak_while_the_call_runs() -> None:
    # d0: one call, 100 tokens growing to 1,100 in 10 s: at the end of slot k it holds 100 + 50·(k + 1).
    # d1: two calls of 300 tokens growing to 310 within 0.3 s: 620 in slot 0, nothing from then on.
    # A call of 50 + 100 tokens that runs 2 s holds 75, 100, 125, 150, 150 in slots 0 to 4.
    # d0 peaks in slot 4 at 350 + 150 = 500, d1 in slot 0 at 620 + 75 = 695: d0.
    # One that runs 9 s: d0 peaks in slot 18 at 1,050 + 150, d1 in slot 0 at 620 + 56: d1.
    memory, books = forecast(10_000, 10_000)
    memory.place(made(books, 100, 1000), 0, 0, 10_000_000)
    memory.place(made(books, 300, 10), 1, 0, 300_000)
    memory.place(made(books, 300, 10), 1, 0, 300_000)
    call = made(books, 50, 100)
    assert memory.lowest(call, 0, 2_000_000) == 0
    assert memory.lowest(call, 0, 9_000_000) == 1
    # In shares of 1,000 and 2,000 tokens: 0.5 against 0.35.
    memory._rooms = (1000, 2000)
    assert memory.lowest(call, 0, 2_000_000) == 1


def test_reserved_memory_does_not_ramp() -> None:
    # As above, but d0 holds 1,100 from the start: 1,250 against 770.
    memory, books = forecast(10_000, 10_000, ramp=False)
    memory.place(made(books, 100, 1000), 0, 0, 10_000_000)
    memory.place(made(books, 300, 10), 1, 0, 300_000)
    memory.place(made(books, 300, 10), 1, 0, 300_000)
    assert memory.lowest(made(books, 50, 100), 0, 2_000_000) == 1


def test_a_call_that_outlives_its_forecast_still_counts() -> None:
    # d1's call was to be done at 0.3 s. At 1.0 s it is still there: 310 tokens for another second, to 2.0 s; so a call
    # at 1.0 s goes to d0, which holds 200 from 0 on, for 10 s. When it is gone d1 is empty.
    memory, books = forecast(10_000, 10_000)
    long, late = made(books, 200, 1), made(books, 300, 10)
    memory.place(long, 0, 0, 10_000_000)
    memory.place(late, 1, 0, 300_000)
    call = made(books, 50, 100)
    assert memory.lowest(call, 600_000, 100_000) == 1
    for c in (long, late):
        c.state = CallState.RUNNING
    memory.advance(1_000_000, {c.key: c for c in (long, late)})
    assert memory.lowest(call, 1_000_000, 100_000) == 0
    assert memory.lowest(call, 2_500_000, 100_000) == 1
    memory.remove(late)
    assert memory.lowest(call, 1_000_000, 100_000) == 1
    assert not memory._held[1].any()


def test_slots_go_by() -> None:
    # 3,000 slots later nothing is left of a call that ended, and a long one still counts.
    memory, books = forecast(10_000, 10_000)
    short, long = made(books, 900, 10), made(books, 500, 1)
    memory.place(short, 0, 0, 1_000_000)
    memory.place(long, 1, 0, 10**13)
    for c in (short, long):
        c.state = CallState.RUNNING
    memory.advance(1_500_000_000, {long.key: long})
    assert memory._held[0].sum() == 0
    assert memory.lowest(made(books, 1, 1), 1_500_000_000, 1) == 0


def test_calls_are_placed_one_by_one_where_memory_peaks_lowest() -> None:
    # Equal instances, nothing known: 1,000 tokens to d0, then 300 to d1, 300 to d1 (600 < 1,300), 900 to d1 (1,500
    # against 1,900), 100 to d0. The prefill instance is the one with the fewest prompt tokens outstanding.
    c = cluster(2, 2)
    policy = ready(Kairos(memory="reserved"), c)
    books = Books(c)
    for prompt in (990, 290, 290, 890, 90):
        books.call(prompt, 10)
    assert pairs(policy.plan(books.view())) == [(0, 0, 0), (1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 0, 0)]


def test_only_instances_that_can_hold_the_call() -> None:
    c = cluster(1, [decode("d0", kv_tokens=500), decode("d1")])
    policy = ready(Kairos(), c)
    books = Books(c)
    books.call(600, 10)
    books.call(600, 10)
    assert pairs(policy.plan(books.view())) == [(0, 0, 1), (1, 0, 1)]


def test_what_a_fallback_placed_is_counted() -> None:
    c = cluster(1, 2)
    policy = ready(Kairos(plan_latency_us=1000), c)
    books = Books(c)
    books.place(books.call(5000, 10), CallState.QUEUED, 0, 0)
    new = books.call(100, 10)
    assert pairs(policy.plan(books.view())) == [(new.key, 0, 1)]


@pytest.mark.parametrize("option", ["samples", "slot_ms"])
def test_illegal_options(option: str) -> None:
    with pytest.raises(ConfigError, match=f"policy 'kairos': option '{option}' is 0"):
        Kairos(**{option: 0})  # type: ignore[arg-type]


def test_in_a_simulation_the_quick_agent_overtakes() -> None:
    # One prefill of 10 ms. `long` takes 210.1 ms, `quick` 12.1 ms; one of each is learned. At 10 s three of `long` and,
    # after them in the trace, three of `quick` arrive: these go first.
    burst = [("long", 101, 10_000_000), ("quick", 2, 10_000_000)]
    flows = tuple(
        hexopt.Workflow(f"{app}-{at}-{i}", app, at, (hexopt.Call("c", (), 100, output),))
        for app, output, at in (("long", 101, 0), ("quick", 2, 0), *burst)
        for i in range(3 if at else 1)
    )
    table = hexopt.simulate(hexopt.Trace(flows), cluster(), Kairos(agent="app"), predictor="oracle").calls
    starts = [us - 10_000_000 for us in table["prefill_start_us"][2:]]
    assert starts == [30_000, 40_000, 50_000, 0, 10_000, 20_000]
