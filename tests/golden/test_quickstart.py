"""Golden results: the quickstart gives, to the last digit and byte, what it gave when it was recorded."""

from __future__ import annotations

import json

import pytest

from tests.golden.quickstart import RECORD, outcome

GOLDEN = json.loads(RECORD.read_text()) if RECORD.exists() else {}


@pytest.mark.parametrize("policy", ["fcfs", "workflow-fcfs", "earliest-finish", "hexagent"])
def test_quickstart_is_as_recorded(policy: str) -> None:
    assert outcome(policy) == GOLDEN[policy]
