"""Tables of a solver comparison: ``solves.csv``, a row each, and what they come to by size and by regime.

Best known is the smallest value of a checked plan, in the library's ``best_known.csv`` or in this study (the greedy
plan's among them). Gaps are shares of it; those of ``late`` and ``hinge``, which may be 0, are differences.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import hexopt
from hexopt.errors import OutputError
from hexopt.experiments.solver_config import SolverStudy
from hexopt.formulations.library import BestKnown, Library
from hexopt.formulations.objective import parse_objective
from hexopt.formulations.protocol import TOLERANCE
from hexopt.machine import machine

CLOSE = 0.01
"""A plan is close to the best known one within this gap."""

COLUMNS = (
    "instance", "regime", "calls", "objective", "solver", "limit_ms", "status", "stop_reason", "value", "total",
    "bound", "proved", "gap", "gap_served", "bound_gap", "total_gap", "best_known", "best_known_from", "best_bound",
    "greedy_value", "greedy_gap", "single_call_bound", "model_objective", "first_incumbent_s", "proved_s", "build_s",
    "solve_s", "wall_s", "cpu_s", "overrun_s", "variables", "constraints", "misreported", "worse_than_hint",
    "bound_wrong", "backend", "jobs", "load_1min", "processor", "note", "error",
)  # fmt: skip


def solves_table(rows: Sequence[Mapping[str, Any]], known: Mapping[tuple[str, str], BestKnown]) -> pd.DataFrame:
    """Return one row a solve, with what follows from all of them: best known values, gaps, whose bound is wrong."""
    table = pd.DataFrame(list(rows)).reindex(columns=list(dict.fromkeys([*COLUMNS, "greedy_total"])))
    numbers = ("value", "total", "bound", "greedy_value", "greedy_total", "single_call_bound", "wall_s", "limit_ms")
    for name in numbers:
        table[name] = pd.to_numeric(table[name])
    # Of solves whose formulation does not tell when its proof was there, all of the time counts.
    table["proved_s"] = pd.to_numeric(table["proved_s"]).fillna(table["wall_s"])
    for name in ("proved", "misreported", "worse_than_hint"):
        table[name] = table[name].eq(True)
    table["bound_wrong"] = False
    parts = []
    for (instance, objective), part in table.groupby(["instance", "objective"], sort=False):
        parts.append(_compared(part.copy(), known.get((str(instance), str(objective))), str(objective)))
    table = pd.concat(parts).sort_index()
    table["proved_s"] = table["proved_s"].where(table["proved"])
    table["overrun_s"] = (table["wall_s"] - table["limit_ms"] / 1000).clip(lower=0.0)
    return table[list(COLUMNS)]


def _compared(part: pd.DataFrame, known: BestKnown | None, objective: str) -> pd.DataFrame:
    """Fill in what the rows of one problem say of each other."""
    for name in ("greedy_value", "greedy_total", "single_call_bound"):
        # They are the problem's. Rows of lost solves lack them, but the greedy plan would be served there too.
        part[name] = part[name].fillna(part[name].min())
    found = [(float(v), float(t)) for v, t in zip(part["value"], part["total"], strict=True) if not math.isnan(v)]
    greedy = [
        (float(v), float(t))
        for v, t in zip(part["greedy_value"], part["greedy_total"], strict=True)
        if not math.isnan(v)
    ]
    study = min([*found, *greedy], default=None)
    library = None if known is None else (known.value, known.total)
    candidates = [pair for pair in (study, library) if pair is not None]
    if not candidates:
        return part
    best, best_total = min(candidates)
    slack = TOLERANCE * max(1.0, abs(best))
    here = study is not None and study[0] <= best + slack
    there = library is not None and library[0] <= best + slack
    part["best_known"] = best
    part["best_known_from"] = "both" if here and there else "study" if here else "library"
    part["bound_wrong"] = part["bound"] > best + slack
    bounds = part.loc[~part["bound_wrong"], "bound"].dropna().tolist() + part["single_call_bound"].dropna().tolist()
    if known is not None and known.bound is not None and known.bound <= best + slack:
        bounds.append(known.bound)
    part["best_bound"] = min(best, max(bounds)) if bounds else math.nan
    # Whose bound is beaten has proved nothing.
    part["proved"] &= (part["value"] <= best + slack) & ~part["bound_wrong"]
    scale = 1.0 if is_absolute(objective) or best <= 0 else best

    def gap(values: pd.Series) -> pd.Series:
        over = (values - best) / scale
        return over.where(over > TOLERANCE, over.clip(lower=0.0) * 0.0)

    part["gap"] = gap(part["value"])
    part["greedy_gap"] = gap(part["greedy_value"])
    part["gap_served"] = gap(part[["value", "greedy_value"]].min(axis=1))
    part["bound_gap"] = ((best - part["bound"]) / scale).clip(lower=0.0).where(~part["bound_wrong"])
    if best_total > 0:
        part["total_gap"] = ((part["total"] - best_total) / best_total).where(part["gap"] == 0)
    return part


def is_absolute(objective: str) -> bool:
    """Say whether gaps of an objective are differences, not shares: its best value may be 0."""
    return parse_objective(objective).kind in ("late", "hinge")


def summary_table(solves: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return what the solves of each solver, objective and limit come to, within each value of ``by``.

    ``gap`` is over the solves with a plan; ``served`` over all: where there is no plan, or a worse one than the greedy
    plan, that one would be served.
    """
    rows = []
    keys = ["objective", *by, "limit_ms", "solver"]
    for group, part in solves.groupby(keys, sort=False):
        plans = part["value"].notna()
        count = len(part)
        rows.append(
            dict(zip(keys, group, strict=True))
            | {
                "solves": count,
                "errors": int(part["error"].fillna("").ne("").sum()),
                "proved": part["proved"].mean(),
                "no_plan": 1 - plans.mean(),
                "close": (part["gap"] <= CLOSE).mean(),
                "gap_mean": part["gap"].mean(),
                "gap_worst": part["gap"].max(),
                "served_mean": part["gap_served"].mean(),
                "served_worst": part["gap_served"].max(),
                "greedy_mean": part["greedy_gap"].mean(),
                "total_gap_mean": part["total_gap"].mean(),
                "better_than_greedy": (part["gap_served"] < part["greedy_gap"]).mean(),
                "bound_gap_mean": part["bound_gap"].mean(),
                "no_bound": part["bound"].isna().mean(),
                "first_incumbent_s_median": part["first_incumbent_s"].median(),
                "wall_s_median": part["wall_s"].median(),
                "wall_s_worst": part["wall_s"].max(),
                "overrun_s_p95": part["overrun_s"].quantile(0.95),
                "overrun_s_worst": part["overrun_s"].max(),
                "build_s_median": part["build_s"].median(),
                "variables_median": part["variables"].median(),
                "constraints_median": part["constraints"].median(),
                "misreported": int(part["misreported"].sum()),
                "worse_than_hint": int(part["worse_than_hint"].sum()),
                "bound_wrong": int(part["bound_wrong"].sum()),
            }
        )
    return pd.DataFrame(rows)


def write_solver_tables(study: SolverStudy, library: Library, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the tables over all rows, and ``study.json``.

    Raises
    ------
    OutputError
        A table cannot be written.
    """
    solves = solves_table(rows, library.best_known())
    record = {
        "hexopt": hexopt.__version__,
        "study": study.model_dump(mode="json"),
        "solvers": [entry.title for entry in study.solvers],
        "machine": machine(),
        "solves": len(rows),
        "errors": int(solves["error"].fillna("").ne("").sum()),
    }
    texts = {
        "solves.csv": solves.to_csv(index=False),
        "solver_summary.csv": summary_table(solves, ["calls"]).to_csv(index=False),
        "solver_by_regime.csv": summary_table(solves, ["regime"]).to_csv(index=False),
        "study.json": json.dumps(record, indent=2, ensure_ascii=False) + "\n",
    }
    try:
        for name, text in texts.items():
            partial = folder / f"{name}.partial"
            partial.write_text(text, encoding="utf-8")
            partial.replace(folder / name)
    except OSError as error:
        raise OutputError(
            f"{folder}: {error.strerror or error}, the tables cannot be written, the rows are kept, "
            "free the disk or make the folder writable, then the same command goes on"
        ) from None
