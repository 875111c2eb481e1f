"""``cortex``: one pool of instances for each workflow stage (Cortex, arXiv 2510.14126).

The source isolates stages: each has a pool with its own queue; the orchestrator ranks a request by its SLO slack, by
how likely its stage is to be the last (its selectivity) and by expected service times; only the pool that threatens the
SLO is scaled, pools on the critical path weigh more, idle pools lend when their load and their memory pressure are both
low; inside a pool requests go where their state is; a bottleneck stage has admission control. It has three pages and no
formulas: each formula below is ours, and its numbers are options.

- *Work* of a stage: tokens revealed of it (prompts in the prefill pools, predicted outputs in the decode pools), halved
  every ``work_half_life_s``, times ``1 + (critical_weight − 1) · share``, where ``share`` is how often a call of the
  stage was the last parent for which a child waited. When a new stage appears all pools are provisioned anew, in
  proportion to that and with at least one instance each; see :mod:`hexopt.policies.pools`.
- *Expected service*: mean service of the stage's completed calls; *next*: its share of calls that had a child, times
  those children's expected service.
- *Due*: arrival + ``slo_scale`` × (what the call's longest path and the expected service and next take alone).
- *Slack* at time t: due − t − expected service − next. The key is slack / expected service, read off in classes: below
  0, 1, 2, 4, 8, and above; inside a class the call that must start first. A waiting call moves up at the instant at
  which its key falls below a limit.
- A pool *threatens* the SLO if a new call would wait for longer than its slack on each of its instances (prefill
  backlog; for decode, no room for KV or in the batch, or the slowdown of that batch), or if a waiting call's key has
  fallen below 0.
- *Admission control*: at ``admit_calls`` unfinished calls for each decode instance of its pool, a stage's further calls
  are held back, least slack first. (With a plan latency, a fallback places those revealed while a plan is in flight.)

What the source has and this engine lacks: stages have names there, while a view knows only where a call stands in its
workflow; pools' gain is a better use of the KV cache, which version 1 of the engine does not model, so that isolation
mostly costs here; and instances do not start and stop: pools are scaled by moving instances between them. Each pool
has one queue there; here calls queue at an instance, and spread anew over their prefill pool when it gains one.
"""

from __future__ import annotations

import heapq
from math import inf
from typing import ClassVar, NamedTuple

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.errors import ConfigError
from hexopt.policies.bookkeeping import (
    Alarms,
    Completions,
    Stage,
    StageKey,
    Stages,
    alone_us,
    fold,
    ranked,
    reorder,
    service_us,
)
from hexopt.policies.dispatch import FewestOutstanding
from hexopt.policies.pools import Pools

LIMITS = (0, 1, 2, 4, 8)
"""Of the key: the classes end there."""

_CONTINUED_LIMIT = 2**16

BUSY_US = 1_000_000
"""A prefill instance with so much work ahead counts as fully loaded."""


