"""Prints the digest of every file that a few runs save: the same lines, whatever the process (test_determinism.py)."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import hexopt
from hexopt.core.workflow import Call, Trace, Workflow
from tests.invariants.runs import POLICIES


def trace() -> Trace:
    flows = []
    for i in range(12):
        calls = tuple(
            Call(f"c{k}", ((k - 1) // 2,) if k else (), 40 + 37 * i + 11 * k, 1 + (5 * i + 3 * k) % 40, 1000 * (k % 3))
            for k in range(1 + i % 5)
        )
        flows.append(Workflow(f"w{i}", "ab"[i % 2], None, calls))
    return Trace(tuple(flows), name="digests")


def main() -> None:
    cluster = hexopt.load_cluster("tiny")
    digests: dict[str, str] = {}
    for name in POLICIES:
        for predictor in ("app-mean", "noisy:0.5"):
            policy = hexopt.make_policy(name, plan_latency_us=700)
            result = hexopt.simulate(trace(), cluster, policy, predictor=predictor, seed=11, arrivals="poisson:40")
            with tempfile.TemporaryDirectory() as folder:
                for path in sorted(Path(result.save(folder)).iterdir()):
                    if path.name != "timing.json":  # the one file of wall-clock times
                        digest = hashlib.sha256(path.read_bytes()).hexdigest()
                        digests[f"{name}/{predictor}/{path.name}"] = digest
    json.dump(digests, sys.stdout)


if __name__ == "__main__":
    main()
