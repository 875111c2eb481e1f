"""Tables fit 100 columns and say what they show."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hexopt.errors import ConfigError
from hexopt.report.data import Results, load_results
from hexopt.report.tables import comparison_lines, summary_markdown, summary_plain


def test_the_table_has_a_row_per_policy_and_fits(experiment: Results, one_run: Results) -> None:
    for data in (experiment, one_run):
        text = summary_plain(data)
        assert max(map(len, text.splitlines())) <= 100
        for policy in data.policies:
            assert sum(line.startswith(policy) for line in text.splitlines()) == 1
        for heading in ("Req95", "Req99", "latency", "TTFT", "busy", "plan"):
            assert heading in text


def test_an_ordinary_terminal_of_80_columns_shows_whole_labels_and_intervals(experiment: Results) -> None:
    renamed = {"policy": {"hexagent": "earliest-finish"}}
    data = replace(
        experiment,
        runs=experiment.runs.replace(renamed),
        summary=experiment.summary.replace(renamed),
        timing=experiment.timing.replace(renamed),
    )
    text = summary_plain(data, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "earliest-finish" in text
    assert "±" in text.split("tiny;")[0]


def test_intervals_are_shown_for_several_seeds_only(experiment: Results, one_run: Results) -> None:
    assert "±" in summary_plain(experiment)
    assert "3 seeds" in summary_plain(experiment)
    assert "±" not in summary_plain(one_run)


def test_long_labels_and_many_clusters_still_fit(experiment: Results) -> None:
    def renamed(table: pd.DataFrame) -> pd.DataFrame:
        return table.replace({"policy": {"hexagent": "hexagent [synchronous] with a very long label indeed"}}).assign(
            cluster="a-cluster-with-a-rather-long-name"
        )

    one = replace(
        experiment,
        runs=renamed(experiment.runs),
        summary=renamed(experiment.summary),
        timing=renamed(experiment.timing),
    )
    both = replace(
        one,
        runs=pd.concat([one.runs, experiment.runs]),
        summary=pd.concat([one.summary, experiment.summary]),
        timing=pd.concat([one.timing, experiment.timing]),
    )
    for data in (one, both):
        text = summary_plain(data)
        assert max(map(len, text.splitlines())) <= 100
        assert "[synchronous]" in text.replace("\n", ""), "brackets are text, not markup"


def test_an_unfinished_run_shows_infinity(experiment: Results) -> None:
    runs = experiment.runs.copy()
    runs["req99"] = math.inf
    assert "∞" in summary_plain(replace(experiment, runs=runs))


def test_markdown(experiment: Results) -> None:
    lines = summary_markdown(experiment).splitlines()
    assert lines[0].startswith("| policy | Req95 |")
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[2].startswith("| fcfs |")
    slower = replace(experiment, timing=experiment.timing.assign(plan_ms_mean=1e6))
    assert summary_markdown(slower).splitlines() == lines, "no wall-clock figure in a file that is compared"


def test_only_policies_that_are_no_baseline_are_compared(experiment: Results) -> None:
    lines = comparison_lines(experiment)
    assert len(lines) == 1
    assert lines[0].startswith("hexagent: Req99 ")
    assert "against fcfs" in lines[0]


def test_a_single_run_reads_back(one_run: Results) -> None:
    assert one_run.policies == ["fcfs"]
    assert one_run.calls is not None
    assert one_run.runs["req99"].iloc[0] == math.inf, "stopped early: null in JSON is infinite"


@pytest.mark.parametrize("content", [{}, {"summary.json": "{"}, {"summary.json": "{}"}, {"runs.csv": "a\n1\n"}])
def test_a_folder_without_whole_results_is_one_line(tmp_path: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_results(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="result folder"):
        load_results(tmp_path / "nowhere")
