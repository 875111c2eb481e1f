"""Kairos's memory forecast (arXiv 2508.06948): how many tokens each decode instance will hold, slot by slot."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hexopt.core.view import CallState, CallView

Tokens = npt.NDArray[np.int64]

HORIZON = 2048
"""Slots that the forecast reaches ahead; a call that would run for longer counts up to there."""


class MemoryForecast:
    """Sums of what calls are expected to hold, in tokens.

    A call starts at once and runs for as long as is expected of it. One that is still there at the end of that is
    expected to stay for as long as it has been there, at full size: waiting is not foreseen, and this is how it counts.

    Parameters
    ----------
    rooms
        Shape (D,): what a peak is measured by, such as KV capacity in tokens.
    slot_us
        Length of a slot.
    ramp
        Whether output tokens count as they are produced, or from the start.
    """

    def __init__(self, rooms: Sequence[int], slot_us: int, *, ramp: bool) -> None:
        self._rooms = rooms
        self._slot_us = slot_us
        self._ramp = ramp
        self._first = 0
        self._held: Tokens = np.zeros((len(rooms), 2 * HORIZON), dtype=np.int64)
        self._parts: dict[int, tuple[int, int, int, list[tuple[int, Tokens]]]] = {}
        """By call: its instance, since when it is there, until when, and its curves with their first slots."""
        self._ends: list[tuple[int, int]] = []

    def advance(self, now_us: int, open_calls: Mapping[int, CallView]) -> None:
        """Go on to ``now_us``: drop slots that have passed, extend calls that are there for longer than expected."""
        now = now_us // self._slot_us
        passed = now - self._first
        if passed >= HORIZON:
            self._held[:, :-passed] = self._held[:, passed:]
            self._held[:, max(0, 2 * HORIZON - passed) :] = 0
            self._first = now
        while self._ends and self._ends[0][0] <= now_us:
            until_us, key = heapq.heappop(self._ends)
            part = self._parts.get(key)
            if part is None or part[2] != until_us:
                continue
            call = open_calls.get(key)
            if call is None or call.state == CallState.COMPLETE:
                self._drop(key)
                continue
            d, since_us, _, curves = part
            stays_us = max(now_us - since_us, self._slot_us)
            size = call.prompt_tokens + call.predicted_output_tokens
            start = max(until_us // self._slot_us + 1, now)
            end = min((now_us + stays_us) // self._slot_us, now + HORIZON - 1)
            if start <= end:
                curves.append((start, np.full(end - start + 1, size, dtype=np.int64)))
                self._add(d, curves[-1], 1)
            self._parts[key] = (d, since_us, now_us + stays_us, curves)
            heapq.heappush(self._ends, (now_us + stays_us, key))

    def lowest(self, call: CallView, now_us: int, runs_us: int) -> int:
        """Return the candidate whose peak while the call would run is the lowest with it; ties to the lower index."""
        curve = self._curve(call, now_us, runs_us)
        start = now_us // self._slot_us - self._first
        peaks = (self._held[:, start : start + len(curve)] + curve).max(axis=1).tolist()
        rooms = self._rooms
        return min(call.decode_candidates, key=lambda d: (peaks[d] / rooms[d], d))

    def place(self, call: CallView, d: int, now_us: int, runs_us: int) -> None:
        """Add a call to instance d."""
        self._drop(call.key)
        part = (now_us // self._slot_us, self._curve(call, now_us, runs_us))
        self._add(d, part, 1)
        self._parts[call.key] = (d, now_us, now_us + runs_us, [part])
        heapq.heappush(self._ends, (now_us + runs_us, call.key))

    def remove(self, call: CallView) -> None:
        """Take out a call that has completed."""
        self._drop(call.key)

    def _curve(self, call: CallView, now_us: int, runs_us: int) -> Tokens:
        """Tokens held at the end of each slot (in the last one, at the end of the call)."""
        first = now_us // self._slot_us
        slots = min((now_us + runs_us) // self._slot_us - first + 1, HORIZON)
        prompt, output = call.prompt_tokens, call.predicted_output_tokens
        if not self._ramp:
            return np.full(slots, prompt + output, dtype=np.int64)
        ends_us = (np.arange(first + 1, first + 1 + slots)) * self._slot_us - now_us
        made: Tokens = np.ceil(np.minimum(1.0, ends_us / runs_us) * output).astype(np.int64)
        return prompt + made

    def _drop(self, key: int) -> None:
        part = self._parts.pop(key, None)
        if part is not None:
            for curve in part[3]:
                self._add(part[0], curve, -1)

    def _add(self, d: int, part: tuple[int, Tokens], sign: int) -> None:
        """Add a curve, what has passed of it left out."""
        start, curve = part
        at = start - self._first
        if at < 0:
            curve = curve[-at:] if -at < len(curve) else curve[:0]
            at = 0
        if len(curve):
            self._held[d, at : at + len(curve)] += sign * curve
