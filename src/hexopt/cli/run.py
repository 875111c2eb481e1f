"""``hexopt run``: carry out an experiment, then report on it."""

from __future__ import annotations

from pathlib import Path

from hexopt.cli.console import left, line, note, progress, stdout


def run_and_report(
    experiment: Path, out: Path | None, jobs: int | None, *, dask: str | None = None, fresh: bool = False
) -> int:
    """Run what has no result yet, print the table, write the figures; return the exit status."""
    from hexopt.experiments import Progress, load_config, run_experiment
    from hexopt.experiments.solver_config import is_solver_study

    if is_solver_study(experiment):
        from hexopt.cli.compare import compare_solvers

        return compare_solvers(experiment, out, jobs, dask=dask, fresh=fresh)
    config = load_config(experiment)
    with progress(config.name, "runs", remaining=False) as show:

        def on_progress(state: Progress) -> None:
            remarks = [f"{state.failed} failed"] if state.failed else []
            remarks += [left(state.left_s, state.unmeasured)] if state.left_s is not None else []
            show(state.done, state.total, ", ".join([*remarks, state.title or f"{state.reused} reused"]))

        outcome = run_experiment(config, out, jobs, on_progress, dask=dask, fresh=fresh)

    if len({spec.key for spec, _ in outcome.failures}) < len({spec.key for spec in outcome.grid.runs}):
        report(outcome.folder, list(config.output.formats))
    total = len(outcome.grid.runs)
    if outcome.reused:
        line(f"{outcome.reused} of {total} runs were there already and are reused")
    if outcome.other_code:
        line(f"{outcome.other_code} finished runs in the folder are of other code of hexopt and are not used")
    line(f"tables and figures: {outcome.folder}")
    for spec, error in outcome.failures:
        note(f"error: run failed: {spec.title}: {' '.join(error.split())}")
    if outcome.failures:
        note(f"error: {len(outcome.failures)} of {total} runs failed, the rest are kept; see {outcome.folder}/runs.csv")
    return outcome.exit_status


def report(folder: Path, formats: list[str]) -> None:
    """Print the comparison of a result folder and write it, with the figures, into the folder."""
    from hexopt.report.data import load_results
    from hexopt.report.figures import QUICK, write_figures
    from hexopt.report.tables import WIDTH, comparison_lines, summary_markdown, summary_table

    data = load_results(folder)
    console = stdout()
    console.print(summary_table(data, min(console.width, WIDTH)))
    for text in comparison_lines(data):
        line(text)
    line("")
    (folder / "summary.md").write_text(summary_markdown(data), encoding="utf-8")
    write_figures(data, folder / "figures", formats, QUICK)
