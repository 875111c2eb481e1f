"""One run over time: what each prefill instance ran, how full each decode batch was, what waited."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hexopt.report.data import Results
from hexopt.report.style import new_axes

PREFILL = ("#0072B2", "#56B4E9")
"""Batches in turn, so that one is told from the next without a border, which would hide short ones."""
DECODE, WAITING = "#E69F00", "#8C8C8C"
MAX_LANES = 40
"""Lanes that fit a figure; of larger clusters the first of each pool are drawn."""


def plot_timeline(data: Results, ax: Axes | None = None) -> Axes:
    """Draw a lane per instance over time, and on top how many calls waited for a prefill and for KV room.

    Prefill lanes show each batch as a bar; decode and waiting lanes show a count as height, each lane scaled to
    the largest count of its kind, which stands at its right end.
    """
    if data.calls is None:
        raise ValueError("a timeline needs the calls of one run; an experiment has many")
    ax = new_axes(ax)
    calls = data.calls
    half = (MAX_LANES - 2) // 2
    pool = data.instances.groupby("role", sort=False)["name"].agg(list)
    prefills, decodes = pool.get("prefill", []), pool.get("decode", [])
    waiting = [
        ("waiting for prefill", _occupancy(calls, "ready_us", "prefill_start_us")),
        ("waiting for KV room", _occupancy(calls[calls["decode_iterations"] > 0], "prefill_end_us", "admit_us")),
    ]
    running = [
        (
            name,
            _occupancy(calls[(calls["decode_instance"] == name) & calls["join_us"].notna()], "join_us", "complete_us"),
        )
        for name in decodes[:half]
    ]
    labels = [label for label, _ in waiting] + prefills[:half] + decodes[:half]
    y = 0
    for _, steps in waiting:
        _draw_count(ax, y, steps, max(1, _peak(steps)), WAITING)
        y += 1
    for name in prefills[:half]:
        batches = calls.loc[calls["prefill_instance"] == name, ["prefill_start_us", "prefill_end_us"]]
        batches = batches.dropna().drop_duplicates().sort_values("prefill_start_us").to_numpy(dtype=float) / 1e6
        bars = [(start, end - start) for start, end in batches]
        ax.broken_barh(bars, (y - 0.36, 0.72), facecolors=PREFILL, linewidth=0)
        y += 1
    scale = max([1, *(_peak(steps) for _, steps in running)])
    for _, steps in running:
        _draw_count(ax, y, steps, scale, DECODE)
        y += 1
    ax.set_yticks(range(len(labels)), labels, fontsize=10 if len(labels) <= 20 else 7)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlim(0, max(1e-6, _end_s(calls)))
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("time (s)")
    ax.set_ylabel("instance")
    hidden = len(prefills) + len(decodes) - (len(labels) - 2)
    ax.set_title(
        f"{data.name}: what ran when\nbars: prefill batches; height: number of calls (peak at the right)"
        + (f"; {hidden} more instances" if hidden else "")
    )
    return ax


Steps = tuple["np.ndarray[tuple[int], np.dtype[np.float64]]", "np.ndarray[tuple[int], np.dtype[np.int64]]"]


def _occupancy(calls: pd.DataFrame, begin: str, end: str) -> Steps:
    """Return instants (s) and how many calls are between ``begin`` and ``end`` from each of them on."""
    begun = calls[begin].dropna().to_numpy(dtype=np.int64)
    ended = calls.loc[calls[begin].notna(), end].dropna().to_numpy(dtype=np.int64)
    instants, place = np.unique(np.concatenate((begun, ended)), return_inverse=True)
    change = np.zeros(len(instants), dtype=np.int64)
    np.add.at(change, place, np.concatenate((np.ones_like(begun), -np.ones_like(ended))))
    return instants / 1e6, np.cumsum(change)


def _end_s(calls: pd.DataFrame) -> float:
    latest = calls[["ready_us", "prefill_end_us", "complete_us"]].max().max()
    return 0.0 if pd.isna(latest) else float(latest) / 1e6


def _peak(steps: Steps) -> int:
    return int(steps[1].max(initial=0))


def _draw_count(ax: Axes, y: int, steps: Steps, scale: int, colour: str) -> None:
    times, counts = steps
    ax.fill_between(times, y + 0.36, y + 0.36 - 0.72 * counts / scale, step="post", color=colour, linewidth=0)
    ax.annotate(
        f"{_peak(steps)}",
        (1, y),
        (4, 0),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )
