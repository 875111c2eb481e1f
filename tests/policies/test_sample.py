"""Competitors of HexAGenT on a few workflows of the sample trace: every call is served, and runs repeat."""

from __future__ import annotations

from pathlib import Path

import pytest

import hexopt

SAMPLE = Path(__file__).parents[2] / "traces" / "samples" / "bfcl_multi_turn.jsonl"


@pytest.mark.parametrize("plan_latency_us", [0, 10_000])
@pytest.mark.parametrize("name", ["autellix-plas", "autellix-atlas", "kairos", "cortex"])
def test_the_sample_is_served(name: str, plan_latency_us: int) -> None:
    trace = hexopt.load_trace(SAMPLE).head(8)
    site = hexopt.load_cluster("hetero-1-llama")
    policy = hexopt.make_policy(name, plan_latency_us=plan_latency_us)
    first = hexopt.simulate(trace, site, policy, seed=1)
    assert first.summary["finished_calls"] == trace.call_count
    # The same policy object starts afresh.
    again = hexopt.simulate(trace, site, policy, seed=1)
    assert again.decisions.equals(first.decisions)
    assert again.calls.equals(first.calls)
