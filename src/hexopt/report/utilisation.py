"""How busy each instance was."""

from __future__ import annotations

from matplotlib.axes import Axes

from hexopt.report.data import RUN, Results
from hexopt.report.heat import draw_heat
from hexopt.report.style import new_axes


def plot_utilisation(data: Results, ax: Axes | None = None) -> Axes:
    """Draw the share of the run during which each instance computed, per policy, as a map."""
    ax = new_axes(ax)
    makespan = data.instances[RUN].merge(data.runs[[*RUN, "makespan_s"]], on=RUN, how="left")["makespan_s"]
    share = data.instances["busy_us"].astype(float) / 1e6 / makespan.to_numpy()
    draw_heat(ax, data, share, "busy share of the run")
    ax.set_title(f"Busy time by instance, % of the run (mean over seeds)\n{data.where}")
    return ax
