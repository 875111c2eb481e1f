"""The numbered rules of a policy, and the one form in which a breach is told."""

from __future__ import annotations

from typing import NamedTuple

from hexopt.errors import ConformanceError


class Rule(NamedTuple):
    """``title`` names it, ``text`` states it, ``remedy`` says what to do about a breach."""

    title: str
    text: str
    remedy: str


RULES = {
    "P1": Rule(
        "protocol",
        "a policy has a name, reset(cluster, latency, rng) and plan(view), and its optional attributes are legal",
        "derive it from hexopt.BasePolicy",
    ),
    "P2": Rule(
        "survival",
        "reset and plan never raise, whatever the cluster and however many calls wait, also none",
        "handle this view",
    ),
    "P3": Rule(
        "roles and capacity",
        "a call is placed on a prefill and a decode instance whose total capacity holds it",
        "choose among the call's prefill_candidates and decode_candidates",
    ),
    "P4": Rule(
        "legal plans",
        "a plan decides at most once about a call, only about what can still be decided, with finite priorities, and "
        "asks for later wake-ups only",
        "see docs/semantics.md, sections 6.2 and 6.4",
    ),
    "P5": Rule(
        "progress",
        "every call is placed in the end, and wake-ups are not asked for without end",
        "place what waits in the pool, or ask for a wake-up and place it then",
    ),
    "P6": Rule(
        "read-only view",
        "a policy never writes to a view or to anything in it",
        "copy what is to be changed, e.g. sorted(view.pool, key=...)",
    ),
    "P7": Rule(
        "own random numbers",
        "the global generators of random and numpy.random are neither drawn from nor seeded",
        "draw from the generator that reset is given",
    ),
    "P8": Rule(
        "determinism",
        "the same views and the same seed give the same plans, and a view's mappings have no order",
        "let only the views and the generator of reset decide: no clock, no object addresses, no state outside the "
        "instance, and sort what comes from a queue, bound or waiting mapping",
    ),
    "P9": Rule(
        "reset forgets",
        "after reset a used instance plans as a fresh one does",
        "set up all memory in reset, not in __init__ or in the class",
    ),
    "P10": Rule(
        "no foresight",
        "true output lengths, calls not yet revealed and later arrivals have no effect before they show",
        "decide by the view alone",
    ),
}
"""Every rule that :func:`hexopt.testing.check_policy` holds a policy to, by number."""


def broken(policy: str, number: str, observed: str) -> ConformanceError:
    """Return the error for a breach: *policy: what was observed, number, title and rule, remedy*, on one line."""
    rule = RULES[number]
    seen = " ".join(observed.split())
    return ConformanceError(f"policy '{policy}': {seen}, {number} {rule.title}: {rule.text}, {rule.remedy}", number)
