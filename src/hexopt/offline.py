"""The best schedule that can be found with full knowledge of a trace: an upper bound on the best Req_q.

:func:`best_known` runs the shipped policies with true output lengths, then policies that also know what every workflow
still has to do (:class:`Foresight`), or what their placements cost others
(:class:`~hexopt.hindsight.Considerate`), improves their targets by search, and at last changes single placements. What
it finds is a table of decisions that policy ``replay`` carries out. Together with :mod:`hexopt.formulations.bounds` it
encloses the truth from both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hexopt.api import Standalone, make_policy, simulate
from hexopt.capacity import apply_arrivals_on
from hexopt.core.cluster import Cluster
from hexopt.core.plan import NO_PLAN, Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel
from hexopt.core.streams import stream
from hexopt.core.view import CallView, Trigger, View
from hexopt.core.workflow import Trace
from hexopt.formulations.bounds import Bounds, Problem, Settings, trace_bounds
from hexopt.formulations.bounds.bound import rank
from hexopt.formulations.protocol import TOLERANCE
from hexopt.hindsight import Assigned, Changes, Considerate, Times, pressure
from hexopt.latency import ClusterLatency, check_calibrated
from hexopt.policies.compiled import CompiledPlacement, load_kernels
from hexopt.policies.labels import relabel
from hexopt.policies.projection import Estimator, Projection
from hexopt.policies.registry import POLICIES, policy_options
from hexopt.traces import apply_delays, require_known

if TYPE_CHECKING:
    import pandas as pd

    from hexopt.sim.result import RunResult

Floats = NDArray[np.float64]
Progress = Callable[[int, int, str], None]

STARTERS = tuple(name for name in POLICIES if name != "replay" and not name.startswith("rolling-"))
"""The shipped policies that a search begins with."""


def problem_of(
    trace: Trace, cluster: Cluster, *, arrivals: str | None = None, delays: str | None = None, seed: int = 0
) -> Problem:
    """Return a trace with all times known on a cluster, ready for bounds and search.

    Parameters
    ----------
    arrivals, delays, seed
        Rules for unknown times, as for :func:`hexopt.simulate`.

    Raises
    ------
    TraceError, CapacityError, CalibrationRangeError
        As :func:`hexopt.simulate`, before anything is computed.
    """
    if arrivals is not None:
        trace = apply_arrivals_on(cluster, trace, arrivals, seed)
    if delays is not None:
        trace = apply_delays(trace, delays, seed)
    trace.check()
    require_known(trace)
    cluster.check()
    check_calibrated(trace, cluster)
    alone = Standalone(trace, cluster, ClusterLatency(cluster))
    return Problem(trace, cluster, [alone.of(i) for i in range(len(trace))])


@dataclass(frozen=True)
class Targets:
    """What :class:`Foresight` or :class:`~hexopt.hindsight.Considerate` aims at.

    ``scale`` (W,): the SLO scale at which a workflow is due, in units common to all; the larger, the more it waits.
    ``stretch``: true remaining times, each call alone, are multiplied by it: under load all takes longer.
    ``care``: what others' delays count; ``None``: :class:`Foresight`, for which they do not.
    """

    scale: Floats
    stretch: float = 1.0
    care: float | None = None

    def policy(self, problem: Problem, ratio: float) -> BasePolicy:
        """Return the policy; ``ratio`` is about what it may reach."""
        if self.care is None:
            return Foresight(problem, self)
        return Considerate(problem, self.scale * ratio, self.care, self.stretch)


class Foresight(BasePolicy):
    """Knows the whole trace: the call whose workflow would end the latest, against its target, goes first.

    At every event all calls waiting for prefill are placed anew, one by one, each where it finishes first, in order of
    ``(finish + stretch · remaining − arrival) / (scale · standalone)``: HexAGenT's rule with true lengths, true
    remaining times and the true standalone latency.

    Parameters
    ----------
    problem
        The trace, its remaining times and standalone latencies.
    targets
        One for each workflow.
    small_queue
        Up to this many waiting calls are scored again after each commitment.
    """

    name: ClassVar[str] = "foresight"
    triggers = frozenset((Trigger.CALL_READY, Trigger.TRANSFER_END))

    def __init__(self, problem: Problem, targets: Targets, *, small_queue: int = 32) -> None:
        super().__init__(plan_latency_us=0, fallback=None)
        self._small_queue = small_queue
        sizes = [len(w.calls) for w in problem.trace.workflows]
        self._first = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
        due = np.maximum(1.0, problem.standalone_us * targets.scale)
        self._horizon = np.round(due).astype(int).tolist()
        tail = np.round(problem.paths.tail_us * targets.stretch)
        self._origin = (problem.arrival_us[problem.service.workflow] - tail).astype(int).tolist()

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Forget what was placed."""
        self._estimator = Estimator(cluster, latency)
        self._finish_us: dict[int, int] = {}
        kernels = load_kernels()
        self._compiled = None
        if kernels is not None and CompiledPlacement.suits(kernels, self._estimator):
            self._compiled = CompiledPlacement(kernels, self._estimator, self.origin_us)

    def origin_us(self, call: CallView) -> int:
        """Return the instant from which the time to the call's completion counts, so that what follows is included."""
        return int(self._origin[self._first[call.workflow.index] + call.index])

    def plan(self, view: View) -> Plan:
        """Place all calls that wait for prefill."""
        waiting = list(view.pool)
        for p in view.prefill:
            waiting.extend(p.queue.values())
        if not waiting:
            return NO_PLAN
        if len(self._finish_us) > 100_000:
            bound = {key for d in view.decode for key in d.bound}
            self._finish_us = {k: t for k, t in self._finish_us.items() if k in bound}
        movable = {c.key: c for c in waiting}
        projection = Projection.of(
            self._estimator, view, self._finish_us, movable, queues_move=True, count_movable=self._compiled is not None
        )
        horizons = [self._horizon[c.workflow.index] for c in waiting]
        if self._compiled is not None:
            made = self._compiled.replan(projection, waiting, horizons, self._small_queue, False, False, 4)
            if made is not None:
                plan, finishes = made
                self._finish_us.update((k, us) for k, us in zip(movable, finishes, strict=True) if us >= 0)
                return plan
            projection = Projection.of(self._estimator, view, self._finish_us, movable, queues_move=True)
        return self._plain(projection, waiting)

    def _plain(self, projection: Projection, waiting: list[CallView]) -> Plan:
        """Do what the compiled loop does, slowly; calls whose numbers are too large for that end here."""
        open_calls = sorted(waiting, key=lambda c: (self.origin_us(c), c.workflow.index, c.index))
        ranked: list[tuple[float, CallView, int, int]] = []
        while open_calls:
            best = None
            for call in open_calls:
                pair = projection.best(call)
                if pair is None:
                    continue
                risk = -((pair[0] - self.origin_us(call)) / self._horizon[call.workflow.index])
                if best is None or risk < best[0]:
                    best = risk, call, pair
            if best is None:
                break
            risk, call, (finish, p, d) = best
            projection.commit(call, finish, p, d)
            self._finish_us[call.key] = finish
            ranked.append((max(risk, ranked[-1][0]) if ranked else risk, call, p, d))
            open_calls.remove(call)
        present = [c.priority if c.prefill >= 0 else math.nan for _, c, _, _ in ranked]
        labels = relabel(present, [c.ready_us for _, c, _, _ in ranked])
        return Plan(
            [
                Decision(call.key, p, d, label)
                for (_, call, p, d), label in zip(ranked, labels, strict=True)
                if (call.prefill, call.decode, call.priority) != (p, d, label)
            ]
        )


