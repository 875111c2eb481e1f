"""Reading: what is legal, what each mistake says, and that nothing illegal slips through."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from decimal import ROUND_HALF_EVEN, Context, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexopt.core.workflow import EMPTY, MAX_US, Trace
from hexopt.errors import TraceError
from hexopt.traces import check_trace_file, load_trace
from hexopt.traces.schema import LineError, Pool, build_carefully, build_fast, parse_line, seconds_to_us, us_to_seconds

SHARED = Path(__file__).parents[3] / "shared" / "traces" / "dev"
SAMPLE = Path(__file__).parents[2] / "traces" / "samples" / "bfcl_multi_turn.jsonl"
FIX = "correct the line or leave it out with --skip-invalid"


def call(call_id: str = "c0", **keys: Any) -> dict[str, Any]:
    return {"call_id": call_id, "parents": [], "prompt_tokens": 10, "output_tokens": 2, "tool_delay_s": 0, **keys}


def flow(*calls: Any, workflow_id: Any = "w", **keys: Any) -> dict[str, Any]:
    return {"workflow_id": workflow_id, "app": "a", "arrival_s": 0, "calls": list(calls or [call()]), **keys}


def save(folder: Path, *lines: str | bytes | dict[str, Any], name: str = "t.jsonl") -> Path:
    path = folder / name
    path.write_bytes(
        b"".join(
            (x if isinstance(x, bytes) else (json.dumps(x) if isinstance(x, dict) else x).encode()) + b"\n"
            for x in lines
        )
    )
    return path


def message(path: Path) -> str:
    """Return the message of loading a bad file, after the file's name; check what all messages have in common."""
    with pytest.raises(TraceError) as caught:
        load_trace(path)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert text.startswith(f"{path}:")
    assert str(check_trace_file(path)[0]) == text
    return text.removeprefix(f"{path}:")


def test_all_keys_arrive(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        flow(
            call(cached_prefix_tokens=4, tool_delay_s=0.25, delay_kind="start"),
            call("c1", parents=["c0"], model={"name": "m", "n": [1, 2.5]}),
            arrival_s=1.5,
            source="s",
            license="l",
            schema_version=1,
            team="blue",
        ),
    )
    trace = load_trace(path)
    (workflow,) = trace.workflows
    first, second = workflow.calls
    assert (workflow.workflow_id, workflow.app, workflow.arrival_us, workflow.source, workflow.license) == (
        "w",
        "a",
        1_500_000,
        "s",
        "l",
    )
    assert workflow.extra == {"team": "blue"}
    assert (first.call_id, first.parents, first.prompt_tokens, first.output_tokens) == ("c0", (), 10, 2)
    assert (first.tool_us, first.cached_prefix_tokens, first.delay_kind) == (250_000, 4, "start")
    assert first.extra is EMPTY
    assert second.parents == (0,)
    assert second.extra == {"model": {"name": "m", "n": [1, 2.5]}}
    assert type(second.extra["model"]["n"][1]) is float
    assert trace.name == "t"
    assert trace.provenance == {
        "file": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "workflows": 1,
        "calls": 2,
    }
    trace.check()


def test_what_may_be_missing(tmp_path: Path) -> None:
    path = save(tmp_path, {"workflow_id": "w", "calls": [{"call_id": "c", "prompt_tokens": 1, "output_tokens": 1}]})
    (workflow,) = load_trace(path).workflows
    assert (workflow.app, workflow.arrival_us, workflow.source, workflow.license, workflow.extra) == (
        "",
        None,
        "",
        "",
        {},
    )
    (only,) = workflow.calls
    assert (only.parents, only.tool_us, only.cached_prefix_tokens, only.delay_kind) == ((), None, None, None)


def test_null_is_unknown(tmp_path: Path) -> None:
    path = save(tmp_path, flow(call(tool_delay_s=None, cached_prefix_tokens=None, delay_kind=None), arrival_s=None))
    (workflow,) = load_trace(path).workflows
    assert workflow.arrival_us is None
    assert workflow.calls[0].tool_us is None


