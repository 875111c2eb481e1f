"""Means, intervals and paired comparisons over seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from hexopt.experiments.aggregate import mean_and_interval, summarise

SETTING = {"cluster": "c", "trace": "t", "load": None, "estimate_error": 0.0}


def table(**policies: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {**SETTING, "policy": policy, "seed": seed, "status": "ok", "req99": value}
            for policy, values in policies.items()
            for seed, value in enumerate(values)
        ]
    )


def test_the_interval_holds_the_mean_and_is_the_same_each_time() -> None:
    sample = np.array([1.0, 2.0, 4.0, 3.0, 2.5])
    mean, low, high = mean_and_interval(sample)
    assert mean == 2.5
    assert low < mean < high
    assert mean_and_interval(sample) == (mean, low, high)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        _, low, high = mean_and_interval(rng.normal(5, 1, 20))
        hits += low <= 5 <= high
    assert 0.86 <= hits / 200 <= 0.99


def test_one_seed_has_no_interval_and_an_unfinished_run_an_infinite_mean() -> None:
    assert mean_and_interval(np.array([3.0]))[0] == 3
    assert math.isnan(mean_and_interval(np.array([3.0]))[1])
    mean, low, _ = mean_and_interval(np.array([3.0, math.inf]))
    assert mean == math.inf
    assert math.isnan(low)


def test_differences_are_paired_by_seed() -> None:
    # Seeds differ a lot, policies always by 1: only pairing sees it without doubt.
    rows = summarise(table(base=[10, 20, 30], ours=[9, 19, 29])).set_index("policy")
    assert rows.loc["ours", "best"] == "base"
    assert rows.loc["ours", ["diff_mean", "diff_low", "diff_high"]].tolist() == [-1, -1, -1]
    assert rows.loc["ours", "diff_percent"] == pytest.approx(-5)
    assert rows.loc["base", "diff_mean"] == 1


def test_the_best_of_the_named_baselines_is_compared_with() -> None:
    runs = table(a=[4, 4], b=[3, 3], ours=[2, 2], other=[1, 1])
    rows = summarise(runs, ("a", "b")).set_index("policy")
    assert rows.loc["ours", "best"] == "b"
    assert rows.loc["b", "best"] == "a"


def test_only_seeds_that_both_finished_are_paired() -> None:
    runs = table(base=[1, 2, 3], ours=[2, 3, 4])
    runs.loc[5, "status"] = "failed"
    row = summarise(runs).set_index("policy").loc["ours"]
    assert row["pairs"] == 2
    assert row["runs"] == 2


def test_unfinished_on_both_sides_is_no_warning_and_no_number() -> None:
    row = summarise(table(base=[math.inf, 1], ours=[math.inf, 2])).set_index("policy").loc["ours"]
    assert row["mean"] == math.inf
    assert math.isnan(row["diff_mean"])
