"""check_formulation: what keeps the rules passes, and what breaks one is told which."""

from __future__ import annotations

import pytest

from hexopt.errors import ConfigError, ConformanceError
from hexopt.formulations import check, formulation_names, make_formulation
from hexopt.formulations.milp.backends import SOLVERS
from hexopt.formulations.pressure import pressure
from hexopt.formulations.registry import FORMULATIONS
from hexopt.testing import FORMULATION_RULES, check_formulation
from hexopt.testing import formulations as kit
from hexopt.testing.windows import all_plans, tiny_windows
from tests.conformance.broken_formulations import BROKEN_FORMULATIONS, Broken, DecentFormulation


@pytest.mark.parametrize("case", BROKEN_FORMULATIONS, ids=lambda case: case.formulation.__name__)
def test_broken_formulations_are_told_their_rule(case: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.rule == "F10":
        monkeypatch.setattr(kit, "LATE_S", 0.25)
    with pytest.raises(ConformanceError) as caught:
        check_formulation(case.formulation)
    message, rule = str(caught.value), FORMULATION_RULES[case.rule]
    assert caught.value.rule == case.rule, message
    assert message.startswith("formulation '")
    assert message.endswith(f", {case.rule} {rule.title}: {rule.text}, {rule.remedy}")
    assert case.words in message
    assert "\n" not in message


def test_every_rule_has_a_formulation_that_breaks_it() -> None:
    assert {case.rule for case in BROKEN_FORMULATIONS} == set(FORMULATION_RULES)


def test_what_breaks_nothing_passes() -> None:
    """A class, an instance of which copies are checked, and a callable."""
    report = check_formulation(DecentFormulation)
    assert report.formulation == "decent"
    assert all(report.checks.values())
    assert report.stated == ("bottleneck", "sum", "hinge:0.8,give_up=0.5", "late:0.8")
    assert 0 < report.optimal < report.answers
    assert str(report).startswith("formulation 'decent' keeps all rules\n")
    assert str(check_formulation(DecentFormulation())) == str(report)


def test_what_cannot_be_built() -> None:
    with pytest.raises(ConfigError, match="formulation 'milp-deadlin': it is unknown, did you mean 'milp-deadline'"):
        check_formulation("milp-deadlin")
    with pytest.raises(ConfigError, match=r"it cannot be built .*lambda: MyFormulation"):
        check_formulation(lambda option: DecentFormulation())  # type: ignore[misc, arg-type]


@pytest.mark.parametrize("name", sorted(FORMULATIONS))
def test_ours_keep_the_rules(name: str) -> None:
    assert name in formulation_names()
    assert check_formulation(name).formulation == name


@pytest.mark.slow
@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"highs"}))
@pytest.mark.parametrize("name", [name for name in sorted(FORMULATIONS) if name.startswith("milp-")])
def test_the_linear_ones_do_with_every_solver(name: str, solver: str) -> None:
    assert check_formulation(lambda: make_formulation(name, solver=solver)).optimal > 100


def test_the_windows_are_as_hard_as_they_claim() -> None:
    there = {window.name: window for window in tiny_windows()}
    assert max(len(window.calls) for window in there.values()) == 3
    assert not any(pressure(there["no contention"]))
    assert pressure(there["tight KV"]).kv
    assert pressure(there["tight prefill KV"]).prefill_kv
    assert pressure(there["slow network"]).nic
    for name in ("no decode slots", "KV never fits"):
        assert not any(check(there[name], plan).feasible for plan in all_plans(there[name]))
    delayed = [
        any(a > e for a, e in zip(v.admit_us, v.prefill_end_us, strict=True))
        for v in (check(there["tight KV"], plan) for plan in all_plans(there["tight KV"]))
    ]
    assert any(delayed)
