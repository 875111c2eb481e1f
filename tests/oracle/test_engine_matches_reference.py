"""The simulator against the reference: not a microsecond of difference in any column of any table.

Where both refuse a scenario, they refuse it with the same exception. Policies are functions of what they see, so
that the views are compared too, invocation by invocation. ``HEXOPT_EXAMPLES`` sets the number of scenarios of the
long variant.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

import hexopt
from hexopt.core.cluster import Cluster, DecodeInstance, DecodeLatency, PrefillInstance, PrefillLatency
from hexopt.core.view import DecodeView
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.errors import CalibrationRangeError, CapacityError, PlanError, SimulationStalled
from hexopt.latency import ClusterLatency
from hexopt.policies.registry import policy_names
from tests.oracle.reference import ReferenceLatency, reference_standalone_us, run_reference
from tests.oracle.scenarios import Scenario, clusters, scenarios, traces, unstopped, workflows

EXAMPLES = int(os.environ.get("HEXOPT_EXAMPLES", "5000"))
TABLES = ("calls", "workflows", "instances", "decisions")
NAMED = ("fcfs", "workflow-fcfs", "earliest-finish", "hexagent", "round-robin", "random")
EVERY = tuple(name for name in policy_names() if name != "replay" and not name.startswith("rolling-"))
"""All but replay, which has a test of its own, and HexAGenT's rounds with a solver in them, which take too long."""
REFUSALS = (CalibrationRangeError, CapacityError, PlanError, SimulationStalled)

counts: Counter[str] = Counter()


