"""``kairos``: agents by their learned remaining latency, calls to where memory will peak lowest (arXiv 2508.06948).

Three parts. The *orchestrator* learns for each agent how long an application goes on from its calls. The *scheduler*
compares these distributions by their Wasserstein distances, puts the agents on a line by multidimensional scaling,
together with an ideal agent that has nothing left to do, and serves the nearest to it first; inside an agent the oldest
application goes first. The *dispatcher* sends a call to the instance whose predicted memory peaks lowest while the call
would run, in slots of half a second.

What the source has and this engine lacks: its agents are named by the application, while a view knows where a call
stands in its workflow only (``agent`` says what is made of that); it is told when an application ends, and here one
that stays silent is taken to have ended (one that goes on later has left samples that are too short); and its
instances do both phases, while here it only chooses the decode instance, and the prefill instance is the one with the
fewest outstanding tokens. Calls are placed at once and wait, in order, in the queues of their instances.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.errors import ConfigError
from hexopt.policies.bookkeeping import (
    Completions,
    Stage,
    StageKey,
    Stages,
    alone_us,
    ranked,
    reorder,
    service_us,
)
from hexopt.policies.dispatch import FewestOutstanding
from hexopt.policies.memory import MemoryForecast
from hexopt.policies.open_calls import by_key

Array = npt.NDArray[np.float64]

QUANTILES = 32
"""Distributions are compared by so many quantiles."""


class Kairos(BasePolicy):
    """Shortest learned remaining latency first, by agent; lowest predicted memory peak.

    Parameters
    ----------
    agent
        What makes an agent: ``"app"``, the application; ``"root"``, that and whether the call has parents;
        ``"depth"``, that and the call's depth in the revealed DAG (0, 1, 2 to 3, 4 to 7, ...).
    remaining
        What is learned: ``"execution"``, the longest path of service and tool times from the call on, without
        queueing; or ``"elapsed"``, the time from the call's becoming ready to the end of its workflow.
    ranking
        ``"scaling"``, by coordinates from multidimensional scaling; or ``"distance"``, by the Wasserstein distance to
        the ideal agent alone, which is the mean.
    unknown
        Whether an agent without samples goes ``"first"`` or ``"last"``.
    samples
        Number of latest samples of an agent that make its distribution, at least 1.
    settle_ms
        A workflow without open calls for so long is taken to have ended.
    rank_ms
        Time between two rankings of the agents, where there are new samples; waiting calls are reordered then.
    slot_ms
        Length of a slot of the memory forecast (the source: 500).
    memory
        What a call is expected to hold: ``"ramp"``, its prompt and the tokens produced until then; or ``"reserved"``,
        prompt and predicted output from the start, as this engine reserves.
    peak
        What makes a peak the lowest: its ``"share"`` of the instance's KV capacity, or its ``"tokens"``.
    """

    name: ClassVar[str] = "kairos"
    triggers = frozenset((Trigger.CALL_READY, Trigger.CALL_COMPLETE))

    def __init__(
        self,
        *,
        plan_latency_us: PlanLatency = 0,
        fallback: Policy | None = None,
        agent: StageKey = "depth",
        remaining: Literal["execution", "elapsed"] = "execution",
        ranking: Literal["scaling", "distance"] = "scaling",
        unknown: Literal["first", "last"] = "first",
        samples: int = 256,
        settle_ms: int = 1000,
        rank_ms: int = 1000,
        slot_ms: int = 500,
        memory: Literal["ramp", "reserved"] = "ramp",
        peak: Literal["share", "tokens"] = "share",
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        for what, value in (("samples", samples), ("slot_ms", slot_ms)):
            if value < 1:
                raise ConfigError(f"policy 'kairos': option '{what}' is {value}, at least 1 is needed, raise it")
        self.agent = agent
        self.remaining = remaining
        self.ranking = ranking
        self.unknown = unknown
        self.samples = samples
        self.settle_ms = settle_ms
        self.rank_ms = rank_ms
        self.slot_ms = slot_ms
        self.memory = memory
        self.peak = peak

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget all agents."""
        self._latency = latency
        self._stages = Stages(self.agent)
        self._completions = Completions()
        self._agents: dict[Stage, _Agent] = {}
        self._settling: list[tuple[int, int, CallView]] = []
        self._ranks: dict[Stage, int] = {}
        self._ranked_us = 0
        self._learnt = False
        rooms = [d.kv_tokens if self.peak == "share" else 1 for d in cluster.decode]
        self._forecast = MemoryForecast(rooms, 1000 * self.slot_ms, ramp=self.memory == "ramp")

    def plan(self, view: View) -> Plan:
        """Place new calls; where the agents' order has changed, reorder the waiting ones."""
        now = view.now_us
        for call in self._completions.new(view):
            self._learn(call)
        self._settle(now)
        self._forecast.advance(now, self._completions.open)
        decisions = []
        if self.plan_latency_us:
            for call in self._completions.adopt(view):
                self._forecast.place(call, call.decode, now, self._expected_us(call))
                decisions.extend(reorder(call, self._priority(call)))
        if self._learnt and now - self._ranked_us >= 1000 * self.rank_ms and self._rank(now):
            decisions = self._reorder(view)
        dispatch = FewestOutstanding(view)
        for call in view.pool:
            decisions.append(self._place(call, now, dispatch))
        return Plan(decisions)

    def _place(self, call: CallView, now_us: int, dispatch: FewestOutstanding) -> Decision:
        expected_us = self._expected_us(call)
        d = self._forecast.lowest(call, now_us, expected_us)
        self._forecast.place(call, d, now_us, expected_us)
        self._completions.add(call)
        return dispatch.place_at(call, self._priority(call), -1, d)

    def _priority(self, call: CallView) -> float:
        rank = self._ranks.get(self._stages.of(call))
        if rank is None:
            rank = 0 if self.unknown == "first" else len(self._ranks) + 1
        return ranked(rank, call.workflow.arrival_us)

    def _reorder(self, view: View) -> list[Decision]:
        decisions = []
        for call in by_key([*(p.queue for p in view.prefill), *(d.waiting for d in view.decode)]):
            decisions.extend(reorder(call, self._priority(call)))
        return decisions

    # -- what is learned

    def _agent(self, call: CallView) -> _Agent:
        stage = self._stages.of(call)
        agent = self._agents.get(stage)
        if agent is None:
            agent = self._agents[stage] = _Agent(self.samples)
        return agent

    def _expected_us(self, call: CallView) -> int:
        """How long the call will run: the mean of its agent, or an estimate before there is one."""
        return self._agent(call).mean_service_us or alone_us(self._latency, call)

    def _learn(self, call: CallView) -> None:
        agent = self._agent(call)
        agent.completed += 1
        agent.service_us += service_us(call)
        self._forecast.remove(call)
        heapq.heappush(self._settling, (call.complete_us + 1000 * self.settle_ms, call.key, call))

    def _settle(self, now_us: int) -> None:
        """Take samples of the workflows that have been silent for long enough."""
        while self._settling and self._settling[0][0] <= now_us:
            last = heapq.heappop(self._settling)[2]
            calls = last.workflow.calls
            if any(_is_open_after(c, last) for c in reversed(calls)):
                continue  # it goes on, or a later completion decides
            for call, us in self._remaining(calls, last.complete_us):
                self._agent(call).remaining_us.append(us)
            self._learnt = True

    def _remaining(self, calls: list[CallView], end_us: int) -> list[tuple[CallView, int]]:
        """Return what remained after each call of a workflow was revealed, of those after its last silence."""
        first, until_us = 0, -1
        for i, call in enumerate(calls):
            if until_us >= 0 and call.ready_us - until_us >= 1000 * self.settle_ms:
                first = i
            until_us = max(until_us, call.complete_us)
        if self.remaining == "elapsed":
            return [(c, end_us - c.ready_us) for c in calls[first:]]
        after_us: dict[int, int] = {}
        found = []
        for call in reversed(calls[first:]):
            us = service_us(call) + after_us.get(call.key, 0)
            found.append((call, us))
            if call.parents:
                us += call.ready_us - max(p.complete_us for p in call.parents)
                for parent in call.parents:
                    after_us[parent.key] = max(after_us.get(parent.key, 0), us)
        return found[::-1]

    def _rank(self, now_us: int) -> bool:
        """Rank the agents anew; return whether their order has changed."""
        self._ranked_us = now_us
        self._learnt = False
        known = {stage: a for stage, a in self._agents.items() if a.remaining_us}
        quantiles = np.array([a.quantiles() for a in known.values()])
        away = quantiles.mean(axis=1) if self.ranking == "distance" else away_from_ideal(quantiles)
        # Equal up to rounding is equal: the last bits depend on the installation.
        steps = np.round(away / max(float(away.max()), 1.0) * 1e6)
        ranks = np.unique(steps, return_inverse=True)[1]
        before = self._ranks
        self._ranks = {stage: int(rank) + 1 for stage, rank in zip(known, ranks, strict=True)}
        return self._ranks != before


