"""How much work is a call? Its predicted service without queueing, in tokens or at the mean speed of the cluster.

Policies that only rank calls (laxity, shortest job) need one number a call, whatever instance it will meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from hexopt.core.protocols import LatencyModel
from hexopt.core.view import CallView

MeanOver = Literal["types", "instances"]
Measure = Literal["tokens", "output", "time"]

Parts = Callable[[CallView], tuple[float, float]]
"""A call's predicted work (up to the end of its prefill, after it)."""


class MeanService:
    """Service times of a call alone, µs, in the mean over the instances that can hold it.

    ``over``: ``"types"`` counts each type of instance once, ``"instances"`` each instance. Times are remembered by
    lengths: what an instance can hold depends on them alone.
    """

    def __init__(self, latency: LatencyModel, over: MeanOver = "types") -> None:
        self._latency = latency
        self._prefill = _weights(latency.prefill_class, over)
        self._decode = _weights(latency.decode_class, over)
        self._prefill_us: dict[int, float] = {}
        self._after_us: dict[tuple[int, int, int], float] = {}

    def prefill_us(self, call: CallView) -> float:
        """Return the mean prefill time of the call."""
        n = call.prompt_tokens
        us = self._prefill_us.get(n)
        if us is None:
            rows = [(w, self._latency.prefill_us(p, n)) for p, w in self._prefill if p in call.prefill_candidates]
            us = self._prefill_us[n] = _mean(rows)
        return us

    def after_us(self, call: CallView) -> float:
        """Return the mean time of the call's KV transfer and decode; 0 if it is predicted to have one token."""
        n, m = call.prompt_tokens, call.predicted_output_tokens
        if m <= 1:
            return 0.0
        key = n, m, len(call.decode_candidates)
        us = self._after_us.get(key)
        if us is None:
            model = self._latency
            decodes = [(d, w) for d, w in self._decode if d in call.decode_candidates]
            wires = [
                (v * w, model.wire_us(p, d, n) + model.transfer_latency_us)
                for p, v in self._prefill
                if p in call.prefill_candidates
                for d, w in decodes
            ]
            us = _mean(wires) + _mean([(w, model.decode_us(d, 1, n + 1, m - 1)) for d, w in decodes])
            self._after_us[key] = us
        return us

    def total_us(self, call: CallView) -> float:
        """Return the mean time of the call from prefill to completion."""
        return self.prefill_us(call) + self.after_us(call)


def work_parts(measure: Measure, latency: LatencyModel) -> Parts:
    """Return what a call's work is under a measure.

    ``"tokens"``: its prompt, then its predicted output. ``"output"``: its predicted output. ``"time"``: its service
    time at mean-type speed, µs.
    """
    if measure == "time":
        mean = MeanService(latency)
        return lambda call: (mean.prefill_us(call), mean.after_us(call))
    if measure == "output":
        return lambda call: (0, call.predicted_output_tokens)
    return lambda call: (call.prompt_tokens, call.predicted_output_tokens)


def _weights(classes: Sequence[int], over: MeanOver) -> list[tuple[int, int]]:
    """Return (first instance, weight) of each class of equal instances."""
    return [(classes.index(c), 1 if over == "types" else classes.count(c)) for c in range(max(classes) + 1)]


def _mean(rows: list[tuple[int, int]]) -> float:
    return sum(w * us for w, us in rows) / sum(w for w, _ in rows)
