"""Column stores that a run fills in: 8 bytes a cell, so that a million calls fit in memory."""

from __future__ import annotations

from array import array

NONE = -1
"""Stands for a step that did not occur."""


class CallTable:
    """One row per call, in trace order; instances by index, times in µs."""

    __slots__ = (
        "admit_us",
        "complete_us",
        "decode",
        "join_us",
        "placed_us",
        "prefill",
        "prefill_end_us",
        "prefill_start_us",
        "priority",
        "ready_us",
        "transfer_end_us",
        "transfer_start_us",
    )

    def __init__(self, rows: int) -> None:
        def column() -> array[int]:
            return array("q", [NONE]) * rows

        self.ready_us = column()
        self.placed_us = column()
        self.prefill = column()
        self.decode = column()
        self.priority = array("d", [0.0]) * rows
        self.prefill_start_us = column()
        self.prefill_end_us = column()
        self.admit_us = column()
        self.transfer_start_us = column()
        self.transfer_end_us = column()
        self.join_us = column()
        self.complete_us = column()


class DecisionTable:
    """One row per decision that took effect, in order of application; calls by row of the call table."""

    __slots__ = ("at_us", "call_row", "decode", "prefill", "priority")

    def __init__(self) -> None:
        self.at_us = array("q")
        self.call_row = array("q")
        self.prefill = array("q")
        self.decode = array("q")
        self.priority = array("d")

    def add(self, at_us: int, call_row: int, prefill: int, decode: int, priority: float) -> None:
        """Append a row."""
        self.at_us.append(at_us)
        self.call_row.append(call_row)
        self.prefill.append(prefill)
        self.decode.append(decode)
        self.priority.append(priority)
