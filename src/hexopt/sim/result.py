"""What a run leaves behind: four tables and a summary, built when asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hexopt.core.workflow import Trace
from hexopt.errors import OutputError
from hexopt.metrics.quantiles import quantile
from hexopt.metrics.slo import req
from hexopt.sim.engine import Simulation
from hexopt.sim.table import NONE

if TYPE_CHECKING:
    import pandas as pd

TIMING_KEYS = ("plans", "plan_ms_mean", "plan_ms_p50", "plan_ms_p99", "plan_ms_max")
"""Keys of the summary that tell wall-clock time, and so differ from run to run."""

_PLAN_QUANTILES = (("p50", "0.5"), ("p99", "0.99"), ("max", "1"))


class RunResult:
    """One simulated run.

    Attributes
    ----------
    trace, cluster
        What was simulated, with arrival and delay rules applied.
    about
        How: policy and options, predictor, seed, rules, version; all that is needed to run it again.
    """

    def __init__(
        self,
        simulation: Simulation,
        about: Mapping[str, Any],
        standalone_us: Callable[[int], int],
    ) -> None:
        self.trace: Trace = simulation.trace
        self.cluster = simulation.cluster
        self.about = dict(about)
        self._simulation = simulation
        self._standalone_us = standalone_us

    @cached_property
    def calls(self) -> pd.DataFrame:
        """One row per call, in trace order; integer µs, missing where a step did not occur."""
        import pandas as pd

        table = self._simulation.table
        ready = _column(table.ready_us)
        joined = _column(table.join_us) >= 0
        complete = _column(table.complete_us)
        outputs = np.fromiter((c.output_tokens for w in self.trace.workflows for c in w.calls), np.int64, len(ready))
        iterations = np.where(complete >= 0, outputs - 1, NONE)
        placed = _column(table.placed_us) >= 0
        return pd.DataFrame(
            {
                "workflow_id": [w.workflow_id for w in self.trace.workflows for _ in w.calls],
                "call_id": [c.call_id for w in self.trace.workflows for c in w.calls],
                "ready_us": _optional(ready),
                "placed_us": _optional(_column(table.placed_us)),
                "prefill_instance": _names([p.name for p in self.cluster.prefill], _column(table.prefill)),
                "decode_instance": _names([d.name for d in self.cluster.decode], _column(table.decode)),
                "priority": np.where(placed, np.frombuffer(table.priority, np.float64), np.nan),
                "prefill_start_us": _optional(_column(table.prefill_start_us)),
                "prefill_end_us": _optional(_column(table.prefill_end_us)),
                "admit_us": _optional(_column(table.admit_us)),
                "transfer_start_us": _optional(_column(table.transfer_start_us)),
                "transfer_end_us": _optional(_column(table.transfer_end_us)),
                "join_us": _optional(np.where(joined, _column(table.join_us), NONE)),
                "complete_us": _optional(complete),
                "decode_iterations": _optional(iterations),
            }
        )

    @cached_property
    def workflows(self) -> pd.DataFrame:
        """One row per workflow, in trace order. ``ratio`` is infinite for an unfinished workflow."""
        import pandas as pd

        arrival = np.array([w.arrival_us for w in self.trace.workflows], np.int64)
        complete = np.array(self._simulation.workflow_complete_us, np.int64)
        finished = complete >= 0
        standalone = np.array([self._standalone_us(i) for i in range(len(arrival))], np.int64)
        latency = np.where(finished, complete - arrival, NONE)
        return pd.DataFrame(
            {
                "workflow_id": [w.workflow_id for w in self.trace.workflows],
                "app": [w.app for w in self.trace.workflows],
                "arrival_us": arrival,
                "complete_us": _optional(complete),
                "latency_us": _optional(latency),
                "standalone_us": standalone,
                "ratio": np.where(finished, latency / standalone, math.inf),
            }
        )

    @cached_property
    def instances(self) -> pd.DataFrame:
        """One row per instance, prefill first; ``batches`` is missing for decode, the last two columns for prefill."""
        import pandas as pd

        run = self._simulation
        rows: list[dict[str, Any]] = []
        for p, spec_p in zip(run.prefill, self.cluster.prefill, strict=True):
            rows.append(
                {
                    "name": spec_p.name,
                    "role": "prefill",
                    "gpu": spec_p.gpu,
                    "kv_capacity_blocks": p.capacity_blocks,
                    "kv_peak_blocks": p.peak_blocks,
                    "busy_us": p.busy_us,
                    "nic_busy_us": run.network.prefill_busy_us[p.index],
                    "batches": p.batches,
                }
            )
        for d, spec_d in zip(run.decode, self.cluster.decode, strict=True):
            rows.append(
                {
                    "name": spec_d.name,
                    "role": "decode",
                    "gpu": spec_d.gpu,
                    "kv_capacity_blocks": d.capacity_blocks,
                    "kv_peak_blocks": d.peak_blocks,
                    "busy_us": d.busy_us,
                    "nic_busy_us": run.network.decode_busy_us[d.index],
                    "iterations": d.iterations,
                    "segments": d.segments,
                }
            )
        frame = pd.DataFrame(rows)
        for column in ("batches", "iterations", "segments"):
            frame[column] = frame[column].astype("Int64")
        return frame

    @cached_property
    def decisions(self) -> pd.DataFrame:
        """One row per decision that took effect, in order; the input of policy ``replay``."""
        import pandas as pd

        table = self._simulation.decisions
        rows = _column(table.call_row)
        workflow_ids = np.array([w.workflow_id for w in self.trace.workflows for _ in w.calls], object)
        call_ids = np.array([c.call_id for w in self.trace.workflows for c in w.calls], object)
        return pd.DataFrame(
            {
                "at_us": _column(table.at_us),
                "workflow_id": workflow_ids[rows],
                "call_id": call_ids[rows],
                "prefill_instance": _names([p.name for p in self.cluster.prefill], _column(table.prefill)),
                "decode_instance": _names([d.name for d in self.cluster.decode], _column(table.decode)),
                "priority": np.frombuffer(table.priority, np.float64) if len(rows) else np.empty(0),
            }
        )

    @cached_property
    def plans(self) -> pd.DataFrame:
        """One row per invocation of the policy: when, and the plan latency it was charged, µs."""
        import pandas as pd

        planning = self._simulation.planning
        return pd.DataFrame({"at_us": _column(planning.at_us), "latency_us": _column(planning.latency_us)})

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Figures of the run as plain values; seconds, milliseconds and shares, as their names say.

        ``req95`` and the other ratios divide by the standalone latency. Utilisations are shares of the time from
        the first arrival to the end, averaged over the instances of a role. ``plans`` is
        the number of the policy's invocations, ``plan_ms_mean``, ``_p50``, ``_p99`` and ``_max`` their wall-clock time.
        """
        run = self._simulation
        table = run.table
        ready, end = _column(table.ready_us), _column(table.complete_us)
        first_token = _column(table.prefill_end_us)
        outputs = np.fromiter((c.output_tokens for w in self.trace.workflows for c in w.calls), np.int64, len(ready))
        decoded = (end >= 0) & (outputs > 1)
        ttft = (first_token - ready)[first_token >= 0]
        tpot = (end - first_token)[decoded] / (outputs[decoded] - 1)
        frame = self.workflows
        ratios = [float(r) for r in frame["ratio"]]
        finite = np.array([r for r in ratios if math.isfinite(r)])
        complete = np.array(run.workflow_complete_us, np.int64)
        latency = (complete - frame["arrival_us"].to_numpy(np.int64))[complete >= 0]
        start = int(frame["arrival_us"].min())
        # A stop after the end of the work is none; one before the first arrival leaves no time at all.
        stopped = run.stop_us is not None and bool((end < 0).any())
        span = max(1, (run.stop_us if stopped and run.stop_us is not None else run.now_us) - start)
        took = np.frombuffer(run.planning.took_ns, np.int64)
        return {
            **self.about,
            "workflows": len(ratios),
            "calls": len(ready),
            "finished_workflows": int((complete >= 0).sum()),
            "finished_calls": int((end >= 0).sum()),
            "makespan_s": span / 1e6,
            "req95": req(ratios, "0.95"),
            "req99": req(ratios, "0.99"),
            "req_max": max(ratios),
            "ratio_mean": _mean(finite),
            "latency_mean_s": _mean(latency) / 1e6,
            "latency_p50_s": quantile(latency, "0.5") / 1e6,
            "latency_p95_s": quantile(latency, "0.95") / 1e6,
            "latency_p99_s": quantile(latency, "0.99") / 1e6,
            "ttft_mean_s": _mean(ttft) / 1e6,
            "ttft_p99_s": quantile(ttft, "0.99") / 1e6,
            "tpot_mean_ms": _mean(tpot) / 1e3,
            "prefill_utilisation": sum(p.busy_us for p in run.prefill) / (span * len(run.prefill)),
            "decode_utilisation": sum(d.busy_us for d in run.decode) / (span * len(run.decode)),
            "nic_utilisation": sum(run.network.prefill_busy_us) / (span * len(run.prefill)),
            "kv_peak_share": max(
                [p.peak_blocks / p.capacity_blocks for p in run.prefill if p.capacity_blocks]
                + [d.peak_blocks / d.capacity_blocks for d in run.decode if d.capacity_blocks],
                default=0.0,
            ),
            "decisions": len(run.decisions.at_us),
            "g_extrapolated": any(p.extrapolated for p in run.prefill),
            "h_extrapolated": any(
                d.largest_batch > spec.latency.h_knots[-1][0]
                for d, spec in zip(run.decode, self.cluster.decode, strict=True)
            ),
            "plans": len(took),
            "plan_ms_mean": float(took.sum()) / 1e6 / max(1, len(took)),
            **{f"plan_ms_{name}": quantile(took, q) / 1e6 if len(took) else 0.0 for name, q in _PLAN_QUANTILES},
        }

    def save(self, folder: str | Path) -> Path:
        """Write the tables as CSV, the summary, and what is needed to run it again; return the folder.

        ``summary.json``, the tables, ``cluster.toml`` and ``trace.jsonl.gz`` are the same bytes for the same run;
        wall-clock times stand apart in ``timing.json``. ``run.json`` says how to repeat the run.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        from hexopt.clusters import dump_cluster
        from hexopt.traces import write_trace

        out = Path(folder)
        summary = self.summary
        timing = {key: summary[key] for key in TIMING_KEYS}
        again = {
            **self.about,
            "trace_file": "trace.jsonl.gz",
            "cluster_file": "cluster.toml",
            "trace_provenance": dict(self.trace.provenance),
        }
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name in ("calls", "workflows", "instances", "decisions", "plans"):
                getattr(self, name).to_csv(out / f"{name}.csv", index=False, lineterminator="\n")
            lasting = {k: v for k, v in summary.items() if k not in TIMING_KEYS}
            _write_json(out / "summary.json", lasting)
            _write_json(out / "timing.json", timing)
            _write_json(out / "run.json", again)
            (out / "cluster.toml").write_text(dump_cluster(self.cluster), encoding="utf-8")
            write_trace(self.trace, out / "trace.jsonl.gz")
        except OSError as error:
            raise OutputError(
                f"{out}: {error.strerror}, results need a folder that can be written, name another with --out"
            ) from None
        return out


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    # JSON knows no infinity; a ratio that is infinite is written as null.
    plain = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in value.items()}
    path.write_text(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _column(column: Any) -> Any:
    return np.frombuffer(column, np.int64) if len(column) else np.empty(0, np.int64)


def _optional(values: Any) -> Any:
    import pandas as pd

    return pd.arrays.IntegerArray(np.array(values, np.int64), np.asarray(values) == NONE)


def _names(names: list[str], index: Any) -> Any:
    return np.array([*names, None], object)[index]  # -1 picks the None at the end


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else math.nan
