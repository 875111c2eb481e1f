"""Workflow latency in seconds, as a distribution."""

from __future__ import annotations

from matplotlib.axes import Axes

from hexopt.report.data import Results
from hexopt.report.ecdf import draw_ecdf
from hexopt.report.style import new_axes


def plot_latency(data: Results, ax: Axes | None = None) -> Axes:
    """Draw the share of workflows that finished within x seconds of their arrival, per policy, seeds pooled."""
    ax = new_axes(ax, rows=len(data.policies))
    values = {
        p: data.workflows.loc[data.workflows["policy"] == p, "latency_us"].astype(float) / 1e6 for p in data.policies
    }
    draw_ecdf(ax, values, marks=(0.5, 0.99))
    ax.set_xlabel("workflow latency (s, log)")
    ax.set_ylabel("workflows finished within it")
    seeds = data.runs["seed"].nunique()
    ax.set_title(
        "Workflow latency, arrival to last token (left is better)\n"
        f"{data.where}, " + (f"{seeds} seeds pooled" if seeds > 1 else "one run")
    )
    return ax
