"""Prompts beyond the calibrated range are refused before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hexopt.cli import run
from hexopt.clusters import dump_cluster, load_cluster
from hexopt.core.cluster import Cluster
from hexopt.errors import CalibrationRangeError
from hexopt.latency import check_calibrated
from tests.experiments.small import EXPERIMENT, write_small_trace
from tests.sim.toys import flows


def site(extrapolate: bool = False, kv_tokens: int = 4096, knots: int = 2) -> Cluster:
    """A cluster whose second prefill instance is calibrated up to 64 tokens only."""
    tiny = load_cluster("tiny")
    one, two = tiny.prefill
    latency = replace(two.latency, g_knots=((32, 1.0), (64, 2.0))[-knots:], extrapolate=extrapolate)
    return replace(tiny, prefill=(one, replace(two, latency=latency, kv_tokens=kv_tokens)))


def test_a_candidate_that_is_not_calibrated() -> None:
    name = site().prefill[1].name
    check_calibrated(flows((0, 64, 5)), site())
    with pytest.raises(CalibrationRangeError) as caught:
        check_calibrated(flows((0, 64, 5), (0, 65, 5)), site())
    assert str(caught.value) == (
        f"call 'w1/c': its prompt of 65 tokens lies beyond the last knot 64 of g_knots of instance '{name}', which "
        "holds it, a model is not extrapolated unasked, add knots or set extrapolate = true"
    )


def test_what_is_no_candidate_or_reaches_far_enough() -> None:
    check_calibrated(flows((0, 4000, 5)), load_cluster("tiny"))
    check_calibrated(flows((0, 4000, 5)), site(extrapolate=True))
    check_calibrated(flows((0, 4000, 5)), site(kv_tokens=64))
    with pytest.raises(CalibrationRangeError):  # no line goes through one knot
        check_calibrated(flows((0, 4000, 5)), site(extrapolate=True, knots=1))


def test_the_command_line_tells_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_small_trace(tmp_path / "small.jsonl")
    (tmp_path / "mine.toml").write_text(dump_cluster(site()))
    (tmp_path / "small.toml").write_text(EXPERIMENT.replace('"tiny"', '"mine.toml"'))
    simulate = ["simulate", "--trace", "small.jsonl", "--cluster", "mine.toml", "--policy", "fcfs"]
    for command in (["run", "small.toml"], [*simulate, "--arrivals", "burst"]):
        assert run(command) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: call 'w0/c0': its prompt of 200 tokens lies beyond the last knot 64")
        assert err.count("\n") == 1
    assert not list((tmp_path / "results").rglob("runs/*"))
