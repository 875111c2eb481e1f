"""Result folders of a small experiment and of one run."""

from __future__ import annotations

from pathlib import Path

import pytest

import hexopt
from hexopt.experiments import load_config, run_experiment
from hexopt.report.data import Results, load_results
from tests.experiments.small import EXPERIMENT, write_small_trace


@pytest.fixture(scope="session")
def experiment_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    write_small_trace(folder / "small.jsonl")
    (folder / "small.toml").write_text(EXPERIMENT.replace("seeds = 2", "seeds = 3"))
    return run_experiment(load_config(folder / "small.toml"), folder / "out", jobs=1).folder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    trace = hexopt.load_trace(write_small_trace(folder / "small.jsonl"))
    result = hexopt.simulate(
        trace, hexopt.load_cluster("tiny"), hexopt.make_policy("fcfs"), arrivals="fixed:0.05", stop_us=400_000
    )
    result.save(folder / "out")
    return folder / "out"


@pytest.fixture
def experiment(experiment_folder: Path) -> Results:
    return load_results(experiment_folder)


@pytest.fixture
def one_run(run_folder: Path) -> Results:
    return load_results(run_folder)
