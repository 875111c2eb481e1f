"""What a policy answers with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Decision(NamedTuple):
    """One call's placement and priority.

    ``call`` is the ``key`` of a :class:`~hexopt.core.view.CallView`; ``prefill`` and ``decode`` are instance
    indices, each within its pool; the **lower** ``priority`` goes first, in every local queue, and is finite.
    """

    call: int
    prefill: int
    decode: int
    priority: float


class Plan(NamedTuple):
    """All decisions of one invocation, and optionally an instant (µs) at which the policy wants to be called again.

    A call without a decision stays where it is: unplaced in the pool, or queued as before.
    """

    decisions: Sequence[Decision] = ()
    wake_us: int | None = None


NO_PLAN = Plan()
"""The plan that changes nothing."""
