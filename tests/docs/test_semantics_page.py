"""docs/semantics.md is executed: its tables are read from the page and held against the engine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import hexopt
from hexopt.clusters.files import parse_cluster
from hexopt.core.cluster import (
    Cluster,
    DecodeInstance,
    DecodeLatency,
    Network,
    PrefillInstance,
    PrefillLatency,
)
from hexopt.core.plan import Decision, Plan
from hexopt.core.streams import stream
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.errors import PlanError
from hexopt.sim.predictors import PREDICTORS, make_predictor
from hexopt.sim.result import RunResult
from tests.invariants.evidence import plain_rows

PAGE = (Path(__file__).parents[2] / "docs" / "semantics.md").read_text(encoding="utf-8")
ROOT = Path(__file__).parents[2]

Table = list[dict[str, str]]


def section(title: str) -> str:
    """The text under a heading, down to the next of the same or a higher level."""
    heading = re.search(rf"^(#+) {re.escape(title)}.*\n", PAGE, re.M)
    assert heading is not None, f"docs/semantics.md has no section '{title}'"
    rest = PAGE[heading.end() :]
    following = re.search(rf"^#{{1,{len(heading[1])}}} ", rest, re.M)
    return rest if following is None else rest[: following.start()]


def tables(text: str) -> list[Table]:
    found: list[Table] = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        head, _, *body = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines())
        found.append([dict(zip(head, cells, strict=True)) for cells in body])
    return found


def number(cell: str) -> int | None:
    return None if cell == "–" else int(cell.replace(",", ""))


# ----- the page and the code name the same things --------------------------------------------------------------------


def test_sections_keep_their_numbers() -> None:
    """The code cites "semantics, section N"; what it cites must be there."""
    numbers = [int(n) for n in re.findall(r"^## (\d+)\. ", PAGE, re.M)]
    assert numbers == list(range(1, 11))
    cited = set()
    for path in (ROOT / "src").rglob("*.py"):
        for group in re.findall(r"semantics(?:\.md)?, sections? ([\d, and]+)", path.read_text(encoding="utf-8")):
            cited |= {int(n) for n in re.findall(r"\d+", group)}
    assert {3, 4, 5, 6, 7} <= cited <= set(numbers)


def test_columns() -> None:
    (listed,) = tables(section("9."))
    result = worked(section("10."))
    for row in listed:
        name = row["Table"].strip("`")
        assert row["Columns"].strip("`").split(", ") == list(getattr(result, name).columns), name
    assert [row["Table"] for row in listed] == ["`calls`", "`workflows`", "`instances`", "`decisions`", "`plans`"]


def test_triggers_are_listed() -> None:
    (listed,) = tables(section("6.1"))
    assert [row["Trigger"].strip("`") for row in listed] == [trigger.name for trigger in Trigger]


def test_predictors_are_listed() -> None:
    (listed,) = tables(section("2."))
    assert [row["Predictor"].strip("`") for row in listed] == list(PREDICTORS)


def test_predictors_say_what_the_page_says() -> None:
    calls = tuple(Call(f"c{i}", (), 10, output) for i, output in enumerate((3, 4, 100, 7)))
    trace = Trace((Workflow("w0", "a", 0, calls), Workflow("w1", "b", 0, (Call("c", (), 10, 50),))))
    mean = make_predictor("app-mean")
    mean.reset(trace, stream(0, "predictor"))
    assert (mean.predict(0, 0), make_predictor("app-mean:9").name) == (256, "app-mean:9")
    mean.observe(0, 0)
    mean.observe(0, 1)
    assert mean.predict(0, 2) == 4  # 3.5, half up
    assert mean.predict(1, 0) == 256  # another application
    noisy = make_predictor("noisy:0.5")
    noisy.reset(trace, stream(7, "predictor"))
    z = stream(7, "predictor").standard_normal(5)
    expected = [max(1, round(n * float(e))) for n, e in zip((3, 4, 100, 7, 50), np.exp(0.5 * z), strict=True)]
    assert [noisy.predict(0, i) for i in range(4)] + [noisy.predict(1, 0)] == expected


def test_candidates_hold_the_call_and_a_call_of_one_token_needs_no_room() -> None:
    """Section 2: the one fact derived from truth."""
    small = where_all_states_last("dispatch", admission_waits=True)  # d0 holds 4 blocks, d1 64
    small = replace(small, prefill=(small.prefill[0], replace(small.prefill[1], kv_tokens=32)))
    calls = (Call("fits", (), 32, 32), Call("long", (), 32, 33), Call("one", (), 80, 1), Call("wide", (), 33, 2))
    seen: dict[str, tuple[list[int], list[int]]] = {}

    class Look(Meddler):
        def plan(self, view: View) -> Plan:
            seen.update({c.call_id: (list(c.prefill_candidates), list(c.decode_candidates)) for c in view.pool})
            return Plan([Decision(c.key, 0, 1, 0.0) for c in view.pool])

    hexopt.simulate(Trace((Workflow("w", "a", 0, calls),)), small, Look(CallState.POOL, CHANGES["priority only"][1]))
    assert seen == {
        "fits": ([0, 1], [0, 1]),
        "long": ([0, 1], [1]),
        "one": ([0], [0, 1]),
        "wide": ([0], [0, 1]),
    }


# ----- section 10: the worked example --------------------------------------------------------------------------------


def worked(text: str, kv_tokens: int | None = None) -> RunResult:
    """Simulate the example as the page states it."""
    toml = re.search(r"```toml\n(.*?)```", text, re.S)
    assert toml is not None
    cluster = parse_cluster(toml[1].encode(), "docs/semantics.md", "worked")
    if kv_tokens is not None:
        cluster = replace(cluster, decode=(replace(cluster.decode[0], kv_tokens=kv_tokens),))
    arrivals = {"w0": 0, "w1": 2000}
    assert "`w0` arrives at 0 µs, `w1` at 2,000 µs" in text
    rows = tables(text)[0]
    flows = []
    for name, arrival in arrivals.items():
        own = [row for row in rows if row["workflow"] == name]
        ids = [row["call"] for row in own]
        calls = [
            Call(
                row["call"],
                tuple(ids.index(parent) for parent in row["parents"].split(", ") if parent != "–"),
                number(row["prompt"]) or 0,
                number(row["output"]) or 0,
                number(row["tool_us"]),
            )
            for row in own
        ]
        flows.append(Workflow(name, "a", arrival, tuple(calls)))
    return hexopt.simulate(Trace(tuple(flows)), cluster, hexopt.make_policy("fcfs"), predictor="oracle")


def assert_times(expected: Table, result: RunResult) -> None:
    assert [row["call"] for row in expected] == list(result.calls["call_id"])
    for want, have in zip(expected, plain_rows(result.calls), strict=True):
        for column, cell in want.items():
            if column != "call":
                assert have[column.replace(" ", "_") + "_us"] == number(cell), f"{want['call']}: {column}"


def test_worked_example() -> None:
    text = section("10.")
    _, times, instances, ratios, tight = tables(text)
    result = worked(text)
    assert_times(times, result)
    for want, have in zip(instances, plain_rows(result.instances), strict=True):
        names = {
            "kv capacity": "kv_capacity_blocks",
            "kv peak": "kv_peak_blocks",
            "busy": "busy_us",
            "nic busy": "nic_busy_us",
        }
        for column, cell in want.items():
            if column == "name":
                assert have["name"] == cell
            else:
                assert have[names.get(column, column)] == number(cell), f"{want['name']}: {column}"
    for want, have in zip(ratios, plain_rows(result.workflows), strict=True):
        assert (have["latency_us"], have["standalone_us"]) == (number(want["latency"]), number(want["standalone"]))
        assert have["ratio"] == float(Fraction(want["ratio"]))
    assert "`kv_tokens = 208`" in text
    assert_times(tight, worked(text, kv_tokens=208))


def test_worked_example_can_fail() -> None:
    text = section("10.")
    _, times, *_ = tables(text)
    times[2]["join"] = "53,531"
    with pytest.raises(AssertionError, match="c: join"):
        assert_times(times, worked(text))


# ----- section 6.4: what can be decided ------------------------------------------------------------------------------


class Meddler:
    """Places all calls on (0, 0), then looks every 100 µs until the target is in a state and decides about it once."""

    name: ClassVar[str] = "meddler"
    plan_latency_us = 0

    def __init__(self, state: CallState, change: Callable[[CallView], Decision]) -> None:
        self.state = state
        self.change = change
        self.done = False
        self.met: CallView | None = None

    def reset(self, *_: Any) -> None:
        pass

    def plan(self, view: View) -> Plan:
        decisions = []
        for call in view.pool:
            if call.call_id == "target":
                self.met = call
            if call.call_id != "target" or self.state != CallState.POOL:
                decisions.append(Decision(call.key, 0, 0, float(call.key)))
        if self.met is not None and not self.done and self.met.state == self.state:
            if self.state != CallState.POOL:
                decisions = [d for d in decisions if d.call != self.met.key]
            self.done = True
            decisions.append(self.change(self.met))
        return Plan(decisions, wake_us=None if self.done else view.now_us + 100)


def where_all_states_last(binding: str, admission_waits: bool) -> Cluster:
    """The target, which comes last, waits in every state: p0 and the wire are slow, d0 takes one call at a time."""
    decode = DecodeInstance("d0", 64 if admission_waits else 1024, 1e6, 100, DecodeLatency(((1, 1.0),), 0.0), 1)
    prefill = PrefillInstance("p0", 1024, 1e6, 100, PrefillLatency(((512, 2.0),), 0.0, 0.0))
    return Cluster(
        "states",
        "none",
        (prefill, replace(prefill, name="p1")),
        (decode, replace(decode, name="d1", kv_tokens=1024)),
        Network(1.0, 500),
        binding="handoff" if binding == "handoff" else "dispatch",
    )


CHANGES: dict[str, tuple[str, Callable[[CallView], Decision]]] = {
    "priority only": ("dispatch", lambda c: Decision(c.key, max(0, c.prefill), max(0, c.decode), -5.0)),
    "another decode instance, `dispatch`": ("dispatch", lambda c: Decision(c.key, 0, 1, 0.0)),
    "another decode instance, `handoff`": ("handoff", lambda c: Decision(c.key, 0, 1, 0.0)),
    "another prefill instance": ("handoff", lambda c: Decision(c.key, 1, 0, 0.0)),
}


FLOWS = (
    Workflow("w0", "a", 0, (Call("first", (), 16, 40),)),
    Workflow("w1", "a", 0, (Call("target", (), 16, 4), Call("after", (), 16, 40), Call("last", (0,), 16, 2, 100))),
)


def decidable(state: CallState, change: str) -> bool:
    """What the table of the page says."""
    (listed,) = tables(section("6.4"))
    (row,) = (row for row in listed if row["State"] == f"`{state.name}`")
    assert row[change] in ("yes", "no")
    return row[change] == "yes"


def decisions_on_target(result: RunResult) -> list[dict[str, Any]]:
    return plain_rows(result.decisions[result.decisions["call_id"] == "target"])


@pytest.mark.parametrize("state", list(CallState), ids=lambda state: state.name)
@pytest.mark.parametrize("change", CHANGES)
def test_what_can_be_decided(state: CallState, change: str) -> None:
    """When a plan is made: carried out at once, or a PlanError."""
    binding, decide = CHANGES[change]
    policy = Meddler(state, decide)
    cluster = where_all_states_last(binding, admission_waits=state == CallState.ADMISSION)

    def run() -> RunResult:
        return hexopt.simulate(Trace(FLOWS), cluster, policy, predictor="oracle")

    if decidable(state, change):
        target = decisions_on_target(run())
        wanted = decide(policy.met)  # type: ignore[arg-type]
        assert target[-1]["priority"] == wanted.priority
        assert target[-1]["prefill_instance"] == f"p{wanted.prefill}"
        assert target[-1]["decode_instance"] == f"d{wanted.decode}"
    else:
        with pytest.raises(PlanError):
            run()
    assert policy.done, "the target was never in that state"


class Late:
    """Decides about the target at 0; its fallback places everything meanwhile."""

    name: ClassVar[str] = "late"
    triggers = frozenset({Trigger.CALL_READY})

    def __init__(self, plan_latency_us: int, change: Callable[[CallView], Decision] | None) -> None:
        self.plan_latency_us = plan_latency_us
        self.change = change
        self.fallback = Meddler(CallState.POOL, lambda call: Decision(call.key, 0, 0, 0.0))

    def reset(self, *_: Any) -> None:
        pass

    def plan(self, view: View) -> Plan:
        if self.change is None:
            return Plan()
        return Plan([self.change(call) for call in view.pool if call.call_id == "target" and view.now_us == 0])


@pytest.mark.parametrize("state", [state for state in CallState if state != CallState.POOL], ids=lambda s: s.name)
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_overtaken(state: CallState, change: str) -> None:
    """When a plan lands: carried out, or dropped without a word."""
    binding, decide = CHANGES[change]
    cluster = where_all_states_last(binding, admission_waits=state == CallState.ADMISSION)

    def run(latency: int, what: Callable[[CallView], Decision] | None) -> RunResult:
        return hexopt.simulate(Trace(FLOWS), cluster, Late(latency, what), predictor="oracle")

    target = next(row for row in plain_rows(run(10**6, None).calls) if row["call_id"] == "target")
    steps = ("placed", "prefill_start", "prefill_end", "admit", "transfer_end", "join", "complete")
    times = [target[f"{step}_us"] for step in steps] + [target["complete_us"] + 20]
    begin, end = times[state - 1], times[state]
    assert end - begin > 1, "the target is never in that state"
    landing = (begin + end) // 2
    result = run(landing, decide)
    at_landing = [row for row in decisions_on_target(result) if row["at_us"] == landing]
    assert len(at_landing) == decidable(state, change)
    assert result.summary["finished_calls"] == 4
