"""The ledger: what is in it is finished once and for ever, and another study never gets into its folder."""

from __future__ import annotations

import json
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

import hexopt
from hexopt.errors import ConfigError, OutputError
from hexopt.experiments import ExperimentOutcome, Progress, load_config, run_experiment
from hexopt.experiments import grid as grid_module
from hexopt.experiments.ledger import NAME, Entry, Ledger
from tests.experiments.small import EXPERIMENT
from tests.experiments.test_runner import deterministic_files


def run(experiment: Path, fresh: bool = False) -> ExperimentOutcome:
    return run_experiment(load_config(experiment), experiment.with_name("out"), jobs=1, fresh=fresh)


def refusal(experiment: Path) -> str:
    out = experiment.with_name("out")
    before = {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as caught:
        run(experiment)
    assert {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()} == before, "nothing is touched"
    assert "\n" not in str(caught.value)
    assert "--fresh" in str(caught.value)
    return str(caught.value)


def test_each_finished_run_has_one_line(experiment: Path) -> None:
    grid = run(experiment).grid
    run(experiment)
    first, *runs = [json.loads(line) for line in (experiment.with_name("out") / NAME).read_text().splitlines()]
    assert first["kind"] == "study"
    assert first["hexopt"] == hexopt.__version__
    assert first["facts"]["seeds"] == [0, 1]
    assert [run["key"] for run in runs] == [spec.key for spec in grid.runs]
    for line in runs:
        folder = experiment.with_name("out") / "runs" / line["key"]
        assert line["summary"] == json.loads((folder / "summary.json").read_text())
        assert line["timing"] == json.loads((folder / "timing.json").read_text())
        assert line["files"] == {path.name: path.stat().st_size for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("seeds = 2", "seeds = [0, 1, 7]", "seeds: [0, 1] → [0, 1, 7]"),
        ("poisson:20", "poisson:21", 'traces[small].arrivals: "poisson:20" → "poisson:21"'),
        ('"hexagent"', '"hexagent"\noptions = {small_queue = 3}', "policies[hexagent].options.small_queue: absent → 3"),
        ('"hexagent"', '"hexagent"\nlabel = "ours"', 'policies: ["fcfs", "hexagent"] → ["fcfs", "ours"]'),
        ('"tiny"', '"tiny"\nestimate_errors = [0.0, 0.1]', "estimate_errors: [0.0] → [0.0, 0.1]"),
        ('"tiny"', '"tiny"\nstop_s = 5.0', "stop_s: absent → 5.0"),
        ('"tiny"', '"tiny"\nworkflows = 3', "traces[small].workflows: absent → 3"),
        ('"tiny"', '"tiny"\noutput.keep = "tables"', 'output.keep: "all" → "tables"'),
    ],
)
def test_a_changed_study_is_refused_and_what_changed_is_named(experiment: Path, old: str, new: str, told: str) -> None:
    run(experiment)
    experiment.write_text(EXPERIMENT.replace(old, new, 1 if "tiny" in old else -1))
    assert told in refusal(experiment)


def test_a_changed_input_file_is_refused_by_its_digest(experiment: Path) -> None:
    run(experiment)
    trace = experiment.with_name("small.jsonl")
    trace.write_text(trace.read_text().replace('"prompt_tokens": 200', '"prompt_tokens": 201'))
    grid_module._load_trace.cache_clear()
    assert "traces[small].sha256: " in refusal(experiment)


def test_many_changes_are_counted(experiment: Path) -> None:
    run(experiment)
    policies = "".join(f'\n[[policies]]\nname = "fcfs"\nlabel = "{i}"\n' for i in range(9))
    experiment.write_text(EXPERIMENT + policies)
    assert "and 4 more" in refusal(experiment)


def test_what_no_run_depends_on_may_change(experiment: Path) -> None:
    run(experiment)
    changed = EXPERIMENT.replace('baselines = ["fcfs"]', 'description = "other words"').replace("2\n", "[0, 1]\n")
    experiment.write_text(changed + '\n[output]\nformats = ["png"]\n')
    assert run(experiment).reused == 4