def test_gzip_is_told_by_content(tmp_path: Path) -> None:
    text = save(tmp_path, flow()).read_bytes()
    packed = tmp_path / "packed.jsonl"
    packed.write_bytes(gzip.compress(text))
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_bytes(text)
    assert load_trace(packed).workflows == load_trace(plain).workflows
    assert load_trace(packed).provenance["sha256"] == load_trace(plain).provenance["sha256"]
    assert load_trace(plain).name == "plain"


def test_blank_lines_windows_ends_and_mark_are_fine(tmp_path: Path) -> None:
    path = save(
        tmp_path, b"\xef\xbb\xbf" + json.dumps(flow()).encode() + b"\r", "", "  \t", json.dumps(flow(workflow_id="v"))
    )
    assert [w.workflow_id for w in load_trace(path).workflows] == ["w", "v"]


def test_last_line_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(flow()))
    assert len(load_trace(path)) == 1


def test_calls_in_any_order(tmp_path: Path) -> None:
    path = save(tmp_path, flow(call("b", parents=["a", "c"]), call("a"), call("c", parents=["a"])))
    (workflow,) = load_trace(path).workflows
    assert [c.parents for c in workflow.calls] == [(1, 2), (), (1,)]
    workflow.check()


def test_equal_strings_are_kept_once(tmp_path: Path) -> None:
    two = [
        flow(call("first", delay_kind="tool"), call("second", parents=["first"]), workflow_id=n, source="src")
        for n in "ab"
    ]
    a, b = load_trace(save(tmp_path, *two)).workflows
    assert a.source is b.source
    assert a.calls[0].call_id is b.calls[0].call_id
    assert a.calls[0].delay_kind is b.calls[0].delay_kind
    assert a.calls[1].parents is b.calls[1].parents


W = "workflow 'w'"
C0 = f"{W}, call 'c0': "
C1 = f"{W}, call 'c1': "

