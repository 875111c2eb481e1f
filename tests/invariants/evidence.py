"""A run judged by its tables alone: each check recomputes what the tables must say of one another.

Nothing of the engine is used. The tables and the trace say what happened when; from that every queue, batch,
reservation and booking of every instant can be worked out again, slowly, and held against docs/semantics.md. The
arithmetic is the reference engine's. Checks raise ``AssertionError``; docs/invariants.md numbers them.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from hexopt.core.cluster import Cluster
from hexopt.core.workflow import Call, Trace
from hexopt.sim.result import RunResult
from tests.oracle.reference import blocks, boundary, capacity, prefill_us, wire_us

Row = dict[str, Any]

STEPS = (
    "ready_us", "placed_us", "prefill_start_us", "prefill_end_us", "admit_us", "transfer_start_us", "transfer_end_us",
    "join_us", "complete_us",
)  # fmt: skip
"""The instants of a call's life, in order."""


def plain_rows(table: pd.DataFrame) -> list[Row]:
    """A table as plain values; missing, in whatever way, is None."""

    def plain(value: Any) -> Any:
        if value is None or value is pd.NA or value != value:
            return None
        return value.item() if hasattr(value, "item") else value

    columns = [[plain(value) for value in table[name].tolist()] for name in table.columns]
    return [dict(zip(table.columns, cells, strict=True)) for cells in zip(*columns, strict=True)]


@dataclass
class Life:
    """One row of the calls table with the call it is about and the decisions on it: (at, prefill, decode, priority)."""

    workflow: int
    index: int
    spec: Call
    row: Row
    decisions: list[tuple[int, int, int, float]]

    def __getitem__(self, column: str) -> Any:
        return self.row[column]

    def in_force(self, now: int) -> tuple[int, int, float] | None:
        """(prefill, decode, priority) after the decisions of instant ``now``; None while in the pool."""
        last = None
        for at, *decision in self.decisions:
            if at <= now:
                last = decision
        return None if last is None else (last[0], last[1], last[2])

    def order(self, now: int) -> tuple[float, int, int, int]:
        """Place in a local queue at ``now`` (semantics, section 6)."""
        placed = self.in_force(now)
        assert placed is not None, f"{self.row['call_id']} is in a queue at {now} and was never placed"
        return placed[2], self["ready_us"], self.workflow, self.index

    @property
    def decodes(self) -> bool:
        return self.spec.output_tokens > 1


class Evidence:
    """The tables of a complete run."""

    def __init__(self, trace: Trace, cluster: Cluster, tables: dict[str, list[Row]]) -> None:
        self.trace = trace
        self.cluster = cluster
        self.tables = tables
        self.p_index = {p.name: i for i, p in enumerate(cluster.prefill)}
        self.d_index = {d.name: i for i, d in enumerate(cluster.decode)}
        decisions = defaultdict(list)
        for row in tables["decisions"]:
            decisions[row["workflow_id"], row["call_id"]].append(
                (
                    row["at_us"],
                    self.p_index[row["prefill_instance"]],
                    self.d_index[row["decode_instance"]],
                    row["priority"],
                )
            )
        specs = [(w, c, call) for w, flow in enumerate(trace.workflows) for c, call in enumerate(flow.calls)]
        self.lives = [
            Life(w, c, spec, row, decisions[row["workflow_id"], row["call_id"]])
            for (w, c, spec), row in zip(specs, tables["calls"], strict=False)
        ]
        self.instants = sorted(
            {life[step] for life in self.lives for step in STEPS if life[step] is not None}
            | {row["at_us"] for row in tables["decisions"]}
        )

    @classmethod
    def of(cls, result: RunResult) -> Evidence:
        tables = {name: plain_rows(getattr(result, name)) for name in ("calls", "workflows", "instances", "decisions")}
        return cls(result.trace, result.cluster, tables)

    def corrupted(self, table: str, row: int, column: str, value: Any) -> Evidence:
        """The same with one cell changed."""
        tables = copy.deepcopy(self.tables)
        tables[table][row][column] = value
        return Evidence(self.trace, self.cluster, tables)

    def on_prefill(self, p: int) -> list[Life]:
        return [life for life in self.lives if self.p_index[life["prefill_instance"]] == p]

    def on_decode(self, d: int) -> list[Life]:
        """Calls that decoded there; those of one token were only bound."""
        return [life for life in self.lives if life.decodes and self.d_index[life["decode_instance"]] == d]

    def prompt_blocks(self, life: Life) -> int:
        return blocks(self.cluster, life.spec.prompt_tokens)

    def total_blocks(self, life: Life) -> int:
        return blocks(self.cluster, life.spec.prompt_tokens + life.spec.output_tokens)

    def prefill_row(self, p: int) -> Row:
        return self.tables["instances"][p]

    def decode_row(self, d: int) -> Row:
        return self.tables["instances"][len(self.cluster.prefill) + d]

    def wire(self, life: Life) -> int:
        p, d = self.p_index[life["prefill_instance"]], self.d_index[life["decode_instance"]]
        return wire_us(self.cluster, p, d, life.spec.prompt_tokens)


