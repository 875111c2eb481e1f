"""Figures of a comparison: quality over time limit, and what happens as windows grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from hexopt.report.solvers.data import Solves
from hexopt.report.style import below, log_x, new_axes, policy_looks

LINEAR_TO = 0.1
"""Percent up to which a gap's axis is linear; 0 is a value that occurs."""


def plot_gap(data: Solves, ax: Axes | None = None) -> Axes:
    """Draw the mean gap of what would be served over the time limit, a line a solver, the greedy plan's dashed.

    What is served is the better of the solver's plan and the greedy one (without a greedy plan: the solver's).
    """
    ax = new_axes(ax)
    table = data.solves.groupby(["solver", "limit_ms"])["gap_served"].mean()
    unit, scale = gap_unit(data)
    tops = _lines(ax, data, table, scale)
    greedy = scale * data.solves.drop_duplicates(["instance", "objective"])["greedy_gap"].mean()
    if not math.isnan(greedy):
        ax.axhline(greedy, color="black", ls=(0, (2, 2)), lw=1.2, label="greedy plan alone")
        tops.append(greedy)
    _limits_axis(ax, data)
    _gap_axis(ax, tops)
    ax.set_ylabel(f"mean gap to best known ({unit})")
    ax.set_title(f"What the time limit buys\n{data.where}; lower is better")
    below(ax, len(data.main) + 1)
    return ax


def plot_no_plan(data: Solves, ax: Axes | None = None) -> Axes:
    """Draw the share of solves without any plan over the time limit."""
    ax = new_axes(ax)
    lacking = data.solves.assign(lacking=data.solves["value"].isna())
    _lines(ax, data, lacking.groupby(["solver", "limit_ms"])["lacking"].mean(), 100)
    _limits_axis(ax, data)
    ax.set_ylim(-3, 103)
    ax.set_ylabel("solves without a plan (%)")
    ax.set_title(f"Who has nothing when the time is up\n{data.where}; lower is better")
    below(ax, len(data.main))
    return ax


def plot_overrun(data: Solves, ax: Axes | None = None) -> Axes:
    """Draw by how much solves exceed their limit: the 95th percentile, over the limit."""
    ax = new_axes(ax)
    table = data.solves.groupby(["solver", "limit_ms"])["overrun_s"].quantile(0.95)
    tops = _lines(ax, data, table, 1000)
    _limits_axis(ax, data)
    _gap_axis(ax, tops, 1.0)
    ax.set_ylabel("overrun, 95th percentile (ms)")
    ax.set_title(f"Who keeps the limit\n{data.where}; lower is better")
    below(ax, len(data.main))
    return ax


def plot_proved(data: Solves, ax: Axes | None = None) -> Axes:
    """Draw the share of windows solved to a proved optimum within the largest limit, over their size."""
    ax = new_axes(ax)
    _by_size(ax, data, lambda part: part["proved"].mean(), 100)
    ax.set_ylim(-3, 103)
    ax.set_ylabel("proved optimal (%)")
    ax.set_title(f"Optimality proved within {_limit(data)}\n{data.where}; higher is better")
    return ax


def plot_first_incumbent(data: Solves, ax: Axes | None = None) -> Axes:
    """Draw the median time to the first plan over the size, of solves within the largest limit that have one."""
    ax = new_axes(ax)
    _by_size(ax, data, lambda part: part["first_incumbent_s"].median(), 1000)
    _log_y(ax)
    ax.set_ylabel("time to first plan, median (ms, log)")
    ax.set_title(f"Time to the first plan\n{data.where}, solves within {_limit(data)} that have one; lower is better")
    return ax


def plot_bounds(data: Solves, ax: Axes | None = None) -> Axes:
    """Draw the mean gap between the proved bound and the best known value over the size, within the largest limit."""
    ax = new_axes(ax)
    unit, scale = gap_unit(data)
    tops = _by_size(ax, data, lambda part: part["bound_gap"].mean(), scale)
    _gap_axis(ax, tops)
    ax.set_ylabel(f"best known − bound, mean ({unit})")
    ax.set_title(f"Quality of bounds within {_limit(data)}\n{data.where}, solves that have one; lower is better")
    return ax


