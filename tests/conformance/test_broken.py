"""A policy that breaks a rule fails, and is told which."""

from __future__ import annotations

import copy

import pytest

from hexopt.errors import ConformanceError, HexoptError
from hexopt.testing import RULES, check_policy
from hexopt.testing.foresight import check_foresight
from tests.conformance.broken import BROKEN, Broken, Decent, Liberties

FORESEEING = [case for case in BROKEN if case.rule == "P10"]


@pytest.mark.parametrize("case", [case for case in BROKEN if case.rule != "P10"], ids=lambda case: case.policy.__name__)
def test_broken_policies_are_told_their_rule(case: Broken) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_policy(case.policy)
    assert_told(case, caught.value)


@pytest.mark.parametrize("case", FORESEEING, ids=lambda case: case.policy.__name__)
def test_foresight_is_told_with_what_was_hidden(case: Broken) -> None:
    """The last part of the kit alone; all before it takes its time and finds nothing."""
    with pytest.raises(ConformanceError) as caught:
        check_foresight(case.policy, thorough=False)
    assert_told(case, caught.value)


def assert_told(case: Broken, error: ConformanceError) -> None:
    message = str(error)
    rule = RULES[case.rule]
    assert error.rule == case.rule, message
    assert f", {case.rule} {rule.title}: {rule.text}, {rule.remedy}" in message
    assert message.startswith("policy '")
    assert "\n" not in message
    for words in case.words:
        assert words in message


@pytest.mark.parametrize("policy", [Decent, Liberties])
def test_what_breaks_nothing_passes(policy: type[Decent]) -> None:
    """Also a policy that does all it may."""
    assert check_policy(policy).policy == policy.name


def test_every_rule_has_a_policy_that_breaks_it() -> None:
    assert {case.rule for case in BROKEN} == set(RULES)


def test_the_error_is_a_failed_assertion_too() -> None:
    with pytest.raises(AssertionError) as caught:
        check_policy(BROKEN[0].policy)
    assert isinstance(caught.value, HexoptError)
    again = copy.copy(caught.value)
    assert (str(again), again.rule) == (str(caught.value), "P1")  # type: ignore[attr-defined]


def test_what_a_policy_raised_is_the_cause() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_policy(next(case.policy for case in BROKEN if case.policy.__name__ == "NeedsCalls"))
    assert isinstance(caught.value.__cause__, IndexError)
