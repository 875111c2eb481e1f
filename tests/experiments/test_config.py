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
        ({"output": {"table": "xlsx"}}, ["output.table", "'xlsx'"]),
        ({"loads": []}, ["loads", "at least one"]),
        ({"loads": [0.5, 0.5]}, ["loads", "differ"]),
        ({"loads": [1, 1.0]}, ["loads", "differ"]),
        ({"loads": [0.0]}, ["loads[0]", "0.0 found"]),
        ({"loads": ["high"]}, ["loads[0]", "number"]),
        ({"loads": [float("nan")]}, ["loads[0]", "finite"]),
        ({"loads": [0.5], "arrivals": "burst"}, ["arrivals stand beside loads"]),
        ({"load_cv": 2.0}, ["load_cv", "without loads"]),
        ({"estimate_errors": [-0.1]}, ["estimate_errors[0]", "-0.1 found"]),
        ({"estimate_errors": [True]}, ["estimate_errors[0]", "True"]),
        ({"traces": [{"file": "t"}]}, ["trace: it stands beside [[traces]]"]),
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


TABLES = {k: v for k, v in GOOD.items() if k != "trace"}


def parse_traces(*traces: dict[str, Any], **changes: Any) -> Any:
    return parse_config({**TABLES, "traces": list(traces), **changes}, "f.toml", Path("folder"))


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        ({"fil": "t"}, ["traces[0].fil", "unknown key", "did you mean 'file'"]),
        ({}, ["traces[0]", "neither of file and generate"]),
        ({"file": "t", "generate": "chat"}, ["traces[0]", "both of file and generate"]),
        ({"file": "t", "trace_seed": 0}, ["traces[0]", "trace_seed found beside file"]),
        ({"file": "t", "options": {"a": 1}}, ["traces[0]", "options found beside file"]),
        ({"file": "t", "parameters": "paper"}, ["traces[0]", "parameters found beside file"]),
        ({"generate": "chat", "workflows": 3, "skip_invalid": True}, ["traces[0]", "skip_invalid found beside"]),
        ({"generate": "chat"}, ["traces[0]", "workflows is missing"]),
        ({"generate": "chat", "workflows": 0}, ["traces[0].workflows", "0 found"]),
        ({"generate": "chat", "workflows": 3, "parameters": "mine"}, ["traces[0].parameters", "'mine'"]),
        ({"generate": "chat", "workflows": 3, "trace_seed": -1}, ["traces[0].trace_seed", "-1 found"]),
        ({"generate": "chat", "workflows": 3, "options": {"a": [1]}}, ["traces[0].options.a"]),
    ],
)
def test_what_is_wrong_with_a_trace_is_said_in_one_line(trace: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_traces(trace)
    message = str(caught.value)
    assert message.startswith("f.toml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_traces_are_told_apart_by_name() -> None:
    with pytest.raises(ConfigError, match=r"traces\[0\]: 't' occurs twice"):
        parse_traces({"file": "a/t.jsonl"}, {"file": "b/t.jsonl.gz"})
    named = parse_traces({"file": "a/t.jsonl"}, {"file": "b/t.jsonl.gz", "name": "other"})
    assert [entry.title for entry in named.trace_entries] == ["t", "other"]


def test_a_trace_goes_before_the_experiment() -> None:
    config = parse_traces(
        {"file": "t.jsonl"},
        {"generate": "chat", "workflows": 7, "delays": "fixed:1", "arrivals": "burst"},
        workflows=3,
        delays="zero",
        skip_invalid=True,
        arrivals="poisson:2",
    )
    file, drawn = config.trace_entries
    assert (file.workflows, file.delays, file.arrivals, file.skip_invalid) == (3, "zero", "poisson:2", True)
    assert (drawn.workflows, drawn.delays, drawn.arrivals, drawn.skip_invalid) == (7, "fixed:1", "burst", False)
    assert (file.parameters, drawn.parameters) == (None, "paper")


def test_the_plain_trace_is_a_table_of_one() -> None:
    assert parse(workflows=5).trace_entries == parse_traces({"file": "t.jsonl", "workflows": 5}).trace_entries


def test_a_single_number_is_a_list_of_one() -> None:
    config = parse(loads=0.5, estimate_errors=0.1)
    assert (config.loads, config.estimate_errors) == ((0.5,), (0.1,))


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
