"""How far the paper's grid is from what is possible: bound, best known, and the gaps of policies, cell by cell.

    python experiments/paper_bounds.py [--seeds 1] [--search 30] [--changes 80] [--out results/paper_bounds]
        [--only CLUSTER/TRACE]

Each cell of experiments/paper_hetero.toml and paper_homogeneous.toml is one file in the folder; cells that are there
are not done again. --search, --changes: thousands of calls simulated by policies with full knowledge (4 to 12
simulations), and for changes of single placements: cells differ in size, so that each has its share. At the end (and
with --table alone) it prints the table and writes cells.csv.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hexopt
from hexopt.formulations.bounds import Bounds, Settings, trace_bounds
from hexopt.formulations.bounds.bound import rank
from hexopt.offline import best_known, gap, problem_of, run

if TYPE_CHECKING:
    import pandas as pd

HERE = Path(__file__).parent
QUANTILES = ("0.99", "0.95", "1")
"""The headline first: its prices are where the other bounds begin."""
SETTINGS = Settings(intervals=32, pieces=800, rounds=4)
POLICIES = ("fcfs", "workflow-fcfs", "workflow-llf", "autellix-atlas", "earliest-finish", "hexagent")
STARTERS = ("earliest-finish",)
"""What the search begins with: policies with full knowledge soon leave all shipped ones behind here."""


def cells() -> list[tuple[str, dict[str, Any]]]:
    """Return (cluster, trace) of both grids."""
    found = []
    for name in ("paper_hetero", "paper_homogeneous"):
        study = tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8"))
        found += [(cluster, trace) for cluster in study["cluster"] for trace in study["traces"]]
    return found


def measure(cluster: str, trace: dict[str, Any], seed: int, search: int, changes: int) -> dict[str, Any]:
    """Bound, search and compare one cell."""
    began = time.process_time()
    made = hexopt.generate_trace(
        trace["generate"], workflows=trace["workflows"], seed=seed, parameters=trace["parameters"]
    )
    problem = problem_of(made, hexopt.load_cluster(cluster), arrivals=trace["arrivals"], seed=seed)
    row: dict[str, Any] = {"cluster": cluster, "trace": trace["name"], "seed": seed}
    numbers = {q: rank(q, problem.workflows) for q in QUANTILES}
    ratios = {}
    for name in POLICIES:
        found = run(problem, hexopt.make_policy(name), numbers["0.99"], name, "app-mean", seed)
        ratios[name] = sorted(found.ratios)
    start = time.process_time()
    calls = len(problem.service.prompt)
    best = best_known(
        problem,
        "0.99",
        iterations=max(4, min(12, 1000 * search // calls)),
        changes=1000 * changes // calls,
        seed=seed,
        starters=STARTERS,
    )
    row["search_cpu_s"] = time.process_time() - start
    row["best_by"] = best.how
    start = time.process_time()
    bounds: dict[str, Bounds] = {}
    for q in QUANTILES:
        first = bounds.get(QUANTILES[0])
        bounds[q] = trace_bounds(
            problem,
            q,
            settings=SETTINGS if first is None else replace(SETTINGS, rounds=1),
            hint=None if first is None or first.lp is None else first.lp.prices,
            met=sorted(best.ratios)[numbers[q] - 1],
        )
    row["bound_cpu_s"] = time.process_time() - start
    programs = bounds["0.99"].lp
    row["programs"] = [] if programs is None else [list(p) for p in programs.programs]
    known = {**ratios, "best": sorted(best.ratios)}
    for q in QUANTILES:
        row[f"bound_{q}"], row[f"path_{q}"] = bounds[q].value, bounds[q].path
        for name, values in known.items():
            row[f"{name}_{q}"] = values[numbers[q] - 1]
        row[f"best_{q}"] = min(values[numbers[q] - 1] for values in known.values())
    row["cpu_s"] = time.process_time() - began
    return row


def table(out: Path, markdown: bool = False) -> None:
    """Print what is there and write it as one file; ``markdown``: print the tables of docs/bounds.md."""
    import pandas as pd

    frame = pd.DataFrame([json.loads(p.read_text(encoding="utf-8")) for p in sorted(out.glob("*.json"))])
    if frame.empty:
        return
    frame.to_csv(out / "cells.csv", index=False)
    if markdown:
        print(as_markdown(frame))
        return
    for q in QUANTILES:
        rows = compared(frame, q)
        print(f"\nquantile {q}, {len(rows)} cells, median gap {rows['gap'].median():.1%}")
        rows["bound s"], rows["search s"] = frame["bound_cpu_s"], frame["search_cpu_s"]
        print(rows.to_string(index=False, float_format=lambda x: f"{x:.3f}"))


def compared(frame: pd.DataFrame, q: str) -> pd.DataFrame:
    """Return bound, best known value and gaps at a quantile, a row a cell in the order of the grid."""
    names = [p for p in POLICIES if p != "hexagent"]
    rows = frame[["cluster", "trace", "seed"]].copy()
    rows["bound"], rows["best"] = frame[f"bound_{q}"], frame[f"best_{q}"]
    others = frame[[f"{p}_{q}" for p in names]].set_axis(names, axis=1)
    rows["hexagent"], rows["baseline"], rows["who"] = frame[f"hexagent_{q}"], others.min(axis=1), others.idxmin(axis=1)
    for value, name in (("best", "gap"), ("hexagent", "hexagent gap"), ("baseline", "baseline gap")):
        rows[name] = [gap(known, bound) for known, bound in zip(rows[value], rows["bound"], strict=True)]
    return rows


def as_markdown(frame: pd.DataFrame) -> str:
    """Return the tables of docs/bounds.md."""
    grid = [(cluster, trace["name"]) for cluster, trace in cells()]
    at = {(r["cluster"], r["trace"], r["seed"]): r for _, r in compared(frame, "0.99").iterrows()}
    lines = ["| Cluster | Trace | Bound | Best known | Gap | HexAGenT | Gap | Baseline | Gap |",
             "|---|---|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for key in sorted(at, key=lambda k: (grid.index(k[:2]), k[2])):
        r = at[key]
        lines.append(
            f"| {r['cluster']} | {r['trace']} | {r['bound']:.3f} | {r['best']:.3f} | {r['gap']:.1%} | "
            f"{r['hexagent']:.3f} | {r['hexagent gap']:.1%} | {r['baseline']:.3f} ({r['who']}) | "
            f"{r['baseline gap']:.1%} |"
        )
    lines += ["", "| Quantile | Best known | HexAGenT | Best baseline |", "|---|--:|--:|--:|"]
    for q in QUANTILES:
        rows = compared(frame, q)
        medians = [f"{rows[name].median():.1%}" for name in ("gap", "hexagent gap", "baseline gap")]
        lines.append(f"| {q} | {' | '.join(medians)} |")
    for model in ("llama", "qwen"):
        gaps = compared(frame[frame["cluster"].str.endswith(model)], "0.99")["gap"]
        lines += [
            "",
            f"{model}: {len(gaps)} cells, median gap {gaps.median():.1%}, {gaps.min():.1%} to {gaps.max():.1%}",
        ]
    missing = [f"`{c}/{t}`" for c, t in grid if not any(key[:2] == (c, t) for key in at)]
    if missing:
        lines += ["", f"Not measured: {', '.join(missing)}"]
    return "\n".join(lines)


def main() -> None:
    """Do the cells that are not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--search", type=int, default=30)
    parser.add_argument("--changes", type=int, default=80)
    parser.add_argument("--out", type=Path, default=Path("results/paper_bounds"))
    parser.add_argument("--only", action="append", help="CLUSTER/TRACE; may be repeated")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/bounds.md")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(0 if options.table else options.seeds):
        for cluster, trace in cells():
            name = f"{cluster}/{trace['name']}"
            path = options.out / f"{cluster}-{trace['name']}-{seed}.json"
            if path.exists() or (options.only and name not in options.only):
                continue
            row = measure(cluster, trace, seed, options.search, options.changes)
            path.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
            print(f"{name} seed {seed}: {row['cpu_s']:.0f} s of CPU time", flush=True)
    table(options.out, options.markdown)


if __name__ == "__main__":
    main()
