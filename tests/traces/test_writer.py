"""Writing: what is written reads back equal, and the same trace gives the same bytes."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hexopt.core.workflow import MAX_TOKENS, MAX_US, Call, Trace, Workflow
from hexopt.errors import OutputError, TraceError
from hexopt.traces import load_trace, write_trace
from hexopt.traces.schema import CALL_KEYS, WORKFLOW_KEYS

SAMPLE = Path(__file__).parents[2] / "traces" / "samples" / "bfcl_multi_turn.jsonl"

times = st.none() | st.integers(0, MAX_US // 100)  # a workflow.s times add up to MAX_US at most
tokens = st.integers(1, MAX_TOKENS)
anything = st.text(st.characters(codec=None), max_size=6)
names = st.text(min_size=1, max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3),
    max_leaves=6,
)


def extras(known: frozenset[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(anything.filter(lambda key: key not in known), values, max_size=3)


@st.composite
def workflows(draw: st.DrawFn, workflow_id: str) -> Workflow:
    ids = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    order = draw(st.permutations(range(len(ids))))  # Calls may be listed before their parents.
    calls: list[Call | None] = [None] * len(ids)
    for rank, position in enumerate(order):
        prompt = draw(tokens)
        parents = draw(st.lists(st.sampled_from(order[:rank]), unique=True, max_size=3)) if rank else []
        calls[position] = Call(
            ids[position],
            tuple(parents),
            prompt,
            draw(tokens),
            draw(times),
            draw(st.none() | st.integers(0, prompt)),
            draw(st.none() | anything),
            draw(extras(CALL_KEYS)),
        )
    return Workflow(
        workflow_id,
        draw(anything),
        draw(times),
        tuple(item for item in calls if item is not None),
        draw(anything),
        draw(anything),
        draw(extras(WORKFLOW_KEYS)),
    )


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    ids = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    return Trace(tuple(draw(workflows(workflow_id)) for workflow_id in ids))


@given(trace=traces(), packed=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_reads_back(tmp_path: Path, trace: Trace, packed: bool) -> None:
    path = tmp_path / ("t.jsonl.gz" if packed else "t.jsonl")
    write_trace(trace, path)
    first = path.read_bytes()
    again = load_trace(path)
    assert again.workflows == trace.workflows
    write_trace(again, path)
    assert path.read_bytes() == first


def test_sample_is_written_byte_for_byte(tmp_path: Path) -> None:
    write_trace(load_trace(SAMPLE), tmp_path / "s.jsonl")
    assert (tmp_path / "s.jsonl").read_bytes() == SAMPLE.read_bytes()


def trace_of(workflow: Workflow) -> Trace:
    return Trace((workflow,))


ONE = Workflow(
    "w", "chat", 1_000_001, (Call("c0", (), 10, 2, None), Call("c1", (0,), 20, 2, 500, 10, "tool", {"x": 0.1}))
)


def test_form(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_trace(trace_of(replace(ONE, extra={"team": [1]})), path)
    assert path.read_text() == (
        '{"schema_version":1,"workflow_id":"w","app":"chat","arrival_s":1.000001,"source":"","license":"","team":[1],"calls":['
        '{"call_id":"c0","parents":[],"prompt_tokens":10,"output_tokens":2,"cached_prefix_tokens":null,"tool_delay_s":null},'
        '{"call_id":"c1","parents":["c0"],"prompt_tokens":20,"output_tokens":2,"cached_prefix_tokens":10,'
        '"tool_delay_s":0.0005,"delay_kind":"tool","x":0.1}]}\n'
    )


def test_gzip_holds_no_name_and_no_time(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl.gz"
    write_trace(trace_of(ONE), one)
    write_trace(trace_of(ONE), two)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes()[3:8] == bytes(5)
    assert json.loads(gzip.decompress(one.read_bytes()))["workflow_id"] == "w"


@pytest.mark.parametrize(
    ("workflow", "expected"),
    [
        (
            replace(ONE, extra={"app": 1}),
            "workflow 'w': extra key 'app' found, extra keys are strings unknown to the format",
        ),
        (replace(ONE, extra={1: 1}), "extra key 1 found"),  # type: ignore[dict-item]
        (replace(ONE, extra={"x": float("nan")}), "workflow 'w': extra: a value that is no JSON found"),
        (replace(ONE, extra={"x": {1, 2}}), "extra: a value that is no JSON found"),
        (
            replace(ONE, calls=(Call("c", (), 10, 2, 0, 11),)),
            r"cached_prefix_tokens: 11 is out of range, it lies in 0..10",
        ),
        (replace(ONE, calls=(Call("c", (0,), 10, 2),)), "wait for each other"),
        (replace(ONE, calls=(Call("", (), 10, 2),)), "call_id: '' found, an id is a text"),
        (replace(ONE, source=None), "None found, labels are strings"),  # type: ignore[arg-type]
    ],
)
def test_only_legal_traces_are_written(tmp_path: Path, workflow: Workflow, expected: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("before")
    with pytest.raises(TraceError, match=expected):
        write_trace(trace_of(workflow), path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable(tmp_path: Path) -> None:
    path = tmp_path / "no" / "t.jsonl"
    with pytest.raises(OutputError, match=r"not writable .* choose another path") as caught:
        write_trace(trace_of(ONE), path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(OutputError):
        write_trace(trace_of(ONE), tmp_path)
