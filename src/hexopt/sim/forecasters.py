"""Forecasters that know the truth, and say so by their names."""

from __future__ import annotations

import math

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.protocols import Forecaster, LatencyModel, Tail
from hexopt.core.view import CallView, View
from hexopt.core.workflow import MAX_US, Trace, Workflow
from hexopt.latency.alone import Alone


class OracleTails:
    """Knows what follows."""

    name = "oracle"

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def reset(self, cluster: Cluster, latency: LatencyModel) -> None:
        """Forget the tails, which depend on the cluster."""
        self._alone = Alone(cluster, latency)
        self._tails: dict[int, list[int]] = {}

    def look(self, view: View) -> None:
        """Learn nothing."""

    def tail(self, call: CallView) -> Tail:
        """Return the truth."""
        return Tail.certain(self.truth_us(call.workflow.index, call.index))

    def truth_us(self, workflow: int, call: int) -> int:
        """Return what follows a call, by positions in the trace."""
        tails = self._tails.get(workflow)
        if tails is None:
            tails = self._tails[workflow] = tails_us(self._trace.workflows[workflow], self._alone)
        return tails[call]


class NoisyTails(OracleTails):
    """The truth times ``exp(sigma·z)``; ``z`` is drawn per call of the trace, so no policy moves it."""

    def __init__(self, trace: Trace, sigma: float, rng: np.random.Generator) -> None:
        super().__init__(trace)
        self.name = f"noisy:{sigma!r}"
        # math.exp, not numpy's: its last bit must not depend on the processor's vector unit.
        self._errors = [math.exp(sigma * z) for z in rng.standard_normal(trace.call_count).tolist()]
        self._first_row: list[int] = np.cumsum([0] + [len(w.calls) for w in trace.workflows]).tolist()

    def tail(self, call: CallView) -> Tail:
        """Return the truth with its error."""
        w, c = call.workflow.index, call.index
        return Tail.certain(min(MAX_US, round(self.truth_us(w, c) * self._errors[self._first_row[w] + c])))


def tails_us(workflow: Workflow, alone: Alone) -> list[int]:
    """Return, for each call of a workflow, the longest path of what follows it, µs."""
    calls = workflow.calls
    children: list[list[int]] = [[] for _ in calls]
    waits = [len(c.parents) for c in calls]
    for i, call in enumerate(calls):
        for parent in call.parents:
            children[parent].append(i)
    order = [i for i, n in enumerate(waits) if n == 0]
    for i in order:  # it grows while it is walked
        for child in children[i]:
            waits[child] -= 1
            if waits[child] == 0:
                order.append(child)
    tails = [0] * len(calls)
    for i in reversed(order):
        for child in children[i]:
            c = calls[child]
            us = (c.tool_us or 0) + alone.us(c.prompt_tokens, c.output_tokens) + tails[child]
            tails[i] = max(tails[i], us)
    return tails


def make_knowing(text: str, trace: Trace, rng: np.random.Generator) -> Forecaster:
    """Build a forecaster that knows the truth from its (checked) name."""
    name, _, argument = text.partition(":")
    return OracleTails(trace) if name == "oracle" else NoisyTails(trace, float(argument), rng)
