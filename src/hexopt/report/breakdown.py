"""Where a workflow's time goes: its latency cut, to the microsecond, into what happened along its critical path."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from hexopt.core.workflow import Trace
from hexopt.report.calls import CALLS, TRACE, each_run, missing_tables, of_run, run_trace
from hexopt.report.data import Results
from hexopt.report.style import below, new_axes

PARTS = {
    "tool delay": ("#FFFFFF", "...."),
    "queue for prefill": ("#F2C879", "////"),
    "prefill": ("#E69F00", None),
    "wait for KV admission": ("#D9D9D9", "xxxx"),
    "transfer": ("#009E73", None),
    "wait to join": ("#A8D5F2", "\\\\\\\\"),
    "decode": ("#0072B2", None),
}
"""The parts in the order of a call's life, with colour and hatch: work is plain, waiting is pale and hatched."""

STEPS = ("ready_us", "prefill_start_us", "prefill_end_us", "admit_us", "transfer_end_us", "join_us", "complete_us")


def critical_path_parts(trace: Trace, calls: pd.DataFrame, workflows: pd.DataFrame) -> pd.DataFrame:
    """Cut the latency of every finished workflow into :data:`PARTS`, µs, which add up to it exactly.

    The critical path is walked backwards: from the workflow's last completed call to the parent that completed
    last (ties: the later in the trace), and so on to a root. A call that becomes ready ``tool_us`` after its last
    parent (semantics, section 2) leaves no gap: ready minus that completion is tool delay, and so is ready minus
    arrival for a root. ``queue for prefill`` includes the wait for a placement, ``transfer`` the wait for the
    network interfaces after admission.

    Parameters
    ----------
    trace, calls, workflows
        Of one run; the rows of ``calls`` and ``workflows`` in trace order, as every run writes them.
    """
    steps = [calls[step].astype("Int64").to_numpy(dtype="int64", na_value=-1).tolist() for step in STEPS]
    ready, complete = steps[0], steps[-1]
    rows = []
    first = 0
    for workflow, row in zip(trace.workflows, workflows.to_dict("records"), strict=True):
        here, first = range(first, first + len(workflow.calls)), first + len(workflow.calls)
        if pd.isna(row["complete_us"]):
            continue
        parts = [0] * len(PARTS)
        at: int | None = max(here, key=lambda i: (complete[i], i))
        while at is not None:
            life = [step[at] for step in steps]
            for k, instant in enumerate(life):  # a one-token call has no step after its prefill
                if instant < 0:
                    life[k] = life[k - 1]
            life[-1] = complete[at]
            before = [here[parent] for parent in workflow.calls[at - here[0]].parents]
            last = max(before, key=lambda i: (complete[i], i)) if before else None
            parts[0] += ready[at] - (int(row["arrival_us"]) if last is None else complete[last])
            for k in range(1, len(PARTS)):
                parts[k] += life[k] - life[k - 1]
            at = last
        rows.append([row["workflow_id"], *parts])
    return pd.DataFrame(rows, columns=["workflow_id", *PARTS])


def needs(data: Results) -> str:
    """Say what is missing to draw this figure; empty if nothing is."""
    return missing_tables(data, (CALLS, TRACE))


def mean_parts(data: Results) -> pd.DataFrame:
    """Return the mean of each part in seconds per policy, over the finished workflows of all seeds."""
    tables: dict[str, list[pd.DataFrame]] = {policy: [] for policy in data.policies}
    for run, calls in each_run(data):
        tables[run["policy"]].append(critical_path_parts(run_trace(run), calls, of_run(data.workflows, run)))
    means = {p: pd.concat(t)[list(PARTS)].astype(float).mean() / 1e6 for p, t in tables.items()}
    return pd.DataFrame(means).T


def plot_breakdown(data: Results, ax: Axes | None = None) -> Axes:
    """Draw a stacked bar per policy: mean seconds of each part along the workflows' critical paths."""
    policies = data.policies
    ax = new_axes(ax, rows=len(policies))
    means = mean_parts(data).reindex(policies)
    left = [0.0] * len(policies)
    thick = min(0.72, 0.25 + 0.12 * len(policies))
    for part, (colour, hatch) in PARTS.items():
        widths = means[part].fillna(0.0).tolist()
        ax.barh(
            range(len(policies)), widths, thick, left=left, color=colour, hatch=hatch, label=part,
            edgecolor="#555555", linewidth=0.6,
        )  # fmt: skip
        left = [a + b for a, b in zip(left, widths, strict=True)]
    _totals(ax, left, means)
    ax.set_yticks(range(len(policies)), policies)
    ax.set_ylim(len(policies) - 0.5, -0.5)
    ax.set_xlim(0, max(left) * 1.1 or 1)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("mean time along the workflow's critical path (s); the parts add up to the latency")
    ax.set_ylabel("policy")
    seeds = data.runs["seed"].nunique()
    left_out = len(data.workflows) - int(data.workflows["complete_us"].notna().sum())
    ax.set_title(
        f"Where the time goes, finished workflows\n{data.where}, "
        + (f"{seeds} seeds pooled" if seeds > 1 else "one run")
        + (f"; {left_out} unfinished workflows left out" if left_out else "")
    )
    below(ax, len(PARTS))
    return ax


def _totals(ax: Axes, totals: Sequence[float], means: pd.DataFrame) -> None:
    for y, total in enumerate(totals):
        text = "none finished" if means.iloc[y].isna().all() else f"{total:#.3g}".rstrip(".")
        ax.annotate(text, (total, y), (5, 0), textcoords="offset points", va="center", fontsize=9)