BAD_FIELDS = [
    # (workflow, what the message says after FILE:1:)
    (flow(schema_version=2), "schema_version: 2 found, this hexopt reads version 1, convert the file or use a newer "),
    (flow(schema_version="1"), "schema_version: '1' found, this hexopt reads version 1,"),
    (flow(schema_version=True), "schema_version: true found,"),
    (flow(workflow_id=7), "workflow_id: 7 found, a string is legal, " + FIX),
    (flow(workflow_id=""), "workflow_id: an empty string found, an id has at least one character, "),
    (flow(workflow_id="two\nlines", app=1), "workflow 'two\\nlines': app: 1 found, a string is legal, "),
    (flow(app=None), W + ": app: null found, a string is legal, "),
    (flow(source=[]), W + ": source: an empty list found, a string is legal, "),
    (flow(license={}), W + ": license: an object found, a string is legal, "),
    (flow(arrival_s=-1), W + ": arrival_s: -1 found, seconds from 0 to 9007199254 or null for unknown are legal, "),
    (flow(arrival_s="0"), W + ": arrival_s: '0' found, seconds from 0 "),
    (flow(arrival_s=True), W + ": arrival_s: true found, seconds from 0 "),
    (flow(arrival_s=10**10), W + ": arrival_s: 10000000000 found, seconds from 0 "),
    (flow(calls={}), W + ": calls: an object found, a list of at least one call is legal, "),
    (flow(calls=[]), W + ": calls: an empty list found, a list of at least one call is legal, "),
    (flow(calls=None), W + ": calls: null found, a list of at least one call is legal, "),
    (flow("c0"), W + ", call at position 0: 'c0' found, a call is a JSON object, "),
    (flow(call(3)), W + ", call at position 0: call_id: 3 found, a string is legal, "),
    (flow(call(""), call("")), W + ", call at position 0: call_id: an empty string found, "),
    (flow(call(), call()), C0 + "call_id: the id of position 0 again at position 1 found, ids are unique "),
    (flow(call(prompt_tokens=0)), C0 + f"prompt_tokens: 0 found, a whole number from 1 to {2**40} is legal, {FIX}"),
    (flow(call(prompt_tokens=-5)), C0 + "prompt_tokens: -5 found, a whole number from 1 "),
    (flow(call(prompt_tokens=2**40 + 1)), C0 + "prompt_tokens: 1099511627777 found, a whole number from 1 "),
    (flow(call(output_tokens=0)), C0 + "output_tokens: 0 found, a whole number from 1 "),
    (flow(call(output_tokens=True)), C0 + "output_tokens: true found, a whole number from 1 "),
    (flow(call(output_tokens=3.0)), C0 + "output_tokens: 3.0 found, a whole number from 1 "),
    (flow(call(output_tokens=None)), C0 + "output_tokens: null found, a whole number from 1 "),
    (flow(call(output_tokens="9")), C0 + "output_tokens: '9' found, a whole number from 1 "),
    (flow(call(cached_prefix_tokens=-1)), C0 + "cached_prefix_tokens: -1 found, a whole number from 0 to 10 "),
    (flow(call(cached_prefix_tokens=11)), C0 + "cached_prefix_tokens: 11 found, a whole number from 0 to 10 (prompt"),
    (flow(call(cached_prefix_tokens=False)), C0 + "cached_prefix_tokens: false found, "),
    (flow(call(tool_delay_s=-0.5)), C0 + "tool_delay_s: -0.5 found, seconds from 0 "),
    (flow(call(tool_delay_s=[1])), C0 + "tool_delay_s: a list of 1 found, seconds from 0 "),
    (flow(call(delay_kind=1)), C0 + "delay_kind: 1 found, a string is legal, "),
    (flow(call(parents="c0")), C0 + "parents: 'c0' found, a list of call ids is legal, "),
    (flow(call(parents=None)), C0 + "parents: null found, a list of call ids is legal, "),
    (flow(call(parents={})), C0 + "parents: an object found, a list of call ids is legal, "),
    (flow(call(), call("c1", parents=[0])), C1 + "parents: 0 found, a parent is a call id (a string), "),
    (flow(call(), call("c1", parents=[["c0"]])), C1 + "parents: a list of 1 found, a parent is a call id (a string), "),
    (flow(call(), call("c1", parents=["c9"])), C1 + "parents: 'c9' found, a parent is a call of the same workflow, "),
    (flow(call(parents=["c0"])), C0 + "parents: the call itself found, no call waits for itself, "),
    (flow(call(), call("c1", parents=["c0", "c0"])), C1 + "parents: 'c0' twice found, a parent counts once, "),
    (
        flow(call("a", parents=["b"]), call("b", parents=["c"]), call("c", parents=["a"]), call("d", parents=["a"])),
        "workflow 'w', parents: the circle 'a' -> 'b' -> 'c' -> 'a' found, a workflow has no circle, ",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("record", "expected"), BAD_FIELDS, ids=lambda x: None if isinstance(x, dict) else x[:60])
def test_bad_field(tmp_path: Path, record: dict[str, Any], expected: str) -> None:
    text = message(save(tmp_path, "", record))
    assert text.startswith("2: " + expected)
    assert text.endswith((FIX, "newer hexopt"))


@pytest.mark.parametrize("key", ["workflow_id", "calls"])
def test_missing_workflow_key(tmp_path: Path, key: str) -> None:
    record = flow()
    del record[key]
    who = "workflow 'w': " if key == "calls" else ""
    assert message(save(tmp_path, record)) == f"1: {who}{key}: nothing found, the key is required, add {key} or {FIX}"


@pytest.mark.parametrize("key", ["call_id", "prompt_tokens", "output_tokens"])
def test_missing_call_key(tmp_path: Path, key: str) -> None:
    record = call()
    del record[key]
    who = "call at position 0" if key == "call_id" else "call 'c0'"
    text = message(save(tmp_path, flow(record)))
    assert text == f"1: workflow 'w', {who}: {key}: nothing found, the key is required, add {key} or {FIX}"


BAD_LINES = [
    (b"{", "column 2: broken JSON found ("),
    (b'{"workflow_id": "w",}', "column 2"),
    (b"nonsense", "column 1: broken JSON found (expecting value), a line is one JSON object, " + FIX),
    (b"[1]", "line: a list of 1 found, a line is one JSON object (one workflow), " + FIX),
    (b"null", "line: null found, a line is one JSON object (one workflow), "),
    (b'"text"', "line: 'text' found, a line is one JSON object "),
    (b'{"arrival_s": NaN}', "number: NaN found, JSON numbers are finite (unknown is null), " + FIX),
    (b'{"x": [Infinity]}', "number: Infinity found, JSON numbers are finite "),
    (b'{"x": -Infinity}', "number: -Infinity found, JSON numbers are finite "),
    (b'{"app": "a", "app": "a"}', "key 'app': found twice in one object, keys are unique, " + FIX),
    (b'{"calls": [{"call_id": "c", "call_id": "d"}]}', "key 'call_id': found twice in one object, "),
    (b'{"app": "\xff"}', "byte 10: 0xff found, a trace is UTF-8 text, save the file as UTF-8"),
    (b"[" * 100_000, "JSON: too deeply nested values found, "),
    (b'{"x": ' + b"9" * 5000 + b"}", "number: thousands of digits found, "),
    ("{}".encode("utf-16"), "byte 1: 0xff found, a trace is UTF-8 text, "),
]


@pytest.mark.parametrize(("line", "expected"), BAD_LINES, ids=lambda x: None if isinstance(x, bytes) else x[:40])
def test_bad_line(tmp_path: Path, line: bytes, expected: str) -> None:
    assert message(save(tmp_path, flow(), line)).startswith("2: " + expected)


@pytest.mark.parametrize(
    "text", ["1e400000", "1e9999999999999999999", "9007199254.740993", "-1e-400000", "-1E9999999999999999999"]
)
def test_extreme_times_are_refused_at_once(tmp_path: Path, text: str) -> None:
    line = json.dumps(flow(arrival_s=77)).replace("77", text)
    assert "workflow 'w': arrival_s: " in message(save(tmp_path, line))


@pytest.mark.parametrize("text", ["1e-400000", "1e-9999999999999999999", "-0.0", "0e9999999999999999999", "0.0000005"])
def test_tiny_times_are_zero(tmp_path: Path, text: str) -> None:
    line = json.dumps(flow(arrival_s=77)).replace("77", text)
    assert load_trace(save(tmp_path, line)).workflows[0].arrival_us == 0


def test_extra_number_beyond_a_double(tmp_path: Path) -> None:
    line = json.dumps(flow(call(speed=77))).replace("77", "1e999")
    text = message(save(tmp_path, line))
    assert text == f"1: {C0}'speed': a number beyond 1.8e308 found, numbers of unknown keys fit a double, {FIX}"


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("0.0000005", 0),
        ("0.0000015", 2),
        ("0.0000025", 2),
        ("0.00000050000000000000000000000000000000000000000000000000000000000000000000001", 1),
        ("0.0000014999999999999999999999999999999999999999999999999999999999999999999999", 1),
        ("0.1", 100_000),
        ("2.675", 2_675_000),
        ("1234567.8901235", 1_234_567_890_124),
        ("1234567.8901225", 1_234_567_890_122),
        ("1e3", 1_000_000_000),
        ("1E-6", 1),
        ("25e-7", 2),
        ("3", 3_000_000),
        ("9007199254.740992", MAX_US),
    ],
)
def test_seconds_round_once_half_to_even(tmp_path: Path, text: str, us: int) -> None:
    line = json.dumps(flow(call(tool_delay_s=77))).replace("77", text)
    assert load_trace(save(tmp_path, line)).workflows[0].calls[0].tool_us == us


