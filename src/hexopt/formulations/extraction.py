"""From a model's solution to a plan: instances as they are, priorities by the order of the model's times."""

from __future__ import annotations

from collections.abc import Sequence

from hexopt.core.window import Placement, Window, WindowPlan


def to_plan(
    window: Window, prefill: Sequence[int], decode: Sequence[int | None], start: Sequence[float], admit: Sequence[float]
) -> WindowPlan:
    """Return the plan whose queues follow a model's times.

    A call has one priority for both of its queues: its rank by admission, repaired to the order of prefill starts where
    two calls of one prefill instance disagree. Without pressure on KV, network or prefill KV the played plan is never
    later than the model's; with it, it can be, so compare it with what you had.

    Parameters
    ----------
    prefill, decode
        The instances of each call.
    start, admit
        When each call starts its prefill and is admitted to decode, in any one unit. ``start`` of a bound call is
        ignored; calls of one token may repeat their prefill end as ``admit``.
    """
    calls = window.calls
    by_admission = sorted(range(len(calls)), key=lambda c: (admit[c], start[c], c))
    # On each prefill instance, its open calls keep the slots they have in the order of admission, but fill them in the
    # order in which they start.
    order = list(by_admission)
    for p in set(prefill):
        slots = [k for k, c in enumerate(by_admission) if calls[c].is_open and prefill[c] == p]
        by_start = sorted((by_admission[k] for k in slots), key=lambda c: (start[c], c))
        for k, c in zip(slots, by_start, strict=True):
            order[k] = c
    rank = {c: float(k) for k, c in enumerate(order)}
    return tuple(Placement(prefill[c], decode[c], rank[c]) for c in range(len(calls)))
