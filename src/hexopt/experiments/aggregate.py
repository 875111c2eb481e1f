"""One table of all runs, and per policy the mean over seeds with its interval and its distance to the best baseline.

``runs.csv`` has a row per run, ``summary.csv`` a row per (cluster, policy, metric), ``timing.csv`` the wall-clock
figures, which alone differ from one execution to the next. ``experiment.json`` says what was run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hexopt
from hexopt.experiments.grid import Grid

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


def write_tables(grid: Grid, folder: Path, failures: Mapping[str, str]) -> None:
    """Write ``runs.csv``, ``summary.csv``, ``timing.csv`` and ``experiment.json`` from the runs' folders."""
    runs = runs_table(grid, folder, failures)
    _write(folder / "runs.csv", runs.to_csv(index=False))
    _write(folder / "summary.csv", summarise(runs, grid.config.baselines).to_csv(index=False))
    _write(folder / "timing.csv", timing_table(grid, folder, failures).to_csv(index=False))
    config = grid.config
    record = {
        "hexopt": hexopt.__version__,
        "experiment": config.model_dump(mode="json"),
        "trace_sha256": grid.trace_sha256,
        "workflows": grid.workflows,
        "calls": grid.calls,
        "policies": [policy.title for policy in config.policies],
        "clusters": list(dict.fromkeys(spec.cluster for spec in grid.runs)),
        "runs": len(grid.runs),
        "failed": len(failures),
    }
    _write(folder / "experiment.json", json.dumps(record, indent=2) + "\n")


def runs_table(grid: Grid, folder: Path, failures: Mapping[str, str]) -> pd.DataFrame:
    """Return one tidy row per run, in grid order; a failed run has its error and no figures."""
    rows = []
    for spec in grid.runs:
        row: dict[str, Any] = {
            "cluster": spec.cluster,
            "policy": spec.policy,
            "policy_name": spec.policy_name,
            "options": json.dumps(dict(spec.options), sort_keys=True),
            "seed": spec.seed,
            "status": "failed" if spec.key in failures else "ok",
            "error": failures.get(spec.key, ""),
            "key": spec.key,
        }
        if spec.key not in failures:
            summary = json.loads((folder / "runs" / spec.key / "summary.json").read_text(encoding="utf-8"))
            # JSON has no infinity: a ratio that is not there is one of a workflow that did not finish.
            summary |= {k: math.inf for k in ("req95", "req99", "req_max") if k in summary and summary[k] is None}
            row |= {k: v for k, v in summary.items() if k not in row and isinstance(v, bool | int | float | None)}
        rows.append(row)
    return pd.DataFrame(rows)


def timing_table(grid: Grid, folder: Path, failures: Mapping[str, str]) -> pd.DataFrame:
    """Return the wall-clock figures of each finished run: planning time, and what the run itself took."""
    rows = []
    for spec in grid.runs:
        if spec.key in failures:
            continue
        timing = json.loads((folder / "runs" / spec.key / "timing.json").read_text(encoding="utf-8"))
        rows.append({"cluster": spec.cluster, "policy": spec.policy, "seed": spec.seed} | timing)
    return pd.DataFrame(rows, columns=None if rows else ["cluster", "policy", "seed"])


def summarise(runs: pd.DataFrame, baselines: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Return mean and 95% bootstrap interval over seeds per (cluster, policy, metric), and the paired comparison.

    ``best`` is the policy with the lowest mean among ``baselines`` (all policies if ``None``) other than the
    row's own. ``diff_*`` is the mean of the per-seed differences to it, over seeds that both finished, with its
    interval; ``diff_percent`` is relative to the mean of ``best``. Negative is better than the best baseline.
    """
    rows = []
    for cluster in dict.fromkeys(runs["cluster"]):
        part = runs[(runs["cluster"] == cluster) & (runs["status"] == "ok")]
        policies = list(dict.fromkeys(part["policy"]))
        for metric in (*COMPARED, *DESCRIBED):
            if metric not in part:
                continue
            values = {
                policy: part[part["policy"] == policy].set_index("seed")[metric].astype(float).dropna()
                for policy in policies
            }
            for policy in policies:
                rows.append(_row(cluster, policy, metric, values, baselines or tuple(policies)))
    return pd.DataFrame(rows, columns=list(_row("", "", "", {"": pd.Series(dtype=float)}, ())))


def _row(
    cluster: str, policy: str, metric: str, values: Mapping[str, pd.Series[float]], baselines: tuple[str, ...]
) -> dict[str, Any]:
    own = values[policy]
    mean, low, high = mean_and_interval(own.to_numpy())
    row: dict[str, Any] = {
        "cluster": cluster,
        "policy": policy,
        "metric": metric,
        "runs": len(own),
        "mean": mean,
        "ci_low": low,
        "ci_high": high,
        "best": "",
        "best_mean": math.nan,
        "pairs": 0,
        "diff_mean": math.nan,
        "diff_low": math.nan,
        "diff_high": math.nan,
        "diff_percent": math.nan,
    }
    others = {p: float(values[p].mean()) for p in baselines if p != policy and p in values and len(values[p])}
    if metric in COMPARED and others:
        best = min(others, key=lambda p: others[p])
        seeds = own.index.intersection(values[best].index)
        if len(seeds):
            with np.errstate(invalid="ignore"):  # both unfinished: inf - inf, said as nan
                pairs = own.loc[seeds].to_numpy() - values[best].loc[seeds].to_numpy()
            diff, diff_low, diff_high = mean_and_interval(pairs)
            best_mean = float(values[best].loc[seeds].mean())
            percent = 100 * diff / best_mean if best_mean and math.isfinite(best_mean) else math.nan
            row |= {
                "best": best,
                "best_mean": _short(others[best]),
                "pairs": len(seeds),
                "diff_mean": diff,
                "diff_low": diff_low,
                "diff_high": diff_high,
                "diff_percent": _short(percent),
            }
    return row


def mean_and_interval(sample: np.ndarray[Any, np.dtype[np.floating[Any]]]) -> tuple[float, float, float]:
    """Return the mean and the 95% percentile bootstrap interval of it; the interval is nan below two values.

    >>> mean_and_interval(np.array([1.0, 2.0, 3.0]))
    (2.0, 1.0, 3.0)
    """
    n = len(sample)
    if n == 0:
        return math.nan, math.nan, math.nan
    mean = float(sample.mean())
    if n < 2 or not math.isfinite(mean):
        return _short(mean), math.nan, math.nan
    picks = np.random.default_rng(BOOTSTRAP_SEED).integers(0, n, size=(RESAMPLES, n))
    low, high = np.quantile(sample[picks].mean(axis=1), (0.025, 0.975))
    return _short(mean), _short(float(low)), _short(float(high))


def _short(value: float) -> float:
    # Ten digits: the last bits of a sum may depend on the machine's vector width.
    return float(f"{value:.10g}")


def _write(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
