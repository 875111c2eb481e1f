"""The script that fills the table of best known values: from solvers, and from a solver comparison that is there."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hexopt.experiments.ledger import Entry, Ledger
from hexopt.formulations import check, parse_objective
from hexopt.formulations.greedy import greedy_plan
from hexopt.formulations.library import Library, write_plan
from hexopt.formulations.single_call import single_call_bound
from tests.experiments.solvers_for_tests import spread_plan
from tests.formulations.windows import random_window

SCRIPT = Path(__file__).parents[2] / "experiments" / "best_known.py"
NAME = "n004-roomy-a"
SUM = parse_objective("sum")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("best_known", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path / "lib")
    library.add(replace(random_window(1, 4), name=NAME))
    return library


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, library: Library, *given: Any) -> None:
    arguments = ["best_known.py", "--library", str(library.folder), *map(str, given)]
    monkeypatch.setattr("sys.argv", arguments)
    script.main()


def write(folder: Path, *rows: dict[str, Any]) -> None:
    """Write the ledger of a comparison."""
    folder.mkdir()
    ledger = Ledger(folder, "code", {})
    for k, row in enumerate(rows):
        whole = {"instance": NAME, "objective": "sum", "wall_s": 0.5, "misreported": False, "bound": None, "plan": ""}
        ledger.append(str(k), Entry(whole | row, {}, {}))
    ledger.close()


def test_plans_and_bounds_of_a_comparison_are_taken_over(
    script: ModuleType, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    window = library.load(NAME)
    plans = sorted((spread_plan(window, step) for step in (1, 2)), key=lambda plan: check(window, plan, SUM).value)
    best, other = (check(window, plan, SUM).value for plan in plans)
    assert best is not None
    assert other is not None
    assert best < other
    low = single_call_bound(window, SUM)
    write(
        tmp_path / "done",
        {"solver": "slow", "plan": write_plan(plans[1]), "bound": low},
        {"solver": "quick", "plan": write_plan(plans[0]), "bound": 0.9 * low},
        {"solver": "lost", "error": "it died"},
        {"solver": "liar", "plan": write_plan(plans[0]), "bound": best.objective, "misreported": True},
    )
    run(script, monkeypatch, library, "--from", tmp_path / "done")
    row = library.best_known()[NAME, "sum"]
    assert (row.value, row.found_by, row.plan) == (best.objective, "quick", write_plan(plans[0]))
    assert (row.bound, row.bound_by, row.bound_s) == (low, "slow", 0.5)
    assert library.verify() == []
    told = capsys.readouterr().out
    assert told.endswith(" changes\n")
    assert "refused" not in told
    run(script, monkeypatch, library, "--from", tmp_path / "done")  # again: nothing is better
    assert capsys.readouterr().out == "0 changes\n"


def test_a_bound_that_a_plan_contradicts_is_refused_and_the_plan_kept(
    script: ModuleType, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    window = library.load(NAME)
    plan = spread_plan(window, 1)
    value = check(window, plan, SUM).value
    assert value is not None
    wrong = {"solver": "wrong", "plan": write_plan(plan), "bound": 2 * value.objective}
    write(tmp_path / "done", wrong, {"solver": "right", "bound": 0.1})
    run(script, monkeypatch, library, "--from", tmp_path / "done")
    row = library.best_known()[NAME, "sum"]
    assert (row.value, row.found_by, row.bound, row.bound_by) == (value.objective, "wrong", 0.1, "right")
    assert "refused: instance 'n004-roomy-a': bound" in capsys.readouterr().out


def test_solving_enters_the_greedy_plan_the_bound_and_what_is_better(
    script: ModuleType, library: Library, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    given = ("--solver", "exhaustive@3", "--solver", "local-search", "--objective", "sum", "--seconds", "0.2")
    run(script, monkeypatch, library, *given)
    row = library.best_known()[NAME, "sum"]
    window = library.load(NAME)
    greedy = greedy_plan(window)
    assert greedy is not None
    assert (row.value, row.total) <= check(window, greedy, SUM).value
    assert row.found_by in ("greedy", "local-search")  # the other is for fewer calls
    assert row.bound is not None
    assert row.bound >= single_call_bound(window, SUM)
    assert "all values verified" in capsys.readouterr().out
