"""Results made by hand: the tables of a study without its runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hexopt.report.data import Results

Key = tuple[str, str, str, str, str, int]


def made(
    values: Mapping[Key, tuple[float, float]],
    summary: Sequence[Mapping[str, Any]] = (),
    baselines: tuple[str, ...] = (),
    failures: Sequence[Mapping[str, Any]] = (),
    record: Mapping[str, Any] | None = None,
) -> Results:
    """Return results with the given Req95 and Req99 by (cluster, trace, load, error, policy, seed)."""
    names = ("cluster", "trace", "load", "estimate_error", "policy", "seed")
    runs = pd.DataFrame([dict(zip(names, k, strict=True)) | {"req95": a, "req99": b} for k, (a, b) in values.items()])
    runs = runs.assign(policy_name=runs["policy"], folder="nowhere")
    return Results(
        folder=Path("nowhere"),
        name="made",
        runs=runs,
        summary=pd.DataFrame(list(summary)),
        timing=pd.DataFrame(columns=[*names]),
        workflows=pd.DataFrame(columns=[*names]),
        instances=pd.DataFrame(columns=[*names]),
        baselines=baselines,
        failures=pd.DataFrame(list(failures)),
        record=record or {},
    )


def grid(
    policies: Sequence[str] = ("fcfs", "hexagent"),
    loads: Sequence[str] = ("",),
    errors: Sequence[str] = ("",),
    seeds: int = 1,
    clusters: Sequence[str] = ("tiny",),
    traces: Sequence[str] = ("",),
) -> dict[Key, tuple[float, float]]:
    """Return values for a whole grid: Req99 is 2 for the first policy, 3 for the next, and so on; Req95 one less."""
    cells = itertools.product(clusters, traces, loads, errors, enumerate(policies), range(seeds))
    return {(c, t, w, e, p, s): (1.0 + i, 2.0 + i) for c, t, w, e, (i, p), s in cells}


def row(policy: str, metric: str, mean: float, best: str, best_mean: float, **changes: Any) -> dict[str, Any]:
    """Return a row of ``summary.csv``: five pairs with an interval of 0.1 on both sides of the difference."""
    diff = mean - best_mean if math.isfinite(mean - best_mean) else math.nan
    return {
        "cluster": "tiny",
        "trace": "",
        "load": "",
        "estimate_error": "",
        "policy": policy,
        "metric": metric,
        "runs": 5,
        "mean": mean,
        "ci_low": mean - 0.2,
        "ci_high": mean + 0.2,
        "best": best,
        "best_mean": best_mean,
        "pairs": 5,
        "diff_mean": diff,
        "diff_low": diff - 0.1,
        "diff_high": diff + 0.1,
        "diff_percent": 100 * diff / best_mean if math.isfinite(best_mean) else math.nan,
        **changes,
    }
