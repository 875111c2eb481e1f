"""The proof of the bounds, step by step on real schedules: what each workflow pays is at least what the proof says."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import hexopt
from hexopt.core.cluster import Cluster
from hexopt.formulations.bounds import Prices, Problem, Settings, trace_bounds
from hexopt.formulations.bounds.certificate import AROUND, Evaluation, budget
from hexopt.formulations.bounds.service import Floats
from hexopt.hindsight import Assigned, Assignment
from hexopt.latency import ClusterLatency
from hexopt.latency.curves import boundary_us, piecewise
from hexopt.offline import problem_of
from tests.formulations.small_traces import cases, some_policies
from tests.formulations.test_bounds import random_prices


@dataclass(frozen=True)
class Taken:
    """A call takes ``units`` of a resource's instance from begin to end, evenly."""

    call: int
    resource: str
    group: int
    units: float
    begin_us: float
    end_us: float


def taken(problem: Problem, calls: Any) -> Iterable[Taken]:
    """Yield what a run's calls took, from its table alone and the rules of ``docs/semantics.md``."""
    cluster, latency = problem.cluster, ClusterLatency(problem.cluster)
    facts = [c for w in problem.trace.workflows for c in w.calls]
    rows = calls.to_dict("records")
    p_of = {x.name: i for i, x in enumerate(cluster.prefill)}
    d_of = {x.name: i for i, x in enumerate(cluster.decode)}
    batches: dict[tuple[int, int], list[int]] = {}
    decoding: dict[int, list[int]] = {}
    for c, row in enumerate(rows):
        p, d = p_of[row["prefill_instance"]], d_of[row["decode_instance"]]
        batches.setdefault((p, row["prefill_start_us"]), []).append(c)
        many = facts[c].output_tokens > 1
        g, e = latency.prefill_class[p], latency.decode_class[d]
        freed = row["transfer_end_us"] if many else row["prefill_end_us"]
        yield Taken(c, "prefill-kv", g, latency.blocks(facts[c].prompt_tokens), row["prefill_start_us"], freed)
        if not many:
            continue
        decoding.setdefault(d, []).append(c)
        total = latency.blocks(facts[c].prompt_tokens + facts[c].output_tokens)
        yield Taken(c, "decode-kv", e, total, row["admit_us"], row["complete_us"])
        wired = row["transfer_end_us"] - cluster.network.latency_us
        yield Taken(c, "prefill-nic", g, 1.0, row["transfer_start_us"], wired)
        yield Taken(c, "decode-nic", e, 1.0, row["transfer_start_us"], wired)
    for (p, begin), members in batches.items():
        yield from batch(cluster, latency, p, begin, rows[members[0]]["prefill_end_us"], members, facts)
    for d, members in decoding.items():
        yield from iterations(latency, d, members, facts, rows)


def batch(
    cluster: Cluster, latency: ClusterLatency, p: int, begin: int, end: int, members: list[int], facts: Any
) -> Iterable[Taken]:
    """Yield each prompt's share of a prefill batch: by its tokens, but its own square."""
    model, tokens = cluster.prefill[p].latency, sum(facts[c].prompt_tokens for c in members)
    g = piecewise(model.g_knots, min(tokens, 512), model.extrapolate, "g")
    linear = model.c0_ms + model.c1 * (g + model.a1_ms * max(0, tokens - 512))
    for c in members:
        n = facts[c].prompt_tokens
        ms = n / tokens * linear + model.c1 * model.a2_ms * n * n
        share = 1.0 if len(members) == 1 else 1000 * ms / (end - begin)
        yield Taken(c, "prefill", latency.prefill_class[p], share, begin, end)


def iterations(latency: ClusterLatency, d: int, members: list[int], facts: Any, rows: Any) -> Iterable[Taken]:
    """Yield each call's share of every iteration, on the clock of the segment before it is rounded up."""
    times = sorted({rows[c][name] for c in members for name in ("join_us", "complete_us")})
    done = dict.fromkeys(members, 0)
    e, b2 = latency.decode_class[d], latency.context_ms(d)
    for begin, end in pairwise(times):
        there = [c for c in members if rows[c]["join_us"] <= begin and rows[c]["complete_us"] >= end]
        if not there:
            continue
        context = {c: facts[c].prompt_tokens + 1 + done[c] for c in there}
        h, at, number = latency.iteration_ms(d, len(there)), float(begin), 0
        while boundary_us(h, b2, len(there), sum(context.values()), number) < end - begin:
            ms = h + b2 * sum(n + number for n in context.values())
            for c in there:
                yield Taken(c, "decode", e, (h / len(there) + b2 * (context[c] + number)) / ms, at, at + 1000 * ms)
            at, number = at + 1000 * ms, number + 1
        assert boundary_us(h, b2, len(there), sum(context.values()), number) == end - begin
        for c in there:
            done[c] += number
    assert all(done[c] == facts[c].output_tokens - 1 for c in members)


