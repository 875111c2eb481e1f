"""A proof that more workflows are late than may be: prices, and what every schedule would have to pay; equation (11).

Any prices at all are a valid certificate, whoever found them and however badly: what they prove is worked out here from
the calls themselves, so that no solver is trusted.
"""

from __future__ import annotations

import math
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

    ``share`` (C,): what passes through each call, never more than a flow of one unit; ``fixed_us`` (W,): the tool
    delays, transfers and latencies that it meets.
    """

    share: Floats
    fixed_us: Floats

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
        fixed = s.tool_us + s.wire_us.min(axis=(1, 2)) + s.moved_us
        per_workflow: Floats = np.bincount(s.workflow, flow * fixed, problem.workflows).astype(np.float64)
        return cls(flow, per_workflow)


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
        Shape (W,): the price of a workflow's µs, at least 0.
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
    start = (problem.arrival_us[s.workflow][:, None]) + resource.lead_us
    end = problem.deadlines_us(alpha)[s.workflow][:, None] - resource.after_us
    k = len(edges_us) - 1
    low = np.searchsorted(edges_us, start, side="right") - 1
    high = np.searchsorted(edges_us, end, side="left") - 1
    free = (start < edges_us[0]) | (end > edges_us[-1])
    low = np.where(start < edges_us[0], k, np.minimum(low, k))
    high = np.where(free, k, high)
    # A call that cannot begin before it must have ended cannot be in time there at all.
    impossible = start > end
    return np.where(impossible, 1, np.minimum(low, high)), np.where(impossible, 0, high)


def cheapest(price: Floats, low: Ints, high: Ints) -> Floats:
    """Return, shape (C, G), the lowest price of each class over intervals low to high; infinite where there is none."""
    g, k = price.shape
    levels = [np.concatenate([price, np.zeros((g, 1))], axis=1)]  # outside of all intervals everything is free
    while 2 << (len(levels) - 1) <= k + 1:
        last, step = levels[-1], 1 << (len(levels) - 1)
        levels.append(np.minimum(last[:, :-step], last[:, step:]))
    found = np.full(low.shape, np.inf)
    length = high - low + 1
    level = np.where(length > 0, np.int64(np.log2(np.maximum(1, length))), -1)
    rows = np.broadcast_to(np.arange(g), low.shape)
    for number, table in enumerate(levels):
        at = level == number
        if at.any():
            found[at] = np.minimum(table[rows[at], low[at]], table[rows[at], high[at] - (1 << number) + 1])
    return found


class Evaluation:
    """What all workflows would have to pay, at given prices and alpha, for any delay price."""

    def __init__(self, problem: Problem, prices: Prices, alpha: float) -> None:
        self._problem = problem
        self._flow = problem.flow(prices.power)
        self._costs = []
        s = problem.service
        self.impossible = np.zeros(problem.workflows, bool)
        for resource in problem.resources:
            price = prices.of.get(resource.name)
            if price is None and resource.name not in ("prefill", "decode"):
                continue
            if price is None:
                price = np.zeros((len(resource.capacity), len(prices.edges_us) - 1))
            rows = np.flatnonzero(resource.needed)
            low, high = windows(problem, resource, prices.edges_us, alpha)
            price_min = cheapest(price, low[rows], high[rows])[:, :, None]
            take = resource.take[rows]
            with np.errstate(invalid="ignore"):
                cost = np.where(np.isfinite(take) & np.isfinite(price_min), take * price_min, np.inf)
            lost = ~np.isfinite(cost).any(axis=(1, 2))
            self.impossible[s.workflow[rows[lost]]] = True
            keep = rows[~lost]
            cost, delay = cost[~lost], resource.delay_us[keep]
            modes = math.prod(cost.shape[1:])  # said, as there may be no row to tell it from
            self._costs.append((keep, cost.reshape(len(keep), modes), delay.reshape(len(keep), modes)))
        self._budget_us = problem.deadlines_us(alpha) - problem.arrival_us

    def pay(self, delay: Floats) -> tuple[Floats, Floats]:
        """Return, shape (W,) each, a lower bound on what each workflow pays, and the absolute sum of its terms."""
        s, n = self._problem.service, self._problem.workflows
        nu = self._flow.share * delay[s.workflow]
        total = delay * self._flow.fixed_us
        for rows, cost, delays in self._costs:
            price = nu[rows][:, None]
            with np.errstate(invalid="ignore"):
                paid = np.where(price > 0, cost + price * np.where(np.isfinite(delays), delays, 0.0), cost).min(axis=1)
            total = total + np.bincount(s.workflow[rows], paid, n)
        budget = delay * self._budget_us
        return total - budget, total + budget

    def best(self, delay: Floats, around: Sequence[float]) -> tuple[Floats, Floats, Floats]:
        """Return payments, absolute sums and delay prices, the best of the given multiples of ``delay`` for each."""
        best, size = self.pay(np.zeros_like(delay))
        at = np.zeros_like(delay)
        for factor in around:
            pays, absolute = self.pay(delay * factor)
            better = pays > best
            best, size, at = (np.where(better, x, y) for x, y in ((pays, best), (absolute, size), (delay * factor, at)))
        return best, size, at


AROUND = (0.35, 0.5, 0.63, 0.8, 0.9, 1.0, 1.12, 1.25, 1.6, 2.0, 2.8)


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
