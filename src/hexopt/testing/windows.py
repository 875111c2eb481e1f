"""Small windows that are hard in one way each, and all that can be done in them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product

from hexopt.core.window import (
    Placement,
    Window,
    WindowCall,
    WindowDecode,
    WindowOptions,
    WindowPlan,
    WindowPrefill,
    WindowWorkflow,
)
from hexopt.formulations.checker import check
from hexopt.formulations.objective import Objective, Value


def all_plans(window: Window) -> Iterator[WindowPlan]:
    """Return every choice of pairs with every order of all calls: (P·D)^N · N! plans."""
    pairs = [list(product(call.prefills(), _decodes(call))) for call in window.calls]
    for order in permutations(range(len(window.calls))):
        for chosen in product(*pairs):
            yield tuple(Placement(p, d, float(order[c])) for c, (p, d) in enumerate(chosen))


def random_plans(window: Window, count: int, seed: int) -> Iterator[WindowPlan]:
    """Return plans with pairs and orders drawn at random; some may break ``max_new``."""
    rng = random.Random(seed)
    for _ in range(count):
        order = rng.sample(range(len(window.calls)), len(window.calls))
        yield tuple(
            Placement(rng.choice(call.prefills()), rng.choice(_decodes(call)), float(order[c]))
            for c, call in enumerate(window.calls)
        )


def _decodes(call: WindowCall) -> list[int | None]:
    """Return the decode instances that may be named for a call, ``None`` where it needs none and has none."""
    return [*call.decodes()] or [None]


def best_values(window: Window, plans: Iterable[WindowPlan], objectives: Sequence[Objective]) -> list[Value] | None:
    """Return the best value of some plans by each objective, by the checker; ``None`` if none keeps the rules."""
    best: list[Value] = []
    for plan in plans:
        verdict = check(window, plan)
        if verdict.feasible:
            values = [objective.value(window, verdict.ends_us) for objective in objectives]
            best = [min(pair) for pair in zip(best, values, strict=True)] if best else values
    return best or None


def tiny_windows() -> list[Window]:
    """Return windows of at most three calls, in which every plan can be tried."""
    roomy = make_window("roomy", 3)
    calls = roomy.calls
    one_token = [replace(call, one_token=True) for call in calls]
    bound = [
        replace(c, state="bound", prefill=k % 2, decode=k % 2, available_us=90_000 * k) for k, c in enumerate(calls)
    ]
    free = [replace(call, decode=None) for call in bound]
    tight = tuple(replace(d, kv_free_blocks=70, releases=((400_000, 40),)) for d in roomy.decode)
    return [
        roomy,
        replace(roomy, name="no calls", calls=()),
        make_window("single instances", 3, prefills=1, decodes=1),
        make_window("one workflow", 3, workflows=1),
        make_window("uneven instances", 3, spread=8.0),
        replace(roomy, name="one-token calls", calls=(*one_token[:2], calls[2])),
        replace(
            roomy, name="one-token calls only", calls=(*one_token[:2], replace(one_token[2], decode_us=(None, None)))
        ),
        replace(roomy, name="bound calls only", calls=tuple(bound)),
        replace(roomy, name="bound calls may choose", calls=(*free[:2], calls[2])),
        replace(roomy, name="tight KV", decode=tight),
        replace(roomy, name="strict", decode=tight, options=WindowOptions(kv_admission="strict", latency_us=500)),
        replace(roomy, name="tight prefill KV", prefill=tuple(replace(p, kv_blocks=60) for p in roomy.prefill)),
        make_window("slow network", 3, wire=40),
        replace(make_window("no contention", 3, wire=40), options=WindowOptions(contention="none", prefill_kv=False)),
        replace(roomy, name="booked network", decode=tuple(replace(d, nic_free_us=600_000) for d in roomy.decode)),
        replace(roomy, name="few may come", decode=(replace(roomy.decode[0], max_new=1), roomy.decode[1])),
        replace(roomy, name="no decode slots", decode=tuple(replace(d, max_new=0) for d in roomy.decode)),
        replace(roomy, name="KV never fits", decode=tuple(replace(d, kv_free_blocks=5) for d in roomy.decode)),
    ]


def make_window(
    name: str,
    calls: int,
    *,
    prefills: int = 2,
    decodes: int = 2,
    workflows: int | None = None,
    spread: float = 2.0,
    wire: int = 2,
) -> Window:
    """Return a window whose times are like those of a model of 8·10⁹ parameters; the same one every time.

    ``spread`` is how many times slower the slowest instance is at most, ``wire`` the µs on the wire per token.
    """
    rng = random.Random(f"{name} {calls}")
    p_slow = [rng.uniform(1.0, spread) for _ in range(prefills)]
    d_slow = [rng.uniform(1.0, spread) for _ in range(decodes)]
    count = workflows or max(1, calls - 1)
    rows = []
    for c in range(calls):
        prompt, output = rng.randrange(200, 800), rng.randrange(5, 120)
        rows.append(
            WindowCall(
                id=f"c{c}",
                workflow=c % count,
                state="open",
                prefill=None,
                decode=None,
                available_us=None,
                one_token=False,
                prefill_blocks=-(-prompt // 16),
                kv_blocks=-(-(prompt + output) // 16),
                tail_us=rng.choice((0, rng.randrange(1_000_000))),
                prefill_us=tuple(int(prompt * 90 * s) for s in p_slow),
                wire_us=tuple(tuple(prompt * wire + 10 * p + d for d in range(decodes)) for p in range(prefills)),
                decode_us=tuple(int((output - 1) * 15_000 * s) for s in d_slow),
            )
        )
    return Window(
        name=name,
        provenance="hexopt.testing",
        options=WindowOptions(latency_us=1_000),
        prefill=tuple(
            WindowPrefill(f"p{p}", f"t{p}", rng.randrange(100_000), 0, 100_000, ((50_000, 20),))
            for p in range(prefills)
        ),
        decode=tuple(WindowDecode(f"d{d}", f"t{d}", 0, 100_000, (), calls, calls, 1_000) for d in range(decodes)),
        workflows=tuple(
            WindowWorkflow(f"w{w}", rng.randrange(1_500_000), rng.randrange(1_000_000, 3_000_000), None)
            for w in range(count)
        ),
        calls=tuple(rows),
    )
