"""The path bound: no workflow is faster than its longest path of calls, each alone at its best; equations (1), (2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hexopt.core.workflow import Trace, Workflow
from hexopt.formulations.bounds.service import Floats, Service


@dataclass(frozen=True)
class Paths:
    """Where each call stands in its workflow.

    ``head_us`` (C,): a call is ready no earlier than this after its workflow's arrival. ``tail_us`` (C,): the workflow
    completes no earlier than this after the call does. ``latency_us`` (W,): the workflow's least latency.
    """

    head_us: Floats
    tail_us: Floats
    latency_us: Floats


def order(workflow: Workflow) -> list[int]:
    """Return the positions of a workflow's calls, parents first."""
    children = children_of(workflow)
    waiting = [len(c.parents) for c in workflow.calls]
    ready = [i for i, n in enumerate(waiting) if n == 0]
    done = []
    while ready:
        i = ready.pop()
        done.append(i)
        for child in children[i]:
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(child)
    return done


def children_of(workflow: Workflow) -> list[list[int]]:
    """Return the positions of each call's children."""
    children: list[list[int]] = [[] for _ in workflow.calls]
    for i, call in enumerate(workflow.calls):
        for parent in call.parents:
            children[parent].append(i)
    return children


def paths(trace: Trace, service: Service) -> Paths:
    """Return heads, tails and least latencies of a trace; equation (1)."""
    best, tool = service.best_us.tolist(), service.tool_us.tolist()
    heads, tails, latencies = [], [], []
    first = 0
    for workflow in trace.workflows:
        calls = workflow.calls
        b, t = best[first : first + len(calls)], tool[first : first + len(calls)]
        head, tail = [0.0] * len(calls), [0.0] * len(calls)
        sequence = order(workflow)
        for i in sequence:
            head[i] = t[i] + max((head[p] + b[p] for p in calls[i].parents), default=0.0)
        for i in reversed(sequence):
            for p in calls[i].parents:
                tail[p] = max(tail[p], t[i] + b[i] + tail[i])
        heads.extend(head)
        tails.extend(tail)
        latencies.append(max(h + own + after for h, own, after in zip(head, b, tail, strict=True)))
        first += len(calls)
    return Paths(np.array(heads), np.array(tails), np.array(latencies))
