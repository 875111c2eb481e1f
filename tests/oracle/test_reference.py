"""The reference itself, against numbers derived by hand.

Unless a test says otherwise: a prefill takes 10 ms whatever its prompt, one token of KV takes 1 ms on the wire,
a transfer 2 ms more, an iteration 1 ms whatever its batch. A call of 16 prompt tokens therefore needs
10 + (16 + 2) ms before it can join, and m − 1 ms from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from hexopt.core.cluster import Cluster, DecodeInstance, DecodeLatency, Network, PrefillInstance, PrefillLatency
from hexopt.core.plan import Decision, Plan
from hexopt.core.view import CallState, Trigger, View
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.errors import CalibrationRangeError, CapacityError, PlanError, SimulationStalled
from tests.oracle.reference import (
    ReferenceResult,
    boundary,
    piecewise,
    prefill_us,
    reference_standalone_us,
    run_reference,
    wire_us,
)
from tests.oracle.scenarios import ConstantPredictor, OraclePredictor

Place = tuple[int, int, float]


def prefill(name: str = "p0", **changes: Any) -> PrefillInstance:
    plain = PrefillInstance(name, 10000, 1000.0, 1, PrefillLatency(((512, 10.0),), 0.0, 0.0))
    return replace(plain, **changes)


def decode(name: str = "d0", ms: float = 1.0, **changes: Any) -> DecodeInstance:
    plain = DecodeInstance(name, 10000, 1000.0, 1, DecodeLatency(((1, ms), (8, ms)), 0.0), max_batch=8)
    return replace(plain, **changes)


def cluster(
    prefills: Sequence[PrefillInstance] | None = None, decodes: Sequence[DecodeInstance] | None = None, **changes: Any
) -> Cluster:
    contention = changes.pop("contention", "nic")
    made = Cluster(
        "hand",
        "none",
        tuple(prefills or [prefill()]),
        tuple(decodes or [decode()]),
        Network(efficiency=1.0, latency_us=2000, contention=contention),
        **changes,
    )
    made.check()
    return made


def call(name: str, prompt: int = 16, output: int = 4, tool: int = 0, parents: tuple[int, ...] = ()) -> Call:
    return Call(name, parents, prompt, output, tool)


def flow(arrival: int, *calls: Call) -> Workflow:
    return Workflow("w" + calls[0].call_id, "app", arrival, calls)


class Fixed:
    """Places each call where the test says, at once; (0, 0, 0.0) unless told."""

    name: ClassVar[str] = "fixed"

    def __init__(self, places: dict[str, Place] | None = None, **attributes: Any) -> None:
        self.places = places or {}
        self.seen: list[tuple[int, frozenset[Trigger]]] = []
        for key, value in attributes.items():
            setattr(self, key, value)

    def reset(self, *_: Any) -> None:
        pass

    def plan(self, view: View) -> Plan:
        self.seen.append((view.now_us, view.triggers))
        return Plan([Decision(c.key, *self.places.get(c.call_id, (0, 0, 0.0))) for c in view.pool])


class Script(Fixed):
    """Answers its i-th invocation with the i-th function of the view; afterwards with an empty plan."""

    def __init__(self, *answers: Callable[[View], Plan], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.answers = list(answers)

    def plan(self, view: View) -> Plan:
        self.seen.append((view.now_us, view.triggers))
        return self.answers.pop(0)(view) if self.answers else Plan()


def run(where: Cluster, workflows: Sequence[Workflow], policy: Any = None, **options: Any) -> ReferenceResult:
    trace = Trace(tuple(workflows))
    trace.check()
    return run_reference(trace, where, policy or Fixed(), OraclePredictor(), **options)


def times(result: ReferenceResult, name: str, *fields: str) -> list[Any]:
    (row,) = [row for row in result.calls if row["call_id"] == name]
    return [row[field + "_us"] for field in fields]


ALL = ("ready", "placed", "prefill_start", "prefill_end", "admit", "transfer_start", "transfer_end", "join", "complete")


# ----- arithmetic ----------------------------------------------------------------------------------------------


def test_piecewise() -> None:
    knots = ((2, 1.0), (4, 5.0), (8, 6.0))
    # Below the first knot its value; (2, 1)–(4, 5) rises by 2 per unit, (4, 5)–(8, 6) by 1/4; 8 to 12 adds 1.
    assert [piecewise(knots, x, False) for x in (1, 2, 3, 4, 6, 8)] == [1.0, 1.0, 3.0, 5.0, 5.5, 6.0]
    assert piecewise(knots, 12, True) == 7.0
    with pytest.raises(CalibrationRangeError):
        piecewise(knots, 9, False)


def test_prefill_beyond_512_tokens() -> None:
    model = PrefillLatency(((1, 1.0), (512, 512.0)), a1_ms=0.5, a2_ms=0.001, c0_ms=4.0, c1=2.0)
    instance = prefill(latency=model)
    # g(512) = 512, 88 tokens beyond: 44, squares 600² = 360000: 360; T = 916, T' = 4 + 2·916 = 1836 ms.
    assert prefill_us(instance, [600]) == 1836000
    # The same 600 tokens in two prompts: squares 2·300² = 180000: 180; T = 736, T' = 1476 ms.
    assert prefill_us(instance, [300, 300]) == 1476000
    # Never below 1 µs: 1000·0.0004 = 0.4.
    assert prefill_us(prefill(latency=PrefillLatency(((512, 0.0004),), 0.0, 0.0)), [5]) == 1


def test_wire() -> None:
    where = cluster([prefill(nic_bytes_per_s=3000.0)], [decode(kv_bytes_per_token=2)])
    # The receiver's 2 bytes per token at the slower end's 1000 bytes/s: 5·2/1000 s.
    assert wire_us(where, 0, 0, 5) == 10000
    where = replace(where, network=Network(efficiency=0.75, latency_us=0))
    # 10·1000000/750 = 13333.3
    assert wire_us(where, 0, 0, 5) == 13334


def test_boundaries_grow_with_the_context() -> None:
    instance = decode(latency=DecodeLatency(((1, 1.0), (2, 1.5)), 0.25, o0_ms=0.5, o1_ms=0.25), max_batch=2)
    # B = 2, K0 = 10: h' = 1.5 + 0.5 + 0.5 = 2.5; S(1) = 2.5 + 10/4 = 5; S(2) = 5 + (20 + 2)/4 = 10.5;
    # S(3) = 7.5 + (30 + 6)/4 = 16.5 ms.
    assert [boundary(instance, 2, 10, j) for j in (1, 2, 3)] == [5000, 10500, 16500]
    with pytest.raises(CalibrationRangeError):  # 0.9 µs
        run(cluster(decodes=[decode(ms=0.0009)]), [flow(0, call("A"))])


# ----- one call ------------------------------------------------------------------------------------------------


def test_single_call() -> None:
    result = run(cluster(), [flow(1000, call("A", tool=500))])
    # Ready 1000 + 500; prefill 10 ms; wire 16 ms, 2 ms more; 3 iterations.
    assert times(result, "A", *ALL) == [1500, 1500, 1500, 11500, 11500, 11500, 29500, 29500, 32500]
    assert result.calls[0]["decode_iterations"] == 3
    assert result.workflows == [
        {
            "workflow_id": "wA",
            "app": "app",
            "arrival_us": 1000,
            "complete_us": 32500,
            "latency_us": 31500,
            "standalone_us": 31500,
            "ratio": 1.0,
        }
    ]
    p, d = result.instances
    # 10000 tokens are 625 blocks; the prompt is one block, prompt and output (20 tokens) are two.
    assert (p["role"], p["kv_capacity_blocks"], p["kv_peak_blocks"], p["busy_us"], p["nic_busy_us"], p["batches"]) == (
        "prefill", 625, 1, 10000, 16000, 1,
    )  # fmt: skip
    assert (d["role"], d["kv_capacity_blocks"], d["kv_peak_blocks"], d["busy_us"], d["nic_busy_us"]) == (
        "decode", 625, 2, 3000, 16000,
    )  # fmt: skip
    assert (d["iterations"], d["segments"]) == (3, 1)
    assert result.decisions == [
        {
            "at_us": 1500,
            "workflow_id": "wA",
            "call_id": "A",
            "prefill_instance": "p0",
            "decode_instance": "d0",
            "priority": 0.0,
        }
    ]


def test_context_slows_the_iterations() -> None:
    result = run(cluster(decodes=[decode(latency=DecodeLatency(((1, 1.0),), 0.25), max_batch=1)]), [flow(0, call("A"))])
    # K0 = 16 + 1; S(3) = 3·1 + (3·17 + 3)/4 = 16.5 ms after the join at 28 ms.
    assert times(result, "A", "join", "complete") == [28000, 44500]


def test_one_token_call_needs_neither_transfer_nor_decode_room() -> None:
    # d1 holds no block at all and p0 one prompt at a time: its KV is freed at batch end, so that B follows at once.
    where = cluster([prefill(kv_tokens=16)], [decode(), decode("d1", kv_tokens=1)])
    result = run(where, [flow(0, call("A", output=1)), flow(0, call("B", output=1))], Fixed({"A": (0, 1, 0.0)}))
    assert times(result, "A", *ALL) == [0, 0, 0, 10000, None, None, None, None, 10000]
    assert times(result, "B", "prefill_start", "complete") == [10000, 20000]
    assert result.calls[0]["decode_iterations"] == 0
    assert result.calls[0]["decode_instance"] == "d1"


# ----- workflows -----------------------------------------------------------------------------------------------


def test_zero_delay_chain() -> None:
    chain = flow(0, call("A", output=1), call("B", output=1, parents=(0,)), call("C", output=1, parents=(1,)))
    result = run(cluster(), [chain])
    # Each completes, reveals the next and starts it within one instant.
    assert [times(result, name, "ready", "prefill_start", "complete") for name in "ABC"] == [
        [0, 0, 10000],
        [10000, 10000, 20000],
        [20000, 20000, 30000],
    ]


def test_fan_out_and_join() -> None:
    # C is listed before its parents; it waits for the later one and then 5 ms.
    diamond = flow(
        0,
        call("C", output=1, tool=5000, parents=(2, 3)),
        call("A", output=1),
        call("B1", output=1, parents=(1,)),
        call("B2", output=1, tool=3000, parents=(1,)),
    )
    result = run(cluster([prefill(), prefill("p1")]), [diamond], Fixed({"B2": (1, 0, 0.0)}))
    # A ends at 10; B1 10–20 on p0, B2 13–23 on p1; C ready at 23 + 5, ends at 38.
    assert times(result, "B1", "ready", "complete") == [10000, 20000]
    assert times(result, "B2", "ready", "complete") == [13000, 23000]
    assert times(result, "C", "ready", "complete") == [28000, 38000]


# ----- prefill -------------------------------------------------------------------------------------------------


def test_prefill_batches_in_order_without_skipping() -> None:
    model = PrefillLatency(((1, 1.0), (512, 512.0)), 0.0, 0.0)  # n ms for n tokens
    where = cluster([prefill(max_batch_tokens=32, latency=model)])
    prompts = {"A": 16, "B": 16, "C": 16, "D": 20, "E": 8, "F": 40}
    result = run(where, [flow(0, call(name, n, output=1)) for name, n in prompts.items()])
    # A + B = 32 fits exactly; C + D = 36 does not, and E, which would fit beside C, is not let past D;
    # D + E = 28; F alone although above the limit. 32, 16, 28, 40 ms.
    spans = [times(result, name, "prefill_start", "prefill_end") for name in prompts]
    assert spans == [[0, 32000], [0, 32000], [32000, 48000], [48000, 76000], [48000, 76000], [76000, 116000]]
    assert result.instances[0]["batches"] == 4


def test_prefill_batch_stops_where_kv_does_not_fit() -> None:
    where = cluster([prefill(max_batch_tokens=100, kv_tokens=48)])
    result = run(where, [flow(0, call(name, n, output=1)) for name, n in (("A", 17), ("B", 17), ("C", 16))])
    # 2 + 2 blocks of 3: B waits; C would fit beside A, but nobody is skipped; then 2 + 1 fit together.
    assert [times(result, name, "prefill_start")[0] for name in "ABC"] == [0, 10000, 10000]


def test_congested_transfer_pushes_back_on_prefill() -> None:
    result = run(cluster([prefill(kv_tokens=16)]), [flow(0, call("A")), flow(0, call("B"))])
    # p0 holds one prompt; A's leaves it at the end of its transfer, 10 + 18 ms.
    assert times(result, "A", "prefill_end", "transfer_end") == [10000, 28000]
    assert times(result, "B", "prefill_start", "join") == [28000, 56000]
    assert result.instances[0]["kv_peak_blocks"] == 1


def test_queue_goes_by_priority_then_ready_then_position() -> None:
    flows = [
        flow(0, call("A")),
        flow(2000, call("B")),
        flow(1000, call("C")),
        flow(1000, call("D")),
        flow(3000, call("E")),
    ]
    result = run(cluster(), flows, Fixed({"A": (0, 0, 9.0), "E": (0, 0, -1.0)}))
    # A starts alone; then E by its lower value, C and D (ready together, by position), B last.
    assert [times(result, name, "prefill_start")[0] for name in "AECDB"] == [0, 10000, 20000, 30000, 40000]


# ----- KV and network ------------------------------------------------------------------------------------------


def pools(n: int) -> list[PrefillInstance]:
    return [prefill(f"p{i}") for i in range(n)]


def test_wait_for_decode_room() -> None:
    where = cluster(pools(2), [decode(kv_tokens=32)], contention="none")
    result = run(where, [flow(0, call("A")), flow(2500, call("B"))], Fixed({"B": (1, 0, 0.0)}))
    # Both need both blocks. A leaves at 28 + 3 ms; only then is B, ready since 12.5, admitted and sent.
    assert times(result, "A", "complete") == [31000]
    assert times(result, "B", "prefill_end", "admit", "transfer_start", "transfer_end", "complete") == [
        12500, 31000, 31000, 49000, 52000,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("admission", "b", "c"), [("strict", [31000, 68000], [68000, 89000]), ("backfill", [33000, 70000], [12000, 33000])]
)
def test_strict_and_backfill(admission: str, b: list[int], c: list[int]) -> None:
    # d0 holds 4 blocks; A and C need 2, B needs 3. A runs from 28 to 31 ms.
    # Strict: C waits behind B; B is sent at 31 and 34 ms long, done 68; C then takes 18 + 3 ms.
    # Backfill: C is admitted at 12, joins at 30, done 33; only then do B's 3 blocks fit: 33 + 34 + 3.
    where = cluster(pools(3), [decode(kv_tokens=64)], contention="none", kv_admission=admission)
    flows = [flow(0, call("A")), flow(1000, call("B", 32)), flow(2000, call("C"))]
    result = run(where, flows, Fixed({"B": (1, 0, 0.0), "C": (2, 0, 0.0)}))
    assert times(result, "A", "complete") == [31000]
    assert times(result, "B", "admit", "complete") == b
    assert times(result, "C", "admit", "complete") == c


def test_transfer_occupies_both_ends() -> None:
    where = cluster(pools(2), [decode("d0"), decode("d1"), decode("d2")])
    places = {"A": (0, 0, 0.0), "B": (1, 0, 0.0), "C": (0, 1, 0.0), "D": (1, 2, 0.0)}
    result = run(where, [flow(0, call(name)) for name in places], Fixed(places))
    # At 10: A takes p0 and d0 until 26; B waits for d0, 26–42, and books its sender p1 all the while.
    # At 20: C waits for p0, 26–42; D waits for p1, 42–58, although p1 and d2 are silent until 26.
    sent = {name: times(result, name, "admit", "transfer_start", "transfer_end") for name in places}
    assert sent == {
        "A": [10000, 10000, 28000],
        "B": [10000, 26000, 44000],
        "C": [20000, 26000, 44000],
        "D": [20000, 42000, 60000],
    }
    assert [row["nic_busy_us"] for row in result.instances] == [32000, 32000, 32000, 16000, 16000]
    free = run(
        replace(where, network=replace(where.network, contention="none")), [flow(0, call("A")), flow(0, call("B"))]
    )
    assert times(free, "B", "admit", "transfer_start", "transfer_end") == [20000, 20000, 38000]


# ----- decode --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrival", "b", "a_complete", "segments"),
    [
        # B arrives within A's third iteration (28, 29, 30, 31): joins at 31. Two calls take 2 ms per iteration:
        # 33, 35, where A has its 5; B has 2 of 3 and ends alone at 36.
        (2500, [30500, 31000, 36000], 35000, 3),
        # On the boundary itself: joins at 30; 32, 34, 36: both have all their tokens there.
        (2000, [30000, 30000, 36000], 36000, 2),
    ],
)
def test_join_at_the_boundary(arrival: int, b: list[int], a_complete: int, segments: int) -> None:
    model = DecodeLatency(((1, 1.0), (2, 2.0)), 0.0)
    where = cluster(pools(2), [decode(latency=model, max_batch=2)], contention="none")
    result = run(where, [flow(0, call("A", output=6)), flow(arrival, call("B"))], Fixed({"B": (1, 0, 0.0)}))
    assert times(result, "B", "transfer_end", "join", "complete") == b
    assert times(result, "A", "complete") == [a_complete]
    assert result.instances[2]["segments"] == segments
    assert result.instances[2]["busy_us"] == 8000


def test_full_batch_makes_calls_wait_in_queue_order() -> None:
    where = cluster(pools(3), [decode(max_batch=1)], contention="none")
    flows = [flow(0, call("A", output=9)), flow(500, call("B")), flow(1000, call("C"))]
    result = run(where, flows, Fixed({"A": (0, 0, 0.0), "B": (1, 0, 5.0), "C": (2, 0, 4.0)}))
    # A runs 28–36; of the two that wait with their KV reserved C has the lower value: 36–39, then B 39–42.
    assert [times(result, name, "transfer_end", "join", "complete") for name in "ABC"] == [
        [28000, 28000, 36000],
        [28500, 39000, 42000],
        [29000, 36000, 39000],
    ]
    assert result.instances[3]["kv_peak_blocks"] == 6


# ----- plans ---------------------------------------------------------------------------------------------------


def test_plan_lands_after_its_latency() -> None:
    policy = Fixed({"B": (1, 0, 0.0)}, plan_latency_us=3000, triggers=frozenset({Trigger.CALL_READY}))
    result = run(cluster(pools(2)), [flow(0, call("A")), flow(1000, call("B"))], policy)
    # A is planned for at 0. B comes while that plan is in flight and is remembered: planned for at 3, lands at 6.
    assert policy.seen == [(0, {Trigger.CALL_READY}), (3000, {Trigger.CALL_READY})]
    assert times(result, "A", "placed", "prefill_start") == [3000, 3000]
    assert times(result, "B", "ready", "placed", "prefill_start") == [1000, 6000, 6000]
    assert [row["at_us"] for row in result.decisions] == [3000, 6000]


def test_fallback_places_meanwhile_and_overtakes_the_plan() -> None:
    fallback = Fixed({"A": (1, 0, 77.0), "B": (1, 0, 77.0)})
    policy = Fixed(
        {"B": (0, 0, 5.0)}, plan_latency_us=3000, triggers=frozenset({Trigger.CALL_READY}), fallback=fallback
    )
    result = run(cluster(pools(2)), [flow(500, call("A")), flow(500, call("B"))], policy)
    # Both are placed on p1 as they come, priority their ready time; A starts, so that the plan for p0 comes too
    # late at 3.5 and is dropped; B still waits there and moves.
    decided = [(row["at_us"], row["call_id"], row["prefill_instance"], row["priority"]) for row in result.decisions]
    assert decided == [(500, "A", "p1", 500.0), (500, "B", "p1", 500.0), (3500, "B", "p0", 5.0)]
    assert times(result, "A", "placed", "prefill_start") == [500, 500]
    assert times(result, "B", "placed", "prefill_start") == [500, 3500]
    assert result.calls[1]["priority"] == 5.0
    assert fallback.seen == [(500, {Trigger.CALL_READY})]


@pytest.mark.parametrize(
    ("binding", "latency", "decode_instance", "rows"),
    [
        # Placed at 5, prefill 5–15; the second plan is made at 5, before the start, and lands at 10.
        ("handoff", 5000, "d1", 2),
        ("dispatch", 5000, "d0", 1),
        # Placed at 12, prefill 12–22, reserved at 22; the second plan lands at 24, too late for handoff as well.
        ("handoff", 12000, "d0", 1),
    ],
)
def test_late_rebinding_is_overtaken(binding: str, latency: int, decode_instance: str, rows: int) -> None:
    policy = Script(
        lambda view: Plan([Decision(0, 0, 0, 0.0)], wake_us=4000),
        lambda view: Plan([Decision(0, 0, 1, 0.0)]),
        plan_latency_us=latency,
        triggers=frozenset({Trigger.CALL_READY, Trigger.WAKE_UP}),
    )
    result = run(cluster(decodes=[decode(), decode("d1")], binding=binding), [flow(0, call("A"))], policy)
    assert policy.seen == [(0, {Trigger.CALL_READY}), (latency, {Trigger.WAKE_UP})]
    assert times(result, "A", "prefill_start") == [latency]
    assert result.calls[0]["decode_instance"] == decode_instance
    assert len(result.decisions) == rows


def test_priority_of_a_started_call_still_orders_its_admission() -> None:
    # d0 is filled by A until 31. B and C wait for it from 10; at 20 the policy lets C go first.
    where = cluster(pools(3), [decode(kv_tokens=32)], contention="none")
    policy = Script(
        lambda view: Plan([Decision(c.key, c.key, 0, float(c.key)) for c in view.pool], wake_us=20000),
        lambda view: Plan([Decision(2, 2, 0, -3.0)]),
        triggers=frozenset({Trigger.CALL_READY, Trigger.WAKE_UP}),
    )
    result = run(where, [flow(0, call(name)) for name in "ABC"], policy)
    # A done 31; C 31 + 18 + 3 = 52; B 52 + 21.
    assert [times(result, name, "admit", "complete") for name in "ABC"] == [
        [10000, 31000],
        [52000, 73000],
        [31000, 52000],
    ]


def test_triggers() -> None:
    policy = Fixed()
    run(cluster(), [flow(0, call("A")), flow(0, call("B", output=1))], policy)
    # A 0–10, B 10–20 (p0's queue is empty from then on), A's transfer ends at 28, A completes at 31.
    assert policy.seen == [
        (0, {Trigger.CALL_READY}),
        (20000, {Trigger.CALL_COMPLETE, Trigger.PREFILL_IDLE}),
        (28000, {Trigger.TRANSFER_END}),
        (31000, {Trigger.CALL_COMPLETE}),
    ]


@pytest.mark.parametrize(
    "plan",
    [
        Plan([Decision(7, 0, 0, 0.0)]),
        Plan([Decision(0, 1, 0, 0.0)]),
        Plan([Decision(0, 0, -1, 0.0)]),
        Plan([Decision(0, 0, 1, 0.0)]),  # d1 can never hold it
        Plan([Decision(0, 0, 0, float("inf"))]),
        Plan([Decision(0, 0, 0, float("nan"))]),
        Plan([Decision(0, 0, 0, 0.0), Decision(0, 0, 0, 1.0)]),
        Plan(wake_us=0),
    ],
)
def test_impossible_plans(plan: Plan) -> None:
    where = cluster(decodes=[decode(), decode("d1", kv_tokens=16)])
    with pytest.raises(PlanError):
        run(where, [flow(0, call("A"))], Script(lambda view: plan))


def test_deciding_about_a_running_call_is_an_error() -> None:
    policy = Script(
        lambda view: Plan([Decision(0, 0, 0, 0.0)], wake_us=29000),
        lambda view: Plan([Decision(0, 0, 0, 1.0)]),
        triggers=frozenset({Trigger.CALL_READY, Trigger.WAKE_UP}),
    )
    with pytest.raises(PlanError):
        run(cluster(), [flow(0, call("A"))], policy)


def test_capacity_and_stalling() -> None:
    with pytest.raises(CapacityError):
        run(cluster(decodes=[decode(kv_tokens=31)]), [flow(0, call("A"))])
    with pytest.raises(CapacityError):
        run(cluster([prefill(kv_tokens=15)]), [flow(0, call("A", output=1))])
    with pytest.raises(SimulationStalled):
        run(cluster(), [flow(0, call("A"))], Script())


@pytest.mark.parametrize(
    ("stop", "expected", "unfinished"),
    [
        (31000, [10000, 10000, 28000, 28000, 31000], False),  # events at the stop itself still happen
        (30999, [10000, 10000, 28000, 28000, None], True),
        (27999, [10000, 10000, None, None, None], True),
        (9999, [None, None, None, None, None], True),
    ],
)
def test_stop(stop: int, expected: list[int | None], unfinished: bool) -> None:
    result = run(cluster(), [flow(0, call("A"))], stop_us=stop)
    assert times(result, "A", "prefill_end", "transfer_start", "transfer_end", "join", "complete") == expected
    assert (result.workflows[0]["latency_us"] is None) == unfinished


# ----- view ----------------------------------------------------------------------------------------------------


def test_view() -> None:
    shots: list[Any] = []

    def look(view: View) -> Plan:
        (p,), (d,) = view.prefill, view.decode
        shots.append(
            {
                "queue": sorted(c.call_id for c in p.queue.values()),
                "p": (p.queued_us, p.busy_until_us, p.outstanding_tokens, p.kv_used_blocks),
                "waiting": sorted(c.call_id for c in d.waiting.values()),
                "d": (d.outstanding_tokens, d.decoding, d.decoding_blocks, d.decoding_tokens, d.running),
                "segment": (d.iterations, d.segment_start_us, d.segment_batch, d.segment_context),
                "states": {c.call_id: c.state for c in d.bound.values()},
            }
        )
        return Plan()

    policy = Script(
        lambda view: Plan([Decision(c.key, 0, 0, 0.0) for c in view.pool], wake_us=29500),
        look,
        triggers=frozenset({Trigger.CALL_READY, Trigger.WAKE_UP}),
    )
    trace = Trace((flow(0, call("A", output=5)), flow(0, call("B", 20)), flow(0, call("C", 3)), flow(0, call("D", 7))))
    run_reference(trace, cluster(), policy, ConstantPredictor(1))
    # At 29.5: A joined at 28 (K0 = 17) and has had the boundary at 29; B left prefill at 20, waits for the wire
    # until 26 and is on it until 46; C is in prefill 20–30; D is queued. p0 holds A no longer: B 2, C 1 blocks.
    # Predicted lengths are 1: bound 16 + 20 + 3 + 7 prompt tokens and 4; A and B decode: blocks(17) + blocks(21),
    # 17 + 21 tokens.
    assert shots == [
        {
            "queue": ["D"],
            "p": (10000, 30000, 10, 3),
            "waiting": ["B"],
            "d": (50, 2, 4, 38, 1),
            "segment": (0, 28000, 1, 17),
            "states": {
                "A": CallState.RUNNING,
                "B": CallState.TRANSFERRING,
                "C": CallState.PREFILLING,
                "D": CallState.QUEUED,
            },
        }
    ]


# ----- standalone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ms", "expected"), [(1.9, 33700), (2.0, 52000), (2.2, 52000)])
def test_standalone_removes_calls_until_the_next_fits(ms: float, expected: int) -> None:
    # d0 holds one of the calls; two in a batch there would take 2 ms. A goes to p0 and d0, finish 28 + 3 = 31.
    # B prefers p1, arrive 28. On d0 A is in the way and removed at 31: B = 1, finish 31 + 3·1 = 34 (with A still
    # counted in the batch it would be 37). On d1: 28 + 3·ms = 33.7, 34 (the tie goes to d0) or 34.6.
    # On d1 it comes as projected. On d0 it cannot be sent before A is done: 31 + 18 + 3 = 52.
    small = decode("d0", kv_tokens=32, latency=DecodeLatency(((1, 1.0), (2, 2.0)), 0.0), max_batch=2)
    where = cluster(pools(2), [small, decode("d1", ms=ms)])
    both = Workflow("w", "app", 123, (call("A"), call("B")))
    assert reference_standalone_us(both, where) == expected


def test_standalone_counts_what_is_queued_and_running() -> None:
    # p0 takes 10 ms, p1 25 ms. One-token calls A, B, C at 0: A p0 (10), B p0 (20 < 25), C p1 (25 < 30).
    slow = prefill("p1", latency=PrefillLatency(((512, 25.0),), 0.0, 0.0))
    flow_ = Workflow("w", "app", 0, (call("A", output=1), call("B", output=1), call("C", output=1)))
    assert reference_standalone_us(flow_, cluster([prefill(), slow])) == 25000
    # D is ready at 4: p0 busy until 10, B queued: 30; p1 busy until 25: 50. It goes to p0 and ends at 30.
    more = replace(flow_, calls=(*flow_.calls, call("D", output=1, tool=4000)))
    assert reference_standalone_us(more, cluster([prefill(), slow])) == 30000


def test_standalone_counts_the_tokens_of_those_before() -> None:
    # K0 counts a running call by its tokens so far. d0: h = 1 ms, b2 = 1/16 ms per token; d1: 12 ms flat.
    # A (16 prompt, 41 output, no other): on d0 S(40) = 40 + (40·17 + 780)/16 = 131.25, on d1 480: d0, joins at 28,
    # boundaries 28 + 2.0625, + 4.1875, ... B is ready at 34: S(3) = 3 + (51 + 3)/16 = 6.375 > 6, so that A has made
    # 1 + 2 tokens. B (16, 4) on p0, arrive 34 + 28 = 62; d0: B = 2, K0 = 16 + 3 + 17 = 36,
    # S(3) = 3 + (108 + 6)/16 = 10.125: finish 72.125, on d1 62 + 36 = 98: d0.
    # There: joins at A's first boundary at or after 62: S(14) = 14 + (238 + 91)/16 = 34.5625 -> 62.563
    # (S(13) = 13 + (221 + 78)/16 = 31.6875 -> 59.688). K0 = 16 + 15 + 17 = 48: S(3) = 3 + (144 + 6)/16 = 12.375:
    # B ends at 74.938. A has 15 + 3 tokens, 23 to go: 23 + (23·34 + 253)/16 = 87.6875 -> 162.6255 -> 162.626.
    fast = decode("d0", latency=DecodeLatency(((1, 1.0), (2, 1.0)), 0.0625), max_batch=2)
    where = cluster(pools(1), [fast, decode("d1", ms=12.0)])
    pair = Workflow("w", "app", 0, (call("A", output=41), call("B", tool=34000)))
    assert reference_standalone_us(pair, where) == 162626
