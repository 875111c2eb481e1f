"""The README's Python and its commands do what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = re.findall(r"^hexopt .*$", README, re.M)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("traces", "formulations"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(folder: Path, command: list[str]) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ten_lines(folder: Path) -> None:
    out = run(folder, [sys.executable, "-c", PYTHON[0]])
    assert [line.split()[0] for line in out.splitlines()] == ["fcfs", "hexagent"]
    assert (folder / "results/example/calls.csv").exists()


def test_own_policy(folder: Path) -> None:
    use = """
import hexopt
trace = hexopt.load_trace("traces/samples/bfcl_multi_turn.jsonl").head(5)
result = hexopt.simulate(trace, hexopt.load_cluster("hetero-1-llama"), Shortest())
print(result.summary["finished_workflows"], result.calls["prefill_instance"].nunique())
"""
    assert run(folder, [sys.executable, "-c", PYTHON[1] + use]).split() == ["5", "1"]


def test_commands(folder: Path) -> None:
    assert len(COMMANDS) == 7
    for command in COMMANDS:
        run(folder, [str(Path(sys.executable).with_name("hexopt")), *shlex.split(command)[1:]])
    assert list((folder / "results/one").rglob("*.png"))
    assert (folder / "results/one/report.html").is_file()
    assert (folder / "plan.png").is_file()
