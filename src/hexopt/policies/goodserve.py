"""``goodserve``: the weakest instances that still meet the call's SLO (arXiv 2605.16867).

GoodServe routes each request to the *just-enough* GPU: of those whose estimated end-to-end latency meets the request's
SLO the weakest, so that strong ones stay free for requests that need them; if none meets it, the strongest. Estimates
are moving averages of what completed requests saw on each instance: waiting, time per prompt token, time per output
token.

Here an instance is a pair of a prefill and a decode instance, each with averages of its own. What differs from the
paper, because the engine differs:

- GoodServe watches running requests and migrates those at risk. The engine moves no call whose prefill has started, so
  this is its routing alone.
- Requests bring an SLO. Calls here bring none; see ``slo_scale``.
- The KV transfer of the pair is added at its time on an idle network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.errors import ConfigError

ClassPair = tuple[int, int, int, int]
"""(time of the call alone on it, prefill class, decode class, time of its transfer); times in µs."""


class GoodServe(BasePolicy):
    """Just-enough routing by moving averages: the weakest pair that meets the SLO, else the strongest.

    Parameters
    ----------
    slo_scale
        A call's SLO: so many times its predicted service time alone on the fastest pair, from its readiness. Above 0.
    smoothing
        Weight of a new observation in a moving average, in (0, 1].
    idle_waits
        Whether the average waiting counts on an instance with nothing outstanding, too. There is none there, but
        then an instance that was once found slow is tried again only when no other is in time either.
    when_late
        Where a call goes that no pair serves in time: to the ``"strongest"`` pair, or to that with the ``"earliest"``
        estimated finish.

    A pair is the stronger, the sooner it would serve the call alone, by the latency model. Of equal instances that meet
    the SLO the one with the fewest outstanding tokens is taken, then the lower index. Before the first completion on an
    instance its times are those of the latency model and its waiting is 0. Waiting for prefill counts from readiness;
    waiting for decode is all that passes between prefill and joining the batch, but for the transfer. Calls go by ready
    time.
    """

    name: ClassVar[str] = "goodserve"
    triggers = frozenset((Trigger.CALL_READY,))

    def __init__(
        self,
        *,
        plan_latency_us: PlanLatency = 0,
        fallback: Policy | None = None,
        slo_scale: float = 2.0,
        smoothing: float = 0.2,
        idle_waits: bool = False,
        when_late: Literal["strongest", "earliest"] = "strongest",
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        if not slo_scale > 0:
            raise ConfigError(f"policy 'goodserve': slo_scale is {slo_scale!r}, it is above 0, correct it")
        if not 0 < smoothing <= 1:
            raise ConfigError(
                f"policy 'goodserve': smoothing is {smoothing!r}, it is above 0 and at most 1, correct it"
            )
        self.slo_scale = slo_scale
        self.smoothing = smoothing
        self.idle_waits = idle_waits
        self.when_late = when_late

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget what was observed."""
        self._latency = latency
        self._prefill = [_Average() for _ in cluster.prefill]
        self._decode = [_Average() for _ in cluster.decode]
        self._open: list[dict[int, CallView]] = [{} for _ in cluster.decode]
        self._prefill_groups = _groups(latency.prefill_class)
        self._decode_groups = _groups(latency.decode_class)

    def plan(self, view: View) -> Plan:
        """Learn from the calls completed since, then place every call of the pool, one by one."""
        self._observe(view)
        tokens = [p.outstanding_tokens for p in view.prefill], [d.outstanding_tokens for d in view.decode]
        decisions = []
        for call in view.pool:
            p, d = self._choose(call, view.now_us, *tokens)
            tokens[0][p] += call.prompt_tokens
            tokens[1][d] += call.prompt_tokens + call.predicted_output_tokens
            decisions.append(Decision(call.key, p, d, float(call.ready_us)))
            if self.plan_latency_us == 0:
                self._open[d][call.key] = call
        return Plan(decisions)

    # -- learning

    def _observe(self, view: View) -> None:
        """Find the calls completed since the last look, and average what they saw."""
        complete: list[CallView] = []
        for i, d in enumerate(view.decode):
            calls = self._open[i]
            if self.plan_latency_us != 0:  # only now is it known who is bound where: a fallback places calls, too
                for key in d.bound.keys() - calls.keys():
                    calls[key] = d.bound[key]
            if len(calls) != len(d.bound):
                gone = calls.keys() - d.bound.keys()
                complete.extend([call for key in gone if (call := calls.pop(key)).state == CallState.COMPLETE])
        complete.sort(key=lambda c: (c.complete_us, c.key))
        for call in complete:
            self._learn(call)

    def _learn(self, call: CallView) -> None:
        a = self.smoothing
        wait_us = call.prefill_start_us - call.ready_us
        self._prefill[call.prefill].add(a, wait_us, (call.prefill_end_us - call.prefill_start_us) / call.prompt_tokens)
        if call.join_us >= 0:
            wait_us = call.join_us - call.prefill_end_us - (call.transfer_end_us - call.transfer_start_us)
            self._decode[call.decode].add(a, wait_us, (call.complete_us - call.join_us) / (call.output_tokens - 1))

    # -- choosing

    def _choose(
        self, call: CallView, now_us: int, prefill_tokens: list[int], decode_tokens: list[int]
    ) -> tuple[int, int]:
        latency, idle_waits = self._latency, self.idle_waits
        n, steps = call.prompt_tokens, call.predicted_output_tokens - 1
        prefill_us = {
            p: self._prefill[p].estimate_us(n, latency.prefill_us(p, n), idle_waits or prefill_tokens[p] > 0)
            for p in call.prefill_candidates
        }
        decode_us = dict.fromkeys(call.decode_candidates, 0.0)
        if steps > 0:
            for d in call.decode_candidates:
                decode_us[d] = self._decode[d].estimate_us(
                    steps, latency.decode_us(d, 1, n + 1, steps), idle_waits or decode_tokens[d] > 0
                )
        pairs = self._class_pairs(call)
        left_us = call.ready_us + self.slo_scale * pairs[-1][0] - now_us
        members = [
            (
                transfer_us,
                [p for p in self._prefill_groups[cp] if p in prefill_us],
                [d for d in self._decode_groups[cd] if d in decode_us],
            )
            for _, cp, cd, transfer_us in pairs
        ]
        # Weakest first; within two classes the least loaded instances that are in time.
        for transfer_us, ps, ds in members:
            within_us = left_us - transfer_us
            soonest_us = min([decode_us[d] for d in ds])
            in_time = [p for p in ps if prefill_us[p] + soonest_us <= within_us]
            if in_time:
                p = _least(prefill_tokens, in_time)
                return p, _least(decode_tokens, [d for d in ds if prefill_us[p] + decode_us[d] <= within_us])
        if self.when_late == "earliest":
            return min((prefill_us[p] + decode_us[d] + us, p, d) for us, ps, ds in members for p in ps for d in ds)[1:]
        _, ps, ds = members[-1]
        return _least(prefill_tokens, ps), _least(decode_tokens, ds)

    def _class_pairs(self, call: CallView) -> list[ClassPair]:
        """Return the pairs of classes that can hold the call, the weakest first."""
        model = self._latency
        n, steps = call.prompt_tokens, call.predicted_output_tokens - 1
        prefills = [
            (model.prefill_us(ps[0], n), cp, ps[0])
            for cp, ps in enumerate(self._prefill_groups)
            if ps[0] in call.prefill_candidates
        ]
        pairs = []
        for cd, ds in enumerate(self._decode_groups):
            d = ds[0]
            if d not in call.decode_candidates:
                continue
            decode_us = model.decode_us(d, 1, n + 1, steps) if steps > 0 else 0
            for prefill_us, cp, p in prefills:
                transfer_us = model.wire_us(p, d, n) + model.transfer_latency_us if steps > 0 else 0
                pairs.append((prefill_us + transfer_us + decode_us, cp, cd, transfer_us))
        pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
        return pairs


class _Average:
    """Moving averages of one instance: waiting, µs, and service, µs per token."""

    __slots__ = ("per_token_us", "wait_us")

    def __init__(self) -> None:
        self.wait_us = 0.0
        self.per_token_us = -1.0
        """Below 0: nothing observed."""

    def add(self, weight: float, wait_us: float, per_token_us: float) -> None:
        """Average a new observation in; the first one stands for itself."""
        if self.per_token_us < 0:
            self.wait_us, self.per_token_us = float(wait_us), per_token_us
        else:
            self.wait_us += weight * (wait_us - self.wait_us)
            self.per_token_us += weight * (per_token_us - self.per_token_us)

    def estimate_us(self, tokens: int, model_us: int, waits: bool) -> float:
        """Return waiting and service of so many tokens; ``model_us``: the service, as long as none was observed."""
        service_us = model_us if self.per_token_us < 0 else self.per_token_us * tokens
        return self.wait_us + service_us if waits else service_us


def _least(load: list[int], among: list[int]) -> int:
    return min(among, key=lambda i: (load[i], i))


def _groups(classes: Sequence[int]) -> list[list[int]]:
    return [[i for i, c in enumerate(classes) if c == k] for k in range(max(classes) + 1)]
