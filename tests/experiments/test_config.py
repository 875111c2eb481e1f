"""An experiment file is checked strictly; each complaint is one line with subject, value, rule and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hexopt.errors import ConfigError
from hexopt.experiments.config import load_config, parse_config

GOOD: dict[str, Any] = {"name": "q", "trace": "t.jsonl", "cluster": "tiny", "policies": [{"name": "fcfs"}]}


def parse(**changes: Any) -> Any:
    return parse_config({**GOOD, **changes}, "f.toml", Path("folder"))


def test_a_minimal_file_has_the_documented_defaults() -> None:
    config = parse()
    assert config.cluster == ("tiny",)
    assert config.seeds == (0,)
    assert config.predictor == "app-mean"
    assert config.workflows is config.arrivals is config.delays is config.stop_us is None
    assert config.output.keep == "all"
    assert config.policies[0].title == "fcfs"


def test_a_count_of_seeds_and_a_list_of_seeds() -> None:
    assert parse(seeds=3).seeds == (0, 1, 2)
    assert parse(seeds=[7, 3]).seeds == (7, 3)


def test_inputs_are_relative_to_the_file() -> None:
    assert parse().resolve("t.jsonl") == Path("folder/t.jsonl")
    assert parse().resolve("/a/t.jsonl") == Path("/a/t.jsonl")


def test_seconds_become_microseconds() -> None:
    assert parse(stop_s=1.5).stop_us == 1_500_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"polices": 1}, ["polices", "unknown key", "did you mean 'policies'"]),
        ({"policies": [{"nmae": "fcfs"}]}, ["policies[0].nmae", "did you mean 'name'"]),
        ({"output": {"foldr": "x"}}, ["output.foldr", "did you mean 'folder'"]),
        ({"folder": "x"}, ["folder: unknown key"]),
        ({"name": "a/b"}, ["name", "'a/b'"]),
        ({"name": ""}, ["name", "''"]),
        ({"trace": 3}, ["trace", "3 found", "text"]),
        ({"seeds": 0}, ["seeds", "0 found", "1..10000"]),
        ({"seeds": True}, ["seeds", "True"]),
        ({"seeds": []}, ["seeds", "at least one"]),
        ({"seeds": [1, 1]}, ["seeds", "counts once"]),
        ({"seeds": [-1]}, ["seeds", "at least 0"]),
        ({"seeds": [0.5]}, ["seeds", "whole number"]),
        ({"workflows": 0}, ["workflows", "0 found"]),
        ({"workflows": 1.5}, ["workflows", "whole number"]),
        ({"stop_s": float("inf")}, ["stop_s", "finite"]),
        ({"stop_s": float("nan")}, ["stop_s", "finite"]),
        ({"stop_s": -1.0}, ["stop_s", "-1.0 found"]),
        ({"policies": []}, ["policies", "at least one"]),
        ({"policies": {"name": "x"}}, ["policies", "a list"]),
        ({"policies": [{"name": "fcfs", "options": {"a": [1]}}]}, ["policies[0].options.a"]),
        ({"policies": [{"name": "fcfs", "options": {"a": float("nan")}}]}, ["policies[0].options.a", "finite"]),
        ({"policies": [{"name": "fcfs"}, {"name": "fcfs"}]}, ["'fcfs' occurs twice", "label"]),
        ({"output": {"formats": ["pdf"]}}, ["output.formats[0]", "'pdf'"]),
        ({"output": {"keep": "some"}}, ["output.keep", "'some'"]),
        ({"cluster": []}, ["cluster", "at least one"]),
        ({"cluster": ["a", "a"]}, ["cluster", "occurs twice"]),
        ({"baselines": ["fcsf"]}, ["baselines", "did you mean 'fcfs'"]),
        ({"schema_version": 2}, ["schema_version", "2"]),
        ({"schema_version": True}, ["schema_version"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**changes)
    message = str(caught.value)
    assert message.startswith("f.toml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"f\.toml: trace: it is missing"):
        parse_config({k: v for k, v in GOOD.items() if k != "trace"}, "f.toml", Path())


def test_a_broken_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('name = "x"\ntrace = = 3\n')
    with pytest.raises(ConfigError, match=r"broken\.toml: .*line 2.*TOML"):
        load_config(path)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "binary.toml")
