"""``hexopt run`` of a solver comparison."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hexopt.cli.console import left, line, note, progress, stdout
from hexopt.errors import ConfigError

_TOLD = 20
"""So many errors are told one by one; solves.csv has all."""


def compare_solvers(experiment: Path, out: Path | None, jobs: int | None, *, dask: str | None, fresh: bool) -> int:
    """Solve what has no row yet, print the summary, write the report; return the exit status."""
    from hexopt.experiments.solver_config import load_solver_study
    from hexopt.experiments.solver_study import SolverProgress, run_solver_study

    study = load_solver_study(experiment)
    if dask is not None:
        raise ConfigError(f"--dask: {dask!r} found, the times of a solver comparison are of one machine, drop it")
    with progress(study.name, "solves", remaining=False) as show:

        def on_progress(state: SolverProgress) -> None:
            remarks = [f"{state.errors} with errors"] if state.errors else []
            remarks += [left(state.left_s, 0)] if state.left_s is not None else []
            show(state.done, state.total, ", ".join([*remarks, state.title or f"{state.reused} reused"]))

        outcome = run_solver_study(study, out, jobs, on_progress, fresh=fresh)
    report(outcome.folder, list(study.output.formats))
    if outcome.reused:
        line(f"{outcome.reused} of {outcome.total} solves were there already and are reused")
    if outcome.other_code:
        line(f"{outcome.other_code} finished solves in the folder are of other code of hexopt and are not used")
    line(f"tables and figures: {outcome.folder}")
    # One mistake of a solver ends many solves alike.
    errors = Counter(error for _, error in outcome.errors)
    first = {error: title for title, error in reversed(outcome.errors)}
    for error, count in errors.most_common(_TOLD):
        note(f"error: {count} × {error} (first: {first[error]})")
    if outcome.errors:
        note(
            f"error: {len(outcome.errors)} of {outcome.total} solves ended with an error, the rest are kept; "
            f"see {outcome.folder}/solves.csv"
        )
    return outcome.exit_status


def report(folder: Path, formats: list[str]) -> None:
    """Print what solvers came to and write the report into the folder."""
    from hexopt.report.solvers import load_solves, summary_lines, write_solver_report

    data = load_solves(folder)
    console = stdout()
    for text in summary_lines(data, min(console.width, 100)):
        line(text)
    write_solver_report(data, folder, formats)


__all__ = ["compare_solvers", "report"]
