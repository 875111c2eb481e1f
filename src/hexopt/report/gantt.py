"""One window as a Gantt chart: what is committed already, and what a plan, if there is one, makes of the rest."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.axes import Axes

from hexopt.core.window import Window, WindowPlan
from hexopt.formulations.checker import Verdict, check
from hexopt.formulations.objective import BOTTLENECK, Objective
from hexopt.formulations.single_call import earliest_finish_us
from hexopt.report.style import below, new_axes

COMMITTED, BOUND, OPEN, WIRE = "#BDBDBD", "#56B4E9", "#E69F00", "#009E73"
MOST_NAMED = 48
"""Calls of larger windows are not named: it would not be readable."""

WHAT = {
    "bottleneck": "largest ratio",
    "sum": "sum of ratios",
    "hinge": "excess over the SLO scale, summed",
    "late": "workflows over the SLO scale",
}


class Bar(NamedTuple):
    """A stretch of a lane, µs after the cut; its first ``wire_us`` are a KV transfer."""

    start_us: int
    end_us: int
    colour: str
    name: str = ""
    wire_us: int = 0


class Lane(NamedTuple):
    """A row of the chart."""

    label: str
    bars: list[Bar]


def plot_window(
    window: Window, plan: WindowPlan | None = None, objective: Objective = BOTTLENECK, ax: Axes | None = None
) -> Axes:
    """Draw a window and, if one is given, where and when a plan has each call served, as the checker plays it.

    A lane per prefill instance, and per decode instance as many lanes as calls overlap there. Without a plan, or with
    one that breaks a rule, each call has a lane of its own that shows how long it would take alone at best.
    """
    verdict = None if plan is None else check(window, plan, objective)
    lanes = _committed(window) if plan is None or verdict is None or verdict.value is None else []
    if plan is not None and verdict is not None and verdict.value is not None:
        lanes = _planned(window, plan, verdict)
        title = f"{WHAT[objective.kind]} {verdict.value.objective:.4g}"
    else:
        lanes += _alone(window)
        title = f"the plan breaks rule {verdict.violations[0].rule}" if verdict is not None else "nothing planned yet"
    ax = new_axes(ax, rows=len(lanes))
    _draw(ax, lanes, named=len(window.calls) <= MOST_NAMED)
    ax.set_title(f"{window.name}: {len(window.calls)} calls of {len(window.workflows)} workflows\n{title}")
    return ax


def _committed(window: Window) -> list[Lane]:
    lanes = [Lane(f"{p.name} prefill", [Bar(0, p.free_us, COMMITTED)]) for p in window.prefill]
    for decode in window.decode:
        lanes += _stacked(decode.name, decode.kv_free_blocks, _releases(decode.releases))
    return lanes


def _planned(window: Window, plan: WindowPlan, verdict: Verdict) -> list[Lane]:
    lanes = []
    for p, prefill in enumerate(window.prefill):
        bars = [Bar(0, prefill.free_us, COMMITTED)]
        for c, call in enumerate(window.calls):
            if call.is_open and plan[c].prefill == p:
                bars.append(Bar(verdict.prefill_start_us[c], verdict.prefill_end_us[c], OPEN, call.id))
        lanes.append(Lane(f"{prefill.name} prefill", bars))
    for d, decode in enumerate(window.decode):
        bars = _releases(decode.releases)
        for c, call in enumerate(window.calls):
            if verdict.transfer_start_us[c] >= 0 and plan[c].decode == d:
                start, end = verdict.transfer_start_us[c], verdict.finish_us[c]
                wire = call.wire_us[plan[c].prefill][d] + window.options.latency_us
                bars.append(Bar(start, end, OPEN if call.is_open else BOUND, call.id, wire))
        lanes += _stacked(decode.name, decode.kv_free_blocks, bars)
    return lanes


def _alone(window: Window) -> list[Lane]:
    lanes = []
    for call in window.calls:
        start = 0 if call.is_open else call.available_us or 0
        end = max(start + 1, earliest_finish_us(window, call))
        lanes.append(Lane(f"{call.id}, alone", [Bar(start, end, OPEN if call.is_open else BOUND)]))
    return lanes


def _releases(releases: tuple[tuple[int, int], ...]) -> list[Bar]:
    return [Bar(0, us, COMMITTED, f"{blocks} blocks") for us, blocks in releases if us]


def _stacked(name: str, free: int, bars: list[Bar]) -> list[Lane]:
    """Distribute the bars of a decode instance over as few lanes as hold them without overlap, at least one."""
    rows: list[list[Bar]] = [[]]
    for bar in sorted(bars):
        row = next((r for r in rows if not r or r[-1].end_us <= bar.start_us), None)
        if row is None:
            rows.append([bar])
        else:
            row.append(bar)
    return [Lane(f"{name} decode ({free} blocks free)" if k == 0 else "", row) for k, row in enumerate(rows)]


def _draw(ax: Axes, lanes: list[Lane], named: bool) -> None:
    end_s = max((bar.end_us for lane in lanes for bar in lane.bars), default=1) / 1e6
    end_s = end_s or 1.0
    for y, lane in enumerate(lanes):
        for bar in lane.bars:
            start, length = bar.start_us / 1e6, (bar.end_us - bar.start_us) / 1e6
            ax.barh(y, length, left=start, height=0.8, color=bar.colour, edgecolor="white", lw=0.5)
            if bar.wire_us:
                ax.barh(y, min(bar.wire_us / 1e6, length), left=start, height=0.8, color=WIRE)
            if named and length > 0.011 * len(bar.name) * end_s:
                ax.text(start + length / 2, y, bar.name, ha="center", va="center", fontsize=7)
    ax.set_yticks(range(len(lanes)), [lane.label for lane in lanes], fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(lanes) - 0.4, -0.6)
    ax.set_xlim(0, end_s * 1.02)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("seconds after the cut")
    shown = {bar.colour for lane in lanes for bar in lane.bars}
    legend = {COMMITTED: "committed before", BOUND: "bound call", OPEN: "open call"}
    if any(bar.wire_us for lane in lanes for bar in lane.bars):
        legend[WIRE] = "KV transfer"
        shown.add(WIRE)
    entries = {colour: text for colour, text in legend.items() if colour in shown}
    for colour, text in entries.items():
        ax.bar(0, 0, color=colour, label=text)
    below(ax, len(entries), len(entries))
