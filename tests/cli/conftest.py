"""A folder with a small trace and experiment, to be worked in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hexopt.cli import run
from tests.experiments.small import EXPERIMENT, write_small_trace


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_small_trace(tmp_path / "small.jsonl")
    (tmp_path / "small.toml").write_text(EXPERIMENT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEXOPT_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def hexopt_command(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def call(*args: str) -> Outcome:
        status = run(list(args))
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call
