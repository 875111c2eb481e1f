"""Figures over loads, estimate errors and many policies, on tables made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes

from hexopt.report import load_curve, planning, sensitivity
from hexopt.report.data import Results, Setting, number
from hexopt.report.load_curve import collapse_points, plot_load
from hexopt.report.overview import plot_overview
from hexopt.report.paper import load_paper
from hexopt.report.planning import plot_planning
from hexopt.report.req_bars import plot_req_bars
from hexopt.report.sensitivity import plot_sensitivity, relative_req99
from hexopt.report.style import policy_looks
from tests.report.made import grid, made

MANY = [f"policy-{i}" for i in range(12)]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def line(ax: Axes, label: str) -> Any:
    return next(line for line in ax.get_lines() if line.get_label() == label)


def test_no_two_of_twelve_policies_look_alike() -> None:
    looks = policy_looks(MANY)
    assert len({(look.colour, look.hatch) for look in looks.values()}) == 12
    assert len({(look.colour, look.dash, look.marker) for look in looks.values()}) == 12


def test_a_policy_with_a_colour_of_its_own_stays_plain() -> None:
    assert policy_looks([*MANY, "hexagent"])["hexagent"].hatch is None


@pytest.mark.parametrize("policies", [["fcfs"], ["fcfs", "hexagent"], MANY])
@pytest.mark.parametrize("seeds", [1, 3])
def test_study_figures_draw_and_name_their_axes(policies: list[str], seeds: int) -> None:
    data = made(grid(policies, loads=("0.5", "0.9"), errors=("0", "0.3"), seeds=seeds, clusters=("a", "b")))
    part = data.of(cluster="a")
    axes = [
        plot_load(part.of(estimate_error="0")),
        plot_sensitivity(part.of(load="0.5")),
        plot_overview(data, paper=load_paper()),
        plot_req_bars(part.of(load="0.5", estimate_error="0"), paper=load_paper()),
    ]
    for ax in axes:
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_title()
        assert ax.get_legend() is not None
    assert "%" in axes[1].get_xlabel()
    assert "standalone" in axes[0].get_ylabel()


def curve(*values: float) -> Results:
    cells = {("c", "", str(load), "", "p", 0): (1.0, v) for load, v in zip((0.5, 0.7, 0.9, 1.1), values, strict=True)}
    return made(cells)


@pytest.mark.parametrize(
    ("values", "point"),
    [
        ((2, 3, 9, 10.0), math.inf),
        ((2, 3, 10.1, 30), 0.9),
        ((2, 30, 3, 30), 1.1),
        ((2, 3, 4, math.inf), 1.1),
        ((2, math.inf, math.inf, math.inf), 0.7),
        ((math.inf,) * 4, 0.5),
    ],
)
def test_collapse_is_five_times_the_lowest_load_and_stays(values: tuple[float, ...], point: float) -> None:
    assert collapse_points(curve(*values)) == {"p": point}


def test_the_load_curve_leaves_infinity_out_and_marks_it() -> None:
    ax = plot_load(curve(2, 3, 4, math.inf))
    assert list(line(ax, "p").get_xdata()) == [0.5, 0.7, 0.9]
    assert texts(ax) == ["∞"]
    assert [patch.get_label() for patch in ax.patches] == ["all collapsed"]
    assert plot_load(curve(math.inf, math.inf, math.inf, math.inf)).get_xlabel()


def test_y_is_logarithmic_when_wide() -> None:
    assert plot_load(curve(2, 3, 4, 19)).get_yscale() == "linear"
    assert plot_load(curve(2, 3, 4, 21)).get_yscale() == "log"


def test_loads_are_in_order_of_size_and_a_missing_policy_has_a_gap() -> None:
    cells = grid(loads=("1.1", "0.5", "0.9"))
    del cells["tiny", "", "0.9", "", "hexagent", 0]
    ax = plot_load(made(cells))
    assert list(line(ax, "fcfs").get_xdata()) == [0.5, 0.9, 1.1]
    assert list(line(ax, "hexagent").get_xdata()) == [0.5, 1.1]


def test_sensitivity_is_relative_to_no_error_over_means_of_traces_and_seeds() -> None:
    cells = {
        ("c", trace, "", error, "p", seed): (1.0, value)
        for trace, error, seed, value in (
            ("x", "0", 0, 2.0), ("y", "0", 0, 4.0), ("x", "0", 1, 4.0), ("y", "0", 1, 6.0),
            ("x", "0.3", 0, 3.0), ("y", "0.3", 0, 6.0), ("x", "0.3", 1, 4.0), ("y", "0.3", 1, 6.0),
        )
    }  # fmt: skip
    relative = relative_req99(made(cells))["p"]
    assert relative[0.0] == (1.0, [1.0, 1.0])
    ratio, seeds = relative[0.3]
    assert ratio == pytest.approx(19 / 16)
    assert seeds == pytest.approx([9 / 6, 1.0])
    ax = plot_sensitivity(made(cells))
    assert list(line(ax, "p").get_xdata()) == [0.0, 30.0]
    assert list(line(ax, "p").get_ydata()) == pytest.approx([0.0, 18.75])


def test_sensitivity_without_a_finite_start_or_end() -> None:
    cells = grid(errors=("0", "0.1"))
    cells["tiny", "", "", "0", "fcfs", 0] = (1.0, math.inf)
    cells["tiny", "", "", "0.1", "hexagent", 0] = (1.0, math.inf)
    data = made(cells)
    assert list(relative_req99(data)) == ["hexagent"]
    assert texts(plot_sensitivity(data)) == ["∞"]


def test_a_figure_that_cannot_be_drawn_says_why() -> None:
    assert load_curve.needs(made(grid())) == "the study has one load"
    assert sensitivity.needs(made(grid())) == "the study has one estimate error"
    assert "without estimate error" in sensitivity.needs(made(grid(errors=("0.1", "0.3"))))
    assert planning.needs(made(grid())) == "no planning times are recorded"


def test_published_values_stand_beside_ours_where_names_match() -> None:
    cells = grid(("fcfs", "hexagent"), clusters=("hetero-1-llama",), traces=("bfcl",))
    ax = plot_req_bars(made(cells), paper=load_paper())
    diamonds = [
        float(line.get_ydata()[0]) for line in ax.get_lines() if line.get_marker() == "D" and len(line.get_ydata())
    ]
    assert sorted(diamonds) == [6.21, 6.34, 13.81, 17.23]
    assert "HexAGenT paper" in [text.get_text() for text in ax.get_legend().get_texts()]  # type: ignore[union-attr]
    for cluster, trace in (("hetero-1-llama", "my"), ("tiny", "bfcl")):
        ax = plot_req_bars(made(grid(clusters=(cluster,), traces=(trace,))), paper=load_paper())
        assert not [line for line in ax.get_lines() if line.get_marker() == "D"]


def test_a_label_finds_the_published_policy_if_it_alone_has_that_name() -> None:
    data = made(grid(("HexAGenT, 10 ms",), clusters=("hetero-1-qwen",), traces=("mixed",)))
    named = replace(data, runs=data.runs.assign(policy_name="hexagent"))
    assert [line for line in plot_req_bars(named, paper=load_paper()).get_lines() if line.get_marker() == "D"]
    twice = made(grid(("a", "b"), clusters=("hetero-1-qwen",), traces=("mixed",)))
    twice = replace(twice, runs=twice.runs.assign(policy_name="hexagent"))
    assert not [line for line in plot_req_bars(twice, paper=load_paper()).get_lines() if line.get_marker() == "D"]


def test_bars_are_logarithmic_when_wide_and_survive_nothing_finite() -> None:
    cells = grid()
    cells["tiny", "", "", "", "hexagent", 0] = (30.0, 60.0)
    assert plot_req_bars(made(cells)).get_yscale() == "log"
    none = dict.fromkeys(cells, (math.inf, math.inf))
    assert texts(plot_req_bars(made(none))).count("∞") == 4


def test_planning_marks_the_mean_and_the_longest_of_each_run() -> None:
    timing = pd.DataFrame(
        {
            "policy": ["p", "p"],
            "plan_ms_mean": [0.5, 2.0],
            "plan_ms_p50": [0.25, 1.5],
            "plan_ms_p99": [4.0, 1.75],
            "plan_ms_max": [9.0, 0.0],
        }
    )
    data = replace(made(grid(("p",), seeds=2)), timing=timing)
    ax = plot_planning(data, paper=load_paper().planner)
    drawn = {line.get_marker(): list(line.get_xdata()) for line in ax.get_lines() if len(line.get_xdata()) == 2}
    assert drawn["o"] == [0.5, 2.0]
    assert drawn[">"] == [9.0, 0.001], "what is below a microsecond is drawn as one"
    stretches = [[(segment[0][0], segment[1][0]) for segment in bars.get_segments()] for bars in ax.collections]
    assert [(0.25, 4.0), (1.5, 1.75)] in stretches, "from the median to the 99th percentile"
    earlier = replace(data, timing=timing.drop(columns=["plan_ms_p50", "plan_ms_p99"]))
    assert len(plot_planning(earlier).collections) == 1


def test_one_setting_stands_for_a_cluster_and_trace() -> None:
    data = made(grid(loads=("1.3", "0.5", "0.9", "1.1"), errors=("0.3", "0", "0.1"), clusters=("a", "b")))
    assert data.bases == [Setting("a", "", "0.9", "0"), Setting("b", "", "0.9", "0")]
    assert made(grid()).bases == [Setting("tiny")]


@pytest.mark.parametrize(("label", "value"), [("0.3", 0.3), ("poisson:1.2", 1.2), ("1e-1", 0.1), ("2", 2.0)])
def test_numbers_in_labels(label: str, value: float) -> None:
    assert number(label) == value
    assert math.isnan(number("none"))


def test_a_setting_in_words() -> None:
    assert Setting("c").title == "c"
    assert Setting("c", "bfcl", "0.9", "0").title == "c, bfcl, load 0.9"
    assert Setting("c", "", "", "0.3").title == "c, estimate error 30%"