def released(life: Life) -> int:
    """When the prompt's KV leaves the prefill instance."""
    return int(life["transfer_end_us"] if life.decodes else life["prefill_end_us"])


# ----- what happens to one call ------------------------------------------------------------------------------------


def check_conservation(e: Evidence) -> None:
    wanted = [(w.workflow_id, c.call_id) for w in e.trace.workflows for c in w.calls]
    assert [(row["workflow_id"], row["call_id"]) for row in e.tables["calls"]] == wanted, (
        "calls of the trace, each once"
    )
    for life in e.lives:
        assert life["complete_us"] is not None, f"{life['call_id']} did not complete"
        assert life["decode_iterations"] == life.spec.output_tokens - 1, f"{life['call_id']}: tokens made"
    for w, (flow, row) in enumerate(zip(e.trace.workflows, e.tables["workflows"], strict=True)):
        last = max(life["complete_us"] for life in e.lives if life.workflow == w)
        assert row["complete_us"] == last, f"{flow.workflow_id} completes with its last call"
        assert row["latency_us"] == last - flow.arrival_us


def check_order_of_life(e: Evidence) -> None:
    for life in e.lives:
        r = life.row
        if life.decodes:
            assert (
                r["ready_us"] <= r["placed_us"] <= r["prefill_start_us"] < r["prefill_end_us"] <= r["admit_us"]
                <= r["transfer_start_us"] < r["transfer_end_us"] <= r["join_us"] < r["complete_us"]
            ), r  # fmt: skip
        else:
            assert r["ready_us"] <= r["placed_us"] <= r["prefill_start_us"] < r["prefill_end_us"] == r["complete_us"], r
            skipped = [r[s] for s in ("admit_us", "transfer_start_us", "transfer_end_us", "join_us")]
            assert skipped == [None] * 4, f"one token needs no transfer and no decoding: {r}"


def check_causes(e: Evidence) -> None:
    ends = {(life.workflow, life.index): life["complete_us"] for life in e.lives}
    for life in e.lives:
        arrival = e.trace.workflows[life.workflow].arrival_us
        cause = max((ends[life.workflow, parent] for parent in life.spec.parents), default=arrival)
        assert life["ready_us"] == cause + life.spec.tool_us, f"{life['call_id']} becomes ready with its cause"


