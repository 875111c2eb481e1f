"""Local queues, kept in order of (priority, ready_us, workflow index, call index): lower goes first."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from hexopt.sim.live import Entry, LiveCall

_COMPACT = 256


class LocalQueue:
    """A sorted list whose front is taken without moving the rest.

    ``items`` is empty exactly when the queue is; else the entries from ``_head`` on are queued.

    Adding at the end and taking from the front, what first-come queues do, cost amortised constant time;
    elsewhere the list moves in one block copy.
    """

    __slots__ = ("_head", "items")

    def __init__(self) -> None:
        self.items: list[Entry] = []
        self._head = 0

    def __len__(self) -> int:
        return len(self.items) - self._head

    def __iter__(self) -> Iterator[Entry]:
        items = self.items
        return (items[i] for i in range(self._head, len(items)))

    def add(self, call: LiveCall) -> None:
        """Queue a call under its present priority."""
        items = self.items
        entry = call.make_entry()
        if not items or items[-1] < entry:
            items.append(entry)
        else:
            insort(items, entry, lo=self._head)

    def remove(self, call: LiveCall) -> None:
        """Take a queued call out, wherever it stands."""
        entry = call.entry
        if entry is None:
            raise RuntimeError(f"call '{call.call_id}' is in no queue: an engine defect")
        items = self.items
        del items[bisect_left(items, entry, lo=self._head)]
        if self._head == len(items):
            items.clear()
            self._head = 0
        call.entry = None

    def reorder(self, call: LiveCall) -> None:
        """Move a queued call to where its present priority belongs."""
        self.remove(call)
        self.add(call)

    def first(self) -> LiveCall:
        """Return the call that goes first."""
        return self.items[self._head][4]

    def take(self) -> LiveCall:
        """Remove and return the call that goes first."""
        items = self.items
        head = self._head
        call = items[head][4]
        call.entry = None
        head += 1
        if head == len(items):
            items.clear()
            head = 0
        elif head >= _COMPACT and 2 * head >= len(items):
            del items[:head]
            head = 0
        self._head = head
        return call


class AdmissionQueue(LocalQueue):
    """Calls that wait for KV room, with a lower bound on the least room any of them needs."""

    __slots__ = ("_least",)

    def __init__(self) -> None:
        super().__init__()
        self._least = 0

    def add(self, call: LiveCall) -> None:
        """Queue a call under its present priority."""
        if not self.items or call.kv_blocks < self._least:
            self._least = call.kv_blocks
        super().add(call)

    def admit(self, free_blocks: int, strict: bool) -> list[LiveCall]:
        """Remove and return, in queue order, the calls that fit one after the other into ``free_blocks``.

        ``strict`` stops at the first that does not fit; otherwise the walk goes on past it (semantics, section 4).
        """
        admitted: list[LiveCall] = []
        while self.items and self.first().kv_blocks <= free_blocks:
            call = self.take()
            free_blocks -= call.kv_blocks
            admitted.append(call)
        if strict or not self.items or free_blocks < self._least:
            return admitted
        kept: list[Entry] = []
        least = 0
        for entry in self:
            call = entry[4]
            need = call.kv_blocks
            if need <= free_blocks:
                call.entry = None
                free_blocks -= need
                admitted.append(call)
            else:
                kept.append(entry)
                if least == 0 or need < least:
                    least = need
        self.items = kept
        self._head = 0
        self._least = least
        return admitted
