"""Finds good prices: a linear program over coarse pieces of the workflows; equation (12)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hexopt.formulations.bounds.certificate import (
    MOST,
    Evaluation,
    Prices,
    Problem,
    alive_us,
    largest_proved,
    waits,
    windows,
)
from hexopt.formulations.bounds.resources import Resource
from hexopt.formulations.bounds.service import Floats, Ints

SOLVERS = ("GLOP", "PDLP", "HIGHS")


@dataclass(frozen=True)
class Settings:
    """How the program is built; none of it can make a bound wrong, only weak.

    Parameters
    ----------
    intervals
        At most so many; they are denser where more calls begin and must end.
    pieces
        At most so many pieces of workflows; consecutive calls of a workflow share one.
    modes
        At most so many batch sizes of a decode class.
    joint_pieces, joint_modes, joint_intervals
        The same where delay prices change over time, which takes a row for each interval of each choice.
    joint_from
        Delay prices may change over time once they make up this share of what is paid.
    powers
        The flows to try (:class:`~hexopt.formulations.bounds.certificate.Flow`).
    least_load
        Resources used less than this share of the busiest are left out.
    rounds
        At most so many programs.
    step, inside, below_met
        The next alpha: this factor above what is proved while none is known to be met; then this share of the way up
        to what can be met; the first where a schedule is known, this share of the way down from it.
    solver
        GLOP, PDLP or HIGHS, through OR-Tools.
    """

    intervals: int = 48
    pieces: int = 2000
    modes: int = 8
    joint_pieces: int = 300
    joint_modes: int = 7
    joint_intervals: int = 20
    joint_from: float = 0.02
    powers: tuple[float, ...] = (1.0,)
    least_load: float = 0.2
    rounds: int = 12
    tolerance: float = 2e-3
    step: float = 1.5
    inside: float = 0.35
    below_met: float = 0.25
    solver: str = "GLOP"


@dataclass(frozen=True)
class LpBound:
    """A proved bound and what it took.

    ``value``: Req is larger than this. ``programs``: (alpha, what the program said of it, alpha proved, seconds) each;
    more than 1 means that alpha cannot be met.
    """

    value: float
    prices: Prices | None
    programs: tuple[tuple[float, float, float, float], ...]
    facts: dict[str, Any]


def lp_bound(
    problem: Problem,
    late: int,
    start: float,
    settings: Settings | None = None,
    progress: Callable[[float], None] | None = None,
    hint: Prices | None = None,
    met: float = math.inf,
) -> LpBound:
    """Return the best proved lower bound found on the ratio that all but ``late`` workflows keep.

    Programs are built for larger and larger alphas until one says that it can be met; its prices prove something below.
    Then they close in from above, since prices know nothing of time after the deadlines that they were made for.

    Parameters
    ----------
    start
        A bound known already; at least the path bound.
    hint
        Prices of another quantile, to begin with.
    met
        What some schedule reaches: where to look first. It says nothing about the bound.
    """
    settings = settings or Settings()
    used = _used(problem, settings.least_load)
    alpha, best, programs = start, None, []
    if hint is not None:
        better = largest_proved(problem, hint, late, alpha)
        if better > alpha:
            alpha, best = better, hint
    facts: dict[str, Any] = {"resources": [r.name for r in used]}
    joint = False
    for power in settings.powers:
        low, high, trial = alpha, math.inf, alpha * settings.step
        if alpha < met < MOST:
            high, trial = met, met - (met - alpha) * settings.below_met
        for _ in range(settings.rounds):
            began = time.perf_counter()
            program = _Program(problem, used, late, trial, power, settings, facts, joint)
            prices, says = program.solve()
            wider = not joint and program.delays_pay(prices) > settings.joint_from
            proved = alpha if prices is None else largest_proved(problem, prices, late, alpha)
            programs.append((trial, says, proved, time.perf_counter() - began))
            if proved > alpha:
                alpha, best = proved, prices
            if progress is not None:
                progress(alpha)
            if wider:  # what could be met may not be any more
                joint, says = True, math.nan
                high = met if met < MOST else math.inf
            if says <= 1:
                high = trial
            elif not wider:  # also where it found no prices, or is coarser than the proof
                low = trial
            low = max(low, alpha)
            if high < low * (1 + settings.tolerance):
                break
            trial = low * settings.step if math.isinf(high) else low + (high - low) * settings.inside
    return LpBound(alpha, best, tuple(programs), facts)


def _used(problem: Problem, least_load: float) -> list[Resource]:
    """Return the resources that may matter: calls' least shares of the pool, added up, compared with the busiest."""
    loads = [float(r.least().sum()) for r in problem.resources]
    top = max(loads)
    always = "prefill", "decode"  # whose delays count whatever their load
    return [r for r, load in zip(problem.resources, loads, strict=True) if r.name in always or load >= least_load * top]


