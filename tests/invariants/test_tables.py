"""Every run certifies itself: its tables agree with each other and with the rules, whatever the policy."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from hexopt.core.cluster import (
    Cluster,
    DecodeInstance,
    DecodeLatency,
    Network,
    PrefillInstance,
    PrefillLatency,
)
from hexopt.core.workflow import Call, Trace, Workflow
from tests.invariants.evidence import CHECKS, Evidence
from tests.invariants.runs import Setting, profile, run_settings


@pytest.mark.parametrize("name", CHECKS)
def test_tables(name: str) -> None:
    @profile(150)
    @given(run_settings())
    def check(setting: Setting) -> None:
        CHECKS[name](Evidence.of(setting.run()))

    check()


@functools.cache
def crowded(kv_admission: str = "backfill", binding: str = "handoff", contention: str = "nic") -> Evidence:
    """A run in which every queue has somebody waiting: room for one small batch, three calls, one transfer."""
    decode = DecodeInstance("d0", 96, 1e6, 1000, DecodeLatency(((1, 1.0), (4, 2.0)), 0.01), 2)
    cluster = Cluster(
        "crowded",
        "none",
        (PrefillInstance("p0", 64, 1e6, 1000, PrefillLatency(((512, 2.0),), 0.0, 0.0), 20),),
        (decode, replace(decode, name="d1", kv_tokens=32)),
        Network(1.0, 500, "nic" if contention == "nic" else "none"),
        kv_admission="strict" if kv_admission == "strict" else "backfill",
        binding="handoff" if binding == "handoff" else "dispatch",
    )
    flows = tuple(
        Workflow(
            f"w{i}",
            "a",
            1000 * i,
            (
                Call("a", (), 10, 12),
                Call("b", (0,), 7, 9, 300),
                Call("c", (0,), 20, 1),
                Call("d", (), 8, 15 + 20 * i, 100),
            ),
        )
        for i in range(3)
    )
    return Evidence.of(Setting(Trace(flows), cluster, "hexagent", 700, "app-mean:8").run())


def waits(e: Evidence) -> list[list[int]]:
    """How long calls wait for prefill, admission, the wire and a place in the batch."""
    sent = [life for life in e.lives if life.decodes]
    return [
        [x["prefill_start_us"] - x["placed_us"] for x in e.lives],
        [x["admit_us"] - x["prefill_end_us"] for x in sent],
        [x["transfer_start_us"] - x["admit_us"] for x in sent],
        [x["join_us"] - x["transfer_end_us"] for x in sent],
    ]


@pytest.mark.parametrize("contention", ["nic", "none"])
@pytest.mark.parametrize("binding", ["handoff", "dispatch"])
@pytest.mark.parametrize("kv_admission", ["backfill", "strict"])
def test_crowded_run_is_legal_and_crowded(kv_admission: str, binding: str, contention: str) -> None:
    e = crowded(kv_admission, binding, contention)
    for check in CHECKS.values():
        check(e)
    prefill, admission, wire, batch = waits(e)
    assert max(prefill) > 0
    assert max(admission) > 0
    assert (max(wire) > 0) == (contention == "nic")
    assert max(batch) > 0
    assert any(len(x.decisions) > 1 for x in e.lives)


def test_modes_of_the_crowded_cluster_differ() -> None:
    """Or the checks above would not tell one mode from another."""
    switches = (("backfill", "strict"), ("handoff", "dispatch"), ("nic", "none"))
    tables = {modes: repr(crowded(*modes).tables["calls"]) for modes in itertools.product(*switches)}
    for i, values in enumerate(switches):
        flipped = {m: (*m[:i], values[1 - values.index(m[i])], *m[i + 1 :]) for m in tables}
        assert any(tables[m] != tables[other] for m, other in flipped.items()), f"{values} make no difference"


def shift(us: int) -> Callable[[Any], Any]:
    return lambda value: value + us


CORRUPTIONS: list[tuple[str, str, int, str, Callable[[Any], Any]]] = [
    ("conservation", "calls", 0, "complete_us", lambda value: None),
    ("conservation", "calls", 0, "decode_iterations", shift(1)),
    ("conservation", "calls", 1, "call_id", lambda value: "a"),
    ("conservation", "workflows", 0, "complete_us", shift(1)),
    ("order-of-life", "calls", 0, "prefill_start_us", shift(-(10**6))),
    ("order-of-life", "calls", 0, "join_us", shift(-(10**6))),
    ("order-of-life", "calls", 2, "admit_us", lambda value: 5),
    ("causes", "calls", 1, "ready_us", shift(1)),
    ("causes", "calls", 0, "complete_us", shift(1)),
    ("decisions", "calls", 0, "placed_us", shift(1)),
    ("decisions", "calls", 0, "priority", shift(1)),
    ("decisions", "decisions", 0, "at_us", shift(10**9)),
    ("prefill-batches", "calls", 0, "prefill_end_us", shift(1)),
    ("prefill-batches", "calls", 0, "prefill_start_us", shift(-1)),
    ("prefill-batches", "instances", 0, "busy_us", shift(1)),
    ("prefill-batches", "instances", 0, "batches", shift(1)),
    ("prefill-kv", "instances", 0, "kv_peak_blocks", shift(-1)),
    ("prefill-kv", "calls", 0, "transfer_end_us", shift(10**9)),
    ("prefill-queues", "calls", 4, "prefill_start_us", shift(1)),
    ("prefill-queues", "decisions", 1, "priority", shift(10**9)),
    ("decode-kv", "calls", 0, "complete_us", shift(10**9)),
    ("decode-kv", "instances", 1, "kv_peak_blocks", shift(1)),
    ("admission", "calls", 0, "admit_us", shift(1)),
    ("admission", "calls", 3, "complete_us", shift(10**9)),
    ("transfers", "calls", 0, "transfer_start_us", shift(1)),
    ("transfers", "calls", 0, "transfer_end_us", shift(-1)),
    ("transfers", "instances", 0, "nic_busy_us", shift(1)),
    ("segments", "calls", 0, "join_us", shift(1)),
    ("segments", "calls", 0, "complete_us", shift(1)),
    ("segments", "instances", 1, "iterations", shift(1)),
    ("segments", "instances", 1, "segments", shift(1)),
    ("segments", "instances", 1, "busy_us", shift(1)),
    ("joins", "calls", 0, "transfer_end_us", shift(-(10**6))),
]


@pytest.mark.parametrize(("check", "table", "row", "column", "change"), CORRUPTIONS)
def test_checks_reject_a_corrupted_table(
    check: str, table: str, row: int, column: str, change: Callable[[Any], Any]
) -> None:
    e = crowded()
    with pytest.raises(AssertionError):
        CHECKS[check](e.corrupted(table, row, column, change(e.tables[table][row][column])))


def rejected(e: Evidence) -> bool:
    for check in CHECKS.values():
        try:
            check(e)
        except AssertionError:
            return True
    return False


def test_no_number_can_be_changed_unnoticed() -> None:
    e = crowded()
    assert not rejected(e)
    for table in ("calls", "instances", "workflows"):
        for i, row in enumerate(e.tables[table]):
            for column, value in row.items():
                # Arrivals and standalone latencies stand for themselves here; ratios have a test of their own.
                if isinstance(value, int) and column not in ("standalone_us", "arrival_us"):
                    for us in (-1, 1):
                        assert rejected(e.corrupted(table, i, column, value + us)), (table, i, column, us)


def test_every_check_is_shown_to_reject_something() -> None:
    assert {name for name, *_ in CORRUPTIONS} == set(CHECKS)
