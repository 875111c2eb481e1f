"""The best of all plans of a tiny window, by playing every one of them."""

from __future__ import annotations

import itertools
import random

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.formulations import Objective, Value, check


def every_plan(window: Window) -> list[WindowPlan]:
    """Return every plan of a window, up to what no rule can tell apart."""
    pairs = [
        [
            (p, None if c.one_token else d)
            for p in c.prefills()
            for d in (c.decodes()[:1] if c.one_token else c.decodes())
        ]
        for c in window.calls
    ]
    ranks = list(itertools.permutations(range(len(window.calls))))
    return [
        tuple(Placement(p, d, float(r)) for (p, d), r in zip(chosen, rank, strict=True))
        for chosen in itertools.product(*pairs)
        for rank in ranks
    ]


def best_value(window: Window, objective: Objective) -> Value | None:
    """Return the smallest value of all plans, ``None`` if none keeps the rules."""
    values = [check(window, plan, objective).value for plan in every_plan(window)]
    return min((v for v in values if v is not None), default=None)


def random_plan(window: Window, seed: int) -> WindowPlan:
    """Return a plan that keeps the candidates; it may break a cap."""
    rng = random.Random(seed)
    return tuple(
        Placement(rng.choice(c.prefills()), None if c.one_token else rng.choice(c.decodes()), rng.random())
        for c in window.calls
    )
