"""Req95 and Req99 per policy: the headline of a comparison."""

from __future__ import annotations

import math

from matplotlib.axes import Axes

from hexopt.report.data import Results
from hexopt.report.style import new_axes, policy_colours

METRICS = (("req95", "Req95"), ("req99", "Req99"))


def plot_req_bars(data: Results, ax: Axes | None = None) -> Axes:
    """Draw a bar per policy and metric (mean over seeds), its 95% interval as a whisker, every seed as a dot."""
    ax = new_axes(ax)
    policies = data.policies
    colours = policy_colours(policies)
    width = 0.8 / len(policies)
    finite = [v for metric, _ in METRICS for v in data.runs[metric].astype(float) if math.isfinite(v)]
    top = max(finite, default=1.0) * 1.12
    for group, (metric, _) in enumerate(METRICS):
        for i, policy in enumerate(policies):
            x = group + (i - (len(policies) - 1) / 2) * width
            seeds = data.runs.loc[data.runs["policy"] == policy, metric].astype(float).to_list()
            mean = sum(seeds) / len(seeds)
            endless = not math.isfinite(mean)  # some workflow did not finish: no scale is wide enough
            ax.bar(
                x,
                top if endless else mean,
                width * 0.92,
                color=colours[policy],
                alpha=0.35 if endless else 1,
                hatch="//" if endless else None,
                label=policy if group == 0 else None,
            )
            interval = _interval(data, policy, metric)
            if interval and not endless:
                low, high = interval
                ax.errorbar(
                    x, mean, yerr=[[max(0, mean - low)], [max(0, high - mean)]], color="black", capsize=4, lw=1.4
                )
            shown = [v for v in seeds if math.isfinite(v)]
            if len(seeds) > 1:
                # Beside the whisker, not on it.
                spread = [x + width * (0.16 + 0.18 * j / len(shown)) for j in range(len(shown))]
                ax.scatter(spread, shown, s=16, color="white", edgecolor="black", linewidth=0.7, zorder=3)
            text_y = top if endless else max([mean, *shown, interval[1] if interval else 0])
            ax.annotate(
                "∞" if endless else f"{mean:#.3g}", (x, text_y), (0, 5), textcoords="offset points", ha="center"
            )
    ax.set_xticks(range(len(METRICS)), [label for _, label in METRICS])
    ax.set_ylim(0, top * 1.03)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("metric")
    ax.set_ylabel("SLO scale needed (× standalone latency)")
    n = data.runs["seed"].nunique()
    ax.set_title(
        f"SLO scale at which 95% and 99% of workflows finish in time (lower is better)\n{', '.join(data.clusters)}, "
        + (f"mean of {n} seeds with 95% bootstrap interval, dots are seeds" if n > 1 else "one run")
    )
    ax.legend(ncols=min(len(policies), 5), loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return ax


def _interval(data: Results, policy: str, metric: str) -> tuple[float, float] | None:
    if data.summary.empty:
        return None
    row = data.summary[(data.summary["policy"] == policy) & (data.summary["metric"] == metric)]
    if len(row) != 1:
        return None
    low, high = float(row["ci_low"].iloc[0]), float(row["ci_high"].iloc[0])
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None
