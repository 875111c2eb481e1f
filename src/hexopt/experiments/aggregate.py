"""One table of all runs, and per policy the mean over seeds with its interval and its distance to the best baseline.

``runs.csv`` has a row per run, ``summary.csv`` a row per setting (cluster, trace, load, estimate error), policy and
metric, ``across_traces.csv`` averages over traces, ``timing.csv`` the wall-clock figures, which alone differ from one
execution to the next. ``experiment.json`` says what was run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hexopt
from hexopt.errors import ConfigError, OutputError
from hexopt.experiments.config import ExperimentConfig
from hexopt.experiments.grid import Grid
from hexopt.experiments.ledger import Entry

COMPARED = (
    "req95",
    "req99",
    "req_max",
    "ratio_mean",
    "latency_mean_s",
    "latency_p50_s",
    "latency_p95_s",
    "latency_p99_s",
    "ttft_mean_s",
    "ttft_p99_s",
    "tpot_mean_ms",
    "makespan_s",
)
"""Metrics of which less is better; these are compared with the best baseline."""

DESCRIBED = ("prefill_utilisation", "decode_utilisation", "nic_utilisation")
"""Metrics that are only averaged."""

RESAMPLES = 10_000
BOOTSTRAP_SEED = 20_260_516
"""Fixed, so that intervals are a function of the runs alone."""


SETTING = ["cluster", "trace", "load", "estimate_error"]
"""Columns that tell where policies are compared with one another."""


def check_writers(config: ExperimentConfig) -> None:
    """Raise :class:`~hexopt.errors.ConfigError` unless the tables that an experiment asks for can be written."""
    if config.output.table == "parquet" and find_spec("pyarrow") is None:
        raise ConfigError(
            "output.table: 'parquet' found, it needs the optional extra parquet, "
            "install it with pip install 'hexopt[parquet]', or use \"csv\""
        )


def write_tables(grid: Grid, folder: Path, finished: Mapping[str, Entry], failures: Mapping[str, str]) -> None:
    """Write the tables over all runs, and ``experiment.json``.

    Raises
    ------
    OutputError
        A table cannot be written.
    """
    config = grid.config
    runs = runs_table(grid, finished, failures)
    try:
        _write(folder / "runs.csv", runs.to_csv(index=False).encode())
        if config.output.table == "parquet":
            _write(folder / "runs.parquet", _parquet(runs))
        _write(folder / "summary.csv", summarise(runs, config.baselines).to_csv(index=False).encode())
        _write(folder / "across_traces.csv", across_traces(runs, config.baselines).to_csv(index=False).encode())
        _write(folder / "timing.csv", timing_table(grid, finished, failures).to_csv(index=False).encode())
        record = {
            "hexopt": hexopt.__version__,
            "experiment": config.model_dump(mode="json"),
            "traces": list(grid.traces),
            "policies": [policy.title for policy in config.policies],
            "clusters": list(dict.fromkeys(spec.cluster for spec in grid.runs)),
            "runs": len(grid.runs),
            "failed": len(failures),
        }
        _write(folder / "experiment.json", (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        raise OutputError(
            f"{folder}: {error.strerror or error}, the tables cannot be written, the runs are kept, "
            "free the disk or make the folder writable, then the same command goes on"
        ) from None


def runs_table(grid: Grid, finished: Mapping[str, Entry], failures: Mapping[str, str]) -> pd.DataFrame:
    """Return one tidy row per run, in grid order; a failed run has its error and no figures."""
    rows = []
    for spec in grid.runs:
        row: dict[str, Any] = {
            "cluster": spec.cluster,
            "trace": spec.trace,
            "policy": spec.policy,
            "policy_name": spec.policy_name,
            "options": json.dumps(dict(spec.options), sort_keys=True),
            "load": spec.load,
            "estimate_error": spec.estimate_error,
            "predictor": spec.predictor,
            "seed": spec.seed,
            "status": "failed" if spec.key in failures else "ok",
            "error": failures.get(spec.key, ""),
            "key": spec.key,
        }
        if spec.key not in failures:
            summary = dict(finished[spec.key].summary)
            # JSON has no infinity: a ratio that is not there is one of a workflow that did not finish.
            summary |= {k: math.inf for k in ("req95", "req99", "req_max") if k in summary and summary[k] is None}
            row |= {k: v for k, v in summary.items() if k not in row and isinstance(v, bool | int | float | None)}
        rows.append(row)
    return pd.DataFrame(rows)


def timing_table(grid: Grid, finished: Mapping[str, Entry], failures: Mapping[str, str]) -> pd.DataFrame:
    """Return the wall-clock figures of each finished run: planning time, and what the run itself took."""
    named = [*SETTING, "policy", "seed"]
    rows = [
        {name: getattr(spec, name) for name in named} | dict(finished[spec.key].timing)
        for spec in grid.runs
        if spec.key not in failures
    ]
    return pd.DataFrame(rows, columns=None if rows else named)


def _parquet(runs: pd.DataFrame) -> bytes:
    # Columns without any value have no type of their own; the tidy ones have the type they have with values.
    typed = runs.astype({"load": "float64", "stop_us": "Int64"} if "stop_us" in runs else {"load": "float64"})
    for column in typed.columns[typed.isna().all()]:
        typed[column] = typed[column].astype("float64")
    return bytes(typed.to_parquet(None, index=False, engine="pyarrow"))


class _Cells:
    """The finished runs' metrics: per setting and policy an array of seeds × metrics, ``nan`` where there is none."""

    def __init__(self, runs: pd.DataFrame) -> None:
        self.metrics = [metric for metric in (*COMPARED, *DESCRIBED) if metric in runs]
        self.settings: dict[tuple[Any, ...], dict[str, np.ndarray[Any, Any]]] = {}
        good = runs[runs["status"] == "ok"]
        position = {seed: i for i, seed in enumerate(dict.fromkeys(runs["seed"]))}
        values = good[self.metrics].astype(float).to_numpy() if len(good) else np.empty((0, len(self.metrics)))
        plain = (None if value != value else value for value in good["load"])  # nan is not even equal to itself
        names = zip(good["cluster"], good["trace"], plain, good["estimate_error"], strict=True)
        for setting, policy, seed, row in zip(names, good["policy"], good["seed"], values, strict=True):
            cell = self.settings.setdefault(setting, {})
            if policy not in cell:
                cell[policy] = np.full((len(position), len(self.metrics)), math.nan)
            cell[policy][position[seed]] = row


