"""What is hidden has no effect before it shows: the future changed, the past must stay as it was.

Two runs that differ in one hidden fact are compared up to the first instant at which the fact can physically show in
either of them: every view the policy (and its fallback) was given, every plan it made, every decision that took effect
and every step of every call.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

from hexopt.core.cluster import Cluster
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.sim.result import RunResult
from tests.invariants.evidence import STEPS, Row, plain_rows
from tests.invariants.runs import POLICIES, Recorder, Setting, profile, roomy, run_settings

BLIND = ("constant:8", "constant:1", "app-mean:8")
"""Predictors that know nothing but completed calls."""
NEVER = 2**60


def recorded(setting: Setting) -> tuple[RunResult, Recorder]:
    recorder = Recorder(setting.make_policy())
    return setting.run(recorder), recorder


def calls_of(result: RunResult) -> dict[tuple[str, str], Row]:
    return {(row["workflow_id"], row["call_id"]): row for row in plain_rows(result.calls)}


def past(rows: dict[tuple[str, str], Row], until_us: int) -> dict[tuple[str, str, str], int]:
    """All steps before an instant."""
    return {
        (*name, step): row[step]
        for name, row in rows.items()
        for step in STEPS
        if row[step] is not None and row[step] < until_us
    }


def assert_same_past(one: tuple[RunResult, Recorder], other: tuple[RunResult, Recorder], until_us: int) -> None:
    pairs = [(one[1], other[1])]
    if one[1].fallback is not None and other[1].fallback is not None:
        pairs.append((one[1].fallback, other[1].fallback))
    # Once all calls are complete the run ends; a longer one may go on asking its policy about nothing.
    asked_until = min(until_us, *(result.calls["complete_us"].max() for result, _ in (one, other)))
    for some, others in pairs:
        seen, also = ([shot for shot in r.seen if shot[0] < asked_until] for r in (some, others))
        assert seen == also, "a view or a plan differs"
    decisions = [[row for row in plain_rows(result.decisions) if row["at_us"] < until_us] for result, _ in (one, other)]
    assert decisions[0] == decisions[1], "a decision differs"
    assert past(calls_of(one[0]), until_us) == past(calls_of(other[0]), until_us), "a step differs"


def with_call(trace: Trace, w: int, c: int, **changes: Any) -> Trace:
    flow = trace.workflows[w]
    calls = tuple(replace(call, **changes) if i == c else call for i, call in enumerate(flow.calls))
    return with_workflow(trace, w, replace(flow, calls=calls))


def with_workflow(trace: Trace, w: int, flow: Workflow) -> Trace:
    return replace(trace, workflows=(*trace.workflows[:w], flow, *trace.workflows[w + 1 :]))


def any_call(trace: Trace, draw: Any) -> tuple[int, int]:
    w = draw(st.integers(0, len(trace.workflows) - 1))
    return w, draw(st.integers(0, len(trace.workflows[w].calls) - 1))


def candidates(cluster: Cluster, call: Call) -> list[int]:
    """The one fact derived from the truth that a policy may see."""
    if call.output_tokens == 1:
        return list(range(len(cluster.decode)))
    need = -(-(call.prompt_tokens + call.output_tokens) // cluster.block_tokens)
    return [i for i, d in enumerate(cluster.decode) if need <= d.kv_tokens // cluster.block_tokens]


@pytest.mark.parametrize("policy", [*POLICIES, "scripted"])
def test_an_output_length_shows_when_the_call_completes(policy: str) -> None:
    """With KV room for all, the first difference is the earlier of the call's two completions."""

    @profile(40)
    @given(run_settings(predictors=BLIND, policies=(policy,)), st.data())
    def check(setting: Setting, data: st.DataObject) -> None:
        setting = replace(setting, cluster=roomy(setting.cluster))
        w, c = any_call(setting.trace, data.draw)
        tokens = data.draw(st.sampled_from((1, 2, 3, 7, 50, 1000)))
        assume(tokens != setting.trace.workflows[w].calls[c].output_tokens)
        other = replace(setting, trace=with_call(setting.trace, w, c, output_tokens=tokens))
        one, two = recorded(setting), recorded(other)
        name = (f"w{w}", f"c{c}")
        shows = min(calls_of(result)[name]["complete_us"] for result, _ in (one, two))
        assert_same_past(one, two, shows)

    check()