class Cortex(BasePolicy):
    """A pool for each stage; least slack per service first.

    Parameters
    ----------
    stage
        What makes a stage: ``"app"``, the application; ``"root"``, that and whether the call has parents;
        ``"depth"``, that and the call's depth in the revealed DAG (0, 1, 2 to 3, 4 to 7, ...).
    slo_scale
        A workflow is due after so many times what it takes alone, as far as it is revealed and expected.
    critical_weight
        Weight of the work of a stage that is always on the critical path; one that never is weighs 1.
    work_half_life_s
        Time after which work counts half; 0 for never.
    lend_below
        An instance may be lent if its load and its memory in use have both been below this share for ``lend_after_s``.
        Load is the share of the batch in use; of a prefill instance, the work ahead in seconds.
    lend_after_s
        For how long they must have been.
    locality
        Whether a call goes to the instances of its last parent of the same stage, if these are in its pool and have at
        most twice the least outstanding tokens in it; others go to the least.
    admit_calls
        Unfinished calls for each decode instance of a pool from which on further ones are held back; 0 for no limit.
    """

    name: ClassVar[str] = "cortex"
    triggers = frozenset((Trigger.CALL_READY, Trigger.CALL_COMPLETE, Trigger.WAKE_UP))

    def __init__(
        self,
        *,
        plan_latency_us: PlanLatency = 0,
        fallback: Policy | None = None,
        stage: StageKey = "root",
        slo_scale: float = 3.0,
        critical_weight: float = 2.0,
        work_half_life_s: float = 60.0,
        lend_below: float = 0.5,
        lend_after_s: float = 30.0,
        locality: bool = True,
        admit_calls: int = 64,
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        for what, value, least in (
            ("slo_scale", slo_scale, 1),
            ("critical_weight", critical_weight, 1),
            ("work_half_life_s", work_half_life_s, 0),
            ("lend_after_s", lend_after_s, 0),
        ):
            if value < least:
                raise ConfigError(f"policy 'cortex': option '{what}' is {value}, at least {least} is needed, raise it")
        self.stage = stage
        self.slo_scale = slo_scale
        self.critical_weight = critical_weight
        self.work_half_life_s = work_half_life_s
        self.lend_below = lend_below
        self.lend_after_s = lend_after_s
        self.locality = locality
        self.admit_calls = admit_calls

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget all stages."""
        self._latency = latency
        self._stage_key = Stages(self.stage)
        self._numbers: dict[Stage, int] = {}
        self._stages: list[_Stage] = []
        self._alone_us: dict[int, int] = {}
        self._completions = Completions()
        self._alarms = Alarms()
        self._urgency: dict[int, _Urgency] = {}
        self._held: dict[int, CallView] = {}
        self._continued: set[int] = set()
        lend_after_us = round(self.lend_after_s * 1e6)
        self.prefill_pools = Pools(len(cluster.prefill), self.lend_below, lend_after_us)
        self.decode_pools = Pools(len(cluster.decode), self.lend_below, lend_after_us)
        self._halved_us = 0

    def plan(self, view: View) -> Plan:
        """Take in what happened, place new calls and those held back that may go, and lift those that became urgent."""
        now = view.now_us
        for call in self._completions.new(view):
            self._stage(call).complete(call)
            self._urgency.pop(call.key, None)
        self._halve(now)
        adopted = self._adopt(view)
        new = self._new_calls(view)
        known = len(self._stages)
        for call in (*adopted, *new):
            if call.key not in self._urgency:
                self._reveal(call)
        if len(self._stages) > known:
            self.prefill_pools.partition(self._weights(prefill=True))
            self.decode_pools.partition(self._weights(prefill=False))
        round_ = _Round(self, view)
        for call in adopted:
            round_.reorder(call, self._priority(call, now))
        for call in new:
            self._held[call.key] = call
            heapq.heappush(self._stage(call).held, (self._urgency[call.key].latest_us, call.key, call))
        for call in self._alarms.due(now):
            if call.key in self._urgency:
                round_.reorder(call, self._priority(call, now))
                if self.slack_us(call, now) < 0:
                    round_.relieve(call, self._number(call))
        self._admit(round_, now)
        return Plan(list(round_.decisions.values()), self._alarms.wake_us(now))

    def _admit(self, round_: _Round, now_us: int) -> None:
        """Place the calls that admission control lets pass, by stage."""
        for number, stage in enumerate(self._stages):
            while stage.held and round_.admits(number):
                call = heapq.heappop(stage.held)[2]
                if self._held.pop(call.key, None) is not None:
                    self._completions.add(call)
                    round_.place(call, number, self._priority(call, now_us))

    def _adopt(self, view: View) -> list[CallView]:
        """Return the calls that a fallback placed: those held back before, whoever charges the plan latency."""
        taken = [call for call in self._held.values() if call.state != CallState.POOL]
        for call in taken:
            del self._held[call.key]
            self._completions.add(call)
        return [*taken, *self._completions.adopt(view)] if self.plan_latency_us else taken

    def _new_calls(self, view: View) -> list[CallView]:
        """Return the calls of the pool that are not held back. They are the latest: the others are not looked at."""
        new: list[CallView] = []
        count = len(view.pool) - len(self._held)
        for call in reversed(view.pool):
            if len(new) == count:
                break
            if call.key not in self._held:
                new.append(call)
        return new[::-1]

    # -- urgency

    def _priority(self, call: CallView, now_us: int) -> float:
        """Return the priority now; look at the call again when its key falls into the next class."""
        latest_us, expected_us = self._urgency[call.key]
        class_ = sum(latest_us - now_us >= limit * expected_us for limit in LIMITS)
        if class_:
            self._alarms.set(latest_us - LIMITS[class_ - 1] * expected_us + 1, call)
        return ranked(class_, latest_us)

    def slack_us(self, call: CallView, now_us: int) -> int:
        """Return for how long an open call could still wait."""
        return self._urgency[call.key].latest_us - now_us

    def _judge(self, call: CallView) -> _Urgency:
        stage = self._stage(call)
        workflow = call.workflow
        if call.parents:
            alone = max([fold(p, self._alone_us, self._alone) for p in call.parents])
            alone += call.ready_us - max([p.complete_us for p in call.parents])
        else:
            alone = call.ready_us - workflow.arrival_us
        expected = stage.mean_service_us or alone_us(self._latency, call)
        left = expected + stage.next_us
        due = workflow.arrival_us + round(self.slo_scale * (alone + left))
        return _Urgency(due - left, expected)

    @staticmethod
    def _alone(call: CallView, parents_us: int) -> int:
        """When a completed call would have completed without waiting, µs after its workflow's arrival."""
        if not call.parents:
            return call.ready_us - call.workflow.arrival_us + service_us(call)
        return parents_us + call.ready_us - max([p.complete_us for p in call.parents]) + service_us(call)

    # -- stages

    def _number(self, call: CallView) -> int:
        key = self._stage_key.of(call)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._stages)
            self._stages.append(_Stage())
        return number

    def _stage(self, call: CallView) -> _Stage:
        return self._stages[self._number(call)]

    def _reveal(self, call: CallView) -> None:
        """Take in a new call: its stage's work, what its parents were for it, and its own urgency."""
        stage = self._stage(call)
        stage.prompt_tokens += call.prompt_tokens
        stage.output_tokens += call.predicted_output_tokens
        if call.parents:
            gate = max(call.parents, key=lambda p: (p.complete_us, p.key))
            self._stage(gate).gated += 1
            if len(self._continued) > _CONTINUED_LIMIT:
                self._continued.clear()  # some calls count twice then
            for parent in call.parents:
                before = self._stage(parent)
                before.parented += 1
                if parent.key not in self._continued:
                    self._continued.add(parent.key)
                    before.continued += 1
                    before.children_us += stage.mean_service_us or alone_us(self._latency, call)
        self._urgency[call.key] = self._judge(call)

    def _halve(self, now_us: int) -> None:
        if not self.work_half_life_s:
            return
        period_us = max(1, round(self.work_half_life_s * 1e6))
        lives = (now_us - self._halved_us) // period_us
        if lives:
            self._halved_us += lives * period_us
            for stage in self._stages:
                stage.prompt_tokens *= 0.5 ** min(lives, 1000)
                stage.output_tokens *= 0.5 ** min(lives, 1000)

    def _weights(self, *, prefill: bool) -> list[float]:
        """Work of each stage, weighed by how critical it is."""
        extra = self.critical_weight - 1
        return [
            max(1.0, s.prompt_tokens if prefill else s.output_tokens) * (1 + extra * s.critical_share)
            for s in self._stages
        ]


