"""What the table of a study says, in sentences that are computed from it and claim no more than it shows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, Literal

import pandas as pd

from hexopt.report.data import AXES, Results, Setting

METRICS = {
    "req95": "Req95",
    "req99": "Req99",
    "req_max": "the largest ratio",
    "ratio_mean": "the mean ratio",
    "latency_mean_s": "mean latency",
    "latency_p50_s": "median latency",
    "latency_p95_s": "p95 latency",
    "latency_p99_s": "p99 latency",
    "ttft_mean_s": "mean TTFT",
    "ttft_p99_s": "p99 TTFT",
    "tpot_mean_ms": "mean TPOT",
    "makespan_s": "makespan",
}
"""Metrics of which less is better, in words."""

HEADLINE = ("req95", "req99")

Verdict = Literal["better", "worse", "open", "one seed", "no pair"]


def verdict(row: Mapping[Hashable, Any]) -> Verdict:
    """Judge a policy against its best baseline by a row of ``summary.csv``.

    ``open`` is a 95% interval of the paired difference that includes zero: no difference is shown. With one pair of
    seeds there is no interval and no verdict. Where one of the two left workflows unfinished there is no difference
    to take, and the one that finished is better.
    """
    if not row["best"] or row["best"] != row["best"] or not row["pairs"]:
        return "no pair"
    own, best = float(row["mean"]), float(row["best_mean"])
    if math.isinf(own) or math.isinf(best):
        return "open" if own == best else "worse" if math.isinf(own) else "better"
    low, high = float(row["diff_low"]), float(row["diff_high"])
    if math.isnan(low) or math.isnan(high):
        return "one seed"
    return "better" if high < 0 else "worse" if low > 0 else "open"


def difference(row: Mapping[Hashable, Any]) -> str:
    """Return the paired difference of a row and its 95% interval, in percent of the best baseline's mean."""
    if math.isinf(float(row["mean"])) or math.isinf(float(row["best_mean"])):
        own = "unfinished" if math.isinf(float(row["mean"])) else "finished"
        other = "unfinished" if math.isinf(float(row["best_mean"])) else "finished"
        return f"{own} workflows here, {other} there" if own != other else "unfinished workflows on both sides"
    mean, percent = float(row["diff_mean"]), float(row["diff_percent"])
    if math.isnan(float(row["diff_low"])):
        return f"{percent:+.1f}%"
    # The mean of the best over the paired seeds, which the percentage refers to, is not in the table.
    scale = percent / mean if mean else 100 / float(row["best_mean"])
    return f"{percent:+.1f}% [{scale * row['diff_low']:+.1f}%, {scale * row['diff_high']:+.1f}%]"


def ours(data: Results) -> list[str]:
    """Return the policies that are no baselines; none if the study names no baselines."""
    return [policy for policy in data.policies if policy not in data.baselines] if data.baselines else []


def setting_of(row: Mapping[Hashable, Any]) -> Setting:
    """Return the setting of a row of a table."""
    return Setting(*(str(row.get(axis, "")) for axis in AXES))


def rows_of(data: Results, metric: str, policy: str | None = None) -> list[dict[Hashable, Any]]:
    """Return the rows of ``summary.csv`` of a metric, in the study's order."""
    if data.summary.empty:
        return []
    keep = data.summary["metric"] == metric
    if policy is not None:
        keep &= data.summary["policy"] == policy
    return data.summary[keep].to_dict("records")


def headline_sentences(data: Results) -> list[str]:
    """Say, for each policy that is no baseline, in how many settings it beats the best baseline, and by how much."""
    if data.summary.empty:
        return ["This is one run: nothing is compared."]
    if not data.baselines:
        return ["The study names no baselines: each policy is compared with the best of all others, see the tables."]
    sentences = []
    for policy in ours(data):
        for metric in HEADLINE:
            rows = rows_of(data, metric, policy)
            if rows:
                sentences.append(f"**{policy}, {METRICS[metric]}**: {_tally(rows)}")
    return sentences or ["Every policy of the study is one of its baselines: nothing is put forward."]


def _tally(rows: list[dict[Hashable, Any]]) -> str:
    kinds = [verdict(row) for row in rows]
    if len(rows) == 1:
        return f"{_ONE[kinds[0]].format(best=rows[0]['best'])}{_by(rows, kinds)}."
    parts = []
    for kind, words in _MANY.items():
        n = kinds.count(kind)
        if n:
            parts.append(f"{words} in {n} of {len(rows)} settings")
    return "; ".join(parts) + _by(rows, kinds) + "."


