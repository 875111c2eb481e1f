"""Whatever goes wrong: one line on stderr that names subject, value, rule and remedy, and the right exit status."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import hexopt
from tests.cli.conftest import Outcome
from tests.experiments.small import EXPERIMENT

Command = Callable[..., Outcome]
GOOD = {"--trace": "small.jsonl", "--cluster": "tiny", "--policy": "fcfs", "--arrivals": "fixed:0.05"}


def simulate(**changes: str | None) -> list[str]:
    options = GOOD | {f"--{name}": value for name, value in changes.items()}
    return ["simulate", *(part for name, value in options.items() if value is not None for part in (name, value))]


def assert_one_line(done: Outcome, *words: str) -> None:
    assert done.status == 2, done
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert done.err.endswith("\n")
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (simulate(policy="hexagnt"), ["hexagnt", "did you mean 'hexagent'"]),
        (simulate(cluster="tinny"), ["tinny", "did you mean 'tiny'"]),
        (simulate(cluster="nowhere.toml"), ["nowhere.toml"]),
        (simulate(cluster="small.jsonl/x.toml"), ["x.toml"]),
        (simulate(trace="nowhere.jsonl"), ["nowhere.jsonl"]),
        (simulate(trace="."), ["."]),
        (simulate(predictor="oracel"), ["oracel", "oracle"]),
        (simulate(predictor="constant:0"), ["constant:0"]),
        (simulate(arrivals=None), ["6 of 6 arrivals", "poisson"]),
        (simulate(arrivals="poison:3"), ["poison", "poisson"]),
        (simulate(arrivals="poisson:-1"), ["poisson"]),
        (simulate(arrivals="poisson:nan"), ["poisson"]),
        (simulate(delays="never"), ["never", "zero"]),
        (simulate(stop="inf"), ["--stop", "inf", "finite"]),
        (simulate(stop="nan"), ["--stop", "nan", "finite"]),
        (simulate(stop="-1"), ["--stop", "-1"]),
        (simulate(stop="soon"), ["--stop", "soon"]),
        (simulate(seed="-1"), ["--seed", "-1"]),
        ([*simulate(), "--seed=-1"], ["--seed", "'-1' found"]),
        ([*simulate(), "--seed="], ["--seed", "'' found"]),
        (simulate(out=""), ["--out", "'' found", "a folder has a name"]),
        (["run", "small.toml", "--out", ""], ["--out", "'' found", "a folder has a name"]),
        (simulate(policy="replay", **{"policy-option": "decisions=5"}), ["5", "decisions"]),
        (simulate(seed="x"), ["--seed", "x"]),
        (simulate(workflows="0"), ["--workflows", "0"]),
        (simulate(**{"policy-option": "nonsense"}), ["nonsense", "NAME=VALUE"]),
        (simulate(**{"policy-option": "plan_latenzy_us=1"}), ["plan_latenzy_us", "did you mean 'plan_latency_us'"]),
        (simulate(**{"policy-option": "plan_latency_us=-1"}), ["plan_latency_us", "-1"]),
        (simulate(policy="hexagent", **{"policy-option": "small_queue=nan"}), ["small_queue", "nan"]),
        (simulate(policy="replay"), ["replay", "decisions", "(A CSV file), give it as option decisions\n"]),
        (simulate(policy="replay", **{"policy-option": "decisions=nowhere.csv"}), ["nowhere.csv"]),
        (simulate(out="small.jsonl/out"), ["small.jsonl/out", "--out"]),
        (simulate(trace=None), ["--trace", "hexopt simulate --help"]),
        ([*simulate(), "--sed", "1"], ["--sed", "--seed"]),
        ([*simulate(), "more"], ["more"]),
        (["simulte"], ["simulte", "simulate"]),
        (["trace", "inf", "x"], ["inf", "info"]),
        (["trace", "info", "nowhere.jsonl"], ["nowhere.jsonl"]),
        (["trace", "check", "nowhere.jsonl"], ["nowhere.jsonl"]),
        (["cluster", "show", "hetero-1-lama"], ["did you mean 'hetero-1-llama'"]),
        (["cluster", "check", "nowhere.toml"], ["nowhere.toml"]),
        (["cluster", "check", "small.jsonl"], ["small.jsonl"]),
        (["policies", "hexagnt"], ["did you mean 'hexagent'"]),
        (["plot", "nowhere"], ["nowhere", "result folder"]),
        (["plot", "."], ["result folder"]),
        (["plot", ".", "--format", "pgn"], ["pgn", "did you mean 'png'"]),
        (["report", "nowhere"], ["nowhere", "result folder"]),
        (["report", ".", "--format", "pgn"], ["pgn", "did you mean 'png'"]),
        (["run"], ["EXPERIMENT.toml"]),
        (["run", "nowhere.toml"], ["nowhere.toml"]),
        (["run", "small.jsonl"], ["small.jsonl", "TOML"]),
        (["run", "small.toml", "--out", "small.jsonl/out"], ["small.jsonl/out", "--out"]),
        (["run", "small.toml", "--jobs", "0"], ["--jobs", "0"]),
    ],
    ids=lambda value: " ".join(value)[-60:] if isinstance(value, list) else None,
)
def test_bad_arguments(hexopt_command: Command, args: list[str], words: list[str]) -> None:
    assert_one_line(hexopt_command(*args), *words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds = 2", "sedes = 2", ["small.toml: sedes", "did you mean 'seeds'"]),
        ('name = "hexagent"', 'name = "hexagnt"', ["did you mean 'hexagent'"]),
        ('cluster = "tiny"', 'cluster = "tiny', ["small.toml", "line"]),
        ('cluster = "tiny"', 'cluster = "tiny"\nworkflows = nan', ["workflows", "nan"]),
        ('trace = "small.jsonl"', 'trace = "nowhere.jsonl"', ["nowhere.jsonl"]),
    ],
)
def test_bad_experiments(hexopt_command: Command, here: Path, old: str, new: str, words: list[str]) -> None:
    (here / "small.toml").write_text(EXPERIMENT.replace(old, new))
    assert_one_line(hexopt_command("run", "small.toml"), *words)


CALL = '{"call_id": "c", "parents": [], "prompt_tokens": 9, "output_tokens": 9, "tool_delay_s": 0}'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"prompt_tokens": 9', '"prompt_tokens": NaN'),
        ('"prompt_tokens": 9', '"prompt_tokens": Infinity'),
        ('"prompt_tokens": 9', '"prompt_tokens": -1'),
        ('"prompt_tokens": 9', '"prompt_tokens": 0'),
        ('"prompt_tokens": 9', '"prompt_tokens": "many"'),
        ('"prompt_tokens": 9', '"prompt_tokens": 9000000'),
        ('"output_tokens": 9', '"output_tokens": 1.5'),
        ('"parents": []', '"parents": ["c"]'),
        ('"parents": []', '"parents": ["stranger"]'),
        (CALL, f"{CALL}, {CALL}"),
        ('"calls"', '"cals"'),
        ("{", "{{"),
        ("\n", "\n\x1f"),
    ],
)
def test_bad_traces(hexopt_command: Command, here: Path, old: str, new: str) -> None:
    good = f'{{"workflow_id": "w", "arrival_s": 0, "calls": [{CALL}]}}\n'
    (here / "t.jsonl").write_text(good)
    assert hexopt_command(*simulate(trace="t.jsonl", arrivals=None)).status == 0
    (here / "t.jsonl").write_text(good.replace(old, new, 1))
    assert_one_line(hexopt_command(*simulate(trace="t.jsonl", arrivals=None)))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x1f\x8bnot gzip at all", b"\xff\xfe"])
def test_bad_trace_files(hexopt_command: Command, here: Path, content: bytes) -> None:
    (here / "t.jsonl.gz").write_bytes(content)
    assert_one_line(hexopt_command(*simulate(trace="t.jsonl.gz")), "t.jsonl.gz")


def test_a_newline_in_a_message_stays_one_line(hexopt_command: Command) -> None:
    assert_one_line(hexopt_command(*simulate(policy="a\nb")), "a b")


def test_debug_shows_where_an_error_was_raised(hexopt_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEXOPT_DEBUG", "1")
    done = hexopt_command(*simulate(policy="hexagnt"))
    assert done.status == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("error: ")


def test_a_bug_shows_its_traceback_and_asks_for_a_report(
    hexopt_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(hexopt, "simulate", bug)
    done = hexopt_command(*simulate())
    assert done.status == 1
    assert "Traceback" in done.err
    assert "please report" in done.err.splitlines()[-1]


def test_ctrl_c_during_simulate(hexopt_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hexopt, "simulate", interrupt)
    done = hexopt_command(*simulate())
    assert (done.status, done.err) == (130, "interrupted\n")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_during_run_keeps_finished_runs(here: Path, jobs: str) -> None:
    # Many seeds, so that the signal finds it at work; to the whole process group, as a terminal sends it.
    (here / "small.toml").write_text(EXPERIMENT.replace("seeds = 2", "seeds = 2000"))
    command = [sys.executable, "-m", "hexopt.cli", "run", "small.toml", "--jobs", jobs]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # also where this suite runs in the background
    )
    runs = here / "results" / "small" / "runs"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(finished(runs)) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert out == ""
    # On a slow machine, progress has been reported before.
    told = [line for line in err.splitlines() if not re.match(r"\w+: \d+ of 4000 runs \(", line)]
    assert len(told) == 1, err
    kept = finished(runs)
    assert len(kept) >= 3
    assert told[0].startswith(f"interrupted: {len(kept)} of 4000 runs are finished and kept in results/small")
    assert [path.name for path in runs.iterdir() if path.name.startswith(".partial")] == [], "no half-written run"


def finished(runs: Path) -> list[Path]:
    return [path for path in runs.iterdir() if not path.name.startswith(".")] if runs.is_dir() else []


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.run(
        f"{sys.executable} -m hexopt.cli policies | true; {sys.executable} -m hexopt.cli trace --help | head -1",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.stderr == ""
