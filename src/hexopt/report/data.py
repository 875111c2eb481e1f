"""Read a result folder back: of an experiment (``runs.csv`` and a folder per run) or of one run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hexopt.errors import ConfigError

RUN = ["cluster", "policy", "seed"]
"""Columns that name a run in every table of :class:`Results`."""

_TEXT = ("cluster", "policy", "key", "metric", "best", "workflow_id", "call_id", "app", "name", "role")
"""Columns that stay text even where every entry looks like a number."""


@dataclass(frozen=True)
class Results:
    """Tables of one or many runs, ready to be plotted.

    Attributes
    ----------
    runs
        A row per finished run: ``cluster, policy, seed`` and the metrics.
    summary
        A row per (cluster, policy, metric) with mean, interval and comparison; empty for a single run.
    timing
        Wall-clock figures per run; may be empty.
    workflows, instances
        The runs' tables, each row led by the run's ``cluster, policy, seed``.
    calls
        The single run's table of calls; ``None`` for an experiment.
    baselines
        Labels of the policies that the experiment file calls baselines.
    """

    folder: Path
    name: str
    runs: pd.DataFrame
    summary: pd.DataFrame
    timing: pd.DataFrame
    workflows: pd.DataFrame
    instances: pd.DataFrame
    calls: pd.DataFrame | None = None
    baselines: tuple[str, ...] = ()

    @property
    def clusters(self) -> list[str]:
        """Cluster names, in the experiment's order."""
        return list(dict.fromkeys(self.runs["cluster"]))

    @property
    def policies(self) -> list[str]:
        """Policy labels, in the experiment's order."""
        return list(dict.fromkeys(self.runs["policy"]))

    def of_cluster(self, cluster: str) -> Results:
        """Return the part that belongs to one cluster."""

        def part(table: pd.DataFrame) -> pd.DataFrame:
            return table[table["cluster"] == cluster] if "cluster" in table else table

        return replace(
            self,
            runs=part(self.runs),
            summary=part(self.summary),
            timing=part(self.timing),
            workflows=part(self.workflows),
            instances=part(self.instances),
        )


def load_results(folder: str | Path) -> Results:
    """Read the folder that ``hexopt run`` or ``hexopt simulate --out`` wrote.

    Raises
    ------
    ConfigError
        The folder holds no such results, or a file of it cannot be read.
    """
    folder = Path(folder)
    try:
        if (folder / "runs.csv").is_file():
            return _load_experiment(folder)
        if (folder / "summary.json").is_file():
            return _load_run(folder)
    except (OSError, ValueError, KeyError) as error:
        what = str(error).strip("'\"") or type(error).__name__
        raise ConfigError(
            f"{folder}: {' '.join(what.split())}, a result folder holds whole tables, make it again"
        ) from None
    raise ConfigError(
        f"{folder}: neither runs.csv nor summary.json found, a result folder is needed, "
        "name one that hexopt run or hexopt simulate --out wrote"
    )


def _load_experiment(folder: Path) -> Results:
    runs = _read(folder / "runs.csv")
    runs = runs[runs["status"] == "ok"].reset_index(drop=True)
    if runs.empty:
        raise ValueError("no run of it is finished")
    experiment = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))["experiment"]
    timing = _read(folder / "timing.csv") if (folder / "timing.csv").is_file() else pd.DataFrame(columns=RUN)
    return Results(
        folder=folder,
        name=str(experiment["name"]),
        runs=runs,
        summary=_read(folder / "summary.csv"),
        timing=timing,
        workflows=_concat(folder, runs, "workflows.csv"),
        instances=_concat(folder, runs, "instances.csv"),
        baselines=tuple(experiment.get("baselines") or ()),
    )


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str))


def _concat(folder: Path, runs: pd.DataFrame, name: str) -> pd.DataFrame:
    tables = []
    for run in runs.itertuples():
        tables.append(_led(_read(folder / "runs" / str(run.key) / name), run.cluster, run.policy, run.seed))
    return pd.concat(tables, ignore_index=True)


def _led(table: pd.DataFrame, cluster: Any, policy: Any, seed: Any) -> pd.DataFrame:
    table.insert(0, "cluster", cluster)
    table.insert(1, "policy", policy)
    table.insert(2, "seed", seed)
    return table


def _load_run(folder: Path) -> Results:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if (folder / "timing.json").is_file():  # wall-clock figures stand apart
        summary |= json.loads((folder / "timing.json").read_text(encoding="utf-8"))
    # JSON has no infinity: a ratio that is not there is one of a workflow that did not finish.
    summary |= {k: math.inf for k in ("req95", "req99", "req_max") if summary.get(k) is None}
    names = (str(summary["cluster"]), str(summary["policy"]), int(summary["seed"]))
    row = {k: v for k, v in summary.items() if isinstance(v, bool | int | float | str)}
    runs = pd.DataFrame([row | dict(zip(RUN, names, strict=True))])
    return Results(
        folder=folder,
        name=f"{names[1]} on {names[0]}",
        runs=runs,
        summary=pd.DataFrame(),
        timing=runs,
        workflows=_led(_read(folder / "workflows.csv"), *names),
        instances=_led(_read(folder / "instances.csv"), *names),
        calls=_read(folder / "calls.csv"),
    )
