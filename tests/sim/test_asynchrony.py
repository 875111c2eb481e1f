"""Plan latency: one plan in flight, remembered triggers, the fallback, and what happens to a plan overtaken."""

from __future__ import annotations

from typing import Any

import pytest

import hexopt
from hexopt.core.plan import Decision, Plan
from hexopt.core.view import Trigger, View
from hexopt.errors import ConfigError
from tests.policies.views import cluster, decode
from tests.sim.toys import WAKE, Acting, first, flows, place_all, run

READY = frozenset((Trigger.CALL_READY,))


def test_one_plan_in_flight() -> None:
    # Calls come each millisecond. Plans of 10 ms set off at 0, at the landings while something happened meanwhile, then
    # at 21 ms for nothing: the last call came at 12.
    policy = Acting(place_all, plan_latency_us=10_000, triggers=READY)
    calls = run(flows(*((1000 * i, 10, 1) for i in range(13))), cluster(), policy).calls
    assert policy.views == [0, 10_000, 20_000]
    # Without a fallback: the first lands at 10 ms, those ready up to 10 ms at 20, the last two at 30.
    assert list(calls["placed_us"]) == [10_000] + 10 * [20_000] + 2 * [30_000]


def test_triggers_met_during_the_flight_are_remembered() -> None:
    seen: list[tuple[int, frozenset[Trigger]]] = []

    def act(view: View) -> Any:
        seen.append((view.now_us, view.triggers))
        return place_all(view)

    # The first call is placed at 10 ms and prefills from 10 to 20. The second, met during the first flight, is placed
    # by the second plan, which lands at 20 ms, just after the instance turned idle with nothing queued.
    run(flows((0, 10, 1), (4_000, 10, 1)), cluster(), Acting(act, plan_latency_us=10_000))
    done = frozenset((Trigger.CALL_COMPLETE, Trigger.PREFILL_IDLE))
    assert seen == [(0, READY), (10_000, READY), (20_000, done), (30_000, done)]


def test_only_subscribed_triggers_call_the_policy() -> None:
    policy = Acting(place_all, triggers=READY)
    run(flows((0, 10, 5), (50_000, 10, 5)), cluster(), policy)
    assert policy.views == [0, 50_000]


def test_wake_ups() -> None:
    # The call waits in the pool until the policy is called at the instant it asked for.
    def act(view: View) -> Any:
        return place_all(view) if view.now_us == 77_777 else Plan((), 77_777)

    policy = Acting(act, triggers=WAKE)
    calls = run(flows((5, 10, 5)), cluster(), policy).calls
    assert policy.views == [5, 77_777]
    assert calls["placed_us"][0] == 77_777


def test_the_fallback_places_at_priority_ready_time_whatever_it_says() -> None:
    fallback = Acting(lambda view: [Decision(c.key, 1, 1, -99.0) for c in view.pool])
    policy = Acting(lambda view: [], plan_latency_us=10_000, triggers=READY, fallback=fallback)
    calls = run(flows((3, 10, 5), (5_000, 10, 5)), cluster(2, 2), policy).calls
    assert fallback.views == [3, 5_000]
    assert list(calls["priority"]) == [3.0, 5000.0]
    assert list(calls["decode_instance"]) == ["d1", "d1"]


def test_the_fallback_is_not_asked_without_a_plan_in_flight() -> None:
    fallback = Acting(place_all)
    policy = Acting(place_all, plan_latency_us=0, fallback=fallback)
    run(flows((0, 10, 5), (5_000, 10, 5)), cluster(), policy)
    assert fallback.views == []


def test_overtaken_decisions_are_dropped_and_leave_no_row() -> None:
    # The fallback places the call on p0, where it starts at once. The plan that would have it on p1 lands at 5 ms.
    policy = Acting(
        lambda view: [Decision(c.key, 1, 0, 0.5) for c in view.pool],
        plan_latency_us=5_000,
        triggers=READY,
        fallback=Acting(place_all),
    )
    result = run(flows((0, 10, 5)), cluster(2), policy)
    assert result.calls["prefill_instance"][0] == "p0"
    assert list(result.decisions["at_us"]) == [0]


