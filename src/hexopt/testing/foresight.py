"""Runs that differ in what is hidden: until it shows, a policy must decide the same (P10)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from hexopt.core.protocols import Policy
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.testing.runs import NEVER, Run, difference
from hexopt.testing.scenarios import Scenario, mixed_cluster, roomy, workflows

Calls = frozenset[tuple[int, int]]
"""Calls by (workflow, call)."""


class Hidden(NamedTuple):
    """A change of what is hidden, and the earliest step of a concerned call that shows it."""

    what: str
    step: str
    change: Callable[[Trace, random.Random], tuple[Trace, Calls]]


def check_foresight(fresh: Callable[[], Policy], thorough: bool) -> int:
    """Compare pairs of runs; return how many. Raise :class:`~hexopt.errors.ConformanceError` at a difference."""
    pairs = 0
    for seed in range(20 if thorough else 3):
        cluster = mixed_cluster("handoff", "strict") if seed % 2 else mixed_cluster("dispatch", "backfill")
        scenario = Scenario(
            f"hidden {seed}",
            # With room for everything, a true length shows only when its call completes.
            roomy(cluster),
            workflows(1_000 + seed, 14),
            plan_latency_us=(0, 2_000)[seed % 2],
            fallback="own",
        )
        one = Run(fresh(), scenario)
        for hidden in HIDDEN:
            changed, calls = hidden.change(scenario.trace, random.Random(seed))
            other = Run(fresh(), replace(scenario, trace=changed))
            _compare(one, other, hidden, calls)
            pairs += 1
    return pairs


def _compare(one: Run, other: Run, hidden: Hidden, calls: Calls) -> None:
    shows = NEVER
    for run in (one, other):
        times = run.times(hidden.step)
        # A run ends when its last call completes; after that the longer one may go on asking.
        shows = min([shows, max(run.times("complete_us").values()), *(times.get(call, NEVER) for call in calls)])
    seen = difference(one, other, shows)
    if seen:
        raise one.watch.breach(
            "P10", f"{seen}, though the two runs differ only in {hidden.what}, which shows at {shows} µs"
        )


# ----- what is hidden -------------------------------------------------------------------------------------------------


def _lengths(trace: Trace, rng: random.Random) -> tuple[Trace, Calls]:
    return _each(trace, lambda w, c, call: replace(call, output_tokens=_other(rng, call.output_tokens)))


def _one_length(trace: Trace, rng: random.Random) -> tuple[Trace, Calls]:
    """One call among the later ones, so that much is decided before it completes."""
    w = rng.randrange(len(trace.workflows))
    last = len(trace.workflows[w].calls) - 1
    return _each(trace, lambda v, c, call: replace(call, output_tokens=999) if (v, c) == (w, last) else call)


def _later_calls(trace: Trace, rng: random.Random) -> tuple[Trace, Calls]:
    def change(w: int, c: int, call: Call) -> Call:
        if not call.parents:
            return call
        return replace(
            call,
            prompt_tokens=_other(rng, call.prompt_tokens),
            output_tokens=_other(rng, call.output_tokens),
            tool_us=(call.tool_us or 0) + rng.choice((1, 5_000)),
        )

    return _each(trace, change)


def _going_on(trace: Trace, rng: random.Random) -> tuple[Trace, Calls]:
    """Every second workflow goes on, with a call after all others."""
    flows, calls = [], set()
    for w, flow in enumerate(trace.workflows):
        if w % 2:
            n = len(flow.calls)
            flow = replace(flow, calls=(*flow.calls, Call(f"c{n}", tuple(range(n)), 300, 40)))
            calls.add((w, n))
        flows.append(flow)
    return replace(trace, workflows=tuple(flows)), frozenset(calls)


def _arrivals(trace: Trace, rng: random.Random) -> tuple[Trace, Calls]:
    """Later workflows arrive at other times, as others, and one more comes."""
    flows, calls = [], set()
    for w, flow in enumerate(trace.workflows):
        if flow.arrival_us:
            root = replace(flow.calls[0], prompt_tokens=333, output_tokens=11)
            calls |= {(w, c) for c in range(len(flow.calls))}
            flow = Workflow(flow.workflow_id, "c", flow.arrival_us + rng.randint(1, 9_000), (root,))
        flows.append(flow)
    calls.add((len(flows), 0))
    flows.append(Workflow(f"w{len(flows)}", "a", 30_000, (Call("c0", (), 50, 5),)))
    return replace(trace, workflows=tuple(flows)), frozenset(calls)


def _each(trace: Trace, change: Callable[[int, int, Call], Call]) -> tuple[Trace, Calls]:
    flows, calls = [], set()
    for w, flow in enumerate(trace.workflows):
        changed = tuple(change(w, c, call) for c, call in enumerate(flow.calls))
        calls |= {(w, c) for c, (old, new) in enumerate(zip(flow.calls, changed, strict=True)) if old != new}
        flows.append(replace(flow, calls=changed))
    return replace(trace, workflows=tuple(flows)), frozenset(calls)


def _other(rng: random.Random, tokens: int) -> int:
    return rng.choice([n for n in (1, 2, 7, 50, 300) if n != tokens])


HIDDEN = (
    Hidden("the true output lengths of all calls", "complete_us", _lengths),
    Hidden("the true output length of one call", "complete_us", _one_length),
    Hidden("the calls that are not yet revealed", "ready_us", _later_calls),
    Hidden("which workflows go on", "ready_us", _going_on),
    Hidden("the workflows that arrive later", "ready_us", _arrivals),
)
