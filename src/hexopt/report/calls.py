"""The runs' tables of calls, read one run at a time: a study may have more of them than fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hexopt.core.workflow import Trace
from hexopt.report.data import RUN, Results, read_table
from hexopt.traces import load_trace

CALLS = "calls.csv"
TRACE = "trace.jsonl.gz"


def missing_tables(data: Results, names: tuple[str, ...] = (CALLS,)) -> str:
    """Say in a few words which tables of the runs are not there; empty if all are.

    ``keep = "tables"`` in an experiment file leaves out calls and traces.
    """
    folders = [Path(folder) for folder in data.runs["folder"]] if "folder" in data.runs else []
    lacking = [name for name in names if not folders or not all((folder / name).is_file() for folder in folders)]
    return f"the runs' folders have no {' and '.join(lacking)}" if lacking else ""


def each_run(data: Results) -> Iterator[tuple[Mapping[Any, Any], pd.DataFrame]]:
    """Yield every finished run's row of ``data.runs`` and its table of calls."""
    for run in data.runs.to_dict("records"):
        yield run, read_table(Path(run["folder"]) / CALLS)


def run_trace(run: Mapping[Any, Any]) -> Trace:
    """Return the trace that a run was made on, in the order of its table of calls."""
    return load_trace(Path(run["folder"]) / TRACE)


def of_run(table: pd.DataFrame, run: Mapping[Any, Any]) -> pd.DataFrame:
    """Return the rows of ``data.workflows`` or ``data.instances`` that belong to a run."""
    for column in RUN:
        if column in table:
            table = table[table[column] == run[column]]
    return table


def with_call_counts(data: Results) -> pd.DataFrame:
    """Return ``data.workflows`` with a column ``calls``, the number of calls of the workflow."""
    parts = []
    for run, calls in each_run(data):
        counts = calls["workflow_id"].value_counts()
        mine = of_run(data.workflows, run)
        parts.append(mine.assign(calls=mine["workflow_id"].map(counts).astype(int)))
    return pd.concat(parts, ignore_index=True)
