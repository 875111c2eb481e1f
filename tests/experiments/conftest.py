"""A small experiment in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments.small import EXPERIMENT, write_small_trace


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    write_small_trace(tmp_path / "small.jsonl")
    path = tmp_path / "small.toml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path
