"""Whatever is killed, and whenever: at most the runs in flight are lost, and the tables come out the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hexopt.experiments import load_config, run_experiment
from tests.experiments.small import EXPERIMENT, write_small_trace
from tests.experiments.test_runner import deterministic_files

SLOW_POLICY = '''
import os
import signal
import time
from hexopt.policies.fcfs import Fcfs

class SlowFcfs(Fcfs):
    "First come, first served, and a pause so that there is time to kill."
    def reset(self, *args):
        time.sleep(0.03)
        super().reset(*args)

class KillsOnce(Fcfs):
    """Kills its process, but only the first time.

    Parameters
    ----------
    flag
        A file that is there once it has.
    """
    name = "kills-once"
    def __init__(self, *, flag: str) -> None:
        super().__init__()
        self.flag = flag

    def plan(self, view):
        if not os.path.exists(self.flag):
            open(self.flag, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().plan(view)
'''

STUDY = """
import sys
from hexopt.experiments import load_config, run_experiment

def on_progress(progress):
    print("progress", progress.done, progress.reused, progress.failed, flush=True)

run_experiment(load_config(sys.argv[1]), sys.argv[2], jobs=2, on_progress=on_progress)
"""


class Study:
    """The study in a process of its own, told about by its lines of progress."""

    def __init__(self, experiment: Path, out: Path) -> None:
        site = str(experiment.with_name("site"))
        self.process = subprocess.Popen(
            [sys.executable, "-c", STUDY, str(experiment), str(out)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([site, os.environ.get("PYTHONPATH", "")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.done = self.failed = 0
        self.reused = -1

    def wait_for(self, lines: int) -> bool:
        """Read so many lines of progress; False if the study ended before."""
        assert self.process.stdout is not None
        while lines:
            line = self.process.stdout.readline()
            if not line:
                return False
            # A worker that finds its parent dead while it starts says so on the same pipe.
            if line.startswith("progress "):
                self.done, self.reused, self.failed = map(int, line.split()[1:])
                lines -= 1
        return True

    def workers(self) -> list[int]:
        """The process ids of its workers: children that run Python code of the pool, not its bookkeeper."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(c) for c in children if b"loky" in command(int(c)) and b"resource_tracker" not in command(int(c))]

    def kill(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def clear_away(self) -> None:
        """Leave no process and no pipe to the tests that follow, whatever this one found."""
        if self.process.returncode is None:
            self.kill(self.process.pid)
            self.process.communicate()


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def killable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    info = tmp_path / "site" / "slow_fcfs-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "slow_fcfs.py").write_text(SLOW_POLICY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-fcfs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[hexopt.policies]\nslow-fcfs = slow_fcfs:SlowFcfs\nkills-once = slow_fcfs:KillsOnce\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    write_small_trace(tmp_path / "small.jsonl")
    return tmp_path / "small.toml"


def test_a_run_whose_worker_was_killed_is_tried_again(killable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(killable.with_name("site")), os.environ.get("PYTHONPATH", "")])
    )
    policy = f'[[policies]]\nname = "kills-once"\noptions = {{flag = "{killable.with_name("flag")}"}}\n'
    killable.write_text(EXPERIMENT + policy)
    outcome = run_experiment(load_config(killable), killable.with_name("out"), jobs=2)
    assert killable.with_name("flag").exists()
    assert not outcome.failures


def disturb(studies: list[Study], kills: int, again: Callable[[], Study]) -> list[int]:
    """Kill the last study or a worker of it so many times; return the workers whose parent was killed."""
    rng = random.Random(20_260_516)
    committed = 0
    orphans: list[int] = []
    for number in range(kills):
        study = studies[-1]
        # The first lines say what is reused; a random moment after any of the next ones, or before.
        alive = study.wait_for(rng.randrange(1 if study.reused < 0 else 0, 4))
        if study.reused >= 0:
            assert study.reused >= committed, "a finished run was lost"
        time.sleep(rng.uniform(0, 0.05))
        workers = study.workers() if alive and study.process.poll() is None else []
        if not alive:
            study.process.communicate()
            studies.append(again())
        elif workers and rng.random() < 0.5 and number < kills - 1:
            study.kill(rng.choice(workers))
        else:
            study.kill(study.process.pid)
            orphans += workers
            study.wait_for(1_000_000)  # what it had still told
            study.process.communicate()
            committed = max(committed, study.done - study.failed)
            studies.append(again())
    return orphans


def disturbed_and_not(experiment: Path, seeds: int, kills: int) -> None:
    text = EXPERIMENT.replace("seeds = 2", f"seeds = {seeds}").replace('name = "hexagent"', 'name = "slow-fcfs"')
    experiment.write_text(text)
    whole, out = experiment.with_name("whole"), experiment.with_name("out")
    run_experiment(load_config(experiment), whole, jobs=1)

    studies = [Study(experiment, out)]
    try:
        orphans = disturb(studies, kills, lambda: Study(experiment, out))
        _, errors = studies[-1].process.communicate(timeout=120)
        assert studies[-1].process.returncode == 0, errors
    finally:
        studies[-1].clear_away()
    run_experiment(load_config(experiment), out, jobs=1)  # does again what failed for being killed too often
    assert deterministic_files(out) == deterministic_files(whole)
    deadline = time.monotonic() + 10
    while any(b"loky" in command(pid) for pid in orphans):
        assert time.monotonic() < deadline, "workers end with their parent"
        time.sleep(0.05)


def test_a_few_kills(killable: Path) -> None:
    disturbed_and_not(killable, seeds=12, kills=3)


@pytest.mark.slow
def test_twenty_kills(killable: Path) -> None:
    disturbed_and_not(killable, seeds=80, kills=20)
