"""What a solver comparison says, in sentences and tables that are computed from it and claim no more than it shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hexopt.report.solvers.curves import gap_unit
from hexopt.report.solvers.data import Solves

RESAMPLES = 2000
FEW = 6
"""Windows below which an interval over them says little."""
EQUAL = 5e-4
"""Mean gaps closer than this are called equal: 0.05 percent points, or as much of a ratio or a count."""


class Cell(NamedTuple):
    """Who does best on windows of one size within one limit.

    Gaps are means of what would be served. ``level`` are those of the ``ranked`` solvers whose paired difference to the
    best has an interval that includes zero. ``gain`` is the best's paired gain over the greedy plan with its interval,
    ``None`` without a greedy plan.
    """

    objective: str
    calls: int
    limit_ms: float
    windows: int
    best: str
    gap: float
    level: tuple[str, ...]
    ranked: int
    greedy: float
    gain: tuple[float, float, float] | None

    @property
    def decided(self) -> bool:
        """Whether the best can be told from any of the others."""
        return len(self.level) < self.ranked - 1 or self.ranked == 1

    @property
    def pays(self) -> bool:
        """Whether the gain over the greedy plan is shown: its interval lies above zero, and it is no rounding."""
        return self.gain is not None and self.gain[1] > 0 and self.gain[0] > EQUAL


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95% percentile bootstrap interval over windows; nan bounds below two values."""
    found = np.asarray(values, dtype=float)
    if len(found) == 0:
        return math.nan, math.nan, math.nan
    if len(found) < 2:
        return float(found.mean()), math.nan, math.nan
    draws = np.random.default_rng(0).integers(0, len(found), (RESAMPLES, len(found)))
    low, high = np.quantile(found[draws].mean(axis=1), (0.025, 0.975))
    return float(found.mean()), float(low), float(high)


def cells(data: Solves) -> list[Cell]:
    """Return who does best, for each objective, size and limit."""
    found = []
    for objective in data.objectives:
        of = data.solves[data.solves["objective"] == objective]
        for calls in data.sizes:
            for limit in data.limits:
                part = of[(of["calls"] == calls) & (of["limit_ms"] == limit)]
                cell = _cell(part, data.main, objective, calls, limit)
                if cell is not None:
                    found.append(cell)
    return found


def _cell(part: pd.DataFrame, solvers: Sequence[str], objective: str, calls: int, limit: float) -> Cell | None:
    windows = sorted(set(part["instance"]))
    gaps = {s: part[part["solver"] == s].set_index("instance")["gap_served"].reindex(windows) for s in solvers}
    # Only those that tried all windows, and have something to serve on each, can be ranked by a mean.
    whole = {s: g for s, g in gaps.items() if not g.isna().any()}
    if not whole or not windows:
        return None
    best = min(whole, key=lambda s: (float(whole[s].mean()), list(solvers).index(s)))
    level = []
    for other, gap in whole.items():
        if other != best:
            mean, low, _ = interval((gap - whole[best]).tolist())
            if mean <= EQUAL or not low > 0:
                level.append(other)
    greedy = part.drop_duplicates("instance").set_index("instance")["greedy_gap"].reindex(windows)
    gain = None if greedy.isna().any() else interval((greedy - whole[best]).tolist())
    return Cell(
        objective,
        calls,
        limit,
        len(windows),
        best,
        float(whole[best].mean()),
        tuple(level),
        len(whole),
        float(greedy.mean()),
        gain,
    )


def headline_sentences(data: Solves) -> list[str]:
    """Say, per objective, who is best where, and where nobody beats the greedy plan."""
    sentences = []
    found = cells(data)
    for objective in data.objectives:
        own = [cell for cell in found if cell.objective == objective]
        if not own:
            sentences.append(
                f"**{objective}**: no solver has a plan, its own or a greedy one, on all windows of a size."
            )
            continue
        for limit in data.limits:
            at = [cell for cell in own if cell.limit_ms == limit]
            if at:
                sentences.append(f"**{objective}, {limit:g} ms**: {_at_limit(data.of(objective=objective), at)}")
    return sentences


