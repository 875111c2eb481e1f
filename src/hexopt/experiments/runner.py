"""Carry out a grid: in parallel, every finished run committed at once, and what is there already not done again.

Workers hand results back as bytes; this process alone writes. A run's folder appears under its final name by one
rename, then the run enters the ledger. So whatever is stopped (Ctrl-C, a killed worker, a power cut) costs the runs
in flight and nothing else, and a second call with the same inputs goes on where the first one ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hexopt.errors import ConfigError, OutputError
from hexopt.experiments import ledger as ledgers
from hexopt.experiments.aggregate import check_writers, write_tables
from hexopt.experiments.config import ExperimentConfig
from hexopt.experiments.grid import Grid, RunSpec, make_grid
from hexopt.experiments.ledger import Entry, Ledger
from hexopt.experiments.on_dask import on_dask
from hexopt.experiments.pools import in_process, in_processes
from hexopt.experiments.work import Ending

_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Progress:
    """How far an experiment is: ``done`` of ``total`` runs are over, ``reused`` of them from an earlier call."""

    done: int
    total: int
    reused: int
    failed: int
    title: str = ""


@dataclass(frozen=True)
class ExperimentOutcome:
    """What an experiment left behind: its folder, how many runs were reused or failed, and the failures' errors.

    ``other_code`` counts finished runs in the folder that other code of hexopt has made and that are not used.
    ``exit_status`` is 0 without failures, 2 if every failure is the input's fault, and 1 otherwise.
    """

    folder: Path
    grid: Grid
    reused: int
    failures: tuple[tuple[RunSpec, str], ...]
    exit_status: int = 0
    other_code: int = 0


def run_experiment(
    config: ExperimentConfig,
    out: str | Path | None = None,
    jobs: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    dask: str | None = None,
    fresh: bool = False,
) -> ExperimentOutcome:
    """Carry out all runs of an experiment that have no result yet, then write the tables over all of them.

    Parameters
    ----------
    out
        Folder of the results; the experiment's own ``[output] folder`` or ``results/NAME`` if absent.
    jobs
        Worker processes; the number of usable CPU cores if absent. 1 runs everything in this process.
    on_progress
        Called in this process at the start and after every run.
    dask
        Address of a Dask scheduler whose workers carry out the runs, such as ``tcp://10.0.0.1:8786``. Results come
        back to this process, which writes them; no shared disk is needed.
    fresh
        Remove the folder's results of an earlier study first.

    Raises
    ------
    ConfigError, TraceError, ClusterError, OutputError
        Something about the inputs or the folder is wrong, or the folder holds another study; raised before any run
        starts.
    OutputError
        A result cannot be written (a full disk, say); finished runs are kept.
    KeyboardInterrupt
        With a message that says how many finished runs are kept.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs: {jobs} is too small, at least one worker is needed, correct it")
    if dask is not None and jobs is not None:
        raise ConfigError(
            f"jobs: {jobs} found beside dask {dask!r}, a cluster has the workers that it has, drop one of them"
        )
    check_writers(config)
    folder = Path(out or config.output.folder or Path("results") / config.name)
    _check_writable(folder)
    grid = make_grid(config)
    if fresh:
        ledgers.clear(folder)
    with closing(Ledger(folder, grid.inputs.code, grid.facts)) as ledger:
        return _Study(grid, folder, ledger).carry_out(jobs, dask, on_progress or (lambda progress: None))


