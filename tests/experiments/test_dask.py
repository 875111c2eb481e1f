"""A study on a Dask cluster gives the same bytes, and says what is wrong with the cluster."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from hexopt.cli import run
from hexopt.errors import ConfigError, OutputError
from hexopt.experiments import Progress, load_config, on_dask, run_experiment
from tests.experiments.small import EXPERIMENT
from tests.experiments.test_runner import deterministic_files, read_csv

distributed = pytest.importorskip("distributed", reason="the optional extra dask is not installed")

# What distributed and what it uses leave behind at their own ends is not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SUICIDAL = """
import os, signal
from hexopt.policies.fcfs import Fcfs

class Suicidal(Fcfs):
    "Kills its process."
    name = "suicidal"
    def plan(self, view):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    folder = tmp_path_factory.mktemp("site")
    info = folder / "suicidal-1.0.dist-info"
    info.mkdir()
    (folder / "suicidal.py").write_text(SUICIDAL)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: suicidal\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hexopt.policies]\nsuicidal = suicidal:Suicidal\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        yield folder


@pytest.fixture(scope="module")
def cluster(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Any]:
    """Two worker processes that start in a folder of their own: a relative path leads nowhere there."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        worker_dashboard_address=None,
        local_directory=str(tmp_path_factory.mktemp("workers")),
        silence_logs=50,
    ) as there:
        yield there


def test_two_worker_processes_give_the_same_bytes_as_two_jobs(cluster: Any, experiment: Path, tmp_path: Path) -> None:
    config = load_config(experiment)
    seen: list[Progress] = []
    run_experiment(config, tmp_path / "jobs", jobs=2)
    outcome = run_experiment(config, tmp_path / "dask", dask=cluster.scheduler_address, on_progress=seen.append)
    assert not outcome.failures
    assert [p.done for p in seen] == [0, 1, 2, 3, 4]
    assert deterministic_files(tmp_path / "dask") == deterministic_files(tmp_path / "jobs")
    again = run_experiment(config, tmp_path / "dask", dask="tcp://nowhere.invalid:1")
    assert again.reused == 4, "nothing left to do, no cluster needed"


def test_inputs_travel(cluster: Any, experiment: Path, tmp_path: Path) -> None:
    """Workers see neither the trace nor the result folder: both are gone or moved while they work."""
    config = load_config(experiment)

    def on_progress(progress: Progress) -> None:
        experiment.with_name("small.jsonl").unlink(missing_ok=True)

    outcome = run_experiment(config, tmp_path / "out", dask=cluster.scheduler_address, on_progress=on_progress)
    assert not outcome.failures


def test_a_failed_run_does_not_stop_the_rest(cluster: Any, experiment: Path, tmp_path: Path) -> None:
    experiment.write_text(EXPERIMENT + '\n[[policies]]\nname = "replay"\noptions = {decisions = "d.csv"}\n')
    header = "at_us,workflow_id,call_id,prefill_instance,decode_instance,priority\n"
    experiment.with_name("d.csv").write_text(header + "0,w0,c0,nowhere,nowhere,0\n")
    outcome = run_experiment(load_config(experiment), tmp_path / "out", dask=cluster.scheduler_address)
    assert [spec.policy for spec, _ in outcome.failures] == ["replay", "replay"]
    assert [row["status"] for row in read_csv(tmp_path / "out" / "runs.csv")] == ["ok"] * 4 + ["failed"] * 2


def test_a_killed_worker_does_not_end_the_study(cluster: Any, experiment: Path, tmp_path: Path) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        first = sorted(client.run(os.getpid).values())[0]
    experiment.write_text(EXPERIMENT.replace("seeds = 2", "seeds = 10"))

    def on_progress(progress: Progress) -> None:
        if progress.done == 3:
            os.kill(first, signal.SIGKILL)

    outcome = run_experiment(
        load_config(experiment), tmp_path / "out", dask=cluster.scheduler_address, on_progress=on_progress
    )
    assert not outcome.failures
    run_experiment(load_config(experiment), tmp_path / "one", jobs=1)
    assert deterministic_files(tmp_path / "out") == deterministic_files(tmp_path / "one")


def test_a_run_that_kills_every_worker_is_a_failure(cluster: Any, experiment: Path, tmp_path: Path) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    text = EXPERIMENT.replace("seeds = 2", "seeds = 1") + '\n[[policies]]\nname = "suicidal"\n'
    experiment.write_text(text)
    outcome = run_experiment(load_config(experiment), tmp_path / "out", dask=cluster.scheduler_address)
    assert [spec.policy for spec, _ in outcome.failures] == ["suicidal"]
    assert "a worker process was killed 4 times" in outcome.failures[0][1]


def test_other_code_on_a_worker_is_refused(
    cluster: Any, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_dask, "package_code", OtherCode())
    with pytest.raises(ConfigError, match="has other code of hexopt"):
        run_experiment(load_config(experiment), tmp_path / "out", dask=cluster.scheduler_address)


class OtherCode:
    """Differs from one call to the next, as the code of two machines may."""

    def __call__(self) -> str:
        return f"{os.getpid()}"


def test_no_scheduler(experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_dask, "CONNECT_S", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"tcp://127.0.0.1:{port}", "what is this", "tcp://127.0.0.1:notaport"):
        started = time.monotonic()
        with pytest.raises(ConfigError, match="no scheduler answered within 1 s") as caught:
            run_experiment(load_config(experiment), tmp_path / "out", dask=address)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - started < 30


def test_a_lost_scheduler_ends_the_study_and_keeps_what_is_finished(experiment: Path, tmp_path: Path) -> None:
    experiment.write_text(EXPERIMENT.replace("seeds = 2", "seeds = 50"))
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", silence_logs=50
    ) as short:

        def on_progress(progress: Progress) -> None:
            if progress.done == 3:
                short.close()

        with pytest.raises(OutputError, match="the scheduler is gone, finished runs are kept"):
            run_experiment(
                load_config(experiment), tmp_path / "out", dask=short.scheduler_address, on_progress=on_progress
            )
    seen: list[Progress] = []
    run_experiment(load_config(experiment), tmp_path / "out", jobs=1, on_progress=seen.append)
    assert seen[0].reused >= 3


def test_no_worker_at_all(experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_dask, "LONELY_S", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as empty,
        pytest.raises(OutputError, match="it has had no worker for"),
    ):
        run_experiment(load_config(experiment), tmp_path / "out", dask=empty.scheduler_address)


def test_a_cluster_has_the_workers_it_has(experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs: 2 found beside dask"):
        run_experiment(load_config(experiment), tmp_path / "out", jobs=2, dask="tcp://x:1")


def test_a_missing_extra_is_named(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.chdir(experiment.parent)
    assert run(["run", "small.toml", "--dask", "tcp://127.0.0.1:1"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'hexopt[dask]'" in error
    assert error.count("\n") == 1
