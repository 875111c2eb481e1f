"""First come, first served by workflow: dispatch as fcfs, but an older workflow overtakes in every queue."""

from __future__ import annotations

from hypothesis import given

import hexopt
from hexopt.policies.fcfs import Fcfs
from hexopt.policies.workflow_fcfs import WorkflowFcfs
from tests.policies.random_views import FAST, books
from tests.policies.views import Books, cluster, pairs, ready


def test_priority_is_the_workflows_arrival() -> None:
    c = cluster()
    books = Books(c, now_us=9_000)
    books.call(arrival_us=1_000, ready_us=9_000)
    assert ready(WorkflowFcfs(), c).plan(books.view()).decisions[0].priority == 1_000.0


@FAST
@given(books())
def test_it_dispatches_as_fcfs_does(made: tuple[Books, dict[int, int]]) -> None:
    book, _ = made
    view = book.view()
    assert pairs(ready(WorkflowFcfs(), book.cluster).plan(view)) == pairs(ready(Fcfs(), book.cluster).plan(view))


def test_the_older_workflow_overtakes_in_the_queue() -> None:
    # One prefill of 10 ms, decode 2 ms a token, no waiting for it. `old` (arrival 0): c0 prefills 0-10, its one other
    # token is there at 10 + 0.1 + 2 = 12.1 ms, and c1 becomes ready then. `x`, `y`, `z` arrive at 1, 2, 3 ms.
    # x starts at 10. At 20 ms y, z and c1 wait: by ready time y, z, c1; by workflow c1 goes first.
    call = hexopt.Call
    trace = hexopt.Trace(
        (
            hexopt.Workflow("old", "a", 0, (call("c0", (), 100, 2), call("c1", (0,), 100, 2))),
            *(
                hexopt.Workflow(n, "a", t, (call("c0", (), 100, 2),))
                for n, t in (("x", 1000), ("y", 2000), ("z", 3000))
            ),
        )
    )
    starts = {}
    for name in ("fcfs", "workflow-fcfs"):
        table = hexopt.simulate(trace, cluster(), hexopt.make_policy(name), predictor="oracle").calls
        ids = table["workflow_id"] + "/" + table["call_id"]
        starts[name] = dict(zip(ids, table["prefill_start_us"], strict=True))
    assert starts["fcfs"] == {"old/c0": 0, "x/c0": 10_000, "y/c0": 20_000, "z/c0": 30_000, "old/c1": 40_000}
    assert starts["workflow-fcfs"] == {"old/c0": 0, "x/c0": 10_000, "old/c1": 20_000, "y/c0": 30_000, "z/c0": 40_000}