def check_decisions(e: Evidence) -> None:
    handoff = e.cluster.binding == "handoff"
    times = [row["at_us"] for row in e.tables["decisions"]]
    assert times == sorted(times), "decisions stand in order of time"
    assert len(times) == sum(len(life.decisions) for life in e.lives)
    for life in e.lives:
        r = life.row
        assert life.decisions, f"{r['call_id']} ran without a decision"
        assert r["placed_us"] == life.decisions[0][0], "the first decision places"
        _, p, d, priority = life.decisions[-1]
        assert (r["prefill_instance"], r["decode_instance"], r["priority"]) == (
            e.cluster.prefill[p].name, e.cluster.decode[d].name, priority,
        ), "the last decision is in force"  # fmt: skip
        for before, after in pairwise(life.decisions):
            assert after[1:] != before[1:], f"{r['call_id']}: a decision that changes nothing"
            # Step 1 comes before steps 2 to 4, so a decision of the very instant of a start still counts.
            assert after[0] <= (r["complete_us"] if r["join_us"] is None else r["join_us"])
            if after[1] != before[1]:
                assert after[0] <= r["prefill_start_us"], f"{r['call_id']}: a started prefill was moved"
            if after[2] != before[2]:
                bound = (r["admit_us"] if life.decodes else r["complete_us"]) if handoff else r["prefill_start_us"]
                assert after[0] <= bound, f"{r['call_id']}: re-bound too late"
        for _, p, d, priority in life.decisions:
            assert e.prompt_blocks(life) <= capacity(e.cluster, e.cluster.prefill[p])
            assert not life.decodes or e.total_blocks(life) <= capacity(e.cluster, e.cluster.decode[d])
            assert math.isfinite(priority)


# ----- prefill -----------------------------------------------------------------------------------------------------


def check_prefill_batches(e: Evidence) -> None:
    for p, spec in enumerate(e.cluster.prefill):
        batches: dict[int, list[Life]] = defaultdict(list)
        for life in e.on_prefill(p):
            batches[life["prefill_start_us"]].append(life)
        spans = []
        for start, batch in sorted(batches.items()):
            prompts = [life.spec.prompt_tokens for life in batch]
            assert len(batch) == 1 or sum(prompts) <= spec.max_batch_tokens, f"{spec.name}: batch at {start} too large"
            ends = {life["prefill_end_us"] for life in batch}
            assert ends == {start + prefill_us(spec, prompts)}, f"{spec.name}: batch at {start} ends at {ends}"
            spans.append((start, *ends))
        assert_disjoint(spans, f"{spec.name}: batches")
        row = e.prefill_row(p)
        assert row["batches"] == len(spans)
        assert row["busy_us"] == sum(end - start for start, end in spans)


def check_prefill_kv(e: Evidence) -> None:
    for p, spec in enumerate(e.cluster.prefill):
        held = [(life["prefill_start_us"], released(life), e.prompt_blocks(life)) for life in e.on_prefill(p)]
        peak = peak_of(held)
        assert peak <= capacity(e.cluster, spec), f"{spec.name}: {peak} blocks held"
        assert e.prefill_row(p)["kv_peak_blocks"] == peak, f"{spec.name}: peak {peak}"
        assert e.prefill_row(p)["kv_capacity_blocks"] == capacity(e.cluster, spec)


def check_prefill_queues(e: Evidence) -> None:
    """At every instant an idle instance starts exactly the longest legal front of its queue, a busy one nothing."""
    for p, spec in enumerate(e.cluster.prefill):
        here = e.on_prefill(p)
        for now in e.instants:
            started = [life for life in here if life["prefill_start_us"] == now]
            if any(life["prefill_start_us"] < now < life["prefill_end_us"] for life in here):
                assert not started, f"{spec.name}: a batch starts at {now} beside another"
                continue
            queue = [
                life
                for life in e.lives
                if (placed := life.in_force(now)) is not None and placed[0] == p and life["prefill_start_us"] >= now
            ]
            room = capacity(e.cluster, spec) - sum(
                e.prompt_blocks(life) for life in here if life["prefill_start_us"] < now < released(life)
            )
            batch: list[Life] = []
            tokens = 0
            for life in sorted(queue, key=lambda life: life.order(now)):
                n = life.spec.prompt_tokens
                if e.prompt_blocks(life) > room or (batch and tokens + n > spec.max_batch_tokens):
                    break
                batch.append(life)
                tokens += n
                room -= e.prompt_blocks(life)
            assert same(batch, started), f"{spec.name}: at {now} {ids(batch)} should start, {ids(started)} do"


