"""docs/writing-a-formulation.md, executed: the example keeps the rules, and is found by its entry point."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from hexopt.testing import FORMULATION_RULES
from tests.docs.test_writing_a_policy import run

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "writing-a-formulation.md").read_text(encoding="utf-8")
FORMULATION, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.S)
(PYPROJECT,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
(MESSAGE,) = re.findall(r"```text\n(.*?)\n```", PAGE, re.S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the page's package, as an installer leaves it."""
    project = tomllib.loads(PYPROJECT)["project"]
    (tmp_path / f"{project['name']}.py").write_text(FORMULATION)
    info = tmp_path / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in targets.items())
        for group, targets in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(entries))
    return tmp_path


def test_the_example_conforms(folder: Path) -> None:
    done = run(folder, "-W", "error", "-c", TEST + "\ntest_conformance()")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("formulation 'shuffle' keeps all rules\n")


def test_the_message_is_what_the_page_shows(folder: Path) -> None:
    spoilt = FORMULATION.replace(
        "bound = single_call_bound(window, objective)", "bound = best.value and best.value.objective"
    )
    assert spoilt != FORMULATION
    (folder / "shuffle.py").write_text(spoilt)
    done = run(folder, "-c", TEST + "\ntest_conformance()")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == f"hexopt.errors.ConformanceError: {MESSAGE}"


def test_the_entry_point_is_found(folder: Path) -> None:
    done = run(
        folder, "-c", "from hexopt.formulations import *\nprint(formulation_names(), make_formulation('shuffle').name)"
    )
    assert done.returncode == 0, done.stderr
    assert "'shuffle'" in done.stdout
    assert done.stdout.endswith("shuffle\n")


def test_the_page_lists_every_rule() -> None:
    rows = re.findall(r"^\| (F\d+) \| ([^|]+) \|", PAGE, re.M)
    assert rows == [(number, rule.title) for number, rule in FORMULATION_RULES.items()]
