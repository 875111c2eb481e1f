"""Read a result folder back: of an experiment (``runs.csv`` and a folder per run) or of one run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from hexopt.errors import ConfigError

AXES = ("cluster", "trace", "load", "estimate_error")
"""What a study may vary besides policy and seed. A study or a table that lacks one has a single unnamed value of it."""

RUN = [*AXES, "policy", "seed"]
"""Columns that name a run in every table of :class:`Results`."""

_TEXT = (
    *AXES,
    *("policy", "policy_name", "options", "predictor", "status", "error", "key", "metric", "best"),
    *("workflow_id", "call_id", "app", "name", "role"),
)
"""Columns that stay text even where every entry looks like a number."""


class Setting(NamedTuple):
    """One cell of a study's grid: what all policies met alike. An axis that the study does not vary may be empty.

    ``load`` and ``estimate_error`` are shares as the study states them, as text: of what the cluster can do, and of
    the true service time (0.3 is 30%).
    """

    cluster: str
    trace: str = ""
    load: str = ""
    estimate_error: str = ""

    @property
    def title(self) -> str:
        """The setting in words, for a heading."""
        parts = [self.cluster, self.trace]
        if self.load:
            parts.append(f"load {self.load}")
        if self.estimate_error and number(self.estimate_error) != 0:
            share = number(self.estimate_error)
            parts.append("estimate error " + (self.estimate_error if math.isnan(share) else f"{100 * share:.3g}%"))
        return ", ".join(part for part in parts if part)


def number(label: str) -> float:
    """Return the number in an axis label (``"0.3"``, ``"poisson:1.2"``); nan if there is none.

    >>> number("poisson:1.2")
    1.2
    """
    found = re.findall(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", label)
    return float(found[-1]) if found else math.nan


@dataclass(frozen=True)
class Results:
    """Tables of one or many runs, ready to be plotted.

    Attributes
    ----------
    runs
        A row per finished run: the columns of :data:`RUN`, its folder, and the metrics.
    summary
        A row per (setting, policy, metric) with mean, interval and comparison; empty for a single run.
    timing
        Wall-clock figures per run; may be empty.
    workflows, instances
        The runs' tables, each row led by the run's :data:`RUN`.
    calls
        The single run's table of calls; ``None`` for an experiment, whose runs' calls are read when needed.
    baselines
        Labels of the policies that the experiment file calls baselines.
    across
        A row per (cluster, load, estimate error, policy, baseline, metric): reductions averaged over traces, percent.
    failures
        A row per failed run: the columns of :data:`RUN` and ``error``.
    record
        What was run: ``experiment.json`` or ``run.json``.
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
    across: pd.DataFrame = field(default_factory=pd.DataFrame)
    failures: pd.DataFrame = field(default_factory=pd.DataFrame)
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def clusters(self) -> list[str]:
        """Cluster names, in the experiment's order."""
        return self.values("cluster")

    @property
    def policies(self) -> list[str]:
        """Policy labels, in the experiment's order."""
        return self.values("policy")

    @property
    def settings(self) -> list[Setting]:
        """Cells of the grid that have a finished run, in the experiment's order."""
        columns = [self.runs[axis].tolist() if axis in self.runs else [""] * len(self.runs) for axis in AXES]
        return [Setting(*cell) for cell in dict.fromkeys(zip(*columns, strict=True))]

    @property
    def bases(self) -> list[Setting]:
        """Per cluster and trace, the setting that stands for it where only one is shown.

        The smallest estimate error and the middle load (the lower of two).
        """
        groups: dict[tuple[str, str], list[Setting]] = {}
        for setting in self.settings:
            groups.setdefault((setting.cluster, setting.trace), []).append(setting)
        chosen = []
        for settings in groups.values():
            least = min(abs(number(s.estimate_error or "0")) for s in settings)
            exact = [s for s in settings if abs(number(s.estimate_error or "0")) == least] or settings
            exact.sort(key=lambda s: number(s.load or "0"))
            chosen.append(exact[(len(exact) - 1) // 2])
        return chosen

    @property
    def where(self) -> str:
        """What the runs have in common besides the policy, for a title."""
        settings = self.settings
        common = [values[0] if len(values := self.values(axis)) == 1 else "" for axis in AXES]
        if len(self.clusters) > 1:
            common[0] = ", ".join(self.clusters)
        return Setting(*common).title if settings else ""

    def values(self, axis: str) -> list[str]:
        """Return the values of a column of :data:`RUN`, in the experiment's order."""
        return list(dict.fromkeys(self.runs[axis])) if axis in self.runs else [""]

    def of(self, **axes: str) -> Results:
        """Return the part with the given values of :data:`AXES` or of ``policy``."""

        def part(table: pd.DataFrame) -> pd.DataFrame:
            for axis, value in axes.items():
                if axis in table:
                    table = table[table[axis] == value]
            return table

        return replace(
            self,
            runs=part(self.runs),
            summary=part(self.summary),
            timing=part(self.timing),
            workflows=part(self.workflows),
            instances=part(self.instances),
            across=part(self.across),
            failures=part(self.failures),
        )

    def of_cluster(self, cluster: str) -> Results:
        """Return the part that belongs to one cluster."""
        return self.of(cluster=cluster)

    def of_setting(self, setting: Setting) -> Results:
        """Return the part that belongs to one cell of the grid."""
        return self.of(**setting._asdict())

    def interval(self, policy: str, metric: str) -> tuple[float, float] | None:
        """Return the 95% interval of a policy's mean, if this part has exactly one that is finite."""
        if self.summary.empty:
            return None
        row = self.summary[(self.summary["policy"] == policy) & (self.summary["metric"] == metric)]
        if len(row) != 1:
            return None
        low, high = float(row["ci_low"].iloc[0]), float(row["ci_high"].iloc[0])
        return (low, high) if math.isfinite(low) and math.isfinite(high) else None

    def mean(self, policy: str, metric: str) -> float:
        """Return a policy's mean over the runs of this part; infinite if one of them is, nan without any."""
        if metric not in self.runs:
            return math.nan
        values = self.runs.loc[self.runs["policy"] == policy, metric].astype(float)
        return float(values.mean(skipna=False)) if len(values) else math.nan

    def named(self) -> dict[str, str]:
        """Return the shipped name behind each policy label that stands alone for it; other labels are themselves."""
        pairs = (
            dict(zip(self.runs["policy"], self.runs["policy_name"], strict=True)) if "policy_name" in self.runs else {}
        )
        names = list(pairs.values())
        return {p: pairs[p] if names.count(pairs.get(p, "")) == 1 else p for p in self.policies}


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
    table = read_table(folder / "runs.csv")
    ok = table["status"] == "ok"
    runs, failures = table[ok].reset_index(drop=True), table[~ok].reset_index(drop=True)
    if runs.empty:
        raise ValueError("no run of it is finished")
    runs = runs.assign(folder=[str(folder / "runs" / str(key)) for key in runs["key"]])
    record = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    experiment = record["experiment"]
    timing = read_table(folder / "timing.csv") if (folder / "timing.csv").is_file() else pd.DataFrame(columns=RUN)
    return Results(
        folder=folder,
        name=str(experiment["name"]),
        runs=runs,
        summary=read_table(folder / "summary.csv"),
        timing=timing,
        workflows=_concat(runs, "workflows.csv"),
        instances=_concat(runs, "instances.csv"),
        across=read_table(folder / "across_traces.csv") if (folder / "across_traces.csv").is_file() else pd.DataFrame(),
        baselines=tuple(experiment.get("baselines") or ()),
        failures=failures[[*RUN, "error"]],
        record=record,
    )


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of a result folder: ids and labels stay text, and a table of runs has all of :data:`AXES`."""
    table = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str))
    if "policy" in table:
        for i, axis in enumerate(AXES):
            if axis not in table:
                table.insert(min(i, len(table.columns)), axis, "")
            table[axis] = [_label(axis, value) for value in table[axis]]
    return table


def _label(axis: str, value: Any) -> str:
    """Write an axis value as text: ``1`` and ``1.0`` are one load, and an empty cell is the unnamed value."""
    text = "" if value is None or value != value else str(value)
    if axis in ("load", "estimate_error"):
        with suppress(ValueError):
            return f"{float(text):.10g}"
    return text


def _concat(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    tables = []
    for run in runs.to_dict("records"):
        tables.append(_led(read_table(Path(run["folder"]) / name), run))
    return pd.concat(tables, ignore_index=True)


def _led(table: pd.DataFrame, run: Mapping[Any, Any]) -> pd.DataFrame:
    for i, column in enumerate(RUN):
        table.insert(i, column, run[column])
    return table


def _load_run(folder: Path) -> Results:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if (folder / "timing.json").is_file():  # wall-clock figures stand apart
        summary |= json.loads((folder / "timing.json").read_text(encoding="utf-8"))
    # JSON has no infinity: a ratio that is not there is one of a workflow that did not finish.
    summary |= {k: math.inf for k in ("req95", "req99", "req_max") if summary.get(k) is None}
    names = {axis: _label(axis, summary.get(axis)) for axis in AXES} | {
        "cluster": str(summary["cluster"]),
        "policy": str(summary["policy"]),
        "seed": int(summary["seed"]),
    }
    row = {k: v for k, v in summary.items() if isinstance(v, bool | int | float | str)}
    runs = pd.DataFrame([row | names | {"policy_name": names["policy"], "folder": str(folder)}])
    record = folder / "run.json"
    return Results(
        folder=folder,
        name=f"{names['policy']} on {names['cluster']}",
        runs=runs,
        summary=pd.DataFrame(),
        timing=runs,
        workflows=_led(read_table(folder / "workflows.csv"), names),
        instances=_led(read_table(folder / "instances.csv"), names),
        calls=read_table(folder / "calls.csv"),
        record=json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {},
    )
