"""What a call takes at least, whatever is scheduled beside it: the constants of ``formulations/bounds/model.md``.

Every number here is a *lower* bound on what the engine charges, for each class of equal instances. Real-valued times
are made a little smaller (``SHAVE``) before they are rounded, so that rounding errors never make one too large; a time
that is a whole number of µs to begin with is taken as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hexopt.core.cluster import Cluster
from hexopt.core.workflow import Trace
from hexopt.errors import CapacityError
from hexopt.latency import ClusterLatency
from hexopt.latency.curves import piecewise
from hexopt.latency.model import BASE_TOKENS

SHAVE = 1 - 1e-11
"""The engine's sums have a relative error of some 1e-15 each; a segment has a handful of operations."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEVER = np.inf
"""A time on a class that cannot hold the call."""


@dataclass(frozen=True)
class Modes:
    """How the iterations of a decode class can run: one row for each batch size on the lower convex hull.

    ``delay_ms`` is the least time of an iteration for a call in such a batch, without the call's own context;
    ``share_ms`` the call's part of the instance's time. Equations (6) and (7).
    """

    delay_ms: Floats
    share_ms: Floats
    context_ms: float
    least_ms: float


class Service:
    """Lower bounds for all calls of a trace, in trace order. Arrays are over (call, class); times are µs.

    Attributes
    ----------
    workflow, prompt, output, tool_us
        Shape (C,): the facts of each call.
    prefill_us, prefill_share_us
        Shape (C, G): least duration of a batch with the call, and the call's least part of its duration.
    decode_us
        Shape (C, E): least time from joining a batch to completion; 0 for a call of one token.
    wire_us
        Shape (C, G, E): time on the wire (0 for a call of one token).
    best_us
        Shape (C,): least time from ready to complete, b(c) in equation (1).
    """

    def __init__(self, trace: Trace, cluster: Cluster) -> None:
        latency = ClusterLatency(cluster)
        self.cluster = cluster
        self.latency_us = latency.transfer_latency_us
        calls = [c for w in trace.workflows for c in w.calls]
        self.workflow: Ints = np.repeat(np.arange(len(trace.workflows)), [len(w.calls) for w in trace.workflows])
        self.prompt: Ints = np.array([c.prompt_tokens for c in calls], np.int64)
        self.output: Ints = np.array([c.output_tokens for c in calls], np.int64)
        self.tool_us: Floats = np.array([c.tool_us or 0 for c in calls], np.float64)
        self.decodes = self.output > 1
        self.prefill_first, self.prefill_count = _classes(latency.prefill_class)
        self.decode_first, self.decode_count = _classes(latency.decode_class)
        self.prompt_blocks: Ints = -(-self.prompt // cluster.block_tokens)
        self.total_blocks: Ints = -(-(self.prompt + self.output) // cluster.block_tokens)
        self.prefill_blocks = np.array([latency.prefill_capacity_blocks[p] for p in self.prefill_first], np.float64)
        self.decode_blocks = np.array([latency.decode_capacity_blocks[d] for d in self.decode_first], np.float64)
        self._prefill(latency)
        self._decode(latency)
        self._wire(latency)
        self._best(trace)

    def _prefill(self, latency: ClusterLatency) -> None:
        known: dict[tuple[int, int], tuple[float, float]] = {}
        duration = np.full((len(self.prompt), len(self.prefill_first)), NEVER)
        share = np.full_like(duration, NEVER)
        for g, p in enumerate(self.prefill_first):
            room = self.prefill_blocks[g]
            for c, (n, blocks) in enumerate(zip(self.prompt.tolist(), self.prompt_blocks.tolist(), strict=True)):
                if blocks > room:
                    continue
                if (g, n) not in known:
                    known[g, n] = batch_us(latency, self.cluster, p, n)
                duration[c, g], share[c, g] = known[g, n]
        self.prefill_us, self.prefill_share_us = duration, share

    def _decode(self, latency: ClusterLatency) -> None:
        steps = np.maximum(0, self.output - 1).astype(np.float64)
        self.steps = steps
        self.context = steps * (self.prompt + 1.0) + steps * (steps - 1) / 2
        least_context = float(self.prompt[self.decodes].min() + 1) if self.decodes.any() else 1.0
        least_blocks = int(self.total_blocks[self.decodes].min()) if self.decodes.any() else 1
        self.modes = []
        self.decode_us = np.full((len(steps), len(self.decode_first)), NEVER)
        for e, d in enumerate(self.decode_first):
            room = int(self.decode_blocks[e])
            most = min(self.cluster.decode[d].max_batch, int(self.decodes.sum()), room // least_blocks)
            modes = decode_modes(latency, d, max(1, most), least_context)
            self.modes.append(modes)
            us = np.ceil(1000 * (steps * modes.least_ms + modes.context_ms * self.context) * SHAVE)
            fits = self.total_blocks <= room
            self.decode_us[:, e] = np.where(self.decodes, np.where(fits, np.maximum(us, steps), NEVER), 0.0)

    def _wire(self, latency: ClusterLatency) -> None:
        known: dict[tuple[int, int, int], int] = {}
        wire = np.zeros((len(self.prompt), len(self.prefill_first), len(self.decode_first)))
        for g, p in enumerate(self.prefill_first):
            for e, d in enumerate(self.decode_first):
                for c in np.flatnonzero(self.decodes).tolist():
                    n = int(self.prompt[c])
                    if (g, e, n) not in known:
                        known[g, e, n] = latency.wire_us(p, d, n)
                    wire[c, g, e] = known[g, e, n]
        self.wire_us = wire

    def _best(self, trace: Trace) -> None:
        moved = np.where(self.decodes, float(self.latency_us), 0.0)
        after = self.wire_us + self.decode_us[:, None, :]
        self.moved_us = moved
        self.after_prefill_us = after.min(axis=2) + moved[:, None]
        """Shape (C, G): least time from the end of a prefill to completion."""
        self.to_decode_us = (self.prefill_us[:, :, None] + self.wire_us).min(axis=1) + moved[:, None]
        """Shape (C, E): least time from ready to joining a batch."""
        self.best_us = (self.prefill_us + self.after_prefill_us).min(axis=1)
        if not np.isfinite(self.best_us).all():
            c = int(np.flatnonzero(~np.isfinite(self.best_us))[0])
            name = trace.workflows[int(self.workflow[c])].workflow_id
            raise CapacityError(
                f"workflow '{name}': a call of {self.prompt[c]} + {self.output[c]} tokens fits on no pair of instances "
                f"of cluster '{self.cluster.name}', a call needs one, leave the workflow out or take a larger cluster"
            )


def batch_us(latency: ClusterLatency, cluster: Cluster, p: int, prompt: int) -> tuple[float, float]:
    """Return the least duration of a batch with this prompt, and the prompt's least part of it, µs; equation (3).

    A batch of N new tokens has N from the prompt's own up to the limit. What does not depend on the squares is
    piecewise linear in N, and its N-th part is monotone between the bends, so the bends decide.
    """
    limit = cluster.prefill[p].max_batch_tokens
    if prompt + 1 > limit:
        us = float(latency.prefill_us(p, prompt))
        return us, us
    model = cluster.prefill[p].latency
    last = model.g_knots[-1][0]
    end = limit if model.extrapolate or last >= BASE_TOKENS else min(limit, last)
    bends = {prompt, end, BASE_TOKENS, *(x for x, _ in model.g_knots)}
    linear = {}
    for new in sorted(bends):
        if prompt <= new <= max(end, prompt):
            g = piecewise(model.g_knots, min(new, BASE_TOKENS), model.extrapolate, f"instance {p}: prefill")
            linear[new] = model.c0_ms + model.c1 * (g + model.a1_ms * max(0, new - BASE_TOKENS))
    square = model.c1 * model.a2_ms * prompt * prompt
    duration = max(1, math.ceil(1000 * (min(linear.values()) + square) * SHAVE))
    part = min(ms / new for new, ms in linear.items())
    share = max(0.0, 1000 * (prompt * part + square) * SHAVE) if part >= 0 else 0.0
    return float(duration), share


def decode_modes(latency: ClusterLatency, d: int, most: int, least_context: float) -> Modes:
    """Return the batch sizes up to ``most`` that some prices of time and delay make the cheapest; equation (7)."""
    context_ms = latency.context_ms(d)
    points = []
    for batch in range(1, most + 1):
        h = latency.iteration_ms(d, batch)
        if h < 0:  # an extrapolated curve that falls: long contexts may make up for it, so that no split is a bound
            return Modes(np.zeros(1), np.zeros(1), 0.0, 0.0)
        points.append((h + context_ms * (batch - 1) * least_context, h / batch))
    hull: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if hull and point[1] >= hull[-1][1]:
            continue  # later and dearer
        while len(hull) >= 2 and _above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    kept, scale = _thinned(hull)
    return Modes(np.array([x for x, _ in kept]) * scale, np.array([y for _, y in kept]) * scale, context_ms, hull[0][0])


THIN = 2e-3
"""So much is given up to have few batch sizes to look at."""


def _thinned(hull: list[tuple[float, float]]) -> tuple[list[tuple[float, float]], float]:
    """Return corners of a convex curve and a factor: scaled by it, they lie on or below the curve; equation (8)."""
    kept, scale, i = [hull[0]], 1.0, 0
    while i < len(hull) - 1:
        reach, down = i + 1, 1.0
        while reach + 1 < len(hull):
            ratio = _below_chord(hull, i, reach + 1)
            if ratio < 1 - THIN:
                break
            reach, down = reach + 1, ratio
        kept.append(hull[reach])
        scale, i = min(scale, down), reach
    return kept, scale * SHAVE


def _below_chord(hull: list[tuple[float, float]], i: int, j: int) -> float:
    """Return how far, as a factor, the chord from corner i to j must shrink to lie below the corners between."""
    (x0, y0), (x1, y1) = hull[i], hull[j]
    a, b = y0 - y1, x1 - x0
    level = a * x0 + b * y0
    return min(1.0, *((a * x + b * y) / level for x, y in hull[i + 1 : j])) if level > 0 else 1.0


def _above(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Say whether b lies on or above the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


def _classes(classes: Sequence[int]) -> tuple[list[int], Floats]:
    """Return the first instance and the size of each class of equal instances."""
    return [classes.index(k) for k in range(max(classes) + 1)], np.bincount(np.array(classes)).astype(np.float64)
