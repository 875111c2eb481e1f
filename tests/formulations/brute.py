"""Every plan of a tiny window, and many of a small one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import permutations, product

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.formulations import Objective, Value, check


def all_plans(window: Window) -> Iterator[WindowPlan]:
    """Every choice of pairs with every order of all calls."""
    pairs = [list(product(call.prefills(), call.decodes())) for call in window.calls]
    for order in permutations(range(len(window.calls))):
        for chosen in product(*pairs):
            yield tuple(Placement(p, d, float(order[c])) for c, (p, d) in enumerate(chosen))


def random_plans(window: Window, count: int, seed: int) -> Iterator[WindowPlan]:
    rng = random.Random(seed)
    for _ in range(count):
        order = rng.sample(range(len(window.calls)), len(window.calls))
        yield tuple(
            Placement(rng.choice(call.prefills()), rng.choice(call.decodes()), float(order[c]))
            for c, call in enumerate(window.calls)
        )


def best_values(window: Window, plans: Iterator[WindowPlan], objectives: list[Objective]) -> list[Value] | None:
    """The best value by each objective; ``None`` if no plan keeps the rules."""
    best: list[Value] = []
    for plan in plans:
        verdict = check(window, plan)
        if verdict.feasible:
            values = [objective.value(window, verdict.ends_us) for objective in objectives]
            best = [min(pair) for pair in zip(best, values, strict=True)] if best else values
    return best or None
