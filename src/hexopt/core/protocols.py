"""The seams: what one must implement to join in.

:class:`Policy` is all a scheduler needs. A policy may also set any of the optional attributes of
:class:`BasePolicy`; where it does not, that class's values hold.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Plan
from hexopt.core.view import DecodeView, Trigger, View
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

    def decode_us(self, decode: int, batch: int, context_tokens: int, iterations: int) -> int:
        """Time from the start of a segment of ``batch`` calls with ``context_tokens`` in all to boundary ``iterations``."""

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
    """Default values of what a policy may state about itself; shipped policies inherit it.

    Attributes
    ----------
    plan_latency_us
        Planning time charged to each plan: a fixed number of µs (0: a plan applies at once), or ``"measured"``,
        the policy's own wall-clock time.
    triggers
        The events it wants to be called for.
    fallback
        Who places newly ready calls while a plan is in flight, at priority = ready time. ``None`` leaves them in
        the pool until a plan places them.
    """

    name: ClassVar[str] = "unnamed"
    plan_latency_us: PlanLatency = 0
    triggers: frozenset[Trigger] = ALL_TRIGGERS
    fallback: Policy | None = None

    def options(self) -> dict[str, Any]:
        """Return the options that rebuild this policy, as plain values for a result's record."""
        return {"plan_latency_us": self.plan_latency_us}


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
