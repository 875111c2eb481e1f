"""Every experiment file in the repository is read, and its grid can be carried out."""

from __future__ import annotations

from pathlib import Path

import pytest

from hexopt.experiments.config import load_config
from hexopt.experiments.grid import make_grid

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))
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
