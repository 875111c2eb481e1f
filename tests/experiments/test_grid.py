"""The grid's axes: which runs there are, in which order, and what each run is simulated with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hexopt
from hexopt.core.streams import stream
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.errors import HexoptError, TraceError
from hexopt.experiments import grid as grid_module
from hexopt.experiments import load_config, make_grid, run_experiment
from hexopt.experiments.pools import in_groups
from hexopt.experiments.work import carry_out
from tests.experiments.small import write_small_trace

STUDY = """
name = "axes"
cluster = "tiny"
delays = "zero"
loads = [0.5, 0.8]
load_cv = 2.0
estimate_errors = [0.0, 0.3]
seeds = [4, 9]

[[traces]]
name = "recorded"
file = "small.jsonl"
workflows = 3

[[traces]]
generate = "chat"
parameters = "fitted"
workflows = 2
options = {turns = 3}

[[traces]]
name = "always the same"
generate = "chat"
workflows = 2
trace_seed = 77

[[policies]]
name = "fcfs"

[[policies]]
name = "fcfs"
label = "fcfs, perfect lengths"
predictor = "oracle"
"""


def drawn(app: str, *, workflows: int, seed: int, parameters: str, **options: Any) -> Trace:
    """Stands for a generator: sizes come from the seed."""
    rng = stream(seed, "trace")
    calls = [
        tuple(
            Call(f"c{c}", (c - 1,) if c else (), int(rng.integers(50, 200)), int(rng.integers(2, 20)))
            for c in range(options.get("turns", 2))
        )
        for _ in range(workflows)
    ]
    return Trace(tuple(Workflow(f"w{w}", app, None, c) for w, c in enumerate(calls)), name=f"{app} {parameters} {seed}")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_small_trace(tmp_path / "small.jsonl")
    (tmp_path / "axes.toml").write_text(STUDY)
    monkeypatch.setattr(hexopt, "generate_trace", drawn, raising=False)
    grid_module._drawn.cache_clear()
    return tmp_path / "axes.toml"


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each run was simulated with. A load is stood for by a rate that depends on it."""
    seen: list[dict[str, Any]] = []
    simulate = hexopt.simulate

    def record(trace: Trace, cluster: Any, policy: Any, **kwargs: Any) -> Any:
        seen.append({"trace": trace, "policy": policy.name, **kwargs})
        kwargs.pop("estimate_error", None)
        if str(kwargs["arrivals"]).startswith("utilisation:"):
            load = kwargs["arrivals"].removeprefix("utilisation:").partition(",")[0]
            kwargs["arrivals"] = f"poisson:{10 * float(load)}"
        return simulate(trace, cluster, policy, **kwargs)

    monkeypatch.setattr(hexopt, "simulate", record)
    return seen


def test_the_grid_is_the_product_of_its_axes_in_the_order_of_the_page(study: Path) -> None:
    runs = make_grid(load_config(study)).runs
    assert len(runs) == 3 * 2 * 2 * 2 * 2
    assert len({run.key for run in runs}) == len(runs)
    first = [(r.trace, r.load, r.estimate_error, r.policy, r.seed) for r in runs[:9]]
    assert first == [
        ("recorded", 0.5, 0.0, "fcfs", 4),
        ("recorded", 0.5, 0.0, "fcfs", 9),
        ("recorded", 0.5, 0.0, "fcfs, perfect lengths", 4),
        ("recorded", 0.5, 0.0, "fcfs, perfect lengths", 9),
        ("recorded", 0.5, 0.3, "fcfs", 4),
        ("recorded", 0.5, 0.3, "fcfs", 9),
        ("recorded", 0.5, 0.3, "fcfs, perfect lengths", 4),
        ("recorded", 0.5, 0.3, "fcfs, perfect lengths", 9),
        ("recorded", 0.8, 0.0, "fcfs", 4),
    ]
    assert [run.trace for run in runs[16::16]] == ["chat", "always the same"]
    assert runs[-1].title == "tiny · always the same · load 0.8 · error 0.3 · fcfs, perfect lengths · seed 9"


def test_runs_are_simulated_with_what_the_axes_say(study: Path, simulated: list[dict[str, Any]]) -> None:
    grid = make_grid(load_config(study))
    for run in grid.runs:
        ending = carry_out(grid.inputs, run)
        assert not ending.error
        call = simulated[-1]
        assert call["arrivals"] == f"utilisation:{run.load},cv=2"
        assert call["predictor"] == ("oracle" if run.policy == "fcfs, perfect lengths" else "app-mean")
        assert call.get("estimate_error") == (run.estimate_error or None), "passed only when it is not zero"
        assert call["seed"] == run.seed
        name = {"recorded": "small", "chat": f"chat fitted {run.seed}", "always the same": "chat paper 77"}[run.trace]
        assert call["trace"].name == name
        assert len(call["trace"]) == (3 if run.trace == "recorded" else 2)
        assert run.trace != "chat" or all(len(w.calls) == 3 for w in call["trace"].workflows)


