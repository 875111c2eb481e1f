"""How busy each instance was over time."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from hexopt.report.calls import CALLS, missing_tables, of_run
from hexopt.report.data import Results, read_table
from hexopt.report.style import new_axes

BINS = 120

Array = np.ndarray[tuple[int], np.dtype[np.int64]]
Reals = np.ndarray[tuple[int], np.dtype[np.float64]]


def busy_spans(calls: pd.DataFrame, name: str, role: str, end_us: int) -> tuple[Array, Array]:
    """Return begin and end (µs) of the stretches in which an instance computed, in order and without overlap.

    A prefill instance is busy from batch start to batch end, a decode instance while a call is in its batch
    (semantics, section 9). What had not ended when the run did is cut there.
    """
    column, begin, end = (
        ("prefill_instance", "prefill_start_us", "prefill_end_us")
        if role == "prefill"
        else ("decode_instance", "join_us", "complete_us")
    )
    mine = calls[(calls[column] == name) & calls[begin].notna()]
    begins = mine[begin].to_numpy(dtype=np.int64)
    ends = mine[end].fillna(end_us).to_numpy(dtype=np.int64)
    order = np.argsort(begins, kind="stable")
    begins, ends = begins[order], ends[order]
    if not len(begins):
        return begins, ends
    reach = np.maximum.accumulate(ends)
    fresh = np.concatenate(([True], begins[1:] > reach[:-1]))
    return begins[fresh], reach[np.concatenate((np.flatnonzero(fresh)[1:] - 1, [len(reach) - 1]))]


def busy_in_bins(spans: tuple[Array, Array], edges_us: Reals) -> Reals:
    """Return the busy µs inside each of the bins between ``edges_us``."""
    begins, ends = spans
    points = np.stack((begins, ends), axis=1).ravel().astype(float)
    total = np.cumsum(np.stack((np.zeros(len(begins)), (ends - begins).astype(float)), axis=1).ravel())
    return np.diff(np.interp(edges_us, points, total)) if len(points) else np.zeros(len(edges_us) - 1)


def needs(data: Results) -> str:
    """Say what is missing to draw this figure; empty if nothing is."""
    return missing_tables(data)


def plot_busy_over_time(data: Results, ax: Axes | None = None) -> Axes:
    """Draw a thin row per instance, grouped by policy: the share of each time bin in which it computed.

    One seed, the first: over several, idle times would blur. All policies share the time axis.
    """
    seed = data.runs["seed"].iloc[0]
    runs = [run for run in data.runs.to_dict("records") if run["seed"] == seed]
    policies = [str(run["policy"]) for run in runs]
    start, end = _extent(data, runs)
    edges = np.linspace(start, max(end, start + 1), BINS + 1)
    rows, groups, names = [], [], []
    for run in runs:
        calls = read_table(Path(run["folder"]) / CALLS)
        own_end = round(_first_us(data, run) + float(run["makespan_s"]) * 1e6)
        for instance in of_run(data.instances, run).to_dict("records"):
            spans = busy_spans(calls, instance["name"], instance["role"], own_end)
            rows.append(busy_in_bins(spans, edges) / np.diff(edges))
            groups.append((run["policy"], instance["role"]))
            names.append(instance["name"])
    one = len(runs) == 1
    ax = new_axes(ax, rows=max(8, len(rows) // 2 if one else 2 * len(policies)))
    image = ax.imshow(
        np.array(rows), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest",
        extent=(edges[0] / 1e6, edges[-1] / 1e6, len(rows) - 0.5, -0.5),
    )  # fmt: skip
    figure = ax.figure
    figure.colorbar(
        image, ax=ax, format=PercentFormatter(1.0, decimals=0), label="busy share of the bin", fraction=0.04, pad=0.02
    )
    for y in range(1, len(groups)):
        if groups[y] != groups[y - 1]:
            other = groups[y][0] != groups[y - 1][0]
            ax.axhline(y - 0.5, color="black" if other else "#D55E00", linewidth=1.4 if other else 0.9)
    if one and len(names) <= 40:
        ax.set_yticks(range(len(names)), names, fontsize=10 if len(names) <= 20 else 7)
        ax.set_ylabel("instance")
    else:
        middles = [np.mean([y for y, (p, _) in enumerate(groups) if p == policy]) for policy in policies]
        ax.set_yticks(middles, policies, fontsize=10 if len(policies) <= 14 else 7)
        ax.set_ylabel("policy, a row per instance")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("time (s)")
    width = (edges[1] - edges[0]) / 1e6
    ax.set_title(
        f"Busy time by instance over time, bins of {width:.3g} s, seed {seed}\n"
        f"{data.where}; above the thin line prefill, below it decode"
    )
    return ax


def _extent(data: Results, runs: list[dict[Hashable, Any]]) -> tuple[float, float]:
    firsts = [_first_us(data, run) for run in runs]
    ends = [first + float(run["makespan_s"]) * 1e6 for first, run in zip(firsts, runs, strict=True)]
    return min(firsts), max(ends)


def _first_us(data: Results, run: dict[Hashable, Any]) -> float:
    return float(of_run(data.workflows, run)["arrival_us"].min())
