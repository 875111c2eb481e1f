"""A proof that more workflows are late than may be: prices, and what every schedule would have to pay; equation (11).

Any prices at all are a valid certificate, whoever found them and however badly: what they prove is worked out here from
the calls themselves, so that no solver is trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.workflow import Trace
from hexopt.formulations.bounds.path import Paths, children_of, order, paths
from hexopt.formulations.bounds.resources import Resource, resources
from hexopt.formulations.bounds.service import Floats, Ints, Service

MARGIN = 1e-8
"""A proof needs so much more than equality, as a share of all terms' absolute sum: far above what rounding can do."""

SLACK = 1 + 1e-12
"""Deadlines are taken a little later than a double's product says."""


class Problem:
    """A trace with full knowledge on a cluster, as the bounds see it.

    Parameters
    ----------
    standalone_us
        Shape (W,): what the ratio divides by, µs; :func:`hexopt.standalone_us` of each workflow.
    """

    def __init__(self, trace: Trace, cluster: Cluster, standalone_us: Sequence[int]) -> None:
        self.trace = trace
        self.cluster = cluster
        self.arrival_us: Floats = np.array([w.arrival_us or 0 for w in trace.workflows], np.float64)
        self.standalone_us: Floats = np.array(standalone_us, np.float64)
        self.service = Service(trace, cluster)
        self.paths: Paths = paths(trace, self.service)
        self.resources: list[Resource] = resources(self.service, self.paths)
        self._flows: dict[float, Flow] = {}

    @property
    def workflows(self) -> int:
        """How many workflows there are."""
        return len(self.arrival_us)

    @cached_property
    def path_ratios(self) -> Floats:
        """Shape (W,): a lower bound on each workflow's ratio; equation (2)."""
        ratios: Floats = self.paths.latency_us / self.standalone_us
        return ratios

    def deadlines_us(self, alpha: float) -> Floats:
        """Return shape (W,): no workflow that completes later has a ratio of at most ``alpha``."""
        late: Floats = self.arrival_us + np.floor(alpha * self.standalone_us * SLACK) + 1
        return late

    def flow(self, power: float) -> Flow:
        """Return how one unit of a workflow's delay price runs through its calls; ``flow.power``."""
        if power not in self._flows:
            self._flows[power] = Flow.of(self, power)
        return self._flows[power]


@dataclass(frozen=True)
class Flow:
    """A unit flow along every workflow's paths, from its ends back to its roots; equation (9).

    ``share`` (C,): what passes through each call, never more than a flow of one unit.
    """

    share: Floats

    @classmethod
    def of(cls, problem: Problem, power: float) -> Flow:
        """Split at every call among its parents by the length of the path up to each, to the given power.

        0 splits evenly, a large power follows the longest path.
        """
        s = problem.service
        reach = problem.paths.head_us + s.best_us  # the path up to and with each call
        shares = []
        first = 0
        for workflow in problem.trace.workflows:
            n = len(workflow.calls)
            length = np.maximum(1.0, reach[first : first + n])
            share = np.zeros(n)
            ends = [i for i, children in enumerate(children_of(workflow)) if not children]
            _split(share, ends, length, 1.0, power)
            for i in reversed(order(workflow)):
                if workflow.calls[i].parents and share[i] > 0:
                    _split(share, list(workflow.calls[i].parents), length, float(share[i]), power)
            shares.append(share)
            first += n
        flow: Floats = np.concatenate(shares) * (1 - 1e-10)
        return cls(flow)


def _split(share: Floats, to: list[int], length: Floats, amount: float, power: float) -> None:
    weight = (length[to] / length[to].max()) ** power
    share[to] += amount * weight / weight.sum()


@dataclass(frozen=True)
class Prices:
    """What a certificate consists of.

    Attributes
    ----------
    edges_us
        Shape (K + 1,), increasing: the intervals; outside of them everything is free.
    of
        Prices by resource name, shape (G, K), at least 0, for a unit of capacity and µs; resources not named are free.
    delay
        Shape (W, K): the price of a workflow's µs in each interval, at least 0.
    power
        Which :class:`Flow` carries it.
    """

    edges_us: Floats
    of: dict[str, Floats]
    delay: Floats
    power: float


def windows(problem: Problem, resource: Resource, edges_us: Floats, alpha: float) -> tuple[Ints, Ints]:
    """Return, shape (C, G) each, the first and the last interval in which a call can take of a class to meet alpha.

    K stands for time outside of all intervals. The first is behind the last where the call cannot meet alpha there.
    """
    s = problem.service
    start = problem.arrival_us[s.workflow][:, None] + resource.lead_us
    end = problem.deadlines_us(alpha)[s.workflow][:, None] - resource.after_us
    return _slots(edges_us, start, end)


