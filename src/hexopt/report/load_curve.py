"""Req99 against load: where each policy stops holding."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

from hexopt.report.data import Results, number
from hexopt.report.style import below, log_y_if_wide, new_axes, policy_looks

COLLAPSE = 5.0
"""A policy has collapsed where its Req99 is more than so many times that at the lowest load, or infinite."""


def needs(data: Results) -> str:
    """Say what is missing to draw this figure; empty if nothing is."""
    return "" if len(_loads(data)) > 1 else "the study has one load"


def collapse_points(data: Results) -> dict[str, float]:
    """Return, per policy, the lowest load from which on its Req99 stays collapsed (infinite if it never does)."""
    loads = _loads(data)
    points = {}
    for policy in data.policies:
        curve = [data.of(load=label).mean(policy, "req99") for label, _ in loads]
        base = next((v for v in curve if math.isfinite(v)), math.nan)
        point = math.inf
        for (_, load), value in zip(reversed(loads), reversed(curve), strict=True):
            if math.isnan(value):
                continue
            if not value > COLLAPSE * base and math.isfinite(value):
                break
            point = load
        points[policy] = point
    return points


def plot_load(data: Results, ax: Axes | None = None) -> Axes:
    """Draw the mean Req99 over load, a line per policy with the 95% interval as a band.

    The pale region begins where the first policy collapses, the darker one where the last does. A value that is
    infinite (a workflow did not finish) stands at the top edge as ∞.
    """
    ax = new_axes(ax, rows=len(data.policies))
    loads = _loads(data)
    looks = policy_looks(data.policies)
    seen: list[float] = []
    endless: list[tuple[float, str]] = []
    for policy in data.policies:
        look = looks[policy]
        xs, ys, lows, highs = [], [], [], []
        for label, load in loads:
            part = data.of(load=label)
            mean = part.mean(policy, "req99")
            if math.isinf(mean):
                endless.append((load, look.colour))
            if not math.isfinite(mean):
                continue
            low, high = part.interval(policy, "req99") or (mean, mean)
            xs.append(load)
            ys.append(mean)
            lows.append(low)
            highs.append(high)
        seen += [*ys, *lows, *highs]
        ax.fill_between(xs, lows, highs, color=look.colour, alpha=0.18, linewidth=0)
        ax.plot(
            xs,
            ys,
            color=look.colour,
            linestyle=look.dash,
            marker=look.marker,
            markersize=6,
            linewidth=1.8,
            label=policy,
        )
    first, last = _shade(ax, data, loads[-1][1])
    taken: dict[float, int] = {}
    for load, colour in endless:
        taken[load] = taken.get(load, 0) + 1
        ax.annotate(
            "∞", (load, 1), (0, 2 - 11 * taken[load]), xycoords=ax.get_xaxis_transform(),
            textcoords="offset points", color=colour, ha="center", fontweight="bold",
        )  # fmt: skip
    ax.set_xticks([load for _, load in loads], [f"{load:g}" for _, load in loads])
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("load (share of what the cluster can do that arrives)")
    log_y_if_wide(ax, seen, "Req99 (× standalone latency)")
    seeds = data.runs["seed"].nunique()
    ax.set_title(
        f"Req99 against load (lower is better); collapsed: more than {COLLAPSE:g} × that at the lowest load\n"
        f"{data.where}, " + (f"mean of {seeds} seeds, band: 95% interval" if seeds > 1 else "one seed")
    )
    below(ax, len(data.policies) + int(first) + int(last))
    return ax


def _shade(ax: Axes, data: Results, end: float) -> tuple[bool, bool]:
    points = collapse_points(data)
    first, last = min(points.values()), max(points.values())
    margin = 0.03 * (end - _loads(data)[0][1])
    ax.set_xlim(_loads(data)[0][1] - margin, end + margin)
    some = first <= end and first < last
    if some:
        ax.axvspan(
            first - margin / 3, min(last, end + 2 * margin), color="#D9D9D9", alpha=0.45, zorder=0, linewidth=0,
            label="some collapsed",
        )  # fmt: skip
    if last <= end:
        ax.axvspan(
            last - margin / 3, end + 2 * margin, color="#A6A6A6", alpha=0.55, zorder=0, linewidth=0,
            label="all collapsed",
        )  # fmt: skip
    return some, last <= end


def _loads(data: Results) -> list[tuple[str, float]]:
    pairs = [(label, number(label)) for label in data.values("load")]
    return sorted((p for p in pairs if np.isfinite(p[1])), key=lambda pair: pair[1])