def _at_limit(data: Solves, at: Sequence[Cell]) -> str:
    by_best: dict[str, list[Cell]] = {}
    for cell in at:
        if cell.decided:
            by_best.setdefault(cell.best, []).append(cell)
    parts = []
    for best, won in by_best.items():
        gap = max(cell.gap for cell in won)
        level = list(dict.fromkeys(other for cell in won for other in cell.level))
        shared = f", not always distinguishable from {' and '.join(level)}" if level else ""
        parts.append(f"{best} at {sizes_text(c.calls for c in won)} calls (mean gap at most {show(data, gap)}{shared})")
    text = f"smallest mean gap: {'; '.join(parts)}." if parts else ""
    open_ = [cell for cell in at if not cell.decided]
    if open_:
        text += f" All ranked solvers are level at {sizes_text(c.calls for c in open_)} calls."
    text = text.strip()
    judged = [cell for cell in at if cell.gain is not None]
    idle = [cell for cell in judged if not cell.pays]
    if judged and len(idle) == len(judged):
        return f"{text} **No solver is shown to be better than the greedy plan** at any size."
    if idle:
        text += f" No gain over the greedy plan is shown at {sizes_text(c.calls for c in idle)} calls."
    paying = [cell for cell in judged if cell.pays]
    if paying:
        most = max(paying, key=lambda cell: cell.gain or (0.0, 0.0, 0.0))
        assert most.gain is not None
        mean, low, high = (show(data, g) for g in most.gain)
        text += f" Largest gain over the greedy plan: {mean} [{low}, {high}] at {most.calls} calls, by {most.best}."
    return text


def caution_sentences(data: Solves) -> list[str]:
    """Say what a reader must know of the solves: errors, wrong bounds and values, broken promises, late answers."""
    table, out = data.solves, []
    for column, words in (
        ("misreported", "returned a value that is not the checker's (the checker's counts)"),
        ("bound_wrong", "claimed a bound above the value of a known plan; those bounds and proofs do not count"),
        ("worse_than_hint", "returned a plan worse than the hint that it was given, or none"),
    ):
        counts = table[table[column].astype(bool)].groupby("solver").size()
        out += [f"**{solver} {words}**: {_solves(int(count))}." for solver, count in counts.items()]
    failed = table[table["error"] != ""]
    for solver, part in failed.groupby("solver"):
        most = part["error"].value_counts()
        out.append(f"{solver}: {_solves(len(part))} ended with an error, most often: {most.index[0]}")
    late = table[table["overrun_s"] > 0.5 * table["limit_ms"] / 1000 + 0.005]
    for solver, part in late.groupby("solver"):
        worst = part.sort_values("overrun_s").iloc[-1]
        out.append(
            f"{solver}: {_solves(len(part))} took more than half again their limit and 5 ms; the latest came "
            f"{1000 * float(worst['overrun_s']):.0f} ms after {float(worst['limit_ms']):g} ms ({worst['instance']}, "
            f"{worst['objective']})."
        )
    if not out:
        out.append("No solve ended with an error, contradicted another, or took more than half again its limit.")
    source = table.drop_duplicates(["instance", "objective"])["best_known_from"].value_counts()
    total = int(source.sum())
    if total:
        known = {"library": "in the library alone", "study": "in this study alone", "both": "in both"}
        parts = [f"{source[key]} {words}" for key, words in known.items() if key in source]
        out.append(f"Best known values of {total} problems: {', '.join(parts)}.")
    proved = [_closed(part) for _, part in table.groupby(["instance", "objective"])]
    out.append(
        f"{sum(proved)} of {len(proved)} best known values are proved optimal; the others may be improved, and "
        "gaps to them are lower bounds of the true gaps."
    )
    return out


