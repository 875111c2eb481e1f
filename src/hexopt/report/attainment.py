"""SLO attainment against SLO scale: the whole curve of which Req95 and Req99 are two points."""

from __future__ import annotations

from matplotlib.axes import Axes

from hexopt.report.data import Results
from hexopt.report.ecdf import draw_ecdf
from hexopt.report.style import new_axes


def plot_attainment(data: Results, ax: Axes | None = None) -> Axes:
    """Draw the share of workflows whose latency is at most α times their standalone latency, over α, per policy.

    Seeds are pooled; dots mark 95% and 99%. An unfinished workflow is never attained.
    """
    ax = new_axes(ax, rows=len(data.policies))
    values = {p: data.workflows.loc[data.workflows["policy"] == p, "ratio"].astype(float) for p in data.policies}
    draw_ecdf(ax, values, marks=(0.95, 0.99))
    ax.set_xlabel("SLO scale α (× standalone latency, log)")
    ax.set_ylabel("workflows within α × standalone")
    ax.set_title(f"SLO attainment (left and high is better)\n{data.where}, {_pooled(data)}")
    return ax


def _pooled(data: Results) -> str:
    seeds = data.runs["seed"].nunique()
    return f"{seeds} seeds pooled" if seeds > 1 else "one run"
