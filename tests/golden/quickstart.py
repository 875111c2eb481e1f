"""The first seed of the quickstart, recorded. Run this file to record it anew after a change that is meant."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import hexopt

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("quickstart.json")
FIGURES = ("req95", "req99", "req_max", "latency_mean_s", "latency_p99_s", "ttft_mean_s", "makespan_s", "decisions")


def outcome(policy: str) -> dict[str, Any]:
    """Figures of the quickstart under a policy, and a hash of its table of calls."""
    with (ROOT / "experiments/quickstart.toml").open("rb") as file:
        config = tomllib.load(file)
    result = hexopt.simulate(
        hexopt.load_trace(ROOT / "experiments" / config["trace"]),
        hexopt.load_cluster(config["cluster"]),
        hexopt.make_policy(policy),
        predictor=config["predictor"],
        arrivals=config["arrivals"],
        seed=0,
    )
    table = result.calls.to_csv(index=False, lineterminator="\n").encode()
    return {**{f: result.summary[f] for f in FIGURES}, "calls_sha256": hashlib.sha256(table).hexdigest()}


if __name__ == "__main__":
    names = ("fcfs", "workflow-fcfs", "earliest-finish", "hexagent")
    RECORD.write_text(json.dumps({name: outcome(name) for name in names}, indent=2) + "\n")
