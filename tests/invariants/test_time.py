"""Clocks only go forward, a stop only looks away earlier, and work does not grow with output length."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexopt.core.view import Trigger
from hexopt.core.workflow import Trace, Workflow
from hexopt.sim.decode import DecodeEngine
from hexopt.sim.engine import Simulation
from tests.invariants.evidence import STEPS, Evidence, plain_rows
from tests.invariants.runs import POLICIES, Recorder, Setting, profile, run_settings


class Instants:
    """Notes the instant of every dispatch phase, and of every wake-up, while a test runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[int] = []
        self.woken: set[int] = set()
        wake = Simulation._on_wake

        def woken(simulation: Simulation, now: int, payload: None) -> None:
            self.woken.add(now)
            wake(simulation, now, payload)

        monkeypatch.setattr(Simulation, "_on_wake", woken)
        dispatch = Simulation._dispatch

        def noted(simulation: Simulation, now: int) -> None:
            self.seen.append(now)
            dispatch(simulation, now)

        monkeypatch.setattr(Simulation, "_dispatch", noted)


@pytest.fixture
def instants(monkeypatch: pytest.MonkeyPatch) -> Instants:
    return Instants(monkeypatch)


def assert_forward(times: list[int], what: str) -> None:
    assert all(isinstance(t, int) and t >= 0 for t in times), f"{what}: an instant is no whole number of µs"
    assert all(a < b for a, b in pairwise(times)), f"{what}: time stands still or goes back"


def test_clocks_go_forward(instants: Instants) -> None:
    @profile(80)
    @given(run_settings())
    def check(setting: Setting) -> None:
        instants.seen.clear()
        recorder = Recorder(setting.make_policy())
        result = setting.run(recorder)
        # One dispatch phase an instant, one invocation a phase, and nothing happens between instants.
        assert_forward(instants.seen, "dispatch phases")
        assert_forward([now for now, _, _ in recorder.seen], "invocations")
        assert plain_rows(result.plans) == [
            {"at_us": now, "latency_us": recorder.plan_latency_us} for now, _, _ in recorder.seen
        ]
        e = Evidence.of(result)
        assert set(e.instants) <= {*instants.seen, *result.calls["transfer_start_us"].dropna()}
        landings = {now + recorder.plan_latency_us for now, _, _ in recorder.seen}
        if recorder.fallback is None:
            assert {row["at_us"] for row in e.tables["decisions"]} <= landings
        # One plan in flight: the next is made no earlier than the last has landed.
        for (made, _, _), (later, _, _) in pairwise(recorder.seen):
            assert made + recorder.plan_latency_us <= later

    check()


def test_clocks_checker_rejects_a_clock_that_stands_still() -> None:
    for bad in ([3, 3], [4, 3], [-1], [1.5]):
        with pytest.raises(AssertionError):
            assert_forward(bad, "made up")  # type: ignore[arg-type]


# ----- triggers ----------------------------------------------------------------------------------------------------


def happenings(e: Evidence, seen: list[Any]) -> dict[int, set[Trigger]]:
    """What happened at each instant, from the tables and from the wake-ups that plans asked for."""
    found: dict[int, set[Trigger]] = defaultdict(set)
    end = max(life["complete_us"] for life in e.lives)
    for life in e.lives:
        found[life["ready_us"]].add(Trigger.CALL_READY)
        found[life["complete_us"]].add(Trigger.CALL_COMPLETE)
        if life.decodes:
            found[life["transfer_end_us"]].add(Trigger.TRANSFER_END)
        now = life["prefill_end_us"]
        p = e.p_index[life["prefill_instance"]]
        # The queue when step 1 begins: what was placed there before this instant and has not started before it.
        placed = [other.in_force(now - 1) for other in e.lives if other["prefill_start_us"] >= now]
        if all(where is None or where[0] != p for where in placed):
            found[now].add(Trigger.PREFILL_IDLE)
    for _, _, plan in seen:
        if plan.wake_us is not None and plan.wake_us <= end:
            found[plan.wake_us].add(Trigger.WAKE_UP)
    return found


