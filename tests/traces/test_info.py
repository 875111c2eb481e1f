"""The key figures of a trace."""

from __future__ import annotations

import json
from pathlib import Path

from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.traces import load_trace, trace_info
from hexopt.traces.info import depth_and_width

SAMPLE = Path(__file__).parents[2] / "traces" / "samples" / "bfcl_multi_turn.jsonl"


def flow(*parents: tuple[int, ...], name: str = "w", arrival_us: int | None = 0) -> Workflow:
    return Workflow(name, "a", arrival_us, tuple(Call(f"c{i}", p, 10, 2) for i, p in enumerate(parents)))


def test_depth_and_width() -> None:
    assert depth_and_width(flow(())) == (1, 1)
    assert depth_and_width(flow((), (0,), (1,))) == (3, 1)
    assert depth_and_width(flow((), (0,), (0,), (0,), (1, 2))) == (3, 3)
    assert depth_and_width(flow((1,), (2,), ())) == (3, 1)  # children listed first
    assert depth_and_width(flow((), (), (0, 3), (1,))) == (3, 2)
    long = flow(*[(i + 1,) for i in range(20_000)], ())
    assert depth_and_width(long) == (20_001, 1)


def test_percentiles_are_nearest_rank() -> None:
    calls = tuple(Call(f"c{i}", (), i + 1, 1) for i in range(60))
    info = trace_info(Trace((Workflow("w", "a", 0, calls),)))
    assert info["prompt_tokens"] == {"p50": 30, "p95": 57, "max": 60}


def test_unknown_and_rare() -> None:
    kinds = [Call(f"c{i}", (), 10, 2, None, delay_kind=f"k{i:02}", extra={"modle": 1}) for i in range(12)]
    info = trace_info(Trace((Workflow("w", "", None, tuple(kinds)),)))
    assert (info["unknown_arrivals"], info["unknown_delays"], info["span_s"], info["cached_share"]) == (
        1,
        12,
        None,
        None,
    )
    assert info["delay_kinds"]["(2 others)"] == 2
    assert info["extra_keys"] == {"modle": 12}


def test_sample_as_its_datasheet_says() -> None:
    info = trace_info(load_trace(SAMPLE))
    json.dumps(info)
    assert info["calls_per_workflow"] == {"p50": 10, "p95": 14, "max": 17}
    assert info["prompt_tokens"] == {"p50": 7453, "p95": 11572, "max": 34215}
    assert (info["output_tokens"]["p50"], info["output_tokens"]["p95"]) == (18, 100)
    assert info["width"]["max"] == 1
    assert info["extra_keys"]["closing"] == 834
    assert 19 < info["span_s"] < 21
