"""A decision that can never be carried out is a PlanError that says which, when, why and what would be legal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import hexopt
from hexopt.core.plan import Decision, Plan
from hexopt.core.view import CallState, Trigger, View
from hexopt.errors import PlanError
from tests.policies.views import cluster, decode, prefill
from tests.sim.toys import Acting, chain, first, flows, place_all, run


def told(act: Any, *parts: str, trace: hexopt.Trace | None = None, site: Any = None, **attributes: Any) -> None:
    """The run must end in one line with these parts, at once or when a plan latency is charged."""
    for latency in (0, 5_000) if "plan_latency_us" not in attributes else (attributes.pop("plan_latency_us"),):
        policy = Acting(act, plan_latency_us=latency, **attributes)
        with pytest.raises(PlanError) as caught:
            run(trace or flows((0, 100, 5)), site or cluster(2, 2), policy)
        message = str(caught.value)
        assert message.startswith("policy 'acting': ")
        assert "\n" not in message
        for part in parts:
            assert part in message, message


@pytest.mark.parametrize("key", [1, 99, -1, "c", None, 0.5])
def test_unknown_key(key: Any) -> None:
    told(
        lambda view: [Decision(key, 0, 0, 0.0)],
        f"at 0 µs about call {key!r}",
        "no call with this key is revealed, use the key of a CallView",
    )


def test_complete_call() -> None:
    # The first of two calls is complete when the second is revealed.
    told(
        lambda view: [first(c) for c in view.pool] + ([Decision(0, 0, 0, 0.0)] if view.now_us else []),
        "about call 0",
        "the call is complete, decide about incomplete calls only",
        trace=hexopt.Trace((chain(2, 2),)),
        triggers=frozenset((Trigger.CALL_READY,)),
        plan_latency_us=0,
    )


@pytest.mark.parametrize("index", [2, -1, 1.0, "0", None, np.float64(0)])
def test_instances_that_do_not_exist(index: Any) -> None:
    told(
        lambda view: [Decision(0, index, 0, 0.0)],
        "about 'w0/c'",
        f"prefill instance {index!r} does not exist or its total KV capacity does not hold the call",
        "legal are [0, 1], choose one of the call's prefill_candidates",
    )
    told(lambda view: [Decision(0, 0, index, 0.0)], f"decode instance {index!r}", "the call's decode_candidates")


def test_instances_that_cannot_hold_the_call() -> None:
    site = cluster([prefill("p0", kv_tokens=99), prefill("p1")], [decode("d0"), decode("d1", kv_tokens=104)])
    told(lambda view: [Decision(0, 0, 0, 0.0)], "prefill instance 0", "legal are [1]", site=site)
    told(lambda view: [Decision(0, 1, 1, 0.0)], "decode instance 1", "legal are [0]", site=site)


def test_integers_of_other_kinds_are_fine() -> None:
    def act(view: View) -> Any:
        return [Decision(c.key, np.int64(1), np.int8(1), np.float32(2)) for c in view.pool]  # type: ignore[arg-type]

    result = run(flows((0, 100, 5)), cluster(2, 2), act)
    assert result.calls["prefill_instance"][0] == "p1"
    assert result.decisions["priority"][0] == 2.0


@pytest.mark.parametrize("priority", [math.nan, math.inf, -math.inf, "1", None, 1j])
def test_priority_is_finite(priority: Any) -> None:
    told(
        lambda view: [Decision(0, 0, 0, priority)],
        "about 'w0/c'",
        f"priority {priority!r} is no finite number, use one",
    )


def test_two_decisions_about_one_call() -> None:
    told(
        lambda view: [first(view.pool[0]), first(view.pool[0])],
        "its plan at 0 µs decides twice about call 0, a plan has one decision per call, drop one",
    )


def once_it_is(state: CallState, decision: Any) -> Any:
    """Place calls; when the first is in this state, decide about it."""

    def act(view: View) -> Any:
        decisions = [first(c) for c in view.pool]
        for d in view.decode:
            decisions += [decision(c) for c in d.bound.values() if c.key == 0 and c.state == state]
        return decisions

    return act


# Two workflows; the second becomes ready while the first call's prefill (0 to 10 ms) is under way.
DURING_PREFILL = flows((0, 100, 50), (4_000, 100, 1))
# ... while it decodes, from 10.1 ms on.
DURING_DECODE = flows((0, 100, 50), (50_000, 100, 1))


def test_a_started_prefill_is_never_moved() -> None:
    act = once_it_is(CallState.PREFILLING, lambda c: Decision(c.key, 1, 0, 0.0))
    told(
        act,
        "at 4000 µs about 'w0/c' (prefill 1, decode 0, priority 0.0)",
        "the call's prefill has started on instance 0, a started prefill is never moved",
        trace=DURING_PREFILL,
        plan_latency_us=0,
    )


def test_rebinding_after_the_start_needs_handoff_binding() -> None:
    act = once_it_is(CallState.PREFILLING, lambda c: Decision(c.key, 0, 1, 0.0))
    told(
        act,
        "the call is bound to decode instance 0, under binding 'dispatch' it is too late to re-bind it",
        trace=DURING_PREFILL,
        plan_latency_us=0,
    )
    result = run(DURING_PREFILL, cluster(2, 2, binding="handoff"), act)
    assert result.calls["decode_instance"][0] == "d1"


def test_rebinding_ends_with_the_reservation() -> None:
    # A wire of 100 µs a token: the transfer takes from 10 to 20 ms, and at 15 ms the KV is reserved.
    site = cluster([prefill("p0", nic=1e7), prefill("p1")], 2, binding="handoff")
    told(
        once_it_is(CallState.TRANSFERRING, lambda c: Decision(c.key, 0, 1, 0.0)),
        "the call is bound to decode instance 0, under binding 'handoff' it is too late to re-bind it",
        trace=flows((0, 100, 50), (15_000, 100, 1)),
        site=site,
        plan_latency_us=0,
    )


def test_nothing_is_left_to_decide_about_a_running_call() -> None:
    told(
        once_it_is(CallState.RUNNING, lambda c: Decision(c.key, 0, 0, 99.0)),
        "the call has joined its batch, nothing is left to decide",
        trace=DURING_DECODE,
        plan_latency_us=0,
    )


@pytest.mark.parametrize("wake_us", [0, 5, 7])
def test_a_wake_up_lies_in_the_future(wake_us: int) -> None:
    policy = Acting(lambda view: Plan((), wake_us))
    with pytest.raises(PlanError, match=f"it asks at 7 µs for a wake-up at {wake_us} µs, a wake-up lies in the future"):
        run(flows((7, 100, 5)), cluster(), policy)


@pytest.mark.parametrize("plan", [None, Plan((), 10.5), Plan((), "soon"), Plan(None), Plan((1,))])  # type: ignore[arg-type]
def test_what_is_no_plan(plan: Any) -> None:
    class Strange(Acting):
        def plan(self, view: View) -> Any:
            return plan if view.now_us == 7 else Plan(list(place_all(view)))

    with pytest.raises(PlanError):
        run(flows((7, 100, 5)), cluster(), Strange(place_all))


def test_a_plan_in_flight_is_checked_when_it_is_made() -> None:
    policy = Acting(lambda view: [Decision(7, 0, 0, 0.0)], plan_latency_us=10**9)
    with pytest.raises(PlanError, match="at 0 µs about call 7"):
        run(flows((0, 100, 5)), cluster(), policy)


def test_the_fallbacks_decisions_are_checked_too() -> None:
    policy = Acting(place_all, plan_latency_us=5_000, fallback=Acting(lambda view: [Decision(0, 9, 0, 0.0)]))
    with pytest.raises(PlanError, match="prefill instance 9"):
        run(flows((0, 100, 5)), cluster(), policy)


@pytest.mark.parametrize("decision", [Decision([0], 0, 0, 0.0), Decision(0, 0, 0, 10**400)])  # type: ignore[arg-type]
def test_strange_keys_and_priorities(decision: Decision) -> None:
    with pytest.raises(PlanError):
        run(flows((7, 100, 5)), cluster(), Acting(lambda view: Plan([decision])))
