"""docs/invariants.md and tests/invariants name each other: no invariant without its test, no test without its line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.invariants.evidence import CHECKS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8")


def named() -> set[str]:
    return set(re.findall(r"`(test_\w+\.py::test_\w+(?:\[[\w-]+\])?)`", PAGE))


def existing() -> set[str]:
    found = set()
    for path in sorted((ROOT / "tests" / "invariants").glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {f"{path.name}::{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {name for name in found if "::test_" in name}


def test_every_invariant_has_a_test_and_every_test_an_invariant() -> None:
    tables = {f"test_tables.py::test_tables[{check}]" for check in CHECKS}
    assert named() == existing() - {"test_tables.py::test_tables"} | tables


def test_invariants_are_numbered_and_complete() -> None:
    entries = re.findall(r"^\*\*I(\d+) [^*]+\*\*(.*?)(?=^\*\*I\d+ |^## |\Z)", PAGE, re.M | re.S)
    assert [int(number) for number, _ in entries] == list(range(1, len(entries) + 1))
    for number, text in entries:
        assert "*Why:*" in text, f"I{number} does not say why"
        assert re.search(r"\*Tests?:\*", text), f"I{number} names no test"
