"""Req99 of every policy on every cluster and trace of a study: who wins where, at a glance."""

from __future__ import annotations

import math

from matplotlib.axes import Axes

from hexopt.report.data import Results
from hexopt.report.paper import Paper
from hexopt.report.style import WIDE, below, log_x, new_axes, policy_looks

MOST = 24
"""Rows that fit a page; of larger studies the first are drawn."""


def plot_overview(data: Results, ax: Axes | None = None, paper: Paper | None = None) -> Axes:
    """Draw a row per cluster and trace: each policy's mean Req99 and its 95% interval, ∞ at the edge if infinite.

    ``paper`` adds hollow diamonds for the published Req99 of HexAGenT.
    """
    settings = data.bases[:MOST]
    ax = new_axes(ax, rows=2 * len(settings) + len(data.policies) // 2)
    looks = policy_looks(data.policies)
    step = 0.8 / len(data.policies)
    published = False
    seen: list[float] = []
    for y, setting in enumerate(settings):
        part = data.of_setting(setting)
        for i, policy in enumerate(data.policies):
            look, mean = looks[policy], part.mean(policy, "req99")
            at = y + (i - (len(data.policies) - 1) / 2) * step
            if math.isinf(mean):
                ax.annotate(
                    "∞", (1, at), (-4, 0), xycoords=ax.get_yaxis_transform(), textcoords="offset points",
                    color=look.colour, ha="right", va="center", fontsize=9,
                )  # fmt: skip
            if math.isfinite(mean):
                low, high = part.interval(policy, "req99") or (mean, mean)
                seen += [low, high]
                ax.plot([low, high], [at, at], color=look.colour, linewidth=1.4)
                ax.plot(mean, at, look.marker, color=look.colour, markersize=5)
        beside = paper.beside(setting.cluster, setting.trace, "hexagent") if paper else None
        if beside:
            published = True
            seen.append(beside[1])
            ax.plot(beside[1], y, "D", color="black", markerfacecolor="none", markeredgewidth=1.4, markersize=8)
        if y:
            ax.axhline(y - 0.5, color="#BBBBBB", linewidth=0.8)
    for policy in data.policies:
        ax.plot([], [], looks[policy].marker, color=looks[policy].colour, label=policy)
    if published:
        ax.plot([], [], "D", color="black", markerfacecolor="none", markeredgewidth=1.4, label="paper's HexAGenT")
    if seen and max(seen) > WIDE * min(seen):
        log_x(ax)
    else:
        ax.set_xlim(0, max(seen, default=1) * 1.08)
    names = [setting.title.replace(", ", "\n", 1) for setting in settings]
    ax.set_yticks(range(len(settings)), names, fontsize=10 if len(settings) <= 12 else 7)
    ax.set_ylim(len(settings) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("Req99 (× standalone latency)" + (", log" if ax.get_xscale() == "log" else ""))
    ax.set_ylabel("cluster, trace")
    hidden = len(data.bases) - len(settings)
    seeds = data.runs["seed"].nunique()
    ax.set_title(
        "Req99 by cluster and trace (left is better)\n"
        + (f"mean of {seeds} seeds with 95% interval" if seeds > 1 else "one seed")
        + (f"; {hidden} more rows" if hidden else "")
    )
    below(ax, len(data.policies) + int(published))
    return ax