class _Program:
    """One program, for one alpha. Times in seconds."""

    def __init__(
        self,
        problem: Problem,
        used: list[Resource],
        late: int,
        alpha: float,
        power: float,
        settings: Settings,
        facts: dict[str, Any],
        joint: bool,
    ) -> None:
        from ortools.linear_solver import pywraplp

        self._problem, self._used, self._late, self._alpha = problem, used, late, alpha
        self._power, self._settings, self._joint = power, settings, joint
        self._edges = _edges(problem, used, alpha, settings.joint_intervals if joint else settings.intervals)
        self._solver = pywraplp.Solver.CreateSolver(settings.solver)
        self._build()
        facts.update(
            intervals=len(self._edges) - 1,
            variables=self._solver.NumVariables(),
            constraints=self._solver.NumConstraints(),
        )

    def solve(self) -> tuple[Prices | None, float]:
        """Return prices and the program's value; no prices if it found none."""
        solver = self._solver
        status = solver.Solve()
        if status not in (solver.OPTIMAL, solver.FEASIBLE):
            return None, math.nan
        of = {
            name: np.array([[max(0.0, v.solution_value()) for v in row] for row in rows]) / 1e6
            for name, rows in self._price.items()
        }
        delay = np.zeros(self._alive_s.shape)
        for (w, k), v in self._delay.items():
            delay[w, k] = max(0.0, v.solution_value()) / 1e6
        return Prices(self._edges, of, delay, self._power), float(solver.Objective().Value())

    def delays_pay(self, prices: Prices | None) -> float:
        """Return what all time of all workflows costs, as a share of all capacity's cost."""
        return 0.0 if prices is None else float((prices.delay * self._alive_s).sum()) * 1e6

    def _build(self) -> None:
        problem, solver = self._problem, self._solver
        infinity = solver.infinity()
        n, service = problem.workflows, problem.service
        flow = problem.flow(self._power)
        width = np.diff(self._edges) / 1e6
        k = len(width)
        self._alive_s = alive_us(problem, self._edges, self._alpha) / 1e6
        paid = [solver.NumVar(0, 1.0, "") for _ in range(n)]  # of a budget of 1
        self._delay: dict[tuple[int, int], Any] = {}
        for w in range(n):
            whole_life = None if self._joint else solver.NumVar(0, infinity, "")
            for j in np.flatnonzero(self._alive_s[w] > 0).tolist():
                self._delay[w, j] = solver.NumVar(0, infinity, "") if whole_life is None else whole_life
        top = solver.NumVar(0, infinity, "")
        objective = solver.Objective()
        objective.SetMaximization()
        objective.SetCoefficient(top, -self._late)
        rows = []
        impossible = Evaluation(
            problem, Prices(self._edges, {}, np.zeros((n, k)), self._power), self._alpha
        ).impossible  # they pay nothing here, and count as late in the proof
        for w in range(n):
            objective.SetCoefficient(paid[w], 1.0)
            row = solver.Constraint(0.0 if not impossible[w] else -infinity, infinity)
            row.SetCoefficient(paid[w], -1.0)
            for j, alive in enumerate(self._alive_s[w].tolist()):
                if alive > 0:
                    _add(row, self._delay[w, j], -alive)
            rows.append(row)
            if impossible[w]:
                paid[w].SetUb(0.0)
            if self._late:
                below = solver.Constraint(-infinity, 0.0)
                below.SetCoefficient(paid[w], 1.0)
                below.SetCoefficient(top, -1.0)
        whole = solver.Constraint(-infinity, 1.0)
        self._price: dict[str, list[list[Any]]] = {}
        for resource in self._used:
            prices = [[solver.NumVar(0, infinity, "") for _ in range(k)] for _ in resource.capacity]
            self._price[resource.name] = prices
            for g, capacity in enumerate(resource.capacity.tolist()):
                for j in range(k):
                    whole.SetCoefficient(prices[g][j], float(capacity * width[j]))
        for resource in problem.resources:
            if resource.name in self._price or resource.name in ("prefill", "decode"):
                self._pieces(resource, rows, impossible, flow.share, service.workflow)
        for wait_us, low, high in waits(problem, self._edges, self._alpha):
            self._wait(wait_us * flow.share / 1e6, low, high, rows, impossible)

    def _wait(self, wait_s: Floats, low: Ints, high: Ints, rows: list[Any], impossible: Any) -> None:
        """Let workflows pay for tool delays and transfers, at the lowest delay price of each interval range."""
        workflow = self._problem.service.workflow
        together: dict[tuple[int, int, int], float] = {}
        for c in np.flatnonzero((wait_s > 0) & ~impossible[workflow] & (high >= low)).tolist():
            key = int(workflow[c]), int(low[c]), int(high[c])
            together[key] = together.get(key, 0.0) + float(wait_s[c])
        for (w, a, b), amount in together.items():
            if any((w, j) not in self._delay for j in range(a, b + 1)):
                continue
            if not self._joint:
                _add(rows[w], self._delay[w, a], amount)
                continue
            cost = self._solver.NumVar(0, self._solver.infinity(), "")
            rows[w].SetCoefficient(cost, 1.0)
            for j in range(a, b + 1):
                row = self._solver.Constraint(-self._solver.infinity(), 0.0)
                row.SetCoefficient(cost, 1.0)
                row.SetCoefficient(self._delay[w, j], -amount)

    def _pieces(self, resource: Resource, rows: list[Any], impossible: Any, share: Floats, workflow: Ints) -> None:
        solver, infinity = self._solver, self._solver.infinity()
        low, high = windows(self._problem, resource, self._edges, self._alpha)
        k = len(self._edges) - 1
        use = np.flatnonzero(resource.needed & ~impossible[workflow])
        priced = resource.name in self._price
        tables = _Tables(solver, self._price[resource.name], k) if priced else None
        settings, joint = self._settings, self._joint and resource.name in ("prefill", "decode")
        each = max(1, math.ceil(len(use) / (settings.joint_pieces if joint else settings.pieces)))
        classes = len(resource.capacity)
        most = settings.joint_modes if joint else settings.modes
        spread = _common if joint else _spread
        modes = [spread(resource, g, most) for g in range(classes)]
        for piece in _runs(use, workflow, each, low.min(axis=1)):
            w = int(workflow[piece[0]])
            cost = solver.NumVar(0, infinity, "")
            rows[w].SetCoefficient(cost, 1.0)
            for g in range(classes):
                a, b = int(low[piece, g].min()), int(high[piece, g].max())
                if (low[piece, g] > high[piece, g]).all() or not np.isfinite(resource.take[piece, g, 0]).any():
                    continue
                # Each choice: a price variable and a delay variable, either of which may be missing: it is 0 then.
                if joint:
                    prices = self._price[resource.name][g] if priced else [None] * k
                    choices = [(prices[j] if j < k else None, self._delay.get((w, j))) for j in range(a, b + 1)]
                else:
                    choices = [(tables.least(g, a, b) if tables is not None else None, self._delay.get((w, a)))]
                for v in modes[g]:
                    take, delay = resource.take[piece, g, v], resource.delay_us[piece, g, v]
                    fine = np.isfinite(take)
                    if not fine.any():
                        continue
                    growth = resource.growth[piece, g][fine]
                    paid = float((take[fine] + growth).sum()) / 1e6
                    spent = float((share[piece][fine] * (delay[fine] + growth)).sum()) / 1e6
                    for price, time_price in choices:
                        row = solver.Constraint(-infinity, 0.0)
                        row.SetCoefficient(cost, 1.0)
                        if price is not None:
                            row.SetCoefficient(price, -paid)
                        if time_price is not None and resource.name in ("prefill", "decode"):
                            row.SetCoefficient(time_price, -spent)