@pytest.mark.parametrize("policy", [*POLICIES, "scripted"])
def test_an_output_length_shows_when_its_room_is_reserved(policy: str) -> None:
    """Where KV is short, a reservation of other blocks shows at admission; one of as many blocks still does not."""

    @profile(40)
    @given(run_settings(predictors=BLIND, policies=(policy,)), st.data())
    def check(setting: Setting, data: st.DataObject) -> None:
        w, c = any_call(setting.trace, data.draw)
        call = setting.trace.workflows[w].calls[c]
        block = setting.cluster.block_tokens
        blocks = [-(-(call.prompt_tokens + call.output_tokens) // block)]
        tokens = data.draw(st.integers(1, blocks[0] * block - call.prompt_tokens))
        blocks.append(-(-(call.prompt_tokens + tokens) // block))
        assume(tokens != call.output_tokens)
        assume(candidates(setting.cluster, call) == candidates(setting.cluster, replace(call, output_tokens=tokens)))
        other = replace(setting, trace=with_call(setting.trace, w, c, output_tokens=tokens))
        one, two = recorded(setting), recorded(other)
        rows = [calls_of(result)[f"w{w}", f"c{c}"] for result, _ in (one, two)]
        step = "complete_us" if blocks[0] == blocks[1] else "admit_us"
        shows = min(row["complete_us"] if row[step] is None else row[step] for row in rows)
        assert_same_past(one, two, shows)

    check()


@pytest.mark.parametrize("policy", [*POLICIES, "scripted"])
def test_a_call_shows_when_it_is_revealed(policy: str) -> None:
    """Other lengths, another tool delay, or no such call at all: nothing differs before it is ready in either run."""

    @profile(50)
    @given(run_settings(predictors=BLIND, policies=(policy,)), st.data())
    def check(setting: Setting, data: st.DataObject) -> None:
        setting = replace(setting, cluster=roomy(setting.cluster))
        trace = setting.trace
        w, c = any_call(trace, data.draw)
        change = data.draw(st.sampled_from(("prompt", "delay", "append", "append-workflow")))
        rng = random.Random(setting.seed)
        if change == "prompt":
            assume(trace.workflows[w].calls[c].prompt_tokens != 300)
            changed = with_call(trace, w, c, prompt_tokens=300, output_tokens=rng.choice((1, 2, 30)))
        elif change == "delay":
            delay = trace.workflows[w].calls[c].tool_us
            assert delay is not None
            changed = with_call(trace, w, c, tool_us=delay + rng.choice((1, 500, 10**6)))
        elif change == "append":
            flow = trace.workflows[w]
            c_new = len(flow.calls)
            parents = tuple(sorted(rng.sample(range(c_new), rng.randint(0, min(2, c_new)))))
            new = Call(f"c{c_new}", parents, rng.choice((1, 20, 600)), rng.choice((1, 5)), rng.choice((0, 1, 5000)))
            changed = with_workflow(trace, w, replace(flow, calls=(*flow.calls, new)))
            c = c_new
        else:
            w, c = len(trace.workflows), 0
            flow = Workflow(f"w{w}", "a", rng.choice((0, 1, 3000, 9000)), (Call("c0", (), 40, 3),))
            changed = replace(trace, workflows=(*trace.workflows, flow))
        one, two = recorded(setting), recorded(replace(setting, trace=changed))
        name = (f"w{w}", f"c{c}")
        shows = min(
            calls_of(result)[name]["ready_us"] if name in calls_of(result) else NEVER for result, _ in (one, two)
        )
        assert_same_past(one, two, shows)

    check()


def test_the_comparison_rejects_a_policy_that_knows_lengths() -> None:
    """Under the oracle earliest-finish does react to a length before it shows, and the comparison says so."""
    from tests.invariants.test_tables import crowded

    e = crowded()
    setting = Setting(e.trace, roomy(e.cluster), "earliest-finish", 0, "oracle")
    other = replace(setting, trace=with_call(e.trace, 0, 0, output_tokens=500))
    one, two = recorded(setting), recorded(other)
    shows = min(calls_of(result)["w0", "a"]["complete_us"] for result, _ in (one, two))
    with pytest.raises(AssertionError):
        assert_same_past(one, two, shows)


def test_the_comparison_rejects_what_comes_too_late() -> None:
    """The very instant at which a length shows does differ: the bound of the test is sharp."""
    from tests.invariants.test_tables import crowded

    e = crowded()
    setting = Setting(e.trace, roomy(e.cluster), "fcfs", 0, "constant:8")
    other = replace(setting, trace=with_call(e.trace, 0, 0, output_tokens=13))
    one, two = recorded(setting), recorded(other)
    shows = min(calls_of(result)["w0", "a"]["complete_us"] for result, _ in (one, two))
    assert_same_past(one, two, shows)
    with pytest.raises(AssertionError):
        assert_same_past(one, two, shows + 1)
