"""A few workflows of the sample trace on a shipped cluster: does a policy bring them to their end?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hexopt

TRACE = Path(__file__).parents[2] / "traces" / "samples" / "bfcl_multi_turn.jsonl"


def finishes(name: str, workflows: int = 12, **options: Any) -> None:
    """With the plan applied at once, and with a plan latency under which the fallback places calls, too."""
    trace = hexopt.load_trace(TRACE).head(workflows)
    for plan_latency_us in (0, 20_000):
        policy = hexopt.make_policy(name, plan_latency_us=plan_latency_us, **options)
        result = hexopt.simulate(trace, hexopt.load_cluster("hetero-1-llama"), policy, arrivals="poisson:3")
        assert result.summary["finished_workflows"] == workflows
        assert result.summary["finished_calls"] == trace.call_count
