"""``hexopt window``: what it prints, draws, keeps and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import hexopt
from hexopt.core.window import load_window
from hexopt.experiments.windows import harvest_windows
from tests.cli.conftest import Outcome
from tests.formulations.windows import random_window

Command = Callable[..., Outcome]


@pytest.fixture
def files(here: Path) -> Path:
    window = replace(random_window(4, 5, prefills=2, decodes=2), name="n005-roomy-a")
    window.save(here / "w.json")
    plan = [[c.prefills()[0], c.decodes()[k % 2], k] for k, c in enumerate(window.calls)]
    (here / "plan.json").write_text(json.dumps(plan))
    (here / "bad.json").write_text(json.dumps({"plan": [[9, 0, 0], *plan[1:]]}))
    return here


def test_show_draws(files: Path, hexopt_command: Command) -> None:
    assert hexopt_command("window", "show", "w.json").status == 0
    assert (files / "n005-roomy-a.png").stat().st_size > 10_000
    shown = hexopt_command("window", "show", "w.json", "--plan", "plan.json", "--out", "x.svg")
    assert shown.out.splitlines()[0] == "n005-roomy-a: 5 open and 0 bound calls"
    # A plan that breaks a rule is said to, and the window is drawn all the same.
    assert hexopt_command("window", "show", "w.json", "--plan", "bad.json", "--out", "y.svg").status == 0
    hexopt_command("window", "show", "w.json", "--out", "z.svg")
    assert len({(files / name).read_text() for name in ("x.svg", "y.svg", "z.svg")}) == 3
    refused = hexopt_command("window", "show", "w.json", "--out", "y.gif")
    assert refused.status == 2
    assert "'y.gif' found, a picture ends in .png or .svg" in refused.err


def test_check_judges(files: Path, hexopt_command: Command) -> None:
    assert hexopt_command("window", "check", "w.json").out == "w.json: valid, 5 calls of 4 workflows\n"
    judged = hexopt_command("window", "check", "w.json", "--plan", "plan.json", "--objective", "sum")
    assert judged.status == 0
    assert judged.out.startswith("sum ")
    refused = hexopt_command("window", "check", "w.json", "--plan", "bad.json")
    assert refused.status == 2
    assert refused.err.startswith("error: instance-unknown: call 'c0': pair (9, 0) found")


def test_the_library_from_outside(files: Path, hexopt_command: Command) -> None:
    there = ("--library", "lib")
    assert hexopt_command("window", "add", "w.json", *there).out == "lib/instances/n005-roomy-a.json\n"
    submit = ("window", "submit", "n005-roomy-a", "plan.json", "--by", "hand", "--seconds", "1", *there)
    assert hexopt_command(*submit).out.endswith("entered\n")
    assert "not entered" in hexopt_command(*submit).out
    listed = hexopt_command("window", "list", *there).out
    assert "n005-roomy-a" in listed
    assert "bottleneck" in listed
    assert "1 values verified" in hexopt_command("window", "verify", *there).out
    table = files / "lib" / "best_known.csv"
    table.write_text(table.read_text().replace("0/0/", "1/0/"))
    assert hexopt_command("window", "verify", *there).status == 2


CUT = ("window", "cut", "--trace", "small.jsonl", "--cluster", "tiny", "--policy", "fcfs", "--predictor", "oracle")


def test_cut_writes_windows_of_the_sizes_asked_for(here: Path, hexopt_command: Command) -> None:
    made = hexopt_command(
        *CUT, "--arrivals", "fixed:0.0001", "--size", "4", "--size", "2", "--limit", "2", "--out", "w"
    )
    assert made.status == 0
    lines = made.out.splitlines()
    windows = [load_window(line.partition(":")[0]) for line in lines]
    assert [sum(c.is_open for c in window.calls) for window in windows] == [4, 2, 2]
    assert lines[0] == "w/window-0000-n006.json: 4 open and 2 bound calls"
    # They are those of the run that the options describe, and no window differs from what Python would have cut.
    trace, site = hexopt.load_trace("small.jsonl"), hexopt.load_cluster("tiny")
    how = {"predictor": "oracle", "arrivals": "fixed:0.0001"}
    assert windows[1:] == harvest_windows(trace, site, "fcfs", least=2, most=2, limit=2, **how)
    assert hexopt_command("window", "check", lines[0].partition(":")[0]).status == 0


def test_cut_says_what_cannot_be_had(here: Path, hexopt_command: Command) -> None:
    quick = (*CUT, "--arrivals", "fixed:0.0001", "--out", "w")
    partly = hexopt_command(*quick, "--size", "2", "--size", "99")
    assert partly.status == 2
    assert partly.out.startswith("w/window-0000-n00")
    assert partly.err.startswith("error: --size: 99 found, so many calls never wait in this run, raise the load")
    refused = hexopt_command(*quick, "--size", "2", "--prefix", "a/b")
    assert refused.err == "error: --prefix: 'a/b' found, a file name begins with it, drop what names a folder\n"
    assert "--arrivals" in hexopt_command(*CUT, "--size", "2").err  # as for hexopt simulate
    assert hexopt_command(*quick).status == 2
    assert hexopt_command(*quick, "--size", "0").status == 2
    (here / "file").write_text("")
    assert "results must be writable" in hexopt_command(*CUT, "--size", "2", "--out", "file").err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "a window is one JSON object"),
        ("[]", "a window is a JSON object"),
        ('{"schema_version": 2}', "schema_version is 2"),
        ('{"schema_version": 1, "name": "x", "callz": []}', "did you mean 'calls'?"),
    ],
)
def test_bad_files_are_named(here: Path, hexopt_command: Command, content: str, said: str) -> None:
    (here / "w.json").write_text(content)
    refused = hexopt_command("window", "check", "w.json")
    assert refused.status == 2
    assert refused.err.startswith("error: w.json: ")
    assert said in refused.err
    assert refused.err.count("\n") == 1


def test_unknown_instances_are_named(here: Path, hexopt_command: Command) -> None:
    refused = hexopt_command("window", "check", "n005-roomy-x", "--library", "lib")
    assert refused.status == 2
    assert "lib/instances has none of this name" in refused.err
    assert "No such file" in hexopt_command("window", "check", "nowhere.json").err


def test_an_objective_may_be_written_in_many_ways(files: Path, hexopt_command: Command) -> None:
    there = ("--library", "lib")
    hexopt_command("window", "add", "w.json", *there)
    submit = ("window", "submit", "n005-roomy-a", "plan.json", "--by", "hand", "--seconds", "1", *there)
    for text, known in (("late:1.50", "late:1.5"), ("late: 1.2345678", "late:1.2345678")):
        done = hexopt_command(*submit, "--objective", text)
        assert done.status == 0
        assert done.out.startswith(f"n005-roomy-a, {known}: best known ")


def test_solve_refuses_a_picture_before_it_does_anything(files: Path, hexopt_command: Command) -> None:
    there = ("--library", "lib")
    hexopt_command("window", "add", "w.json", *there)
    solve = ("solve", "n005-roomy-a", "--formulation", "local-search", "--iterations", "10", "--submit", "me", *there)
    assert hexopt_command(*solve, "--out", "y.gif").status == 2
    assert not (files / "lib" / "best_known.csv").exists()


def test_solve_tells_the_machine(files: Path, hexopt_command: Command) -> None:
    done = hexopt_command("solve", "w.json", "--formulation", "exhaustive", "--deterministic", "0.001", "--json")
    told = json.loads(done.out)
    assert told["stop_reason"] == "work-limit"
    assert told["machine"]["processor"]
    assert {"python", "cores", "ortools", "numpy"} <= set(told["machine"])
    assert "machine" not in hexopt_command("solve", "w.json", "--formulation", "exhaustive", "--deterministic", "1").out
