"""Random views: several classes of instances, tight KV, ties, one-token predictions, calls in every state."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st

from hexopt.core.cluster import Cluster
from hexopt.core.view import CallState
from tests.policies.views import Books, cluster, decode, prefill

FAST = settings(max_examples=100, derandomize=True, deadline=None, database=None)

KNOTS = (
    ((1, 2.0), (4, 2.0)),
    ((1, 1.0), (2, 3.0), (4, 3.5)),
    ((1, 0.1), (3, 0.7), (6, 4 / 3)),
    ((1, 5.0), (4, 1.0)),
)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    kinds_p = draw(
        st.lists(
            st.builds(
                prefill,
                ms=st.sampled_from((1.0, 10.0, 1 / 3)),
                kv_tokens=st.sampled_from((40, 100, 1000)),
                nic=st.sampled_from((1e9, 1e6)),
            ),
            min_size=1,
            max_size=2,
        )
    )
    kinds_d = draw(
        st.lists(
            st.builds(
                decode,
                knots=st.sampled_from(KNOTS),
                b2_ms=st.sampled_from((0.0, 0.5, 1e-3 / 3)),
                kv_tokens=st.sampled_from((60, 100, 1000)),
                max_batch=st.integers(1, 4),
                nic=st.sampled_from((1e9, 1e6)),
            ),
            min_size=1,
            max_size=2,
        )
    )
    prefills = [draw(st.sampled_from(kinds_p)) for _ in range(draw(st.integers(1, 4)))]
    decodes = [draw(st.sampled_from(kinds_d)) for _ in range(draw(st.integers(1, 4)))]
    # One of each pool holds anything, so that no call is homeless.
    prefills.append(prefill(kv_tokens=200, ms=draw(st.sampled_from((1.0, 10.0)))))
    decodes.append(decode(kv_tokens=200, knots=KNOTS[0], max_batch=4))
    return cluster(
        [replace(p, name=f"p{i}") for i, p in enumerate(prefills)],
        [replace(d, name=f"d{i}") for i, d in enumerate(decodes)],
        network_us=draw(st.sampled_from((0, 1000, 333))),
        binding=draw(st.sampled_from(("dispatch", "handoff"))),
        block_tokens=draw(st.sampled_from((1, 16))),
    )


STATES = (
    CallState.POOL,
    CallState.POOL,
    CallState.POOL,
    CallState.QUEUED,
    CallState.QUEUED,
    CallState.PREFILLING,
    CallState.ADMISSION,
    CallState.TRANSFERRING,
    CallState.TRANSFERRED,
    CallState.RUNNING,
)


@st.composite
def books(draw: st.DrawFn, min_calls: int = 1, max_calls: int = 14) -> tuple[Books, dict[int, int]]:
    """Books with calls anywhere, and finishes projected for some of those placed."""
    c = draw(clusters())
    now = 50_000
    made = Books(c, now)
    finish: dict[int, int] = {}
    for d in range(len(c.decode)):
        made.segment_start_us[d] = draw(st.sampled_from((-1, now, now - 1, now - 3_000, now - 7_777)))
    for _ in range(draw(st.integers(min_calls, max_calls))):
        old = made.workflows and draw(st.booleans())
        workflow = draw(st.sampled_from(made.workflows)) if old else made.workflow(draw(st.sampled_from((0, 0, 9_999))))
        call = made.call(
            draw(st.sampled_from((1, 10, 30, 50))),
            draw(st.sampled_from((1, 2, 2, 5, 10, 30))),
            workflow=workflow,
            ready_us=draw(st.sampled_from((20_000, 20_000, 33_333, now))),
        )
        state = draw(st.sampled_from(STATES))
        if state == CallState.POOL:
            continue
        p, d = draw(st.sampled_from(call.prefill_candidates)), draw(st.sampled_from(call.decode_candidates))
        if state == CallState.PREFILLING and made.busy_until_us[p] >= 0:
            state = CallState.QUEUED
        running = sum(x.state == CallState.RUNNING and x.decode == d for x in made.calls)
        if state == CallState.RUNNING and running >= c.decode[d].max_batch:
            state = CallState.TRANSFERRED
        priority = draw(st.sampled_from((0.0, -1.5, 20_000.0)))
        made.place(call, state, p, d, priority=priority, produced=draw(st.integers(1, 9)))
        if state >= CallState.TRANSFERRING:
            call.transfer_start_us = draw(st.sampled_from((now - 500, now, now + 4_000)))
        projected = draw(st.sampled_from((None, now - 10, now, now + 5_000, now + 5_000, now + 70_000)))
        if projected is not None:
            finish[call.key] = projected
    return made, finish