def _solves(count: int) -> str:
    return f"{count} solve{'s' * (count != 1)}"


def _closed(part: pd.DataFrame) -> bool:
    row = part.iloc[0]
    best, bound = float(row["best_known"]), float(row["best_bound"])
    return bool(bound >= best - 1e-9 * max(1.0, abs(best)))


def variant_rows(data: Solves) -> list[tuple[str, ...]]:
    """Return a row per variant, objective and limit: what it changes, and what that changes."""
    rows = []
    settings = {e["label"] or e["formulation"]: e for e in data.record["study"]["solvers"]}
    for variant, base in data.variants.items():
        changed = difference_text(settings[base], settings[variant])
        for objective in data.objectives:
            for limit in data.limits:
                pair = _pair(data.solves, base, variant, objective, limit)
                if pair.empty:
                    continue
                mean, low, high = interval((pair["gap_served_v"] - pair["gap_served_b"]).dropna().tolist())
                both = pair[pair["proved_b"].astype(bool) & pair["proved_v"].astype(bool)]
                ratio = (both["proved_s_v"] / both["proved_s_b"]).median() if len(both) else math.nan
                shares = [
                    f"{100 * pair[f'{what}_{side}'].mean():.0f}%"
                    for what in ("proved", "lacking")
                    for side in ("b", "v")
                ]
                one = data.of(objective=objective)
                shown = (
                    "–"
                    if math.isnan(mean)
                    else f"{show(one, mean, True)} [{show(one, low, True)}, {show(one, high, True)}]"
                )
                rows.append(
                    (base, changed, objective, f"{limit:g}", str(len(pair)), *shares, shown,
                     "–" if math.isnan(ratio) else f"{ratio:.2f}")
                )  # fmt: skip
    return rows


VARIANT_HEADINGS = (
    "solver", "variant: what differs", "objective", "limit ms", "windows", "proved", "proved, variant", "no plan",
    "no plan, variant", "gap: variant − solver", "time to proof: ratio",
)  # fmt: skip


def _pair(table: pd.DataFrame, base: str, variant: str, objective: str, limit: float) -> pd.DataFrame:
    at = table[(table["objective"] == objective) & (table["limit_ms"] == limit)]
    at = at.assign(lacking=at["value"].isna())[["instance", "solver", "gap_served", "proved", "lacking", "proved_s"]]
    left, right = (at[at["solver"] == label].drop(columns="solver") for label in (base, variant))
    return left.merge(right, on="instance", suffixes=("_b", "_v"))


def difference_text(base: Mapping[str, Any], variant: Mapping[str, Any]) -> str:
    """Say in which settings a variant differs from its base."""
    flat = [
        {**{k: v for k, v in e.items() if k != "options"}, **{f"option {k}": v for k, v in e["options"].items()}}
        for e in (base, variant)
    ]
    hidden = ("label", "variant_of", "objectives", "most_calls")
    keys = [k for k in dict.fromkeys([*flat[0], *flat[1]]) if k not in hidden and flat[0].get(k) != flat[1].get(k)]
    return ", ".join(f"{k}: {_plain(flat[0].get(k))} → {_plain(flat[1].get(k))}" for k in keys) or "nothing"


def _plain(value: Any) -> str:
    return "default" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def sizes_text(sizes: Iterable[int]) -> str:
    """Say a list of sizes.

    >>> sizes_text([4, 8, 64])
    '4, 8 and 64'
    """
    texts = [str(n) for n in sorted(set(sizes))]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def show(data: Solves, gap: float, signed: bool = False) -> str:
    """Return a gap with its unit, three digits at most."""
    if math.isnan(gap):
        return "–"
    unit, scale = gap_unit(data)
    value = scale * gap
    text = f"{value:{'+' if signed else ''}.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"
    return f"{text}%" if unit == "%" else text
