"""Carry out a solver comparison: every solve that has no row yet, each finished one committed at once.

The ledger is that of other studies (docs/adr/0005-ledger.md): a changed study is refused, the same command goes on
where the last one stopped. A solver that raises, dies or hangs costs one row, which says so.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hexopt.errors import ConfigError, suggest
from hexopt.experiments import ledger as ledgers
from hexopt.experiments.grid import package_code
from hexopt.experiments.ledger import Entry, Ledger
from hexopt.experiments.runner import _check_writable as check_writable
from hexopt.experiments.solver_config import InstancesEntry, SolverEntry, SolverStudy
from hexopt.experiments.solver_pool import solve_all
from hexopt.experiments.solver_tables import write_solver_tables
from hexopt.experiments.solver_work import Solver, SolveTask
from hexopt.formulations.library import NAME, Library
from hexopt.formulations.objective import objective_text, parse_objective
from hexopt.formulations.registry import make_formulation
from hexopt.machine import processor


@dataclass(frozen=True)
class SolverProgress:
    """How far a comparison is: ``done`` of ``total`` solves are over, ``reused`` of them from an earlier call."""

    done: int
    total: int
    reused: int
    errors: int
    title: str = ""
    left_s: float | None = None


@dataclass(frozen=True)
class SolverOutcome:
    """What a comparison left behind. ``errors`` are (solve, what went wrong)."""

    folder: Path
    total: int
    reused: int
    errors: tuple[tuple[str, str], ...]
    other_code: int = 0

    @property
    def exit_status(self) -> int:
        """0 if no solve ended with an error, else 1."""
        return 1 if self.errors else 0


def run_solver_study(
    study: SolverStudy,
    out: str | Path | None = None,
    jobs: int | None = None,
    on_progress: Callable[[SolverProgress], None] | None = None,
    *,
    fresh: bool = False,
) -> SolverOutcome:
    """Carry out all solves of a study that have no row yet, then write the tables over all of them.

    Parameters
    ----------
    out
        Folder of the results; the study's own ``[output] folder`` or ``results/NAME`` if absent.
    jobs
        Worker processes, 1 if absent: processes that compete for cores disturb each other's times.
    fresh
        Remove the folder's results of an earlier study first.

    Raises
    ------
    HexoptError
        Something about the inputs or the folder is wrong, or the folder holds another study; raised before any solve.
    OutputError
        A result cannot be written; finished rows are kept.
    KeyboardInterrupt
        With a message that says how many finished rows are kept.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs: {jobs} is too small, at least one worker is needed, correct it")
    library = Library(study.library_folder)
    names = choose_instances(library, study.instances)
    for entry in study.solvers:
        make_formulation(entry.formulation, **entry.options)  # an unknown name or a missing solver is found here
    folder = Path(out or study.output.folder or Path("results") / study.name)
    check_writable(folder)
    code = package_code()
    digests = {name: hashlib.sha256(library.path(name).read_bytes()).hexdigest()[:16] for name in names}
    tasks = make_tasks(study, digests, code)
    if fresh:
        ledgers.clear(folder)
    with closing(Ledger(folder, code, _facts(study, digests))) as ledger:
        return _carry_out(study, library, tasks, folder, ledger, jobs or 1, on_progress or (lambda progress: None))


def choose_instances(library: Library, wanted: InstancesEntry) -> list[str]:
    """Return the names of the instances that are asked for, sorted.

    Raises
    ------
    ConfigError, WindowError
        There are none, or none of a name, a size or a regime that is asked for.
    """
    known = library.names()
    if wanted.names is not None:
        for name in wanted.names:
            library.path(name)
        return sorted(set(wanted.names))
    parts = {name: found for name in known if (found := NAME.fullmatch(name)) is not None}
    for regime in wanted.regimes or ():
        regimes = sorted({found["regime"] for found in parts.values()})
        if regime not in regimes:
            raise ConfigError(
                f"instances.regimes: '{regime}' found, {library.folder} has none of it, {suggest(regime, regimes)}"
            )
    chosen: list[str] = []
    for size in sorted({int(found["calls"]) for found in parts.values()} | set(wanted.sizes or ())):
        if wanted.sizes is not None and size not in wanted.sizes:
            continue
        here = [
            name
            for name, found in parts.items()
            if int(found["calls"]) == size and (wanted.regimes is None or found["regime"] in wanted.regimes)
        ]
        if not here and wanted.sizes is not None:
            raise ConfigError(
                f"instances.sizes: {size} found, {library.folder} has no such instance, add some or drop it"
            )
        chosen += _spread(here, wanted.per_size)
    if not chosen:
        raise ConfigError(f"instances: none found in {library.folder}, name a library that has some, or other sizes")
    return sorted(chosen)


