"""``least-loaded``: each call to the prefill and the decode instance with the least load, calls by ready time.

The usual rule of routers and load balancers: join the shortest queue (``calls``), or the one with the fewest tokens
(``tokens``, which is ``fcfs``). Both treat all instances alike. ``time`` knows that they differ: it counts the
outstanding *predicted service time*, each instance at its own speed (least work left).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import CallState, CallView, DecodeView, Trigger, View
from hexopt.policies.dispatch import FewestOutstanding


class LeastLoaded(BasePolicy):
    """Fewest outstanding calls or tokens, or least outstanding predicted service time.

    Parameters
    ----------
    load
        What counts: outstanding ``"calls"`` (a running prefill batch as one: the view does not say how many it has),
        ``"tokens"``, or predicted service ``"time"`` at each instance's own speed.
    with_call
        Under load ``"time"``, whether the new call's own service at the instance is part of its load, so that of two
        idle instances the faster one is taken.
    decode_speed
        Under load ``"time"``, the speed at which a decode instance works off its outstanding tokens: that of one call
        ``"alone"``, or of all its calls in one ``"batch"``. A full batch works off tokens fastest, so the latter
        favours instances that are full already: good for short outputs, bad for long ones.

    Ties go to the lower index. Context lengths enter a decode instance's speed in the mean over its calls.
    """

    name: ClassVar[str] = "least-loaded"
    triggers = frozenset((Trigger.CALL_READY,))

    def __init__(
        self,
        *,
        plan_latency_us: PlanLatency = 0,
        fallback: Policy | None = None,
        load: Literal["calls", "tokens", "time"] = "calls",
        with_call: bool = False,
        decode_speed: Literal["alone", "batch"] = "alone",
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        self.load = load
        self.with_call = with_call
        self.decode_speed = decode_speed

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Take up the cluster's speeds."""
        self._latency = latency
        self._context_ms = [d.latency.b2_ms for d in cluster.decode]

    def plan(self, view: View) -> Plan:
        """Place every call of the pool, one by one; each sees the placements before it."""
        if self.load == "tokens":
            dispatch = FewestOutstanding(view)
            return Plan([dispatch.place(call, float(call.ready_us)) for call in view.pool])
        if self.load == "calls":
            return Plan(_by_calls(view))
        return Plan(self._by_time(view))

    def _by_time(self, view: View) -> list[Decision]:
        latency, with_call = self._latency, self.with_call
        prefill_us = [max(0, p.busy_until_us - view.now_us) + p.queued_us for p in view.prefill]
        decodes = [
            _DecodeLoad(d, view.now_us, latency, self._context_ms[i], self.decode_speed == "batch")
            for i, d in enumerate(view.decode)
        ]
        decisions = []
        for call in view.pool:
            n = call.prompt_tokens
            if with_call:
                p = min(call.prefill_candidates, key=lambda i: (prefill_us[i] + latency.prefill_us(i, n), i))
                d = min(call.decode_candidates, key=lambda i: (decodes[i].ms_with(call), i))
            else:
                p = min(call.prefill_candidates, key=lambda i: (prefill_us[i], i))
                d = min(call.decode_candidates, key=lambda i: (decodes[i].ms, i))
            prefill_us[p] += latency.prefill_us(p, n)
            decodes[d].add(call)
            decisions.append(Decision(call.key, p, d, float(call.ready_us)))
        return decisions


def _by_calls(view: View) -> list[Decision]:
    prefill = [len(p.queue) + (p.busy_until_us >= 0) for p in view.prefill]
    decode = [len(d.bound) for d in view.decode]
    decisions = []
    for call in view.pool:
        p = min(call.prefill_candidates, key=lambda i: (prefill[i], i))
        d = min(call.decode_candidates, key=lambda i: (decode[i], i))
        prefill[p] += 1
        decode[d] += 1
        decisions.append(Decision(call.key, p, d, float(call.ready_us)))
    return decisions


class _DecodeLoad:
    """The time, ms, in which a decode instance works off the output that its calls are predicted to have still."""

    __slots__ = ("_batched", "_calls", "_context", "_context_ms", "_latency", "_left", "_view", "ms")

    def __init__(self, d: DecodeView, now_us: int, latency: LatencyModel, context_ms: float, batched: bool) -> None:
        self._view = d
        self._latency = latency
        self._context_ms = context_ms
        self._batched = batched
        produced = d.running * latency.iterations_at(d, now_us) - d.joined_sum if d.running else 0
        one_token = 0
        if len(d.bound) > d.decoding:  # calls predicted to end with their prefill: no work here
            one_token = d.outstanding_tokens - sum(
                c.prompt_tokens + c.predicted_output_tokens for c in d.bound.values() if _decodes(c)
            )
        # Prompt and prediction of each call, less prompt and first token, less what was produced since.
        self._left = d.outstanding_tokens - one_token - d.decoding_tokens - produced
        self._calls = d.decoding
        self._context = d.decoding_tokens + produced
        self.ms = self._time(self._left, self._calls, self._context)

    def ms_with(self, call: CallView) -> float:
        """Return the time if the call were placed here."""
        m = call.predicted_output_tokens
        if m <= 1:
            return self.ms
        return self._time(self._left + m - 1, self._calls + 1, self._context + call.prompt_tokens + 1)

    def add(self, call: CallView) -> None:
        """Place the call here."""
        if call.predicted_output_tokens > 1:
            self._left += call.predicted_output_tokens - 1
            self._calls += 1
            self._context += call.prompt_tokens + 1
            self.ms = self._time(self._left, self._calls, self._context)

    def _time(self, left: int, calls: int, context: int) -> float:
        if left <= 0:  # nothing, or more was produced than predicted
            return 0.0
        batch = min(calls, self._view.max_batch) if self._batched else 1
        iteration_ms = self._latency.iteration_ms(self._view.index, batch)
        return left * (iteration_ms / batch + self._context_ms * context / calls)


def _decodes(call: CallView) -> bool:
    return call.predicted_output_tokens > 1 or call.state >= CallState.ADMISSION
