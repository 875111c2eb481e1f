"""What is in a trace, as ``hexopt trace info`` shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from hexopt.core.workflow import Call, Trace, Workflow

OTHERS_SHOWN = 10
"""So many applications, sources, licences, kinds and extra keys are listed; the rest is one number."""


def trace_info(trace: Trace) -> dict[str, Any]:
    """Return the key figures of a trace, ready for a table or JSON.

    Returns
    -------
    dict
        Plain JSON values in a fixed order. ``{"p50", "p95", "max"}`` are nearest-rank percentiles: the smallest
        value that at least this share of the values does not exceed. ``depth`` is the number of calls on a
        workflow's longest path, ``width`` the largest number of calls with equally long paths to them.
        ``span_s`` lies between the first and the last known arrival. ``cached_share`` is the share of prompt
        tokens that repeat earlier context, among calls that know it (``None``: no call does). ``extra_keys``
        lists the keys that the format does not know: a misspelt key shows up there.

    Examples
    --------
    >>> from hexopt.core.workflow import Call, Trace, Workflow
    >>> calls = (Call("c0", (), 100, 20), Call("c1", (0,), 130, 10), Call("c2", (0,), 140, 10))
    >>> info = trace_info(Trace((Workflow("w", "chat", 0, calls),), "example"))
    >>> info["calls"], info["depth"]["max"], info["width"]["max"], info["prompt_tokens"]
    (3, 2, 2, {'p50': 130, 'p95': 140, 'max': 140})
    """
    workflows = trace.workflows
    calls = [call for workflow in workflows for call in workflow.calls]
    shapes = [depth_and_width(workflow) for workflow in workflows]
    arrivals = [workflow.arrival_us for workflow in workflows if workflow.arrival_us is not None]
    cached = [call for call in calls if call.cached_prefix_tokens is not None]
    return {
        "name": trace.name,
        "file": trace.provenance.get("file"),
        "sha256": trace.provenance.get("sha256"),
        "workflows": len(workflows),
        "calls": len(calls),
        "calls_per_workflow": _spread(len(workflow.calls) for workflow in workflows),
        "prompt_tokens": _spread(call.prompt_tokens for call in calls),
        "output_tokens": _spread(call.output_tokens for call in calls),
        "depth": _spread(depth for depth, _ in shapes),
        "width": _spread(width for _, width in shapes),
        "cached_share": _cached_share(cached),
        "unknown_arrivals": trace.unknown_arrivals,
        "unknown_delays": trace.unknown_delays,
        "span_s": (max(arrivals) - min(arrivals)) / 1e6 if arrivals else None,
        "apps": _count(workflow.app for workflow in workflows),
        "delay_kinds": _count(call.delay_kind or "" for call in calls),
        "sources": _count(workflow.source for workflow in workflows),
        "licenses": _count(workflow.license for workflow in workflows),
        "extra_keys": _count(
            [key for workflow in workflows for key in workflow.extra] + [key for call in calls for key in call.extra]
        ),
        "skipped": trace.provenance.get("skipped", 0),
    }


def depth_and_width(workflow: Workflow) -> tuple[int, int]:
    """Return the number of calls on the longest path, and the most calls at one distance from the roots.

    A call's distance is the number of calls on the longest path that ends at it.

    >>> calls = (Call("a", (), 1, 1), Call("b", (0,), 1, 1), Call("c", (0,), 1, 1), Call("d", (1, 2), 1, 1))
    >>> depth_and_width(Workflow("diamond", "", 0, calls))
    (3, 2)
    """
    calls = workflow.calls
    levels = [0] * len(calls)
    waiting = [len(call.parents) for call in calls]
    children: list[list[int]] = [[] for _ in calls]
    for position, call in enumerate(calls):
        for parent in call.parents:
            children[parent].append(position)
    free = [position for position, count in enumerate(waiting) if count == 0]
    for position in free:  # It grows while it is walked.
        levels[position] = 1 + max((levels[parent] for parent in calls[position].parents), default=0)
        for child in children[position]:
            waiting[child] -= 1
            if waiting[child] == 0:
                free.append(child)
    return max(levels), max(Counter(levels).values())


def _spread(values: Iterable[int]) -> dict[str, int]:
    ranked = sorted(values)
    if not ranked:
        return {}
    return {
        "p50": ranked[-(-50 * len(ranked) // 100) - 1],
        "p95": ranked[-(-95 * len(ranked) // 100) - 1],
        "max": ranked[-1],
    }


def _cached_share(calls: list[Call]) -> float | None:
    if not calls:
        return None
    return sum(call.cached_prefix_tokens or 0 for call in calls) / sum(call.prompt_tokens for call in calls)


def _count(values: Iterable[str]) -> dict[str, int]:
    """Return how often each value occurs, most frequent first; rare values beyond the limit are summed up."""
    counts = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    shown = dict(counts[:OTHERS_SHOWN])
    if rest := sum(count for _, count in counts[OTHERS_SHOWN:]):
        shown[f"({len(counts) - OTHERS_SHOWN} others)"] = rest
    return shown
