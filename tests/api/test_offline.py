"""The search with full knowledge: what it finds can be replayed, and lies between the bound and the policies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import hexopt
from hexopt.cli import run as run_command
from hexopt.cli.bound import _plain
from hexopt.formulations.bounds import Problem
from hexopt.offline import Foresight, Targets, best_known, enclose, gap, problem_of, run
from hexopt.traces import write_trace

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def problem() -> Problem:
    trace = hexopt.generate_trace("bfcl", workflows=24, seed=3, parameters="paper")
    return problem_of(trace, hexopt.load_cluster("tiny"), arrivals="poisson:40", seed=1)


def test_the_search_repeats_itself_and_its_schedule_is_replayed(problem: Problem) -> None:
    first = best_known(problem, "0.95", iterations=8, changes=6, seed=5, starters=("fcfs", "hexagent"))
    again = best_known(problem, "0.95", iterations=8, changes=6, seed=5, starters=("fcfs", "hexagent"))
    assert first.decisions.to_csv() == again.decisions.to_csv()
    replay = hexopt.make_policy("replay", decisions=first.decisions)
    result = hexopt.simulate(problem.trace, problem.cluster, replay, predictor="oracle")
    assert sorted(result.workflows["ratio"])[22] == first.value  # the 23rd of 24
    assert tuple(result.workflows["ratio"]) == first.ratios


def test_the_best_known_is_no_worse_than_what_it_began_with(problem: Problem) -> None:
    starters = ("fcfs", "earliest-finish", "hexagent")
    values = [run(problem, hexopt.make_policy(name), 23, name).value for name in starters]
    assert best_known(problem, "0.95", iterations=6, starters=starters).value <= min(values)


def test_foresight_puts_the_workflow_first_that_has_the_most_to_do() -> None:
    # Both arrive at once on one prefill instance; b has a second call to do, so that it goes first although it is
    # listed last.
    calls = (hexopt.Call("c0", (), 100, 1), hexopt.Call("c1", (0,), 100, 1))
    trace = hexopt.Trace((hexopt.Workflow("a", "x", 0, calls[:1]), hexopt.Workflow("b", "x", 0, calls)))
    cluster = hexopt.load_cluster("tiny")
    one = type(cluster)(
        **{f: getattr(cluster, f) for f in cluster.__dataclass_fields__} | {"prefill": cluster.prefill[:1]}
    )
    problem = problem_of(trace, one)
    same = Targets(np.array([problem.standalone_us[1] / problem.standalone_us[0], 1.0]))  # equal due times
    result = hexopt.simulate(trace, one, Foresight(problem, same), predictor="oracle")
    assert result.calls["prefill_start_us"].tolist()[:2] == [result.calls["prefill_end_us"][1], 0]


def test_without_compiled_code_the_schedule_is_the_same(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = Targets(np.ones(problem.workflows), 1.4)
    fast = run(problem, Foresight(problem, targets, small_queue=10**6), 23, "fast")
    monkeypatch.setattr("hexopt.offline.load_kernels", lambda: None)
    slow = run(problem, Foresight(problem, targets), 23, "slow")
    assert fast.ratios == slow.ratios


def test_an_enclosure_has_bound_best_known_and_policies(problem: Problem) -> None:
    said: list[tuple[int, int, str]] = []
    found = enclose(
        problem,
        "0.95",
        policies=("fcfs",),
        iterations=3,
        changes=4,
        starters=("hexagent",),
        progress=lambda *step: said.append(step),
    )
    assert 0 < found.bounds.path <= found.bounds.value <= found.best.value <= found.policies["fcfs"]["value"]
    assert found.policies["fcfs"]["gap"] == gap(found.policies["fcfs"]["value"], found.bounds.value)
    assert said[0] == (0, 10, "fcfs")
    assert said[-1][0] <= 10


def test_the_command_prints_json_and_saves_the_schedule(
    problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_trace(problem.trace, tmp_path / "t.jsonl")
    arguments = ["--trace", str(tmp_path / "t.jsonl"), "--cluster", "tiny", "--quantile", "0.9", "--policy", "fcfs"]
    assert run_command(["bound", *arguments, "--search", "1", "--json", "--out", str(tmp_path / "out")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {"quantile", "bound", "best_known", "policies"} <= set(said)
    assert set(said["bounds"]) == {"path", "lp"}
    assert said["quantile"] == "0.9"
    assert set(said["policies"]["fcfs"]) == {"value", "gap"}
    replay = hexopt.make_policy("replay", decisions=tmp_path / "out" / "decisions.csv")
    result = hexopt.simulate(problem.trace, problem.cluster, replay, predictor="oracle")
    assert sorted(result.workflows["ratio"])[21] == said["best_known"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [(["--quantile", "0"], "quantile: 0 found"), (["--policy", "fcfss"], "policy 'fcfss': it is unknown")],
)
def test_wrong_arguments(
    problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    write_trace(problem.trace, tmp_path / "t.jsonl")
    assert run_command(["bound", "--trace", str(tmp_path / "t.jsonl"), "--cluster", "tiny", *extra]) == 2
    assert message in capsys.readouterr().err


def test_a_value_below_a_bound_is_not_hidden() -> None:
    assert gap(3.0, 3.0 + 1e-12) == 0.0
    assert gap(3.0, 3.3) == pytest.approx(-0.1)
    assert gap(math.inf, 3.0) == 1.0


def test_json_has_null_for_the_ratio_of_a_workflow_that_is_never_done() -> None:
    answer = {"bound": 1.5, "policies": {"x": {"value": math.inf, "gap": 1.0}}}
    assert _plain(answer) == {"bound": 1.5, "policies": {"x": {"value": None, "gap": 1.0}}}
