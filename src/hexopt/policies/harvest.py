"""A policy that does as another one does and keeps windows of what that one was asked about."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Plan
from hexopt.core.protocols import ALL_TRIGGERS, LatencyModel, Policy
from hexopt.core.view import CallView, View
from hexopt.core.window import Window
from hexopt.policies.cutting import Cutter, Horizons, waiting_calls
from hexopt.policies.projection import Estimator


class Harvest:
    """Passes everything on to ``policy`` and keeps every ``every``-th window with at least ``least`` open calls.

    Parameters
    ----------
    policy
        Who decides.
    every
        Of so many windows that could be kept, one is: the first, and so on.
    least, most
        Fewest open calls of a window that counts; of more than ``most`` the most urgent are kept
        (:func:`most_urgent`).
    limit
        Keep no more than so many.
    """

    name: ClassVar[str] = "harvest"

    def __init__(
        self, policy: Policy, every: int = 1, *, least: int = 1, most: int | None = None, limit: int | None = None
    ) -> None:
        self.policy = policy
        self.triggers = getattr(policy, "triggers", ALL_TRIGGERS)
        self.fallback = getattr(policy, "fallback", None)
        self.plan_latency_us = getattr(policy, "plan_latency_us", 0)
        self.windows: list[Window] = []
        self._every, self._least, self._most, self._limit = every, least, most, limit

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget the windows kept."""
        self._cutter = Cutter(cluster, latency)
        self._horizons = Horizons(Estimator(cluster, latency))
        self._cluster = cluster.name
        self._seen = 0
        self.windows = []
        self.policy.reset(cluster, latency, rng)

    def plan(self, view: View) -> Plan:
        """Cut a window if it is time for one, and let the policy plan."""
        waiting = waiting_calls(view)
        if len(waiting) >= self._least and (self._limit is None or len(self.windows) < self._limit):
            if self._seen % self._every == 0:
                self.windows.append(self._window(view, waiting))
            self._seen += 1
        return self.policy.plan(view)

    def _window(self, view: View, waiting: list[CallView]) -> Window:
        calls = waiting if self._most is None else most_urgent(waiting, view.now_us, self._horizons, self._most)
        return self._cutter.cut(
            view,
            self._horizons.of,
            calls=calls,
            name=f"{self._cluster}-{view.now_us}",
            provenance=f"cluster {self._cluster}, policy {self.policy.name}, {view.now_us} µs",
        ).window


def most_urgent(calls: list[CallView], now_us: int, horizons: Horizons, most: int) -> list[CallView]:
    """Return at most so many calls, those with the largest ratio if they were served at once, each alone.

    Ties go to the older workflow, then to positions in the trace.
    """
    if len(calls) <= most:
        return calls

    def rank(call: CallView) -> tuple[float, int, int, int]:
        workflow = call.workflow
        ratio = (now_us + horizons.alone_us(call) - workflow.arrival_us) / horizons.of(call)
        return -ratio, workflow.arrival_us, workflow.index, call.index

    return sorted(calls, key=rank)[:most]
