"""The figures that look into runs: parts add up to the microsecond, busy time is all there, sizes are counted."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hexopt
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.report.breakdown import PARTS, critical_path_parts, mean_parts, plot_breakdown
from hexopt.report.busy_over_time import busy_in_bins, busy_spans, plot_busy_over_time
from hexopt.report.calls import each_run, of_run, run_trace, with_call_counts
from hexopt.report.data import Results, load_results
from hexopt.report.figures import draw_figures
from hexopt.report.sizes import plot_sizes, size_bins

COLUMNS = ("ready_us", "prefill_start_us", "prefill_end_us", "admit_us", "transfer_end_us", "join_us", "complete_us")


def by_hand(*rows: tuple[int | None, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS).astype("Int64")


def workflow(name: str, *parents: tuple[int, ...]) -> Workflow:
    return Workflow(name, "demo", 0, tuple(Call(f"c{i}", p, 10, 5) for i, p in enumerate(parents)))


def test_parts_of_the_worked_example_with_little_kv() -> None:
    # docs/semantics.md, section 10: a and b of w0, then c of w1.
    calls = by_hand(
        (0, 0, 10_000, 10_000, 31_000, 31_000, 62_110),
        (67_110, 67_110, 81_110, 88_696, 119_696, 119_696, 122_876),
        (2_000, 10_000, 20_000, 62_110, 83_110, 83_110, 88_696),
    )
    trace = Trace((workflow("w0", (), (0,)), workflow("w1", ())))
    ends = pd.DataFrame(
        {"workflow_id": ["w0", "w1"], "arrival_us": [0, 2_000], "complete_us": pd.array([122_876, 88_696], "Int64")}
    )
    parts = critical_path_parts(trace, calls, ends).set_index("workflow_id")
    assert parts.loc["w0"].to_dict() == {
        "tool delay": 5_000,
        "queue for prefill": 0,
        "prefill": 24_000,
        "wait for KV admission": 7_586,
        "transfer": 52_000,
        "wait to join": 0,
        "decode": 34_290,
    }
    assert parts.loc["w1"].tolist() == [0, 8_000, 10_000, 42_110, 21_000, 0, 5_586]


def test_the_critical_path_goes_through_the_parent_that_completed_last() -> None:
    # A diamond whose second branch is the slow one, and whose last call has one token: no step after its prefill.
    calls = by_hand(
        (0, 0, 1, 1, 2, 3, 10),
        (10, 10, 11, 11, 12, 12, 20),
        (10, 15, 16, 18, 22, 23, 30),
        (37, 40, 45, None, None, None, 45),
    )
    trace = Trace((workflow("w", (), (0,), (0,), (1, 2)),))
    ends = pd.DataFrame({"workflow_id": ["w"], "arrival_us": [0], "complete_us": pd.array([45], "Int64")})
    parts = critical_path_parts(trace, calls, ends)[list(PARTS)].iloc[0].tolist()
    #        tool queue prefill admission transfer join decode
    assert parts == [7, 5 + 3, 1 + 1 + 5, 0 + 2, 1 + 4, 1 + 1, 7 + 7]
    assert sum(parts) == 45


def test_parts_add_up_to_every_latency(experiment: Results, one_run: Results) -> None:
    for data in (experiment, one_run):
        for run, calls in each_run(data):
            workflows = of_run(data.workflows, run)
            parts = critical_path_parts(run_trace(run), calls, workflows).set_index("workflow_id")
            latency = workflows.dropna(subset="latency_us").set_index("workflow_id")["latency_us"].astype(int)
            assert len(parts) == len(latency) > 0
            assert parts[list(PARTS)].sum(axis=1).to_dict() == latency.to_dict()
            assert (parts[list(PARTS)] >= 0).all().all()


def test_the_bars_end_at_the_mean_latency(experiment: Results) -> None:
    ax = plot_breakdown(experiment)
    ends = [
        max(p.get_x() + p.get_width() for p in ax.patches if round(p.get_y() + p.get_height() / 2) == y) for y in (0, 1)
    ]
    expected = experiment.runs.groupby("policy", sort=False)["latency_mean_s"].mean()
    assert ends == pytest.approx(expected.tolist())
    assert mean_parts(experiment).sum(axis=1).tolist() == pytest.approx(expected.tolist())
    assert "critical path" in ax.get_xlabel()


def test_unfinished_workflows_are_left_out_and_it_is_said(one_run: Results) -> None:
    left = one_run.workflows["complete_us"].isna().sum()
    assert 0 < left < len(one_run.workflows)
    assert f"{left} unfinished workflows left out" in plot_breakdown(one_run).get_title()


def test_a_policy_that_finished_nothing_has_an_empty_bar(one_run: Results) -> None:
    ax = plot_breakdown(replace(one_run, workflows=one_run.workflows.assign(complete_us=math.nan)))
    assert [text.get_text() for text in ax.texts] == ["none finished"]


def test_busy_spans_are_merged_and_cut_at_the_end() -> None:
    calls = pd.DataFrame(
        {"decode_instance": ["d"] * 4 + ["e"], "join_us": [5, 0, 8, 30, 1], "complete_us": [7, 10, 20, None, 99]}
    )
    begins, ends = busy_spans(calls, "d", "decode", 40)
    assert list(zip(begins, ends, strict=True)) == [(0, 20), (30, 40)]
    assert busy_in_bins((begins, ends), np.array([0.0, 15.0, 35.0, 50.0])).tolist() == [15.0, 10.0, 5.0]
    none = busy_spans(calls, "f", "decode", 40)
    assert busy_in_bins(none, np.array([0.0, 10.0])).tolist() == [0.0]


def test_busy_time_over_all_bins_is_that_of_the_table(experiment: Results, one_run: Results) -> None:
    for data in (experiment, one_run):
        for run, calls in each_run(data):
            start = int(of_run(data.workflows, run)["arrival_us"].min())
            end = round(start + run["makespan_s"] * 1e6)
            for instance in of_run(data.instances, run).to_dict("records"):
                spans = busy_spans(calls, instance["name"], instance["role"], end)
                busy = busy_in_bins(spans, np.linspace(start, end, 8))
                assert busy.sum() == pytest.approx(instance["busy_us"], abs=1e-3)


def test_the_map_has_a_row_per_policy_and_instance(experiment: Results, one_run: Results) -> None:
    image = plot_busy_over_time(experiment).get_images()[0].get_array()
    assert image is not None
    assert image.shape[0] == 2 * 4, "two policies, four instances"
    labels = [text.get_text() for text in plot_busy_over_time(one_run).get_yticklabels()]
    assert labels == one_run.instances["name"].tolist()


@pytest.mark.parametrize(
    ("counts", "bins", "expected"),
    [
        ([1, 1, 1, 2, 3, 9], 3, [(1, 1), (2, 2), (3, 9)]),
        ([5], 5, [(5, 5)]),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 5, [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)]),
        ([4] * 9 + [7], 5, [(4, 4), (7, 7)]),
    ],
)
def test_size_bins(counts: list[int], bins: int, expected: list[tuple[int, int]]) -> None:
    ranges = size_bins(pd.Series(counts), bins)
    assert ranges == expected
    assert sum(pd.Series(counts).between(low, high).sum() for low, high in ranges) == len(counts)


def test_calls_are_counted(experiment: Results) -> None:
    assert with_call_counts(experiment)["calls"].tolist() == [3] * len(experiment.workflows)


def test_unfinished_workflows_are_infinite_in_the_ratio_by_size(one_run: Results) -> None:
    none = one_run.workflows.assign(ratio=math.inf)
    assert [text.get_text() for text in plot_sizes(replace(one_run, workflows=none)).texts] == ["∞"]


def test_runs_without_calls_have_the_other_figures_and_a_reason(experiment_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lean"
    shutil.copytree(experiment_folder, folder)
    for table in [*folder.glob("runs/*/calls.csv"), *folder.glob("runs/*/trace.jsonl.gz")]:
        table.unlink()
    drawn = draw_figures(load_results(folder), tmp_path / "figures", ("png",))
    lacking = {figure.name: figure.lacking for figure in drawn if figure.lacking}
    assert lacking.keys() == {"sizes", "breakdown", "busy_over_time"}
    assert lacking["breakdown"] == "the runs' folders have no calls.csv and trace.jsonl.gz"
    assert all(figure.paths for figure in drawn if not figure.lacking)


def test_diamonds_with_tools_add_up_under_every_shipped_baseline(tmp_path: Path) -> None:
    calls = (Call("a", (), 300, 4), Call("b", (0,), 200, 9, 70), Call("c", (0,), 500, 1), Call("d", (1, 2), 400, 1, 30))
    trace = Trace(tuple(Workflow(f"w{i}", "demo", 40 * i, calls) for i in range(5)))
    for policy in ("fcfs", "earliest-finish"):
        result = hexopt.simulate(trace, hexopt.load_cluster("tiny"), hexopt.make_policy(policy))
        data = load_results(result.save(tmp_path / policy))
        run, table = next(each_run(data))
        parts = critical_path_parts(run_trace(run), table, data.workflows)
        assert parts[list(PARTS)].sum(axis=1).tolist() == data.workflows["latency_us"].tolist()
