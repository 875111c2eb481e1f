"""The runner keeps what is finished, resumes, records failures, and gives the same bytes with any number of workers."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hexopt.errors import CapacityError, ConfigError, HexoptError, OutputError, TraceError
from hexopt.experiments import Progress, load_config, make_grid, run_experiment
from hexopt.experiments import runner as runner_module
from tests.experiments.small import EXPERIMENT


def deterministic_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("timing.json", "timing.csv", "ledger.jsonl")
    }


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_all_runs_and_tables_are_there(experiment: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    outcome = run_experiment(load_config(experiment), tmp_path / "out", jobs=1, on_progress=seen.append)
    assert not outcome.failures
    assert outcome.reused == 0
    assert [p.done for p in seen] == [0, 1, 2, 3, 4]
    assert {p.total for p in seen} == {4}
    rows = read_csv(tmp_path / "out" / "runs.csv")
    assert [(r["policy"], r["seed"], r["status"]) for r in rows] == [
        ("fcfs", "0", "ok"),
        ("fcfs", "1", "ok"),
        ("hexagent", "0", "ok"),
        ("hexagent", "1", "ok"),
    ]
    assert float(rows[0]["req95"]) > 0
    assert not [column for column in rows[0] if column.startswith("plan_ms")], "wall-clock figures stand apart"
    for row in rows:
        assert (tmp_path / "out" / "runs" / row["key"] / "calls.csv").is_file()
    timing = read_csv(tmp_path / "out" / "timing.csv")
    assert {"plan_ms_mean", "plan_ms_max", "run_wall_s"} <= set(timing[0])
    record = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert record["runs"] == 4
    assert not (tmp_path / "out" / "failed").exists()


def test_bytes_do_not_depend_on_the_number_of_workers(experiment: Path, tmp_path: Path) -> None:
    config = load_config(experiment)
    run_experiment(config, tmp_path / "one", jobs=1)
    run_experiment(config, tmp_path / "two", jobs=2)
    one, two = deterministic_files(tmp_path / "one"), deterministic_files(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_seeds_are_paired(experiment: Path, tmp_path: Path) -> None:
    run_experiment(load_config(experiment), tmp_path / "out", jobs=1)
    arrivals: dict[str, set[tuple[str, ...]]] = {}
    for row in read_csv(tmp_path / "out" / "runs.csv"):
        table = read_csv(tmp_path / "out" / "runs" / row["key"] / "workflows.csv")
        arrivals.setdefault(row["seed"], set()).add(tuple(w["arrival_us"] for w in table))
    assert len(arrivals) == 2
    assert all(len(seen) == 1 for seen in arrivals.values()), "same arrivals for every policy"
    assert arrivals["0"] != arrivals["1"]


def test_a_second_call_reuses_everything_and_writes_the_same(experiment: Path, tmp_path: Path) -> None:
    config = load_config(experiment)
    run_experiment(config, tmp_path / "out", jobs=1)
    before = deterministic_files(tmp_path / "out")
    outcome = run_experiment(config, tmp_path / "out", jobs=2)
    assert outcome.reused == 4
    assert deterministic_files(tmp_path / "out") == before


def test_only_what_is_missing_or_damaged_is_run_again(experiment: Path, tmp_path: Path) -> None:
    config = load_config(experiment)
    run_experiment(config, tmp_path / "out", jobs=1)
    before = deterministic_files(tmp_path / "out")
    runs = sorted((tmp_path / "out" / "runs").iterdir())
    shutil.rmtree(runs[0])
    (runs[1] / "summary.json").write_text("{")
    outcome = run_experiment(config, tmp_path / "out", jobs=1)
    assert outcome.reused == 2
    assert deterministic_files(tmp_path / "out") == before


def test_a_changed_input_is_another_run(experiment: Path, tmp_path: Path) -> None:
    keys = [run.key for run in make_grid(load_config(experiment)).runs]
    for old, new in (
        ("poisson:20", "poisson:21"),
        ("seeds = 2", "seeds = [5, 6]"),
        ('cluster = "tiny"', 'cluster = "tiny"\npredictor = "oracle"'),
        ('name = "hexagent"', 'name = "hexagent"\noptions = {plan_latency_us = 0}'),
        ('cluster = "tiny"', 'cluster = "tiny"\nstop_s = 100.0'),
    ):
        changed = experiment.with_name("changed.toml")
        changed.write_text(EXPERIMENT.replace(old, new))
        others = [run.key for run in make_grid(load_config(changed)).runs]
        assert others != keys, new
    trace = experiment.with_name("small.jsonl")
    trace.write_text(trace.read_text().replace('"prompt_tokens": 200', '"prompt_tokens": 201'))
    runner_caches_forget()
    assert not set(keys) & {run.key for run in make_grid(load_config(experiment)).runs}


def runner_caches_forget() -> None:
    from hexopt.experiments import grid

    grid._load_trace.cache_clear()


def test_a_failed_run_is_recorded_and_does_not_stop_the_rest(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hexopt

    simulate = hexopt.simulate

    def fails_for_hexagent(*args: object, **kwargs: object) -> object:
        if args[2].name == "hexagent" and kwargs["seed"] == 1:  # type: ignore[attr-defined]
            raise CapacityError("call 'x': too large")
        if args[2].name == "fcfs" and kwargs["seed"] == 1:  # type: ignore[attr-defined]
            raise ZeroDivisionError("a bug")
        return simulate(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(hexopt, "simulate", fails_for_hexagent)
    outcome = run_experiment(load_config(experiment), tmp_path / "out", jobs=1)
    assert [(spec.policy, error) for spec, error in outcome.failures] == [
        ("fcfs", "internal error: ZeroDivisionError: a bug"),
        ("hexagent", "call 'x': too large"),
    ]
    rows = read_csv(tmp_path / "out" / "runs.csv")
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "failed"]
    assert rows[3]["error"] == "call 'x': too large"
    records = {path.name: path.read_text() for path in (tmp_path / "out" / "failed").iterdir()}
    assert len(records) == 2
    assert any("Traceback" in text for text in records.values()), "a bug keeps its traceback"

    monkeypatch.setattr(hexopt, "simulate", simulate)
    outcome = run_experiment(load_config(experiment), tmp_path / "out", jobs=1)
    assert outcome.reused == 2
    assert not outcome.failures
    assert not (tmp_path / "out" / "failed").exists()


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('trace = "small.jsonl"', 'trace = "nowhere.jsonl"', TraceError),
        ('cluster = "tiny"', 'cluster = "tinny"', HexoptError),
        ('cluster = "tiny"', 'cluster = "nowhere.toml"', HexoptError),
        ('arrivals = "poisson:20"', "", TraceError),
        ('arrivals = "poisson:20"', 'arrivals = "poison:20"', ConfigError),
        ('cluster = "tiny"', 'cluster = "tiny"\npredictor = "oracel"', ConfigError),
        ('name = "hexagent"', 'name = "hexagnt"', ConfigError),
        ('name = "hexagent"', 'name = "hexagent"\noptions = {small_quue = 3}', ConfigError),
    ],
)
def test_bad_inputs_are_found_before_anything_runs(
    experiment: Path, tmp_path: Path, old: str, new: str, error: type[HexoptError]
) -> None:
    experiment.write_text(EXPERIMENT.replace(old, new))
    seen: list[Progress] = []
    with pytest.raises(error) as caught:
        run_experiment(load_config(experiment), tmp_path / "out", jobs=1, on_progress=seen.append)
    assert "\n" not in str(caught.value)
    assert not seen


def test_a_call_that_fits_nowhere_is_found_before_anything_runs(experiment: Path, tmp_path: Path) -> None:
    trace = experiment.with_name("small.jsonl")
    trace.write_text(trace.read_text().replace('"prompt_tokens": 200', '"prompt_tokens": 200000'))
    runner_caches_forget()
    with pytest.raises(CapacityError):
        run_experiment(load_config(experiment), tmp_path / "out", jobs=1)


def test_an_unwritable_folder_is_found_before_anything_is_read(experiment: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    experiment.with_name("small.jsonl").unlink()
    runner_caches_forget()
    with pytest.raises(OutputError, match="file"):
        run_experiment(load_config(experiment), tmp_path / "file" / "out", jobs=1)


def test_a_result_that_cannot_be_written_ends_the_experiment(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner_module, "_put", disk_full)
    with pytest.raises(OutputError, match="No space left"):
        run_experiment(load_config(experiment), tmp_path / "out", jobs=1)
    assert list((tmp_path / "out" / "runs").iterdir()) == []


def test_jobs_must_be_positive(experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs: 0"):
        run_experiment(load_config(experiment), tmp_path / "out", jobs=0)


def test_tables_only_leaves_the_bulk_out(experiment: Path, tmp_path: Path) -> None:
    experiment.write_text(EXPERIMENT + '\n[output]\nkeep = "tables"\n')
    run_experiment(load_config(experiment), tmp_path / "out", jobs=1)
    for run in (tmp_path / "out" / "runs").iterdir():
        names = {path.name for path in run.iterdir()}
        assert {"summary.json", "workflows.csv", "instances.csv", "run.json"} <= names
        assert not names & {"calls.csv", "decisions.csv", "trace.jsonl.gz"}


def test_summary_only_keeps_little_and_its_tables_are_the_same(experiment: Path, tmp_path: Path) -> None:
    run_experiment(load_config(experiment), tmp_path / "all", jobs=1)
    experiment.write_text(EXPERIMENT + '\n[output]\nkeep = "summary"\n')
    run_experiment(load_config(experiment), tmp_path / "few", jobs=1)
    for table in ("runs.csv", "summary.csv", "across_traces.csv"):
        a, b = (read_csv(tmp_path / where / table) for where in ("all", "few"))
        assert [row | {"key": ""} for row in a] == [row | {"key": ""} for row in b]
    whole, few = (read_csv(tmp_path / where / "runs.csv") for where in ("all", "few"))
    for old, new in zip(whole, few, strict=True):
        before, after = tmp_path / "all" / "runs" / old["key"], tmp_path / "few" / "runs" / new["key"]
        assert {path.name for path in after.iterdir()} == {
            "summary.json", "timing.json", "workflows.csv", "instances.csv"
        }  # fmt: skip
        for same in ("summary.json", "instances.csv"):
            assert (after / same).read_bytes() == (before / same).read_bytes()
        columns = ["workflow_id", "app", "latency_us", "ratio"]
        rows = [{c: row[c] for c in columns} for row in read_csv(before / "workflows.csv")]
        assert read_csv(after / "workflows.csv") == rows


def test_an_unfinished_workflow_has_no_latency_in_a_short_table_either(experiment: Path, tmp_path: Path) -> None:
    experiment.write_text(EXPERIMENT.replace("seeds = 2", "stop_s = 0.01") + '\n[output]\nkeep = "summary"\n')
    outcome = run_experiment(load_config(experiment), tmp_path / "out", jobs=1)
    rows = read_csv(tmp_path / "out" / "runs" / outcome.grid.runs[0].key / "workflows.csv")
    assert [(row["latency_us"], row["ratio"]) for row in rows if row["ratio"] == "inf"] == [("", "inf")] * 6
    assert read_csv(tmp_path / "out" / "runs.csv")[0]["req95"] == "inf"


def plain(values: list[object]) -> list[object]:
    return [None if value is None or value != value or value == "" else value for value in values]


def test_a_parquet_table_holds_what_the_csv_holds(experiment: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the optional extra parquet is not installed")
    import pandas as pd

    experiment.write_text(EXPERIMENT + '\n[output]\ntable = "parquet"\n')
    run_experiment(load_config(experiment), tmp_path / "out", jobs=1)
    csv_, parquet = pd.read_csv(tmp_path / "out" / "runs.csv"), pd.read_parquet(tmp_path / "out" / "runs.parquet")
    assert list(parquet) == list(csv_)
    for column in csv_:
        assert plain(parquet[column].tolist()) == plain(csv_[column].tolist()), column
    assert str(parquet["load"].dtype) == "float64"
    assert str(parquet["seed"].dtype) == "int64"
    before = (tmp_path / "out" / "runs.parquet").read_bytes()
    run_experiment(load_config(experiment), tmp_path / "out", jobs=1)
    assert (tmp_path / "out" / "runs.parquet").read_bytes() == before


def test_parquet_without_its_extra_is_refused_before_anything_runs(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hexopt.experiments import aggregate

    monkeypatch.setattr(aggregate, "find_spec", lambda name: None)
    experiment.write_text(EXPERIMENT + '\n[output]\ntable = "parquet"\n')
    with pytest.raises(ConfigError, match=r"hexopt\[parquet\]"):
        run_experiment(load_config(experiment), tmp_path / "out", jobs=1)
    assert not (tmp_path / "out").exists()


def test_timing_has_planning_per_run(experiment: Path, tmp_path: Path) -> None:
    run_experiment(load_config(experiment), tmp_path / "out", jobs=1)
    rows = read_csv(tmp_path / "out" / "timing.csv")
    assert [(row["trace"], row["policy"], row["seed"]) for row in rows][::2] == [
        ("small", "fcfs", "0"),
        ("small", "hexagent", "0"),
    ]
    for row in rows:
        middle, late, longest, mean = (float(row[f"plan_ms_{name}"]) for name in ("p50", "p99", "max", "mean"))
        assert 0 < middle <= late <= longest
        assert 0 < mean <= longest


def test_ctrl_c_says_how_many_runs_are_kept(experiment: Path, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="2 of 4 runs are finished and kept"):
        run_experiment(load_config(experiment), tmp_path / "out", jobs=1, on_progress=interrupt)
    assert run_experiment(load_config(experiment), tmp_path / "out", jobs=1).reused == 2


def test_leftovers_of_a_killed_process_are_swept(experiment: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    runs = tmp_path / "out" / "runs"
    runs.mkdir(parents=True)
    (runs / f".partial-{dead.pid}-x").mkdir()
    (runs / f".partial-{os.getpid()}-x").mkdir()
    run_experiment(load_config(experiment), tmp_path / "out", jobs=1)
    left = [path.name for path in runs.iterdir() if path.name.startswith(".partial")]
    assert left == [f".partial-{os.getpid()}-x"]


KILLED = """
import os, signal, sys
from hexopt.experiments import load_config, run_experiment