class _Study:
    """A study at work: what is to be done, what is finished, what failed."""

    def __init__(self, grid: Grid, folder: Path, ledger: Ledger) -> None:
        self.grid = grid
        self.folder = folder
        self.ledger = ledger
        self.runs = folder / "runs"
        self.failed = folder / "failed"
        self.specs = {spec.key: spec for spec in grid.runs}
        self.failures: dict[str, str] = {}
        self.statuses: set[int] = set()

    def carry_out(self, jobs: int | None, dask: str | None, report: Callable[[Progress], None]) -> ExperimentOutcome:
        _check_writable(self.runs)
        _check_writable(self.failed)
        _sweep(self.runs)
        pending = [spec for spec in self.specs.values() if not self._is_finished(spec.key)]
        reused = done = len(self.specs) - len(pending)
        report(Progress(done, len(self.specs), reused, 0))
        try:
            for ending in self._endings(pending, jobs, dask):
                if ending.fatal:
                    raise OutputError(ending.error)
                with _sigint_waits():
                    self._record(ending)
                done += 1
                title = self.specs[ending.key].title
                report(Progress(done, len(self.specs), reused, len(self.failures), title))
        except KeyboardInterrupt:
            kept = sum(self._is_finished(key) for key in self.specs)
            raise KeyboardInterrupt(
                f"{kept} of {len(self.specs)} runs are finished and kept in {self.folder}, "
                "the same command goes on with the rest"
            ) from None
        with suppress(OSError):
            self.failed.rmdir()  # only goes when empty
        write_tables(self.grid, self.folder, self.ledger.runs, self.failures)
        told = tuple((spec, self.failures[spec.key]) for spec in self.grid.runs if spec.key in self.failures)
        status = min(self.statuses, default=0)
        return ExperimentOutcome(self.folder, self.grid, reused, told, status, self.ledger.other_code)

    def _endings(self, pending: list[RunSpec], jobs: int | None, dask: str | None) -> Iterator[Ending]:
        import joblib

        def on_start(spec: RunSpec) -> None:
            pass

        if dask is not None and pending:
            return on_dask(self.grid.inputs, pending, dask, on_start)
        jobs = min(jobs or joblib.cpu_count(), len(pending))
        if jobs > 1:
            return in_processes(self.grid.inputs, pending, jobs, on_start)
        return in_process(self.grid.inputs, pending, on_start)

    def _is_finished(self, key: str) -> bool:
        """Tell whether a run is in the ledger and its folder is as it was left."""
        entry = self.ledger.runs.get(key)
        if entry is None:
            return False
        try:
            with os.scandir(self.runs / key) as found:
                sizes = {file.name: file.stat().st_size for file in found}
        except OSError:
            return False
        return all(sizes.get(name) == size for name, size in entry.files.items())

    def _record(self, ending: Ending) -> None:
        note = self.failed / f"{ending.key}.txt"
        if ending.error:
            self.failures[ending.key] = ending.error
            self.statuses.add(ending.status)
            _written(note, lambda: note.write_text(f"{ending.error}\n{ending.details}", encoding="utf-8"))
            return
        note.unlink(missing_ok=True)
        final = self.runs / ending.key
        _written(final, lambda: _put(final, ending.files))
        sizes = {name: len(content) for name, content in ending.files.items()}
        self.ledger.append(ending.key, Entry(ending.summary, ending.timing, sizes))


def _put(final: Path, files: Mapping[str, bytes]) -> None:
    """Write a run's folder so that it is there whole or not at all."""
    partial = final.with_name(f"{_PARTIAL}{os.getpid()}-{final.name}")
    try:
        partial.mkdir()
        for name, content in files.items():
            (partial / name).write_bytes(content)
        if final.exists():  # a damaged one, or one that did not make it into the ledger
            shutil.rmtree(final)
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _written(path: Path, write: Callable[[], Any]) -> None:
    try:
        write()
    except OSError as error:
        raise OutputError(
            f"{path}: {error.strerror or error}, a result cannot be kept, finished ones are, "
            "free the disk or make the folder writable, then the same command goes on"
        ) from None


@contextmanager
def _sigint_waits() -> Generator[None]:
    """Let Ctrl-C wait until a finished run is committed."""
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Any] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])


def _check_writable(folder: Path) -> None:
    probe = folder / f"{_PARTIAL}probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder}: {error.strerror or error}, results must be writable before anything is simulated, "
            "choose another folder with --out"
        ) from None


def _sweep(runs: Path) -> None:
    """Remove what killed processes left half written."""
    for partial in runs.glob(f"{_PARTIAL}*"):
        pid = partial.name.removeprefix(_PARTIAL).split("-", 1)[0]
        if pid.isdecimal() and not _is_alive(int(pid)):
            shutil.rmtree(partial, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