def paid(problem: Problem, prices: Prices, everything: list[Taken]) -> Floats:
    """Return, shape (W,), what every workflow pays."""
    pays = np.zeros(problem.workflows)
    for name, rows in prices.of.items():
        for group, row in enumerate(rows):
            mine = [t for t in everything if (t.resource, t.group) == (name, group)]
            if mine:
                # The integral of the price up to an instant is linear within intervals, and constant outside of them.
                upto = np.concatenate([[0.0], np.cumsum(row * np.diff(prices.edges_us))])
                spans = np.array([(t.begin_us, t.end_us) for t in mine])
                units = np.array([t.units for t in mine]) * np.diff(np.interp(spans, prices.edges_us, upto))[:, 0]
                pays += np.bincount(problem.service.workflow[[t.call for t in mine]], units, problem.workflows)
    return pays


def prices_at(problem: Problem, rng: random.Random, result: Any) -> Prices:
    """Prices without sense, whose intervals begin and end where something happened, or about there."""
    made = random_prices(problem, rng, sorted(result.workflows["ratio"].tolist()))
    names = ("ready_us", "prefill_start_us", "prefill_end_us", "transfer_end_us", "complete_us")
    instants = [float(t) for name in names for t in result.calls[name].dropna()]
    edges = {rng.choice(instants) + rng.choice((-1.0, 0.0, 0.0, 0.5, 1.0)) for _ in range(4 * len(made.edges_us))}
    edges = set(rng.sample(sorted(edges), min(len(edges), len(made.edges_us))))
    while len(edges) < len(made.edges_us):
        edges.add(rng.uniform(min(instants), max(instants)))
    # Without any price of a resource what remains is equation (9).
    return replace(made, edges_us=np.array(sorted(edges)), of=made.of if rng.random() < 0.8 else {})


def broken_step(problem: Problem, prices: Prices, result: Any, everything: list[Taken], workflow: int) -> str | None:
    """Say which step of the proof a schedule refutes, if any, for a workflow that just meets its ratio."""
    pays = paid(problem, prices, everything)
    whole = budget(problem, prices)
    if pays.sum() > whole * (1 + 1e-9):
        return f"paid {pays.sum()} of {whole}"
    evaluation = Evaluation(problem, prices, float(result.workflows["ratio"][workflow]))
    if evaluation.impossible[workflow]:
        return f"workflow {workflow} cannot do what it does"
    least, size, _ = evaluation.best(prices.delay, AROUND)
    if least[workflow] > pays[workflow] + 1e-9 * (size[workflow] + pays[workflow]) + 1e-12 * whole:
        return f"workflow {workflow} pays {pays[workflow]} and not {least[workflow]}, at {prices}"
    return None


def any_assignment(problem: Problem, rng: random.Random) -> Assigned:
    """Return a schedule that places every call anywhere it fits, in any order."""
    s, latency = problem.service, ClusterLatency(problem.cluster)
    prefill = np.isfinite(s.prefill_us)[:, np.array(latency.prefill_class)]
    decode = np.isfinite(s.decode_us)[:, np.array(latency.decode_class)]
    at = np.array([rng.choice(np.flatnonzero(row).tolist()) for row in prefill], np.int64)
    to = np.array([rng.choice(np.flatnonzero(row).tolist()) for row in decode], np.int64)
    return Assigned(problem, Assignment(at, to, np.array([rng.random() for _ in at])))


def check_payments(count: int, first: int, prices: int) -> None:
    for number, trace, cluster, rng in cases(count, first):
        problem = problem_of(trace, cluster)
        for policy in (*some_policies(rng, 1), any_assignment(problem, rng)):
            result = hexopt.simulate(trace, cluster, policy, predictor="oracle")
            everything = list(taken(problem, result.calls))
            for _ in range(prices):
                workflow, made = rng.randrange(problem.workflows), prices_at(problem, rng, result)
                assert broken_step(problem, made, result, everything, workflow) is None, number


def test_every_workflow_pays_what_the_proof_says() -> None:
    check_payments(27, 30_000, 3)


@pytest.mark.slow
def test_every_workflow_pays_what_the_proof_says_on_many_traces() -> None:
    check_payments(300, 10_000, 10)


@pytest.mark.slow
def test_every_workflow_pays_what_the_proof_says_at_the_prices_of_a_program() -> None:
    settings = Settings(intervals=12, rounds=5, pieces=200, joint_from=0.0)
    for number, trace, cluster, rng in cases(40, 40_000):
        problem = problem_of(trace, cluster)
        policies = *some_policies(rng, 2), any_assignment(problem, rng)
        results = [hexopt.simulate(trace, cluster, policy, predictor="oracle") for policy in policies]
        met = min(max(result.workflows["ratio"]) for result in results)
        found = trace_bounds(problem, "1", settings=settings, met=met).lp
        assert found is not None
        assert found.value <= met
        for result in results if found.prices is not None else ():
            everything = list(taken(problem, result.calls))
            for workflow in range(problem.workflows):
                assert broken_step(problem, found.prices, result, everything, workflow) is None, number
