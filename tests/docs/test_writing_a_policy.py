"""docs/writing-a-policy.md, executed: the example runs, keeps the rules, and is found by its entry point."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hexopt.testing import RULES
from hexopt.testing.watch import MOST_INVOCATIONS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "writing-a-policy.md").read_text(encoding="utf-8")
POLICY, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.S)
(PYPROJECT,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
(MESSAGE,) = re.findall(r"```text\n(.*?)\n```", PAGE, re.S)
COMMANDS = re.findall(r"^hexopt .*$", PAGE, re.M)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the page's package, as an installer leaves it, and the traces."""
    project = tomllib.loads(PYPROJECT)["project"]
    (tmp_path / f"{project['name']}.py").write_text(POLICY)
    info = tmp_path / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in targets.items())
        for group, targets in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(entries))
    (tmp_path / "traces").symlink_to(ROOT / "traces")
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    # The folder is not the caller's: a relative entry of the path would lead elsewhere.
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in path.split(os.pathsep))
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_conforms(folder: Path) -> None:
    done = run(folder, "-W", "error", "-c", TEST + "\ntest_conformance()")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("policy 'furthest-first' keeps all rules\n")
    assert "thousand" in done.stdout


def test_the_message_is_what_the_page_shows(folder: Path) -> None:
    spoilt = POLICY.replace("priority=-len(call.workflow.calls)", "priority=random.random()")
    assert spoilt != POLICY
    (folder / "furthest.py").write_text("import random\n" + spoilt)
    done = run(folder, "-c", TEST + "\ntest_conformance()")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == f"hexopt.errors.ConformanceError: {MESSAGE}"


def test_the_commands_find_the_entry_point(folder: Path) -> None:
    assert len(COMMANDS) == 2
    outputs = []
    for command in COMMANDS:
        done = run(folder, "-m", "hexopt.cli", *shlex.split(command)[1:])
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert "The workflow with the most revealed calls goes first" in outputs[0]
    assert list((folder / "results" / "furthest").rglob("calls.csv"))


def test_the_example_is_of_twenty_lines() -> None:
    code = POLICY.split('"""')[2]
    assert 15 <= len([line for line in code.splitlines() if line.strip()]) <= 20


def test_the_page_lists_every_rule() -> None:
    rows = re.findall(r"^\| (P\d+) \| ([^|]+) \|", PAGE, re.M)
    assert rows == [(number, rule.title) for number, rule in RULES.items()]
    assert f"{MOST_INVOCATIONS:,} times" in PAGE
