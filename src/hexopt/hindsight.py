"""What a search with full knowledge does call by call: placement that counts what it costs others, and single changes.

:class:`Considerate` places a call where all workflows together suffer least. :class:`Assigned` carries out an instance
and a priority for every call. :class:`Changes` proposes better ones, from what made the worst workflows late.
:mod:`hexopt.offline` searches with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel
from hexopt.core.view import CallState, CallView, DecodeView, PrefillView, Trigger, View
from hexopt.formulations.bounds import Problem
from hexopt.latency import ClusterLatency

if TYPE_CHECKING:
    from hexopt.core.cluster import Cluster
    from hexopt.sim.result import RunResult

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Waiting = tuple[float, int, float]
"""A call queued for prefill: (due, prefill time, weight)."""

Decoding = tuple[int, float]
"""A call on a decode instance: (iterations that it still needs, weight)."""


def first_calls(problem: Problem) -> Ints:
    """Return, shape (W + 1,), the number of each workflow's first call in trace order, and of all calls."""
    return np.concatenate([[0], np.cumsum([len(w.calls) for w in problem.trace.workflows])]).astype(np.int64)


class Considerate(BasePolicy):
    """Places a call once, when it is ready, where it delays the workflows the least: its own and those beside it.

    A pair costs weight · (its finish − now), plus what the calls that would queue behind it, and those in its decode
    batch, lose, at their weights. The weight of a call is its share of its workflow's paths over the due ratio times
    the standalone latency: what a delay of 1 µs adds to the ratio, against its target. Queues are kept in order of the
    latest start that meets the due ratio.

    Parameters
    ----------
    problem
        The trace, its remaining times and standalone latencies.
    due_ratio
        Shape (W,): the ratio at which each workflow is due.
    care
        What others' delays count against the call's own; 0 is earliest-finish.
    stretch
        What follows a call is reckoned to take so many times what it takes alone.
    """

    name: ClassVar[str] = "considerate"
    triggers = frozenset((Trigger.CALL_READY,))

    def __init__(self, problem: Problem, due_ratio: Floats, care: float = 1.0, stretch: float = 1.0) -> None:
        super().__init__(plan_latency_us=0, fallback=None)
        s = problem.service
        self._care = care
        self._first = first_calls(problem).tolist()
        due_us = np.maximum(1.0, due_ratio * problem.standalone_us)[s.workflow]
        # Nothing is for free: even a call that no path needs now delays something.
        self._weight = ((0.02 + 0.98 * problem.flow(4.0).share) / due_us).tolist()
        after = stretch * problem.paths.tail_us + s.best_us
        self._due = (problem.arrival_us[s.workflow] + due_us - after).tolist()

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Learn the cluster's times."""
        self._latency = latency
        decode = range(len(cluster.decode))
        self._iteration_us = [
            [0.0, *(1000 * latency.iteration_ms(d, b) for b in range(1, cluster.decode[d].max_batch + 1))]
            for d in decode
        ]
        self._context_us = [1000 * d.latency.b2_ms for d in cluster.decode]

    def plan(self, view: View) -> Plan:
        """Place the calls that became ready, the most urgent first."""
        number = {c.key: self._first[c.workflow.index] + c.index for c in view.pool}
        pool = sorted(view.pool, key=lambda c: (self._due[number[c.key]], c.key))
        if not pool:
            return Plan([])
        decoding = [self._decoding(d, view.now_us) for d in view.decode]
        waiting = [self._waiting(p) for p in view.prefill]
        free = [max(view.now_us, p.busy_until_us) - view.now_us for p in view.prefill]
        decisions = []
        for call in pool:
            i = number[call.key]
            due, weight = self._due[i], self._weight[i]
            p, d = self._pair(call, due, weight, waiting, free, decoding)
            waiting[p].append((due, self._latency.prefill_us(p, call.prompt_tokens), weight))
            if call.predicted_output_tokens > 1:
                decoding[d].append((call.predicted_output_tokens - 1, weight))
            decisions.append(Decision(call.key, p, d, due))
        return Plan(decisions)

    def _decoding(self, d: DecodeView, now_us: int) -> list[Decoding]:
        iterations = self._latency.iterations_at(d, now_us)
        rows = []
        for c in d.bound.values():
            if c.predicted_output_tokens > 1:
                produced = 1 + iterations - c.joined_iteration if c.state == CallState.RUNNING else 1
                weight = self._weight[self._first[c.workflow.index] + c.index]
                rows.append((c.predicted_output_tokens - produced, weight))
        return rows

    def _waiting(self, p: PrefillView) -> list[Waiting]:
        rows = []
        for c in p.queue.values():
            i = self._first[c.workflow.index] + c.index
            rows.append((self._due[i], self._latency.prefill_us(p.index, c.prompt_tokens), self._weight[i]))
        return rows

    def _pair(
        self,
        call: CallView,
        due: float,
        weight: float,
        waiting: list[list[Waiting]],
        free: list[int],
        decoding: list[list[Decoding]],
    ) -> tuple[int, int]:
        latency, n = self._latency, call.prompt_tokens
        prefills = []
        for p in call.prefill_candidates:
            us = latency.prefill_us(p, n)
            ahead = sum(row[1] for row in waiting[p] if row[0] <= due)
            behind = sum(row[2] for row in waiting[p] if row[0] > due)
            prefills.append((weight * (free[p] + ahead + us) + self._care * us * behind, p))
        if call.predicted_output_tokens <= 1:
            return min(prefills)[1], min(call.decode_candidates)
        best = None
        for d in call.decode_candidates:
            cost, p = min((cost + weight * latency.wire_us(p, d, n), p) for cost, p in prefills)
            cost += self._decode_cost(d, n, call.predicted_output_tokens - 1, weight, decoding[d])
            if best is None or (cost, p, d) < best:
                best = cost, p, d
        assert best is not None  # a call that fits nowhere is refused before the run
        return best[1], best[2]

    def _decode_cost(self, d: int, prompt: int, steps: int, weight: float, beside: list[Decoding]) -> float:
        """Return what the call's own iterations cost, and what it adds to those of the calls beside it."""
        table, most = self._iteration_us[d], len(self._iteration_us[d]) - 1
        batch = min(len(beside) + 1, most)
        own, done = 0.0, 0
        for left, _ in sorted(beside):
            if left >= steps:
                break
            own += (left - done) * table[batch]
            done, batch = left, max(1, batch - 1)
        own += (steps - done) * table[batch]
        b = min(len(beside) + 1, most)
        slower = table[b] - table[b - 1] + self._context_us[d] * (prompt + steps / 2)
        others: float = sum(w * min(left, steps) for left, w in beside)
        return weight * own + self._care * slower * others


