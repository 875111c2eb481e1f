"""Carry out a grid: in parallel, every finished run written at once, and what is there already not done again.

A run's folder appears under its final name by one rename, when everything in it is written. So whatever is
stopped (Ctrl-C, a killed worker, a power cut) costs the runs in flight and nothing else, and a second call
with the same inputs goes on where the first one ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import hexopt
from hexopt.core.protocols import Policy
from hexopt.errors import ConfigError, HexoptError, OutputError
from hexopt.experiments.aggregate import write_tables
from hexopt.experiments.config import ExperimentConfig
from hexopt.experiments.grid import Grid, RunSpec, load_experiment_trace, make_grid
from hexopt.sim.result import RunResult

SUMMARY = "summary.json"
TIMING = "timing.json"
_PARTIAL = ".partial-"
_BULKY = ("calls.csv", "decisions.csv", "trace.jsonl.gz")
"""What ``keep = "tables"`` leaves out of a run's folder."""


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

    ``exit_status`` is 0 without failures, 2 if every failure is the input's fault, and 1 otherwise.
    """

    folder: Path
    grid: Grid
    reused: int
    failures: tuple[tuple[RunSpec, str], ...]
    exit_status: int = 0


@dataclass(frozen=True)
class _Ending:
    key: str
    error: str = ""
    details: str = ""
    fatal: bool = False
    status: int = 1
    """The exit status that an error asks for."""


def run_experiment(
    config: ExperimentConfig,
    out: str | Path | None = None,
    jobs: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
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

    Raises
    ------
    ConfigError, TraceError, ClusterError, OutputError
        Something about the inputs or the folder is wrong; raised before any run starts.
    OutputError
        A result cannot be written (a full disk, say); finished runs are kept.
    KeyboardInterrupt
        With a message that says how many finished runs are kept.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs: {jobs} is too small, at least one worker is needed, correct it")
    folder = Path(out or config.output.folder or Path("results") / config.name)
    runs = folder / "runs"
    failed = folder / "failed"
    _check_writable(runs)
    _check_writable(failed)
    grid = make_grid(config)
    _sweep(runs)

    specs = {spec.key: spec for spec in grid.runs}
    pending = [spec for spec in specs.values() if not is_finished(runs / spec.key)]
    reused = len(specs) - len(pending)
    failures: dict[str, str] = {}
    statuses: set[int] = set()
    done = reused
    report = on_progress or (lambda progress: None)
    report(Progress(done, len(specs), reused, 0))
    try:
        for ending in _carry_out(config, pending, runs, jobs):
            if ending.fatal:
                raise OutputError(ending.error)
            done += 1
            record = failed / f"{ending.key}.txt"
            if ending.error:
                failures[ending.key] = ending.error
                statuses.add(ending.status)
                record.write_text(f"{ending.error}\n{ending.details}", encoding="utf-8")
            else:
                record.unlink(missing_ok=True)
            report(Progress(done, len(specs), reused, len(failures), specs[ending.key].title))
    except KeyboardInterrupt:
        _sweep(runs)
        kept = sum(is_finished(runs / key) for key in specs)
        raise KeyboardInterrupt(
            f"{kept} of {len(specs)} runs are finished and kept in {folder}, the same command goes on with the rest"
        ) from None
    except BrokenProcessPool:
        _sweep(runs)
        for spec in pending:
            if spec.key not in failures and not is_finished(runs / spec.key):
                statuses.add(1)
                failures[spec.key] = (
                    "a worker process was killed before this run ended, often for want of memory, "
                    "run again with fewer --jobs"
                )
    with suppress(OSError):
        failed.rmdir()  # only goes when empty
    write_tables(grid, folder, failures)
    told = tuple((spec, failures[spec.key]) for spec in grid.runs if spec.key in failures)
    return ExperimentOutcome(folder, grid, reused, told, min(statuses, default=0))


def is_finished(folder: Path) -> bool:
    """Tell whether a run's folder holds a whole result."""
    # The folder appears whole; reading the summary guards against what happened to it since.
    try:
        json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        json.loads((folder / TIMING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _carry_out(config: ExperimentConfig, pending: list[RunSpec], runs: Path, jobs: int | None) -> Iterable[_Ending]:
    import joblib

    jobs = min(jobs or joblib.cpu_count(), len(pending))
    if jobs <= 1:
        for spec in pending:
            yield _carry_out_one(config, spec, runs)
        return
    tasks = (joblib.delayed(_in_worker)(config, spec, runs) for spec in pending)
    pool = joblib.Parallel(n_jobs=jobs, backend="loky", batch_size=1, return_as="generator_unordered")
    with _sigint_ignored():
        endings = pool(tasks)
    try:
        yield from endings
    finally:
        endings.close()


@contextmanager
def _sigint_ignored() -> Generator[None]:
    """Start child processes that ignore SIGINT: Ctrl-C is the parent's business, which then stops them silently.

    Being ignored is what a child inherits; a signal mask would not do, since starting the pool clears it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _in_worker(config: ExperimentConfig, spec: RunSpec, runs: Path) -> _Ending:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for workers that the pool starts later, to replace others
    return _carry_out_one(config, spec, runs)


def _carry_out_one(config: ExperimentConfig, spec: RunSpec, runs: Path) -> _Ending:
    """Simulate one run and write its folder; errors are returned, so that one bad run does not stop the others."""
    try:
        trace = load_experiment_trace(config)
        cluster = hexopt.load_cluster(spec.cluster_source)
        policy: Policy = hexopt.make_policy(spec.policy_name, **dict(spec.options))
        wall, cpu = time.perf_counter(), time.process_time()
        result = hexopt.simulate(
            trace,
            cluster,
            policy,
            predictor=config.predictor,
            seed=spec.seed,
            arrivals=config.arrivals,
            delays=config.delays,
            stop_us=config.stop_us,
        )
        result.summary  # noqa: B018 - standalone latencies belong to the run's cost, and may fail like it
        timing = {"run_wall_s": time.perf_counter() - wall, "run_cpu_s": time.process_time() - cpu}
    except HexoptError as error:
        return _Ending(spec.key, str(error), status=error.exit_status)
    except Exception as error:
        return _Ending(spec.key, f"internal error: {type(error).__name__}: {error}", traceback.format_exc())
    partial = runs / f"{_PARTIAL}{os.getpid()}-{spec.key}"
    final = runs / spec.key
    try:
        partial.mkdir()
        _write_run(partial, result, timing, config.output.keep)
        if final.exists():  # a damaged one, see is_finished
            shutil.rmtree(final)
        partial.rename(final)
    except OutputError as error:
        return _Ending(spec.key, str(error), fatal=True)
    except OSError as error:
        what = error.strerror or error
        return _Ending(spec.key, f"{final}: {what}, results cannot be kept, free the disk or use --out", fatal=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _Ending(spec.key)


def _write_run(folder: Path, result: RunResult, timing: dict[str, float], keep: str) -> None:
    result.save(folder)
    if keep == "tables":
        for name in _BULKY:
            (folder / name).unlink()
    # Wall-clock figures stand apart, so that everything else can be compared byte by byte.
    timing = json.loads((folder / TIMING).read_text(encoding="utf-8")) | timing
    (folder / TIMING).write_text(json.dumps(timing, indent=2) + "\n", encoding="utf-8")


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
