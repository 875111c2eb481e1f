"""``report.md`` and ``report.html`` of a solver comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hexopt.errors import OutputError
from hexopt.report.document import Block, Grid, Heading, Items, Picture, Text, to_html, to_markdown
from hexopt.report.solvers.data import Solves
from hexopt.report.solvers.figures import Drawn, draw_figures
from hexopt.report.solvers.sentences import (
    FEW,
    VARIANT_HEADINGS,
    caution_sentences,
    cells,
    headline_sentences,
    show,
    variant_rows,
)
from hexopt.report.tables import show_number

READING = (
    "A row is one solve: one window, objective, solver and time limit. Every limit is a solve of its own; nothing is "
    "cut from a longer one. Time is measured around the solver's call, model building included, reading the window, "
    "the hint and the judge's work not. Before its first measured solve in a process each solver solves a tiny window: "
    "loading libraries and compiling are not charged.",
    "Every value is the checker's, which shares no code with any solver. A plan of another value than its solver said, "
    "and a bound above a known plan's value, are named above.",
    "Best known is the smallest value of a plan in the library's best_known.csv or in this study. Gaps of bottleneck "
    "and sum are shares of it; those of late and hinge, which may be 0, are differences.",
    "What would be served is the better of the solver's plan and the greedy one, which a loop falls back to. Where "
    "there is no greedy plan it is the solver's own.",
    "Intervals are 95% percentile bootstrap intervals over windows. Windows of one run resemble each other, so the "
    "intervals are too narrow rather than too wide. The best of several solvers is chosen by its mean on the windows "
    "that it is then compared on, which favours it; no correction for many comparisons is applied.",
    "Times depend on the machine, on what else it does, and on the number of worker processes; the table of what was "
    "run tells them. A gap in a window is not a gap in service: what a window leaves out is another question.",
)


def write_solver_report(data: Solves, folder: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write figures, ``report.md`` and ``report.html``, and return what was written, reports first.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    try:
        figures = draw_figures(data, folder / "figures", list(dict.fromkeys(("png", *formats))))
        blocks = list(report_blocks(data, figures))
        markdown, page = folder / "report.md", folder / "report.html"
        markdown.write_text(to_markdown(blocks, folder), encoding="utf-8", newline="\n")
        page.write_text(to_html(blocks, f"hexopt report: {data.name}"), encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(
            f"{folder}: {error.strerror or error}, a report needs a folder that can be written, name another with --out"
        ) from None
    return [markdown, page, *(path for figure in figures for path in figure.paths)]


def report_blocks(data: Solves, figures: Sequence[Drawn]) -> Iterator[Block]:
    """Yield the report's blocks in order."""
    yield Heading(f"Solver comparison: {data.name}", 1)
    if data.record["study"].get("description"):
        yield Text(str(data.record["study"]["description"]))
    yield Heading("In short")
    yield Items(headline_sentences(data))
    yield Heading("What a reader must know")
    yield Items(caution_sentences(data))
    yield Heading("What was run")
    yield Grid(("what", "value"), facts(data), names=2)
    yield Heading("Who is best, by size and limit")
    yield best_grid(data)
    for objective in data.objectives:
        yield from _tables(data.of(objective=objective), objective)
        yield from _pictures(figures, objective)
    rows = variant_rows(data)
    if rows:
        yield Heading("What single settings change")
        yield Grid(
            VARIANT_HEADINGS, rows, names=3,
            caption="Paired over the windows that both solved. Gap: mean difference of what would be served, with its "
            "interval over windows; negative is better for the variant. Time to proof: median ratio, variant ÷ solver, "
            "over the windows that both proved within that limit.",
        )  # fmt: skip
    yield Heading("How to read this")
    yield Items(READING)


def facts(data: Solves) -> list[tuple[str, str]]:
    """Return what was run as pairs of a name and a value."""
    study, table = data.record["study"], data.solves
    rows = [("hexopt", str(data.record["hexopt"]))]
    rows += [(key, str(value)) for key, value in data.record["machine"].items()]
    windows = table.drop_duplicates("instance")
    sizes = ", ".join(f"{n}: {int((windows['calls'] == n).sum())}" for n in data.sizes)
    regimes = ", ".join(f"{name}: {count}" for name, count in windows["regime"].value_counts(sort=False).items())
    jobs = sorted({int(n) for n in table["jobs"].dropna()})
    load = table["load_1min"].dropna()
    rows += [
        ("windows by calls", sizes),
        ("windows by regime", regimes),
        ("objectives", ", ".join(data.objectives)),
        ("time limits, ms", ", ".join(f"{ms:g}" for ms in data.limits)),
        ("solves", f"{len(table)}, of which {int((table['error'] != '').sum())} ended with an error"),
        ("worker processes", ", ".join(map(str, jobs)) or "unknown"),
    ]
    processors = set(table["processor"].dropna()) if "processor" in table else set()
    if processors - {data.record["machine"].get("processor")}:
        # The facts above are of the machine that wrote the tables; a study can go on elsewhere.
        rows.append(("processors of the solves", "; ".join(sorted(map(str, processors)))))
    if len(load):
        rows.append(
            ("load average of the machine (1 min)", f"median {load.median():.1f}, largest {load.max():.1f} at a solve")
        )
    for entry in study["solvers"]:
        rows.append((f"solver {entry['label'] or entry['formulation']}", _entry(entry)))
    return rows


