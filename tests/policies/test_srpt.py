"""Shortest remaining processing time: what is left of a workflow's revealed calls, or of the call."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

import hexopt
from hexopt.core.plan import Plan
from hexopt.core.view import CallState, Trigger, View
from hexopt.policies import open_calls
from hexopt.policies.fcfs import Fcfs
from hexopt.policies.srpt import Srpt
from tests.invariants.runs import Setting, profile, run_settings
from tests.policies.random_views import FAST, books
from tests.policies.sample_run import finishes
from tests.policies.views import Books, by_call, cluster, decode, pairs, ready


def priorities(plan: Plan) -> dict[int, float]:
    return {k: d.priority for k, d in by_call(plan).items()}


def test_a_workflow_counts_with_all_its_revealed_calls() -> None:
    # Two branches of 100 + 11 tokens: 222 are left of the workflow, 111 of each call. The other: 150 + 11.
    c = cluster()
    books = Books(c)
    fan = books.workflow()
    books.call(100, 11, workflow=fan)
    books.call(100, 11, workflow=fan)
    books.call(150, 11)
    assert priorities(ready(Srpt(), c).plan(books.view())) == {0: 222, 1: 222, 2: 161}
    assert priorities(ready(Srpt(of="call"), c).plan(books.view())) == {0: 111, 1: 111, 2: 161}
    assert priorities(ready(Srpt(work="output"), c).plan(books.view())) == {0: 22, 1: 22, 2: 11}
    # 10 + 0.1 + 20 ms, twice; 10 + 0.15 + 20 ms.
    assert priorities(ready(Srpt(work="time"), c).plan(books.view())) == {0: 60_200, 1: 60_200, 2: 30_150}


def test_a_chain_counts_with_its_present_call() -> None:
    c = cluster()
    books = Books(c)
    flow = books.workflow()
    first = books.complete(books.call(900, 90, workflow=flow), 0, 10_000, 0, 100, 20_000)
    books.call(100, 11, workflow=flow, parents=(first,))
    assert priorities(ready(Srpt(), c).plan(books.view())) == {1: 111}


@pytest.mark.parametrize(
    ("state", "left"),
    [
        (CallState.QUEUED, 222),
        (CallState.PREFILLING, 222),
        (CallState.ADMISSION, 122),  # its prompt is done
        (CallState.RUNNING, 122),
        (CallState.COMPLETE, 111),
    ],
)
def test_a_siblings_progress_lowers_what_is_left(state: CallState, left: int) -> None:
    c = cluster(2, 2)
    books = Books(c)
    fan = books.workflow()
    a, b = books.call(100, 11, workflow=fan), books.call(100, 11, workflow=fan)
    policy = ready(Srpt(), c)
    assert priorities(policy.plan(books.view())) == {0: 222, 1: 222}
    books.place(b, CallState.QUEUED, 1, 1, priority=222.0)
    if state == CallState.COMPLETE:
        books.complete(a, 0, 10_000, 0, 100, 20_000)
    else:
        books.place(a, state, priority=222.0)
    plan = policy.plan(books.view((Trigger.CALL_COMPLETE,)))
    assert priorities(plan).get(1, 222) == left
    assert by_call(plan).get(1, (1, 1, 1))[:3] == (1, 1, 1), "it stays where it is"


def test_a_revealed_sibling_raises_it() -> None:
    c = cluster()
    books = Books(c)
    fan = books.workflow()
    a = books.call(100, 11, workflow=fan)
    policy = ready(Srpt(), c)
    assert priorities(policy.plan(books.view())) == {0: 111}
    books.place(a, CallState.QUEUED, priority=111.0)
    books.call(200, 5, workflow=fan)
    assert priorities(policy.plan(books.view())) == {0: 316, 1: 316}


def test_past_its_prefill_a_call_counts_less_where_it_matters() -> None:
    # On d0 a call waits for KV room, so its order with the one beside it matters; on d1 a call just waits for the next
    # boundary; on d2 the batch of one is full.
    for of in ("workflow", "call"):
        c = cluster(1, [decode("d0"), decode("d1"), decode("d2", max_batch=1)])
        books = Books(c)
        books.place(books.call(100, 11), CallState.ADMISSION, d=0, priority=111.0)
        books.place(books.call(100, 12), CallState.TRANSFERRED, d=0, priority=112.0)
        books.place(books.call(100, 13), CallState.TRANSFERRED, d=1, priority=113.0)
        books.place(books.call(100, 14), CallState.TRANSFERRED, d=2, priority=114.0)
        books.place(books.call(100, 15), CallState.RUNNING, d=2, priority=115.0)
        policy = ready(hexopt.make_policy("srpt", of=of), c)
        assert priorities(policy.plan(books.view((Trigger.TRANSFER_END,)))) == {0: 11, 1: 12, 3: 14}


@FAST
@given(books())
def test_it_dispatches_as_fcfs_does(made: tuple[Books, dict[int, int]]) -> None:
    book, _ = made
    view = book.view()
    pool = {call.key for call in view.pool}
    for policy in (Srpt(), Srpt(of="call")):
        placed = [pair for pair in pairs(ready(policy, book.cluster).plan(view)) if pair[0] in pool]
        assert placed == pairs(ready(Fcfs(), book.cluster).plan(view))


def test_a_workflow_near_its_end_overtakes() -> None:
    # One prefill of 10 ms. `fan` has three roots of 110 tokens, 330 in all; `lone`, ready 1 ms later, one of 200: it is
    # next at 10 ms, although each call of fan is shorter; per call it is last.
    call = hexopt.Call
    trace = hexopt.Trace(
        (
            hexopt.Workflow("fan", "a", 0, tuple(call(f"c{i}", (), 100, 10) for i in range(3))),
            hexopt.Workflow("lone", "a", 1_000, (call("c0", (), 190, 10),)),
        )
    )

    def starts(of: str) -> list[int]:
        policy = hexopt.make_policy("srpt", of=of)
        return list(hexopt.simulate(trace, cluster(), policy, predictor="oracle").calls["prefill_start_us"])

    assert starts("workflow") == [0, 20_000, 30_000, 10_000]
    assert starts("call") == [0, 10_000, 20_000, 30_000]


class Checked(Srpt):
    """After each plan, calls queued for prefill, and those past it on a contended instance, rank as they should."""

    checked = 0

    def plan(self, view: View) -> Plan:
        plan = super().plan(view)
        decided = {d.call: d.priority for d in plan.decisions}
        for call in [*view.pool, *open_calls.rankable(view)]:
            calls = call.workflow.calls if self.of == "workflow" else [call]
            left = sum(
                c.predicted_output_tokens + (c.prompt_tokens if c.state < CallState.ADMISSION else 0)
                for c in calls
                if c.state != CallState.COMPLETE
            )
            assert decided.get(call.key, call.priority) == left
            self.checked += 1
        return plan


@pytest.mark.parametrize("of", ["workflow", "call"])
@pytest.mark.parametrize("plan_latency_us", [0, 1000])
def test_ranks_are_up_to_date_without_looking_at_everything(of: Any, plan_latency_us: int) -> None:
    checked = 0

    @profile(100)
    @given(run_settings(policies=("fcfs",), latencies=(0,)))
    def run(setting: Setting) -> None:
        nonlocal checked
        policy = Checked(of=of, plan_latency_us=plan_latency_us, fallback=Fcfs())
        setting.run(policy)
        checked += policy.checked

    run()
    assert checked > 500


@pytest.mark.parametrize("options", [{}, {"of": "call"}, {"work": "output"}, {"work": "time"}])
def test_sample_run(options: dict[str, Any]) -> None:
    finishes("srpt", **options)