def test_a_landing_may_move_what_only_queues() -> None:
    # The second call waits behind the first on p0 when the plan lands; there, too, its new decode instance.
    policy = Acting(
        lambda view: [Decision(c.key, 1, 1, 0.5) for c in view.pool],
        plan_latency_us=5_000,
        triggers=READY,
        fallback=Acting(place_all),
    )
    result = run(flows((0, 10, 5), (0, 10, 5)), cluster(2, 2), policy)
    assert list(result.calls["prefill_instance"]) == ["p0", "p1"]
    assert list(result.calls["decode_instance"]) == ["d0", "d1"]
    assert list(result.calls["prefill_start_us"]) == [0, 5_000]
    assert list(result.calls["placed_us"]) == [0, 0]
    assert list(result.decisions["at_us"]) == [0, 0, 5_000]


@pytest.mark.parametrize(("binding", "bound"), [("dispatch", "d0"), ("handoff", "d1")])
def test_a_late_binding_lands_where_binding_is_late(binding: Any, bound: str) -> None:
    policy = Acting(
        lambda view: [Decision(c.key, 0, 1, 0.5) for c in view.pool],
        plan_latency_us=5_000,
        triggers=READY,
        fallback=Acting(place_all),
    )
    result = run(flows((0, 10, 5)), cluster(1, 2, binding=binding), policy)
    assert result.calls["decode_instance"][0] == bound


def test_a_decision_that_changes_nothing_leaves_no_row() -> None:
    def act(view: View) -> Any:
        queued = [c for p in view.prefill for c in p.queue.values()]
        return [*place_all(view), *(first(c) for c in queued)]

    result = run(flows((0, 10, 5), (1_000, 10, 5), (2_000, 10, 5)), cluster(), act)
    assert len(result.decisions) == 3


def test_reordering_the_admission_queue() -> None:
    # Three calls of 60 tokens wait from 10 ms on for a decode instance of 100. The first is admitted; at 15 ms, when a
    # further call comes along, the third is put before the second.
    def act(view: View) -> Any:
        placed = [Decision(c.key, min(c.key, 2), 0, float(c.key)) for c in view.pool]
        return [*placed, *(first(c, -1.0) for c in view.decode[0].waiting.values() if c.key == 2)]

    trace = flows((0, 40, 20), (0, 40, 20), (0, 40, 20), (15_000, 10, 1))
    table = run(trace, cluster(3, [decode(kv_tokens=100)]), Acting(act, triggers=READY)).calls
    admitted = list(table["admit_us"].iloc[:3])
    assert admitted[0] == 10_000
    assert admitted[0] < admitted[2] < admitted[1]
    assert list(table["priority"].iloc[:3]) == [0.0, 1.0, -1.0]


def test_a_policys_list_may_be_reused() -> None:
    class Reusing(Acting):
        def __init__(self) -> None:
            super().__init__(place_all, plan_latency_us=5_000, triggers=READY)
            self.list: list[Decision] = []

        def plan(self, view: View) -> Plan:
            self.list.clear()
            self.list.extend(place_all(view))
            return Plan(self.list)

    calls = run(flows((0, 10, 1), (5_000, 10, 1)), cluster(), Reusing()).calls
    assert list(calls["placed_us"]) == [5_000, 10_000]


def test_measured_latency_is_charged_and_replayed() -> None:
    trace = flows(*((1000 * i, 100, 20) for i in range(20)))
    policy = hexopt.make_policy("hexagent", plan_latency_us="measured")
    result = run(trace, cluster(2, 2), policy)
    placed = result.decisions["at_us"]
    assert placed.is_monotonic_increasing
    assert result.summary["plan_latency_us"] == "measured"
    assert result.summary["plan_ms_mean"] > 0
    again = run(trace, cluster(2, 2), hexopt.make_policy("replay", decisions=result.decisions))
    assert again.calls.equals(result.calls)


def test_measured_latency_without_a_fallback_is_at_least_a_microsecond() -> None:
    policy = Acting(place_all, plan_latency_us="measured", triggers=READY)
    assert run(flows((0, 10, 1)), cluster(), policy).calls["placed_us"][0] >= 1


@pytest.mark.parametrize("value", [-1, 1.5, True, "slow", None])
def test_bad_plan_latency(value: Any) -> None:
    with pytest.raises(ConfigError, match="policy 'acting': plan_latency_us is"):
        run(flows((0, 10, 1)), cluster(), Acting(place_all, plan_latency_us=value))