# ----- admission and transfer --------------------------------------------------------------------------------------


def check_decode_kv(e: Evidence) -> None:
    for d, spec in enumerate(e.cluster.decode):
        held = [(life["admit_us"], life["complete_us"], e.total_blocks(life)) for life in e.on_decode(d)]
        peak = peak_of(held)
        assert peak <= capacity(e.cluster, spec), f"{spec.name}: {peak} blocks reserved"
        assert e.decode_row(d)["kv_peak_blocks"] == peak, f"{spec.name}: peak {peak}"
        assert e.decode_row(d)["kv_capacity_blocks"] == capacity(e.cluster, spec)


def check_admission(e: Evidence) -> None:
    """At every instant exactly those calls are admitted that the walk over the admission queue reaches."""
    strict = e.cluster.kv_admission == "strict"
    for d, spec in enumerate(e.cluster.decode):
        for now in e.instants:
            queue = [
                life
                for life in e.lives
                if life.decodes and life["prefill_end_us"] <= now <= life["admit_us"] and _bound_to(life, now) == d
            ]
            room = capacity(e.cluster, spec) - sum(
                e.total_blocks(life) for life in e.on_decode(d) if life["admit_us"] < now < life["complete_us"]
            )
            admitted = []
            for life in sorted(queue, key=lambda life: life.order(now)):
                if e.total_blocks(life) <= room:
                    admitted.append(life)
                    room -= e.total_blocks(life)
                elif strict:
                    break
            actual = [life for life in e.on_decode(d) if life["admit_us"] == now]
            assert same(admitted, actual), f"{spec.name}: at {now} admitted {ids(actual)}, not {ids(admitted)}"


def _bound_to(life: Life, now: int) -> int | None:
    placed = life.in_force(now)
    return None if placed is None else placed[1]


def check_transfers(e: Evidence) -> None:
    """Transfers are booked in order of (admission, decode index, queue), each as early as both ends allow."""
    nic = e.cluster.network.contention == "nic"
    free: dict[str, int] = defaultdict(int)
    busy: dict[str, int] = defaultdict(int)
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    sent = [life for life in e.lives if life.decodes]
    for life in sorted(sent, key=lambda x: (x["admit_us"], e.d_index[x["decode_instance"]], x.order(x["admit_us"]))):
        ends = (life["prefill_instance"], life["decode_instance"])
        wire = e.wire(life)
        start = max(life["admit_us"], *(free[name] for name in ends)) if nic else life["admit_us"]
        assert life["transfer_start_us"] == start, f"{life['call_id']}: transfer from {start}"
        assert life["transfer_end_us"] == start + wire + e.cluster.network.latency_us, (
            f"{life['call_id']}: transfer end"
        )
        for name in ends:
            free[name] = start + wire
            busy[name] += wire
            spans[name].append((start, start + wire))
    for row in e.tables["instances"]:
        assert row["nic_busy_us"] == busy[row["name"]], f"{row['name']}: network time"
    for name in spans if nic else ():
        assert_disjoint(sorted(spans[name]), f"{name}: transfers")
    totals = [
        sum(r["nic_busy_us"] for r in e.tables["instances"] if r["role"] == role) for role in ("prefill", "decode")
    ]
    assert totals[0] == totals[1] == sum(map(e.wire, sent)), "what one side sends the other receives"


# ----- decode ------------------------------------------------------------------------------------------------------


@dataclass
class Segment:
    start: int
    end: int
    batch: int
    context: int
    iterations: int


