"""Stands between the engine and a policy: hands everything on, and looks closely at what the policy does."""

from __future__ import annotations

import operator
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import ALL_TRIGGERS, LatencyModel, Policy
from hexopt.core.view import CallView, View
from hexopt.errors import ConformanceError
from hexopt.testing.rules import broken
from hexopt.testing.snapshot import changes, snapshot

MOST_INVOCATIONS = 50_000
"""A policy that is invoked more often than this in one small scenario asks for wake-ups without end."""

_MANY_CALLS, _FIRST = 64, 12
_MANY_INVOCATIONS = 500
_EVERY = 25
"""With many calls only the first views, and after many invocations only now and then one, are compared closely."""


class Entry(NamedTuple):
    """One invocation: by whom (``""``: the policy itself, or which fallback), when, and the answer."""

    who: str
    at_us: int
    plan: Plan


class CutShort(Exception):  # noqa: N818 - it is no error, it ends a run that has shown enough
    """A scenario has had the invocations it wants."""


class Watch:
    """A policy under observation, with the attributes that the engine reads.

    Parameters
    ----------
    about
        Where it is watched, for messages, such as ``"scenario 'pair'"``.
    at_most
        End the run with :class:`CutShort` after this many invocations; ``None``: never.
    closely
        Whether views are compared before and after each plan.
    mirrored
        Whether the policy sees the mappings of a view, which have no order to rely on, in the opposite order.
    owner
        The watch of the policy whose fallback this is.
    """

    def __init__(
        self,
        policy: Policy,
        about: str,
        *,
        plan_latency_us: int = 0,
        fallback: Policy | None = None,
        at_most: int | None = None,
        closely: bool = True,
        mirrored: bool = False,
        owner: Watch | None = None,
    ) -> None:
        self.inner = policy
        self.name = policy.name
        self.triggers = frozenset(getattr(policy, "triggers", ALL_TRIGGERS))
        self.plan_latency_us = plan_latency_us
        self.log: list[Entry] = [] if owner is None else owner.log
        self.fallback = (
            None if fallback is None else Watch(fallback, about, closely=closely, mirrored=mirrored, owner=self)
        )
        self.about = about
        self.looks = 0
        self.most_waiting = 0
        self.took_ns: list[int] = []
        self._at_most = at_most
        self._closely = closely
        self._mirrored = mirrored
        self._blamed = self.name if owner is None else owner.name
        self._who = "" if owner is None else f"its fallback '{self.name}'"

    def breach(self, number: str, observed: str) -> ConformanceError:
        """Return the error for a rule broken in this scenario."""
        return broken(self._blamed, number, f"in {self.about} {self._who + ' ' if self._who else ''}{observed}")

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Hand on, and look at the global generators."""
        self.looks += 1
        before = _global_random()
        try:
            self.inner.reset(cluster, latency, rng)
        except Exception as error:
            raise self.breach("P2", f"raised {_told(error)} in reset") from error
        self._check_random(before, "in reset")

    def plan(self, view: View) -> Plan:
        """Hand on, and look at the view, the global generators and the plan."""
        invocation = len(self.took_ns)
        if self._at_most is not None and invocation >= self._at_most:
            raise CutShort
        if invocation >= MOST_INVOCATIONS:
            raise self.breach("P5", f"was invoked {invocation} times up to {view.now_us} µs")
        at = f"at {view.now_us} µs"
        queued = sum([len(p.queue) for p in view.prefill])
        calls = len(view.pool) + sum([len(d.bound) for d in view.decode])
        self.most_waiting = max(self.most_waiting, len(view.pool) + queued)
        now_and_then = invocation % _EVERY == 0
        look = now_and_then or invocation < _MANY_INVOCATIONS
        closely = self._closely and look and (now_and_then or calls <= _MANY_CALLS or invocation < _FIRST)
        seen = snapshot(view) if closely else {}
        before = _global_random() if look else None
        shown = _mirror(view) if self._mirrored else view
        start = time.perf_counter_ns()
        try:
            plan = self.inner.plan(shown)
        except Exception as error:
            raise self.breach(
                "P2", f"raised {_told(error)} {at} with {len(view.pool)} calls in the pool and {queued} queued"
            ) from error
        self.took_ns.append(time.perf_counter_ns() - start)
        self.looks += 1
        if before is not None:
            self._check_random(before, at)
        if closely:
            written = changes(seen, snapshot(view))
            if written:
                raise self.breach("P6", f"wrote to the view {at}: {written}")
        if isinstance(plan, Plan) and isinstance(plan.decisions, Sequence):
            self._check_places(view, plan)
            # The policy may reuse its list; what was decided is fixed now.
            self.log.append(Entry(self._who, view.now_us, Plan(tuple(plan.decisions), plan.wake_us)))
        return plan

    def _check_random(self, before: tuple[object, ...], when: str) -> None:
        for name, was, now in zip(("random", "numpy.random"), before, _global_random(), strict=True):
            if was != now:
                raise self.breach("P7", f"used the global generator of {name} {when}")

    def _check_places(self, view: View, plan: Plan) -> None:
        """Hold placements against the candidates; all else about a plan is the engine's to judge."""
        if not plan.decisions:
            return
        calls = {call.key: call for call in view.pool}
        for d in view.decode:
            calls.update(d.bound)
        for decision in plan.decisions:
            if not isinstance(decision, Decision) or not isinstance(decision.call, int | np.integer):
                continue
            call = calls.get(decision.call)
            if call is not None:
                for role in ("prefill", "decode"):
                    self._check_place(view.now_us, decision, call, role)

    def _check_place(self, now_us: int, decision: Decision, call: CallView, role: str) -> None:
        index = getattr(decision, role)
        candidates = getattr(call, f"{role}_candidates")
        try:
            legal = operator.index(index) in candidates
        except TypeError:
            legal = False
        if not legal:
            raise self.breach(
                "P3",
                f"placed call {call.key} ('{call.workflow.workflow_id}/{call.call_id}') at {now_us} µs on {role} "
                f"instance {index!r} where {list(candidates)} are legal, decision {tuple(decision)}",
            )


def _mirror(view: View) -> View:
    return replace(
        view,
        prefill=[replace(p, queue=_reversed(p.queue)) for p in view.prefill],
        decode=[replace(d, bound=_reversed(d.bound), waiting=_reversed(d.waiting)) for d in view.decode],
    )


def _reversed(calls: Mapping[int, CallView]) -> dict[int, CallView]:
    return dict(reversed(list(calls.items())))


def as_policy(watch: Watch) -> Policy:
    """Tell the type checker that a watch has all the engine asks of a policy."""
    return cast(Policy, watch)


def _global_random() -> tuple[object, object]:
    numpys: Any = np.random.get_state(legacy=False)
    inner = {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in numpys["state"].items()}
    return random.getstate(), (numpys["bit_generator"], inner, numpys.get("has_gauss"), numpys.get("gauss"))


def _told(error: Exception) -> str:
    return f"{type(error).__name__} ({str(error)[:200]})" if str(error) else type(error).__name__
