"""Heterogeneity-blind dispatch: the instance with the fewest outstanding tokens (semantics, section 6)."""

from __future__ import annotations

from collections.abc import Sequence

from hexopt.core.plan import Decision
from hexopt.core.view import CallView, View


class FewestOutstanding:
    """Places calls one by one; each sees the placements before it."""

    __slots__ = ("_decode", "_prefill")

    def __init__(self, view: View) -> None:
        self._prefill = [p.outstanding_tokens for p in view.prefill]
        self._decode = [d.outstanding_tokens for d in view.decode]

    def place(self, call: CallView, priority: float) -> Decision:
        """Bind ``call`` to the least loaded prefill and decode instance that can hold it, ties to the lower index."""
        return self._bind(call, priority, *self.pair(call))

    def pair(self, call: CallView) -> tuple[int, int]:
        """Return where ``place`` would bind the call."""
        return least(self._prefill, call.prefill_candidates), least(self._decode, call.decode_candidates)

    def add(self, call: CallView, p: int, d: int) -> None:
        """Count a placement."""
        self._prefill[p] += call.prompt_tokens
        self._decode[d] += call.prompt_tokens + call.predicted_output_tokens

    def place_at(self, call: CallView, priority: float, prefill: int, decode: int) -> Decision:
        """Bind ``call`` to ``prefill`` and ``decode``; where one is -1 or cannot hold it, to the least loaded one."""
        p = prefill if prefill in call.prefill_candidates else least(self._prefill, call.prefill_candidates)
        d = decode if decode in call.decode_candidates else least(self._decode, call.decode_candidates)
        return self._bind(call, priority, p, d)

    def place_among(
        self, call: CallView, priority: float, prefills: Sequence[int], decodes: Sequence[int], near: tuple[int, int]
    ) -> Decision:
        """Bind ``call`` to the least loaded instances among some, or among all candidates if it fits on none of them.

        ``near`` are a prefill and a decode instance to be preferred (-1: none) if they are among them and have at most
        twice the least load.
        """
        p = _least_among(self._prefill, prefills, call.prefill_candidates, near[0])
        d = _least_among(self._decode, decodes, call.decode_candidates, near[1])
        return self._bind(call, priority, p, d)

    def move(self, call: CallView, before: int, after: int) -> None:
        """Count a call that waits for prefill at another prefill instance."""
        self._prefill[before] -= call.prompt_tokens
        self._prefill[after] += call.prompt_tokens

    def _bind(self, call: CallView, priority: float, p: int, d: int) -> Decision:
        self.add(call, p, d)
        return Decision(call.key, p, d, priority)


def least(load: list[int], candidates: Sequence[int]) -> int:
    """Return the candidate with the least load, ties to the lower index."""
    if len(candidates) == len(load):
        return load.index(min(load))
    return min(candidates, key=load.__getitem__)


def _least_among(load: list[int], some: Sequence[int], candidates: Sequence[int], near: int) -> int:
    within = [i for i in some if i in candidates]
    if not within:
        return least(load, candidates)
    best = least(load, within)
    return near if near in within and load[near] <= 2 * load[best] else best