def profile(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


@pytest.fixture(autouse=True)
def _counted(record_property: Callable[[str, object], None]) -> Any:
    counts.clear()
    yield
    for name, value in counts.items():
        record_property(f"oracle: {name}", value)


def plain(value: Any) -> Any:
    """A cell as a Python value; missing in whatever way is None."""
    if value is None or value is pd.NA or value != value:
        return None
    return value.item() if hasattr(value, "item") else value


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    columns = {name: [plain(value) for value in table[name].tolist()] for name in table.columns}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def assert_same_tables(expected: Any, result: Any) -> None:
    for name in TABLES:
        want, have = getattr(expected, name), rows(getattr(result, name))
        assert len(have) == len(want), f"{name}: {len(have)} rows, {len(want)} expected"
        for i, (row, other) in enumerate(zip(want, have, strict=True)):
            assert list(other) == list(row), f"{name}: columns"
            wrong = {key: (row[key], other[key]) for key in row if row[key] != other[key]}
            assert not wrong, f"{name} row {i} ({list(row.values())[:2]}): (reference, engine) {wrong}"


def outcome(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except REFUSALS as error:
        return type(error)


def run_engine(scenario: Scenario, policy: Any, predictor: Any) -> Any:
    result = hexopt.simulate(
        scenario.trace, scenario.cluster, policy, predictor=predictor, seed=0, stop_us=scenario.stop_us
    )
    assert len(result.workflows) == len(scenario.trace.workflows)  # standalone latencies, which may be refused too
    return result


def compare(scenario: Scenario, make_policy: Callable[[], Any]) -> Any:
    """Run both; return the engine's result, or None where both refuse."""
    ours, theirs = make_policy(), make_policy()
    predictor = scenario.make_predictor() if scenario.predictor == "history" else scenario.predictor
    expected = outcome(
        lambda: run_reference(
            scenario.trace, scenario.cluster, ours, scenario.make_predictor(), stop_us=scenario.stop_us
        )
    )
    result = outcome(lambda: run_engine(scenario, theirs, predictor))
    for policy, other in ((ours, theirs), (ours.fallback, theirs.fallback)):
        for want, have in zip(getattr(policy, "seen", ()), getattr(other, "seen", ()), strict=False):
            assert have == want, f"views differ at {want['now']}: {difference(want, have)}"
            counts["views compared"] += 1
    if isinstance(expected, type) or isinstance(result, type):
        assert result == expected
        counts[f"scenarios refused by both ({expected.__name__})"] += 1
        return None
    assert_same_tables(expected, result)
    counts["scenarios compared"] += 1
    counts["calls compared"] += len(expected.calls)
    return result


def difference(want: Any, have: Any, path: str = "") -> str:
    """The first place where two snapshots differ."""
    if isinstance(want, dict) and isinstance(have, dict) and want.keys() == have.keys():
        return next(difference(want[k], have[k], f"{path}/{k}") for k in want if want[k] != have[k])
    if isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        return next(difference(a, b, f"{path}/{i}") for i, (a, b) in enumerate(zip(want, have, strict=True)) if a != b)
    return f"{path}: reference {want}, engine {have}"


def check_scripted(scenario: Scenario) -> None:
    compare(scenario, scenario.make_policy)


def check_named(name: str, scenario: Scenario, plan_latency_us: int, fallback: str) -> None:
    options = {"plan_latency_us": plan_latency_us, "fallback": fallback}
    compare(scenario, lambda: hexopt.make_policy(name, **options))


def check_replay(scenario: Scenario, path: Path) -> None:
    """What was decided, decided again at the same instants, is the same run; from memory and from a file."""
    result = compare(unstopped(scenario), scenario.make_policy)
    if result is None:
        return
    result.decisions.to_csv(path, index=False)
    for decisions in (result.decisions, path):
        again = hexopt.simulate(
            scenario.trace, scenario.cluster, hexopt.make_policy("replay", decisions=decisions), predictor="oracle"
        )
        assert again.calls.to_csv(index=False).encode() == result.calls.to_csv(index=False).encode()
        pd.testing.assert_frame_equal(again.calls, result.calls, check_exact=True)
    counts["runs replayed"] += 1


def check_standalone(flow: Workflow, cluster: Cluster) -> None:
    """Wide workflows, whose calls get in each other's way although the workflow is alone."""
    expected = outcome(lambda: reference_standalone_us(flow, cluster))
    assert (
        outcome(
            lambda: hexopt.simulate(
                Trace((flow,)), cluster, hexopt.make_policy("earliest-finish", fallback="none"), predictor="oracle"
            ).workflows["standalone_us"][0]
        )
        == expected
    )
    counts["standalone latencies compared"] += 1


@st.composite
def wide_workflows(draw: st.DrawFn) -> tuple[Workflow, Cluster]:
    flow = draw(workflows(0, least=6, most=14))
    return flow, draw(clusters(list(flow.calls)))


NAMED_OPTIONS = (st.sampled_from((0, 0, 1, 1000, 5000, 50000)), st.sampled_from(("fcfs", "none")))


@profile(600)
@given(scenarios())
def test_scripted_policy(scenario: Scenario) -> None:
    check_scripted(scenario)


@pytest.mark.parametrize("name", NAMED)
def test_named_policy(name: str) -> None:
    @profile(120)
    @given(scenarios(), *NAMED_OPTIONS)
    def check(scenario: Scenario, plan_latency_us: int, fallback: str) -> None:
        check_named(name, scenario, plan_latency_us, fallback)

    check()


def test_replay(tmp_path: Path) -> None:
    @profile(100)
    @given(scenarios(stop=False))
    def check(scenario: Scenario) -> None:
        check_replay(scenario, tmp_path / "decisions.csv")

    check()


@profile(300)
@given(wide_workflows())
def test_standalone(case: tuple[Workflow, Cluster]) -> None:
    check_standalone(*case)


@profile(200)
@given(st.data())
def test_latency(data: st.DataObject) -> None:
    """The shared latency model, which policies see, against the reference's arithmetic."""
    trace = data.draw(traces())
    cluster = data.draw(clusters([c for w in trace.workflows for c in w.calls]))
    reference, model = ReferenceLatency(cluster), ClusterLatency(cluster)
    assert model.prefill_class == reference.prefill_class
    assert model.decode_class == reference.decode_class
    assert model.transfer_latency_us == reference.transfer_latency_us
    tokens = data.draw(st.integers(1, 5000))
    iterations = data.draw(st.integers(0, 2000))
    assert model.blocks(tokens) == reference.blocks(tokens)
    for p in range(len(cluster.prefill)):
        want = outcome(lambda p=p: reference.prefill_us(p, tokens))
        assert outcome(lambda p=p: model.prefill_us(p, tokens)) == want
    for d, instance in enumerate(cluster.decode):
        batch = data.draw(st.integers(1, instance.max_batch))
        assert model.decode_us(d, batch, tokens, iterations) == reference.decode_us(d, batch, tokens, iterations)
        start = data.draw(st.integers(0, 10**12))
        view = DecodeView(d, "", "", 0, 0, {}, {}, segment_start_us=start, segment_batch=batch, segment_context=tokens)
        end = start + reference.decode_us(d, batch, tokens, iterations)
        for now in (end - 1, end, end + 1):
            if now >= start:
                assert model.iterations_at(view, now) == reference.iterations_at(view, now)
        for p in range(len(cluster.prefill)):
            assert model.wire_us(p, d, tokens) == reference.wire_us(p, d, tokens)


@pytest.mark.parametrize("name", NAMED)
def test_only_candidates_need_a_calibration(name: str) -> None:
    """A prompt that an instance cannot hold may lie beyond that instance's last knot: nobody has to ask there."""
    latency = PrefillLatency(((1, 1.0), (4, 2.0)), 0.0, 0.0)
    large = PrefillInstance("p0", 1000, 1e6, 1, replace(latency, g_knots=((1, 1.0), (512, 2.0))))
    small = PrefillInstance("p1", 16, 1e6, 1, latency)
    decode = DecodeInstance("d0", 1000, 1e6, 1, DecodeLatency(((1, 1.0),), 0.0), max_batch=1)
    cluster = Cluster("c", "m", (large, small), (decode,))
    trace = Trace((Workflow("w", "a", 0, (Call("c", (), 40, 2),)),))
    result = hexopt.simulate(trace, cluster, hexopt.make_policy(name, plan_latency_us=0), predictor="oracle")
    assert result.calls["prefill_instance"].tolist() == ["p0"]
    assert result.workflows["standalone_us"].tolist() == [reference_standalone_us(trace.workflows[0], cluster)]


@pytest.mark.slow
@profile(EXAMPLES)
@given(scenarios())
def test_scripted_policy_long(scenario: Scenario) -> None:
    check_scripted(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_named_policy_long(name: str) -> None:
    @profile(EXAMPLES // len(NAMED))
    @given(scenarios(), *NAMED_OPTIONS)
    def check(scenario: Scenario, plan_latency_us: int, fallback: str) -> None:
        check_named(name, scenario, plan_latency_us, fallback)

    check()


@pytest.mark.slow
def test_replay_long(tmp_path: Path) -> None:
    @profile(EXAMPLES // 5)
    @given(scenarios(stop=False))
    def check(scenario: Scenario) -> None:
        check_replay(scenario, tmp_path / "decisions.csv")

    check()


@pytest.mark.slow
@profile(EXAMPLES)
@given(wide_workflows())
def test_standalone_long(case: tuple[Workflow, Cluster]) -> None:
    check_standalone(*case)
