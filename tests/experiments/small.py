"""A trace small enough to simulate in milliseconds, and an experiment on it."""

from __future__ import annotations

import json
from pathlib import Path


def write_small_trace(path: Path, workflows: int = 6) -> Path:
    lines = []
    for w in range(workflows):
        calls = [
            {
                "call_id": f"c{c}",
                "parents": [f"c{c - 1}"] if c else [],
                "prompt_tokens": 200 + 37 * w + 100 * c,
                "output_tokens": 5 + 3 * w + c,
                "tool_delay_s": 0,
            }
            for c in range(3)
        ]
        lines.append(json.dumps({"workflow_id": f"w{w}", "app": "demo", "arrival_s": None, "calls": calls}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


EXPERIMENT = """
schema_version = 1
name = "small"
trace = "small.jsonl"
cluster = "tiny"
arrivals = "poisson:20"
seeds = 2
baselines = ["fcfs"]

[[policies]]
name = "fcfs"

[[policies]]
name = "hexagent"
"""
