"""``hexopt report``: write the report of a result folder."""

from __future__ import annotations

from pathlib import Path

from hexopt.cli.console import line
from hexopt.cli.plot import check_formats


def report_folder(folder: Path, out: Path | None, formats: list[str]) -> None:
    """Write ``report.md``, ``report.html`` and the figures of ``folder``, and print the paths of the two."""
    check_formats(formats)
    from hexopt.report.solvers import is_solves_folder, load_solves, write_solver_report

    if is_solves_folder(folder):
        written = write_solver_report(load_solves(folder), out or folder, formats)
    else:
        from hexopt.report.data import load_results
        from hexopt.report.writer import write_report

        written = write_report(load_results(folder), out or folder, formats)
    for path in written[:2]:
        line(str(path))
    if len(written) > 2:
        line(f"{len(written) - 2} figures: {written[2].parent}")