def assert_triggers(e: Evidence, seen: list[Any], subscribed: frozenset[Trigger], plan_latency_us: int) -> None:
    """The policy is called with all it subscribes to that happened since, and as soon as no plan is in flight."""
    found = happenings(e, seen)
    pending: set[Trigger] = set()
    expected = []
    free = 0
    landings = {now + plan_latency_us for now, _, _ in seen}
    for now in sorted({*found, *landings}):
        pending |= found.get(now, set()) & subscribed
        if pending and now >= free and now <= e.instants[-1]:
            expected.append((now, sorted(int(trigger) for trigger in pending)))
            pending = set()
            free = now + plan_latency_us
    assert [(now, shot["triggers"]) for now, shot, _ in seen] == expected


def recorded(setting: Setting, everything: bool) -> tuple[Evidence, Recorder]:
    recorder = Recorder(setting.make_policy())
    if everything:
        recorder.triggers = frozenset(Trigger)
    return Evidence.of(setting.run(recorder)), recorder


@profile(100)
@given(run_settings(), st.booleans())
def test_triggers_are_what_happened(setting: Setting, everything: bool) -> None:
    e, recorder = recorded(setting, everything)
    assert_triggers(e, recorder.seen, frozenset(recorder.triggers), recorder.plan_latency_us)
    for now, shot, _ in recorder.seen:
        order = [(shot["calls"][name]["ready_us"], *name) for name in shot["pool"]]
        assert order == sorted(order), f"the pool at {now} is out of order"


def test_trigger_checker_rejects_another_trigger() -> None:
    from tests.invariants.test_tables import crowded

    base = crowded()
    e, recorder = recorded(Setting(base.trace, base.cluster, "hexagent", 700, "app-mean:8"), everything=True)
    given_to = {trigger for _, shot, _ in recorder.seen for trigger in shot["triggers"]}
    assert given_to == {0, 1, 2, 3}
    assert_triggers(e, recorder.seen, recorder.triggers, 700)
    for i, (_, shot, _) in enumerate(recorder.seen):
        for trigger in Trigger:
            changed = copy.deepcopy(recorder.seen)
            changed[i][1]["triggers"] = sorted({int(trigger)} ^ set(shot["triggers"]))
            with pytest.raises(AssertionError):
                assert_triggers(e, changed, recorder.triggers, 700)


# ----- stop ----------------------------------------------------------------------------------------------------------


def assert_cut(whole: Evidence, cut: Any, stop_us: int) -> None:
    """The tables of a stopped run are those of the whole run with all that came later left out."""
    for life, row in zip(whole.lives, plain_rows(cut.calls), strict=True):
        for step in STEPS:
            expected = life[step] if life[step] is not None and life[step] <= stop_us else None
            assert row[step] == expected, f"{row['call_id']}: {step} at a stop at {stop_us}"
        placed = life.in_force(stop_us)
        names = (None, None, None)
        if placed is not None:
            names = (whole.cluster.prefill[placed[0]].name, whole.cluster.decode[placed[1]].name, placed[2])
        assert (row["prefill_instance"], row["decode_instance"], row["priority"]) == names
        done = life["complete_us"] <= stop_us
        assert row["decode_iterations"] == (life.spec.output_tokens - 1 if done else None)
    assert plain_rows(cut.decisions) == [row for row in whole.tables["decisions"] if row["at_us"] <= stop_us]
    for full, row in zip(whole.tables["workflows"], plain_rows(cut.workflows), strict=True):
        done = full["complete_us"] <= stop_us
        assert row["complete_us"] == (full["complete_us"] if done else None)
        assert row["ratio"] == (full["ratio"] if done else float("inf"))
    for p, spec in enumerate(whole.cluster.prefill):
        spans = {(x["prefill_start_us"], x["prefill_end_us"]) for x in whole.on_prefill(p)}
        row = plain_rows(cut.instances)[p]
        assert row["busy_us"] == sum(min(end, stop_us) - start for start, end in spans if start < stop_us), spec.name
        assert row["batches"] == sum(start <= stop_us for start, _ in spans)
    wires = [(x["admit_us"], x["transfer_start_us"], x["transfer_start_us"] + whole.wire(x), x) for x in whole.lives
             if x.decodes]  # fmt: skip
    for row in plain_rows(cut.instances):
        column = f"{row['role']}_instance"
        busy = sum(
            max(0, min(end, stop_us) - start)
            for admit, start, end, x in wires
            if x[column] == row["name"] and admit <= stop_us
        )
        assert row["nic_busy_us"] == busy, row["name"]


