"""Write every figure that a result folder's data allow."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from hexopt.report import breakdown, busy_over_time, load_curve, planning, sensitivity, sizes
from hexopt.report.attainment import plot_attainment
from hexopt.report.data import Results, Setting
from hexopt.report.kv_peak import plot_kv_peak
from hexopt.report.latency import plot_latency
from hexopt.report.overview import plot_overview
from hexopt.report.paper import load_paper
from hexopt.report.req_bars import plot_req_bars
from hexopt.report.style import house_style, save
from hexopt.report.timeline import plot_timeline
from hexopt.report.utilisation import plot_utilisation


def _always(data: Results) -> str:
    return ""


@dataclass(frozen=True)
class Kind:
    """A figure: how it is drawn, what it shows in words, and why some data do not allow it (empty: they do)."""

    plot: Callable[[Results], Axes]
    caption: str
    needs: Callable[[Results], str] = _always


KINDS: dict[str, Kind] = {
    "req": Kind(
        lambda data: plot_req_bars(data, paper=load_paper()),
        "SLO scale at which 95% and 99% of workflows finish in time. Whiskers: 95% bootstrap interval of the mean over "
        "seeds. Hollow diamonds, where the cluster and the trace bear the paper's names: its published figures.",
    ),
    "attainment": Kind(
        plot_attainment,
        "Share of workflows within α × their standalone latency. Dots mark 95% and 99%; an unfinished workflow is "
        "never within.",
    ),
    "latency": Kind(plot_latency, "Workflow latency from arrival to last token."),
    "sizes": Kind(
        sizes.plot_sizes,
        "Latency ÷ standalone latency by the number of calls in the workflow: median and 95th percentile.",
        sizes.needs,
    ),
    "breakdown": Kind(
        breakdown.plot_breakdown,
        "Mean time along each finished workflow's critical path: from its last completed call backwards, always to the "
        "parent that completed last. The parts add up to the latency exactly. Queue for prefill includes the wait for "
        "a placement, transfer the wait for the network interfaces.",
        breakdown.needs,
    ),
    "utilisation": Kind(plot_utilisation, "Share of the run in which each instance computed, mean over seeds."),
    "busy_over_time": Kind(
        busy_over_time.plot_busy_over_time,
        "Share of each time bin in which each instance computed, first seed, a row per instance.",
        busy_over_time.needs,
    ),
    "kv_peak": Kind(plot_kv_peak, "Largest share of KV blocks in use at any instant, mean over seeds."),
    "planning": Kind(
        lambda data: planning.plot_planning(data, paper=load_paper().planner),
        "Planning time per invocation by the wall clock: mean, median, 99th percentile and longest of each run. "
        "The paper's figures come from other hardware and other code.",
        planning.needs,
    ),
}
"""Figures of one setting, by file name."""

PLOTS: dict[str, Callable[[Results], Axes]] = {
    "req": plot_req_bars,
    "attainment": plot_attainment,
    "latency": plot_latency,
    "sizes": sizes.plot_sizes,
    "breakdown": breakdown.plot_breakdown,
    "utilisation": plot_utilisation,
    "busy_over_time": busy_over_time.plot_busy_over_time,
    "kv_peak": plot_kv_peak,
    "planning": planning.plot_planning,
}
"""Their functions, each ``plot_x(data, ax=None)``."""

OVERVIEW = Kind(
    lambda data: plot_overview(data, paper=load_paper()),
    "Mean Req99 per cluster and trace, a mark per policy with its 95% interval. Hollow diamonds: "
    "the paper's HexAGenT, where cluster and trace bear the paper's names.",
)
LOAD = Kind(
    load_curve.plot_load,
    "Mean Req99 over load with its 95% interval. A policy has collapsed where its Req99 is infinite or more than "
    f"{load_curve.COLLAPSE:g} × that at the lowest load, and stays so.",
    load_curve.needs,
)
SENSITIVITY = Kind(
    sensitivity.plot_sensitivity,
    "Change of Req99 against the same policy without estimate error.",
    sensitivity.needs,
)
TIMELINE = Kind(plot_timeline, "What ran when: prefill batches, decode batch sizes, waiting calls.")


@dataclass(frozen=True)
class Drawn:
    """A figure that was written, or why it was not."""

    name: str
    setting: Setting
    caption: str
    paths: tuple[Path, ...] = ()
    lacking: str = ""


QUICK = ("req", "attainment", "latency", "utilisation", "kv_peak", "overview", "load", "sensitivity")
"""Figures that need the runs' summaries, workflows and instances alone."""


def draw_figures(
    data: Results, folder: Path, formats: Sequence[str] = ("png", "svg"), names: Sequence[str] | None = None
) -> list[Drawn]:
    """Write the figures of ``data`` into ``folder``, a set per cluster and trace, and return what became of each.

    ``names`` chooses among them; all if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Drawn] = []
    bases = data.bases

    def draw(name: str, kind: Kind, part: Results, setting: Setting) -> None:
        if names is not None and name not in names:
            return
        lacking = kind.needs(part)
        if lacking:
            drawn.append(Drawn(name, setting, kind.caption, lacking=lacking))
            return
        several = len(bases) > 1 and setting.cluster
        suffix = "--".join(["", *(_word(t) for t in (setting.cluster, setting.trace) if t)]) if several else ""
        drawn.append(
            Drawn(name, setting, kind.caption, tuple(save(kind.plot(part), folder / f"{name}{suffix}", formats)))
        )

    with house_style():
        for base in bases:
            here = data.of(cluster=base.cluster, trace=base.trace)
            for name, kind in KINDS.items():
                draw(name, kind, data.of_setting(base), base)
            if len(here.values("load")) > 1:
                draw("load", LOAD, here.of(estimate_error=base.estimate_error), base._replace(load=""))
            if len(here.values("estimate_error")) > 1:
                draw("sensitivity", SENSITIVITY, here.of(load=base.load), base._replace(estimate_error=""))
        if len(bases) > 1:
            draw("overview", OVERVIEW, data, Setting(""))
        if data.calls is not None:
            draw("timeline", TIMELINE, data, bases[0])
    return drawn


def write_figures(
    data: Results, folder: Path, formats: Sequence[str] = ("png", "svg"), names: Sequence[str] | None = None
) -> list[Path]:
    """Write the figures of ``data`` into ``folder`` and return the files written."""
    return [path for figure in draw_figures(data, folder, formats, names) for path in figure.paths]


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)