def segments(e: Evidence, d: int) -> list[Segment]:
    """Cut an instance's time at every join and completion; each piece with a batch must be whole iterations long."""
    spec = e.cluster.decode[d]
    here = e.on_decode(d)
    changes = sorted({life[step] for life in here for step in ("join_us", "complete_us")})
    made = {id(life): 0 for life in here}
    found = []
    for start, end in pairwise(changes):
        batch = [life for life in here if life["join_us"] <= start < life["complete_us"]]
        if not batch:
            continue
        context = sum(life.spec.prompt_tokens + 1 + made[id(life)] for life in batch)
        j = 1
        while boundary(spec, len(batch), context, j) < end - start:
            j += 1
        assert boundary(spec, len(batch), context, j) == end - start, f"{spec.name}: {end} is no boundary"
        for life in batch:
            made[id(life)] += j
        found.append(Segment(start, end, len(batch), context, j))
    for life in here:
        assert made[id(life)] == life["decode_iterations"], f"{life['call_id']}: {made[id(life)]} iterations took place"
    return found


def check_segments(e: Evidence) -> None:
    for d, spec in enumerate(e.cluster.decode):
        found = segments(e, d)
        row = e.decode_row(d)
        assert all(s.batch <= spec.max_batch for s in found), f"{spec.name}: batch above {spec.max_batch}"
        assert row["segments"] == len(found)
        assert row["iterations"] == sum(s.iterations for s in found)
        assert row["busy_us"] == sum(s.end - s.start for s in found)
        tokens = sum(s.batch * s.iterations for s in found)
        assert tokens == sum(life.spec.output_tokens - 1 for life in e.on_decode(d)), f"{spec.name}: tokens made"


def check_joins(e: Evidence) -> None:
    """Calls join at the first boundary that has room for them, in queue order, and at once where nothing runs."""
    for d, spec in enumerate(e.cluster.decode):
        here = e.on_decode(d)
        found = segments(e, d)
        starts = {s.start for s in found}
        for now in starts:
            waiting = [life for life in here if life["transfer_end_us"] <= now <= life["join_us"]]
            room = spec.max_batch - sum(life["join_us"] < now < life["complete_us"] for life in here)
            expected = sorted(waiting, key=lambda life: life.order(now))[:room]
            actual = [life for life in here if life["join_us"] == now]
            assert same(expected, actual), f"{spec.name}: at {now} {ids(expected)} should join, {ids(actual)} do"
        for life in here:
            arrived, joined = life["transfer_end_us"], life["join_us"]
            assert joined in starts
            inside = [s for s in found if s.start < joined and arrived < s.end]
            covered = sum(min(s.end, joined) - max(s.start, arrived) for s in inside)
            assert covered == joined - arrived, f"{life['call_id']} waits while {spec.name} is idle"
            for s in inside:
                missed = s.iterations > 1 and s.start + boundary(spec, s.batch, s.context, s.iterations - 1) >= arrived
                assert s.batch == spec.max_batch or not missed, f"{life['call_id']} lets a boundary with room pass"


# ----- helpers -----------------------------------------------------------------------------------------------------


def peak_of(held: Iterable[tuple[int, int, int]]) -> int:
    """Largest sum of amounts held over [start, end): what is freed at an instant is free for what starts there."""
    changes: dict[int, int] = defaultdict(int)
    for start, end, amount in held:
        changes[start] += amount
        changes[end] -= amount
    total = peak = 0
    for now in sorted(changes):
        total += changes[now]
        peak = max(peak, total)
    return peak


def assert_disjoint(spans: list[tuple[int, int]], what: str) -> None:
    for (_, end), (start, _) in pairwise(spans):
        assert end <= start, f"{what} overlap at {start}"


def same(some: list[Life], others: list[Life]) -> bool:
    return {id(life) for life in some} == {id(life) for life in others}


def ids(lives: list[Life]) -> list[str]:
    return [f"{life['workflow_id']}/{life['call_id']}" for life in lives]


CHECKS: dict[str, Callable[[Evidence], None]] = {
    "conservation": check_conservation,
    "order-of-life": check_order_of_life,
    "causes": check_causes,
    "decisions": check_decisions,
    "prefill-batches": check_prefill_batches,
    "prefill-kv": check_prefill_kv,
    "prefill-queues": check_prefill_queues,
    "decode-kv": check_decode_kv,
    "admission": check_admission,
    "transfers": check_transfers,
    "segments": check_segments,
    "joins": check_joins,
}