@dataclass(frozen=True)
class Found:
    """A schedule: its Req_q, what made it, and its decisions, which policy ``replay`` carries out."""

    value: float
    how: str
    ratios: tuple[float, ...]
    decisions: pd.DataFrame

    def key(self, number: int) -> tuple[float, float]:
        """What a search compares: Req_q, then the mean of the ratios up to it of the last tenth."""
        ratios = sorted(self.ratios)[:number]
        last = ratios[-max(1, len(ratios) // 10) :]
        return self.value, math.fsum(last) / len(last)


def run(problem: Problem, policy: Any, number: int, how: str, predictor: str = "oracle", seed: int = 0) -> Found:
    """Simulate a policy on a problem; ``number``: which of the ratios is the value, from 1."""
    return _found(simulate(problem.trace, problem.cluster, policy, predictor=predictor, seed=seed), number, how)


def _found(result: RunResult, number: int, how: str) -> Found:
    ratios = [float(r) for r in result.workflows["ratio"]]
    return Found(sorted(ratios)[number - 1], how, tuple(ratios), result.decisions)


def best_known(
    problem: Problem,
    quantile: str = "0.99",
    *,
    iterations: int = 20,
    changes: int | None = None,
    seed: int = 0,
    starters: Sequence[str] = STARTERS,
    enough: float = 0.0,
    progress: Progress | None = None,
) -> Found:
    """Return the best schedule found for Req_q with full knowledge of the trace.

    Parameters
    ----------
    iterations
        Simulations beyond the starters. The same numbers and seed find the same schedule.
    changes
        Simulations after these, each of the best schedule with a few calls placed elsewhere: several times quicker,
        hence twice ``iterations`` by default.
    starters
        Shipped policies to begin with, at plan latency 0 and with true lengths.
    enough
        A value that cannot be improved (a proved bound): the search ends there.
    progress
        Called with (simulations done, all simulations, the best value and what made it).
    """
    number = rank(quantile, problem.workflows)
    changes = 2 * iterations if changes is None else changes
    total = len(starters) + iterations + changes
    best: Found | None = None
    done = 0

    def offer(found: Found) -> bool:
        nonlocal best, done
        done += 1
        better = best is None or found.key(number) < best.key(number)
        if better:
            best = found
        if progress is not None and best is not None:
            progress(done, total, f"{best.value:.4g} by {best.how}")
        return better

    for name in starters:
        offer(run(problem, at_once(name), number, name, seed=seed))
    rng = stream(seed, "policy")
    search = _Search(problem, number, rng)
    for _ in range(iterations):
        if best is not None and best.value <= enough:
            break
        targets, how = search.propose()
        found = run(problem, targets.policy(problem, 2.0 if best is None else best.value), number, how)
        search.learn(targets, found)
        offer(found)
    if best is None:
        best = run(problem, at_once("earliest-finish"), number, "earliest-finish")
    if changes and best.value > enough:
        _change(problem, number, best, changes, enough, rng, offer)
    return best


def _change(
    problem: Problem,
    number: int,
    start: Found,
    changes: int,
    enough: float,
    rng: np.random.Generator,
    offer: Callable[[Found], bool],
) -> None:
    """Change single placements of a schedule for as long as its worst ratios get no worse; the first is as it was."""
    how = f"{start.how}, calls moved"
    replay = make_policy("replay", decisions=start.decisions)
    times = Times.of(problem, simulate(problem.trace, problem.cluster, replay, predictor="oracle"))
    proposals = Changes(problem, number, rng)
    level, ratios, assignment = math.inf, np.array(start.ratios), times.assignment
    for _ in range(changes):
        result = simulate(problem.trace, problem.cluster, Assigned(problem, assignment), predictor="oracle")
        found = _found(result, number, how)
        tried = np.array(found.ratios)
        if pressure(tried, number) <= level:
            level, ratios, times = pressure(tried, number), tried, Times.of(problem, result)
        offer(found)
        if found.value <= enough:
            return
        assignment = proposals.propose(ratios, times)


def at_once(name: str, **options: Any) -> Any:
    """Return a shipped policy whose plans apply at once."""
    known = {option.name for option in policy_options(name)}
    if "plan_latency_us" in known:
        options = {"plan_latency_us": 0, **options}
    return make_policy(name, **options)


OPENINGS = ((1.0, None), (1.0, 0.5), (1.4, None), (1.4, 0.5), (2.0, None))
"""What is tried first, everything else equal: (stretch, care)."""


class _Search:
    """Proposes targets: first the openings, then corrections of the best by its own ratios, then random changes."""

    def __init__(self, problem: Problem, number: int, rng: np.random.Generator) -> None:
        self._number = number
        self._late = problem.workflows - number
        self._rng = rng
        self._tries = 0
        self._best: tuple[Targets, Found] | None = None
        self._flat = np.ones(problem.workflows)
        self._work = np.bincount(problem.service.workflow, problem.service.best_us, problem.workflows)
        self._rate = 0.5
        self._gives_up = False

    def propose(self) -> tuple[Targets, str]:
        """Return the next targets to try and a word on them."""
        self._tries += 1
        if self._tries <= len(OPENINGS) or self._best is None:
            stretch, care = OPENINGS[(self._tries - 1) % len(OPENINGS)]
            rule = "foresight" if care is None else f"considerate, care {care:g}"
            return Targets(self._flat, stretch, care), f"{rule}, remaining times × {stretch:g}"
        targets, found = self._best
        rule = "foresight" if targets.care is None else "considerate"
        ratios = np.array(found.ratios)
        move = self._tries % 4
        if self._late and not self._gives_up:
            self._gives_up = True
            return replace(targets, scale=self._given_up(targets.scale, ratios)), f"{rule}, the costliest given up"
        if move in (0, 2):
            # Those that come out above the value get a nearer target, those below a later one.
            aim = sorted(found.ratios)[self._number - 1]
            scale = targets.scale * np.clip(aim / ratios, 0.5, 2.0) ** self._rate
            keep = targets.scale > _GIVEN_UP / 2
            return replace(targets, scale=np.where(keep, targets.scale, scale)), f"{rule}, targets corrected"
        if move == 1 and targets.care is not None:
            care = targets.care * float(np.exp(self._rng.normal(0, 0.4)))
            return replace(targets, care=care), f"considerate, care {care:.3g}"
        if move == 1:
            stretch = targets.stretch * float(np.exp(self._rng.normal(0, 0.2)))
            return replace(targets, stretch=stretch), f"foresight, remaining times × {stretch:.3g}"
        noise = np.exp(self._rng.normal(0, 0.1, len(ratios)) * (self._rng.random(len(ratios)) < 0.3))
        return replace(targets, scale=targets.scale * noise), f"{rule}, targets varied"

    def learn(self, targets: Targets, found: Found) -> None:
        """Keep the targets if they are the best so far; correct less boldly if they are not."""
        if self._best is None or found.key(self._number) < self._best[1].key(self._number):
            self._best = targets, found
        elif self._tries > len(OPENINGS):
            self._rate = max(0.05, self._rate * 0.8)

    def _given_up(self, scale: Floats, ratios: Floats) -> Floats:
        """Let as many workflows wait as may be late: those with the most work."""
        given = np.argsort(-self._work, kind="stable")[: self._late]
        changed = scale.copy()
        changed[given] = _GIVEN_UP
        return changed


_GIVEN_UP = 1e3
"""The scale of a workflow that may be late: it goes behind all others."""


@dataclass(frozen=True)
class Enclosure:
    """Bound, best known, and where policies stand.

    ``policies``: by name as given, value and gap to the bound, (value − bound) / value.
    """

    bounds: Bounds
    best: Found
    policies: dict[str, dict[str, float]]

    @property
    def gap(self) -> float:
        """How far the best known is from the bound, as a share of the best known."""
        return gap(self.best.value, self.bounds.value)


def gap(value: float, bound: float) -> float:
    """Return (value − bound) / value; an infinite value, of a workflow that is never done, has gap 1.

    >>> gap(4.0, 3.0)
    0.25
    """
    if math.isinf(value):
        return 1.0
    found = (value - bound) / value
    # Rounding errors are none of a gap; a value below a bound by more shows as what it is.
    return max(0.0, found) if found > -TOLERANCE else found


def enclose(
    problem: Problem,
    quantile: str = "0.99",
    *,
    policies: Sequence[str] = (),
    predictor: str = "app-mean",
    iterations: int = 20,
    changes: int | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    starters: Sequence[str] = STARTERS,
    progress: Progress | None = None,
) -> Enclosure:
    """Enclose the best possible Req_q of a trace between a proved bound and the best schedule found.

    Parameters
    ----------
    policies
        Shipped policies to compare, as they come (with their plan latency and ``predictor``).
    iterations, changes, starters
        Of :func:`best_known`.
    """
    number = rank(quantile, problem.workflows)
    say = progress or (lambda done, total, remark: None)
    changes = 2 * iterations if changes is None else changes
    total = len(policies) + len(starters) + iterations + changes + 1
    runs = []
    for i, name in enumerate(policies):
        say(i, total, name)
        runs.append(run(problem, make_policy(name), number, name, predictor, seed))
    say(len(policies), total, "search")
    best = best_known(
        problem,
        quantile,
        iterations=iterations,
        changes=changes,
        seed=seed,
        starters=starters,
        enough=float(np.sort(problem.path_ratios)[number - 1]),
        progress=lambda done, _, remark: say(len(policies) + done, total, remark),
    )
    for found in runs:
        if found.value < best.value:
            best = replace(found, how=f"{found.how}, as it comes")
    say(total - 1, total, "bound")
    bounds = trace_bounds(
        problem,
        quantile,
        settings=settings,
        progress=lambda alpha: say(total - 1, total, f"bound {alpha:.4g}"),
        met=best.value,
    )
    named = {f.how: {"value": f.value, "gap": gap(f.value, bounds.value)} for f in runs}
    return Enclosure(bounds, best, named)
