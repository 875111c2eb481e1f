"""The instance library: names, what may enter, what is refused, and that what is there is true."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.errors import WindowError
from hexopt.formulations import BOTTLENECK, Objective, check
from hexopt.formulations.library import NAME, Library, read_plan, write_plan
from tests.formulations.windows import random_window

SHIPPED = Library(Path(__file__).parents[2] / "formulations")


@pytest.fixture
def window() -> Window:
    return replace(random_window(4, 5, prefills=2, decodes=2), name="n005-roomy-a")


@pytest.fixture
def library(tmp_path: Path, window: Window) -> Library:
    library = Library(tmp_path / "lib")
    library.add(window)
    return library


def plans(window: Window) -> list[WindowPlan]:
    """Legal plans, the best by the bottleneck first."""
    found = []
    for k in range(64):
        plan = tuple(
            Placement(k >> c & 1 if k >> c & 1 in call.prefills() else call.prefills()[0], call.decodes()[c % 2], c)
            for c, call in enumerate(window.calls)
        )
        value = check(window, plan).value
        if value is not None:
            found.append((value, plan))
    found.sort(key=lambda row: row[0])
    assert found[0][0] < found[-1][0]
    return [plan for _, plan in found]


def test_what_is_added_is_found(library: Library, window: Window) -> None:
    assert library.names() == ["n005-roomy-a"]
    assert library.load("n005-roomy-a") == window
    assert library.add(window) == library.path("n005-roomy-a")  # again: nothing to do
    library.add(window, "n005-roomy-b", compress=True)
    assert library.path("n005-roomy-b").name == "n005-roomy-b.json.gz"
    assert library.load("n005-roomy-b") == replace(window, name="n005-roomy-b")


@pytest.mark.parametrize("name", ["roomy", "n006-roomy-a", "n005-Roomy-a", "n005-a", "n005-roomy-../x"])
def test_names_are_regular(library: Library, window: Window, name: str) -> None:
    with pytest.raises(WindowError, match="nNNN-REGIME-ID"):
        library.add(window, name)


def test_a_name_belongs_to_one_window(library: Library, window: Window) -> None:
    with pytest.raises(WindowError, match="another window has this name"):
        library.add(replace(window, provenance="elsewhere"))


def test_only_what_is_better_enters(library: Library, window: Window) -> None:
    best, worst = plans(window)[0], plans(window)[-1]
    assert library.submit("n005-roomy-a", BOTTLENECK, worst, "first", 1.0)
    assert not library.submit("n005-roomy-a", BOTTLENECK, worst, "second", 0.5)
    assert library.submit("n005-roomy-a", BOTTLENECK, best, "third", 2.0)
    assert not library.submit("n005-roomy-a", BOTTLENECK, worst, "fourth", 2.0)
    row = library.best_known()["n005-roomy-a", "bottleneck"]
    verdict = check(window, best)
    assert verdict.value == (row.value, row.total)
    assert row.found_by == "third"
    assert library.verify() == []
    # Another objective has a row of its own.
    late = Objective("late", slo_scale=1.5)
    assert library.submit("n005-roomy-a", late, best, "third", 2.0)
    assert len(library.best_known()) == 2


def test_a_bound_enters_unless_a_plan_refutes_it(library: Library, window: Window) -> None:
    best = plans(window)[0]
    value = check(window, best).value
    assert value is not None
    library.submit("n005-roomy-a", BOTTLENECK, best, "search", 1.0)
    assert library.submit("n005-roomy-a", BOTTLENECK, None, "prover", 3.0, bound=0.5 * value.objective)
    assert not library.proved(library.best_known()["n005-roomy-a", "bottleneck"])
    with pytest.raises(WindowError, match="a bound is below all plans"):
        library.submit("n005-roomy-a", BOTTLENECK, None, "liar", 3.0, bound=1.01 * value.objective)
    assert library.submit("n005-roomy-a", BOTTLENECK, None, "prover", 3.0, bound=value.objective)
    assert library.proved(library.best_known()["n005-roomy-a", "bottleneck"])
    assert library.verify() == []


def test_a_bound_half_a_us_below_proves_a_value(library: Library, window: Window) -> None:
    best = plans(window)[0]
    value = check(window, best).value
    assert value is not None
    us = 1 / max(w.horizon_us for w in window.workflows)
    for below, proved in ((1.0, False), (0.4, True)):
        library.submit("n005-roomy-a", BOTTLENECK, best, "search", 1.0, bound=value.objective - below * us)
        row = library.best_known()["n005-roomy-a", "bottleneck"]
        assert (row.bound == value.objective - below * us, library.proved(row)) == (True, proved)


def test_a_plan_that_breaks_a_rule_is_refused(library: Library, window: Window) -> None:
    wrong = (Placement(7, 0, 0.0), *plans(window)[0][1:])
    with pytest.raises(WindowError, match="there are 2 and 2 instances"):
        library.submit("n005-roomy-a", BOTTLENECK, wrong, "liar", 1.0)
    assert library.best_known() == {}


def test_verify_finds_what_is_not_true(library: Library, window: Window) -> None:
    best, worst = plans(window)[0], plans(window)[-1]
    library.submit("n005-roomy-a", BOTTLENECK, best, "search", 1.0)
    whole = library.table.read_text()
    library.table.write_text(whole.replace(write_plan(best), write_plan(worst)))
    assert "the checker says" in library.verify()[0]
    library.table.write_text(whole.replace(write_plan(best), "0/0/0"))
    assert "for each of 5 calls" in library.verify()[0]
    library.table.write_text(whole.replace("n005-roomy-a", "n005-roomy-c"))
    assert "none of this name" in library.verify()[0]
    library.table.write_text(whole.replace("search", "search,,,,,,"))
    with pytest.raises(WindowError, match=r"best_known\.csv:2: "):
        library.best_known()


def test_plans_survive_writing(window: Window) -> None:
    for plan in plans(window):
        again = read_plan(window, write_plan(plan))
        assert [p[:2] for p in again] == [p[:2] for p in plan]
        assert check(window, again).finish_us == check(window, plan).finish_us


def test_every_shipped_best_known_value_is_true() -> None:
    assert SHIPPED.verify() == []
    names = set(SHIPPED.names())
    assert {name for name, _ in SHIPPED.best_known()} <= names


def test_the_library_has_windows_of_every_size_and_regime() -> None:
    names = [found for name in SHIPPED.names() if (found := NAME.fullmatch(name))]
    assert len(names) == len(SHIPPED.names()) >= 200
    sizes = {"004", "008", "016", "032", "064", "128"}
    regimes = {"roomy", "high-load", "tight-kv", "strict-kv", "slow-network", "fan-out", "uneven"}
    assert {(found["calls"], found["regime"]) for found in names} >= {(n, r) for n in sizes for r in regimes}
    assert sum(file.stat().st_size for file in (SHIPPED.folder / "instances").iterdir()) < 6_000_000


@pytest.mark.parametrize("size", [4, 8, 16, 32, 64, 128])
def test_every_window_of_the_library_can_be_read_and_has_something_to_place(size: int) -> None:
    for name in SHIPPED.names():
        if name.startswith(f"n{size:03d}-"):
            window = SHIPPED.load(name)
            assert window.name == name
            assert len(window.calls) == size
            assert sum(call.is_open for call in window.calls) >= 0.3 * size - 1, name
            assert window.provenance


@pytest.mark.parametrize(("seconds", "limit"), [(math.nan, None), (-1.0, None), (1.0, math.nan), (1.0, -math.inf)])
def test_numbers_that_are_none_do_not_enter(
    library: Library, window: Window, seconds: float, limit: float | None
) -> None:
    with pytest.raises(WindowError, match=r"(seconds|bound) is .*, a finite number"):
        library.submit(window.name, BOTTLENECK, plans(window)[0], "someone", seconds, limit)
    assert library.best_known() == {}