def _add(row: Any, variable: Any, amount: float) -> None:
    row.SetCoefficient(variable, row.GetCoefficient(variable) + amount)


def _spread(resource: Resource, g: int, most: int) -> list[int]:
    """Return at most so many modes of a class, among those that any call has, evenly spread."""
    count = int(np.isfinite(resource.take[:, g]).any(axis=0).sum())
    return sorted({round(i * (count - 1) / max(1, most - 1)) for i in range(most)}) if count else []


SLOWEST = 4.0
"""Batches that make a call so many times slower are left out where few modes are looked at."""


def _common(resource: Resource, g: int, most: int) -> list[int]:
    """Return at most so many modes of a class, evenly spread by the logarithm of the batch size; none too slow."""
    call = int(np.argmax(np.where(resource.needed, resource.delay_us[:, g, 0] < np.inf, False)))
    take, delay = resource.take[call, g], resource.delay_us[call, g]
    count = int((delay <= SLOWEST * delay[0]).sum()) if delay[0] < np.inf else 0
    if count < 2:
        return list(range(count))
    batch = np.log(delay[:count] / take[:count])
    return sorted({int(np.argmin(abs(batch - x))) for x in np.linspace(batch[0], batch[-1], most)})


def _runs(use: Ints, workflow: Ints, each: int, begin: Ints) -> list[Ints]:
    """Cut the calls of every workflow, in order of their earliest interval, into runs of at most ``each``."""
    order = use[np.lexsort((begin[use], workflow[use]))]
    runs, start = [], 0
    for i in range(1, len(order) + 1):
        if i == len(order) or workflow[order[i]] != workflow[order[start]] or i - start == each:
            runs.append(order[start:i])
            start = i
    return runs


