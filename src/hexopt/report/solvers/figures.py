"""Write the figures of a solver comparison: a set per objective, and quality over time limit per size too."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes

from hexopt.report.solvers import curves, profiles
from hexopt.report.solvers.data import Solves
from hexopt.report.style import house_style, save


class Kind(NamedTuple):
    """A figure: how it is drawn, and what it shows in words."""

    plot: Callable[..., Axes]
    caption: str


PER_SIZE: dict[str, Kind] = {
    "gap": Kind(
        curves.plot_gap,
        "Mean gap to the best known value of what would be served: the better of the solver's plan and the greedy one. "
        "Every point is solves of its own with that limit.",
    ),
}
PER_OBJECTIVE: dict[str, Kind] = {
    "proved": Kind(curves.plot_proved, "Share of windows whose best known plan was found and proved optimal."),
    "no_plan": Kind(curves.plot_no_plan, "Share of solves that ended without any plan, over all sizes."),
    "first_incumbent": Kind(
        curves.plot_first_incumbent,
        "Seconds from the call of the solver to its first plan, model building included. Solves without a plan are "
        "left out, which favours who has few: see the share without a plan. With a hint, the first may be the hint.",
    ),
    "proof_profile": Kind(
        profiles.plot_proof_profile,
        "Share of problems that a solver has proved within a multiple of the time of the quickest. The time is that of "
        "the quickest solve over the limits. A problem that a solver was not given counts as not solved.",
    ),
    "close_profile": Kind(
        profiles.plot_close_profile,
        "Share of problems with a plan within 1% of the best known value, within a multiple of the quickest solver's "
        "time. A solver that runs until its limit is charged the limit, so its times come in steps. A "
        "problem that it was not given counts as not solved.",
    ),
    "bounds": Kind(
        curves.plot_bounds,
        "Distance of the solver's own proved bound below the best known value. Solves without a bound are left out.",
    ),
    "model_size": Kind(curves.plot_model_size, "Variables and constraints that the solver was given."),
    "overrun": Kind(curves.plot_overrun, "Wall-clock time beyond the limit, over all sizes."),
}


class Drawn(NamedTuple):
    """A figure that was written."""

    name: str
    objective: str
    calls: int | None
    caption: str
    paths: list[Path]


def draw_figures(data: Solves, folder: Path, formats: Sequence[str] = ("png", "svg")) -> list[Drawn]:
    """Write all figures into ``folder`` and say which."""
    folder.mkdir(parents=True, exist_ok=True)
    with house_style():
        return list(_draw(data, folder, formats))


def _draw(data: Solves, folder: Path, formats: Sequence[str]) -> Iterator[Drawn]:
    for objective in data.objectives:
        part = data.of(objective=objective)
        if not part.main:
            continue
        word = re.sub(r"[^A-Za-z0-9._-]+", "-", objective)
        for name, kind in PER_SIZE.items():
            for calls in part.sizes:
                own = part.of(calls=calls)
                if own.main:
                    path = folder / f"{name}--{word}--n{calls:03d}"
                    yield Drawn(name, objective, calls, kind.caption, save(kind.plot(own), path, formats))
        for name, kind in PER_OBJECTIVE.items():
            yield Drawn(name, objective, None, kind.caption, save(kind.plot(part), folder / f"{name}--{word}", formats))