def _is_open_after(call: CallView, last: CallView) -> bool:
    """Say whether a call was open when ``last`` had completed; of calls of one instant the later revealed is last."""
    return call.state != CallState.COMPLETE or (call.complete_us, call.key) > (last.complete_us, last.key)


class _Agent:
    """What is known of an agent: its calls' service, and the latest samples of what remained, µs."""

    __slots__ = ("completed", "remaining_us", "service_us")

    def __init__(self, samples: int) -> None:
        self.completed = 0
        self.service_us = 0
        self.remaining_us: deque[int] = deque(maxlen=samples)

    @property
    def mean_service_us(self) -> int:
        """0 before the first."""
        return self.service_us // self.completed if self.completed else 0

    def quantiles(self) -> list[int]:
        """Return the remaining times in the middles of equal shares."""
        ordered = sorted(self.remaining_us)
        n = len(ordered)
        return [ordered[(2 * i + 1) * n // (2 * QUANTILES)] for i in range(QUANTILES)]


def away_from_ideal(quantiles: Array) -> Array:
    """Return how far agents lie from the ideal one (all zero) on a line that keeps Wasserstein distances best.

    Parameters
    ----------
    quantiles
        Shape (agents, quantiles), each row increasing, so that the mean absolute difference of two rows is the
        Wasserstein distance (of order 1) of their distributions.

    Returns
    -------
    Shape (agents,), at least 0. The line is that of classical multidimensional scaling; where several are equally
    good, the one nearest to the distances from the ideal agent.
    """
    rows = np.vstack([np.zeros(quantiles.shape[1]), quantiles])
    distance = np.abs(rows[:, None, :] - rows[None, :, :]).mean(axis=2)
    centred = np.eye(len(rows)) - 1 / len(rows)
    values, vectors = np.linalg.eigh(-0.5 * centred @ distance**2 @ centred)
    best = vectors[:, values >= values[-1] * (1 - 1e-9)]
    line = best @ (best.T @ (distance[0] - distance[0].mean()))
    length = float(np.sqrt(line @ line))
    if values[-1] <= 0 or length <= 1e-9 * float(distance.max()):
        line = distance[0]
    else:
        line *= np.sqrt(values[-1]) / length
    away: Array = np.abs(line[1:] - line[0])
    return away