def _entry(entry: dict[str, Any]) -> str:
    parts = [entry["formulation"], *(f"{k} = {v}" for k, v in entry["options"].items())]
    parts += [f"{k} = {entry[k]}" for k in ("threads", "seed", "hint", "deterministic", "iterations", "most_calls")
              if entry.get(k) not in (None, "none", 0)]  # fmt: skip
    if entry.get("variant_of"):
        parts.append(f"a variant of {entry['variant_of']}")
    return ", ".join(parts)


def best_grid(data: Solves) -> Grid:
    """Return who is best in each cell, how that compares with the greedy plan, and who cannot be told from it."""
    rows = []
    for cell in cells(data):
        one = data.of(objective=cell.objective)
        gain = "–"
        if cell.gain is not None:
            mean, low, high = (show(one, value, True) for value in cell.gain)
            gain = f"{mean} [{low}, {high}]"
        verdict = "–" if cell.gain is None else "better" if cell.pays else "no gain shown"
        few = " (few windows)" if cell.windows < FEW else ""
        rows.append(
            (cell.objective, str(cell.calls), f"{cell.limit_ms:g}", cell.best, ", ".join(cell.level) or "–",
             verdict + few, str(cell.windows), show(one, cell.gap), show(one, cell.greedy), gain)
        )  # fmt: skip
    return Grid(
        ("objective", "calls", "limit ms", "best", "not distinguishable", "against greedy", "windows", "mean gap",
         "greedy's", "gain over greedy"),
        rows, names=6,
        caption="best: smallest mean gap of what would be served; not distinguishable: the interval of the paired "
        "difference includes zero, or the difference is below 0.05 points. Variants are left out.",
    )  # fmt: skip


SIZE_COLUMNS = (
    ("proved", "proved", "percent"),
    ("no plan", "no_plan", "percent"),
    ("within 1%", "close", "percent"),
    ("gap mean", "gap_mean", "gap"),
    ("gap worst", "gap_worst", "gap"),
    ("served mean", "served_mean", "gap"),
    ("sum, of equals", "total_gap_mean", "share"),
    ("bound gap", "bound_gap_mean", "gap"),
    ("no bound", "no_bound", "percent"),
    ("first plan ms", "first_incumbent_s_median", "ms"),
    ("build ms", "build_s_median", "ms"),
    ("wall ms", "wall_s_median", "ms"),
    ("overrun p95 ms", "overrun_s_p95", "ms"),
    ("overrun worst ms", "overrun_s_worst", "ms"),
    ("variables", "variables_median", "count"),
    ("constraints", "constraints_median", "count"),
)


def _tables(data: Solves, objective: str) -> Iterator[Block]:
    yield Heading(f"Objective {objective}")
    for calls in data.sizes:
        table = data.by_size[data.by_size["calls"] == calls]
        if len(table):
            yield Grid(
                ("solver", "limit ms", "windows", *(heading for heading, _, _ in SIZE_COLUMNS)),
                [(str(row["solver"]), f"{float(row['limit_ms']):g}", str(row["solves"]), *_cells(data, row))
                 for row in _in_order(data, table)],
                names=1,
                caption=f"{objective}, windows of {calls} calls. Gaps are to the best known value, over solves with a "
                "plan (served: over all). Sum, of equals: by how much the sum of ratios exceeds the best known plan's, "
                "among plans of the best known value.",
            )  # fmt: skip
    last = data.by_regime[data.by_regime["limit_ms"] == max(data.limits)]
    if data.by_regime["regime"].nunique() > 1:
        yield Grid(
            ("solver", "regime", "windows", *(heading for heading, _, _ in SIZE_COLUMNS[:8])),
            [(str(row["solver"]), str(row["regime"]), str(row["solves"]), *_cells(data, row)[:8])
             for row in _in_order(data, last)],
            names=2,
            caption=f"{objective} by regime, all sizes, within {max(data.limits):g} ms",
        )  # fmt: skip


def _in_order(data: Solves, table: pd.DataFrame) -> list[dict[Any, Any]]:
    order = {label: i for i, label in enumerate(data.solvers)}
    rows = [row for row in table.to_dict("records") if row["solver"] not in data.variants]
    return sorted(rows, key=lambda row: (order[row["solver"]], float(row["limit_ms"])))


def _cells(data: Solves, row: dict[Any, Any]) -> list[str]:
    found = []
    for _, column, form in SIZE_COLUMNS:
        value = float(row[column])
        if math.isnan(value):
            found.append("–")
        elif form == "percent":
            found.append(f"{100 * value:.0f}%")
        elif form == "gap":
            found.append(show(data, value))
        elif form == "share":
            found.append(f"{100 * value:.2f}%")
        elif form == "ms":
            found.append(show_number(1000 * value))
        else:
            found.append(f"{value:.0f}")
    return found


def _pictures(figures: Sequence[Drawn], objective: str) -> Iterator[Block]:
    for figure in figures:
        if figure.objective == objective:
            png = next(path for path in figure.paths if path.suffix == ".png")
            what = objective if figure.calls is None else f"{objective}, {figure.calls} calls"
            yield Picture(png, f"{what}: {figure.caption}", f"{figure.name} {what}")


def summary_lines(data: Solves, width: int) -> list[str]:
    """Return the comparison for a terminal: who is best in each cell, as plain text of at most ``width`` columns."""
    grid = best_grid(data)
    keep = [0, 1, 2, 3, 7, 8, 5]
    rows = [[str(row[k]) for k in keep] for row in [grid.headings, *grid.rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(keep))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()[:width] for row in rows]
    return [f"{data.name}: smallest mean gap to best known, by objective, size and limit", *lines, ""]
