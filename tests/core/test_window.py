"""Windows as files: what is read, what is refused and in which words."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hexopt.core.window import Window, load_window
from hexopt.errors import WindowError
from tests.formulations.small import bound, call, instances, plain_window
from tests.formulations.windows import REGIMES, random_window


def plain() -> dict[str, Any]:
    calls = [call("a", [10, None], [3]), bound("b", [None, None], [7], available_us=4)]
    return plain_window(calls, instances(2, 1, {"held": [[5, 1]]}, {"releases": [[9, 2]]}), latency_us=1)


@pytest.mark.parametrize("regime", REGIMES)
def test_round_trip(regime: str, tmp_path: Path) -> None:
    window = random_window(3, 9, regime)
    assert Window.from_json(window.to_json()) == window
    assert Window.from_json(json.loads(json.dumps(window.to_json()))) == window
    for name in ("w.json", "w.json.gz"):
        window.save(tmp_path / name)
        assert load_window(tmp_path / name) == window


@pytest.mark.parametrize("regime", REGIMES)
def test_where_a_call_may_go_is_said_in_two_ways(regime: str) -> None:
    for c in random_window(3, 9, regime).calls + Window.from_json(plain()).calls:
        assert [p for p in range(len(c.prefill_us)) if c.may_prefill(p)] == c.prefills()
        assert [d for d in range(len(c.decode_us)) if c.may_decode(d)] == c.decodes()


def test_same_window_same_bytes(tmp_path: Path) -> None:
    one, two = random_window(1, 5), random_window(1, 5)
    for k, window in enumerate((one, two)):
        for end in (".json", ".json.gz"):
            window.save(tmp_path / f"{k}{end}")
    text = (tmp_path / "0.json").read_bytes()
    assert text == (tmp_path / "1.json").read_bytes()
    packed = (tmp_path / "0.json.gz").read_bytes()
    assert packed == (tmp_path / "1.json.gz").read_bytes()
    assert gzip.decompress(packed) == text
    assert text.decode().count("\n") > 5, "a line a call"


def test_what_need_not_be_given() -> None:
    window = Window.from_json(plain())
    assert window.options.contention == "nic"
    assert window.options.prefill_kv
    assert window.prefill[1].held == ()
    assert window.workflows[0].floor_us is None
    assert window.calls[0].available_us is None
    assert window.calls[0].prefills() == [0]
    assert window.calls[1].prefills() == [0]


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the plain window with one place changed; ``...`` takes it away."""
    found: Any = copy.deepcopy(plain())
    at = found
    *way, last = [int(k) if k.isdigit() else k for k in path.split(".")]
    for key in way:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("schema_version", 2, "f: schema_version is 2, this version of hexopt reads 1, convert the window"),
        ("schema_version", True, "f: schema_version is True, "),
        ("name", ..., "f: key 'name' is missing, it must be given, add it"),
        ("calls", ..., "f: key 'calls' is missing"),
        ("extra", 1, "f: key 'extra' is unknown, "),
        ("options.latency", 1, "f: options: key 'latency' is unknown, did you mean 'latency_us'?"),
        ("name", 1, "f: name: 1 found, it is a text, correct it"),
        ("options", [], "f: options: [] found, it is an object, correct it"),
        ("options.contention", "wire", "f: options: contention: 'wire' found, it is one of nic, none, correct it"),
        ("options.kv_admission", None, "it is one of backfill, strict"),
        ("options.prefill_kv", 1, "f: options: prefill_kv: 1 found, it is true or false, correct it"),
        ("options.latency_us", -1, "f: options: latency_us: -1 found, it is a whole number from 0 to 9007199254740992"),
        ("prefill.0.free_us", 1.0, "f: prefill[0]: free_us: 1.0 found, it is a whole number"),
        ("prefill.0.free_us", True, "True found, it is a whole number"),
        ("prefill.0.free_us", 2**53 + 1, "9007199254740993 found, it is a whole number"),
        ("prefill.0.held", 3, "f: prefill[0]: held: 3 found, it is a list, correct it"),
        ("prefill.0.held", [[1]], "f: prefill[0]: held[0]: [1] found, it is a list of 2, correct it"),
        ("prefill.0.held", [[1, "x"]], "f: prefill[0]: held[0][1]: 'x' found, it is a whole number"),
        ("prefill", [], "f: no prefill instance found, a window has one of each role at least, add one"),
        ("decode", [], "f: no decode instance found"),
        ("workflows.0.horizon_us", 0, "f: workflow 'w': horizon_us is 0, it is at least 1, correct it"),
        ("calls.0.id", "b", "f: call 'b': the id is there twice, ids are unique, rename one"),
        ("calls.0.workflow", 1, "f: call 'a': workflow 1 is unknown, there are 1, correct it"),
        ("calls.0.state", "running", "f: calls[0]: state: 'running' found, it is one of open, bound, correct it"),
        ("calls.0.prefill_us", [1], "f: call 'a': prefill_us has 1 entries, one for each of 2 instances, correct it"),
        ("calls.0.wire_us", [[1]], "f: call 'a': wire_us has 1 entries, one for each of 2 instances"),
        ("calls.0.wire_us", [[1], [1, 1]], "f: call 'a': a row of wire_us is not 1 long, one entry an instance"),
        ("calls.0.wire_us", [[1], [None]], "f: calls[0]: wire_us[1][0]: None found, it is a whole number"),
        ("calls.0.decode_us", [1, 1], "f: call 'a': decode_us has 2 entries, one for each of 1 instances"),
        ("calls.0.prefill", 2, "f: call 'a': prefill 2 is unknown, there are 2 instances, correct it"),
        ("calls.0.decode", 1, "f: call 'a': decode 1 is unknown, there are 1 instances, correct it"),
        ("calls.0.available_us", 0, "f: call 'a': available_us is given, an open call has none, drop it"),
        (
            "calls.1.available_us",
            None,
            "f: call 'b': prefill or available_us is missing, a bound call has both, add it",
        ),
        ("calls.1.prefill", None, "f: call 'b': prefill or available_us is missing"),
        ("calls.0.prefill_us", [None, None], "f: call 'a': no prefill instance is left to it, it needs one"),
        ("calls.0.decode_us", [None], "f: call 'a': no decode instance is left to it, it needs one, correct decode_us"),
        ("calls.1.decode_us", [None], "f: call 'b': decode_us[0] is null, the call is bound to it, give its time"),
    ],
)
def test_a_broken_rule_is_told_with_place_value_and_remedy(path: str, value: Any, said: str) -> None:
    with pytest.raises(WindowError) as error:
        Window.from_json(changed(path, value), "f")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_call_of_one_token_may_have_no_decode_instance() -> None:
    found = changed("calls.0.decode_us", [None])
    found["calls"][0]["one_token"] = True
    assert Window.from_json(found).calls[0].decodes() == []


def test_a_workflow_twice() -> None:
    found = plain()
    found["workflows"] *= 2
    with pytest.raises(WindowError, match="workflow 'w': the id is there twice"):
        Window.from_json(found)


@pytest.mark.parametrize("found", [None, [], "x", 3])
def test_a_window_is_an_object(found: Any) -> None:
    with pytest.raises(WindowError, match="a window is a JSON object"):
        Window.from_json(found)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(WindowError, match=r"none\.json: No such file.*must be readable"):
        load_window(tmp_path / "none.json")
    packed = gzip.compress(json.dumps(plain()).encode(), mtime=0)
    spoilt = {
        "text": (b"{", "a window is one JSON object"),
        "latin": (b'{"name": "\xff"}', "a window is one JSON object"),
        "number": (b'{"schema_version": NaN}', "schema_version is nan"),
        "short": (packed[:-9], "must be readable"),
        "header": (packed[:5], "must be readable"),
        "stream": (packed[:10] + b"\xff" * 20 + packed[30:], "must be readable"),
    }
    for name, (content, said) in spoilt.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WindowError, match=said):
            load_window(tmp_path / name)