def summarise(runs: pd.DataFrame, baselines: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Return mean and 95% bootstrap interval over seeds per setting, policy and metric, and the paired comparison.

    ``best`` is the policy with the lowest mean among ``baselines`` (all policies if ``None``) other than the
    row's own, in the same setting. ``diff_*`` is the mean of the per-seed differences to it, over seeds that both
    finished, with its interval; ``diff_percent`` is relative to the mean of ``best``. Negative is better than the
    best baseline.
    """
    cells = _Cells(runs)
    rows = []
    intervals = _Intervals()
    for setting, policies in cells.settings.items():
        for m, metric in enumerate(cells.metrics):
            values = {policy: array[:, m] for policy, array in policies.items()}
            means = {policy: _mean(column) for policy, column in values.items()}
            for policy in policies:
                row = dict(zip(SETTING, setting, strict=True)) | {"policy": policy, "metric": metric}
                _compare(row, values, means, baselines or tuple(policies), intervals)
                rows.append(row)
    intervals.fill()
    columns = [*SETTING, "policy", "metric"]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else columns)


def _compare(
    row: dict[str, Any],
    values: Mapping[str, np.ndarray[Any, Any]],
    means: Mapping[str, float],
    baselines: tuple[str, ...],
    intervals: _Intervals,
) -> None:
    """Fill in the row of a policy and metric."""
    policy = row["policy"]
    own = values[policy]
    there = ~np.isnan(own)
    row |= {"runs": int(there.sum()), "mean": math.nan, "ci_low": math.nan, "ci_high": math.nan}
    row |= {"best": "", "best_mean": math.nan, "pairs": 0}
    row |= {"diff_mean": math.nan, "diff_low": math.nan, "diff_high": math.nan, "diff_percent": math.nan}
    intervals.add(own[there], row, ("mean", "ci_low", "ci_high"))
    others = {p: means[p] for p in baselines if p != policy and not math.isnan(means.get(p, math.nan))}
    if row["metric"] not in COMPARED or not others:
        return
    best = min(others, key=lambda p: others[p])
    both = there & ~np.isnan(values[best])
    if not both.any():
        return
    with np.errstate(invalid="ignore"):  # both unfinished: inf - inf, said as nan
        pairs = own[both] - values[best][both]
    row |= {"best": best, "best_mean": _short(others[best]), "pairs": int(both.sum())}
    diff = intervals.add(pairs, row, ("diff_mean", "diff_low", "diff_high"))
    best_mean = float(values[best][both].mean())
    if best_mean and math.isfinite(best_mean):
        row["diff_percent"] = _short(100 * _short(diff) / best_mean)


def _mean(column: np.ndarray[Any, Any]) -> float:
    there = column[~np.isnan(column)]
    return float(there.mean()) if len(there) else math.nan


BEST = "(best)"
"""In ``across_traces.csv``: the baseline that is best on each trace, which need not be the same on all."""


def across_traces(runs: pd.DataFrame, baselines: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Return by how many percent each policy reduces each metric against each baseline, averaged over traces.

    "Average reduction" can mean two things, so both are here. ``mean_of_reductions_percent`` is the mean over traces
    of ``100 (1 - own mean / baseline's mean)``: every trace counts alike. ``reduction_of_means_percent`` is
    ``100 (1 - mean over traces of own means / the same of the baseline)``: traces with large values count more.
    Means are over seeds that both finished. Intervals (95%) come from drawing seeds, the same for all traces; they
    are ``nan`` where traces differ in the seeds that finished.
    """
    cells = _Cells(runs)
    rows = []
    groups: dict[tuple[Any, ...], list[dict[str, np.ndarray[Any, Any]]]] = {}
    for (cluster, _, load, error), policies in cells.settings.items():
        groups.setdefault((cluster, load, error), []).append(policies)
    for (cluster, load, error), traces in groups.items():
        everywhere = tuple(dict.fromkeys(policy for policies in traces for policy in policies))
        named = {"cluster": cluster, "load": load, "estimate_error": error}
        for policy in everywhere:
            for baseline in (*(p for p in baselines or everywhere if p != policy), BEST):
                for m, metric in enumerate(cells.metrics):
                    if metric in COMPARED:
                        pairs = _pairs(traces, policy, baseline, m, baselines or everywhere)
                        about = {"policy": policy, "baseline": baseline, "metric": metric}
                        rows.append(named | about | _reductions(pairs))
    columns = ["cluster", "load", "estimate_error", "policy", "baseline", "metric", *_reductions([])]
    return pd.DataFrame(rows, columns=columns)


_Pair = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def _pairs(
    traces: list[dict[str, np.ndarray[Any, Any]]], policy: str, baseline: str, metric: int, baselines: tuple[str, ...]
) -> list[_Pair]:
    """Return per trace the policy's and the baseline's values by seed, ``nan`` where one of them is missing."""
    pairs = []
    for policies in traces:
        columns = {p: policies[p][:, metric] for p in (policy, *baselines) if p in policies}
        means = {p: _mean(column) for p, column in columns.items() if p != policy}
        means = {p: mean for p, mean in means.items() if p in baselines and not math.isnan(mean)}
        against = min(means, key=lambda p: means[p], default="") if baseline == BEST else baseline
        if policy in columns and against in columns:
            own, other = columns[policy], columns[against]
            gone = np.isnan(own) | np.isnan(other)
            if not gone.all():
                pairs.append((np.where(gone, math.nan, own), np.where(gone, math.nan, other)))
    return pairs


def _reductions(pairs: list[_Pair]) -> dict[str, Any]:
    row: dict[str, Any] = {"traces": len(pairs)}
    for name in ("mean_of_reductions", "reduction_of_means"):
        row |= {f"{name}_{part}": math.nan for part in ("percent", "low", "high")}
    own = np.array([_mean(o) for o, _ in pairs])
    other = np.array([_mean(b) for _, b in pairs])
    if not pairs or not np.isfinite(own).all() or not np.isfinite(other).all() or not (other > 0).all():
        return row
    row["mean_of_reductions_percent"] = _short(float(100 * (1 - own / other).mean()))
    row["reduction_of_means_percent"] = _short(float(100 * (1 - own.sum() / other.sum())))
    there = ~np.isnan(pairs[0][0])
    if there.sum() > 1 and all((np.isnan(o) != there).all() for o, _ in pairs):
        weights, counts = _resamples(int(there.sum()))
        owns = np.array([o[there] for o, _ in pairs]) @ weights.T
        others = np.array([b[there] for _, b in pairs]) @ weights.T
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = {
                "mean_of_reductions": 100 * (1 - owns / others).mean(axis=0),
                "reduction_of_means": 100 * (1 - owns.sum(axis=0) / others.sum(axis=0)),
            }
        for name, values in drawn.items():
            if np.isfinite(values).all():
                low, high = _interval(values[:, None], counts)
                row |= {f"{name}_low": _short(float(low[0])), f"{name}_high": _short(float(high[0]))}
    return row


def mean_and_interval(sample: np.ndarray[Any, np.dtype[np.floating[Any]]]) -> tuple[float, float, float]:
    """Return the mean and the 95% percentile bootstrap interval of it; the interval is nan below two values.

    >>> mean_and_interval(np.array([1.0, 2.0, 3.0]))
    (2.0, 1.0, 3.0)
    """
    row = {"mean": math.nan, "low": math.nan, "high": math.nan}
    intervals = _Intervals()
    intervals.add(np.asarray(sample, float), row, ("mean", "low", "high"))
    intervals.fill()
    return row["mean"], row["low"], row["high"]


class _Intervals:
    """Samples whose means and intervals are wanted in rows; made together, since that is faster in a large grid."""

    _AT_ONCE = 64

    def __init__(self) -> None:
        self._wanted: dict[int, list[tuple[np.ndarray[Any, Any], dict[str, Any], str, str]]] = {}

    def add(self, sample: np.ndarray[Any, Any], row: dict[str, Any], names: tuple[str, str, str]) -> float:
        """Put the mean into the row, and later the interval unless there is none; return the mean."""
        if not len(sample):
            return math.nan
        mean = float(sample.mean())
        row[names[0]] = _short(mean)
        if len(sample) > 1 and math.isfinite(mean):
            self._wanted.setdefault(len(sample), []).append((sample, row, names[1], names[2]))
        return mean

    def fill(self) -> None:
        """Put the intervals into their rows."""
        for n, wanted in self._wanted.items():
            weights, counts = _resamples(n)
            for start in range(0, len(wanted), self._AT_ONCE):
                part = wanted[start : start + self._AT_ONCE]
                lows, highs = _interval(weights @ np.array([sample for sample, *_ in part]).T, counts)
                for (_, row, low, high), a, b in zip(part, lows, highs, strict=True):
                    row[low], row[high] = _short(float(a)), _short(float(b))
        self._wanted.clear()


_FEW = 7
"""Up to so many values have few distinct resamples: 1716."""


@lru_cache(maxsize=64)
def _resamples(n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return resamples of n values, as weights that add up to 1, and how often each was drawn."""
    picks = np.random.default_rng(BOOTSTRAP_SEED).integers(0, n, size=(RESAMPLES, n))
    often = np.zeros((RESAMPLES, n), np.int64)
    np.add.at(often, (np.arange(RESAMPLES)[:, None], picks), 1)
    if n > _FEW:
        return often / n, np.ones(RESAMPLES, np.int64)
    distinct, counts = np.unique(often, axis=0, return_counts=True)
    return distinct / n, counts


def _interval(values: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Return the 2.5% and the 97.5% quantile of each column, row i counting ``counts[i]`` times, as numpy does it."""
    total = int(counts.sum())
    if len(counts) == total:
        return list(np.quantile(values, (0.025, 0.975), axis=0))
    order = np.argsort(values, axis=0, kind="stable")
    upto = np.cumsum(counts[order], axis=0)
    ascending = np.take_along_axis(values, order, axis=0)
    found = []
    for share in (0.025, 0.975):
        at = share * (total - 1)
        # The k-th of all values, from 0, is the first row with more than k values up to it.
        below, above = (
            np.take_along_axis(ascending, (upto > k).argmax(axis=0)[None, :], axis=0)[0]
            for k in (int(at), math.ceil(at))
        )
        found.append(below + (above - below) * (at - int(at)))
    return found


def _short(value: float) -> float:
    # Ten digits: the last bits of a sum may depend on the machine's vector width.
    return float(f"{value:.10g}")


def _write(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
