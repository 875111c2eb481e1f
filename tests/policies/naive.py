"""Earliest finish and HexAGenT written down from the rules, slow and obvious: nothing is kept, shared or skipped.

What a decode instance holds is a list of calls, and every projection walks over all pairs and over that list again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision
from hexopt.core.view import CallState, CallView, View, WorkflowView
from hexopt.latency import ClusterLatency
from hexopt.policies.labels import relabel

Pair = tuple[int, int, int]
"""(finish, prefill, decode)."""


@dataclass
class Held:
    """A call that a decode instance will have to decode."""

    call: CallView
    finish_us: int
    produced: int

    def leaves(self, now_us: int) -> tuple[int, int, int]:
        return max(now_us, self.finish_us), self.call.workflow.index, self.call.index


class State:
    """A projected cluster: when each prefill instance is free, and what each decode instance holds."""

    def __init__(self, cluster: Cluster, now_us: int) -> None:
        self.cluster = cluster
        self.latency = ClusterLatency(cluster)
        self.now_us = now_us
        self.free = [now_us] * len(cluster.prefill)
        self.held: list[list[Held]] = [[] for _ in cluster.decode]

    @classmethod
    def of(cls, cluster: Cluster, view: View, finish_us: Mapping[int, int], without: Sequence[CallView] = ()) -> State:
        state = cls(cluster, view.now_us)
        gone = {c.key for c in without}
        for p in view.prefill:
            if p.busy_until_us >= 0:
                state.free[p.index] = p.busy_until_us
            for call in p.queue.values():
                if call.key not in gone:
                    state.free[p.index] += state.latency.prefill_us(p.index, call.prompt_tokens)
        for d in view.decode:
            iterations = state.latency.iterations_at(d, view.now_us)
            for call in d.bound.values():
                if call.key in gone or (call.predicted_output_tokens == 1 and call.state <= CallState.PREFILLING):
                    continue
                produced = 1 + iterations - call.joined_iteration if call.state == CallState.RUNNING else 1
                state.held[d.index].append(Held(call, finish_us.get(call.key, view.now_us), produced))
        return state

    def room(self, d: int) -> int:
        return self.cluster.decode[d].kv_tokens // self.cluster.block_tokens

    def used(self, d: int) -> int:
        return sum(h.call.kv_blocks for h in self.held[d])

    def has_room(self, d: int, call: CallView) -> bool:
        """An empty instance has room even for a call that is predicted to be larger than it."""
        return not self.held[d] or self.used(d) + call.kv_blocks <= self.room(d)

    def after_waiting(self, d: int, need: int) -> tuple[int, list[Held]]:
        """When ``need`` more blocks fit, and who is left then."""
        left = sorted(self.held[d], key=lambda h: h.leaves(self.now_us))
        since = 0
        while left and sum(h.call.kv_blocks for h in left) + need > self.room(d):
            since = left.pop(0).leaves(self.now_us)[0]
        return since, left

    def service_us(self, d: int, others: Sequence[Held], call: CallView, iterations: int) -> int:
        spec = self.cluster.decode[d]
        batch = min(len(others) + 1, spec.max_batch)
        context = sum(h.call.prompt_tokens + h.produced for h in others) + call.prompt_tokens + 1
        h_ms = self.latency.iteration_ms(d, batch)
        inner = iterations * context + batch * (iterations * (iterations - 1) // 2)
        return math.ceil(1000 * (iterations * h_ms + spec.latency.b2_ms * inner))

    def prefill_end(self, call: CallView, p: int, release_us: int = 0) -> int:
        return max(self.free[p], release_us) + self.latency.prefill_us(p, call.prompt_tokens)

    def transfer_us(self, call: CallView, p: int, d: int) -> int:
        return self.latency.wire_us(p, d, call.prompt_tokens) + self.cluster.network.latency_us

    def finish(self, call: CallView, p: int, d: int, release_us: int = 0) -> int:
        end = self.prefill_end(call, p, release_us)
        if call.predicted_output_tokens == 1:
            return end
        room_us, others = self.after_waiting(d, call.kv_blocks)
        start = max(end + self.transfer_us(call, p, d), room_us)
        return start + self.service_us(d, others, call, call.predicted_output_tokens - 1)

    def best(self, call: CallView, release_us: int = 0, room_now: bool = False) -> Pair | None:
        found = [
            (self.finish(call, p, d, release_us), p, d)
            for p in call.prefill_candidates
            for d in call.decode_candidates
            if not room_now or call.predicted_output_tokens == 1 or self.has_room(d, call)
        ]
        return min(found) if found else None

    def commit(self, call: CallView, pair: Pair, release_us: int = 0) -> None:
        finish, p, d = pair
        self.free[p] = self.prefill_end(call, p, release_us)
        if call.predicted_output_tokens > 1:
            self.held[d].append(Held(call, finish, 1))


def earliest_finish(cluster: Cluster, view: View, finish_us: dict[int, int]) -> list[Decision]:
    state = State.of(cluster, view, finish_us)
    decisions = []
    for call in view.pool:
        pair = state.best(call)
        assert pair is not None
        state.commit(call, pair)
        finish_us[call.key] = pair[0]
        decisions.append(Decision(call.key, pair[1], pair[2], float(call.ready_us)))
    return decisions


def alone_us(cluster: Cluster, call: CallView) -> int:
    pair = State(cluster, 0).best(call)
    assert pair is not None
    return pair[0]


def horizon_us(cluster: Cluster, workflow: WorkflowView) -> int:
    """List-schedule the revealed part on the idle cluster; what is complete enters with its measured service."""
    alone: dict[int, int] = {}
    last = 1
    open_calls: list[tuple[int, CallView]] = []
    for call in workflow.calls:
        if call.parents:
            tool_us = call.ready_us - max(p.complete_us for p in call.parents)
            release = max(alone[p.index] for p in call.parents) + tool_us
        else:
            release = call.ready_us - workflow.arrival_us
        if call.state != CallState.COMPLETE:
            open_calls.append((release, call))
            continue
        service = call.prefill_end_us - call.prefill_start_us
        if call.join_us >= 0:
            service += (call.transfer_end_us - call.transfer_start_us) + (call.complete_us - call.join_us)
        alone[call.index] = release + service
        last = max(last, alone[call.index])
    open_calls.sort(key=lambda rc: (-(rc[0] + alone_us(cluster, rc[1])), rc[1].key))
    idle = State(cluster, 0)
    for release, call in open_calls:
        pair = idle.best(call, release)
        assert pair is not None
        idle.commit(call, pair, release)
        last = max(last, pair[0])
    return last


@dataclass
class Options:
    small_queue: int = 32
    risk_until: str = "call"
    kv_room: str = "wait"
    replan_queued: bool = True
    decode_priority: bool = True
    decide_ahead: int = 4
    horizon: str = "running"
    priority: str = "risk"
    placement: str = "joint"


Scored = tuple[tuple[float, int, int, int], CallView, Pair]
Ranked = tuple[float, CallView, int, int]
"""(minus the projected ratio, call, prefill, decode)."""


class NaiveHexagent:
    """Every round from scratch; only the finishes projected at placement are remembered."""

    def __init__(self, cluster: Cluster, options: Options) -> None:
        self.cluster = cluster
        self.options = options
        self.finish_us: dict[int, int] = {}

    def plan(self, view: View) -> list[Decision]:
        self.view = view
        self.added: Counter[tuple[str, int]] = Counter()
        waiting = list(view.pool)
        if self.options.replan_queued:
            waiting += [c for p in view.prefill for c in p.queue.values()]
        arrived = [
            c
            for d in view.decode
            if self.options.decode_priority
            and (d.running >= d.max_batch or any(c.state == CallState.ADMISSION for c in d.waiting.values()))
            for c in d.waiting.values()
        ]
        roomless = [c for c in arrived if c.state == CallState.ADMISSION]
        state = State.of(self.cluster, view, self.finish_us, waiting + roomless)
        ranked = self._admission(state, roomless)
        ranked += self._locked(state, [c for c in arrived if c.state != CallState.ADMISSION])
        ranked += self._prefill(state, waiting)
        ranked.sort(key=lambda row: row[0])
        present = [call.priority if call.state != CallState.POOL else math.nan for _, call, _, _ in ranked]
        labels = relabel(present, [call.ready_us for _, call, _, _ in ranked])
        everything = not self.options.decide_ahead or not set(zip(present, labels, strict=True)) & {
            (label, label) for label in labels
        }
        return [
            Decision(call.key, p, d, label)
            for (_, call, p, d), label in zip(ranked, labels, strict=True)
            if (call.prefill, call.decode, call.priority) != (p, d, label)
            and (everything or self._near(ranked, labels, call, p))
        ]

    def _near(self, ranked: list[Ranked], labels: list[float], call: CallView, p: int) -> bool:
        """Whether the next few of an instance depend on it. Calls of the pool and past prefill are always decided."""
        if call.state != CallState.QUEUED:
            return True
        ahead = self.options.decide_ahead
        wanted: dict[int, list[tuple[float, int]]] = {}
        for (_, c, q, _), label in zip(ranked, labels, strict=True):
            if c.state <= CallState.QUEUED:
                wanted.setdefault(q, []).append((label, c.key))
        if call.key in [key for _, key in wanted[p][:ahead]]:
            return True
        here = wanted.get(call.prefill, [])
        return len(here) < ahead or call.priority <= here[ahead - 1][0]

    def horizon_us(self, workflow: WorkflowView) -> int:
        if self.options.horizon == "running":
            return horizon_us(self.cluster, workflow)
        start = workflow.calls[0].ready_us
        first = [alone_us(self.cluster, c) for c in workflow.calls if c.ready_us == start]
        return max(1, start - workflow.arrival_us + max(first))

    def _ratio(self, call: CallView, finish_us: int) -> float:
        return (finish_us - call.workflow.arrival_us) / self.horizon_us(call.workflow)

    def _key(self, call: CallView, finish_us: int) -> tuple[float, int, int, int]:
        if self.options.priority == "ready":
            return float(call.ready_us), call.workflow.arrival_us, call.workflow.index, call.index
        return -self._ratio(call, finish_us), call.workflow.arrival_us, call.workflow.index, call.index

    def _blind_pair(self, state: State, call: CallView) -> Pair:
        p, d = call.prefill, call.decode
        if call.state == CallState.POOL:
            loads = [(v.outstanding_tokens + self.added["prefill", v.index], v.index) for v in self.view.prefill]
            p = min(load for load in loads if load[1] in call.prefill_candidates)[1]
            loads = [(v.outstanding_tokens + self.added["decode", v.index], v.index) for v in self.view.decode]
            d = min(load for load in loads if load[1] in call.decode_candidates)[1]
        return state.finish(call, p, d), p, d

    def _score(self, state: State, call: CallView) -> Scored | None:
        if self.options.placement == "blind":
            pair: Pair | None = self._blind_pair(state, call)
        else:
            pair = state.best(call, room_now=self.options.kv_room == "now")
        if pair is None:
            return None
        until = state.prefill_end(call, pair[1]) if self.options.risk_until == "phase" else pair[0]
        return self._key(call, until), call, pair

    def _score_arrived(self, state: State, call: CallView) -> Scored:
        targets = call.decode_candidates if self.cluster.binding == "handoff" else (call.decode,)
        steps = max(1, call.predicted_output_tokens - 1)
        found = []
        for d in targets:
            room_us, left = state.after_waiting(d, call.kv_blocks)
            start = max(state.now_us + state.transfer_us(call, call.prefill, d), room_us)
            found.append((start + state.service_us(d, left, call, steps), d))
        finish, d = min(found)
        return self._key(call, finish), call, (finish, call.prefill, d)

    def _prefill(self, state: State, waiting: list[CallView]) -> list[Ranked]:
        def commit(call: CallView, pair: Pair) -> None:
            state.commit(call, pair)
            if call.state == CallState.POOL:
                self.added["prefill", pair[1]] += call.prompt_tokens
                self.added["decode", pair[2]] += call.prompt_tokens + call.predicted_output_tokens

        return self._loop(state, waiting, self._score, commit)

    def _admission(self, state: State, calls: list[CallView]) -> list[Ranked]:
        def commit(call: CallView, pair: Pair) -> None:
            state.held[pair[2]].append(Held(call, pair[0], 1))

        return self._loop(state, calls, self._score_arrived, commit)

    def _loop(
        self,
        state: State,
        calls: list[CallView],
        score: Callable[[State, CallView], Scored | None],
        commit: Callable[[CallView, Pair], None],
    ) -> list[Ranked]:
        ranked: list[Ranked] = []
        last = -math.inf
        rows = [row for call in calls if (row := score(state, call)) is not None]
        rescore = len(rows) <= self.options.small_queue
        while rows:
            rows.sort(key=lambda row: row[0])
            (risk, *_), call, pair = rows.pop(0)
            if not rescore:
                # Scored once, but placed where it is best at its turn.
                again = score(state, call)
                if again is None:
                    continue
                pair = again[2]
            commit(call, pair)
            self.finish_us[call.key] = pair[0]
            last = max(risk, last)
            ranked.append((last, call, pair[1], pair[2]))
            if rescore:
                rows = [again for row in rows if (again := score(state, row[1])) is not None]
        return ranked

    def _locked(self, state: State, calls: list[CallView]) -> list[Ranked]:
        """Calls that have their room: they decode beside all the others that their instance holds."""
        rows = []
        for call in calls:
            d = call.decode
            others = [h for h in state.held[d] if h.call is not call]
            service = state.service_us(d, others, call, max(1, call.predicted_output_tokens - 1))
            arrive = max(state.now_us, call.transfer_start_us + state.transfer_us(call, call.prefill, d))
            rows.append((self._key(call, arrive + service), call))
        rows.sort(key=lambda row: row[0])
        return [(key[0], call, call.prefill, call.decode) for key, call in rows]