class _Urgency(NamedTuple):
    """When a call must start to be done in time, and its expected service, µs."""

    latest_us: int
    expected_us: int


class _Stage:
    """What is known of a stage."""

    __slots__ = (
        "children_us",
        "completed",
        "continued",
        "gated",
        "held",
        "output_tokens",
        "parented",
        "prompt_tokens",
        "service_us",
    )

    def __init__(self) -> None:
        self.prompt_tokens = 0.0
        self.output_tokens = 0.0
        self.completed = 0
        self.service_us = 0
        self.continued = 0
        """Calls that had a child."""
        self.children_us = 0
        """Sum of what the first children of these were expected to take."""
        self.parented = 0
        """Pairs of a call and a child."""
        self.gated = 0
        """Those of them in which the call was the last parent."""
        self.held: list[tuple[int, int, CallView]] = []

    def complete(self, call: CallView) -> None:
        self.completed += 1
        self.service_us += service_us(call)

    @property
    def mean_service_us(self) -> int:
        """0 before the first."""
        return self.service_us // self.completed if self.completed else 0

    @property
    def next_us(self) -> int:
        """Expected service after a call: that of a child, times how likely one is (1 minus the selectivity)."""
        return self.children_us // max(self.completed, self.continued, 1)

    @property
    def critical_share(self) -> float:
        """How often a child waited for the stage; 1 where that is unknown."""
        return self.gated / self.parented if self.parented else 1.0


