"""Objectives on the model, in whole numbers that never overstate; equations (18) to (23) of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hexopt.formulations.cpsat.model import WindowModel
from hexopt.formulations.objective import Objective

_SUM_LIMIT = 2**52
"""Weights are as large as this allows for the whole objective."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """An objective in the solver's whole numbers.

    ``expression`` / ``scale`` + ``offset`` is never above the true objective of any plan within the model's limits, so
    that a bound on it is a bound on that.
    """

    expression: Any
    scale: int
    offset: float

    def bound(self, solver_bound: float) -> float:
        """Return the true bound behind the solver's (rounded up, as the expression is whole)."""
        if not math.isfinite(solver_bound):
            return 0.0
        whole = math.ceil(solver_bound - 1e-6 * max(1.0, abs(solver_bound)) * 1e-6 - 1e-6)
        return max(0.0, whole / self.scale + self.offset) * (1 - 1e-12)


def state(
    model: WindowModel, objective: Objective, limits_us: Sequence[int], hint_ends_us: Sequence[int] | None
) -> Scaled:
    """Add the variables of an objective to a model and return it; it is minimised or bounded by the caller."""
    if objective.kind == "bottleneck":
        return _bottleneck(model, limits_us, hint_ends_us)
    if objective.kind == "late":
        return _late(model, objective, limits_us, hint_ends_us)
    return _weighted(model, objective, limits_us, hint_ends_us)


def _calls_of(model: WindowModel) -> list[list[int]]:
    calls: list[list[int]] = [[] for _ in model.window.workflows]
    for c, w in enumerate(model.arrays.workflow.tolist()):
        calls[w].append(c)
    return calls


def _bottleneck(model: WindowModel, limits_us: Sequence[int], hint: Sequence[int] | None) -> Scaled:
    """``scale * end_w <= horizon_w * r + horizon_w - 1``: r is at most the floor of the scaled ratio; equation (18)."""
    a, m = model.arrays, model.model
    horizons = a.horizon.tolist()
    top = max((Fraction(e, h) for e, h in zip(limits_us, horizons, strict=True)), default=Fraction(1))
    scale = max(1, min(10**6, _SUM_LIMIT // (max(1, math.ceil(top)) * max(horizons, default=1))))
    lower = max((e * scale // h for e, h in zip(a.earliest_ends(), horizons, strict=True)), default=0)
    r = m.new_int_var(lower, max(lower, math.floor(top * scale)), "r")
    for c, w in enumerate(a.workflow.tolist()):
        h = horizons[w]
        m.add(scale * (model.finish[c] + int(a.after[c])) <= h * r + (h - 1))
    if hint is not None:
        model.also.append((r, max((e * scale // h for e, h in zip(hint, horizons, strict=True)), default=0)))
    return Scaled(r, scale, 0.0)


def _weighted(model: WindowModel, objective: Objective, limits_us: Sequence[int], hint: Sequence[int] | None) -> Scaled:
    """The sum of ratios, or of what exceeds the SLO scale; equations (19) to (21)."""
    a, m = model.arrays, model.model
    horizons = a.horizon.tolist()
    earliest = a.earliest_ends()
    base = [0] * len(horizons)
    if objective.kind == "hinge":
        # No end is above its limit, so a base above it says no more, and might be too large for the solver.
        base = [min(pair) for pair in zip(objective.latest_us(model.window), limits_us, strict=True)]
    low = [max(0, e - b) for e, b in zip(earliest, base, strict=True)]
    high = [max(0, e - b) for e, b in zip(limits_us, base, strict=True)]
    size = sum((Fraction(x, h) for x, h in zip(high, horizons, strict=True)), Fraction(0))
    scale = max(1, math.floor(_SUM_LIMIT / max(Fraction(1), size)))
    give_up = objective.given_up(len(horizons))
    terms: list[Any] = []
    lost = Fraction(0)
    excess: list[Any] = []
    dropped: list[Any] = []
    calls = _calls_of(model)
    for w, h in enumerate(horizons):
        weight = scale // h
        floor = 0 if give_up else low[w]
        x = m.new_int_var(floor, max(floor, high[w]), "")
        drop = m.new_bool_var("") if give_up and high[w] > 0 else None
        for c in calls[w]:
            constraint = m.add(x >= model.finish[c] + (int(a.after[c]) - base[w]))
            if drop is not None:
                constraint.only_enforce_if(~drop)
        own = int(a.floor_ends[w]) - base[w]
        if own > floor:
            constraint = m.add(x >= own)
            if drop is not None:
                constraint.only_enforce_if(~drop)
        if drop is not None:
            dropped.append((drop, w))
        terms.append(weight * x)
        excess.append(x)
        # Weights are rounded down; what that loses on the part that is certain is put back.
        lost += (Fraction(scale, h) - weight) * floor
    if dropped:
        m.add(sum(literal for literal, _ in dropped) <= give_up)
    if hint is not None:
        over = [max(0, e - b) for e, b in zip(hint, base, strict=True)]
        worst = set(sorted(range(len(horizons)), key=lambda w: over[w] / horizons[w], reverse=True)[:give_up])
        for literal, w in dropped:
            model.also.append((literal, int(w in worst)))
        model.also.extend((x, 0 if give_up and w in worst else over[w]) for w, x in enumerate(excess))
    return Scaled(sum(terms), scale, float(lost / scale))


def _late(model: WindowModel, objective: Objective, limits_us: Sequence[int], hint: Sequence[int] | None) -> Scaled:
    """The number of late workflows; equation (22)."""
    a, m = model.arrays, model.model
    latest = objective.latest_us(model.window)
    earliest = a.earliest_ends()
    literals: list[Any] = []
    surely = 0
    for w, calls in enumerate(_calls_of(model)):
        if earliest[w] > latest[w]:
            surely += 1
        elif limits_us[w] > latest[w]:
            late = m.new_bool_var("")
            for c in calls:
                m.add(model.finish[c] <= latest[w] - int(a.after[c])).only_enforce_if(~late)
            literals.append(late)
            if hint is not None:
                model.also.append((late, int(hint[w] > latest[w])))
    return Scaled(sum(literals) + surely if literals else surely, 1, 0.0)
