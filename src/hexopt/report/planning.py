"""How long planning took, by the wall clock."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from hexopt.report.data import Results
from hexopt.report.style import below, log_x, new_axes, policy_looks


def needs(data: Results) -> str:
    """Say what is missing to draw this figure; empty if nothing is."""
    if "plan_ms_mean" not in data.timing or not data.timing["plan_ms_mean"].notna().any():
        return "no planning times are recorded"
    return ""


def plot_planning(data: Results, ax: Axes | None = None, paper: Mapping[str, float] | None = None) -> Axes:
    """Draw how each run's planning times per invocation are distributed, per policy.

    A bar from the median to the 99th percentile (where the run recorded them), a dot for the mean, a triangle for the
    longest plan. ``paper`` may name ``mean_low_ms``, ``mean_high_ms`` and
    ``worst_mean_ms``, which are drawn as a band and a line: other hardware and other code, so an order of magnitude.
    """
    timing = data.timing[data.timing["plan_ms_mean"].notna()]
    policies = [p for p in data.policies if (timing["policy"] == p).any()]
    ax = new_axes(ax, rows=len(policies))
    looks = policy_looks(data.policies)
    floor = 1e-3  # a microsecond: what is shorter is nothing
    for y, policy in enumerate(policies):
        mine = timing[timing["policy"] == policy]
        spread = [y + 0.5 * ((j + 0.5) / len(mine) - 0.5) for j in range(len(mine))]
        means = mine["plan_ms_mean"].astype(float).clip(lower=floor)
        longest = mine["plan_ms_max"].astype(float).clip(lower=floor)
        ax.hlines(spread, means, longest, color=looks[policy].colour, linewidth=0.8, alpha=0.6)
        if "plan_ms_p50" in mine:
            middle, late = (mine[f"plan_ms_{name}"].astype(float).clip(lower=floor) for name in ("p50", "p99"))
            ax.hlines(spread, middle, late, color=looks[policy].colour, linewidth=4, alpha=0.5)
        ax.plot(means, spread, "o", color=looks[policy].colour, markersize=5)
        ax.plot(longest, spread, ">", color=looks[policy].colour, markerfacecolor="white", markersize=5)
    ax.plot([], [], "o", color="#333333", label="mean of a run")
    ax.plot([], [], ">", color="#333333", markerfacecolor="white", label="longest of a run")
    if "plan_ms_p50" in timing:
        ax.plot([], [], color="#333333", linewidth=4, alpha=0.5, label="median to 99th percentile")
    if paper is not None:
        label = f"HexAGenT paper: means {paper['mean_low_ms']:g} to {paper['mean_high_ms']:g} ms"
        ax.axvspan(paper["mean_low_ms"], paper["mean_high_ms"], color="#CCCCCC", alpha=0.6, zorder=0, label=label)
        ax.axvline(
            paper["worst_mean_ms"], color="#555555", linestyle=(0, (2, 2)), zorder=0,
            label=f"its worst trace mean {paper['worst_mean_ms']:g} ms",
        )  # fmt: skip
    log_x(ax, decades=True)
    ax.set_yticks(range(len(policies)), policies)
    ax.set_ylim(len(policies) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("planning time per invocation (ms, wall clock, log)")
    ax.set_ylabel("policy")
    runs = "1 run" if len(timing) == 1 else f"{len(timing)} runs"
    ax.set_title(f"Planning time of each run\n{data.where}, {runs}, on the machine they ran on")
    below(ax, 5, columns=2)
    return ax
