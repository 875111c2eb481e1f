"""Every policy that has a name keeps the rules, whoever added it."""

from __future__ import annotations

from typing import Any

import pytest

import hexopt
from hexopt.policies.registry import policy_names
from hexopt.testing import RULES, check_policy

EXCLUDED = {
    "replay": "it carries out a table of decisions that was made for one trace on one cluster",
}
"""Policies that cannot be run on the kit's own scenarios, and why."""

OPTIONS: dict[str, dict[str, Any]] = {
    "rolling-cpsat": {"deterministic": 0.0005, "most": 5},
    "rolling-milp": {"deterministic": 0.01, "most": 4},
    "rolling-search": {"iterations": 50, "most": 8},
}
"""Options that a policy must be given, or without which the kit's many rounds take minutes."""

SLOW = {"rolling-cpsat", "rolling-milp"}
"""Policies whose every round costs milliseconds in a solver: the long checks have them, and not thoroughly."""

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("hexagent", {"kv_room": "now", "keep_maximum": True}),
    ("hexagent", {"small_queue": 0, "risk_until": "phase", "replan_queued": False}),
]
"""Options that make a policy go other ways."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in policy_names()
        if name not in EXCLUDED
    ],
)
def test_registered_policies_conform(name: str) -> None:
    report = check_policy(lambda: hexopt.make_policy(name, **OPTIONS.get(name, {})))
    assert report.policy == name
    assert list(report.checks) == list(RULES)
    assert min(report.checks.values()) > 0


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda value: str(value))
def test_variants_conform(name: str, options: dict[str, Any]) -> None:
    check_policy(lambda: hexopt.make_policy(name, **options))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in policy_names() if name not in {*EXCLUDED, *SLOW}])
def test_registered_policies_conform_thoroughly(name: str) -> None:
    check_policy(lambda: hexopt.make_policy(name, **OPTIONS.get(name, {})), thorough=True)


def test_what_is_excluded_exists() -> None:
    assert {*EXCLUDED, *OPTIONS, *(name for name, _ in VARIANTS)} <= set(policy_names())
