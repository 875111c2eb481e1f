"""Every experiment file in the repository is read, and its grid can be carried out."""

from __future__ import annotations

from pathlib import Path

import pytest

from hexopt.experiments.config import load_config
from hexopt.experiments.grid import make_grid
from hexopt.experiments.solver_config import is_solver_study, load_solver_study
from hexopt.experiments.solver_study import choose_instances, make_tasks
from hexopt.formulations.library import Library
from hexopt.formulations.registry import make_formulation

SHIPPED = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))
COMPARISONS = [path for path in SHIPPED if is_solver_study(path)]
FILES = [path for path in SHIPPED if path not in COMPARISONS]
LOGS = Path(__file__).parents[3] / "shared" / "traces" / "dev"


def test_there_are_experiments() -> None:
    assert {"quickstart", "paper_hetero", "paper_homogeneous", "paper_load"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grid(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    if path.stem == "real_traces" and not LOGS.is_dir():
        pytest.skip(f"the logs of this study are not part of the project, and {LOGS} is not here")
    grid = make_grid(config)
    assert len({run.key for run in grid.runs}) == len(grid.runs) > 0


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_solver_comparison(path: Path) -> None:
    study = load_solver_study(path)
    assert study.name == path.stem
    names = choose_instances(Library(study.library_folder), study.instances)
    tasks = make_tasks(study, {name: name for name in names}, "")
    assert len({task.key for task in tasks}) == len(tasks) > 0
    assert {task.solver.label for task in tasks} == {entry.title for entry in study.solvers}
    for entry in study.solvers:
        make_formulation(entry.formulation, **entry.options)
