"""How well the fitted generators match real logs: Kolmogorov-Smirnov distances and pictures.

    python experiments/generator_fit.py ../shared/traces/dev results/generator_fit

The folder of logs is not part of the project; ``traces/README.md`` says where such logs come from. Nothing is tuned
here: the script compares what the generators draw with what the logs hold, and writes down what it finds.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

import hexopt
from hexopt.report.style import DPI, OKABE_ITO, house_style, log_x

DRAWN = 2000
"""So many workflows are drawn per application."""

GOOD, POOR = 0.1, 0.2
"""Distances below the first are called good, above the second poor."""


@dataclass(frozen=True)
class Log:
    """A log, and what must be told apart so that like is compared with like."""

    file: str
    options: dict[str, Any] = field(default_factory=dict)
    overhead_s: float = 0.0
    """Part of each recorded tool delay that is the recorder's own."""
    note: str = ""


LOGS = {
    "sharegpt": Log("sharegpt_chat", note="User gaps are unknown in the log."),
    "bfcl": Log(
        "bfcl_v4_multi_turn_gt",
        {"failing": 0.0, "prompt_scale": 1.0},
        note="The log is the ground truth with compact documents: drawn without failing workflows, prompt_scale 1.",
    ),
    "swe-agent": Log("swe_agentic_mlcommons", note="The log has 20 workflows only."),
    "claude-code": Log(
        "claude_code_weka",
        overhead_s=3.0,
        note="3 s, the recorder's overhead, are taken off each tool delay. 10 sessions of the log are invalid.",
    ),
}
"""Applications with a log to compare with; lats has none."""

LABELS = {
    "calls": "calls per workflow",
    "first_prompt": "first prompt, tokens",
    "prompt": "prompt, tokens",
    "new": "prompt beyond the parent's, tokens",
    "output": "output, tokens",
    "tool_s": "tool delay, s (drawn from 0.01 on)",
    "user_s": "user gap, s",
}


def ks(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the two-sample Kolmogorov-Smirnov distance: the largest gap between the two empirical distributions.

    >>> ks([1, 2, 3, 4], [3, 4, 5, 6])
    0.5
    """
    x, y = np.sort(np.asarray(a, float)), np.sort(np.asarray(b, float))
    at = np.concatenate((x, y))
    gaps = np.searchsorted(x, at, side="right") / len(x) - np.searchsorted(y, at, side="right") / len(y)
    return float(np.max(np.abs(gaps)))


def measures(trace: hexopt.Trace, overhead_s: float = 0.0) -> dict[str, list[float]]:
    """Return the values of each quantity of :data:`LABELS` in a trace.

    ``new`` is what a call's prompt has beyond the cached part of its parent's prompt, so the parent's output counts
    in it; logs differ in whether they count that as cached.
    """
    values: dict[str, list[float]] = {name: [] for name in LABELS}
    for workflow in trace.workflows:
        values["calls"].append(len(workflow.calls))
        values["first_prompt"].append(workflow.calls[0].prompt_tokens)
        for call in workflow.calls:
            values["prompt"].append(call.prompt_tokens)
            values["output"].append(call.output_tokens)
            if call.parents:
                cached = min(call.cached_prefix_tokens or 0, workflow.calls[call.parents[0]].prompt_tokens)
                values["new"].append(call.prompt_tokens - cached)
            if call.tool_us is not None and call.delay_kind in ("tool", "user"):
                s = call.tool_us / 1e6 - (overhead_s if call.delay_kind == "tool" else 0.0)
                values[f"{call.delay_kind}_s"].append(max(0.0, s))
    # What is constant is no distribution: the tool delays of bfcl are 0.01 s by convention.
    return {name: listed for name, listed in values.items() if len(set(listed)) > 1}


def pair(app: str, folder: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the measures of an application's log and of a drawn trace."""
    log = LOGS[app]
    real = hexopt.load_trace(folder / f"{log.file}.jsonl.gz", skip_invalid=True)
    drawn = hexopt.generate_trace(app, workflows=DRAWN, seed=0, parameters="fitted", **log.options)
    return measures(real, log.overhead_s), measures(drawn)


def compare(app: str, real: dict[str, list[float]], drawn: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return a row per quantity that both know."""
    rows = []
    for name in LABELS:
        if name in real and name in drawn:
            distance = ks(real[name], drawn[name])
            row: dict[str, Any] = {"app": app, "quantity": name, "log_n": len(real[name]), "ks": round(distance, 3)}
            for whose, values in (("log", real[name]), ("drawn", drawn[name])):
                row |= {f"{whose}_p50": f"{np.median(values):.4g}", f"{whose}_p95": f"{np.quantile(values, 0.95):.4g}"}
            row["fit"] = "good" if distance < GOOD else "poor" if distance > POOR else "fair"
            rows.append(row)
    return rows


def draw(app: str, real: dict[str, list[float]], drawn: dict[str, list[float]], path: Path) -> None:
    """Draw both empirical distributions of every quantity, a panel each."""
    names = [name for name in LABELS if name in real and name in drawn]
    columns = 3
    with house_style():
        figure = Figure(figsize=(12.0, 3.4 * math.ceil(len(names) / columns)), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        for i, name in enumerate(names):
            ax = figure.add_subplot(math.ceil(len(names) / columns), columns, i + 1)
            floor = 0.01 if name == "tool_s" else 1e-6  # a logarithmic axis has no 0
            ax.set_xscale("log")
            curve(ax, real[name], "log", OKABE_ITO[0], "-", floor)
            curve(ax, drawn[name], "generator", OKABE_ITO[1], (0, (5, 1.5)), floor)
            low, high = ax.get_xlim()
            if high < 60 * max(low, floor):
                log_x(ax)
            else:
                ax.set_xscale("log")
                ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_xlabel(LABELS[name])
            ax.set_ylabel("share at or below" if i % columns == 0 else "")
            ax.set_ylim(0, 1.02)
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
            ax.set_title(f"KS distance {ks(real[name], drawn[name]):.2f}")
            if i == 0:
                ax.legend(loc="lower right")
        figure.suptitle(f"{app}: fitted generator and log", x=0.01, ha="left", fontsize=14)
        figure.savefig(path, metadata={"Software": None})


def curve(ax: Axes, values: list[float], label: str, colour: str, dashes: Any, floor: float) -> None:
    """Draw an empirical distribution."""
    xs = np.maximum(np.sort(values), floor)
    shares = np.arange(1, len(xs) + 1) / len(xs)
    ax.step(np.r_[xs[0], xs], np.r_[0, shares], where="post", color=colour, linestyle=dashes, linewidth=2, label=label)


def main(arguments: Sequence[str]) -> int:
    """Compare, print the table, write it and the pictures."""
    if len(arguments) != 2:
        print(__doc__)
        return 2
    folder, out = Path(arguments[0]), Path(arguments[1])
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for app in LOGS:
        real, drawn = pair(app, folder)
        rows += compare(app, real, drawn)
        draw(app, real, drawn, out / f"{app}.png")
    table = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    table += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    notes = [f"- {app}: {log.note}" for app, log in LOGS.items()]
    print("\n".join(table))
    text = f"# Generators against logs\n\n{DRAWN} workflows drawn per application, seed 0.\n\n"
    pictures = "\n\n".join(f"![{app}]({app}.png)" for app in LOGS)
    (out / "report.md").write_text(text + "\n".join([*table, "", *notes, "", pictures, ""]), encoding="utf-8")
    with (out / "fit.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
