"""The earliest times of every call on every pair: no solver, no search.

Earliest times hold under **every** plan, since they ignore all other open calls: a prefill starts when the instance is
free and what it holds for others can have left; admission waits for the residents that must leave; a transfer waits for
both network interfaces. Equations (2) to (5) of ``formulations/cpsat/model.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hexopt.core.window import Window, WindowPrefill

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FAR = 2**60
"""Later than any time of a window."""


@dataclass(frozen=True, slots=True)
class EarliestTimes:
    """The numbers of a window of N calls, P prefill and D decode instances; times in µs after the cut.

    ``usable`` (N, P, D) are the pairs on which the call can complete at all. ``prefill_end`` (N, P), ``transfer_start``
    and ``finish`` (N, P, D) are the earliest under any plan, :data:`FAR` where not usable. Calls of one token finish
    with their prefill, whatever the decode instance. ``after`` (N,) is what a completion is away from the end of the
    workflow: its elapsed time and the call's tail. ``floor_ends`` (W,) are the ends of the workflows without the calls.
    """

    open: Bools
    one_token: Bools
    workflow: Ints
    after: Ints
    prefill_us: Ints
    wire_us: Ints
    decode_us: Ints
    kv_blocks: Ints
    usable: Bools
    prefill_start: Ints
    prefill_end: Ints
    transfer_start: Ints
    finish: Ints
    horizon: Ints
    floor_ends: Ints

    def earliest_finish(self) -> Ints:
        """Return the earliest completion of each call, :data:`FAR` where it can never complete."""
        if self.finish.size == 0:
            return np.zeros(0, np.int64)
        result: Ints = self.finish.reshape(len(self.finish), -1).min(axis=1)
        return result

    def earliest_ends(self) -> list[int]:
        """Return the earliest end of each workflow, µs after its arrival."""
        ends = self.floor_ends.copy()
        np.maximum.at(ends, self.workflow, self.earliest_finish() + self.after)
        return [int(e) for e in ends]


def earliest_times(window: Window) -> EarliestTimes:
    """Return the arrays of a window."""
    calls, latency = window.calls, window.options.latency_us
    n, n_p, n_d = len(calls), len(window.prefill), len(window.decode)
    is_open = np.array([c.is_open for c in calls], bool)
    one = np.array([c.one_token for c in calls], bool)
    prefill_us = _ints([[us or 0 for us in c.prefill_us] for c in calls], (n, n_p))
    wire = _ints([c.wire_us for c in calls], (n, n_p, n_d))
    decode_us = _ints([[us or 0 for us in c.decode_us] for c in calls], (n, n_d))
    kv = _ints([c.kv_blocks for c in calls], (n,))
    may_p, may_d = np.zeros((n, n_p), bool), np.zeros((n, n_d), bool)
    for c, call in enumerate(calls):
        may_p[c, call.prefills()] = True
        may_d[c, call.decodes()] = True

    room_d = np.stack([_room_time(d.kv_free_blocks, d.releases, kv) for d in window.decode], axis=1)  # equation (3)
    may_d &= (room_d < FAR) | one[:, None]
    nic_p = _ints([p.nic_free_us for p in window.prefill], (n_p,))
    nic_d = _ints([d.nic_free_us for d in window.decode], (n_d,))

    def transfers(end: Ints) -> Ints:
        start = np.maximum(end[:, :, None], room_d[:, None, :])
        if window.options.contention == "nic":
            start = np.maximum(start, np.maximum(nic_p[:, None], nic_d[None, :])[None])
        return start

    # Bound calls first: when they can leave their prefill instance is when it has room, equation (4).
    available = _ints([c.available_us or 0 for c in calls], (n,))
    end = np.repeat(available[:, None], n_p, axis=1)
    leave = transfers(end) + wire + latency
    leaves = [
        int(available[c] if one[c] else leave[c, call.prefill][may_d[c]].min(initial=FAR))
        for c, call in enumerate(calls)
        if not call.is_open
    ]
    bound = [
        (call.prefill, us, call.prefill_blocks)
        for call, us in zip((c for c in calls if not c.is_open), leaves, strict=True)
    ]
    blocks = _ints([c.prefill_blocks for c in calls], (n,))
    free = _ints([p.free_us for p in window.prefill], (n_p,))
    start = np.repeat(free[None, :], n, axis=0)
    if window.options.prefill_kv:
        for p, prefill in enumerate(window.prefill):
            held = [(us, b) for q, us, b in bound if q == p]
            start[:, p] = np.maximum(start[:, p], _prefill_room(prefill, held, blocks))
    may_p &= (start < FAR) | ~is_open[:, None]
    end = np.where(is_open[:, None], start + prefill_us, end)

    first = np.where(one[:, None, None], end[:, :, None], transfers(end))
    finish = np.where(one[:, None, None], first, first + wire + latency + decode_us[:, None, :])
    usable = may_p[:, :, None] & (may_d | one[:, None])[:, None, :]
    floors = [w.elapsed_us + (w.floor_us or 0) for w in window.workflows]
    return EarliestTimes(
        open=is_open,
        one_token=one,
        workflow=_ints([c.workflow for c in calls], (n,)),
        after=_ints([window.workflows[c.workflow].elapsed_us + c.tail_us for c in calls], (n,)),
        prefill_us=prefill_us,
        wire_us=wire,
        decode_us=decode_us,
        kv_blocks=kv,
        usable=usable,
        prefill_start=np.where(may_p, start, FAR),
        prefill_end=np.where(may_p, end, FAR),
        transfer_start=np.where(usable, first, FAR),
        finish=np.where(usable, finish, FAR),
        horizon=_ints([w.horizon_us for w in window.workflows], (len(window.workflows),)),
        floor_ends=_ints(floors, (len(floors),)),
    )


def _ints(values: object, shape: tuple[int, ...]) -> Ints:
    return np.array(values, np.int64).reshape(shape)


def _room_time(free: int, releases: Iterable[tuple[int, int]], wanted: Ints) -> Ints:
    """Return when so many blocks can be free at the earliest, FAR for never."""
    by_time = sorted(releases)
    times = np.array([0, *(us for us, _ in by_time), FAR], np.int64)
    room = np.cumsum([free, *(blocks for _, blocks in by_time)])
    # The room only grows, so the first time at which it suffices is found by bisection.
    return times[np.searchsorted(room, wanted, side="left") + 0] if len(by_time) else np.where(wanted <= free, 0, FAR)


def _prefill_room(prefill: WindowPrefill, bound: list[tuple[int, int]], wanted: Ints) -> Ints:
    held = [*prefill.held, *bound]
    return _room_time(prefill.kv_blocks - sum(blocks for _, blocks in held), held, wanted)
