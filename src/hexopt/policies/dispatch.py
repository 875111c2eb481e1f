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
        p, d = self.pair(call)
        self.add(call, p, d)
        return Decision(call.key, p, d, priority)

    def pair(self, call: CallView) -> tuple[int, int]:
        """Return where ``place`` would bind the call."""
        return least(self._prefill, call.prefill_candidates), least(self._decode, call.decode_candidates)

    def add(self, call: CallView, p: int, d: int) -> None:
        """Count a placement."""
        self._prefill[p] += call.prompt_tokens
        self._decode[d] += call.prompt_tokens + call.predicted_output_tokens


def least(load: list[int], candidates: Sequence[int]) -> int:
    """Return the candidate with the least load, ties to the lower index."""
    if len(candidates) == len(load):
        return load.index(min(load))
    return min(candidates, key=load.__getitem__)