def test_a_seed_gives_every_policy_the_same_trace_and_arrivals(
    study: Path, tmp_path: Path, simulated: list[dict[str, Any]]
) -> None:
    study.write_text(STUDY + '\n[output]\nkeep = "tables"\n')
    outcome = run_experiment(load_config(study), tmp_path / "out", jobs=1)
    assert not outcome.failures
    seen: dict[tuple[Any, ...], set[tuple[str, str]]] = {}
    arrivals: dict[tuple[Any, ...], str] = {}
    for run, call in zip(in_groups(outcome.grid.runs), simulated, strict=True):
        assert (run.seed, run.policy_name) == (call["seed"], call["policy"])
    for run in outcome.grid.runs:
        table = (tmp_path / "out" / "runs" / run.key / "workflows.csv").read_text().splitlines()[1:]
        facts = ",".join(row.split(",")[2] for row in table), ",".join(row.split(",")[5] for row in table)
        seen.setdefault((run.trace, run.load, run.seed), set()).add(facts)
        arrivals[run.trace, run.load, run.seed] = facts[0]
    assert len(seen) == 12
    assert all(len(facts) == 1 for facts in seen.values()), "same arrivals and shapes for every policy and error"
    assert arrivals["chat", 0.5, 4] != arrivals["chat", 0.5, 9]
    alone = {key: next(iter(facts))[1] for key, facts in seen.items()}
    assert alone["chat", 0.5, 4] != alone["chat", 0.5, 9], "a seed draws its own trace"
    assert alone["always the same", 0.5, 4] == alone["always the same", 0.8, 9], "a fixed one does not"


def test_keys_tell_runs_with_other_inputs_apart(study: Path) -> None:
    before = {run.key for run in make_grid(load_config(study)).runs}
    for old, new, shared in (
        ("turns = 3", "turns = 4", 32),
        ("trace_seed = 77", "trace_seed = 78", 32),
        ('parameters = "fitted"', 'parameters = "paper"', 32),
        ("load_cv = 2.0", "load_cv = 3.0", 0),
        ("[0.0, 0.3]", "[0.0, 0.4]", 24),
        ('predictor = "oracle"', 'predictor = "constant:9"', 24),
        ("workflows = 3", "workflows = 4", 32),
    ):
        study.write_text(STUDY.replace(old, new))
        after = {run.key for run in make_grid(load_config(study)).runs}
        assert len(before & after) == shared, new
    study.write_text(STUDY.replace('"always the same"', '"renamed"'))
    assert {run.key for run in make_grid(load_config(study)).runs} == before, "a name determines nothing"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('predictor = "oracle"', 'predictor = "oracel"', HexoptError),
        ('file = "small.jsonl"', 'file = "nowhere.jsonl"', TraceError),
        ("turns = 3", "turns = 0", TraceError),
    ],
)
def test_bad_axes_are_found_before_anything_runs(study: Path, old: str, new: str, error: type[HexoptError]) -> None:
    study.write_text(STUDY.replace(old, new))
    with pytest.raises(error):
        make_grid(load_config(study))


def test_a_trace_is_drawn_once_in_a_worker_and_seed(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[int] = []

    def counted(app: str, **kwargs: Any) -> Trace:
        draws.append(kwargs["seed"])
        return drawn(app, **kwargs)

    monkeypatch.setattr(hexopt, "generate_trace", counted, raising=False)
    text = STUDY.replace("loads = [0.5, 0.8]\nload_cv = 2.0", 'arrivals = "burst"').replace("[0.0, 0.3]", "0.0")
    study.write_text(text.replace("seeds = [4, 9]", "seeds = 12"))
    outcome = run_experiment(load_config(study), study.with_name("out"), jobs=1)
    assert not outcome.failures
    # The rehearsal has drawn seed 0 and the fixed trace; a few may have been forgotten since.
    assert sorted(draws) == sorted([*range(12), 77, *[s for s in (0, 77) if draws.count(s) == 2]])


def test_specs_are_plain_data(study: Path) -> None:
    grid = make_grid(load_config(study))
    assert replace(grid.runs[0]) == grid.runs[0]
    assert grid.traces[0]["calls"] == 9
    assert grid.traces[1]["generate"] == "chat"


TRAINED = """
name = "trained"
cluster = "tiny"
arrivals = "poisson:5"
delays = "zero"

[[traces]]
file = "small.jsonl"
workflows = 3

[[traces]]
name = "more"
file = "small.jsonl"
workflows = 5

[[policies]]
name = "hexagent"

[[policies]]
name = "hexagent"
label = "trained"
options = {forecaster = "learned:past.jsonl"}
"""


def test_a_training_trace_lies_beside_the_study_and_its_content_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_small_trace(tmp_path / "small.jsonl")
    log = hexopt.load_trace(tmp_path / "small.jsonl").workflows
    (tmp_path / "trained.toml").write_text(TRAINED)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def keys(*past: Workflow) -> dict[tuple[str, str], str]:
        hexopt.traces.write_trace(Trace(past), tmp_path / "past.jsonl")
        return {(spec.trace, spec.policy): spec.key for spec in make_grid(load_config(tmp_path / "trained.toml")).runs}

    first, other = keys(log[5]), keys(replace(log[5], app="other"))
    assert {pair for pair in first if first[pair] != other[pair]} == {("small", "trained"), ("more", "trained")}
    assert keys(log[5]) == first
    with pytest.raises(HexoptError, match=f"'{log[4].workflow_id}' first, are in the training trace"):
        keys(log[4])  # which the second trace holds, not the first