def _slots(edges_us: Floats, start: Floats, end: Floats) -> tuple[Ints, Ints]:
    k = len(edges_us) - 1
    low = np.searchsorted(edges_us, start, side="right") - 1
    high = np.searchsorted(edges_us, end, side="left") - 1
    free = (start < edges_us[0]) | (end > edges_us[-1])
    low = np.where(start < edges_us[0], k, np.minimum(low, k))
    high = np.where(free, k, high)
    # A call that cannot begin before it must have ended cannot be in time there at all.
    impossible = start > end
    return np.where(impossible, 1, np.minimum(low, high)), np.where(impossible, 0, high)


def waits(problem: Problem, edges_us: Floats, alpha: float) -> list[tuple[Floats, Ints, Ints]]:
    """Return what calls wait for beside prefill and decode: tool delay, and transfer; equation (9).

    Each as (µs, first interval, last interval), shape (C,); intervals as in :func:`windows`.
    """
    s, where = problem.service, problem.paths
    begin = problem.arrival_us[s.workflow] + where.head_us
    end = problem.deadlines_us(alpha)[s.workflow] - where.tail_us
    moved = s.wire_us.min(axis=(1, 2)) + s.moved_us
    return [
        (s.tool_us, *_slots(edges_us, begin - s.tool_us, end - s.best_us)),
        (moved, *_slots(edges_us, begin + s.prefill_us.min(axis=1), end - s.decode_us.min(axis=1))),
    ]


def alive_us(problem: Problem, edges_us: Floats, alpha: float) -> Floats:
    """Return, shape (W, K), how long a workflow that meets alpha can last within each interval, µs."""
    begin, end = problem.arrival_us[:, None], problem.deadlines_us(alpha)[:, None]
    lasts: Floats = (np.minimum(end, edges_us[None, 1:]) - np.maximum(begin, edges_us[None, :-1])).clip(min=0.0)
    return lasts


def cheapest(price: Floats, rows: Ints, low: Ints, high: Ints) -> Floats:
    """Return the lowest price of each of the given rows over intervals low to high; infinite where there is none."""
    n, k = price.shape
    levels = [np.concatenate([price, np.zeros((n, 1))], axis=1)]  # outside of all intervals everything is free
    while 2 << (len(levels) - 1) <= k + 1:
        last, step = levels[-1], 1 << (len(levels) - 1)
        levels.append(np.minimum(last[:, :-step], last[:, step:]))
    found = np.full(low.shape, np.inf)
    length = high - low + 1
    level = np.where(length > 0, np.int64(np.log2(np.maximum(1, length))), -1)
    rows = np.broadcast_to(rows, low.shape)
    for number, table in enumerate(levels):
        at = level == number
        if at.any():
            found[at] = np.minimum(table[rows[at], low[at]], table[rows[at], high[at] - (1 << number) + 1])
    return found


class _Choices:
    """What some calls of a resource choose from, given its prices: class, mode and interval.

    ``rows`` (R,): the calls' numbers; ``low``, ``high`` (R, G): their intervals.
    """

    def __init__(self, problem: Problem, resource: Resource, rows: Ints, price: Floats, low: Ints, high: Ints) -> None:
        self.rows, self.low, self.high = rows, low, high
        self._workflow = problem.service.workflow[rows]
        self._take, self._delay_us = resource.take[rows], resource.delay_us[rows]
        self._growth, self._price = resource.growth[rows], price
        self._fits = np.isfinite(self._take).any(axis=2) & (low <= high)
        self._lowest = np.where(self._fits, cheapest(price, np.arange(len(price)), low, high), 0.0)
        take = np.where(self._fits, self._take.min(axis=2) + self._growth, 0.0)
        self.plain: Floats = np.where(self._fits, take * self._lowest, np.inf).min(axis=1)
        """Shape (R,): what each call pays at least where delays are free."""

    @cached_property
    def _pairs(self) -> list[tuple[Ints, Ints, Ints, Floats, Floats]]:
        """For each class: its calls, where their choices begin, and for each choice of call and interval its price."""
        found = []
        free = np.concatenate([self._price, np.zeros((len(self._price), 1))], axis=1)
        for g in range(len(free)):
            on = np.flatnonzero(self._fits[:, g])
            count = self.high[on, g] - self.low[on, g] + 1
            begin = np.cumsum(count) - count
            call = np.repeat(on, count)
            interval = np.arange(len(call)) - np.repeat(begin - self.low[on, g], count)
            take = self._take[call, g]
            with np.errstate(invalid="ignore"):
                cost = np.where(np.isfinite(take), take * free[g, interval][:, None], np.inf)
            delay = np.where(np.isfinite(take), self._delay_us[call, g], 0.0)
            found.append((on, begin, self._workflow[call] * free.shape[1] + interval, cost, delay))
        return found

    def least(self, nu: Floats, share: Floats) -> Floats:
        """Return, shape (R,), what each call pays at least; equation (10). ``nu``: delay prices (W, K + 1)."""
        paid = np.full(self.low.shape, np.inf)
        lowest = cheapest(nu[:, :-1], self._workflow[:, None], self.low, self.high)
        for g, (on, begin, at, cost, delay) in enumerate(self._pairs):
            if len(on) == 0:
                continue
            count = np.diff(np.append(begin, len(at)))
            own = nu.ravel()[at] * np.repeat(share[self.rows[on]], count)
            each = (cost + own[:, None] * delay).min(axis=1)
            more = self._lowest[on, g] + share[self.rows[on]] * lowest[on, g]
            paid[on, g] = np.minimum.reduceat(each, begin) + self._growth[on, g] * more
        least: Floats = paid.min(axis=1)
        return least


