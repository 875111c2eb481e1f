"""The offline search call by call: who is spared, what is carried out, and that every change can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import hexopt
from hexopt.core.cluster import Cluster, DecodeInstance, DecodeLatency, Network, PrefillInstance, PrefillLatency
from hexopt.hindsight import Assigned, Assignment, Changes, Considerate, Times, pressure
from hexopt.offline import best_known, problem_of, run
from tests.formulations.small_traces import cases
from tests.sim.toys import flows


def two_decoders() -> Cluster:
    """Decode: 2 ms an iteration alone and 3 ms for two, or always 3.2 ms; prefill 10 ms on either of two instances."""
    prefill = PrefillInstance("p0", 10_000, 1e8, 1000, PrefillLatency(((512, 10.0),), 0.0, 0.0))
    fast = DecodeInstance("fast", 10_000, 1e8, 1000, DecodeLatency(((1, 2.0), (2, 3.0)), 0.0), max_batch=2)
    steady = replace(fast, name="steady", latency=DecodeLatency(((2, 3.2),), 0.0))
    network = Network(efficiency=1.0, latency_us=0)
    return Cluster("two", "toy", (prefill, replace(prefill, name="p1")), (fast, steady), network)


@pytest.mark.parametrize(("care", "instance"), [(0.0, "fast"), (1.0, "steady")])
def test_a_call_goes_where_it_is_done_first_or_where_it_disturbs_nobody(care: float, instance: str) -> None:
    # The second call would take 3 ms an iteration beside the first, which it would slow by 1 ms, and 3.2 ms alone.
    problem = problem_of(flows((0, 100, 101), (50_000, 100, 101)), two_decoders())
    policy = Considerate(problem, np.ones(2), care)
    calls = hexopt.simulate(problem.trace, problem.cluster, policy, predictor="oracle").calls
    assert calls["decode_instance"].tolist() == ["fast", instance]


def test_the_workflow_that_is_due_first_goes_first() -> None:
    cluster = two_decoders()
    one = replace(cluster, prefill=cluster.prefill[:1])
    problem = problem_of(flows((0, 100, 1), (0, 100, 1), (0, 100, 1)), one)
    policy = Considerate(problem, np.array([3.0, 2.0, 1.0]))
    calls = hexopt.simulate(problem.trace, one, policy, predictor="oracle").calls
    assert calls["prefill_start_us"].tolist() == [20_000, 10_000, 0]


def test_an_assignment_is_carried_out() -> None:
    problem = problem_of(flows((0, 100, 3), (0, 100, 3), (0, 100, 3)), two_decoders())
    assignment = Assignment(np.array([1, 1, 0]), np.array([0, 1, 1]), np.array([2.0, 1.0, 0.0]))
    result = hexopt.simulate(problem.trace, problem.cluster, Assigned(problem, assignment), predictor="oracle")
    assert result.calls["prefill_instance"].tolist() == ["p1", "p1", "p0"]
    assert result.calls["decode_instance"].tolist() == ["fast", "steady", "steady"]
    assert result.calls["prefill_start_us"].tolist() == [10_000, 0, 0]


def test_every_change_can_be_carried_out() -> None:
    for number, trace, cluster, _ in cases(12, 5000):
        problem = problem_of(trace, cluster)
        policy = hexopt.make_policy("earliest-finish")
        result = hexopt.simulate(trace, cluster, policy, predictor="oracle")
        changes = Changes(problem, problem.workflows, np.random.default_rng(number))
        for _ in range(4):
            times = Times.of(problem, result)
            ratios = result.workflows["ratio"].to_numpy(float)
            assignment = changes.propose(ratios, times)
            result = hexopt.simulate(trace, cluster, Assigned(problem, assignment), predictor="oracle")
            assert result.summary["finished_workflows"] == problem.workflows


def test_changes_find_what_a_policy_missed() -> None:
    # One prefill instance; the call of 10 ms waits for the one of 210 ms, which would lose little by waiting itself.
    cluster = two_decoders()
    problem = problem_of(flows((0, 100, 101), (0, 100, 1)), replace(cluster, prefill=cluster.prefill[:1]))
    first = run(problem, hexopt.make_policy("earliest-finish"), 2, "first")
    found = best_known(problem, "1", iterations=0, changes=30, starters=("earliest-finish",))
    assert first.value == 2.0
    assert found.value < 1.1
    replay = hexopt.make_policy("replay", decisions=found.decisions)
    result = hexopt.simulate(problem.trace, problem.cluster, replay, predictor="oracle")
    assert tuple(result.workflows["ratio"]) == found.ratios


def test_pressure_is_about_the_largest_ratio_that_counts() -> None:
    ratios = np.array([1.0, 9.0, 2.0, 1.5])
    assert pressure(ratios, 3) == pytest.approx(2.0, rel=1e-3)
    assert pressure(ratios, 4) == pytest.approx(9.0, rel=1e-3)
    assert pressure(np.array([2.0, 2.0]), 2) > pressure(np.array([1.0, 2.0]), 2)
