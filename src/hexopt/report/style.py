"""What all figures share: size, type, one colour per policy, and files whose bytes depend on the data alone."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import offset_copy

SIZE_INCHES = (8.0, 4.5)
DPI = 150
"""1,200 pixels wide: readable in a README, a slide or a column of print."""

MOST_INCHES = 11.0
"""Height of the tallest figure: a page."""

WIDE = 10.0
"""The ratio of largest to smallest value beyond which an axis is logarithmic."""

OKABE_ITO = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C8C8C")
"""Okabe and Ito's palette: told apart under the common forms of colour blindness, and by lightness in print."""

FIXED = {
    "fcfs": "#8C8C8C",
    "workflow-fcfs": "#E69F00",
    "earliest-finish": "#56B4E9",
    "hexagent": "#0072B2",
    "round-robin": "#CC79A7",
    "random": "#009E73",
    "replay": "#000000",
    "workflow-llf": "#009E73",
    "autellix-atlas": "#CC79A7",
}
"""Shipped policies keep their colour from one figure and one experiment to the next, unless two of one colour meet."""

DASHES: tuple[Any, ...] = ((0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1)))
"""Line styles, so that curves are told apart without colour too; the last policy, in hexopt the proposal, is solid."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
HATCHES = (None, "///", "...", "xx")
"""Hatch of the first, second, … policy of one colour: eight colours do not do for twelve policies."""

RC: dict[Any, Any] = {
    "figure.figsize": SIZE_INCHES,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "svg.hashsalt": "hexopt",  # element ids are random without it
    "svg.fonttype": "path",  # the same picture on a machine without the font
}


class Look(NamedTuple):
    """How a policy is drawn: equal for no two of the policies in a figure."""

    colour: str
    dash: Any
    marker: str
    hatch: str | None


def policy_looks(policies: Sequence[str]) -> dict[str, Look]:
    """Return the look of each policy label."""
    colours, dashes = policy_colours(policies), policy_dashes(policies)
    looks: dict[str, Look] = {}
    # Whose colour is its own stays plain.
    order = sorted(range(len(policies)), key=lambda i: FIXED.get(policies[i]) != colours[policies[i]])
    for i in order:
        policy = policies[i]
        before = sum(look.colour == colours[policy] for look in looks.values())
        looks[policy] = Look(
            colours[policy], dashes[policy], MARKERS[i % len(MARKERS)], HATCHES[min(before, len(HATCHES) - 1)]
        )
    return looks


def policy_colours(policies: Sequence[str]) -> dict[str, str]:
    """Return a colour per policy label: the fixed one of a shipped policy, else the next that is free."""
    colours: dict[str, str] = {}
    for policy in policies:
        if policy in FIXED and FIXED[policy] not in colours.values():
            colours[policy] = FIXED[policy]
    free = [colour for colour in OKABE_ITO if colour not in colours.values()]
    for i, policy in enumerate(p for p in policies if p not in colours):
        colours[policy] = free[i] if i < len(free) else OKABE_ITO[(i - len(free)) % len(OKABE_ITO)]
    return colours


def policy_dashes(policies: Sequence[str]) -> dict[str, Any]:
    """Return a line style per policy label."""
    dashes = {policy: DASHES[i % len(DASHES)] for i, policy in enumerate(policies[:-1])}
    return dashes | dict.fromkeys(policies[-1:], "-")


@contextmanager
def house_style() -> Generator[None]:
    """Draw in hexopt's style whatever the user's own matplotlib settings are, and leave those alone."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def new_axes(ax: Axes | None, rows: int = 0) -> Axes:
    """Return ``ax``, or the axes of a new figure that no window system knows of, taller if it has many ``rows``."""
    if ax is not None:
        return ax
    width, height = SIZE_INCHES
    height = min(MOST_INCHES, height + 0.3 * max(0, rows - 8))
    figure = Figure(figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def log_x(ax: Axes, decades: bool = False) -> None:
    """Make x logarithmic with plain numbers at 1, 2, 5 times the powers of ten, or at the powers alone."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades else (1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def log_y_if_wide(ax: Axes, values: Sequence[float], label: str, least: float = 0.0) -> bool:
    """Label y and end it above the ``values``, logarithmic where they span more than a factor of ten."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    wide = low > 0 and high > WIDE * low
    if wide:
        ax.set_yscale("log")
        subs = (1.0,) if high > 1000 * low else (1.0, 2.0, 5.0)
        ax.yaxis.set_major_locator(LogLocator(subs=subs))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylim(max(least, 0.8 * low), high * (high / low) ** 0.08)
    else:
        ax.set_ylim(0, high * 1.12)
    ax.set_ylabel(f"{label}, log" if wide else label)
    return wide


def below(ax: Axes, entries: int, columns: int | None = None, drop: float = 38) -> None:
    """Put the legend of so many ``entries`` under the axes, ``drop`` points below them."""
    figure = ax.get_figure(root=True)
    if columns is None:
        longest = max((len(text) for text in ax.get_legend_handles_labels()[1]), default=1)
        columns = max(1, min(entries, math.floor(88 / (longest + 7))))
    ax.legend(
        ncols=columns, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=0,
        bbox_transform=offset_copy(ax.transAxes, figure, y=-drop, units="points"),
    )  # fmt: skip


def save(ax: Axes, path: Path, formats: Sequence[str]) -> list[Path]:
    """Write the figure of ``ax`` as ``path`` with each format's suffix; equal data give equal bytes."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    written = []
    for suffix in formats:
        target = path.with_name(f"{path.name}.{suffix}")
        # Dates and versions in the metadata would make equal pictures differ.
        metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
        figure.savefig(target, format=suffix, metadata=metadata)
        written.append(target)
    return written
