"""A solver comparison: its file, that no solver stops it, what it keeps, and what its tables say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hexopt.core.window import Window, WindowPlan
from hexopt.errors import ConfigError
from hexopt.experiments import solver_pool
from hexopt.experiments.solver_config import is_solver_study, load_solver_study, parse_solver_study
from hexopt.experiments.solver_study import choose_instances, make_tasks, run_solver_study
from hexopt.experiments.solver_tables import solves_table, summary_table
from hexopt.experiments.solver_work import Bench, Solver, SolveTask
from hexopt.formulations import Objective, check, registry
from hexopt.formulations.library import BestKnown, Library
from tests.experiments.solvers_for_tests import REGISTERED, spread_plan
from tests.formulations.windows import random_window

GOOD: dict[str, Any] = {
    "kind": "solver_comparison",
    "name": "c",
    "solvers": [{"formulation": "first"}],
}


def parse(**changes: Any) -> Any:
    return parse_solver_study({**GOOD, **changes}, "f.toml", Path("folder"))


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path / "lib")
    for calls, regime, seed in ((4, "roomy", 1), (4, "tight-kv", 2), (4, "roomy", 3), (8, "roomy", 4)):
        window = replace(random_window(seed, calls, regime), name=f"n{calls:03d}-{regime}-x{seed}")
        library.add(window)
    return library


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, where in REGISTERED.items():
        monkeypatch.setitem(registry.FORMULATIONS, name, where)


def study(library: Library, *solvers: dict[str, Any], **more: Any) -> Any:
    given = {"library": str(library.folder.resolve()), "objectives": ["sum"], "time_limits_ms": [20, 100], **more}
    return parse(solvers=list(solvers), **given)


def test_a_minimal_file_has_the_documented_defaults() -> None:
    found = parse()
    assert found.objectives == ("bottleneck", "sum")
    assert found.time_limits_ms == (5, 20, 50, 200, 1000)
    assert found.library_folder == Path("folder/../formulations")
    assert found.solvers[0].title == "first"
    assert (found.solvers[0].hint, found.solvers[0].threads) == ("none", 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"solver": []}, ["solver", "unknown key", "'solvers'"]),
        ({"solvers": [{"formulaton": "first"}]}, ["solvers[0].formulaton", "did you mean 'formulation'"]),
        ({"instances": {"size": [4]}}, ["instances.size", "did you mean 'sizes'"]),
        ({"output": {"foldr": "x"}}, ["output.foldr", "did you mean 'folder'"]),
        ({"folder": "x"}, ["folder: unknown key"]),
        ({"objectives": ["sums"]}, ["objectives", "'sums'"]),
        ({"objectives": ["sum", "sum"]}, ["objectives", "twice"]),
        ({"time_limits_ms": [0]}, ["time_limits_ms[0]", "0 found"]),
        ({"time_limits_ms": [5, 5]}, ["time_limits_ms", "differ"]),
        ({"solvers": [{"formulation": "first"}, {"formulation": "first"}]}, ["'first' occurs twice", "label"]),
        ({"solvers": [{"formulation": "first", "hint": "gready"}]}, ["solvers[0].hint", "'gready'"]),
        ({"solvers": [{"formulation": "first", "variant_of": "firs"}]}, ["variant_of", "'firs'"]),
        ({"solvers": [{"formulation": "first", "variant_of": "first"}]}, ["variant_of", "no other solver"]),
        ({"solvers": [{"formulation": "first", "objectives": ["late:2"]}]}, ["'late:2'", "none of the study"]),
        ({"instances": {"names": ["a"], "sizes": [4]}}, ["instances", "names stand beside sizes"]),
        ({"schema_version": 2}, ["schema_version", "2"]),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**changes)
    for word in ["f.toml", *words]:
        assert word in str(caught.value), word
    assert "\n" not in str(caught.value)


def test_the_kind_tells_a_comparison_from_other_studies(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('kind = "solver_comparison"\nname = "c"\n[[solvers]]\nformulation = "first"\n')
    (tmp_path / "b.toml").write_text('name = "c"\n')
    assert is_solver_study(tmp_path / "a.toml")
    assert not is_solver_study(tmp_path / "b.toml")
    assert load_solver_study(tmp_path / "a.toml").name == "c"


def test_instances_are_chosen_by_size_regime_number_or_name(library: Library) -> None:
    def chosen(**wanted: Any) -> list[str]:
        return choose_instances(library, parse(instances=wanted).instances)

    assert chosen() == library.names()
    assert chosen(sizes=[8]) == ["n008-roomy-x4"]
    assert chosen(regimes=["tight-kv"]) == ["n004-tight-kv-x2"]
    assert chosen(per_size=1) == ["n004-roomy-x3", "n008-roomy-x4"]  # the middle one
    assert chosen(per_size=2) == ["n004-roomy-x1", "n004-tight-kv-x2", "n008-roomy-x4"]
    assert chosen(names=["n008-roomy-x4"]) == ["n008-roomy-x4"]
    for wanted, word in (({"sizes": [5]}, "5"), ({"regimes": ["rooomy"]}, "did you mean 'roomy'")):
        with pytest.raises(ConfigError, match=word):
            chosen(**wanted)


def test_solves_of_one_problem_and_limit_follow_each_other(library: Library) -> None:
    made = study(
        library, {"formulation": "first"}, {"formulation": "first", "label": "small", "most_calls": 4},
        {"formulation": "first", "label": "never", "objectives": ["bottleneck"]}, objectives=["sum", "bottleneck"],
    )  # fmt: skip
    tasks = make_tasks(made, {"n004-roomy-x1": "1", "n008-roomy-x4": "2"}, "code")
    assert [(t.instance[:4], t.objective, t.limit_ms, t.solver.label) for t in tasks[:5]] == [
        ("n004", "sum", 20, "first"), ("n004", "sum", 20, "small"), ("n004", "sum", 100, "first"),
        ("n004", "sum", 100, "small"), ("n004", "bottleneck", 20, "first"),
    ]  # fmt: skip
    assert {t.solver.label for t in tasks if t.calls == 8} == {"first", "never"}
    assert len({t.key for t in tasks}) == len(tasks)


def test_a_study_goes_on_whatever_its_solvers_do(library: Library, tmp_path: Path) -> None:
    made = study(
        library, {"formulation": "first"}, {"formulation": "raises"}, {"formulation": "dies"}, {"formulation": "liar"},
        instances={"names": ["n004-roomy-x1"]}, time_limits_ms=[100],
    )  # fmt: skip
    outcome = run_solver_study(made, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/solves.csv", keep_default_na=False)
    assert len(table) == outcome.total == 4
    told = table.groupby("solver")["error"].unique().map(list).to_dict()
    assert told["first"] == [""]
    assert "RuntimeError: solver fell over (solvers_for_tests.py:" in told["raises"][0]
    assert told["dies"] == ["its process died (exit code 7)"]
    assert outcome.exit_status == 1
    assert len(outcome.errors) == 2
    # The checker's word counts, not the solver's.
    liar = table[table["solver"] == "liar"]
    assert liar["misreported"].tolist() == liar["bound_wrong"].tolist() == [True]
    assert liar["proved"].tolist() == [False]
    first = table[table["solver"] == "first"].iloc[0]
    window = library.load(first["instance"])
    value = check(window, spread_plan(window, 1), Objective("sum")).value
    assert value is not None
    assert float(first["value"]) == value.objective
    assert float(first["wall_s"]) < 5
    record = json.loads((tmp_path / "out/study.json").read_text())
    assert record["errors"] == 2
    assert record["machine"]["cores"]
    assert set(table["processor"]) == {record["machine"]["processor"]}  # of each solve: a study may go on elsewhere


def test_finished_rows_are_kept_and_a_changed_study_is_refused(library: Library, tmp_path: Path) -> None:
    made = study(library, {"formulation": "first"}, instances={"sizes": [8]})
    states = []
    run_solver_study(made, tmp_path / "out")
    before = (tmp_path / "out/solves.csv").read_text()
    outcome = run_solver_study(made, tmp_path / "out", on_progress=states.append)
    assert (outcome.reused, outcome.total) == (2, 2)
    assert [(s.done, s.reused) for s in states] == [(2, 2)]
    assert (tmp_path / "out/solves.csv").read_text() == before
    changed = study(library, {"formulation": "first", "threads": 2}, instances={"sizes": [8]})
    with pytest.raises(ConfigError, match=r"has changed since it was started: solvers\.first"):
        run_solver_study(changed, tmp_path / "out")
    assert run_solver_study(changed, tmp_path / "out", fresh=True).reused == 0


def test_what_is_stopped_goes_on(library: Library, tmp_path: Path) -> None:
    made = study(library, {"formulation": "first"}, instances={"sizes": [8]})

    def stop(state: Any) -> None:
        if state.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="1 of 2 solves are finished and kept"):
        run_solver_study(made, tmp_path / "out", on_progress=stop)
    assert run_solver_study(made, tmp_path / "out").reused == 1


def test_a_solver_that_hangs_is_ended(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_pool, "PATIENCE", 1.0)
    tasks = [SolveTask(name, "n004-roomy-x1", 4, "sum", Solver(name, name), 50.0) for name in ("hangs", "first")]
    rows = {
        task.solver.label: row for task, row in solver_pool.solve_all(tasks, str(library.folder), 1, patience_s=5.0)
    }
    assert rows["hangs"]["error"] == "it did not come back, its process was ended"
    assert rows["first"]["status"] == "feasible"


def test_an_unknown_formulation_or_option_is_found_before_anything_runs(library: Library, tmp_path: Path) -> None:
    for solver, word in (({"formulation": "frist"}, "did you mean 'first'"),
                         ({"formulation": "first", "options": {"tires": 1}}, "did you mean 'tries'")):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            run_solver_study(study(library, solver), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_hint_is_given_where_it_is_asked_for(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(window: Window) -> WindowPlan:
        return spread_plan(window, 2)

    monkeypatch.setattr("hexopt.experiments.solver_work.greedy_plan", greedy)
    bench = Bench(str(library.folder))
    window = library.load("n008-roomy-x4")
    hinted = check(window, greedy(window), Objective("sum")).value
    for hint, used in (("none", False), ("greedy", True)):
        task = SolveTask("k", "n008-roomy-x4", 8, "sum", Solver(hint, "first", hint=hint), 1.0)
        bench.prepare(task)
        row = bench.measure(task)  # 1 ms is too short for a plan of its own
        assert hinted is not None
        assert row["greedy_value"] == hinted.objective
        assert row["value"] == (hinted.objective if used else None)
        assert row["worse_than_hint"] is False


def rows_of(*given: tuple[str, str, float, float | None, float | None]) -> list[dict[str, Any]]:
    """Rows (objective, solver, limit in ms, value, bound) of one instance with a greedy plan of value 12."""
    return [
        {
            "instance": "n004-roomy-a", "regime": "roomy", "calls": 4, "objective": objective, "solver": solver,
            "limit_ms": limit, "status": "feasible", "value": value, "total": value, "bound": bound,
            "proved": value is not None and value == bound, "greedy_value": 12.0, "greedy_total": 12.0,
            "single_call_bound": 5.0, "wall_s": 2 * limit / 1000, "error": "",
        }
        for objective, solver, limit, value, bound in given
    ]  # fmt: skip


def test_gaps_by_hand() -> None:
    table = solves_table(
        rows_of(
            ("sum", "a", 5, None, None), ("sum", "a", 20, 11.0, 8.0), ("sum", "b", 5, 13.0, None),
            ("sum", "b", 20, 10.0, 10.0), ("sum", "c", 5, 11.0, 11.0),
        ),
        {},
    )  # fmt: skip
    assert set(table["best_known"]) == {10.0}
    assert set(table["best_known_from"]) == {"study"}
    assert table["gap"].round(9).tolist()[1:] == [0.1, 0.3, 0.0, 0.1]
    # Without a plan, or with a worse one, the greedy plan is what would be served.
    assert table["gap_served"].round(9).tolist() == [0.2, 0.1, 0.2, 0.0, 0.1]
    # A bound above a plan that somebody has is wrong, and what it proved is not.
    assert table["bound_wrong"].tolist() == [False, False, False, False, True]
    assert table["proved"].tolist() == [False, False, False, True, False]
    assert set(table["best_bound"]) == {10.0}
    assert table["bound_gap"].round(9).tolist()[1] == 0.2
    assert table["overrun_s"].round(9).tolist() == [0.005, 0.02, 0.005, 0.02, 0.005]
    summary = summary_table(table, ["calls"]).set_index(["solver", "limit_ms"])
    assert summary.loc[("a", 5), "no_plan"] == 1
    assert summary.loc[("b", 20), ["proved", "close", "better_than_greedy"]].tolist() == [1, 1, 1]
    assert summary.loc[("b", 5), "better_than_greedy"] == 0
    assert summary.loc[("a", 20), "greedy_mean"] == pytest.approx(0.2)


def test_where_a_process_died_the_greedy_plan_is_served() -> None:
    rows = rows_of(("sum", "a", 5, 10.0, None), ("sum", "b", 5, None, None))
    for name in ("greedy_value", "greedy_total", "single_call_bound"):
        rows[1].pop(name, None)
    table = solves_table([rows[0] | {"greedy_value": 12.0, "greedy_total": 12.0}, rows[1]], {})
    assert table["gap_served"].tolist() == pytest.approx([0.0, 0.2])


def test_a_proof_by_a_wrong_bound_is_none() -> None:
    rows = rows_of(("sum", "a", 5, 10.0, 10.5), ("sum", "b", 5, 10.0, 10.0))
    table = solves_table([rows[0] | {"proved": True}, rows[1]], {})
    assert table["bound_wrong"].tolist() == [True, False]
    assert table["proved"].tolist() == [False, True]


def test_the_best_known_may_be_the_librarys() -> None:
    row = BestKnown("n004-roomy-a", "sum", 8.0, 8.0, "someone", 1.0, 7.0, "someone", 1.0, "")
    table = solves_table(rows_of(("sum", "a", 5, 10.0, 6.0)), {("n004-roomy-a", "sum"): row})
    assert table["best_known_from"].tolist() == ["library"]
    assert table["gap"].tolist() == [0.25]
    assert table["best_bound"].tolist() == [7.0]


def test_the_gap_of_a_count_is_a_difference() -> None:
    table = solves_table(rows_of(("late:2", "a", 5, 0.0, 0.0), ("late:2", "b", 5, 3.0, None)), {})
    assert table["gap"].tolist() == [0.0, 3.0]
