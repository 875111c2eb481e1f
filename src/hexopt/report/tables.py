"""The comparison as a table: for a terminal (rich), as plain text and as Markdown, at most 100 columns wide."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from rich.console import Console
from rich.table import Table

from hexopt.report.data import AXES, Results, Setting

WIDTH = 100
"""Columns that a table may take."""


@dataclass(frozen=True)
class Column:
    """A column: its two-line heading, the metric it shows and how."""

    heading: str
    metric: str
    form: Callable[[float], str]
    interval: bool = False


def show_number(value: float) -> str:
    """Return three significant digits, and never an exponent a person has to decode."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f}%"


COLUMNS = (
    Column("Req95", "req95", show_number, interval=True),
    Column("Req99", "req99", show_number, interval=True),
    Column("latency\nmean s", "latency_mean_s", show_number),
    Column("latency\np99 s", "latency_p99_s", show_number),
    Column("TTFT\nmean s", "ttft_mean_s", show_number),
    Column("busy\nprefill", "prefill_utilisation", _percent),
    Column("busy\ndecode", "decode_utilisation", _percent),
)
PLANNING = "plan\nms"


def summary_rows(data: Results, intervals: bool = True) -> tuple[list[str], list[list[str]]]:
    """Return headings and a row of cells per (setting, policy): means over seeds, intervals where there are any."""
    settings = data.settings
    several = len(settings) > 1
    axis = "cluster" if len(data.clusters) == len(settings) else "setting"
    headings = ([axis] if several else []) + ["policy"] + [column.heading for column in COLUMNS] + [PLANNING]
    rows = []
    for setting in settings:
        part = data.of_setting(setting)
        for policy in part.policies:
            cells = [setting.title, policy] if several else [policy]
            for column in COLUMNS:
                cell = column.form(part.mean(policy, column.metric))
                if column.interval and intervals:
                    cell += _interval(part, policy, column)
                cells.append(cell)
            cells.append(_planning(part.timing, policy))
            rows.append(cells)
    return headings, rows


def _interval(data: Results, policy: str, column: Column) -> str:
    interval = data.interval(policy, column.metric)
    return f" ±{column.form((interval[1] - interval[0]) / 2)}" if interval else ""


def _planning(timing: pd.DataFrame, policy: str) -> str:
    if "plan_ms_mean" not in timing:
        return "–"
    return show_number(float(timing.loc[timing["policy"] == policy, "plan_ms_mean"].astype(float).mean()))


def caption(data: Results) -> str:
    """Say in one line what the figures of the table are."""
    seeds = data.runs["seed"].nunique()
    what = f"means over {seeds} seeds ± half their 95% bootstrap interval" if seeds > 1 else "one run"
    where = f"{data.where}; " if len(data.clusters) == 1 else ""
    return f"{where}{what}; Req95: SLO scale that 95% of workflows meet (lower is better)"


def summary_table(data: Results, width: int = WIDTH) -> Table:
    """Return the comparison for a terminal of ``width`` columns."""
    for gap, intervals in ((2, True), (1, True), (1, False)):  # summary.csv has the intervals anyway
        table = _table(*summary_rows(data, intervals), gap)
        if _width(table) <= width:
            break
    table.title = data.name
    table.caption = caption(data)
    return table


def comparison_lines(data: Results) -> list[str]:
    """Say for each policy that is no baseline how its Req99 differs from the best baseline's, seed by seed."""
    if data.summary.empty:
        return []
    lines = []
    rows = data.summary[(data.summary["metric"] == "req99") & (data.summary["pairs"] > 1)]
    for row in rows.to_dict("records"):
        if row["policy"] in data.baselines or not math.isfinite(row["diff_low"]):
            continue
        where = f"{Setting(*(row[axis] for axis in AXES)).title}: " if len(data.settings) > 1 else ""
        lines.append(
            f"{where}{row['policy']}: Req99 {row['diff_percent']:+.1f}% against {row['best']} "
            f"(paired difference {row['diff_mean']:+.3g} [{row['diff_low']:+.3g}, {row['diff_high']:+.3g}])"
        )
    return lines


def summary_plain(data: Results, width: int = WIDTH) -> str:
    """Return the comparison as plain text without colour, at most ``width`` columns wide."""
    return render(summary_table(data, width), width)


def summary_markdown(data: Results) -> str:
    """Return the comparison as a Markdown table with its caption; without planning times, so that it can be compared.

    Like the data files, it is the same text whenever and wherever the same runs were made.
    """
    headings, rows = summary_rows(data)
    headings, rows = headings[:-1], [row[:-1] for row in rows]
    heads = [heading.replace("\n", " ") for heading in headings]
    right = ["---"] * (len(heads) - len(COLUMNS)) + ["---:"] * len(COLUMNS)
    lines = [_pipes(heads), _pipes(right), *(_pipes([cell.replace("|", "\\|") for cell in row]) for row in rows)]
    return "\n".join([*lines, "", f"{data.name}: {caption(data)}.", ""])


def render(table: Table, width: int = WIDTH) -> str:
    """Return a table as plain text of at most ``width`` columns."""
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _table(headings: list[str], rows: list[list[str]], gap: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), title_style="bold", caption_justify="left")
    names = len(headings) - len(COLUMNS) - 1
    for i, heading in enumerate(headings):
        if i < names:
            table.add_column(heading, justify="left", overflow="fold", no_wrap=False, vertical="bottom")
        else:
            table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for row in rows:
        # Labels come from files: a "[" in one is text, not markup.
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    return table


def _width(table: Table) -> int:
    console = Console(width=10_000, file=io.StringIO())
    return table.__rich_measure__(console, console.options).maximum


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
