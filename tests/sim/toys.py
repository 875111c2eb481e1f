"""Small traces and clusters whose times can be added up by hand, and policies made of one function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

import hexopt
from hexopt.core.cluster import Cluster
from hexopt.core.plan import NO_PLAN, Decision, Plan
from hexopt.core.protocols import LatencyModel, Predictor
from hexopt.core.view import CallView, Trigger, View

Act = Callable[[View], Plan | Iterable[Decision]]


class Acting:
    """A policy that is one function of the view; it has the protocol and nothing more."""

    name: ClassVar[str] = "acting"

    def __init__(self, act: Act, **attributes: Any) -> None:
        self.act = act
        self.views: list[int] = []
        for key, value in attributes.items():
            setattr(self, key, value)

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        self.views = []

    def plan(self, view: View) -> Plan:
        self.views.append(view.now_us)
        answer = self.act(view)
        return answer if isinstance(answer, Plan) else Plan(list(answer))


def first(call: CallView, priority: float | None = None) -> Decision:
    """Place a call on the first pair, or re-prioritise it where it is."""
    p, d = max(call.prefill, 0), max(call.decode, 0)
    return Decision(call.key, p, d, float(call.ready_us) if priority is None else priority)


def place_all(view: View) -> Iterable[Decision]:
    return [first(call) for call in view.pool]


def nothing(view: View) -> Plan:
    return NO_PLAN


def flows(*calls: tuple[int, int, int], app: str = "a") -> hexopt.Trace:
    """One workflow of one call for each (arrival µs, prompt, output)."""
    return hexopt.Trace(
        tuple(
            hexopt.Workflow(f"w{i}", app, arrival, (hexopt.Call("c", (), prompt, output),))
            for i, (arrival, prompt, output) in enumerate(calls)
        )
    )


def chain(*outputs: int, tool_us: int = 0, app: str = "a") -> hexopt.Workflow:
    return hexopt.Workflow(
        "chain",
        app,
        0,
        tuple(hexopt.Call(f"c{i}", (i - 1,) if i else (), 100, m, tool_us) for i, m in enumerate(outputs)),
    )


def run(
    trace: hexopt.Trace, cluster: Cluster, act: Act | Any, predictor: str | Predictor = "oracle", **more: Any
) -> Any:
    policy = Acting(act) if callable(act) else act
    return hexopt.simulate(trace, cluster, policy, predictor=predictor, **more)


WAKE = frozenset((Trigger.CALL_READY, Trigger.WAKE_UP))