def test_fresh_starts_anew_and_removes_only_what_is_its_own(experiment: Path) -> None:
    run(experiment)
    out = experiment.with_name("out")
    (out / "notes.txt").write_text("mine")
    experiment.write_text(EXPERIMENT.replace("seeds = 2", "seeds = 1"))
    outcome = run(experiment, fresh=True)
    assert outcome.reused == 0
    assert len(list((out / "runs").iterdir())) == 2
    assert (out / "notes.txt").read_text() == "mine"
    assert run(experiment).reused == 2


def test_another_version_is_named(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(experiment)
    monkeypatch.setattr(hexopt, "__version__", "9.9")
    assert f"started by hexopt {version()}, this is hexopt 9.9" in refusal(experiment)
    assert run(experiment, fresh=True).reused == 0


def version() -> str:
    from importlib.metadata import version

    return version("hexopt")


def test_other_code_is_told_and_never_reused(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(experiment)
    monkeypatch.setattr(grid_module, "package_code", lambda: "other")
    outcome = run(experiment)
    assert (outcome.reused, outcome.other_code) == (0, 4)
    monkeypatch.undo()
    outcome = run(experiment)
    assert (outcome.reused, outcome.other_code) == (4, 4)


def test_half_a_last_line_is_cut_off(experiment: Path) -> None:
    run(experiment)
    before = deterministic_files(experiment.with_name("out"))
    ledger = experiment.with_name("out") / NAME
    whole = ledger.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (len(lines[-1]) // 2, 1, len(lines[-1]) - 1):
        ledger.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
        assert run(experiment).reused == 3
        assert deterministic_files(experiment.with_name("out")) == before
    ledger.write_bytes(whole[:20])
    assert run(experiment).reused == 0, "not even the first line was whole"
    assert deterministic_files(experiment.with_name("out")) == before


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"kind":"run"}', b"\xff\xfe"])
def test_damage_inside_is_refused(experiment: Path, damage: bytes) -> None:
    run(experiment)
    ledger = experiment.with_name("out") / NAME
    lines = ledger.read_bytes().splitlines()
    lines[2] = damage
    ledger.write_bytes(b"\n".join(lines) + b"\n")
    assert "line 3 is damaged" in refusal(experiment)


def test_an_unknown_format_is_refused(experiment: Path) -> None:
    run(experiment)
    ledger = experiment.with_name("out") / NAME
    ledger.write_text(ledger.read_text().replace('"ledger":1', '"ledger":2'))
    assert "its format is 2" in refusal(experiment)


def test_one_process_at_a_time(experiment: Path) -> None:
    grid = run(experiment).grid
    other = Ledger(experiment.with_name("out"), grid.inputs.code, grid.facts)
    for fresh in (False, True):
        with pytest.raises(ConfigError, match="another process is at work"):
            run(experiment, fresh)
    other.close()
    assert run(experiment).reused == 4


@contextmanager
def files_of_at_most(limit: int) -> Generator[None]:
    """Stand for a full disk: writing more than so many bytes to one file fails, in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_nothing_that_is_finished(experiment: Path, tmp_path: Path) -> None:
    out = experiment.with_name("out")
    run_experiment(load_config(experiment), tmp_path / "whole", jobs=1)
    lines = (tmp_path / "whole" / NAME).read_bytes().splitlines(keepends=True)
    limit = sum(map(len, lines[:3])) + len(lines[3]) // 2
    told = r"ledger.jsonl: File too large, .* the same command goes on"
    with files_of_at_most(limit), pytest.raises(OutputError, match=told):
        run(experiment)
    assert (out / NAME).read_bytes().count(b"\n") == 3
    assert (out / NAME).read_bytes().endswith(b"\n"), "the half line is gone"
    seen: list[Progress] = []
    run_experiment(load_config(experiment), out, jobs=1, on_progress=seen.append)
    assert seen[0].reused == 2
    assert deterministic_files(out) == deterministic_files(tmp_path / "whole")


def test_an_append_is_read_back(tmp_path: Path) -> None:
    first = Ledger(tmp_path, "code", {"a": (1, 2)})
    first.append("key", Entry({"x": 0.1, "y": None}, {"run_wall_s": 1.5}, {"f": 3}))
    first.close()
    again = Ledger(tmp_path, "code", {"a": [1, 2]})
    again.close()
    assert again.runs == {"key": Entry({"x": 0.1, "y": None}, {"run_wall_s": 1.5}, {"f": 3})}