def _edges(problem: Problem, used: list[Resource], alpha: float, most: int) -> Floats:
    """Return the ends of intervals: as many calls' windows begin or end in each of them."""
    s = problem.service
    due = problem.deadlines_us(alpha)[s.workflow][:, None]
    points, weights = [], []
    for resource in used:
        rows = np.flatnonzero(resource.needed)
        start = (problem.arrival_us[s.workflow][:, None] + resource.lead_us)[rows]
        end = (due - resource.after_us)[rows]
        fine = np.isfinite(start) & np.isfinite(end) & (start <= end)
        weight = np.broadcast_to(resource.least()[rows][:, None], start.shape)[fine]
        points += [start[fine], end[fine]]
        weights += [weight, weight]
    at, weight = np.concatenate(points), np.concatenate(weights)
    ends = [float(problem.arrival_us.min()), float(problem.deadlines_us(alpha).max())]
    if len(at) == 0:
        return np.array(ends)
    by = np.argsort(at, kind="stable")
    at, mass = at[by], np.cumsum(weight[by] + 1e-12 * weight.sum())
    picks = at[np.minimum(len(at) - 1, np.searchsorted(mass, mass[-1] * np.linspace(0, 1, most + 1)))]
    # Half of the edges stand evenly in time, so that a long quiet stretch is no single interval.
    even = np.linspace(ends[0], ends[1], most // 2 + 1)
    edges = np.unique(np.concatenate([picks[::2], even]))
    return edges if len(edges) > 1 else np.array([edges[0], edges[0] + 1.0])


class _Tables:
    """Variables that are at most the lowest price over an interval range: tables by powers of two."""

    def __init__(self, solver: Any, price: list[list[Any]], k: int) -> None:
        self._solver, self._k = solver, k
        self._level = [[list(row)] for row in price]
        self._known: dict[tuple[int, int, int], Any] = {}

    def least(self, g: int, low: int, high: int) -> Any | None:
        """Return a variable at most every price of class g over intervals low to high; ``None`` if that may be 0."""
        if high >= self._k or low > high:
            return None
        key = g, low, high
        if key not in self._known:
            number = (high - low + 1).bit_length() - 1
            a, b = self._entry(g, number, low), self._entry(g, number, high - (1 << number) + 1)
            self._known[key] = a if low == high - (1 << number) + 1 else self._below(a, b)
        return self._known[key]

    def _entry(self, g: int, number: int, at: int) -> Any:
        levels = self._level[g]
        while len(levels) <= number:
            levels.append([None] * self._k)
        if levels[number][at] is None:
            step = 1 << (number - 1)
            levels[number][at] = self._below(self._entry(g, number - 1, at), self._entry(g, number - 1, at + step))
        return levels[number][at]

    def _below(self, a: Any, b: Any) -> Any:
        infinity = self._solver.infinity()
        least = self._solver.NumVar(0, infinity, "")
        for other in (a, b):
            row = self._solver.Constraint(-infinity, 0.0)
            row.SetCoefficient(least, 1.0)
            row.SetCoefficient(other, -1.0)
        return least
