"""Error and calibration of forecasts, on workflows whose tails are known by heart."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hexopt
from hexopt.cli.app import app
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.experiments.forecasts import evaluate_forecasters

SAMPLE = Path(__file__).parents[2] / "traces" / "samples" / "bfcl_multi_turn.jsonl"


def chains(name: str, lengths: list[int]) -> tuple[Workflow, ...]:
    return tuple(
        Workflow(f"{name}{i}", name, 0, tuple(Call(f"c{k}", (k - 1,) if k else (), 100, 11) for k in range(n)))
        for i, n in enumerate(lengths)
    )


def test_scores() -> None:
    trace = Trace((*chains("a", [4] * 12), *chains("b", [1, 3] * 10)))
    cluster = hexopt.load_cluster("hetero-1-llama")
    past = Trace(tuple(replace(w, workflow_id=f"past {w.workflow_id}") for w in trace.workflows))
    frame = evaluate_forecasters(trace, cluster, ["none", "oracle", "learned"], training=past)
    rows = {(r["forecaster"], r["app"]): r for r in frame.to_dict("records")}
    assert set(rows) == {(f, a) for f in ("none", "oracle", "learned") for a in ("a", "b", "all")}
    none, oracle = rows["none", "a"], rows["oracle", "a"]
    assert none["calls"] == 48
    assert none["error_s"] == -none["bias_s"] == none["truth_s"]
    assert (oracle["error_s"], oracle["r2"], oracle["pinball"], oracle["below_10"]) == (0, 1, 0, 1)
    assert rows["learned", "a"]["r2"] == pytest.approx(1)  # its age tells all
    learned = rows["learned", "b"]
    # Of 20 first calls, 10 are the last and 10 have two to follow; second and third calls are known for sure.
    assert 0 < learned["r2"] < 1
    assert learned["bias_s"] == pytest.approx(0, abs=1e-6)
    assert rows["oracle", "all"]["calls"] == 88


def test_learning_on_the_way_never_looks_ahead() -> None:
    cluster = hexopt.load_cluster("hetero-1-llama")
    one = evaluate_forecasters(Trace(chains("a", [5])), cluster, ["app-residual"]).iloc[0]
    assert one["known"] == 0
    assert one["error_s"] == one["truth_s"]
    two = evaluate_forecasters(Trace(chains("a", [5, 5])), cluster, ["app-residual"]).iloc[0]
    assert two["known"] == 0.5
    assert not math.isnan(two["r2"])


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "f.csv"
    arguments = ["forecast", "evaluate", "--trace", str(SAMPLE), "--delays", "zero", "--forecaster", "learned"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "1,975" in done.output
    assert out.read_text().startswith("forecaster,app,calls,truth_s,")