def plot_model_size(data: Solves, ax: Axes | None = None) -> Axes:
    """Draw the median number of variables and constraints of the models over the size of the window."""
    ax = new_axes(ax)
    built = data.solves[data.solves["variables"] > 0]
    sized = built.assign(rows=built["variables"] + built["constraints"])
    _by_size(ax, data, lambda part: sized.loc[sized.index.intersection(part.index), "rows"].median(), 1)
    _log_y(ax)
    ax.set_ylabel("variables + constraints, median (count, log)")
    ax.set_title(f"Size of the models\n{data.where}")
    return ax


def gap_unit(data: Solves) -> tuple[str, float]:
    """Return the unit of the gaps of the objectives shown, and what the table's values are multiplied by."""
    absolute = all(text.startswith(("late", "hinge")) for text in data.objectives)
    if absolute and data.objectives:
        return ("workflows" if data.objectives[0].startswith("late") else "ratio"), 1.0
    return "%", 100.0


def _lines(ax: Axes, data: Solves, table: pd.Series[Any], scale: float) -> list[float]:
    """Draw a line per solver over the limits; return all values."""
    looks, values = policy_looks(data.main), []
    for solver in data.main:
        points = [(ms, scale * float(table[solver, ms])) for ms in data.limits if (solver, ms) in table.index]
        points = [(ms, y) for ms, y in points if not math.isnan(y)]
        look = looks[solver]
        ax.plot(
            [x for x, _ in points], [y for _, y in points], color=look.colour, ls=look.dash, marker=look.marker,
            lw=1.8, markersize=6, label=solver,
        )  # fmt: skip
        values += [y for _, y in points]
    return values


def _by_size(ax: Axes, data: Solves, measure: Callable[[pd.DataFrame], float], scale: float) -> list[float]:
    """Draw a line per solver over the sizes, of its solves within the largest limit; return all values."""
    looks, values = policy_looks(data.main), []
    last = data.solves[data.solves["limit_ms"] == max(data.limits, default=0.0)]
    for solver in data.main:
        own = last[last["solver"] == solver]
        points = [(n, scale * float(measure(own[own["calls"] == n]))) for n in data.sizes if (own["calls"] == n).any()]
        points = [(n, y) for n, y in points if not math.isnan(y)]
        look = looks[solver]
        ax.plot(
            [x for x, _ in points], [y for _, y in points], color=look.colour, ls=look.dash, marker=look.marker,
            lw=1.8, markersize=6, label=solver,
        )  # fmt: skip
        values += [y for _, y in points]
    ax.set_xscale("log", base=2)
    ax.set_xticks(data.sizes, [str(n) for n in data.sizes])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("calls in the window (log)")
    below(ax, len(data.main))
    return values


def _limits_axis(ax: Axes, data: Solves) -> None:
    log_x(ax)
    ax.set_xticks(data.limits, [f"{ms:g}" for ms in data.limits])
    ax.minorticks_off()
    ax.set_xlabel("time limit (ms, log)")


def _gap_axis(ax: Axes, values: Sequence[float], linear_to: float = LINEAR_TO) -> None:
    """Start y at 0, and let it grow by powers of ten where values do."""
    top = max(values, default=1.0)
    if top > 10 * linear_to:
        ax.set_yscale("symlog", linthresh=linear_to, linscale=0.5)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.set_ylim(-0.2 * linear_to, top * 1.6)
    else:
        ax.set_ylim(-0.03 * max(top, 1e-6), max(top, 1e-6) * 1.12)


def _log_y(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _limit(data: Solves) -> str:
    return f"{max(data.limits, default=0.0):g} ms"
