"""The time to completion: what is left by what it costs, among the workers there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from hexopt.cli.console import left
from hexopt.experiments import Progress, RunSpec, load_config, make_grid, run_experiment
from hexopt.experiments.remaining import Remaining
from tests.experiments.small import EXPERIMENT


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def spec(policy: str, seed: int, cluster: str = "c", trace: str = "t") -> RunSpec:
    key = f"{cluster}{trace}{policy}{seed}"
    return RunSpec(key, "", cluster, trace, None, 0.0, policy, policy, (), "", None, None, seed, 0, 0, None)


CHEAP = [spec("cheap", seed) for seed in range(10)]
DEAR = [spec("dear", seed) for seed in range(10)]


def test_nothing_is_said_before_anything_is_measured() -> None:
    watch = Remaining(CHEAP)
    assert watch.seconds is None
    assert watch.unmeasured == 1


def test_kinds_of_run_count_by_their_own_cost() -> None:
    watch = Remaining([*CHEAP, *DEAR], clock=Clock())
    watch.ended(CHEAP[0], 1.0)
    assert watch.unmeasured == 1
    watch.ended(DEAR[0], 100.0)
    assert watch.unmeasured == 0
    assert watch.seconds == pytest.approx(9 * 1 + 9 * 100), "and not the share done: 2 of 20"


def test_earlier_calls_have_measured() -> None:
    watch = Remaining(DEAR[5:], [(run, 10.0 + run.seed) for run in DEAR[:5]], clock=Clock())
    assert watch.seconds == pytest.approx(5 * 12)


def test_workers_share_the_work_but_not_one_run() -> None:
    watch = Remaining(DEAR, [(CHEAP[0], 1.0), (DEAR[0], 10.0)], workers=4, clock=Clock())
    assert watch.seconds == pytest.approx(100 / 4)
    watch.workers = 50
    assert watch.seconds == pytest.approx(10), "a run takes what it takes"


def test_what_runs_at_work_have_done_already_is_no_longer_left() -> None:
    clock = Clock()
    watch = Remaining(DEAR[:3], [(DEAR[9], 10.0)], workers=2, clock=clock)
    watch.started(DEAR[0])
    watch.started(DEAR[1])
    clock.now = 4
    assert watch.seconds == pytest.approx((30 - 8) / 2)
    watch.ended(DEAR[0], 10.0)
    watch.ended(DEAR[1], 10.0)
    watch.started(DEAR[2])
    clock.now = 7
    assert watch.seconds == pytest.approx(7)
    clock.now = 99
    assert watch.seconds == 0, "overdue"


def test_an_unmeasured_kind_costs_what_its_policy_costs_elsewhere() -> None:
    elsewhere = spec("dear", 0, trace="other")
    watch = Remaining([spec("dear", 1, trace="new")], [(elsewhere, 50.0), (CHEAP[0], 1.0)], clock=Clock())
    assert (watch.seconds, watch.unmeasured) == (50, 1)
    watch = Remaining([spec("new", 1)], [(elsewhere, 50.0), (CHEAP[0], 1.0)], clock=Clock())
    assert watch.seconds == 1, "or else what runs of its trace cost"
    watch = Remaining([spec("new", 1, "d", "u")], [(elsewhere, 50.0), (CHEAP[0], 1.0)], clock=Clock())
    assert watch.seconds == pytest.approx(25.5), "or else what any run costs"


def test_a_study_that_is_slower_than_its_runs_says_so() -> None:
    clock = Clock()
    watch = Remaining(CHEAP, workers=1, clock=clock)
    clock.now = 30  # workers start up, once
    watch.ended(CHEAP[0], 1.0)
    for run in CHEAP[1:5]:
        clock.now += 1.5
        watch.ended(run, 1.0)
    assert watch.seconds == pytest.approx(5 * 1.5)


def test_a_failed_run_measures_nothing() -> None:
    watch = Remaining(CHEAP[:3], clock=Clock())
    watch.ended(CHEAP[0], None)
    assert watch.seconds is None
    watch.ended(CHEAP[1], 2.0)
    assert watch.seconds == 2


def test_progress_tells_it(experiment: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = load_config(experiment)
    run_experiment(config, tmp_path / "out", jobs=1, on_progress=seen.append)
    assert seen[0].left_s is None
    assert [p.unmeasured for p in seen] == [2, 1, 0, 0, 0]
    assert all(p.left_s and p.left_s > 0 for p in seen[1:4])
    assert seen[4].left_s == 0
    for folder in sorted((tmp_path / "out" / "runs").iterdir())[:2]:
        (folder / "summary.json").unlink()
    again: list[Progress] = []
    run_experiment(config, tmp_path / "out", jobs=1, on_progress=again.append)
    assert again[0].done == 2
    assert again[0].left_s, "the runs that are there have measured it"


def test_policies_take_turns_so_that_all_are_measured_soon(experiment: Path, tmp_path: Path) -> None:
    experiment.write_text(EXPERIMENT.replace("seeds = 2", "seeds = 3"))
    seen: list[Progress] = []
    run_experiment(load_config(experiment), tmp_path / "out", jobs=1, on_progress=seen.append)
    assert [p.title.split(" · ")[1] for p in seen[1:]] == ["fcfs", "hexagent"] * 3
    assert len(make_grid(load_config(experiment)).runs) == 6


def test_words() -> None:
    assert left(200.0, 0) == "about 3 min left"
    assert left(0.4, 0) == "about 0 s left"
    assert left(119.0, 1) == "perhaps 119 s left (1 kind of run not yet measured)"
    assert left(30_000.0, 2) == "perhaps 8 h left (2 kinds of run not yet measured)"
    assert left(400_000.0, 0) == "about 5 d left"
