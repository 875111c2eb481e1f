"""Means, intervals and paired comparisons over seeds."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest

from hexopt.experiments.aggregate import BEST, BOOTSTRAP_SEED, RESAMPLES, across_traces, mean_and_interval, summarise

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


@pytest.mark.parametrize("n", [2, 5, 7, 8, 30])
def test_the_interval_is_that_of_ten_thousand_resamples(n: int) -> None:
    sample = np.random.default_rng(n).normal(5, 1, n)
    picks = np.random.default_rng(BOOTSTRAP_SEED).integers(0, n, size=(RESAMPLES, n))
    low, high = np.quantile(sample[picks].mean(axis=1), (0.025, 0.975))
    assert mean_and_interval(sample) == pytest.approx((sample.mean(), low, high), rel=1e-9)


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


def grid(**settings: pd.DataFrame) -> pd.DataFrame:
    """Several tables as one, each under its name as trace."""
    return pd.concat([runs.assign(trace=name) for name, runs in settings.items()], ignore_index=True)


def test_policies_are_compared_within_their_setting() -> None:
    runs = grid(easy=table(a=[1, 1], b=[2, 2]), hard=table(a=[20, 20], b=[10, 10]))
    rows = summarise(runs).set_index(["trace", "policy"])
    assert rows.loc[("easy", "a"), "best"] == "b"
    assert rows.loc[("easy", "a"), "diff_mean"] == -1
    assert rows.loc[("hard", "a"), "diff_mean"] == 10
    loads = pd.concat([table(a=[1, 2]).assign(load=0.5), table(a=[3, 4]).assign(load=0.8)])
    rows = summarise(loads)
    assert rows["load"].tolist() == [0.5, 0.8]
    assert rows["mean"].tolist() == [1.5, 3.5]
    errors = pd.concat([table(a=[1, 2]), table(a=[3, 4]).assign(estimate_error=0.3)])
    assert summarise(errors)["mean"].tolist() == [1.5, 3.5]


def test_both_averages_over_traces() -> None:
    # Reductions of 50% and 20%: 35% if every trace counts alike; (2 + 100) -> (1 + 80) is 20.6% if seconds count.
    runs = grid(small=table(base=[2, 2], ours=[1, 1]), large=table(base=[90, 110], ours=[72, 88]))
    row = across_traces(runs, ("base",)).set_index(["policy", "baseline"]).loc[("ours", "base")]
    assert row["traces"] == 2
    assert row["mean_of_reductions_percent"] == pytest.approx(35)
    assert row["reduction_of_means_percent"] == pytest.approx(100 * (1 - 81 / 102))
    # Whichever seeds are drawn, each trace's reduction is the same, and so is their mean; not so the other one:
    # only 90, 90 or 110, 110 are the extremes, with 1 - 73/92 and 1 - 89/112.
    assert row["mean_of_reductions_low"] == row["mean_of_reductions_high"] == pytest.approx(35)
    assert row["reduction_of_means_low"] == pytest.approx(100 * (1 - 89 / 112))
    assert row["reduction_of_means_high"] == pytest.approx(100 * (1 - 73 / 92))


def test_the_best_baseline_may_be_another_on_each_trace() -> None:
    runs = grid(one=table(a=[4, 4], b=[8, 8], ours=[2, 2]), two=table(a=[8, 8], b=[4, 4], ours=[1, 1]))
    rows = across_traces(runs, ("a", "b")).set_index(["policy", "baseline"])
    assert rows.loc[("ours", BEST), "mean_of_reductions_percent"] == pytest.approx((50 + 75) / 2)
    assert rows.loc[("ours", "a"), "mean_of_reductions_percent"] == pytest.approx((50 + 87.5) / 2)
    assert rows.loc[("a", BEST), "mean_of_reductions_percent"] == pytest.approx((50 - 100) / 2), "against b, not itself"


def test_a_trace_that_lacks_a_policy_does_not_count_and_infinity_is_no_average() -> None:
    runs = grid(one=table(base=[4, 4], ours=[2, 2]), two=table(base=[4, 4]))
    row = across_traces(runs, ("base",)).set_index(["policy", "baseline"]).loc[("ours", "base")]
    assert (row["traces"], row["mean_of_reductions_percent"]) == (1, pytest.approx(50))
    runs = grid(one=table(base=[4, 4], ours=[2, 2]), two=table(base=[4, 4], ours=[1, math.inf]))
    row = across_traces(runs, ("base",)).set_index(["policy", "baseline"]).loc[("ours", "base")]
    assert row["traces"] == 2
    assert math.isnan(row["mean_of_reductions_percent"])
    runs.loc[len(runs) - 1, "status"] = "failed"
    row = across_traces(runs, ("base",)).set_index(["policy", "baseline"]).loc[("ours", "base")]
    assert row["mean_of_reductions_percent"] == pytest.approx((50 + 75) / 2)
    assert math.isnan(row["mean_of_reductions_low"]), "traces differ in the seeds that finished"


def test_nothing_finished_gives_empty_tables() -> None:
    runs = table(a=[1]).assign(status="failed")
    assert summarise(runs).empty
    assert across_traces(runs).empty
    assert {"cluster", "trace", "load", "estimate_error", "policy", "metric"} <= set(summarise(runs))


def test_a_large_grid_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    runs = pd.DataFrame(
        [
            {"cluster": "c", "trace": f"t{t}", "load": load, "estimate_error": 0.0, "policy": f"p{p}", "seed": seed,
             "status": "ok", **dict(zip(("req95", "req99", "latency_mean_s"), rng.random(3), strict=True))}
            for t in range(5) for load in (0.5, 0.6, 0.7, 0.8) for p in range(8) for seed in range(10)
        ]
    )  # fmt: skip
    started = time.process_time()
    assert len(summarise(runs)) == 5 * 4 * 8 * 3
    across_traces(runs, ("p0", "p1", "p2"))
    assert time.process_time() - started < 20