@profile(80)
@given(run_settings(), st.sampled_from((0, 1, 3000, 9000, 20_000, 10**9)))
def test_a_stopped_run_is_the_beginning_of_the_whole_run(setting: Setting, stop_us: int) -> None:
    assert_cut(Evidence.of(setting.run()), setting.run(stop_us=stop_us), stop_us)


def test_stop_checker_rejects_another_stop() -> None:
    from tests.invariants.test_tables import crowded

    e = crowded()
    setting = Setting(e.trace, e.cluster, "hexagent", 700, "app-mean:8")
    assert_cut(e, setting.run(stop_us=30_000), 30_000)
    with pytest.raises(AssertionError):
        assert_cut(e, setting.run(stop_us=30_000), 31_000)


# ----- work ----------------------------------------------------------------------------------------------------------


def longer(trace: Trace, factor: int) -> Trace:
    """The same trace with every output (but those of one token) that many times as long."""
    return replace(trace, workflows=tuple(_longer(flow, factor) for flow in trace.workflows))


def _longer(flow: Workflow, factor: int) -> Workflow:
    calls = tuple(
        replace(c, output_tokens=1 + (c.output_tokens - 1) * factor) if c.output_tokens > 1 else c for c in flow.calls
    )
    return replace(flow, calls=calls)


def assert_little_work(instants: Instants, result: Any, calls: int) -> None:
    # A call has at most: ready, end of prefill, end of transfer, the boundary where it joins, the one where it leaves.
    # Policies may wait for something else meanwhile, but not in step with the decoding.
    seen, woken = len(instants.seen), len(instants.woken)
    assert seen <= 5 * calls + woken, f"{seen} instants for {calls} calls and {woken} wake-ups"
    assert woken <= 10 * calls, f"{woken} wake-ups for {calls} calls"
    segments = int(result.instances["segments"].sum())
    assert segments <= 2 * calls, f"{segments} segments for {calls} calls"


def roomier(setting: Setting, factor: int) -> Setting:
    decode = tuple(replace(d, kv_tokens=d.kv_tokens * factor) for d in setting.cluster.decode)
    return replace(setting, trace=longer(setting.trace, factor), cluster=replace(setting.cluster, decode=decode))


@pytest.mark.parametrize("factor", [1, 1000, 100_000])
def test_work_does_not_grow_with_output_length(factor: int, instants: Instants) -> None:
    @profile(40)
    @given(run_settings(policies=POLICIES, latencies=(0,)))
    def check(setting: Setting) -> None:
        instants.seen.clear()
        instants.woken.clear()
        result = roomier(setting, factor).run()
        assert_little_work(instants, result, setting.trace.call_count)

    check()


def test_work_checker_rejects_stepping_through_iterations(instants: Instants, monkeypatch: pytest.MonkeyPatch) -> None:
    start_segment = DecodeEngine.start_segment

    def step(engine: DecodeEngine, now_us: int) -> Any:
        joined = start_segment(engine, now_us)
        if engine.open:
            engine._next_boundary = 1
            engine.next_us = now_us + engine._latency.decode_us(engine.index, engine.batch, engine._context, 1)
        return joined

    monkeypatch.setattr(DecodeEngine, "start_segment", step)
    from tests.invariants.test_tables import crowded

    e = crowded()
    setting = roomier(Setting(e.trace, e.cluster, "fcfs", 0, "constant:8"), 10)
    result = setting.run()
    with pytest.raises(AssertionError):
        assert_little_work(instants, result, e.trace.call_count)