class _Round:
    """One invocation: loads as they grow with the calls placed."""

    def __init__(self, policy: Cortex, view: View) -> None:
        self._policy = policy
        self._now_us = now = view.now_us
        self.decisions: dict[int, Decision] = {}
        self._placed: list[CallView] = []
        self._latency = policy._latency
        self._view = view
        self._backlog_us = [max(now, p.busy_until_us) - now + p.queued_us for p in view.prefill]
        self._decoding = [d.decoding for d in view.decode]
        self._blocks = [d.decoding_blocks for d in view.decode]
        self._bound = [len(d.bound) for d in view.decode]
        self._dispatch = FewestOutstanding(view)
        policy.prefill_pools.watch(
            [
                (us / BUSY_US, p.kv_used_blocks / max(1, p.kv_capacity_blocks))
                for us, p in zip(self._backlog_us, view.prefill, strict=True)
            ],
            now,
        )
        policy.decode_pools.watch(
            [(d.decoding / d.max_batch, d.decoding_blocks / max(1, d.kv_capacity_blocks)) for d in view.decode], now
        )

    def admits(self, stage: int) -> bool:
        """Say whether one more call of a stage may be placed."""
        limit = self._policy.admit_calls
        members = self._policy.decode_pools.members(stage)
        return not limit or not members or sum([self._bound[d] for d in members]) < limit * len(members)

    def reorder(self, call: CallView, priority: float) -> None:
        """Give a placed call another priority."""
        for decision in reorder(call, priority):
            self.decisions[call.key] = decision

    def relieve(self, call: CallView, stage: int) -> None:
        """Scale the pool in which a placed call has become late."""
        if call.state == CallState.QUEUED:
            self._strengthen_prefill(call, stage)
        elif call.state in (CallState.ADMISSION, CallState.TRANSFERRED):
            self._strengthen_decode(call, stage)

    def place(self, call: CallView, stage: int, priority: float) -> None:
        """Place a call in its pools; scale them if it threatens its SLO there."""
        pools = self._policy.prefill_pools, self._policy.decode_pools
        slack_us = max(0, self._policy.slack_us(call, self._now_us))
        if min([self._backlog_us[p] for p in pools[0].members(stage)], default=inf) > slack_us:
            self._strengthen_prefill(call, stage)
        if min([self._decode_wait_us(d, call) for d in pools[1].members(stage)], default=inf) > slack_us:
            self._strengthen_decode(call, stage)
        decision = self._dispatch.place_among(
            call, priority, pools[0].members(stage), pools[1].members(stage), self._near(call)
        )
        self.decisions[call.key] = decision
        self._placed.append(call)
        p, d = decision.prefill, decision.decode
        self._backlog_us[p] += self._latency.prefill_us(p, call.prompt_tokens)
        self._bound[d] += 1
        if call.predicted_output_tokens > 1:
            self._decoding[d] += 1
            self._blocks[d] += call.kv_blocks

    def _strengthen_decode(self, call: CallView, stage: int) -> None:
        policy = self._policy
        weights = policy._weights(prefill=False)
        policy.decode_pools.strengthen(stage, weights, self._blocks, call.decode_candidates, self._now_us)

    def _strengthen_prefill(self, call: CallView, stage: int) -> None:
        """Scale a prefill pool and let its queued calls spread over it, as they would if its queue were one."""
        policy = self._policy
        pools = policy.prefill_pools
        weights = policy._weights(prefill=True)
        if pools.strengthen(stage, weights, self._backlog_us, call.prefill_candidates, self._now_us) < 0:
            return
        members = pools.members(stage)
        pool = pools.pool_of[stage]
        waiting = [
            c for p in members for c in self._view.prefill[p].queue.values() if pools.pool_of[policy._number(c)] == pool
        ]
        waiting.extend(c for c in self._placed if pools.pool_of[policy._number(c)] == pool)
        now: dict[int, Decision] = {
            c.key: self.decisions.get(c.key, Decision(c.key, c.prefill, c.decode, c.priority)) for c in waiting
        }
        waiting.sort(key=lambda c: (now[c.key].priority, c.ready_us, c.workflow.index, c.index))
        for c in waiting:
            p = now[c.key].prefill
            self._backlog_us[p] -= self._latency.prefill_us(p, c.prompt_tokens)
        for c in waiting:
            some = [p for p in members if p in c.prefill_candidates] or [now[c.key].prefill]
            p = min(some, key=lambda p: (self._backlog_us[p], p))
            self._backlog_us[p] += self._latency.prefill_us(p, c.prompt_tokens)
            if p != now[c.key].prefill:
                self._dispatch.move(c, now[c.key].prefill, p)
                self.decisions[c.key] = now[c.key]._replace(prefill=p)

    def _decode_wait_us(self, d: int, call: CallView) -> float:
        """What the call would lose on a decode instance: all, without room, or what others in the batch slow it by."""
        if call.predicted_output_tokens <= 1:
            return 0.0
        view = self._view.decode[d]
        batch = self._decoding[d] + 1
        if self._blocks[d] + call.kv_blocks > view.kv_capacity_blocks or batch > view.max_batch:
            return inf
        slower_ms = self._latency.iteration_ms(d, batch) - self._latency.iteration_ms(d, 1)
        return 1000 * slower_ms * (call.predicted_output_tokens - 1)

    def _near(self, call: CallView) -> tuple[int, int]:
        """Return where the call's last parent of the same stage ran, (-1, -1) without one."""
        policy = self._policy
        if policy.locality and call.parents:
            number = policy._number(call)
            same = [p for p in call.parents if policy._number(p) == number]
            if same:
                last = max(same, key=lambda p: (p.complete_us, p.key))
                return last.prefill, last.decode
        return -1, -1
