"""Write every figure that a result folder's data allow."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from hexopt.report.attainment import plot_attainment
from hexopt.report.data import Results
from hexopt.report.kv_peak import plot_kv_peak
from hexopt.report.latency import plot_latency
from hexopt.report.req_bars import plot_req_bars
from hexopt.report.style import house_style, save
from hexopt.report.timeline import plot_timeline
from hexopt.report.utilisation import plot_utilisation

PLOTS: dict[str, Callable[[Results], Axes]] = {
    "req": plot_req_bars,
    "attainment": plot_attainment,
    "latency": plot_latency,
    "utilisation": plot_utilisation,
    "kv_peak": plot_kv_peak,
}
"""Figures of any results, by file name."""


def write_figures(data: Results, folder: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write the figures of ``data`` into ``folder``, one set per cluster, and return the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with house_style():
        for cluster in data.clusters:
            part = data.of_cluster(cluster)
            suffix = "" if len(data.clusters) == 1 else "--" + re.sub(r"[^A-Za-z0-9._-]+", "-", cluster)
            for name, plot in PLOTS.items():
                written += save(plot(part), folder / f"{name}{suffix}", formats)
        if data.calls is not None:
            written += save(plot_timeline(data), folder / "timeline", formats)
    return written
