"""Req95 and Req99 per policy: the headline of a comparison."""

from __future__ import annotations

import math

from matplotlib.axes import Axes

from hexopt.report.data import Results
from hexopt.report.paper import Paper
from hexopt.report.style import below, log_y_if_wide, new_axes, policy_looks

METRICS = (("req95", "Req95"), ("req99", "Req99"))
CROWDED = 6
"""Policies beyond which numbers stand upright and single seeds are left out."""


def plot_req_bars(data: Results, ax: Axes | None = None, paper: Paper | None = None) -> Axes:
    """Draw a bar per policy and metric (mean over seeds), its 95% interval as a whisker, every seed as a dot.

    ``paper`` adds hollow diamonds: what is published for a policy of that name on a cluster and trace of that name.
    A policy with an unfinished workflow has no scale that is wide enough: a pale bar up to the top, marked ∞.
    """
    ax = new_axes(ax, rows=len(data.policies))
    policies = data.policies
    looks, names = policy_looks(policies), data.named()
    crowded = len(policies) > CROWDED
    width = 0.84 / len(policies)
    here = (data.clusters[0], data.values("trace")[0])
    published = {p: paper.beside(*here, names[p]) for p in policies} if paper else {}
    finite = [v for metric, _ in METRICS for v in data.runs[metric].astype(float) if math.isfinite(v)]
    finite += [v for pair in published.values() if pair for v in pair]
    log_y_if_wide(ax, finite, "SLO scale needed (× standalone latency)")
    bottom, top = ax.get_ylim()
    size = 11 if len(policies) <= 4 else 9 if not crowded else 8
    for group, (metric, _) in enumerate(METRICS):
        for i, policy in enumerate(policies):
            look = looks[policy]
            x = group + (i - (len(policies) - 1) / 2) * width
            seeds = data.runs.loc[data.runs["policy"] == policy, metric].astype(float).to_list()
            mean = sum(seeds) / len(seeds)
            endless = not math.isfinite(mean)
            ax.bar(
                x,
                (top if endless else mean) - bottom,
                width * 0.92,
                bottom=bottom,
                color=look.colour,
                edgecolor="white" if look.hatch and not endless else "none",
                linewidth=0,
                alpha=0.35 if endless else 1,
                hatch="//" if endless else look.hatch,
                label=policy if group == 0 else None,
            )
            interval = data.interval(policy, metric)
            if interval and not endless:
                low, high = interval
                ax.errorbar(
                    x,
                    mean,
                    yerr=[[max(0, mean - low)], [max(0, high - mean)]],
                    color="black",
                    capsize=2 if crowded else 4,
                    lw=1.4,
                )
            shown = [v for v in seeds if math.isfinite(v)] if not crowded else []
            if len(seeds) > 1 and shown:
                # Beside the whisker, not on it.
                spread = [x + width * (0.16 + 0.18 * j / len(shown)) for j in range(len(shown))]
                ax.scatter(spread, shown, s=16, color="white", edgecolor="black", linewidth=0.7, zorder=3)
            beside = published.get(policy)
            text_y = top if endless else max([mean, *shown, interval[1] if interval else 0])
            if beside:
                ax.plot(
                    x - width * 0.3, beside[group], "D", color="black", markerfacecolor="none", markeredgewidth=1.5,
                    markersize=8 if not crowded else 6, zorder=4,
                )  # fmt: skip
                if 0 < (beside[group] - text_y) / top < 0.12:  # the number would stand on the diamond
                    text_y = beside[group]
            ax.annotate(
                "∞" if endless else f"{mean:#.3g}".rstrip("."),
                (x, text_y),
                (0, -4 if endless else 6 if beside else 5),
                textcoords="offset points",
                ha="center",
                va="top" if endless else "bottom",
                fontsize=13 if endless else size,
                rotation=90 if crowded and not endless else 0,
            )
    if any(published.values()):
        ax.plot([], [], "D", color="black", markerfacecolor="none", markeredgewidth=1.5, label="HexAGenT paper")
    if crowded and ax.get_yscale() == "linear":
        ax.set_ylim(0, top * 1.1)  # upright numbers are taller
    ax.set_xticks(range(len(METRICS)), [label for _, label in METRICS])
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("metric")
    n = data.runs["seed"].nunique()
    ax.set_title(
        f"SLO scale at which 95% and 99% of workflows finish in time (lower is better)\n{data.where}, "
        + (f"mean of {n} seeds with 95% interval" + ("" if crowded else ", dots are seeds") if n > 1 else "one run")
    )
    below(ax, len(policies) + 1)
    return ax
