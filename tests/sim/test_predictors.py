"""Output-length predictors: each rule, bad rules, and that no policy moves what they say."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest

import hexopt
from hexopt.core.streams import stream
from hexopt.core.workflow import MAX_TOKENS
from hexopt.errors import ConfigError
from hexopt.sim.predictors import PREDICTORS, make_predictor
from tests.policies.views import cluster
from tests.sim.toys import Acting, chain, first, flows, run


def started(rule: str, trace: hexopt.Trace, seed: int = 0) -> Any:
    predictor = make_predictor(rule)
    predictor.reset(trace, stream(seed, "predictor"))
    return predictor


def test_oracle_knows_the_truth() -> None:
    predictor = started("oracle", flows((0, 10, 7), (0, 10, 1), (0, 10, 900)))
    assert [predictor.predict(w, 0) for w in range(3)] == [7, 1, 900]
    assert predictor.name == "oracle"


def test_constant() -> None:
    predictor = started("constant:256", flows((0, 10, 7), (0, 10, 900)))
    predictor.observe(0, 0)
    assert [predictor.predict(w, 0) for w in range(2)] == [256, 256]
    assert predictor.name == "constant:256"


def test_app_mean_is_the_mean_of_the_applications_completed_calls() -> None:
    call = hexopt.Call
    trace = hexopt.Trace(
        (
            hexopt.Workflow("w0", "chat", 0, (call("c0", (), 10, 10), call("c1", (0,), 10, 13))),
            hexopt.Workflow("w1", "code", 0, (call("c0", (), 10, 100),)),
            hexopt.Workflow("w2", "chat", 0, (call("c0", (), 10, 1),)),
        )
    )
    predictor = started("app-mean", trace)
    assert predictor.name == "app-mean"
    assert predictor.predict(0, 0) == predictor.predict(1, 0) == 256  # the prior
    predictor.observe(0, 0)
    assert (predictor.predict(0, 1), predictor.predict(1, 0)) == (10, 256)
    predictor.observe(0, 1)
    assert predictor.predict(2, 0) == 12  # 11.5, rounded half up
    predictor.observe(2, 0)
    assert predictor.predict(2, 0) == 8  # 24 / 3
    predictor.observe(1, 0)
    assert predictor.predict(1, 0) == 100
    predictor.reset(trace, stream(0, "predictor"))
    assert predictor.predict(0, 0) == 256


def test_app_mean_with_a_prior() -> None:
    predictor = started("app-mean:40", flows((0, 10, 7)))
    assert predictor.name == "app-mean:40"
    assert predictor.predict(0, 0) == 40


def test_app_mean_is_at_least_one() -> None:
    predictor = started("app-mean:1", flows((0, 10, 1)))
    predictor.observe(0, 0)
    assert predictor.predict(0, 0) == 1


def test_noise_is_lognormal() -> None:
    truth = 100_000
    predictor = started("noisy:0.3", flows(*((0, 10, truth) for _ in range(4000))))
    logs = [math.log(predictor.predict(w, 0) / truth) for w in range(4000)]
    # Standard errors of mean and deviation: 0.3/√4000 = 0.0047 and 0.3/√8000 = 0.0034.
    assert abs(statistics.mean(logs)) < 0.024
    assert abs(statistics.stdev(logs) - 0.3) < 0.017


def test_no_noise_is_the_truth_and_predictions_stay_in_range() -> None:
    trace = flows((0, 10, 7), (0, 10, 1), (0, 10, MAX_TOKENS))
    assert [started("noisy:0", trace).predict(w, 0) for w in range(3)] == [7, 1, MAX_TOKENS]
    for seed in range(20):
        predictor = started("noisy:10", trace, seed)
        assert all(1 <= predictor.predict(w, 0) <= MAX_TOKENS for w in range(3))


def test_noise_belongs_to_the_call_not_to_the_order_of_revealing() -> None:
    trace = hexopt.Trace((chain(500, 600, 700), *flows((0, 10, 800), (0, 10, 900)).workflows))
    calls = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]
    one, other = started("noisy:0.5", trace), started("noisy:0.5", trace)
    forward = {c: one.predict(*c) for c in calls}
    for c in calls:
        other.observe(*c)
    assert {c: other.predict(*c) for c in reversed(calls)} == forward
    assert {c: started("noisy:0.5", trace, seed=1).predict(*c) for c in calls} != forward


class Listening(Acting):
    """Remembers what it was told about each call."""

    def __init__(self, **options: Any) -> None:
        self.told: dict[tuple[int, int], int] = {}
        super().__init__(self._act, **options)

    def _act(self, view: hexopt.View) -> Any:
        for call in view.pool:
            self.told[call.workflow.index, call.index] = call.predicted_output_tokens
        placed = view.pool[::-1] if getattr(self, "backwards", False) else view.pool
        return [first(c, -float(i) if getattr(self, "backwards", False) else None) for i, c in enumerate(placed)]


def test_noise_is_the_same_under_every_policy() -> None:
    trace = hexopt.Trace((chain(50, 60, 70, tool_us=100), *flows(*((0, 10, 80) for _ in range(5))).workflows))
    policies = [Listening(), Listening(backwards=True), Listening(plan_latency_us=7_000)]
    for policy in policies:
        run(trace, cluster(), policy, "noisy:0.7", seed=3)
    assert policies[0].told == policies[1].told == policies[2].told
    assert len(policies[0].told) == 8
    other = Listening()
    run(trace, cluster(), other, "noisy:0.7", seed=4)
    assert other.told != policies[0].told


def test_a_completion_is_known_before_the_revealings_of_its_instant() -> None:
    # The first call's completion reveals the second at once, and its length is known then.
    policy = Listening()
    run(hexopt.Trace((chain(5, 9, 2),)), cluster(), policy, "app-mean")
    assert policy.told == {(0, 0): 256, (0, 1): 5, (0, 2): 7}


@pytest.mark.parametrize(
    "rule",
    [
        "constant",
        "constant:",
        "constant:0",
        "constant:-1",
        "constant:1.5",
        "constant:x",
        "constant:٣",
        f"constant:{MAX_TOKENS + 1}",
        "constant:" + "9" * 5000,
        "app-mean:0",
        "app-mean:x",
    ],
)
def test_bad_token_counts(rule: str) -> None:
    with pytest.raises(ConfigError, match="whole number of tokens of at least 1"):
        make_predictor(rule)


@pytest.mark.parametrize("rule", ["noisy", "noisy:", "noisy:x", "noisy:-0.1", "noisy:nan", "noisy:inf", "noisy:11"])
def test_bad_noise(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"SIGMA is no number in 0\.\.10"):
        make_predictor(rule)


@pytest.mark.parametrize("rule", ["", "orcale", "oracle:1", "mean", "Noisy:1"])
def test_unknown_rules(rule: str) -> None:
    with pytest.raises(ConfigError, match="it is unknown") as caught:
        make_predictor(rule)
    assert "known: app-mean, constant:N, noisy:SIGMA, oracle" in str(caught.value)
    assert set(PREDICTORS) == {"app-mean", "constant:N", "noisy:SIGMA", "oracle"}


@pytest.mark.parametrize("rule", ["oracle", "app-mean", "app-mean:7", "constant:64", "noisy:0.3", "noisy:1e-05"])
def test_the_name_rebuilds_it(rule: str) -> None:
    assert make_predictor(rule).name == rule