@given(st.decimals(0, 9_000_000_000, allow_nan=False, places=9))
def test_seconds_to_us_is_exact(seconds: Decimal) -> None:
    exact = Context(prec=100).multiply(seconds, Decimal(10**6))
    assert seconds_to_us(seconds) == int(exact.to_integral_value(ROUND_HALF_EVEN))


@given(st.integers(0, MAX_US))
def test_us_survive_as_seconds(us: int) -> None:
    assert seconds_to_us(Decimal(us_to_seconds(us))) == us


def test_duplicate_workflow(tmp_path: Path) -> None:
    text = message(save(tmp_path, flow(), flow(workflow_id="v"), flow()))
    assert (
        text
        == f"3: workflow 'w': workflow_id: the id of line 1 again found, ids are unique in a trace, rename one or {FIX}"
    )


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"")], ids=["empty", "blank", "packed"])
def test_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    assert message(path) == "1: file: no workflow found, a trace has one JSON object a line, check how it was made"


def test_broken_gzip(tmp_path: Path) -> None:
    text = b"\n".join(
        json.dumps(flow(call(), workflow_id=f"w{i}", note=f"{i * 7919 % 104729}")).encode() for i in range(2000)
    )
    packed = gzip.compress(text)
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(packed[: len(packed) // 2])
    cut = message(path)
    assert int(cut.partition(":")[0]) > 1
    assert cut.endswith("file: the end of the gzip data found too early, a file is complete, fetch or pack it again")
    for broken in (packed[:300] + bytes(50) + packed[350:], packed + b"rubbish", packed[:3]):
        path.write_bytes(broken)
        assert "fetch or pack it again" in message(path)
    with pytest.raises(TraceError, match="fetch or pack it again"):
        load_trace(path, skip_invalid=True)


def test_no_file(tmp_path: Path) -> None:
    missing = tmp_path / "no.jsonl"
    assert message(missing) == " file: nothing found, a trace file is readable, check the path"
    assert message(tmp_path) == " file: a directory found, a trace is one file, name a .jsonl file in it"
    inside = save(tmp_path, flow()) / "x"
    assert message(inside) == " file: nothing found, a trace file is readable, check the path"
    with pytest.raises(TraceError, match=r"^'a\\x00b': file: no readable file found"):
        load_trace("a\0b")


def test_skip_invalid(tmp_path: Path) -> None:
    bad = [flow(call(output_tokens=0), workflow_id=f"bad{i}") for i in range(7)]
    path = save(tmp_path, flow(), "{", *bad, flow(), flow(workflow_id="v"))
    trace = load_trace(path, skip_invalid=True)
    assert [w.workflow_id for w in trace.workflows] == ["w", "v"]
    assert trace.provenance["workflows"] == trace.provenance["calls"] == 2
    assert trace.provenance["skipped"] == 9
    reasons = trace.provenance["skipped_reasons"]
    assert len(reasons) == 5
    assert reasons[0].startswith(f"{path}:2: column 2: broken JSON")
    assert "'bad0', call 'c0': output_tokens: 0 found" in reasons[1]
    assert "skipped" not in load_trace(save(tmp_path, flow())).provenance
    assert load_trace(save(tmp_path, flow()), skip_invalid=True).provenance["skipped"] == 0


def test_skip_invalid_needs_one_left(tmp_path: Path) -> None:
    path = save(tmp_path, "{", "[]")
    with pytest.raises(
        TraceError, match=r":1: column 2: broken JSON found .* \(no workflow is left: all 2 are invalid\)$"
    ):
        load_trace(path, skip_invalid=True)


def test_check_finds_all(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        flow(),
        "{",
        flow(call(output_tokens=0, parents=["x", "y"]), call("c1", tool_delay_s="z"), app=1),
        flow(),
    )
    found = [str(problem).removeprefix(f"{path}:") for problem in check_trace_file(path)]
    assert [text.partition(" found")[0] for text in found] == [
        "2: column 2: broken JSON",
        "3: workflow 'w': app: 1",
        "3: workflow 'w', call 'c0': output_tokens: 0",
        "3: workflow 'w', call 'c0': parents: 'x'",
        "3: workflow 'w', call 'c0': parents: 'y'",
        "3: workflow 'w', call 'c1': tool_delay_s: 'z'",
        "4: workflow 'w': workflow_id: the id of line 1 again",
    ]
    assert check_trace_file(path, limit=3) == check_trace_file(path)[:3] or len(check_trace_file(path, limit=3)) == 3
    assert check_trace_file(save(tmp_path, flow(), name="good.jsonl")) == []


def test_check_goes_on_to_a_broken_end(tmp_path: Path) -> None:
    packed = gzip.compress(b"{\n" + json.dumps(flow()).encode())
    path = tmp_path / "t.gz"
    path.write_bytes(packed[:-4])
    first, second = check_trace_file(path)
    assert ":1: column 2" in str(first)
    assert "end of the gzip data" in str(second)


def _mutations() -> st.SearchStrategy[bytes]:
    odd = st.sampled_from(
        [
            None,
            True,
            False,
            0,
            -1,
            1,
            3.0,
            0.5,
            10**11,
            "",
            "c0",
            "c1",
            "x",
            [],
            ["c0"],
            ["c1"],
            ["c0", "c0"],
            [1],
            {},
            [[]],
            [None],
        ]
    )
    keys = (
        "parents",
        "prompt_tokens",
        "output_tokens",
        "cached_prefix_tokens",
        "tool_delay_s",
        "delay_kind",
        "call_id",
        "other",
    )
    calls = st.lists(
        st.one_of(odd, st.dictionaries(st.sampled_from(keys), odd, max_size=2)), min_size=1, max_size=3
    ).map(lambda xs: [{**call(f"c{i}"), **x} if isinstance(x, dict) else x for i, x in enumerate(xs)])
    tops = ("schema_version", "workflow_id", "app", "arrival_s", "source", "license", "calls", "team")
    whole = st.tuples(calls, st.dictionaries(st.sampled_from(tops), odd, max_size=1)).map(
        lambda p: {**flow(*p[0]), **p[1]}
    )
    return whole.map(lambda record: json.dumps(record).encode())


@given(_mutations())
def test_fast_and_careful_reading_agree(line: bytes) -> None:
    problems: list[str] = []
    careful = build_carefully(parse_line(line), Pool(), problems.append)
    fast = build_fast(parse_line(line), Pool())
    assert (careful is None) == bool(problems)
    if fast is not None:
        assert fast == careful
        fast.check()
    if careful is not None:
        careful.check()
    for problem in problems:
        assert problem.count(" found, ") == 1
        assert "\n" not in problem


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_read_or_explained(line: bytes) -> None:
    explained = ""
    try:
        record = parse_line(line)
    except LineError as error:
        explained = str(error)
    assert explained.count("\n") == 0
    assert explained or isinstance(record, dict)


LOGS = sorted(SHARED.glob("*.jsonl.gz")) if SHARED.is_dir() else []
BAD_SESSIONS = {"claude_code_weka": 10}


@pytest.mark.skipif(not LOGS, reason="needs the public logs in ../shared/traces/dev, no part of the project")
@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name)
def test_public_logs_load(path: Path) -> None:
    trace = load_trace(path, skip_invalid=True)
    trace.check()
    assert trace.provenance["skipped"] == BAD_SESSIONS.get(trace.name, 0)
    assert all("output_tokens: 0 found" in reason for reason in trace.provenance["skipped_reasons"])


def test_sample_is_ready_to_simulate() -> None:
    trace: Trace = load_trace(SAMPLE)
    trace.check()
    assert (len(trace), trace.call_count, trace.unknown_arrivals, trace.unknown_delays) == (200, 1975, 0, 0)
    assert {w.license for w in trace.workflows} == {"Apache-2.0"}
    for workflow in trace.workflows:
        for index, item in enumerate(workflow.calls):
            before = workflow.calls[index - 1]
            assert item.parents == ((index - 1,) if index else ())
            assert item.cached_prefix_tokens == (before.prompt_tokens if index else 0)
            assert index == 0 or item.prompt_tokens > before.prompt_tokens + before.output_tokens
    sheet = SAMPLE.with_suffix(".md").read_text()
    assert trace.provenance["sha256"] in sheet


def test_import_is_light() -> None:
    code = "import sys, hexopt.traces; print(sorted({'pandas', 'matplotlib', 'pydantic', 'typer'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
