"""Random windows of many shapes, for tests and for trying things out."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hexopt.core.window import Window
from hexopt.formulations.earliest import earliest_times

REGIMES = ("roomy", "tight-kv", "slow-network", "fan-out", "uneven", "bound", "strict", "prefill-kv")


def random_window(seed: int, calls: int = 8, regime: str = "roomy", prefills: int = 3, decodes: int = 3) -> Window:
    """Return a window with times of the size of real ones.

    ``roomy``: nothing but the instances is scarce. ``tight-kv``, ``slow-network``, ``prefill-kv``: that is scarce too.
    ``fan-out``: few workflows of many calls. ``uneven``: instances differ by a factor of eight. ``bound``: half of the
    calls are bound, and some may choose their decode instance. ``strict``: tight KV under strict admission.
    """
    rng = random.Random(f"{seed} {calls} {regime}")
    spread = 8.0 if regime == "uneven" else 2.5
    tight = regime in ("tight-kv", "strict")
    p_speed = [rng.uniform(1, spread) for _ in range(prefills)]
    d_speed = [rng.uniform(1, spread) for _ in range(decodes)]
    if prefills > 1:
        p_speed[-1] = p_speed[0]  # two equal ones
    slow = 20 if regime == "slow-network" else 1
    n_workflows = max(1, calls // 6) if regime == "fan-out" else max(1, round(calls * 0.8))
    rows: list[dict[str, Any]] = []
    for c in range(calls):
        prompt = int(rng.lognormvariate(6.6, 0.8)) + 16
        output = 1 if rng.random() < 0.08 else int(rng.lognormvariate(4.5, 0.9)) + 2
        bound = regime == "bound" and rng.random() < 0.5
        one = output == 1 and not bound
        decode = rng.randrange(decodes)
        rows.append(
            {
                "id": f"c{c}",
                "workflow": c % n_workflows if regime == "fan-out" else rng.randrange(n_workflows),
                "state": "bound" if bound else "open",
                "prefill": rng.randrange(prefills) if bound else None,
                "decode": decode if bound and rng.random() < 0.8 else None,
                "available_us": rng.choice([0, 0, rng.randrange(200_000)]) if bound else None,
                "one_token": one,
                "prefill_blocks": -(-prompt // 16),
                "kv_blocks": -(-(prompt + output) // 16),
                "tail_us": rng.choice([0, 0, rng.randrange(4_000_000)]),
                "prefill_us": [int(prompt * 90 * s) + 5_000 for s in p_speed],
                "wire_us": [[int(prompt * 7 * slow) + 1 for _ in range(decodes)] for _ in range(prefills)],
                "decode_us": [int((output - 1) * 18_000 * s) for s in d_speed],
            }
        )
    largest = max(r["kv_blocks"] for r in rows)
    largest_prompt = max(r["prefill_blocks"] for r in rows)
    room = max(largest, sum(r["kv_blocks"] for r in rows) // (4 * decodes)) if tight else 10**6
    held = largest // 2 if tight else 0
    held_by_bound = [sum(r["prefill_blocks"] for r in rows if r["prefill"] == p) for p in range(prefills)]
    prompts = [
        h + max(largest_prompt, sum(r["prefill_blocks"] for r in rows) // (5 * prefills))
        if regime == "prefill-kv"
        else 10**6
        for h in held_by_bound
    ]
    counts = [sum(r["workflow"] == w for r in rows) for w in range(n_workflows)]
    slack = max(1, -(-calls // decodes) + rng.randrange(0, 3))
    return Window.from_json(
        {
            "schema_version": 1,
            "name": f"random-{regime}-{calls}-{seed}",
            "provenance": "tests/formulations/windows.py",
            "options": {
                "contention": rng.choice(["nic", "nic", "none"]),
                "kv_admission": "strict" if regime == "strict" else "backfill",
                "prefill_kv": regime == "prefill-kv" or rng.random() < 0.5,
                "latency_us": rng.choice([0, 1_000]),
            },
            "prefill": [
                {
                    "name": f"p{p}",
                    "type": f"t{p_speed[p]:.2f}",
                    "free_us": rng.choice([0, rng.randrange(300_000)]),
                    "nic_free_us": rng.choice([0, rng.randrange(50_000)]),
                    "kv_blocks": prompts[p],
                    "held": [[rng.randrange(1, 300_000), 3]],
                }
                for p in range(prefills)
            ],
            "decode": [
                {
                    "name": f"d{d}",
                    "type": f"t{d_speed[d]:.2f}",
                    "nic_free_us": rng.choice([0, rng.randrange(50_000)]),
                    "kv_free_blocks": room - held,
                    "releases": [[rng.randrange(1, 3_000_000), held]] if held else [],
                    "max_new": slack,
                    "batch": slack,
                    "context_tokens": 1_000,
                }
                for d in range(decodes)
            ],
            "workflows": [
                {
                    "id": f"w{w}",
                    "elapsed_us": rng.choice([0, 0, rng.randrange(6_000_000)]),
                    "horizon_us": rng.randrange(2_000_000, 12_000_000) * max(1, counts[w] // 3),
                    "floor_us": rng.choice([None, rng.randrange(3_000_000)]),
                }
                for w in range(n_workflows)
            ],
            "calls": rows,
        }
    )


def refreshed(window: Window) -> Window:
    """Return the window with every workflow new and its horizon what it takes alone: queueing decides its ratios."""
    earliest = earliest_times(window).earliest_finish()
    horizons = [1] * len(window.workflows)
    for c, call in enumerate(window.calls):
        horizons[call.workflow] = max(horizons[call.workflow], int(earliest[c]))
    workflows = tuple(
        replace(w, elapsed_us=0, floor_us=None, horizon_us=h) for w, h in zip(window.workflows, horizons, strict=True)
    )
    return replace(window, workflows=workflows, calls=tuple(replace(c, tail_us=0) for c in window.calls))
