"""What ``check`` refuses of a trace that was built in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hexopt.core.workflow import MAX_US, Call, Trace, Workflow
from hexopt.errors import TraceError
from hexopt.traces import check_trace_file, load_trace

CALL = Call("c", (), 10, 5)
FLOW = Workflow("w", "a", 0, (CALL,))


def refused(workflow: Workflow, *words: str) -> None:
    with pytest.raises(TraceError) as caught:
        Trace((workflow,)).check()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["", None, 3, ("w",)])
def test_ids(name: Any) -> None:
    refused(replace(FLOW, workflow_id=name), "workflow_id", repr(name), "at least one character")
    refused(replace(FLOW, calls=(replace(CALL, call_id=name),)), "workflow 'w': call_id", repr(name))


def test_a_cached_prefix_is_part_of_the_prompt() -> None:
    Trace((replace(FLOW, calls=(replace(CALL, cached_prefix_tokens=10),)),)).check()
    refused(replace(FLOW, calls=(replace(CALL, cached_prefix_tokens=11),)), "cached_prefix_tokens: 11", "0..10")


def test_times_add_up_to_an_instant() -> None:
    late = replace(FLOW, arrival_us=MAX_US - 3, calls=(replace(CALL, tool_us=1), Call("d", (0,), 10, 5, 2)))
    Trace((late,)).check()
    refused(replace(late, arrival_us=MAX_US - 2), f"add up to {MAX_US + 1} µs", "shorten them")
    unknown = Workflow("w", "a", None, (replace(CALL, tool_us=None), Call("d", (0,), 10, 5, MAX_US)))
    Trace((unknown,)).check()


def test_files_are_refused_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "far.jsonl"
    call = '{"call_id": "c", "prompt_tokens": 9, "output_tokens": 9, "tool_delay_s": 9000000000}'
    near = f'{{"workflow_id": "near", "arrival_s": 0, "calls": [{call}]}}\n'
    file.write_text(near + near.replace("near", "far").replace('"arrival_s": 0', '"arrival_s": 8000000'))
    with pytest.raises(TraceError, match=r"far\.jsonl:2: workflow 'far': .* 9008000000\.0 s in all found"):
        load_trace(file)
    assert len(check_trace_file(file)) == 1
    assert len(load_trace(file, skip_invalid=True)) == 1