@dataclass(frozen=True)
class Assignment:
    """Where every call goes, and in which order: ``prefill``, ``decode``, ``priority``, shape (C,) each."""

    prefill: Ints
    decode: Ints
    priority: Floats


class Assigned(BasePolicy):
    """Carries out an :class:`Assignment`: each call is placed when it is ready, and stays."""

    name: ClassVar[str] = "assigned"
    triggers = frozenset((Trigger.CALL_READY,))

    def __init__(self, problem: Problem, assignment: Assignment) -> None:
        super().__init__(plan_latency_us=0, fallback=None)
        self._first = first_calls(problem).tolist()
        a = assignment
        self._rows = list(zip(a.prefill.tolist(), a.decode.tolist(), a.priority.tolist(), strict=True))

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Nothing is remembered."""

    def plan(self, view: View) -> Plan:
        """Place the calls that became ready."""
        return Plan([Decision(c.key, *self._rows[self._first[c.workflow.index] + c.index]) for c in view.pool])


@dataclass(frozen=True)
class Times:
    """What happened to each call in a run, shape (C,), µs (NaN: did not happen), and where it was."""

    ready: Floats
    prefill_start: Floats
    prefill_end: Floats
    transfer_start: Floats
    transfer_end: Floats
    complete: Floats
    assignment: Assignment

    @classmethod
    def of(cls, problem: Problem, result: RunResult) -> Times:
        """Read a result; the priority of a call is when its prefill began, which repeats every queue's order."""
        calls = result.calls

        def times(name: str) -> Floats:
            found: Floats = calls[f"{name}_us"].to_numpy(dtype=float, na_value=np.nan)
            return found

        prefill = {x.name: i for i, x in enumerate(problem.cluster.prefill)}
        decode = {x.name: i for i, x in enumerate(problem.cluster.decode)}
        at = np.array([prefill[x] for x in calls["prefill_instance"]], np.int64)
        to = np.array([decode[x] for x in calls["decode_instance"]], np.int64)
        started = times("prefill_start")
        return cls(
            times("ready"),
            started,
            times("prefill_end"),
            times("transfer_start"),
            times("transfer_end"),
            times("complete"),
            Assignment(at, to, started),
        )


