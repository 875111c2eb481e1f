"""What a worker does: simulate one run and hand back its result as bytes.

A worker writes nothing that the study keeps, so it may be on a machine that shares no disk with the one where the
study was started.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

import hexopt
from hexopt.core.protocols import Policy
from hexopt.core.workflow import Trace
from hexopt.errors import HexoptError, OutputError
from hexopt.experiments.grid import Inputs, RunSpec, drawn_trace
from hexopt.sim.result import TIMING_KEYS, RunResult

SUMMARY = "summary.json"
TIMING = "timing.json"
RATIOS = ["workflow_id", "app", "latency_us", "ratio"]
"""Columns of ``workflows.csv`` that ``keep = "summary"`` keeps."""

_BULKY = ("calls.csv", "decisions.csv", "trace.jsonl.gz")
"""What ``keep = "tables"`` leaves out of a run's folder."""


@dataclass(frozen=True)
class Ending:
    """How a run ended: with a result, its files by name, or with an error.

    ``status`` is the exit status that the error asks for; a ``fatal`` one ends the study, for every other run would
    end like this one.
    """

    key: str
    error: str = ""
    details: str = ""
    fatal: bool = False
    status: int = 1
    summary: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def carry_out(inputs: Inputs, spec: RunSpec) -> Ending:
    """Simulate one run; errors are returned, so that one bad run does not stop the others."""
    try:
        policy: Policy = hexopt.make_policy(spec.policy_name, **dict(spec.options))
        wall, cpu = time.perf_counter(), time.process_time()
        more: dict[str, Any] = {"estimate_error": spec.estimate_error} if spec.estimate_error else {}
        result = hexopt.simulate(
            _trace(inputs, spec),
            inputs.clusters[spec.cluster_at],
            policy,
            predictor=spec.predictor,
            seed=spec.seed,
            arrivals=spec.arrivals,
            delays=spec.delays,
            stop_us=inputs.stop_us,
            **more,
        )
        summary = result.summary  # standalone latencies belong to the run's cost, and may fail like it
        timing = {key: summary[key] for key in TIMING_KEYS}
        timing |= {"run_wall_s": time.perf_counter() - wall, "run_cpu_s": time.process_time() - cpu}
    except HexoptError as error:
        return Ending(spec.key, str(error), status=error.exit_status)
    except Exception as error:
        return Ending(spec.key, f"internal error: {type(error).__name__}: {error}", traceback.format_exc())
    try:
        files = _files(result, timing, inputs.keep)
    except (OutputError, OSError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        place = f"{tempfile.gettempdir()} of the worker"
        return Ending(spec.key, f"{place}: {what}, a run's tables pass through it, free the disk", fatal=True)
    return Ending(spec.key, summary=_plain(summary), timing=timing, files=files)


def _trace(inputs: Inputs, spec: RunSpec) -> Trace:
    source = inputs.traces[spec.trace_at]
    return source if isinstance(source, Trace) else drawn_trace(source, spec.draw or 0)


def _files(result: RunResult, timing: Mapping[str, float], keep: str) -> dict[str, bytes]:
    """Return a run's folder as bytes by file name."""
    files = {}
    if keep == "summary":
        files["workflows.csv"] = _csv(result.workflows, RATIOS)
        files["instances.csv"] = _csv(result.instances, [str(name) for name in result.instances])
        files[SUMMARY] = _json(_plain(result.summary))
    else:
        with tempfile.TemporaryDirectory(prefix="hexopt-") as folder:
            result.save(folder)
            for path in sorted(Path(folder).iterdir()):
                if keep == "all" or path.name not in _BULKY:
                    files[path.name] = path.read_bytes()
    # Wall-clock figures stand apart, so that everything else can be compared byte by byte.
    files[TIMING] = _json(timing)
    return files


def _csv(table: pd.DataFrame, columns: list[str]) -> bytes:
    """Return the same bytes as ``to_csv``, which for small tables takes longer than some runs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    values = [[None if v is pd.NA else v for v in table[column].tolist()] for column in columns]
    writer.writerows(zip(*values, strict=True))
    return text.getvalue().encode()


def _plain(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary without wall-clock figures, as JSON can say it: what is not finite is ``None``."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in summary.items()
        if key not in TIMING_KEYS
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
