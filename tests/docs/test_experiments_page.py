"""docs/experiments.md: its study is one, and its tables name every key that there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from hexopt.experiments.config import ExperimentConfig, OutputEntry, PolicyEntry, TraceEntry, load_config, parse_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def keys_of_table(after: str) -> set[str]:
    """The keys in the first column of the table that follows these words."""
    rows = PAGE.split(after, 1)[1].split("\n\n| Key", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    first = [row.split("|")[1] for row in rows]
    return {key.strip("[]") for cell in first for key in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize(
    ("after", "model"),
    [
        ("## The file", ExperimentConfig),
        ("A `[[traces]]` table:", TraceEntry),
        ("A `[[policies]]` table:", PolicyEntry),
        ("`[output]`:", OutputEntry),
    ],
)
def test_the_tables_name_every_key_and_no_other(after: str, model: type[BaseModel]) -> None:
    known = set(model.model_fields) - ({"folder"} if model is ExperimentConfig else set())
    assert keys_of_table(after) == known


def test_the_study_of_the_page_is_one() -> None:
    (text,) = code("toml")
    config = parse_config(tomllib.loads(text), "page", ROOT / "experiments")
    assert [entry.title for entry in config.trace_entries] == ["recorded", "drawn"]
    assert config.resolve(str(config.trace_entries[0].file)).is_file()
    assert config.policies[3].predictor == "oracle"
    assert {path.stem for path in (ROOT / "src/hexopt/clusters/shipped").glob("*.toml")} >= set(config.cluster)


def test_the_python_of_the_page_compiles_and_names_what_there_is() -> None:
    (text,) = code("python")
    compile(text, "page", "exec")
    assert load_config(ROOT / "experiments" / "quickstart.toml").name == "quickstart"


def test_the_table_of_results_is_what_a_study_leaves(tmp_path: Path) -> None:
    from hexopt.experiments import run_experiment
    from tests.experiments.small import EXPERIMENT, write_small_trace

    write_small_trace(tmp_path / "small.jsonl")
    (tmp_path / "small.toml").write_text(EXPERIMENT)
    run_experiment(load_config(tmp_path / "small.toml"), tmp_path / "out", jobs=1)
    rows = PAGE.split("| In the output folder", 1)[1].split("\n\n", 1)[0]
    told = {
        name.rstrip("/").partition("/")[0]
        for row in rows.splitlines()[2:]
        for name in re.findall(r"`([^`]+)`", row.split("|")[1])
    }
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left <= told
    assert told - left == {"failed", "summary.md", "figures"}, "only after a failure, and from the command line"
