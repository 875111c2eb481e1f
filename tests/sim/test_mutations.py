"""The mutations of ``tests/mutations.py`` still are: each replaces a text that its file has exactly once."""

from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.rule)
def test_a_mutation_can_be_applied(mutation: Mutation) -> None:
    assert (ROOT / "src" / "hexopt" / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.old != mutation.new
