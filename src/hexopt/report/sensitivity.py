"""How much a policy loses when its estimates of service times are wrong."""

from __future__ import annotations

import math
from itertools import pairwise

from matplotlib.axes import Axes

from hexopt.report.data import Results, number
from hexopt.report.style import below, new_axes, policy_looks


def needs(data: Results) -> str:
    """Say what is missing to draw this figure; empty if nothing is."""
    errors = [error for _, error in _errors(data)]
    if len(errors) < 2:
        return "the study has one estimate error"
    return "" if errors[0] == 0 else "the study has no run without estimate error to compare with"


def relative_req99(data: Results) -> dict[str, dict[float, tuple[float, list[float]]]]:
    """Return, per policy and estimate error, Req99 ÷ Req99 without error: of the means, and of every seed.

    With several traces, the mean over traces is divided, as in the paper's four-trace means (HexAGenT, its study of
    estimate errors). A policy without a finite Req99 at error 0 has nothing to be compared with and is left out.
    """
    result: dict[str, dict[float, tuple[float, list[float]]]] = {}
    for policy in data.policies:
        runs = data.runs[data.runs["policy"] == policy]
        by_seed = runs.assign(req99=runs["req99"].astype(float)).groupby(["estimate_error", "seed"])["req99"].mean()
        base = by_seed.get("0", by_seed.get(""))
        if base is None or not math.isfinite(base.mean()):
            continue
        result[policy] = {}
        for label, error in _errors(data):
            if label not in by_seed.index.get_level_values(0):
                continue
            own = by_seed.loc[label]
            seeds = [s for s in own.index if s in base.index]
            if seeds:
                ratio = float(own.loc[seeds].mean() / base.loc[seeds].mean())
                result[policy][error] = (ratio, [float(own.loc[s] / base.loc[s]) for s in seeds])
    return result


def plot_sensitivity(data: Results, ax: Axes | None = None) -> Axes:
    """Draw Req99 relative to that without error, in percent, over the estimate error; dots are single seeds."""
    ax = new_axes(ax, rows=len(data.policies))
    looks = policy_looks(data.policies)
    relative = relative_req99(data)
    errors = [100 * error for _, error in _errors(data)]
    step = min(b - a for a, b in pairwise(errors)) if len(errors) > 1 else 1.0
    for i, (policy, curve) in enumerate(relative.items()):
        look = looks[policy]
        finite = {error: value for error, value in curve.items() if math.isfinite(value[0])}
        shift = 0.25 * step * ((i + 0.5) / len(relative) - 0.5)
        ax.plot(
            [100 * error for error in finite], [100 * (ratio - 1) for ratio, _ in finite.values()], color=look.colour,
            linestyle=look.dash, marker=look.marker, markersize=6, linewidth=1.8, label=policy,
        )  # fmt: skip
        for error, (_, seeds) in finite.items():
            shown = [100 * (s - 1) for s in seeds if math.isfinite(s)]
            if len(seeds) > 1 and error != 0:
                ax.scatter([100 * error + shift] * len(shown), shown, s=9, color=look.colour, alpha=0.55, linewidth=0)
        for error in curve.keys() - finite.keys():
            ax.annotate(
                "∞", (100 * error + shift, 1), (0, -10), xycoords=ax.get_xaxis_transform(),
                textcoords="offset points", color=look.colour, ha="center", fontweight="bold",
            )  # fmt: skip
    ax.axhline(0, color="#555555", linewidth=0.9, zorder=1)
    ax.set_xticks(errors, [f"{error:g}" for error in errors])
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("error of the service-time estimates (%)")
    ax.set_ylabel("change of Req99 against no error (%)")
    traces, n = len(data.values("trace")), data.runs["seed"].nunique()
    ax.set_title(
        f"Sensitivity to estimate error (lower is better)\n{data.where}, "
        + (f"mean over {traces} traces, " if traces > 1 else "")
        + (f"mean of {n} seeds, dots are seeds" if n > 1 else "one seed")
    )
    below(ax, len(relative))
    return ax


def _errors(data: Results) -> list[tuple[str, float]]:
    # The unnamed value is no error.
    pairs = [(label, number(label) if label else 0.0) for label in data.values("estimate_error")]
    return sorted((p for p in pairs if math.isfinite(p[1])), key=lambda pair: pair[1])