class Changes:
    """Proposes changes of a schedule: a call on the path of a late workflow, or one in its way, goes elsewhere."""

    def __init__(self, problem: Problem, number: int, rng: np.random.Generator) -> None:
        self._problem, self._number, self._rng = problem, number, rng
        self._first = first_calls(problem)
        latency = ClusterLatency(problem.cluster)
        self._iteration_ms = latency.iteration_ms
        self._max_batch = [d.max_batch for d in problem.cluster.decode]
        s = problem.service
        self._prefill_us = s.prefill_us[:, np.array(latency.prefill_class)]
        self._fits = np.isfinite(s.decode_us)[:, np.array(latency.decode_class)]
        self._parents = [
            [int(first) + parent for parent in call.parents]
            for first, w in zip(self._first, problem.trace.workflows, strict=False)
            for call in w.calls
        ]

    def propose(self, ratios: Floats, times: Times) -> Assignment:
        """Return a schedule with a few changes for some of the worst workflows that count."""
        old = times.assignment
        new = replace(old, prefill=old.prefill.copy(), decode=old.decode.copy(), priority=old.priority.copy())
        worst = np.argsort(-ratios, kind="stable")[len(ratios) - self._number :]
        count = min(len(worst), int(self._rng.integers(1, 5)))
        chosen = worst[:count] if self._rng.random() < 0.6 else self._rng.choice(worst[: 3 * count], count)
        for workflow in chosen.tolist():
            self._change(workflow, times, new)
        return new

    def _change(self, workflow: int, times: Times, new: Assignment) -> None:
        path = self._path(workflow, times)
        s = self._problem.service
        t = times
        decodes = s.decodes[path]
        lost = np.stack(
            [
                t.prefill_start[path] - t.ready[path],
                t.prefill_end[path] - t.prefill_start[path] - s.prefill_us[path].min(axis=1),
                np.where(decodes, t.complete[path] - t.transfer_end[path] - s.decode_us[path].min(axis=1), 0.0),
                np.where(decodes, t.transfer_start[path] - t.prefill_end[path], 0.0),
            ]
        ).clip(min=0.0)
        if lost.sum() <= 0:
            return
        kind, at = divmod(int(self._rng.choice(lost.size, p=(lost / lost.sum()).ravel())), len(path))
        call = int(path[at])
        if kind == 0:
            self._wait_less(call, times, new)
        elif kind == 1:
            self._prefill_elsewhere(call, times, new)
        else:
            self._decode_elsewhere(call, times, new)

    def _path(self, workflow: int, times: Times) -> Ints:
        """Return the calls that each waited for the one before, up to the last to complete."""
        a, b = self._first[workflow], self._first[workflow + 1]
        call = int(a + np.argmax(times.complete[a:b]))
        path = [call]
        while self._parents[call]:
            call = max(self._parents[call], key=lambda c: float(times.complete[c]))
            path.append(call)
        return np.array(path, np.int64)

    def _wait_less(self, call: int, times: Times, new: Assignment) -> None:
        """Go ahead of a call that went first, or send it away."""
        before = (new.prefill == new.prefill[call]) & (times.prefill_start < times.prefill_start[call])
        before &= times.prefill_end > times.ready[call]
        blockers = np.flatnonzero(before)
        if len(blockers) == 0 or self._rng.random() < 0.5:
            self._prefill_elsewhere(call, times, new)
            return
        other = int(self._rng.choice(blockers))
        if times.prefill_start[other] >= times.ready[call] and self._rng.random() < 0.6:
            new.priority[call] = min(new.priority[call], new.priority[other] - 0.5)
        else:
            new.prefill[other] = self._one_of(self._prefill_end(other, times), int(new.prefill[other]))

    def _prefill_elsewhere(self, call: int, times: Times, new: Assignment) -> None:
        here = int(new.prefill[call])
        crowded = self._rng.random() < 0.6
        cost = self._prefill_end(call, times) if crowded else self._prefill_us[call]
        to = self._one_of(cost, here)
        begin, end = times.ready[call], times.ready[call] + self._prefill_us[call, to]
        there = np.flatnonzero((new.prefill == to) & (times.prefill_end > begin) & (times.prefill_start < end))
        there = there[np.isfinite(self._prefill_us[there, here])]
        if len(there) and self._rng.random() < 0.6:
            new.prefill[int(self._rng.choice(there))] = here
        new.prefill[call] = to

    def _decode_elsewhere(self, call: int, times: Times, new: Assignment) -> None:
        """Move a call to a lighter batch, or a call beside it, or let them change places."""
        begin, end = times.transfer_end[call], times.complete[call]
        beside = np.minimum(end, times.complete) - np.maximum(begin, times.transfer_end)
        beside = np.nan_to_num(beside).clip(min=0.0)
        beside[call] = 0.0
        instances = len(self._max_batch)
        batch = 1 + np.bincount(new.decode, beside, instances) / max(1.0, end - begin)
        cost = np.array([self._iteration_ms(d, min(m, round(batch[d]))) for d, m in enumerate(self._max_batch)])
        here = int(new.decode[call])
        draw = self._rng.random()
        with_it = self._near(beside, new.decode == here)
        if draw >= 0.4 and draw < 0.7 and with_it is not None:
            new.decode[with_it] = self._one_of(np.where(self._fits[with_it], cost, np.inf), here)
            return
        to = self._one_of(np.where(self._fits[call], cost, np.inf), here)
        if draw >= 0.7:
            other = self._near(beside, (new.decode == to) & self._fits[:, here])
            if other is not None:
                new.decode[other] = here
        new.decode[call] = to

    def _near(self, beside: Floats, among: np.ndarray) -> int | None:
        """Draw one of some calls by how long it is beside another."""
        weight = np.where(among, beside, 0.0)
        total = weight.sum()
        return int(self._rng.choice(len(weight), p=weight / total)) if total > 0 else None

    def _prefill_end(self, call: int, times: Times) -> Floats:
        """Return, shape (P,), how long after a call is ready its prefill would end on each instance."""
        ready = times.ready[call]
        there = (times.ready <= ready) & (times.prefill_end > ready)
        there[call] = False
        busy = np.zeros(self._prefill_us.shape[1])
        np.maximum.at(busy, times.assignment.prefill[there], times.prefill_end[there] - ready)
        found: Floats = busy + self._prefill_us[call]
        return found

    def _one_of(self, cost: Floats, besides: int) -> int:
        """Draw one of the three cheapest instances other than one; that one where there is no other."""
        cost = np.where(np.arange(len(cost)) == besides, np.inf, cost)
        order = [i for i in np.argsort(cost + 1e-9 * self._rng.random(len(cost)))[:3] if np.isfinite(cost[i])]
        return int(self._rng.choice(order)) if order else besides


def pressure(ratios: Floats, number: int, power: float = 40.0) -> float:
    """Return a smooth largest of the ratios that count (a p-norm): what a search by single changes makes smaller."""
    counted = np.sort(ratios)[:number]
    top = float(counted[-1])
    return float(top * np.sum((counted / top) ** power) ** (1 / power))