_ONE: dict[Verdict, str] = {
    "better": "lower than the best baseline, {best}",
    "worse": "higher than the best baseline, {best}",
    "open": "no difference from the best baseline, {best}, is shown",
    "one seed": "one pair of seeds against the best baseline, {best}, which says nothing about chance",
    "no pair": "no baseline has a run to compare with",
}
_MANY: dict[Verdict, str] = {
    "better": "lower than the best baseline",
    "worse": "higher than the best baseline",
    "open": "no difference shown (the interval includes zero)",
    "one seed": "compared on one pair of seeds only, which says nothing about chance,",
    "no pair": "without a baseline to compare with",
}


def _by(rows: list[dict[Hashable, Any]], kinds: list[Verdict]) -> str:
    told = [row for row, kind in zip(rows, kinds, strict=True) if kind != "no pair"]
    if len(rows) == 1:
        return f": {difference(told[0])}" if told else ""
    percents = [float(row["diff_percent"]) for row in told if math.isfinite(float(row["diff_percent"]))]
    if not percents:
        return ""
    return (
        f"; the differences lie between {min(percents):+.1f}% and {max(percents):+.1f}%, "
        f"on average {sum(percents) / len(percents):+.1f}%"
    )


def loss_sentences(data: Results, most: int = 40) -> list[str]:
    """Say where a policy that is no baseline loses to the best baseline, metric by metric, worst first.

    The best baseline of a metric is the best at that metric, so one policy is held against several.
    """
    losses, undecided, counted = [], 0, 0
    for policy in ours(data):
        for metric, name in METRICS.items():
            for row in rows_of(data, metric, policy):
                kind = verdict(row)
                counted += kind != "no pair"
                undecided += kind in ("open", "one seed")
                if kind == "worse":
                    percent = float(row["diff_percent"])
                    where = setting_of(row).title
                    losses.append(
                        (
                            -(percent if math.isfinite(percent) else math.inf),
                            f"{policy} loses on {name} ({where}) to {row['best']}: {difference(row)}.",
                        )
                    )
    if not counted:
        return []
    losses.sort()
    sentences = [text for _, text in losses[:most]]
    if len(losses) > most:
        sentences.append(f"{len(losses) - most} further losses are smaller; summary.csv has them all.")
    if not losses:
        sentences.append("No loss to a best baseline is shown on any of the metrics compared.")
    sentences.append(f"{undecided} of {counted} comparisons show no difference either way.")
    return sentences


def winners(data: Results, metrics: tuple[str, ...] = HEADLINE) -> pd.DataFrame:
    """Return, per setting and metric, who has the lowest mean, who comes next, and the distance in percent."""
    rows = []
    for setting in data.settings:
        part = data.of_setting(setting)
        for metric in metrics:
            means = {p: part.mean(p, metric) for p in part.policies}
            order = sorted((p for p in means if not math.isnan(means[p])), key=lambda p: means[p])
            if not order or math.isinf(means[order[0]]):
                continue
            first, second = order[0], order[1] if len(order) > 1 else ""
            ahead = 100 * (means[first] / means[second] - 1) if second and math.isfinite(means[second]) else math.nan
            rows.append(
                [setting.title, METRICS[metric], first, means[first], second, means.get(second, math.nan), ahead]
            )
    columns = ["setting", "metric", "lowest mean", "value", "next", "its value", "difference %"]
    return pd.DataFrame(rows, columns=columns)


def failure_sentences(data: Results) -> list[str]:
    """Say which runs failed and why, and which left workflows unfinished."""
    sentences = [
        f"Failed: {setting_of(row).title}, {row['policy']}, seed {row['seed']}: {' '.join(str(row['error']).split())}"
        for row in data.failures.to_dict("records")
    ]
    runs = data.runs
    if {"finished_workflows", "workflows"} <= set(runs.columns):
        for row in runs[runs["finished_workflows"] < runs["workflows"]].to_dict("records"):
            left = int(row["workflows"]) - int(row["finished_workflows"])
            sentences.append(
                f"Unfinished: {setting_of(row).title}, {row['policy']}, seed {row['seed']}: {left} of "
                f"{int(row['workflows'])} workflows did not finish; they count as infinitely late."
            )
    return sentences or ["No run failed, and every workflow of every run finished."]
