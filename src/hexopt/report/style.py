"""What all figures share: size, type, one colour per policy, and files whose bytes depend on the data alone."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

SIZE_INCHES = (8.0, 4.5)
DPI = 150
"""1,200 pixels wide: readable in a README, a slide or a column of print."""

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
}
"""Shipped policies keep their colour from one figure and one experiment to the next."""

DASHES: tuple[Any, ...] = ((0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1)))
"""Line styles, so that curves are told apart without colour too; the last policy, in hexopt the proposal, is solid."""

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


def policy_colours(policies: Sequence[str]) -> dict[str, str]:
    """Return a colour per policy label: the fixed one of a shipped policy, else the next that is free."""
    colours = {policy: FIXED[policy] for policy in policies if policy in FIXED}
    free = [colour for colour in OKABE_ITO if colour not in colours.values()] or list(OKABE_ITO)
    for i, policy in enumerate(p for p in policies if p not in FIXED):
        colours[policy] = free[i % len(free)]
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


def new_axes(ax: Axes | None) -> Axes:
    """Return ``ax``, or the axes of a new figure that no window system knows of."""
    if ax is not None:
        return ax
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def log_x(ax: Axes) -> None:
    """Make x logarithmic with plain numbers at 1, 2, 5 times the powers of ten."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


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
