"""How full each instance's KV memory got."""

from __future__ import annotations

from matplotlib.axes import Axes

from hexopt.report.data import Results
from hexopt.report.heat import draw_heat
from hexopt.report.style import new_axes


def plot_kv_peak(data: Results, ax: Axes | None = None) -> Axes:
    """Draw the largest share of KV blocks in use at any instant, per policy and instance, as a map."""
    ax = new_axes(ax)
    share = data.instances["kv_peak_blocks"].astype(float) / data.instances["kv_capacity_blocks"].astype(float)
    draw_heat(ax, data, share, "peak share of KV blocks", zoom=True)
    ax.set_title(f"Peak KV memory by instance, % of its blocks (mean over seeds)\n{data.where}")
    return ax
