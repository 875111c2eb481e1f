"""Performance profiles (Dolan and Moré, Mathematical Programming 91, 2002): shares of problems over time ratios."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from hexopt.report.solvers.data import Solves
from hexopt.report.style import below, log_x, new_axes, policy_looks

Goal = Literal["proof", "close"]
CLOSE = 0.01


def times_s(data: Solves, goal: Goal) -> dict[str, dict[tuple[str, str], float]]:
    """Return, for each solver and problem, the time (s) of its quickest solve that reached the goal.

    For ``"proof"`` it is the time until the proof: what a solver does afterwards to break ties does not count.

    A problem is an instance with an objective. Every limit is a solve of its own, so the time is the smallest over the
    limits; infinite where none reached it. ``"close"`` is a plan within 1% of the best known one (for ``late`` and
    ``hinge``: as good).
    """
    table = data.solves
    reached = table["proved"] if goal == "proof" else table["gap"] <= CLOSE
    spent = table["proved_s" if goal == "proof" else "wall_s"].where(reached.astype(bool), math.inf)
    found: dict[str, dict[tuple[str, str], float]] = {}
    for solver, instance, objective, s in zip(
        table["solver"], table["instance"], table["objective"], spent, strict=True
    ):
        times = found.setdefault(str(solver), {})
        problem = str(instance), str(objective)
        times[problem] = min(times.get(problem, math.inf), math.inf if math.isnan(s) else float(s))
    return found


def profile(data: Solves, goal: Goal) -> dict[str, tuple[list[float], list[float]]]:
    """Return, for each main solver, the steps of its profile: ratios to the quickest solver, and shares of problems.

    A problem that a solver did not solve, or was not given, counts against it; one that nobody solved against all.
    """
    times = {solver: found for solver, found in times_s(data, goal).items() if solver in data.main}
    problems = sorted(set().union(*times.values()))
    best = {problem: min(found.get(problem, math.inf) for found in times.values()) for problem in problems}
    steps = {}
    for solver in data.main:
        own = times[solver]
        ratios = np.sort([own[p] / best[p] for p in problems if math.isfinite(own.get(p, math.inf))])
        shares = np.arange(1, len(ratios) + 1) / max(1, len(problems))
        steps[solver] = ([float(r) for r in ratios], [float(s) for s in shares])
    return steps


def plot_proof_profile(data: Solves, ax: Axes | None = None) -> Axes:
    """Draw the profile of the time to a proved optimum."""
    return _plot(data, ax, "proof", "Time to a proved optimum")


def plot_close_profile(data: Solves, ax: Axes | None = None) -> Axes:
    """Draw the profile of the time to a plan within 1% of the best known one."""
    return _plot(data, ax, "close", "Time to a plan within 1% of the best known")


def _plot(data: Solves, ax: Axes | None, goal: Goal, title: str) -> Axes:
    ax = new_axes(ax)
    steps = profile(data, goal)
    looks = policy_looks(data.main)
    widest = max((ratios[-1] for ratios, _ in steps.values() if ratios), default=1.0)
    end = max(10.0, widest * 1.3)
    for solver, (ratios, shares) in steps.items():
        look = looks[solver]
        x, y = [1.0, *ratios, end], [0.0, *shares, shares[-1] if shares else 0.0]
        every = max(1, len(x) // 6)
        ax.step(
            x, y, where="post", color=look.colour, ls=look.dash, lw=1.8, label=solver, marker=look.marker,
            markersize=5, markevery=every,
        )  # fmt: skip
    log_x(ax, decades=end > 300)
    ax.set_xlim(0.97, end)
    ax.set_ylim(-0.02, 1.04)
    ax.set_xlabel("time ÷ time of the quickest solver (ratio, log)")
    ax.set_ylabel("share of problems")
    ax.set_title(f"{title}: performance profile\n{data.where}; higher is better")
    below(ax, len(steps))
    return ax
