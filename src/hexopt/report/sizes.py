"""The ratio by workflow size: who pays for the tail."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hexopt.metrics.quantiles import quantile
from hexopt.report.calls import missing_tables, with_call_counts
from hexopt.report.data import Results
from hexopt.report.style import below, log_y_if_wide, new_axes, policy_looks

BINS = 5
"""At most so many groups of sizes."""


def size_bins(counts: pd.Series[int], bins: int = BINS) -> list[tuple[int, int]]:
    """Return ranges of call counts, both ends included, that hold about equally many workflows each.

    >>> size_bins(pd.Series([1, 1, 1, 2, 3, 9]), 3)
    [(1, 1), (2, 2), (3, 9)]
    """
    ordered = np.sort(counts.to_numpy())
    # A size belongs to one bin, so many workflows of one size leave fewer bins.
    tops = sorted({int(ordered[math.ceil(len(ordered) * (b + 1) / bins) - 1]) for b in range(bins)})
    starts = [int(ordered[0]), *(int(ordered[np.searchsorted(ordered, top, side="right")]) for top in tops[:-1])]
    return list(zip(starts, tops, strict=True))


def needs(data: Results) -> str:
    """Say what is missing to draw this figure; empty if nothing is."""
    return missing_tables(data)


def plot_sizes(data: Results, ax: Axes | None = None) -> Axes:
    """Draw, per policy and group of workflow sizes, the median (filled) and the 95th percentile (hollow) of the ratio.

    Seeds are pooled. Groups hold about equally many workflows. An unfinished workflow counts as infinite: where it
    decides a quantile, the mark stands at the top edge with the sign ∞.
    """
    ax = new_axes(ax, rows=len(data.policies))
    table = with_call_counts(data)
    ranges = size_bins(table["calls"])
    looks = policy_looks(data.policies)
    step = 0.8 / len(data.policies)
    endless: list[tuple[float, str]] = []
    seen: list[float] = []
    for i, policy in enumerate(data.policies):
        mine = table[table["policy"] == policy]
        look = looks[policy]
        for b, (low, high) in enumerate(ranges):
            ratios = mine.loc[mine["calls"].between(low, high), "ratio"].to_numpy(dtype=np.float64)
            if not len(ratios):
                continue
            x = b + (i - (len(data.policies) - 1) / 2) * step
            middle, tail = quantile(ratios, "0.5"), quantile(ratios, "0.95")
            seen += [v for v in (middle, tail) if math.isfinite(v)]
            if math.isfinite(tail):
                ax.plot([x, x], [middle, tail], color=look.colour, linewidth=1.6, zorder=2)
                ax.plot(x, tail, look.marker, color=look.colour, markerfacecolor="white", markersize=6, zorder=3)
            else:
                endless.append((x, look.colour))
            if math.isfinite(middle):
                ax.plot(x, middle, look.marker, color=look.colour, markersize=6, zorder=3)
        ax.plot([], [], look.marker, color=look.colour, label=policy)
    for x, colour in endless:
        ax.annotate(
            "∞", (x, 1), (0, -2), xycoords=ax.get_xaxis_transform(), textcoords="offset points",
            color=colour, ha="center", va="top",
        )  # fmt: skip
    for b in range(1, len(ranges)):
        ax.axvline(b - 0.5, color="#BBBBBB", linewidth=0.8)
    per_bin = [int(table["calls"].between(low, high).sum()) // max(1, len(data.runs)) for low, high in ranges]
    names = [f"{low}" if low == high else f"{low} to {high}" for low, high in ranges]
    ax.set_xticks(range(len(ranges)), [f"{n}\n({k} a run)" for n, k in zip(names, per_bin, strict=True)])
    ax.set_xlim(-0.5, len(ranges) - 0.5)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("calls in the workflow (workflows of that size)")
    log_y_if_wide(ax, seen, "latency ÷ standalone latency")
    seeds = data.runs["seed"].nunique()
    ax.set_title(
        f"Ratio by workflow size: median (filled) and 95th percentile (hollow)\n{data.where}, "
        + (f"{seeds} seeds pooled" if seeds > 1 else "one run")
    )
    below(ax, len(data.policies), drop=52)
    return ax
