"""Where the time of the paper's workloads goes, and what one setting at a time does to it: evidence for docs/paper.md.

    python experiments/paper_evidence.py [--seeds 3] [--out results/paper_evidence]

Two tables: parts of the latency along the critical path by cluster, trace and policy; and Req99 on Hetero-1 when one
thing changes: prompts batched, no serving overhead, Poisson instead of fixed gaps, all instances of the fastest type.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed

import hexopt
from hexopt.report.breakdown import critical_path_parts

SIZES = {"sharegpt": (100, 10.0), "bfcl": (400, 40.0), "lats": (100, 40.0), "mixed": (100, 10.0)}
"""Workflows and their rate per second."""

POLICIES = ("fcfs", "workflow-fcfs", "autellix-atlas", "earliest-finish", "hexagent")
CLUSTERS = ("hetero-1-llama", "hetero-1-qwen", "homogeneous-llama")


def batched(cluster: hexopt.Cluster) -> hexopt.Cluster:
    """Let prefill instances batch prompts up to 4,096 tokens."""
    return replace(cluster, prefill=tuple(replace(p, max_batch_tokens=4096) for p in cluster.prefill))


def bare(cluster: hexopt.Cluster) -> hexopt.Cluster:
    """Take the serving overhead off: kernel times alone."""
    return replace(
        cluster,
        prefill=tuple(replace(p, latency=replace(p.latency, c0_ms=0.0, c1=1.0)) for p in cluster.prefill),
        decode=tuple(replace(d, latency=replace(d.latency, o0_ms=0.0, o1_ms=0.0)) for d in cluster.decode),
    )


def all_fast(cluster: hexopt.Cluster) -> hexopt.Cluster:
    """Make every instance one of the last type, the H200."""
    return replace(
        cluster,
        prefill=tuple(replace(cluster.prefill[-1], name=p.name) for p in cluster.prefill),
        decode=tuple(replace(cluster.decode[-1], name=d.name) for d in cluster.decode),
    )


CHANGES: dict[str, tuple[Callable[[hexopt.Cluster], hexopt.Cluster], str]] = {
    "as shipped": (lambda cluster: cluster, "fixed"),
    "prompts batched to 4,096": (batched, "fixed"),
    "no serving overhead": (bare, "fixed"),
    "Poisson arrivals": (lambda cluster: cluster, "poisson"),
    "all at once": (lambda cluster: cluster, "burst"),
    "every instance an H200": (all_fast, "fixed"),
}


def run(cluster: str, app: str, policy: str, change: str, seed: int, parts: bool) -> dict[str, Any]:
    """Simulate one cell under one change."""
    workflows, rate = SIZES[app]
    alter, arrivals = CHANGES[change]
    rule = {"fixed": f"fixed:{1 / rate:g}", "poisson": f"poisson:{rate:g}", "burst": "burst"}[arrivals]
    result = hexopt.simulate(
        hexopt.generate_trace(app, workflows=workflows, seed=seed, parameters="paper"),
        alter(hexopt.load_cluster(cluster)),
        hexopt.make_policy(policy),
        arrivals=rule,
        seed=seed,
    )
    row = {"cluster": cluster, "trace": app, "policy": policy, "change": change, "seed": seed}
    row |= {key: result.summary[key] for key in ("req95", "req99", "latency_mean_s")}
    if parts:
        means = critical_path_parts(result.trace, result.calls, result.workflows).mean(numeric_only=True)
        row |= {str(name): value / 1e6 for name, value in means.items()}
    return row


def main() -> None:
    """Run both tables, print and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=-1)
    parser.add_argument("--out", type=Path, default=Path("results/paper_evidence"))
    options = parser.parse_args()
    seeds = range(options.seeds)
    where = [
        delayed(run)(cluster, app, policy, "as shipped", seed, True)
        for cluster in CLUSTERS
        for app in SIZES
        for policy in POLICIES
        for seed in seeds
    ]
    what = [
        delayed(run)("hetero-1-llama", app, policy, change, seed, False)
        for app in ("sharegpt", "bfcl", "mixed")
        for change in CHANGES
        for policy in POLICIES
        for seed in seeds
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    for name, tasks in (("parts", where), ("changes", what)):
        runs = pd.DataFrame(Parallel(n_jobs=options.jobs)(tasks)).drop(columns="seed")
        keys = ["cluster", "trace", "policy"] if name == "parts" else ["trace", "change", "policy"]
        means = runs.groupby(keys, sort=False).mean(numeric_only=True)
        means.to_csv(options.out / f"{name}.csv")
        if name == "changes":
            print(means["req99"].unstack("policy")[list(POLICIES)].to_string(float_format=lambda x: f"{x:.2f}"))
        else:
            print(means.to_string(float_format=lambda x: f"{x:.2f}"))


if __name__ == "__main__":
    main()
