"""The seams: what one must implement to join in.

:class:`Policy` is all a scheduler needs. A policy may also have the attributes ``plan_latency_us`` (absent: 0),
``triggers`` (absent: all) and ``fallback`` (absent: ``None``) that :class:`BasePolicy` documents.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Plan
from hexopt.core.view import CallView, DecodeView, Trigger, View
from hexopt.core.workflow import Trace

PlanLatency = int | Literal["measured"]

ALL_TRIGGERS: frozenset[Trigger] = frozenset(Trigger)


class LatencyModel(Protocol):
    """Service times of one cluster, integer µs. Instances are named by their index within their pool."""

    @property
    def prefill_class(self) -> tuple[int, ...]:
        """Shape (P,). Instances of one class have equal prefill times, capacity and network rate."""

    @property
    def decode_class(self) -> tuple[int, ...]:
        """Shape (D,). Instances of one class have equal decode times, capacity, batch limit and network rate."""

    @property
    def transfer_latency_us(self) -> int:
        """What a transfer takes beyond its time on the wire."""

    def blocks(self, tokens: int) -> int:
        """KV blocks that hold ``tokens`` tokens."""

    def prefill_us(self, prefill: int, prompt_tokens: int) -> int:
        """Duration of a batch of this one prompt."""

    def wire_us(self, prefill: int, decode: int, prompt_tokens: int) -> int:
        """Time for which a prompt's KV transfer occupies both network interfaces."""

    def iteration_ms(self, decode: int, batch: int) -> float:
        """Duration of an iteration of ``batch`` calls without its context term, ms: ``h'(B)``."""

    def decode_us(self, decode: int, batch: int, context_tokens: int, iterations: int) -> int:
        """Time from a segment's start, ``batch`` calls and ``context_tokens`` in all, to boundary ``iterations``."""

    def iterations_at(self, view: DecodeView, now_us: int) -> int:
        """Iterations that the instance has completed up to and including ``now_us``."""


@runtime_checkable
class Policy(Protocol):
    """A scheduler. Same views, same plans; it never writes to a view, reads a clock or keeps ground truth."""

    name: ClassVar[str]

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget everything; a run on ``cluster`` begins. ``rng`` is the policy's own random stream."""

    def plan(self, view: View) -> Plan:
        """Decide for the calls of ``view`` that can still be decided about."""


class BasePolicy:
    """What shipped policies have in common: how they are called, and what they say about themselves.

    Parameters
    ----------
    plan_latency_us
        Planning time charged to each plan: a fixed number of µs (0: a plan applies at once), or ``"measured"``,
        the policy's own wall-clock time.
    fallback
        Who places newly ready calls while a plan is in flight, at priority = ready time. ``None`` leaves them in
        the pool until a plan places them. (By name in :func:`hexopt.make_policy`; ``"none"`` for ``None``.)
    """

    name: ClassVar[str] = "unnamed"
    triggers: frozenset[Trigger] = ALL_TRIGGERS
    """The events it wants to be called for."""
    default_fallback: ClassVar[str] = "fcfs"
    """The fallback that :func:`hexopt.make_policy` gives it if none is named."""

    def __init__(self, *, plan_latency_us: PlanLatency = 0, fallback: Policy | None = None) -> None:
        self.plan_latency_us = plan_latency_us
        self.fallback = fallback

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget everything; a policy without memory has nothing to forget."""

    def plan(self, view: View) -> Plan:
        """Decide for the calls of ``view`` that can still be decided about."""
        raise NotImplementedError(f"policy '{self.name}' has no plan method")


class Predictor(Protocol):
    """Foretells output lengths. It may know the truth (and then says so by its name); policies get its word only."""

    @property
    def name(self) -> str:
        """The text that :func:`hexopt.sim.predictors.make_predictor` rebuilds it from."""

    def reset(self, trace: Trace, rng: np.random.Generator) -> None:
        """Forget everything; a run of ``trace`` begins. ``rng`` is the predictor's own random stream."""

    def predict(self, workflow: int, call: int) -> int:
        """Predicted output tokens (at least 1) of a call just revealed, by positions in the trace."""

    def observe(self, workflow: int, call: int) -> None:
        """A call completed, so its true output length is now known."""


TAIL_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The shares of a :class:`Tail`'s quantiles."""


class Tail(NamedTuple):
    """What is expected to follow a call in its workflow: µs from its completion, were the workflow alone.

    That is the longest path of calls not yet revealed, each at its best pair on the idle cluster, tool times included.
    ``quantiles_us`` has one entry for each of :data:`TAIL_LEVELS`, not falling; how far they spread is how little is
    known. ``examples`` is the number of observations behind them (0: none, or it is the truth).
    """

    mean_us: int
    quantiles_us: tuple[int, ...] = (0,) * len(TAIL_LEVELS)
    examples: int = 0

    @classmethod
    def certain(cls, us: int) -> Tail:
        """Return the tail that is surely ``us``."""
        return cls(us, (us,) * len(TAIL_LEVELS))


NO_TAIL = Tail(0)
"""Nothing follows, or nobody knows."""


class Forecaster(Protocol):
    """Foretells what may still come in a workflow beyond what is revealed.

    It sees what a policy sees. One that knows the truth says so by its name; policies get its word only.
    """

    @property
    def name(self) -> str:
        """The text that names it as an option of a policy."""

    def reset(self, cluster: Cluster, latency: LatencyModel) -> None:
        """Forget what was learnt in a run; another one, on ``cluster``, begins."""

    def look(self, view: View) -> None:
        """Take note of what happened; a policy shows each view before it asks."""

    def tail(self, call: CallView) -> Tail:
        """Return what is expected to follow an open call, by what is known when it is first asked about."""
