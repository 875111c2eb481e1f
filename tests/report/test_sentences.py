"""Sentences claim what the table shows and no more."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from hexopt.report.sentences import (
    difference,
    failure_sentences,
    headline_sentences,
    loss_sentences,
    verdict,
    winners,
)
from tests.report.made import grid, made, row


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "better"),
        ({"diff_low": -1.2, "diff_high": 0.0}, "open"),
        ({"diff_low": 0.3, "diff_high": 0.5}, "worse"),
        ({"diff_low": math.nan, "diff_high": math.nan, "pairs": 1}, "one seed"),
        ({"best": "", "pairs": 0}, "no pair"),
        ({"best": math.nan}, "no pair"),
        ({"mean": math.inf}, "worse"),
        ({"best_mean": math.inf}, "better"),
        ({"mean": math.inf, "best_mean": math.inf}, "open"),
    ],
)
def test_the_verdict_rests_on_the_interval(changes: dict[str, Any], expected: str) -> None:
    assert verdict(row("mine", "req99", 3.0, "fcfs", 4.0) | changes) == expected


def test_a_difference_is_told_in_percent_with_its_interval() -> None:
    assert difference(row("mine", "req99", 3.0, "fcfs", 4.0)) == "-25.0% [-27.5%, -22.5%]"
    even = row("mine", "req99", 4.0, "fcfs", 4.0)
    assert difference(even) == "+0.0% [-2.5%, +2.5%]"
    assert difference(even | {"diff_low": math.nan, "diff_high": math.nan}) == "+0.0%"
    assert difference(row("mine", "req99", math.inf, "fcfs", 4.0)) == "unfinished workflows here, finished there"


def test_a_win_a_loss_and_no_difference_are_told_apart() -> None:
    win = made(grid(), [row("hexagent", "req99", 3.0, "fcfs", 4.0)], ("fcfs",))
    assert headline_sentences(win) == [
        "**hexagent, Req99**: lower than the best baseline, fcfs: -25.0% [-27.5%, -22.5%]."
    ]
    loss = made(grid(), [row("hexagent", "req99", 5.0, "fcfs", 4.0)], ("fcfs",))
    assert headline_sentences(loss) == [
        "**hexagent, Req99**: higher than the best baseline, fcfs: +25.0% [+22.5%, +27.5%]."
    ]
    even = made(grid(), [row("hexagent", "req99", 3.96, "fcfs", 4.0)], ("fcfs",))
    assert headline_sentences(even) == [
        "**hexagent, Req99**: no difference from the best baseline, fcfs, is shown: -1.0% [-3.5%, +1.5%]."
    ]


def test_over_several_settings_wins_losses_and_open_ones_are_counted() -> None:
    rows = [
        row("hexagent", "req99", mean, "fcfs", 4.0, load=load)
        for load, mean in (("0.5", 4.0), ("0.7", 3.0), ("0.9", 5.0), ("1.1", 3.0))
    ]
    data = made(grid(loads=("0.5", "0.7", "0.9", "1.1")), rows, ("fcfs",))
    assert headline_sentences(data) == [
        "**hexagent, Req99**: lower than the best baseline in 2 of 4 settings; higher than the best baseline in 1 of 4 "
        "settings; no difference shown (the interval includes zero) in 1 of 4 settings; the differences lie between "
        "-25.0% and +25.0%, on average -6.2%."
    ]


def test_losses_are_listed_worst_first_and_open_ones_only_counted() -> None:
    data = made(
        grid(),
        [
            row("hexagent", "req99", 3.0, "fcfs", 4.0),
            row("hexagent", "latency_mean_s", 4.4, "fcfs", 4.0),
            row("hexagent", "latency_p99_s", 8.0, "fcfs", 4.0),
            row("hexagent", "ttft_mean_s", 4.05, "fcfs", 4.0),
            row("fcfs", "req99", 9.0, "hexagent", 4.0),
        ],
        ("fcfs",),
    )
    assert loss_sentences(data) == [
        "hexagent loses on p99 latency (tiny) to fcfs: +100.0% [+97.5%, +102.5%].",
        "hexagent loses on mean latency (tiny) to fcfs: +10.0% [+7.5%, +12.5%].",
        "1 of 4 comparisons show no difference either way.",
    ]
    assert loss_sentences(data, most=1)[1] == "1 further losses are smaller; summary.csv has them all."


def test_no_loss_is_said_to_be_none_that_is_shown() -> None:
    data = made(grid(), [row("hexagent", "req99", 3.0, "fcfs", 4.0)], ("fcfs",))
    assert loss_sentences(data)[0] == "No loss to a best baseline is shown on any of the metrics compared."


def test_one_seed_proves_nothing() -> None:
    lone = row("hexagent", "req99", 3.0, "fcfs", 4.0, pairs=1, diff_low=math.nan, diff_high=math.nan)
    data = made(grid(), [lone], ("fcfs",))
    assert headline_sentences(data) == [
        "**hexagent, Req99**: one pair of seeds against the best baseline, fcfs, which says nothing about chance: "
        "-25.0%."
    ]
    assert loss_sentences(data)[-1] == "1 of 1 comparisons show no difference either way."


def test_without_baselines_or_for_one_run_nothing_is_put_forward() -> None:
    assert "no baselines" in headline_sentences(made(grid(), [row("a", "req99", 1.0, "b", 2.0)]))[0]
    assert "nothing is compared" in headline_sentences(made(grid()))[0]
    assert loss_sentences(made(grid())) == []
    every = made(grid(), [row("fcfs", "req99", 1.0, "hexagent", 2.0)], ("fcfs", "hexagent"))
    assert "nothing is put forward" in headline_sentences(every)[0]


def test_who_wins_where() -> None:
    values = grid(loads=("0.5", "0.9"))
    values["tiny", "", "0.9", "", "fcfs", 0] = (4.0, math.inf)
    table = winners(made(values), ("req99",))
    assert table.iloc[0].tolist()[:5] == ["tiny, load 0.5", "Req99", "fcfs", 2.0, "hexagent"]
    assert table["difference %"].iloc[0] == pytest.approx(100 * (2 / 3 - 1))
    assert table.iloc[1].tolist()[2:6] == ["hexagent", 3.0, "fcfs", math.inf]
    assert math.isnan(table["difference %"].iloc[1])


def test_failures_are_named() -> None:
    failed = {"cluster": "tiny", "trace": "", "load": "0.9", "estimate_error": "0.1", "policy": "x", "seed": 3}
    data = made(grid(), failures=[failed | {"error": "x: bad\nfound"}])
    assert failure_sentences(data) == ["Failed: tiny, load 0.9, estimate error 10%, x, seed 3: x: bad found"]
    runs = pd.DataFrame(data.runs).assign(workflows=5, finished_workflows=[5, 2])
    from dataclasses import replace

    told = failure_sentences(replace(data, runs=runs))[1]
    assert "hexagent, seed 0: 3 of 5 workflows did not finish" in told
    assert failure_sentences(made(grid())) == ["No run failed, and every workflow of every run finished."]
