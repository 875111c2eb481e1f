"""The empirical distribution that two figures draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from hexopt.report.style import below, log_x, policy_looks

INSIDE = 6
"""Policies up to which the legend has room beside the curves."""


def draw_ecdf(ax: Axes, values: Mapping[str, pd.Series[float]], marks: Sequence[float] = ()) -> None:
    """Draw, per policy, the share of values at or below x; a missing value (unfinished) is never reached.

    ``marks`` are shares at which each curve gets a dot, the lowest x that the share needs.
    """
    policies = list(values)
    looks = policy_looks(policies)
    edge = 0.0
    for policy in policies:
        n = len(values[policy])
        xs = np.sort(values[policy].dropna().to_numpy(dtype=float))
        xs = xs[np.isfinite(xs) & (xs > 0)]
        if n == 0 or len(xs) == 0:
            continue
        edge = max(edge, float(xs[-1]))
        shares = np.arange(1, len(xs) + 1) / n
        ax.step(
            np.concatenate(([xs[0]], xs)),
            np.concatenate(([0.0], shares)),
            where="post",
            color=looks[policy].colour,
            linestyle=looks[policy].dash,
            linewidth=2,
            label=policy,
        )
        for mark in marks:
            rank = math.ceil(round(mark * n, 9))
            if rank <= len(xs):
                ax.plot(xs[rank - 1], rank / n, "o", color=looks[policy].colour, markeredgecolor="white", markersize=7)
    for mark in marks:
        ax.axhline(mark, color="#555555", linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        ax.annotate(
            f"{mark:.0%}", (1, mark), (4, 0), xycoords=ax.get_yaxis_transform(), textcoords="offset points", va="center"
        )
    log_x(ax)
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    if len(policies) <= INSIDE:
        ax.legend(loc="lower right")
    else:
        below(ax, len(policies))
