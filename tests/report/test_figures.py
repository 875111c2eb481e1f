"""Figures: what they show, that they say what it is, and that equal data give equal bytes."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from PIL import Image

from hexopt.report.attainment import plot_attainment
from hexopt.report.data import Results
from hexopt.report.figures import PLOTS, write_figures
from hexopt.report.req_bars import plot_req_bars
from hexopt.report.style import FIXED, OKABE_ITO, new_axes, policy_colours
from hexopt.report.timeline import plot_timeline


@pytest.mark.parametrize("name", PLOTS)
def test_every_figure_names_its_axes_and_itself(experiment: Results, one_run: Results, name: str) -> None:
    for data in (experiment, one_run):
        ax = PLOTS[name](data)
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert "tiny" in ax.get_title(loc="left") + ax.get_title()


def test_units_stand_on_the_axes(experiment: Results, one_run: Results) -> None:
    assert "(s" in PLOTS["latency"](experiment).get_xlabel()
    assert "× standalone" in PLOTS["attainment"](experiment).get_xlabel()
    assert "× standalone" in PLOTS["req"](experiment).get_ylabel()
    assert plot_timeline(one_run).get_xlabel() == "time (s)"


@pytest.mark.parametrize("plot", [*PLOTS.values()])
def test_a_figure_draws_into_the_axes_it_is_given(experiment: Results, plot: object) -> None:
    ax = new_axes(None)
    assert plot(experiment, ax) is ax  # type: ignore[operator]


def test_files_of_an_experiment(experiment: Results, tmp_path: Path) -> None:
    written = write_figures(experiment, tmp_path)
    assert sorted(path.name for path in written) == sorted(f"{n}.{s}" for n in PLOTS for s in ("png", "svg"))
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.size == (1200, 675)


def test_a_single_run_has_a_timeline_too(one_run: Results, tmp_path: Path) -> None:
    names = {path.name for path in write_figures(one_run, tmp_path, ("png",))}
    assert names == {*(f"{name}.png" for name in PLOTS), "timeline.png"}


def test_equal_data_give_equal_bytes_in_another_process_and_under_another_style(
    run_folder: Path, one_run: Results, tmp_path: Path
) -> None:
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None}):
        here = write_figures(one_run, tmp_path / "a")
    code = (
        "import sys; from pathlib import Path\n"
        "from hexopt.report.data import load_results; from hexopt.report.figures import write_figures\n"
        "write_figures(load_results(sys.argv[1]), Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, str(run_folder), str(tmp_path / "b")], check=True)
    for path in here:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_clusters_have_figures_of_their_own(experiment: Results, tmp_path: Path) -> None:
    def doubled(table: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([table, table.assign(cluster="my/other")], ignore_index=True)

    data = replace(
        experiment,
        runs=doubled(experiment.runs),
        summary=doubled(experiment.summary),
        timing=doubled(experiment.timing),
        workflows=doubled(experiment.workflows),
        instances=doubled(experiment.instances),
    )
    names = {path.name for path in write_figures(data, tmp_path, ("png",))}
    assert "overview.png" in names
    for cluster in ("tiny", "my-other"):
        assert {name.split("--")[0] for name in names if f"--{cluster}" in name} == set(PLOTS)
    assert len(names) == 2 * len(PLOTS) + 1


def bars(ax: Axes) -> dict[str, list[float]]:
    return {c.get_label(): [b.get_height() for b in c] for c in ax.containers if hasattr(c, "patches")}


def test_bars_are_means_over_seeds(experiment: Results) -> None:
    ax = plot_req_bars(experiment)
    expected = experiment.runs.groupby("policy")["req95"].mean()
    for policy, heights in bars(ax).items():
        if not policy.startswith("_"):
            assert heights[0] == pytest.approx(expected[policy])


def test_an_unfinished_policy_is_drawn_as_endless(experiment: Results) -> None:
    runs = experiment.runs.copy()
    runs.loc[runs["policy"] == "fcfs", ["req95", "req99"]] = math.inf
    texts = [text.get_text() for text in plot_req_bars(replace(experiment, runs=runs)).texts]
    assert texts.count("∞") == 2


def test_the_curve_counts_unfinished_workflows(experiment: Results) -> None:
    workflows = experiment.workflows.copy()
    workflows.loc[workflows.index[::2], "ratio"] = math.inf
    ax = plot_attainment(replace(experiment, workflows=workflows))
    highest = max(np.max(line.get_ydata()) for line in ax.get_lines() if line.get_label() in experiment.policies)
    assert highest == pytest.approx(0.5, abs=0.1)


def test_a_policy_keeps_its_colour(experiment: Results) -> None:
    assert policy_colours(["hexagent", "mine"])["hexagent"] == policy_colours(["fcfs", "hexagent"])["hexagent"]
    colours = policy_colours(["mine", "hexagent", "yours"])
    assert len(set(colours.values())) == 3
    assert set(FIXED.values()) <= set(OKABE_ITO)
    many = policy_colours([f"p{i}" for i in range(30)])
    assert len(many) == 30


def test_a_timeline_needs_one_run(experiment: Results) -> None:
    with pytest.raises(ValueError, match="one run"):
        plot_timeline(experiment)


def test_a_timeline_of_a_large_cluster_says_what_it_leaves_out(one_run: Results) -> None:
    rows = [{"name": f"{role}-{i}", "role": role} for role in ("prefill", "decode") for i in range(100)]
    data = replace(one_run, instances=pd.DataFrame(rows))
    assert "162 more instances" in plot_timeline(data).get_title(loc="left") + plot_timeline(data).get_title()
