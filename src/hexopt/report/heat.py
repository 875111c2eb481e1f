"""The policies × instances map that two figures draw."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from hexopt.report.data import RUN, Results

ANNOTATE_UP_TO = 24
"""Columns beyond which numbers would no longer be readable."""


def draw_heat(ax: Axes, data: Results, share: pd.Series[float], label: str, zoom: bool = False) -> None:
    """Draw ``share`` (one value per row of ``data.instances``, 0 to 1, mean over seeds) by policy and instance.

    ``zoom`` ends the colours at the first of 10%, 25%, 50% and 100% that holds all values.
    """
    table = data.instances[[*RUN, "name", "role"]].assign(share=share)
    names = list(dict.fromkeys(table["name"]))
    roles = table.drop_duplicates("name").set_index("name")["role"]
    grid = table.groupby(["policy", "name"])["share"].mean().unstack().reindex(index=data.policies, columns=names)
    largest = float(grid.max().max())
    top = next((t for t in (0.1, 0.25, 0.5) if zoom and largest <= t), 1.0)
    image = ax.imshow(grid.to_numpy(), cmap="Blues", vmin=0, vmax=top, aspect="auto")
    few = len(names) <= ANNOTATE_UP_TO
    if few:
        for y, row in enumerate(grid.to_numpy()):
            for x, value in enumerate(row):
                if value == value:
                    colour = "white" if value > 0.6 * top else "black"
                    ax.text(x, y, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=9)
        ax.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    for x, (left, right) in enumerate(pairwise(names)):
        if roles[left] != roles[right]:
            ax.axvline(x + 0.5, color="white", linewidth=6)
    ax.set_yticks(range(len(grid)), list(grid.index))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    figure = ax.figure
    figure.colorbar(image, ax=ax, format=PercentFormatter(1.0, decimals=0), label=label, fraction=0.04, pad=0.02)
    ax.set_xlabel("instance" if few else f"instance, 0 to {len(names) - 1}")
    ax.set_ylabel("policy")
