"""The report of a solver comparison: what it reads out of rows, that it claims no more, and its figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes
from typer.testing import CliRunner

from hexopt.cli.app import app
from hexopt.errors import ConfigError
from hexopt.experiments.solver_config import parse_solver_study
from hexopt.experiments.solver_study import make_tasks
from hexopt.experiments.solver_tables import write_solver_tables
from hexopt.formulations.library import Library
from hexopt.report.solvers import Solves, load_solves, summary_lines, write_solver_report
from hexopt.report.solvers.figures import PER_OBJECTIVE, PER_SIZE
from hexopt.report.solvers.profiles import profile, times_s
from hexopt.report.solvers.sentences import (
    caution_sentences,
    cells,
    difference_text,
    headline_sentences,
    interval,
    variant_rows,
)
from hexopt.report.solvers.writer import facts
from hexopt.report.style import new_axes

STUDY = {
    "kind": "solver_comparison",
    "name": "made",
    "objectives": ["sum", "late:2"],
    "time_limits_ms": [5, 50],
    "solvers": [
        {"formulation": "quick"},
        {"formulation": "exact", "hint": "greedy"},
        {"formulation": "exact", "label": "exact-cold", "variant_of": "exact", "options": {"presolve": False}},
    ],
}
GREEDY = 12.0


def value_of(solver: str, k: int, limit: float) -> tuple[float | None, float | None]:
    """What a made solver finds and proves on window ``k``: the best is 10; quick has 11 at once and never improves.

    exact has nothing in 5 ms, and the best, proved, in 50 ms; without presolve nothing at all on window 0.
    """
    if solver == "quick":
        return 11.0, None
    if limit < 50 or (solver == "exact-cold" and k == 0):
        return None, 6.0
    return 10.0, 10.0


def made(folder: Path, change: Callable[[dict[str, Any]], None] = lambda row: None) -> Solves:
    study = parse_solver_study(STUDY, "made", folder)
    digests = {f"n{calls:03d}-roomy-x{k}": "" for calls in (4, 32) for k in range(8)}
    rows = []
    for task in make_tasks(study, digests, ""):
        k = int(task.instance[-1])
        value, bound = value_of(task.solver.label, k, task.limit_ms)
        row = task.row() | {
            "status": "feasible", "stop_reason": "time-limit", "value": value, "total": value, "bound": bound,
            "proved": value is not None and value == bound, "greedy_value": GREEDY, "greedy_total": GREEDY,
            "single_call_bound": 5.0, "misreported": False, "worse_than_hint": False, "first_incumbent_s": 0.001,
            "wall_s": 0.004 if task.solver.label == "quick" else 0.04 + 0.001 * k, "cpu_s": 0.004, "build_s": 0.001,
            "solve_s": 0.002, "variables": task.calls * 10, "constraints": task.calls * 20, "jobs": 1, "load_1min": 0.5,
            "note": "", "error": "",
        }  # fmt: skip
        change(row)
        rows.append(row)
    folder.mkdir(exist_ok=True)
    write_solver_tables(study, Library(folder / "none"), rows, folder)
    return load_solves(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Solves:
    return made(tmp_path_factory.mktemp("solves"))


def test_who_is_best(data: Solves) -> None:
    found = {(c.objective, c.calls, c.limit_ms): c for c in cells(data)}
    quick, exact = found["sum", 4, 5.0], found["sum", 4, 50.0]
    assert (quick.best, exact.best) == ("quick", "exact")
    assert quick.gap == pytest.approx(0.1)
    assert (exact.gap, exact.greedy, exact.level) == (0.0, pytest.approx(0.2), ())
    assert exact.gain == pytest.approx((0.2, 0.2, 0.2))
    assert exact.pays
    # Variants are not ranked.
    assert {cell.best for cell in found.values()} == {"quick", "exact"}
    assert all(cell.ranked == 2 for cell in found.values())


def test_the_time_to_a_proof_ends_with_the_proof(tmp_path: Path) -> None:
    found = made(tmp_path, lambda row: row.update(proved_s=0.5 * row["wall_s"] if row["calls"] == 4 else None))
    walls = found.solves[found.solves["proved"]]
    assert len(walls)
    for _, row in walls.iterrows():
        assert row["proved_s"] == row["wall_s"] * (0.5 if row["calls"] == 4 else 1.0)
    assert found.solves.loc[~found.solves["proved"], "proved_s"].isna().all()
    for solver, times in times_s(found, "proof").items():
        for (instance, objective), s in times.items():
            own = walls[
                (walls["solver"] == solver) & (walls["instance"] == instance) & (walls["objective"] == objective)
            ]
            assert s == own["proved_s"].min() or (own.empty and s == math.inf)


def test_a_proof_in_no_time_takes_the_time_of_the_solve(tmp_path: Path) -> None:
    found = made(tmp_path, lambda row: row.update(proved_s=0.0))
    walls = found.solves[found.solves["proved"]]
    assert (walls["proved_s"] == walls["wall_s"]).all()
    assert all(r >= 1 for ratios, _ in profile(found, "proof").values() for r in ratios)


def test_processors_are_told_where_they_are_not_that_of_the_tables(data: Solves, tmp_path: Path) -> None:
    assert "processors of the solves" not in dict(facts(data))
    here = data.record["machine"]["processor"]
    assert here
    same = made(tmp_path / "same", lambda row: row.update(processor=here))
    assert "processors of the solves" not in dict(facts(same))
    other = made(tmp_path / "other", lambda row: row.update(processor="Z80" if row["calls"] == 4 else here))
    assert dict(facts(other))["processors of the solves"] == "; ".join(sorted(["Z80", here]))


def test_a_difference_within_chance_is_called_level(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> None:
        if row["value"] is not None:
            row["proved"], row["bound"] = False, None
            # Half of the windows one way, half the other, and as good as the greedy plan on average.
            row["value"] = 10.0 + ((row["solver"] == "quick") == (row["instance"][-1] in "0246")) * 2.0
        row["greedy_value"] = 11.0

    found = made(tmp_path, change)
    cell = next(c for c in cells(found) if (c.objective, c.calls, c.limit_ms) == ("sum", 4, 50.0))
    assert cell.level == (("exact",) if cell.best == "quick" else ("quick",))
    assert not cell.decided
    text = next(s for s in headline_sentences(found) if s.startswith("**sum, 50 ms**"))
    assert "All ranked solvers are level at 4 and 32 calls" in text


def test_where_nobody_beats_the_greedy_plan_it_is_said(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> None:
        row["greedy_value"] = row["greedy_total"] = 10.0

    sentences = headline_sentences(made(tmp_path, change))
    assert len(sentences) == 4
    assert all("**No solver is shown to be better than the greedy plan** at any size" in s for s in sentences)


def test_a_gain_on_one_window_alone_is_not_shown(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> None:
        if row["instance"][-1] != "0":
            row["greedy_value"] = 10.0

    cell = next(c for c in cells(made(tmp_path, change)) if (c.objective, c.calls, c.limit_ms) == ("sum", 4, 50.0))
    assert cell.gain is not None
    assert cell.gain[0] == pytest.approx(0.2 / 8)
    assert cell.gain[1] == 0
    assert not cell.pays


def test_sentences_of_a_clear_case(data: Solves) -> None:
    text = {s.split("**")[1]: s for s in headline_sentences(data)}
    assert "exact at 4 and 32 calls (mean gap at most 0.00%)" in text["sum, 50 ms"]
    assert "20.0% [20.0%, 20.0%]" in text["sum, 50 ms"]
    assert "quick at 4 and 32 calls" in text["sum, 5 ms"]
    # A count's gap is a difference.
    assert "mean gap at most 1.00)" in text["late:2, 5 ms"]


def test_what_a_reader_must_know_is_told(tmp_path: Path, data: Solves) -> None:
    calm = caution_sentences(data)
    assert calm[0].startswith("exact: 32 solves took more than half again their limit and 5 ms; the latest came 42 ms")
    assert any("32 of 32 best known values are proved optimal" in s for s in calm)
    assert any("32 in this study alone" in s for s in calm)

    def change(row: dict[str, Any]) -> None:
        if row["solver"] == "quick":
            row |= {"bound": 10.5, "misreported": True, "error": "broke", "wall_s": 1.0}
        if row["solver"] == "exact":
            row["worse_than_hint"] = True

    text = "\n".join(caution_sentences(made(tmp_path, change)))
    assert "**quick claimed a bound above the value of a known plan" in text
    assert "**quick returned a value that is not the checker's" in text
    assert "**exact returned a plan worse than the hint" in text
    assert "quick: 64 solves ended with an error, most often: broke" in text
    assert "came 995 ms after 5 ms" in text


def test_interval_of_a_mean() -> None:
    assert interval([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)
    mean, low, high = interval([0.0, 1.0] * 10)
    assert mean == 0.5
    assert 0.2 < low < 0.5 < high < 0.8
    assert math.isnan(interval([1.0])[1])
    assert interval([0.0, 1.0] * 10) == (mean, low, high)


def test_profiles_by_hand(data: Solves) -> None:
    part = data.of(objective="sum")
    proof = profile(part, "proof")
    assert proof["quick"] == ([], [])
    assert proof["exact"] == ([1.0] * 16, [k / 16 for k in range(1, 17)])
    # exact-cold is a variant; it is in no profile, and proved what it proved.
    assert set(proof) == {"quick", "exact"}
    cold = times_s(part, "proof")["exact-cold"]
    assert math.isinf(cold["n004-roomy-x0", "sum"])
    assert cold["n004-roomy-x3", "sum"] == pytest.approx(0.043)


def test_a_problem_that_was_not_given_counts_as_not_solved(data: Solves) -> None:
    small = data.solves[(data.solves["solver"] != "exact") | (data.solves["calls"] == 4)]
    steps = profile(replace(data, solves=small).of(objective="sum"), "proof")
    assert len(steps["exact"][0]) == 8
    assert steps["exact"][1][-1] == pytest.approx(8 / 16)


def test_variants_are_held_against_their_base(data: Solves) -> None:
    rows = {(row[2], row[3]): row for row in variant_rows(data)}
    row = rows["sum", "50"]
    assert row[:2] == ("exact", "hint: greedy → none, option presolve: default → false")
    assert row[4] == "16"
    assert row[5:9] == ("100%", "88%", "0%", "12%")
    assert row[9].startswith("+2.50% [")  # two of 16 windows fall back to the greedy plan: 0.2 / 8
    assert row[10] == "1.00"


def test_difference_of_settings() -> None:
    base = {"formulation": "a", "hint": "none", "threads": 1, "options": {"x": 1}, "label": ""}
    other = {**base, "threads": 2, "options": {"x": 1, "cut": False}, "label": "b", "variant_of": "a"}
    assert difference_text(base, other) == "threads: 1 → 2, option cut: default → false"
    assert difference_text(base, base) == "nothing"


@pytest.mark.parametrize("name", [*PER_SIZE, *PER_OBJECTIVE])
def test_every_figure_names_its_axes_its_units_and_itself(data: Solves, name: str) -> None:
    kind = {**PER_SIZE, **PER_OBJECTIVE}[name]
    part = data.of(objective="sum", calls=4) if name in PER_SIZE else data.of(objective="sum")
    ax = new_axes(None)
    assert kind.plot(part, ax) is ax
    assert any(unit in ax.get_xlabel() for unit in ("(ms", "calls in the window", "(ratio"))
    assert any(unit in ax.get_ylabel() for unit in ("(%)", "(ms", "(count", "share of problems"))
    assert "objective sum" in ax.get_title(loc="left") + ax.get_title()
    legend = ax.get_legend()
    assert legend is not None
    assert {"quick", "exact"} <= {text.get_text() for text in legend.get_texts()}
    assert "exact-cold" not in {text.get_text() for text in legend.get_texts()}


def line(ax: Axes, label: str) -> dict[float, float]:
    found = next(item for item in ax.get_lines() if item.get_label() == label)
    return {float(x): float(y) for x, y in zip(*found.get_data(), strict=True)}


def test_what_figures_show(data: Solves) -> None:
    part = data.of(objective="sum", calls=4)
    gap = PER_SIZE["gap"].plot(part)
    assert line(gap, "exact") == pytest.approx({5.0: 20.0, 50.0: 0.0})
    assert line(gap, "quick") == pytest.approx({5.0: 10.0, 50.0: 10.0})
    assert list(line(gap, "greedy plan alone").values()) == pytest.approx([20.0, 20.0])
    whole = data.of(objective="sum")
    assert line(PER_OBJECTIVE["no_plan"].plot(whole), "exact") == {5.0: 100.0, 50.0: 0.0}
    assert line(PER_OBJECTIVE["proved"].plot(whole), "exact") == {4.0: 100.0, 32.0: 100.0}
    assert line(PER_OBJECTIVE["model_size"].plot(whole), "quick") == {4.0: 120.0, 32.0: 960.0}
    assert line(PER_OBJECTIVE["overrun"].plot(whole), "exact")[50.0] == 0.0


def test_the_report_is_written_twice_the_same(data: Solves, tmp_path: Path) -> None:
    few = data.of(objective="sum", calls=4)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written = write_solver_report(few, tmp_path / name, ["png"])
    for path in written:
        other = tmp_path / "a" / path.relative_to(tmp_path / "b")
        assert path.read_bytes() == other.read_bytes(), path.name
    text = written[0].read_text()
    for words in ("## In short", "What a reader must know", "Who is best, by size and limit", "What single settings",
                  "| exact |", "solver exact-cold"):  # fmt: skip
        assert words in text, words
    assert 'src="data:image/png;base64,' in written[1].read_text()


def test_the_terminal_sees_who_is_best(data: Solves) -> None:
    lines = summary_lines(data, 100)
    assert max(map(len, lines)) <= 100
    assert any(text.split()[:4] == ["sum", "4", "50", "exact"] for text in lines)


def test_hexopt_report_knows_such_a_folder(data: Solves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hexopt.report.solvers.figures.PER_SIZE", {})
    monkeypatch.setattr("hexopt.report.solvers.figures.PER_OBJECTIVE", {"proved": PER_OBJECTIVE["proved"]})
    result = CliRunner().invoke(app, ["report", str(data.folder), "--out", str(tmp_path / "r"), "--format", "png"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "r/report.html").is_file()


def test_a_damaged_folder_is_refused(data: Solves, tmp_path: Path) -> None:
    data.solves.to_csv(tmp_path / "solves.csv", index=False)
    with pytest.raises(ConfigError, match="holds whole tables"):
        load_solves(tmp_path)
    pd.DataFrame().to_csv(tmp_path / "solver_summary.csv")
    (tmp_path / "study.json").write_text(json.dumps({}))
    with pytest.raises(ConfigError):
        load_solves(tmp_path)
