"""Whether rules that some models leave out can ever matter in a window.

A model without KV, network contention or prefill KV is *exact* where none of them can bind, whatever the plan. The
tests here are conservative: *no pressure* is proved for all plans, *pressure* only means that it is not.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

from hexopt.core.window import Window, WindowCall


class Pressure(NamedTuple):
    """For each rule, whether it may bind under some plan."""

    kv: bool
    """A call may have to wait for decode room."""
    nic: bool
    """A transfer may have to wait for another one (waits for what is booked already do not count)."""
    prefill_kv: bool
    """A prompt may have to wait for room on its prefill instance."""


def pressure(window: Window) -> Pressure:
    """Return which rules may bind in a window.

    - *KV*: no, if on each decode instance all bound calls that may go there and the ``max_new`` largest open ones fit
      into what is free now at the same time. (Residents only ever give room back.)
    - *Network*: no, without contention; or if any two calls that can share an interface have transfers that cannot
      overlap, as :func:`_apart` says. Never *no* where KV may bind: a call may then be admitted at any time.
    - *Prefill KV*: no, if the option is off, or if on each prefill instance all calls that may go there fit at once
      beside what is held.
    """
    kv = any(_kv_binds(window, d) for d in range(len(window.decode)))
    return Pressure(kv, kv or _nic_binds(window), _prefill_kv_binds(window))


def _kv_binds(window: Window, d: int) -> bool:
    here = [c for c in window.calls if not c.one_token and d in c.decodes()]
    bound = sum(c.kv_blocks for c in here if not c.is_open)
    largest = sorted((c.kv_blocks for c in here if c.is_open), reverse=True)[: window.decode[d].max_new]
    return bound + sum(largest) > window.decode[d].kv_free_blocks


def _prefill_kv_binds(window: Window) -> bool:
    if not window.options.prefill_kv:
        return False
    return any(
        sum(c.prefill_blocks for c in window.calls if p in c.prefills()) + sum(b for _, b in instance.held)
        > instance.kv_blocks
        for p, instance in enumerate(window.prefill)
    )


def _nic_binds(window: Window) -> bool:
    if window.options.contention == "none":
        return False
    sent = [c for c in window.calls if not c.one_token]
    return any(not _apart(window, one, other) for one, other in combinations(sent, 2))


def _apart(window: Window, one: WindowCall, other: WindowCall) -> bool:
    """Whether transfers of two calls cannot overlap, if each is admitted when its prefill ends.

    On one prefill instance the later prefill ends at least its own duration after the earlier one. From different ones,
    prefills can end together, unless both are bound.
    """
    for p in one.prefills():
        for q in other.prefills():
            shared = p == q or set(one.decodes()) & set(other.decodes())
            if shared and not (_in_turn(window, one, other, p, q) and _in_turn(window, other, one, q, p)):
                return False
    return True


def _in_turn(window: Window, first: WindowCall, second: WindowCall, p: int, q: int) -> bool:
    """Whether, if ``first`` (on p) is the earlier to end its prefill, its transfer is over when ``second`` (q) ends."""
    wire = max(first.wire_us[p][d] for d in first.decodes())
    booked = max(window.prefill[p].nic_free_us, *(window.decode[d].nic_free_us for d in first.decodes()))
    if first.is_open:
        if not second.is_open:
            # A bound call that ends second would have to end after an open one of the same instance; nothing says so.
            return (second.available_us or 0) <= window.prefill[p].free_us and p == q
        if p != q:
            return False
        earliest = window.prefill[p].free_us + (first.prefill_us[p] or 0)
        return booked <= earliest and wire <= (second.prefill_us[p] or 0)
    start = first.available_us or 0
    if second.is_open:
        return max(start, booked) + wire <= window.prefill[q].free_us + (second.prefill_us[q] or 0)
    # Two bound calls have fixed times; at equal ones neither is first.
    return (second.available_us or 0) < start or max(start, booked) + wire <= (second.available_us or 0)