def _spread(names: Sequence[str], count: int | None) -> list[str]:
    """Return so many names, evenly spread over the list."""
    if count is None or count >= len(names):
        return list(names)
    return [names[(2 * k + 1) * len(names) // (2 * count)] for k in range(count)]


def make_tasks(study: SolverStudy, digests: dict[str, str], code: str) -> list[SolveTask]:
    """List the solves in the order in which they are done.

    All solvers meet one problem within one limit one after the other: what disturbs the machine for a while falls on
    all of them alike.
    """
    solvers = [(entry, _solver(entry)) for entry in study.solvers]
    tasks = []
    for name, digest in digests.items():
        found = NAME.fullmatch(name)
        calls = int(found["calls"]) if found else 0
        for text in study.objectives:
            objective = objective_text(parse_objective(text))
            for limit in sorted(study.time_limits_ms):
                for entry, solver in solvers:
                    only = [objective_text(parse_objective(t)) for t in entry.objectives or ()]
                    if (only and objective not in only) or (entry.most_calls or calls) < calls:
                        continue
                    facts = [code, digest, objective, limit, entry.model_dump(mode="json")]
                    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
                    tasks.append(SolveTask(key, name, calls, objective, solver, limit))
    return tasks


def _solver(entry: SolverEntry) -> Solver:
    return Solver(
        entry.title, entry.formulation, entry.options, entry.threads, entry.seed, entry.hint, entry.deterministic,
        entry.iterations,
    )  # fmt: skip


def _facts(study: SolverStudy, digests: dict[str, str]) -> dict[str, Any]:
    """Return what determines the rows, by dotted keys."""
    facts: dict[str, Any] = {"kind": study.kind, "objectives": list(study.objectives)}
    facts["time_limits_ms"] = list(study.time_limits_ms)
    facts |= {f"solvers.{entry.title}": entry.model_dump(mode="json") for entry in study.solvers}
    facts |= {f"instances.{name}": digest for name, digest in digests.items()}
    return facts


def _carry_out(
    study: SolverStudy,
    library: Library,
    tasks: Sequence[SolveTask],
    folder: Path,
    ledger: Ledger,
    jobs: int,
    report: Callable[[SolverProgress], None],
) -> SolverOutcome:
    pending = [task for task in tasks if task.key not in ledger.runs]
    reused = done = len(tasks) - len(pending)
    errors = sum(bool(ledger.runs[task.key].summary["error"]) for task in tasks if task.key in ledger.runs)
    left = _Left(pending, jobs)
    report(SolverProgress(done, len(tasks), reused, errors, "", left.seconds()))
    try:
        for task, row in solve_all(pending, str(library.folder), jobs):
            ledger.append(task.key, Entry(row | {"jobs": jobs, "processor": processor()}, {}, {}))
            done += 1
            errors += bool(row["error"])
            left.ended(task)
            report(SolverProgress(done, len(tasks), reused, errors, task.title, left.seconds()))
    except KeyboardInterrupt:
        kept = sum(task.key in ledger.runs for task in tasks)
        raise KeyboardInterrupt(
            f"{kept} of {len(tasks)} solves are finished and kept in {folder}, the same command goes on with the rest"
        ) from None
    rows = [dict(ledger.runs[task.key].summary) for task in tasks]
    write_solver_tables(study, library, rows, folder)
    told = tuple((task.title, str(row["error"])) for task, row in zip(tasks, rows, strict=True) if row["error"])
    return SolverOutcome(folder, len(tasks), reused, told, ledger.other_code)


class _Left:
    """How long the rest will take, by what solves of the same solver within the same limit have taken."""

    def __init__(self, pending: Iterable[SolveTask], jobs: int) -> None:
        self._jobs = jobs
        self._count: dict[tuple[str, float], int] = {}
        self._cost: dict[tuple[str, float], tuple[float, int]] = {}
        self._last = time.monotonic()
        for task in pending:
            key = task.solver.label, task.limit_ms
            self._count[key] = self._count.get(key, 0) + 1

    def ended(self, task: SolveTask) -> None:
        now = time.monotonic()
        key = task.solver.label, task.limit_ms
        spent, count = self._cost.get(key, (0.0, 0))
        self._cost[key] = spent + now - self._last, count + 1
        self._count[key] -= 1
        self._last = now

    def seconds(self) -> float:
        # With several processes the time between two ends is a share of each solve's already.
        total = 0.0
        for (label, limit_ms), count in self._count.items():
            spent, known = self._cost.get((label, limit_ms), (0.0, 0))
            total += count * (spent / known if known else limit_ms / 1000 / self._jobs)
        return total


__all__ = ["SolverOutcome", "SolverProgress", "choose_instances", "make_tasks", "run_solver_study"]
