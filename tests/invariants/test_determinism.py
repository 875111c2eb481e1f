"""The same input gives the same bytes: in another process, and again from the recorded decisions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

import hexopt
from hexopt.core.view import View
from hexopt.sim.result import RunResult
from tests.invariants import digests
from tests.invariants.runs import POLICIES, PREDICTORS, Setting, profile, run_settings

ROOT = Path(__file__).parents[2]


def csv(result: RunResult) -> bytes:
    return bytes(result.calls.to_csv(index=False, lineterminator="\n").encode())


def in_process(hash_seed: str) -> dict[str, str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-m", digests.__name__], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_every_process_writes_the_same_bytes() -> None:
    first, second = in_process("0"), in_process("4242")
    assert sum(name.endswith("calls.csv") for name in first) == 2 * len(POLICIES)
    assert first == second
    differing = {digest for name, digest in first.items() if name.endswith("calls.csv")}
    assert len(differing) >= len(POLICIES) - 1, "the runs are not all the same run"


def test_a_policy_object_can_be_used_again() -> None:
    """``reset`` forgets all, so that a second run with the same object repeats the first."""

    @profile(40)
    @given(run_settings())
    def check(setting: Setting) -> None:
        policy = setting.make_policy()
        first, second = setting.run(policy), setting.run(policy)
        assert csv(first) == csv(second)
        assert first.decisions.equals(second.decisions)

    check()


class Sluggish:
    """Takes a while to answer, so that measured planning times differ from call to call."""

    plan_latency_us = "measured"

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.name, self.triggers, self.fallback = inner.name, inner.triggers, inner.fallback
        self.plans = 0

    def reset(self, *args: Any) -> None:
        self.inner.reset(*args)

    def plan(self, view: View) -> Any:
        self.plans += 1
        sum(range(self.plans % 7 * 2000))
        return self.inner.plan(view)


def assert_replays(setting: Setting, result: RunResult, path: Path) -> None:
    result.decisions.to_csv(path, index=False)
    replay = hexopt.make_policy("replay", decisions=path)
    # Whatever the predictor: a replay asks nobody.
    again = hexopt.simulate(setting.trace, setting.cluster, replay, predictor="oracle")
    assert csv(again) == csv(result)
    assert again.decisions.equals(result.decisions)


@pytest.mark.parametrize("latency", [0, 7, 10_000])
@pytest.mark.parametrize("policy", [*POLICIES, "scripted"])
def test_replay_repeats_the_run(policy: str, latency: int, tmp_path: Path) -> None:
    @profile(12)
    @given(run_settings(policies=(policy,), latencies=(latency,)))
    def check(setting: Setting) -> None:
        assert_replays(setting, setting.run(), tmp_path / "decisions.csv")

    check()


@pytest.mark.parametrize("policy", POLICIES)
def test_replay_repeats_a_measured_run(policy: str, tmp_path: Path) -> None:
    """How long planning took is the one thing a run does not repeat; its decisions record what came of it."""

    @profile(12)
    @given(run_settings(policies=(policy,), latencies=(0,)))
    def check(setting: Setting) -> None:
        slow = Sluggish(hexopt.make_policy(policy, plan_latency_us="measured"))
        result = setting.run(slow)
        assert result.about["plan_latency_us"] == "measured"
        assert_replays(setting, result, tmp_path / "decisions.csv")

    check()


def test_replay_notices_another_decision(tmp_path: Path) -> None:
    """A replay does follow its table: change one row, and the run is another."""
    setting = Setting(digests.trace(), hexopt.load_cluster("tiny"), "fcfs", 0, "app-mean")
    result = hexopt.simulate(setting.trace, setting.cluster, setting.make_policy(), arrivals="burst")
    table = result.decisions.copy()
    last = len(table) - 1  # nothing that follows can fail for coming at another time
    table.loc[last, "prefill_instance"] = "p-1" if table.loc[last, "prefill_instance"] == "p-0" else "p-0"
    replay = hexopt.make_policy("replay", decisions=table)
    again = hexopt.simulate(result.trace, setting.cluster, replay)
    assert csv(again) != csv(result)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_arrivals_delays_and_errors_belong_to_the_seed(predictor: str) -> None:
    """Every policy meets the same arrivals, and each call the same prediction error, at one seed."""
    cluster = hexopt.load_cluster("tiny")

    def run(policy: str, seed: int) -> tuple[RunResult, dict[str, int]]:
        predicted: dict[str, int] = {}
        made = hexopt.make_policy(policy)

        class Listen(Sluggish):
            plan_latency_us = 0  # type: ignore[assignment]

            def plan(self, view: View) -> Any:
                for call in view.pool:
                    predicted[call.workflow.workflow_id + call.call_id] = call.predicted_output_tokens
                return super().plan(view)

        result = hexopt.simulate(
            digests.trace(), cluster, Listen(made), predictor=predictor, seed=seed, arrivals="gamma:40,cv=2"
        )
        return result, predicted

    runs = [run(policy, 5) for policy in POLICIES]
    for result, _ in runs[1:]:
        assert result.workflows["arrival_us"].equals(runs[0][0].workflows["arrival_us"])
    if not predictor.startswith("app-mean"):  # which learns from what a policy let complete
        assert all(predicted == runs[0][1] for _, predicted in runs)
    other, errors = run("fcfs", 6)
    assert not other.workflows["arrival_us"].equals(runs[0][0].workflows["arrival_us"])
    assert (errors != runs[0][1]) == predictor.startswith(("noisy", "app-mean"))