def on_progress(progress):
    if progress.done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

run_experiment(load_config(sys.argv[1]), sys.argv[2], jobs=1, on_progress=on_progress)
"""


def test_a_killed_parent_keeps_finished_runs(experiment: Path, tmp_path: Path) -> None:
    config = load_config(experiment)
    run_experiment(config, tmp_path / "whole", jobs=1)
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(experiment), str(tmp_path / "out")], capture_output=True, check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert run_experiment(config, tmp_path / "out", jobs=1).reused == 2
    assert deterministic_files(tmp_path / "out") == deterministic_files(tmp_path / "whole")


SUICIDAL = """
import os, signal
from hexopt.policies.fcfs import Fcfs

class Suicidal(Fcfs):
    "Kills its process."
    def plan(self, view):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_worker_is_a_failure_and_finished_runs_are_kept(experiment: Path, tmp_path: Path) -> None:
    # An entry point is how another package adds a policy; workers find it through PYTHONPATH as they would there.
    package = tmp_path / "site"
    info = package / "suicidal-1.0.dist-info"
    info.mkdir(parents=True)
    (package / "suicidal.py").write_text(SUICIDAL)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: suicidal\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hexopt.policies]\nsuicidal = suicidal:Suicidal\n")
    experiment.write_text(EXPERIMENT + '\n[[policies]]\nname = "suicidal"\n')
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "hexopt.cli", "run", str(experiment), "--out", str(tmp_path / "out"), "--jobs", "2"],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1, process.stderr
    assert "a worker process was killed" in process.stderr
    assert "Traceback" not in process.stderr
    assert time.monotonic() - started < 120
    rows = read_csv(tmp_path / "out" / "runs.csv")
    assert [row["status"] for row in rows if row["policy"] == "suicidal"] == ["failed", "failed"]
    kept = {row["key"] for row in rows if row["status"] == "ok"}
    assert kept == {path.name for path in (tmp_path / "out" / "runs").iterdir() if path.name[0] != "."}
