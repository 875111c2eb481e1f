"""Cortex: a pool for each stage, scaled only where the SLO is threatened; idle instances lent; bottlenecks guarded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hexopt
from hexopt.core.plan import Decision
from hexopt.core.view import CallState, CallView, Trigger, WorkflowView
from hexopt.errors import ConfigError
from hexopt.policies.bookkeeping import SPAN_US
from hexopt.policies.cortex import Cortex
from hexopt.policies.pools import Pools, sizes
from tests.policies.random_views import FAST
from tests.policies.views import Books, by_call, cluster, decode, pairs, prefill, ready

DONE = (Trigger.CALL_COMPLETE,)
SECOND = 1_000_000


def workflow(books: Books, app: str, arrival_us: int = 0) -> WorkflowView:
    made = books.workflow(arrival_us)
    made.app = app
    return made


def of(books: Books, app: str, prompt: int = 100, output: int = 11, ready_us: int = 0) -> CallView:
    return books.call(prompt, output, workflow=workflow(books, app, ready_us))


def done(books: Books) -> None:
    """All calls are complete; the policy is not told."""
    for call in books.calls:
        books.complete(call, books.now_us, 1, 0, 0, 0)


def class_of(decision: Decision) -> tuple[int, int]:
    """The class of urgency (0: late), and the rest of the priority."""
    return divmod(int(decision.priority), SPAN_US)


# -- pools


@pytest.mark.parametrize(
    ("weights", "instances", "expected"),
    [
        # 6 : 2 of 8 exactly.
        ([6, 2], 8, [6, 2]),
        # One each; then 90 and 45 per instance against 9 and 1.
        ([90, 9, 1], 5, [3, 1, 1]),
        # 3, 3 and 2 per instance; a tie goes to the first.
        ([3, 3, 2], 4, [2, 1, 1]),
        ([5], 4, [4]),
    ],
)
def test_sizes_in_proportion_to_work(weights: list[float], instances: int, expected: list[int]) -> None:
    assert sizes(weights, instances) == expected


@FAST
@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=6), st.integers(0, 20))
def test_sizes_make_the_busiest_pool_as_little_busy_as_can_be(weights: list[float], spare: int) -> None:
    shares = sizes(weights, len(weights) + spare)
    assert sum(shares) == len(weights) + spare
    assert min(shares) >= 1
    # No pool could give one away without becoming at least as busy as the busiest is.
    busiest = max(w / n for w, n in zip(weights, shares, strict=True))
    assert all(n == 1 or w / (n - 1) >= busiest for w, n in zip(weights, shares, strict=True))


def test_pools_are_sized_by_stage_work() -> None:
    # Prompts of `a` 6,000 tokens in all, of `b` 2,000: 6 and 2 prefill instances. Outputs 100 and 300: 2 and 6.
    c = cluster(8, 8)
    policy = ready(Cortex(stage="app"), c)
    books = Books(c)
    for app, prompt, output in (("a", 4000, 60), ("a", 2000, 40), ("b", 2000, 300)):
        of(books, app, prompt, output)
    plan = pairs(policy.plan(books.view()))
    assert policy.prefill_pools.home == [0, 0, 0, 0, 0, 0, 1, 1]
    assert policy.decode_pools.home == [0, 0, 1, 1, 1, 1, 1, 1]
    # Each call to the least loaded instance of its pools, the shorter first: it has less slack.
    assert plan == [(1, 0, 0), (0, 1, 1), (2, 6, 2)]


def test_a_new_stage_gets_at_least_one_instance() -> None:
    # `a` had all four instances; 10,000 tokens against 100 leave it three.
    c = cluster(4, 4)
    policy = ready(Cortex(stage="app"), c)
    books = Books(c)
    books.place(of(books, "x"), CallState.QUEUED)
    of(books, "a", 10_000, 100)
    policy.plan(books.view())
    assert policy.prefill_pools.home == [0, 0, 0, 0]
    new = of(books, "b", 100, 11)
    assert (new.key, 3, 3) in pairs(policy.plan(books.view()))
    assert policy.prefill_pools.home == [0, 0, 0, 1]


def test_more_stages_than_instances_share_the_last_pool() -> None:
    # Three instances, five stages of work 5, 1, 9, 2, 3: the heaviest, 9 and 5, have a pool each.
    pools = Pools(3, 0.5, 30 * SECOND)
    pools.partition([5, 1, 9, 2, 3])
    assert pools.pool_of == [0, 2, 1, 2, 2]
    assert pools.home == [0, 1, 2]
    assert pools.weights([5, 1, 9, 2, 3]) == [5, 9, 6]
    assert pools.members(3) == pools.members(4) == [2]


def test_work_fades_with_its_half_life() -> None:
    # `a` had 8,000 tokens at 0 s; at 120 s, after two half-lives, 2,000 are left, as much as `b` brings.
    c = cluster(4, 4)
    policy = ready(Cortex(stage="app", work_half_life_s=60.0), c)
    books = Books(c)
    books.place(of(books, "a", 8000), CallState.POOL)
    policy.plan(books.view())
    done(books)
    books.now_us = 120 * SECOND
    of(books, "b", 2000, ready_us=books.now_us)
    policy.plan(books.view())
    assert policy.prefill_pools.home == [0, 0, 1, 1]


def test_the_critical_path_weighs_more() -> None:
    # r; then x and y (stage 1) follow r, z (stage 2) follows x; `last` waits for y and z, of which y is the later.
    # Stage 1: a parent of z (and the last one) and of `last` (the last one): always critical. Stage 2: a parent of
    # `last`, but not the last one: never. Equal work of 100 tokens a call: 3 × 200 against 100 instead of 200 : 100.
    c = cluster()
    policy = ready(Cortex(stage="depth", critical_weight=3.0), c)
    books = Books(c)
    w = books.workflow()
    r = books.call(workflow=w)
    policy.plan(books.view())
    books.complete(r, 0, 10_000, 0, 0, 0)
    books.now_us = 10_000
    x, y = (books.call(workflow=w, ready_us=10_000, parents=(r,)) for _ in "xy")
    policy.plan(books.view())
    books.complete(x, 10_000, 10_000, 0, 0, 0)
    books.now_us = 20_000
    z = books.call(workflow=w, ready_us=20_000, parents=(x,))
    policy.plan(books.view())
    books.complete(z, 20_000, 10_000, 0, 0, 0)
    books.complete(y, 10_000, 90_000, 0, 0, 0)
    books.now_us = 100_000
    books.call(workflow=w, ready_us=100_000, parents=(y, z))
    policy.plan(books.view())
    # Depths 0, 1, 2: `last` has depth 3, in the bucket of 2. Nothing follows it, which says nothing about its stage.
    assert policy._weights(prefill=True) == [100 * 3, 200 * 3, 200]


# -- who lends, who is scaled


def two_pools(lend_after_s: int = 30) -> Pools:
    """Pool 0 owns instances 0 and 1, pool 1 owns 2 and 3."""
    pools = Pools(4, 0.5, lend_after_s * SECOND)
    pools.partition([1.0, 1.0])
    assert pools.home == [0, 0, 1, 1]
    return pools


@pytest.mark.parametrize(
    ("load", "memory", "idle_s", "lent"),
    [
        (0.49, 0.49, 30, True),
        (0.49, 0.49, 29, False),
        (0.50, 0.10, 30, False),
        (0.10, 0.50, 30, False),
    ],
)
def test_an_instance_is_lent_if_load_and_memory_are_low(load: float, memory: float, idle_s: int, lent: bool) -> None:
    pools = two_pools()
    use = [(1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (load, memory)]
    pools.watch(use, 5 * SECOND)
    now = (5 + idle_s) * SECOND
    pools.watch(use, now)
    assert pools.strengthen(0, [1.0, 1.0], [0, 0, 0, 0], range(4), now) == (3 if lent else -1)
    assert pools.members(0) == ([0, 1, 3] if lent else [0, 1])
    assert pools.home == [0, 0, 1, 1]


def test_a_busy_moment_starts_the_wait_again() -> None:
    pools = two_pools()
    for at, load in ((0, 0.0), (20, 0.9), (25, 0.0), (54, 0.0)):
        pools.watch([(1.0, 0.0)] * 3 + [(load, 0.0)], at * SECOND)
    assert pools.strengthen(0, [1.0, 1.0], [0] * 4, range(4), 54 * SECOND) == -1
    assert pools.strengthen(0, [1.0, 1.0], [0] * 4, range(4), 55 * SECOND) == 3


def lent_pools() -> Pools:
    """Instances 2 and 3 of pool 1 are idle; 3 is on loan to pool 0 since 30 s."""
    pools = two_pools()
    for at in (0, 30):
        pools.watch([(1.0, 0.0)] * 2 + [(0.0, 0.0)] * 2, at * SECOND)
    assert pools.strengthen(0, [1.0, 1.0], [0, 0, 5, 2], range(4), 30 * SECOND) == 3
    return pools


def test_a_threatened_pool_takes_back_what_it_lent() -> None:
    pools = lent_pools()
    assert pools.members(1) == [2]
    assert pools.strengthen(1, [1.0, 1.0], [0] * 4, range(4), 31 * SECOND) == 3
    assert pools.members(0) == [0, 1]
    assert pools.members(1) == [2, 3]


def test_a_loan_ends_when_it_is_idle() -> None:
    pools = lent_pools()
    for at, members in ((31, [0, 1, 3]), (60, [0, 1, 3]), (61, [0, 1])):
        pools.watch([(1.0, 0.0)] * 3 + [(0.0, 0.0)], at * SECOND)
        assert pools.members(0) == members


def test_only_a_pool_worth_more_is_scaled() -> None:
    # Work 3 : 1 of four instances is 3 and 1, and pool 0 has two: it gets the less loaded one of pool 1, for good.
    # Then it has what it is worth. Pool 1 never was short.
    pools = two_pools()
    assert pools.strengthen(1, [3.0, 1.0], [0] * 4, range(4), 0) == -1
    assert pools.strengthen(0, [3.0, 1.0], [0, 0, 7, 4], range(4), 0) == 3
    assert pools.home == [0, 0, 1, 0]
    assert pools.strengthen(0, [3.0, 1.0], [0] * 4, range(4), 0) == -1


def test_a_pool_that_has_its_worth_leaves_the_rest_to_others() -> None:
    # Pools of 2, 1 and 1 instances, worth 1, 1 and 2 now: the second one gets none of the first's.
    pools = Pools(4, 0.5, 30 * SECOND)
    pools.partition([1.0, 1.0, 1.0])
    assert pools.home == [0, 0, 1, 2]
    assert pools.strengthen(1, [1.0, 1.0, 4.0], [0] * 4, range(4), 0) == -1
    assert pools.strengthen(2, [1.0, 1.0, 4.0], [0] * 4, range(4), 0) == 0


def test_only_instances_that_can_hold_the_call_help() -> None:
    pools = two_pools()
    assert pools.strengthen(0, [3.0, 1.0], [0, 0, 7, 4], (0, 1, 2), 0) == 2


def test_without_a_threat_nothing_moves() -> None:
    # `a` and `b` began with equal work and two prefill instances each. Now all the work is `a`'s: one call after the
    # other on idle instances changes nothing. When its instances have more work ahead than the slack of a call allows,
    # it gets a third one.
    c = cluster([prefill(f"p{i}", ms=100.0) for i in range(4)], 4)
    policy = ready(Cortex(stage="app", slo_scale=2.0), c)
    books = Books(c)
    of(books, "a")
    of(books, "b")
    policy.plan(books.view())
    done(books)
    for _ in range(6):
        of(books, "a")
        policy.plan(books.view())
        done(books)
    assert policy.prefill_pools.home == [0, 0, 1, 1]
    # Alone a call takes 100 + 0.1 + 20 ms, so it can wait for 120.1 ms. With two calls ahead on each instance a fifth
    # one would wait for 200 ms. Then the calls in the queues spread over the three: ahead are 200, 100, 100 ms.
    ahead = [of(books, "a") for _ in range(4)]
    for key, d in by_call(policy.plan(books.view())).items():
        books.place(books.calls[key], CallState.QUEUED, d.prefill, d.decode, priority=d.priority)
    assert [call.prefill for call in ahead] == [0, 1, 0, 1]
    new = of(books, "a")
    plan = by_call(policy.plan(books.view()))
    assert policy.prefill_pools.home == [0, 0, 0, 1]
    assert {key: d.prefill for key, d in plan.items()} == {ahead[2].key: 2, ahead[3].key: 0, new.key: 1}


# -- urgency


def test_the_key_is_slack_over_expected_service() -> None:
    # Alone: 10 ms + 0.1 ms + 10 tokens of 2 ms = 30.1 ms. Due at 3 × 30.1, so it must start by 60.2 ms: key 2 at 0, in
    # the class of 2 to 4. A microsecond later it is below 2, from 30.101 ms on below 1, from 60.201 on below 0.
    c = cluster()
    policy = ready(Cortex(slo_scale=3.0), c)
    books = Books(c)
    call = books.call(100, 11)
    plan = policy.plan(books.view())
    assert class_of(plan.decisions[0]) == (3, 60_200)
    assert plan.wake_us == 1
    books.place(call, CallState.QUEUED, priority=plan.decisions[0].priority)
    for at_us, class_, wake_us in ((1, 2, 30_101), (30_101, 1, 60_201), (60_201, 0, None)):
        books.now_us = at_us - 1
        assert not policy.plan(books.view((Trigger.WAKE_UP,))).decisions or at_us == 1
        books.now_us = at_us
        plan = policy.plan(books.view((Trigger.WAKE_UP,)))
        assert plan.decisions == [Decision(call.key, 0, 0, float(class_ * SPAN_US + 60_200))]
        assert plan.wake_us == wake_us
        call.priority = plan.decisions[0].priority


def test_expected_service_is_learned() -> None:
    # Two calls of the stage took 40 and 60 ms: 50 expected, due at 150, to start by 100 ms: key 2.
    c = cluster()
    policy = ready(Cortex(slo_scale=3.0), c)
    books = Books(c)
    first, second = books.call(), books.call()
    policy.plan(books.view())
    books.complete(first, 0, 10_000, 5_000, 10_000, 20_000)
    books.complete(second, 0, 10_000, 0, 10_000, 40_000)
    books.now_us = 100_000
    call = books.call(ready_us=100_000, arrival_us=100_000)
    plan = policy.plan(books.view((Trigger.CALL_READY, Trigger.CALL_COMPLETE)))
    assert class_of(by_call(plan)[call.key]) == (3, 200_000)


def test_what_is_likely_to_follow_costs_slack() -> None:
    # Two roots took 30 ms each; one had a child, expected to take 10 + 0.05 + 80 ms: after a root, half of that is to
    # be expected. A root that arrives at 150 ms is due after 2 × (30 + 45.025) ms and must start 75.025 ms before that.
    # A call of the child's stage had no child: nothing more is expected after it. One that follows the other root at
    # 200 ms (30 ms of service and 170 ms of tools) is due after 2 × (200 + 90) ms and must start 90 ms before that.
    c = cluster()
    policy = ready(Cortex(slo_scale=2.0), c)
    books = Books(c)
    w0, w1 = books.workflow(), books.workflow()
    r0, r1 = books.call(workflow=w0), books.call(workflow=w1)
    policy.plan(books.view())
    for r in (r0, r1):
        books.complete(r, 0, 10_000, 0, 0, 20_000)
    books.now_us = 30_000
    child = books.call(50, 41, workflow=w0, ready_us=30_000, parents=(r0,))  # 10 + 0.05 + 80 ms alone
    policy.plan(books.view((Trigger.CALL_READY, Trigger.CALL_COMPLETE)))
    books.complete(child, 30_000, 10_000, 0, 0, 80_000)
    books.now_us = 150_000
    root = books.call(arrival_us=150_000, ready_us=150_000)
    plan = by_call(policy.plan(books.view((Trigger.CALL_READY, Trigger.CALL_COMPLETE))))
    assert class_of(plan[root.key])[1] == 150_000 + 75_025
    books.now_us = 200_000
    late = books.call(workflow=w1, ready_us=200_000, parents=(r1,))
    plan = by_call(policy.plan(books.view()))
    assert class_of(plan[late.key])[1] == 2 * (200_000 + 90_000) - 90_000


# -- inside a pool


@pytest.mark.parametrize(("outstanding", "expected"), [(400, 1), (401, 0)])
def test_calls_follow_their_workflows_state(outstanding: int, expected: int) -> None:
    # c1 ran on p1, d1. c2, of the same stage, goes there as long as they have at most twice the least in the pool.
    # p0 and d0 have 200 tokens.
    c = cluster(2, 2)
    for locality in (True, False):
        policy = ready(Cortex(stage="app", locality=locality), c)
        books = Books(c)
        w = books.workflow()
        c1 = books.call(workflow=w)
        policy.plan(books.view())
        books.complete(c1, 0, 10_000, 0, 0, 0)
        c1.prefill = c1.decode = 1
        books.now_us = 10_000
        books.place(books.call(199, 1), CallState.QUEUED, 0, 0)
        books.place(books.call(outstanding - 1, 1), CallState.QUEUED, 1, 1)
        c2 = books.call(workflow=w, ready_us=10_000, parents=(c1,))
        decision = by_call(policy.plan(books.view()))[c2.key]
        assert decision.decode == (expected if locality else 0)


def test_another_stage_does_not_follow() -> None:
    # c1, a root of 100 tokens, ran on p2 and d2. With c2, of 1,000, there are two pools, of one and of two instances:
    # c2's own has p1 and p2, both idle. It goes to the lower one, not to c1's.
    c = cluster(3, 3)
    policy = ready(Cortex(stage="root"), c)
    books = Books(c)
    w = books.workflow()
    c1 = books.call(workflow=w)
    policy.plan(books.view())
    books.complete(c1, 0, 10_000, 0, 0, 0)
    c1.prefill = c1.decode = 2
    books.now_us = 10_000
    c2 = books.call(1000, 110, workflow=w, ready_us=10_000, parents=(c1,))
    assert pairs(policy.plan(books.view())) == [(c2.key, 1, 1)]


# -- admission control


def test_a_bottleneck_stage_holds_calls_back() -> None:
    # One decode instance takes two calls of the stage; of four, those that must start first go: the short ones.
    # When one completes, the next follows; other stages are not held back.
    c = cluster(2, 2)
    policy = ready(Cortex(stage="app", slo_scale=3.0, admit_calls=2), c)
    books = Books(c)
    of(books, "b")
    policy.plan(books.view())
    done(books)
    outputs = (31, 11, 21, 41)
    a = [of(books, "a", 100, n) for n in outputs]
    plan = by_call(policy.plan(books.view()))
    assert policy.decode_pools.home == [0, 1]
    # All a's are in pool 1. They must start by 2 × (10.1 + 2 ms for each further token).
    assert set(plan) == {a[1].key, a[2].key}
    assert {d.decode for d in plan.values()} == {1}
    for key, d in plan.items():
        books.place(next(c for c in a if c.key == key), CallState.QUEUED, d.prefill, d.decode, priority=d.priority)
    books.now_us = 1_000
    other = of(books, "b", ready_us=1_000)
    held = {a[0].key, a[3].key}
    plan = by_call(policy.plan(books.view()))
    assert other.key in plan
    assert not held & set(plan)
    books.place(other, CallState.QUEUED)
    books.complete(a[1], 1_000, 10_000, 0, 0, 20_000)
    books.now_us = 31_000
    assert held & set(by_call(policy.plan(books.view(DONE)))) == {a[0].key}


def test_without_a_limit_nothing_is_held_back() -> None:
    c = cluster()
    books = Books(c)
    for _ in range(100):
        books.call()
    assert len(ready(Cortex(admit_calls=0), c).plan(books.view()).decisions) == 100
    assert len(ready(Cortex(admit_calls=64), c).plan(books.view()).decisions) == 64


def test_held_back_calls_run_in_the_end() -> None:
    # At most two calls are unfinished on each of two decode instances at any time.
    call = hexopt.Call("c", (), 100, 6)
    trace = hexopt.Trace(tuple(hexopt.Workflow(f"w{i}", "a", 0, (call,)) for i in range(20)))
    table = hexopt.simulate(trace, cluster(2, [decode("d0"), decode("d1")]), Cortex(admit_calls=2)).calls
    spans = list(zip(table["placed_us"], table["complete_us"], strict=True))
    assert max(sum(a <= at < b for a, b in spans) for at, _ in spans) == 4


def test_a_call_that_a_fallback_took_is_not_placed_again() -> None:
    c = cluster()
    policy = ready(Cortex(plan_latency_us=1000, admit_calls=1), c)
    books = Books(c)
    first, held = books.call(), books.call()
    assert [d.call for d in policy.plan(books.view()).decisions] == [first.key]
    for call in (first, held):
        books.place(call, CallState.QUEUED, priority=float(call.ready_us))
    books.now_us = 1_000
    plan = by_call(policy.plan(books.view(DONE)))
    assert plan[held.key][1:3] == (0, 0)
    assert class_of(plan[held.key])[0] > 0  # ranked as the policy would have


@pytest.mark.parametrize("option", ["slo_scale", "critical_weight", "work_half_life_s", "lend_after_s"])
def test_illegal_options(option: str) -> None:
    options: dict[str, Any] = {option: -1.0}
    with pytest.raises(ConfigError, match=f"policy 'cortex': option '{option}' is -1.0"):
        Cortex(**options)
