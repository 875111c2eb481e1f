"""Each command does what it says, on small inputs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hexopt
from hexopt.cli.simulate import parse_options
from hexopt.clusters import cluster_names
from hexopt.policies.registry import policy_names
from tests.cli.conftest import Outcome

Command = Callable[..., Outcome]
SIMULATE = ("simulate", "--trace", "small.jsonl", "--cluster", "tiny", "--policy", "fcfs", "--arrivals", "fixed:0.05")


def test_version(hexopt_command: Command) -> None:
    done = hexopt_command("--version")
    assert (done.status, done.out) == (0, f"hexopt {hexopt.__version__}\n")


@pytest.mark.parametrize("args", [(), ("trace",), ("cluster",)])
def test_a_bare_group_shows_its_help(hexopt_command: Command, args: tuple[str, ...]) -> None:
    done = hexopt_command(*args)
    assert done.status == 0
    assert "Usage:" in done.out
    assert done.err == ""


def test_simulate_prints_the_summary(hexopt_command: Command) -> None:
    done = hexopt_command(*SIMULATE)
    assert done.status == 0
    assert done.err == ""
    for word in ("req95", "latency_mean_s", "fixed:0.05", "finished_workflows"):
        assert word in done.out
    assert max(map(len, done.out.splitlines())) <= 100


def test_simulate_saves_what_plot_draws(hexopt_command: Command, here: Path) -> None:
    assert hexopt_command(*SIMULATE, "--out", "one").status == 0
    for name in ("calls.csv", "workflows.csv", "instances.csv", "decisions.csv", "summary.json", "run.json"):
        assert (here / "one" / name).is_file()
    done = hexopt_command("plot", "one", "--format", "png")
    assert done.status == 0
    assert "one/figures/timeline.png" in done.out.split()
    assert all((here / path).is_file() for path in done.out.split())


def test_simulate_passes_everything_on(hexopt_command: Command, here: Path) -> None:
    done = hexopt_command(
        "simulate", "--trace", "small.jsonl", "--cluster", "tiny", "--policy", "hexagent",
        "--policy-option", "plan_latency_us=500", "--policy-option", "decode_priority=false",
        "--predictor", "constant:9", "--seed", "7", "--arrivals", "poisson:20", "--workflows", "3",
        "--stop", "0.5", "--out", "one",
    )  # fmt: skip
    assert done.status == 0, done.err
    record = json.loads((here / "one" / "run.json").read_text())
    summary = json.loads((here / "one" / "summary.json").read_text())
    assert record["policy_options"]["plan_latency_us"] == 500
    assert record["policy_options"]["decode_priority"] is False
    assert (record["predictor"], record["seed"], record["arrivals"]) == ("constant:9", 7, "poisson:20")
    assert (record["stop_us"], summary["workflows"]) == (500_000, 3)


def test_a_run_can_be_replayed_from_its_files(hexopt_command: Command, here: Path) -> None:
    hexopt_command(*SIMULATE, "--out", "one")
    done = hexopt_command(
        "simulate", "--trace", "one/trace.jsonl.gz", "--cluster", "one/cluster.toml", "--policy", "replay",
        "--policy-option", "decisions=one/decisions.csv", "--out", "two",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert (here / "one/calls.csv").read_bytes() == (here / "two/calls.csv").read_bytes()


def test_invalid_workflows_are_left_out_on_demand(hexopt_command: Command, here: Path) -> None:
    with (here / "small.jsonl").open("a") as file:
        file.write('{"workflow_id": "bad", "calls": []}\n')
    assert hexopt_command(*SIMULATE).status == 2
    done = hexopt_command(*SIMULATE, "--skip-invalid")
    assert done.status == 0
    assert "1 invalid workflows left out" in done.err


def test_policy_options_are_numbers_truths_or_text() -> None:
    options = parse_options(["a=1", "b=-2.5", "c=true", "d=False", "e=zero", "f=", "g=a=b", "h=1e3"])
    assert options == {"a": 1, "b": -2.5, "c": True, "d": False, "e": "zero", "f": "", "g": "a=b", "h": 1000.0}
    assert type(options["a"]) is int


def test_run_prints_the_comparison_and_writes_everything(hexopt_command: Command, here: Path) -> None:
    done = hexopt_command("run", "small.toml", "--jobs", "1")
    assert done.status == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 100
    assert "hexagent: Req99" in done.out
    folder = here / "results" / "small"
    for name in ("runs.csv", "summary.csv", "timing.csv", "summary.md", "figures/req.png", "figures/attainment.svg"):
        assert (folder / name).is_file()
    before = (folder / "figures" / "req.png").read_bytes()
    again = hexopt_command("run", "small.toml", "--jobs", "1")
    assert "4 of 4 runs were there already and are reused" in again.out
    assert hexopt_command("plot", "results/small").status == 0
    assert (folder / "figures" / "req.png").read_bytes() == before


def test_run_refuses_a_changed_study_until_told_to_start_anew(hexopt_command: Command, here: Path) -> None:
    assert hexopt_command("run", "small.toml", "--jobs", "1").status == 0
    (here / "small.toml").write_text((here / "small.toml").read_text().replace("seeds = 2", "seeds = 1"))
    refused = hexopt_command("run", "small.toml", "--jobs", "1")
    assert refused.status == 2
    assert "seeds: [0, 1] → [0]" in refused.err
    assert refused.err.count("\n") == 1
    anew = hexopt_command("run", "small.toml", "--jobs", "1", "--fresh")
    assert anew.status == 0
    assert "reused" not in anew.out


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([hexopt.HexoptError("subject: broken")] * 2, 2),
        ([hexopt.HexoptError("subject: broken"), ZeroDivisionError("a bug")], 1),
    ],
)
def test_run_lists_failed_runs_and_says_whose_fault_they_are(
    hexopt_command: Command, here: Path, monkeypatch: pytest.MonkeyPatch, errors: list[Exception], status: int
) -> None:
    left = iter(errors)
    simulate = hexopt.simulate

    def fails(*args: object, **kwargs: object) -> object:
        if kwargs["seed"] == 1:
            raise next(left)
        return simulate(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(hexopt, "simulate", fails)
    done = hexopt_command("run", "small.toml", "--jobs", "1")
    assert done.status == status
    assert "error: run failed: tiny · fcfs · seed 1: subject: broken" in done.err.splitlines()
    assert "error: 2 of 4 runs failed" in done.err
    assert "Req95" in done.out, "what did finish is shown"


def test_policies(hexopt_command: Command) -> None:
    done = hexopt_command("policies")
    assert done.status == 0
    assert all(name in done.out for name in policy_names())
    assert max(map(len, done.out.splitlines())) <= 100
    one = hexopt_command("policies", "hexagent")
    assert "plan_latency_us" in one.out
    assert "10000" in one.out


def test_clusters(hexopt_command: Command, here: Path) -> None:
    done = hexopt_command("cluster", "list")
    assert all(name in done.out for name in cluster_names())
    for name in cluster_names():
        shown = hexopt_command("cluster", "show", name)
        assert shown.status == 0
        assert max(map(len, shown.out.splitlines())) <= 100
    hexopt_command(*SIMULATE, "--out", "one")
    checked = hexopt_command("cluster", "check", "one/cluster.toml")
    assert checked.out == "one/cluster.toml: valid, 2 prefill and 2 decode instances\n"


def test_trace_info(hexopt_command: Command) -> None:
    done = hexopt_command("trace", "info", "small.jsonl")
    assert done.status == 0
    assert "calls_per_workflow" in done.out
    assert json.loads(hexopt_command("trace", "info", "small.jsonl", "--json").out)["calls"] == 18


def test_trace_check(hexopt_command: Command, here: Path) -> None:
    done = hexopt_command("trace", "check", "small.jsonl")
    assert done.status == 0
    assert "6 workflows with 18 calls" in done.out
    assert "6 arrivals are unknown" in done.out
    (here / "bad.jsonl").write_text('{"workflow_id": "a", "calls": []}\n{broken\n')
    bad = hexopt_command("trace", "check", "bad.jsonl")
    assert bad.status == 2
    assert len(bad.err.splitlines()) == 2
    assert all(text.startswith("error: bad.jsonl:") for text in bad.err.splitlines())


def test_help_loads_nothing_heavy() -> None:
    heavy = {"pandas", "matplotlib", "joblib", "numpy", "numba", "pydantic", "ortools", "pulp"}
    code = (
        f"import sys; from hexopt.cli import run; run(['--help'])\nsys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_generate_writes_what_info_shows(hexopt_command: Command, here: Path) -> None:
    args = ("trace", "generate", "mixed", "--workflows", "9", "--seed", "3", "--option", "lats.max_iterations=1")
    done = hexopt_command(*args, "--out", "one.jsonl.gz")
    assert done.status == 0, done.err
    assert done.err == ""
    shown = hexopt_command("trace", "info", "one.jsonl.gz").out
    assert shown.strip() in done.out
    assert max(map(len, done.out.splitlines())) <= 100
    assert hexopt_command(*args, "--out", "two.jsonl.gz").status == 0
    assert (here / "one.jsonl.gz").read_bytes() == (here / "two.jsonl.gz").read_bytes()
    assert hexopt_command(*args, "--out", "plain.jsonl").status == 0
    first = json.loads((here / "plain.jsonl").read_text().splitlines()[0])
    assert first["generated"]["options"] == {"lats.max_iterations": 1}
    trace = hexopt.generate_trace("mixed", workflows=9, seed=3, **{"lats.max_iterations": 1})
    assert hexopt.load_trace(here / "plain.jsonl").workflows == trace.workflows


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("shargpt", "--out", "x.jsonl"), "generator: 'shargpt' found"),
        (("lats", "--out", "x.json"), "--out: 'x.json' found, a trace file is named .jsonl or .jsonl.gz"),
        (("lats", "--out", "no/x.jsonl"), "no/x.jsonl: file: not writable"),
        (("lats", "--out", "x.jsonl", "--parameters", "fited"), "did you mean 'fitted'?"),
        (("lats", "--out", "x.jsonl", "--option", "samples"), "--option: 'samples' found, an option is written NAME="),
        (("lats", "--out", "x.jsonl", "--option", "seed=1"), "--option: 'seed' found, it has a flag of its own"),
        (("lats", "--out", "x.jsonl", "--option", "a=1", "--option", "a=1"), "--option: 'a' occurs twice"),
    ],
)
def test_generate_says_what_is_wrong(hexopt_command: Command, here: Path, args: tuple[str, ...], expected: str) -> None:
    done = hexopt_command("trace", "generate", "--workflows", "2", *args)
    assert done.status == 2
    assert expected in done.err
    assert done.out == ""
    assert not list(here.glob("x.*"))


def test_simulate_at_a_utilisation(hexopt_command: Command, here: Path) -> None:
    args = ("simulate", "--trace", "small.jsonl", "--cluster", "tiny", "--policy", "fcfs")
    done = hexopt_command(*args, "--arrivals", "utilisation:0.8", "--out", "one")
    assert done.status == 0, done.err
    assert "arrivals_rate_per_s" in done.out
    record = json.loads((here / "one" / "run.json").read_text())
    trace, cluster = hexopt.load_trace(here / "small.jsonl"), hexopt.load_cluster("tiny")
    assert record["arrivals_rate_per_s"] == hexopt.demand(trace, cluster).rate_at(0.8)
