"""What a result says of the policy that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hexopt
from hexopt.errors import ConfigError
from hexopt.policies.registry import make_policy, policy_record, text_options
from tests.policies.views import cluster
from tests.sim.toys import flows


def options(policy: hexopt.Policy) -> dict[str, Any]:
    record = policy_record(policy)
    json.dumps(record, allow_nan=False)
    found: dict[str, Any] = record["options"]
    return found


def test_a_table_in_memory_is_not_written_out(tmp_path: Path) -> None:
    first = hexopt.simulate(flows((0, 100, 5)), cluster(), make_policy("fcfs"), predictor="oracle")
    assert options(make_policy("replay", decisions=first.decisions))["decisions"] == "(in memory)"
    first.save(tmp_path)
    assert options(make_policy("replay", decisions=tmp_path / "decisions.csv"))["decisions"] == str(
        tmp_path / "decisions.csv"
    )


def test_a_fallback_that_its_name_does_not_rebuild() -> None:
    own = make_policy("hexagent", small_queue=5, fallback="none", plan_latency_us=0)
    record = policy_record(make_policy("hexagent", fallback=own))
    assert record["options"]["fallback"] == policy_record(own)
    again = make_policy(record["name"], **record["options"])
    assert again.fallback.small_queue == 5  # type: ignore[attr-defined]
    assert policy_record(again) == record


@pytest.mark.parametrize("name", ["fcfs", "earliest-finish", "hexagent", "none"])
def test_a_fallback_that_its_name_rebuilds(name: str) -> None:
    assert options(make_policy("hexagent", fallback=name))["fallback"] == name


@pytest.mark.parametrize("fallback", [{"name": "fcfs"}, {"name": "fcfs", "options": {}, "more": 1}, {}])
def test_what_is_no_record(fallback: Any) -> None:
    with pytest.raises(ConfigError, match="option 'fallback' is"):
        make_policy("hexagent", fallback=fallback)


def test_options_that_are_texts() -> None:
    assert text_options("replay") == {"decisions"}
    assert text_options("hexagent") == {"forecaster"}
    assert text_options("fcfs") == frozenset()


def test_a_missing_option_is_told_shortly() -> None:
    with pytest.raises(ConfigError) as caught:
        make_policy("replay")
    assert str(caught.value) == (
        "policy 'replay': option 'decisions' is missing, it must be given (A CSV file), give it as option decisions"
    )
