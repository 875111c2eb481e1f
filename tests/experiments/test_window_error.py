"""A window's forecast beside the engine: where they are equal to the microsecond, where one is never earlier, and why.

Every window is of all calls that wait, cut from a run under a policy that does anything; its plan is drawn at random.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hexopt
from hexopt.core.cluster import Cluster
from hexopt.core.view import CallState
from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.core.workflow import Trace
from hexopt.errors import WindowError
from hexopt.experiments.window_error import (
    CAUSES,
    STAGES,
    WORLDS,
    Future,
    _told_the_truth,
    errors,
    window_futures,
)
from hexopt.testing.scenarios import workflows
from tests.oracle.scenarios import ScriptedRandomPolicy, clusters
from tests.policies.sample_run import TRACE
from tests.policies.views import Books, cluster, decode

HUGE = 2**30
EXAMPLES = min(200, int(os.environ.get("HEXOPT_EXAMPLES", "200")))
Case = tuple[Trace, Cluster, dict[str, Any]]


@st.composite
def cases(draw: st.DrawFn, **changed: Any) -> Case:
    """Return a trace, a cluster with one call per prefill batch and room for all batches, and how to cut.

    ``changed``: of all instances ``prefill_kv``, ``decode_kv`` (tokens), ``b2_ms`` and ``flat`` (a batch costs
    nothing); ``outputs`` of the calls; the ``predictor``.
    """
    outputs = changed.get("outputs", (1, 1, 2, 5, 20, 60))
    trace = workflows(draw(st.integers(0, 999)), draw(st.integers(3, 10)), outputs=outputs)
    site = draw(clusters([c for w in trace.workflows for c in w.calls]))
    prefills, decodes = [], []
    for p in site.prefill:
        room = changed.get("prefill_kv", p.kv_tokens)
        prefills.append(replace(p, max_batch_tokens=1, kv_tokens=room, latency=replace(p.latency, extrapolate=True)))
    for d in site.decode:
        latency = replace(d.latency, extrapolate=True, b2_ms=changed.get("b2_ms", d.latency.b2_ms))
        if latency.h_knots[0][1] < 0.01:  # an iteration below 1 µs is refused
            latency = replace(latency, o0_ms=1.0)
        if "flat" in changed:
            ms = draw(st.sampled_from((0.5, 1.0, 2.0, 3.0)))
            latency = replace(latency, h_knots=((1, ms), (2, ms)), o0_ms=0.0, o1_ms=0.0)
        decodes.append(replace(d, max_batch=64, kv_tokens=changed.get("decode_kv", d.kv_tokens), latency=latency))
    site = replace(site, prefill=tuple(prefills), decode=tuple(decodes))
    host = ScriptedRandomPolicy(draw(st.integers(0, 99)), patience=draw(st.sampled_from((0, 12, 30))))
    predictor = changed.get("predictor") or draw(st.sampled_from(("oracle", "constant:1", "constant:8", "noisy:1.0")))
    how = {
        "policy": host,
        "predictor": predictor,
        "planner": _anything(draw(st.integers(0, 99))),
        "least": draw(st.integers(1, 6)),
        "limit": 2,
    }
    return trace, site, how


def _anything(seed: int) -> Any:
    """Return a planner that draws pairs and (often equal) priorities, as far as there is room."""

    def plan(window: Window) -> WindowPlan:
        rng = random.Random(seed)
        room = [d.max_new for d in window.decode]
        found = []
        for call in window.calls:
            may = [d for d in call.decodes() if not call.is_open or call.one_token or room[d] > 0]
            if not may:  # drawn badly: the room is enough only if calls with few choices go first
                return _first_fit(window)
            d = rng.choice(may)
            room[d] -= call.is_open and not call.one_token
            found.append(Placement(rng.choice(call.prefills()), d, float(rng.randrange(4))))
        return tuple(found)

    return plan


def _first_fit(window: Window) -> WindowPlan:
    room = [d.max_new for d in window.decode]
    found: dict[int, Placement] = {}
    for k in sorted(range(len(window.calls)), key=lambda k: len(window.calls[k].decodes())):
        call = window.calls[k]
        d = next(d for d in call.decodes() if not call.is_open or call.one_token or room[d] > 0)
        room[d] -= call.is_open and not call.one_token
        found[k] = Placement(call.prefills()[0], d, 0.0)
    return tuple(found[k] for k in range(len(window.calls)))


def cut(case: Case) -> list[Future]:
    trace, site, how = case
    return window_futures(trace, site, **how)


def steps(future: Future, world: str, name: str) -> list[int]:
    return [getattr(times, name) for times in future.worlds[world]]


CLAIMS: dict[str, Callable[[int], None]] = {}
"""What holds for every window of the cases named: tests by name, to be run with a number of examples."""


def claim(strategy: st.SearchStrategy[Case]) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    def enter(holds: Callable[[Case], None]) -> Callable[[Case], None]:
        def run(examples: int) -> None:
            config = settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=[HealthCheck.too_slow],
            )
            config(given(strategy)(holds))()

        CLAIMS[holds.__name__] = run
        return holds

    return enter


# -- exactly


@claim(cases(prefill_kv=HUGE))
def prefills_are_exact_if_prompts_have_room(case: Case) -> None:
    """Whatever is predicted, whoever joins, however tight decode is: nothing of it reaches the queues for prefill."""
    for future in cut(case):
        for name in ("prefill_start_us", "prefill_end_us"):
            assert all(steps(future, world, name) == steps(future, "joined", name) for world in WORLDS)


@claim(cases(prefill_kv=HUGE, decode_kv=HUGE))
def transfers_are_exact_if_kv_has_room(case: Case) -> None:
    """Once it is true who decodes at all. Calls that join later book the network too, so then never earlier."""
    for future in cut(case):
        for name in ("admit_us", "arrive_us"):
            assert steps(future, "lengths", name) == steps(future, "batch", name) == steps(future, "alone", name)
        assert steps(future, "joined", "admit_us") == steps(future, "alone", "admit_us")
        pairs = zip(steps(future, "joined", "arrive_us"), steps(future, "alone", "arrive_us"), strict=True)
        assert all(joined >= alone for joined, alone in pairs)


@claim(cases(outputs=(1,), predictor="oracle"))
def one_token_calls_are_exact(case: Case) -> None:
    """With prompts that run out of room, too, and with calls that come later."""
    for future in cut(case):
        assert all(future.worlds[world] == future.worlds["foretold"] for world in WORLDS)


@claim(cases(prefill_kv=HUGE, decode_kv=HUGE, flat=True, b2_ms=0.0))
def flat_iterations_leave_only_the_wait_for_a_boundary(case: Case) -> None:
    """Where a batch and its context cost nothing, a call is late by that wait, shorter than an iteration."""
    for future in cut(case):
        for world in ("alone", "joined"):
            for c, (said, is_so) in enumerate(zip(future.worlds["lengths"], future.worlds[world], strict=True)):
                wait = is_so.join_us - is_so.arrive_us
                assert is_so.finish_us - said.finish_us == is_so.arrive_us - said.arrive_us + wait
                if is_so.join_us >= 0:
                    d = case[1].decode[_decode(future, c)]
                    assert 0 <= wait < 1000 * d.latency.h_knots[0][1]
                    assert world == "joined" or is_so.arrive_us == said.arrive_us


def _decode(future: Future, c: int) -> int:
    d = future.plan[c].decode
    assert d is not None
    return d


# -- always


@claim(cases())
def the_parts_add_up(case: Case) -> None:
    futures = cut(case)
    table = errors(futures)
    if not futures:
        assert table.empty
        return
    assert (table["error_us"] == table["foretold_us"] - table["joined_us"]).all()
    for kind, names in (("cause", CAUSES), ("stage", STAGES)):
        assert (table[[f"{kind}_{name}_us" for name in names]].sum(axis=1) == table["error_us"]).all()
    for future in futures:
        for world in WORLDS:
            for times in future.worlds[world]:
                assert sum(times.stages()) == times.finish_us
                assert all(us >= 0 for us in times.stages())
                known = [us for us in times[1:] if us >= 0]
                assert all(a <= b for a, b in pairwise(known))


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_hold(name: str) -> None:
    CLAIMS[name](12)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_claims_hold_on_many_windows(name: str) -> None:
    CLAIMS[name](EXAMPLES)


def test_each_cause_by_hand() -> None:
    # Prefill takes 10 ms, an iteration as many ms as its batch is large, the wire 0.1 ms. Foretold are two tokens.
    call, flow = hexopt.Call, hexopt.Workflow
    trace = Trace(
        (
            flow("w0", "a", 0, (call("c", (), 100, 21),)),
            flow("w1", "a", 0, (call("c", (), 100, 3),)),
            flow("w2", "a", 1_000, (call("c", (), 100, 9),)),
        )
    )
    growing = ((1, 1.0), (8, 8.0))
    site = cluster(2, [decode(name, knots=growing, max_batch=8) for name in ("d0", "d1")])
    plan = (Placement(0, 0, 1.0), Placement(1, 1, 0.0))
    (future,) = window_futures(trace, site, "fcfs", lambda window: plan, least=2, predictor="constant:2")
    assert [d.max_new for d in future.window.decode] == [2, 2]
    finish = {world: steps(future, world, "finish_us") for world in WORLDS}
    assert finish["foretold"] == [10_100 + 1 * 2_000] * 2
    assert finish["lengths"] == [10_100 + 20 * 2_000, 10_100 + 2 * 2_000]
    assert finish["batch"] == finish["alone"] == [10_100 + 20 * 1_000, 10_100 + 2 * 1_000]
    # w2 prefills from 10 to 20 ms and joins the first one at 20.1 ms, for 8 iterations of 2 ms; 2 of 1 ms are left.
    assert finish["joined"] == [20_100 + 8 * 2_000 + 2 * 1_000, 12_100]
    first = errors([future]).iloc[0]
    assert [first[f"cause_{name}_us"] for name in CAUSES] == [-38_000 - 0, 20_000, 0, -8_000]
    assert [first[f"stage_{name}_us"] for name in STAGES] == [0, 0, 0, 0, -26_000]


def test_bound_calls_and_residents_have_their_times() -> None:
    trace = hexopt.load_trace(TRACE).head(12)
    site = hexopt.load_cluster("hetero-1-llama")
    found = window_futures(trace, site, "hexagent", _first_fit, least=3, limit=3, arrivals="poisson:30", delays="zero")
    assert len(found) == 3
    table = errors(found)
    assert set(table["state"]) == {"open", "bound"}
    bound = table[table["state"] == "bound"]
    assert (bound["joined_us"] > 0).all()
    # What comes later changes what happens, here.
    assert (table["cause_later_us"] != 0).any()
    assert (table["cause_lengths_us"] != 0).any()


def test_a_view_that_told_the_truth_forgets_it() -> None:
    books = Books(cluster(1, 1))
    calls = [books.place(books.call(100, 11), CallState.RUNNING), books.call(50, 7)]
    true = hexopt.Workflow("w", "a", 0, (hexopt.Call("c0", (), 100, 3),))
    trace = Trace((true, replace(true, workflow_id="v")))
    with _told_the_truth(books.view(), trace, books.latency):
        assert [(c.predicted_output_tokens, c.kv_blocks) for c in calls] == [(3, 103), (3, 53)]
    assert [(c.predicted_output_tokens, c.kv_blocks) for c in calls] == [(11, 111), (7, 57)]


def test_a_planner_needs_a_plan() -> None:
    trace = Trace((hexopt.Workflow("w", "a", 0, (hexopt.Call("c", (), 100, 3),)),), "t")
    with pytest.raises(WindowError, match="window 't-0': the planner has no plan"):
        window_futures(trace, cluster(1, 1), "fcfs", lambda window: None)
    with pytest.raises(WindowError, match="window 't-0': call 'w/c': pair"):
        window_futures(trace, cluster(1, 1), "fcfs", lambda window: (Placement(4, 0, 0.0),))
    assert window_futures(trace, cluster(1, 1), "fcfs", lambda window: None, least=2) == []


SCRIPT = Path(__file__).parents[2] / "experiments" / "window_error.py"


def test_the_script_mixes_no_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # its neighbour make_instances.py
    spec = spec_from_file_location("window_error_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    asked: list[Any] = []
    shown: list[list[int]] = []

    def measure(name: str, source: Any, change: Any, size: Any) -> pd.DataFrame:
        asked.append(size)
        return pd.DataFrame([{f"{part}_us": 7 for part in ("joined", "foretold", "error")} | {"size": size.workflows}])

    monkeypatch.setattr(script, "measure", measure)
    monkeypatch.setattr(script, "CAUSES", ())
    monkeypatch.setattr(script, "tables", lambda found: shown.append(found["size"].tolist()))
    monkeypatch.setattr(script, "draw", lambda found, path: None)
    for count in ("60", "80", "80"):
        arguments = ["--workflows", count, "--out", str(tmp_path), "--only", "moderate/sample"]
        monkeypatch.setattr(sys, "argv", ["window_error.py", *arguments])
        script.main()
    assert asked == [(4, 60), (4, 80)]
    assert shown == [[60], [80], [80]]
