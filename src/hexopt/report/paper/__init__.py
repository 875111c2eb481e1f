"""Published figures, as data with their source, to be printed and drawn beside ours."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import pandas as pd


@dataclass(frozen=True)
class Paper:
    """What a paper reports.

    Attributes
    ----------
    source, note
        Which paper, and how its figures came here.
    cells
        ``cluster, trace, policy, req95, req99``.
    means
        ``cluster, policy, req95, req99``, the mean over the paper's four traces; policy is ``hexagent`` or
        ``strongest baseline``.
    sensitivity
        ``cluster, error_percent, req99_percent``.
    reductions
        ``what, percent``, as the text states them.
    planner
        ``mean_low_ms, mean_high_ms, worst_mean_ms``.
    """

    source: str
    note: str
    cells: pd.DataFrame
    means: pd.DataFrame
    sensitivity: pd.DataFrame
    reductions: pd.DataFrame
    planner: Mapping[str, float]

    def beside(self, cluster: str, trace: str, policy: str) -> tuple[float, float] | None:
        """Return the published Req95 and Req99 of a cell, if there is one."""
        cells = self.cells
        row = cells[(cells["cluster"] == cluster) & (cells["trace"] == trace) & (cells["policy"] == policy)]
        return (float(row["req95"].iloc[0]), float(row["req99"].iloc[0])) if len(row) else None


@lru_cache(maxsize=1)
def load_paper() -> Paper:
    """Return the figures of the HexAGenT paper (arXiv 2605.16637); the file says how they were obtained."""
    text = resources.files("hexopt.report.paper").joinpath("hexagent.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    names = ("cluster", "trace")
    cells = [
        [*(cell[name] for name in names), policy, *values]
        for cell in data["cells"]
        for policy, values in cell.items()
        if policy not in names
    ]
    means = [
        [mean["cluster"], policy.replace("_", " "), *values]
        for mean in data["means"]
        for policy, values in mean.items()
        if policy != "cluster"
    ]
    return Paper(
        source=data["source"]["paper"],
        note=" ".join(data["source"]["note"].split()),
        cells=pd.DataFrame(cells, columns=[*names, "policy", "req95", "req99"]),
        means=pd.DataFrame(means, columns=["cluster", "policy", "req95", "req99"]),
        sensitivity=pd.DataFrame(data["sensitivity"]),
        reductions=pd.DataFrame(data["reductions"]),
        planner=data["planner"],
    )
