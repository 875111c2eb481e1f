"""``netkv``: the decode instance to which the KV gets soonest (arXiv 2606.03910).

NetKV picks a request's decode instance greedily: instances without room for its KV and a reserve are out; of the others
it takes the one with the least

    transfer + queue + first decode iteration

where transfer is the bytes that are not cached at the instance, over the bandwidth of the way there divided among the
scheduler's own transfers in flight from the same source. It says nothing of prefill instances and of order: here the
prefill instance has the fewest outstanding tokens, as under ``fcfs``, and calls go by ready time.

What differs from the paper, because the engine differs:

- NetKV decides when the prefill is over. Here a call is bound to its decode instance when it is placed, and that is
  what is decided. Under ``handoff`` binding, ``rebind`` decides anew about calls that wait for room, but a call that
  finds room at the end of its prefill leaves no time for that.
- The engine keeps no KV of earlier calls (semantics, section 8), so nothing is cached; see ``cached_prefix``.
- There are no network tiers: the way to each instance is as fast as the slower of the two interfaces. Transfers take
  turns on an interface instead of sharing its bandwidth; the last of them ends at the same time.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import NO_PLAN, Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.errors import ConfigError
from hexopt.policies.dispatch import least


class NetKv(BasePolicy):
    """Least transfer, queue and first decode iteration, among decode instances with room for the KV and a reserve.

    Parameters
    ----------
    reserve
        Share of a decode instance's KV capacity that must stay free beside the call's KV, in [0, 1). The call's KV is
        prompt and predicted output, what admission reserves; that of all calls bound to the instance counts as used.
    when_full
        Where a call goes if no decode instance has that room: to the least ``"cost"`` all the same, or to the most
        free ``"room"``.
    queue
        The calls that are ahead at a decode instance, each taken to cost one iteration: those ``"bound"`` there that
        have not joined its batch, or only those ``"waiting"`` there, their prefill over.
    cached_prefix
        Whether the call's cached prefix need not be sent to a decode instance that served one of its parents. The
        engine always sends all of it: true is for systems that keep it.
    rebind
        Under ``handoff`` binding, whether calls that wait for room are bound anew in each round. Rounds then follow
        transfers, completions and idle prefill instances, too.

    Ties go to the lower index.
    """

    name: ClassVar[str] = "netkv"
    triggers = frozenset((Trigger.CALL_READY,))

    def __init__(
        self,
        *,
        plan_latency_us: PlanLatency = 0,
        fallback: Policy | None = None,
        reserve: float = 0.05,
        when_full: Literal["cost", "room"] = "cost",
        queue: Literal["bound", "waiting"] = "bound",
        cached_prefix: bool = False,
        rebind: bool = False,
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        if not 0 <= reserve < 1:
            raise ConfigError(
                f"policy 'netkv': reserve is {reserve!r}, it is a share of at least 0 and below 1, correct it"
            )
        self.reserve = reserve
        self.when_full = when_full
        self.queue = queue
        self.cached_prefix = cached_prefix
        self.rebind = rebind
        if rebind:
            self.triggers = self.triggers | {Trigger.TRANSFER_END, Trigger.CALL_COMPLETE, Trigger.PREFILL_IDLE}

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Take up the cluster."""
        self._latency = latency
        self._handoff = cluster.binding == "handoff"

    def plan(self, view: View) -> Plan:
        """Bind the calls that wait for room anew, if that is asked for, then place the pool, one by one."""
        moving: list[CallView] = []
        if self.rebind and self._handoff:
            moving = [c for d in view.decode for c in d.waiting.values() if c.state == CallState.ADMISSION]
            moving.sort(key=lambda c: (c.ready_us, c.workflow.index, c.index))
        if not moving and not view.pool:
            return NO_PLAN
        state = _State(self, view)
        decisions = []
        for call in moving:
            state.move(call, -1, call.decode)
            d = state.best(call, call.prefill)
            state.move(call, 1, d)
            if d != call.decode:
                decisions.append(Decision(call.key, call.prefill, d, call.priority))
        prefill = [p.outstanding_tokens for p in view.prefill]
        for call in view.pool:
            p = least(prefill, call.prefill_candidates)
            prefill[p] += call.prompt_tokens
            d = state.best(call, p)
            if call.predicted_output_tokens > 1:
                state.move(call, 1, d)
            decisions.append(Decision(call.key, p, d, float(call.ready_us)))
        return Plan(decisions)


class _State:
    """The decode instances, with what this round places there."""

    def __init__(self, policy: NetKv, view: View) -> None:
        latency = policy._latency
        self._latency = latency
        self._policy = policy
        now = view.now_us
        self._decode = view.decode
        self._reserve = [policy.reserve * d.kv_capacity_blocks for d in view.decode]
        self._blocks = [d.decoding_blocks for d in view.decode]
        self._calls = [d.decoding for d in view.decode]
        self._ahead = [d.decoding - d.running if policy.queue == "bound" else len(d.waiting) for d in view.decode]
        self._context = [
            d.decoding_tokens + (d.running * latency.iterations_at(d, now) - d.joined_sum if d.running else 0)
            for d in view.decode
        ]
        self._in_flight = [0] * len(view.prefill)
        for d in view.decode:
            for call in d.waiting.values():
                if call.state == CallState.TRANSFERRING:
                    self._in_flight[call.prefill] += 1

    def move(self, call: CallView, sign: int, d: int) -> None:
        """Add the call to decode instance d, or (sign −1) take it away."""
        self._blocks[d] += sign * call.kv_blocks
        self._calls[d] += sign
        self._ahead[d] += sign
        self._context[d] += sign * (call.prompt_tokens + 1)

    def best(self, call: CallView, p: int) -> int:
        """Return the decode instance for a call whose prefill is on instance p."""
        room = [d for d in call.decode_candidates if self._free(d) >= call.kv_blocks + self._reserve[d]]
        if not room and self._policy.when_full == "room":
            return min(call.decode_candidates, key=lambda d: (-self._free(d), d))
        return min(room or call.decode_candidates, key=lambda d: (self._cost_us(call, p, d), d))

    def _free(self, d: int) -> int:
        return self._decode[d].kv_capacity_blocks - self._blocks[d]

    def _cost_us(self, call: CallView, p: int, d: int) -> int:
        latency = self._latency
        tokens = call.prompt_tokens
        if self._policy.cached_prefix and any(parent.decode == d for parent in call.parents):
            tokens -= call.cached_prefix_tokens or 0
        wire_us = latency.wire_us(p, d, tokens) if tokens else 0
        transfer_us = wire_us * (1 + self._in_flight[p]) + latency.transfer_latency_us
        batch = min(self._calls[d] + 1, self._decode[d].max_batch)
        iteration_us = latency.decode_us(d, batch, self._context[d] + call.prompt_tokens + 1, 1)
        return transfer_us + (self._ahead[d] + 1) * iteration_us