class Evaluation:
    """What all workflows would have to pay, at given prices and alpha, for any delay price."""

    def __init__(self, problem: Problem, prices: Prices, alpha: float) -> None:
        self._problem = problem
        self._share = problem.flow(prices.power).share
        self._choices = []
        s = problem.service
        self.impossible = np.zeros(problem.workflows, bool)
        self._plain = np.zeros(problem.workflows)
        for resource in problem.resources:
            price = prices.of.get(resource.name)
            if price is None and resource.name not in ("prefill", "decode"):
                continue
            if price is None:
                price = np.zeros((len(resource.capacity), len(prices.edges_us) - 1))
            rows = np.flatnonzero(resource.needed)
            low, high = windows(problem, resource, prices.edges_us, alpha)
            choices = _Choices(problem, resource, rows, price, low[rows], high[rows])
            lost = ~np.isfinite(choices.plain)
            if lost.any():
                self.impossible[s.workflow[rows[lost]]] = True
                rows = rows[~lost]
                choices = _Choices(problem, resource, rows, price, low[rows], high[rows])
            self._plain += np.bincount(s.workflow[rows], choices.plain, problem.workflows)
            self._choices.append(choices)
        self._waits = waits(problem, prices.edges_us, alpha)
        self._alive_us = alive_us(problem, prices.edges_us, alpha)

    def pay(self, delay: Floats | None) -> tuple[Floats, Floats]:
        """Return, shape (W,) each, a lower bound on what each workflow pays, and the absolute sum of its terms."""
        if delay is None:
            return self._plain, self._plain
        s, n = self._problem.service, self._problem.workflows
        nu = np.concatenate([delay, np.zeros((n, 1))], axis=1)
        total = np.zeros(n)
        for wait_us, low, high in self._waits:
            lowest = cheapest(delay, s.workflow, low, high)
            paid = np.where(np.isfinite(lowest), lowest, 0.0) * wait_us * self._share
            total = total + np.bincount(s.workflow, paid, n)
        for choices in self._choices:
            paid = choices.least(nu, self._share)
            total = total + np.bincount(s.workflow[choices.rows], paid, n)
        spent = (delay * self._alive_us).sum(axis=1)
        return total - spent, total + spent

    def best(self, delay: Floats, around: Sequence[float]) -> tuple[Floats, Floats, Floats]:
        """Return payments, absolute sums and delay prices, the best of the given multiples of ``delay`` for each."""
        best, size = self.pay(None)
        at = np.zeros_like(delay)
        for factor in around if delay.any() else ():
            pays, absolute = self.pay(delay * factor)
            better = pays > best
            best, size = np.where(better, pays, best), np.where(better, absolute, size)
            at = np.where(better[:, None], delay * factor, at)
        return best, size, at


AROUND = (0.5, 0.7, 0.85, 1.0, 1.15, 1.5)


def budget(problem: Problem, prices: Prices) -> float:
    """Return what all capacity of all intervals costs."""
    width = np.diff(prices.edges_us)
    return sum(
        float((prices.of[r.name] * width[None, :] * r.capacity[:, None]).sum())
        for r in problem.resources
        if r.name in prices.of
    )


def proves(problem: Problem, prices: Prices, alpha: float, late: int, around: Sequence[float] = AROUND) -> bool:
    """Say whether the prices prove that more than ``late`` workflows have a ratio above ``alpha``; equation (11)."""
    evaluation = Evaluation(problem, prices, alpha)
    left = late - int(evaluation.impossible.sum())
    if left < 0:
        return True
    pays, size, _ = evaluation.best(prices.delay, around)
    alive = ~evaluation.impossible
    pays = np.sort(np.maximum(0.0, pays[alive]))
    kept = pays[: max(0, len(pays) - left)]
    cost = budget(problem, prices)
    return float(kept.sum()) > cost + MARGIN * (cost + float(size[alive].sum()))


MOST = 1e9
"""No larger ratio is looked for."""


def largest_proved(problem: Problem, prices: Prices, late: int, low: float, tolerance: float = 1e-4) -> float:
    """Return an alpha, at least ``low``, that the prices prove, within ``tolerance`` of the largest; ``low`` if none.

    What a workflow pays falls with alpha, so it is found by doubling and halving; each answer is a proof of its own.
    """
    if not proves(problem, prices, low, late):
        return low
    step = 0.01
    high = low * (1 + step)
    while high < MOST and proves(problem, prices, high, late):
        low, step = high, 2 * step
        high = low * (1 + step)
    while high - low > tolerance * high:
        middle = (low + high) / 2
        if proves(problem, prices, middle, late):
            low = middle
        else:
            high = middle
    return low
