"""How wrong a window is about the future that it describes, by cause and by horizon, regime by regime.

    python experiments/window_error.py [--windows 4] [--workflows 80] [--out results/window_error] [--only NAME]
                                       [--gain]

A row is a run: the sample trace and generated ones at a moderate load, then the regimes of ``make_instances.py``. From
each, windows of all waiting calls are cut under HexAGenT, once with the predictor ``app-mean`` and once with true
lengths; a greedy plan of each window is foretold by the checker and carried out by the engine
(``hexopt.experiments.window_error``). Each run's calls are one CSV file, in a folder of its own for each ``--windows``
and ``--workflows``; runs that are there are not simulated again, whatever has changed in the code: then name another
``--out``.

With ``--gain`` each window is planned twice, greedily and by local search for the sum of ratios, and what the checker
promises of the second plan stands beside what the engine makes of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from make_instances import REGIMES, Source, quarter_of, trace_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import hexopt
from hexopt.core.cluster import Cluster
from hexopt.core.window import Window, WindowPlan
from hexopt.experiments.window_error import CAUSES, STAGES, WORLDS, Future, Planner, errors, window_futures
from hexopt.formulations import Budget, make_formulation, parse_objective
from hexopt.formulations.checker import workflow_ends
from hexopt.formulations.greedy import greedy_plan
from hexopt.metrics.quantiles import quantile
from hexopt.report.style import DPI, OKABE_ITO, house_style, log_x

PREDICTORS = ("app-mean", "oracle")
MODERATE = (
    Source("sample", "hetero-1-llama", "sample", 0.8),
    Source("bfcl", "hetero-2-llama", "bfcl", 0.8),
    Source("chat", "hetero-1-qwen", "sharegpt", 0.8),
    Source("claude", "hetero-2-qwen", "claude-code", 0.8, parameters="fitted"),
    Source("swe", "homogeneous-qwen", "swe-agent", 0.8, parameters="fitted"),
    Source("lats", "hetero-1-llama", "lats", 0.8),
)
"""Runs at a share of the cluster's capacity that a deployment would have; the regimes are all overloaded."""
SOURCES_A_REGIME = 2
SMALL = ("tight-kv", "strict-kv")
"""Regimes whose runs are on a quarter of the cluster: so few workflows would not fill the room of all of it."""
LEAST, MOST = 4, 128
"""Open calls of a window."""
SUM = parse_objective("sum")
HORIZONS_S = (0.0, 0.5, 2.0, 8.0, np.inf)
"""Calls are told apart by when they are foretold to be done, s after the cut."""
SHOWN = {
    "lengths": "output lengths",
    "cap": "batch of max_new, not the plan's",
    "batch": "batch as it changes, boundaries",
    "later": "calls that come later",
}


class Size(NamedTuple):
    """How many windows of a run and predictor, and how many workflows it has."""

    windows: int
    workflows: int


def runs() -> Iterator[tuple[str, Source, Callable[[Cluster], Cluster]]]:
    """Return (name, source, what is changed of its cluster) of all runs."""
    for source in MODERATE:
        yield f"moderate/{source.id}", source, lambda cluster: cluster
    for k in range(SOURCES_A_REGIME):
        for regime, (change, sources) in REGIMES.items():
            small = regime in SMALL
            yield f"{regime}/{sources[k].id}", sources[k], (lambda c, of=change: quarter_of(of(c))) if small else change


def futures(
    name: str, source: Source, change: Callable[[Cluster], Cluster], planner: Planner, predictor: str, size: Size
) -> list[Future]:
    """Return the windows of a run, their plans, and what becomes of them."""
    few = size.workflows if source.app != "lats" else max(8, size.workflows // 8)  # of up to 100 calls each
    trace = trace_of(name.partition("/")[0], replace(source, workflows=few), quarter=False)
    return window_futures(
        trace,
        change(hexopt.load_cluster(source.cluster)),
        "hexagent",
        planner,
        least=LEAST,
        most=MOST,
        limit=size.windows,
        predictor=predictor,
        arrivals=f"utilisation:{source.load:g}",
        delays="zero",
    )


def measure(name: str, source: Source, change: Callable[[Cluster], Cluster], size: Size) -> pd.DataFrame:
    """Return the errors of a run, with both predictors."""
    tables = [
        errors(futures(name, source, change, greedy_plan, predictor, size)).assign(predictor=predictor)
        for predictor in PREDICTORS
    ]
    return pd.concat(tables).assign(run=name)


def search(window: Window) -> WindowPlan | None:
    """Return the plan of a local search for the sum of ratios that starts from the greedy one."""
    budget = Budget(iterations=500 * len(window.calls))
    return make_formulation("local-search").solve(window, SUM, budget, greedy_plan(window)).plan


def gains(name: str, source: Source, change: Callable[[Cluster], Cluster], size: Size) -> pd.DataFrame:
    """Return by how much the sum of ratios of a searched plan is below that of the greedy one, window by window.

    That is the checker's word (``foretold``), and what the engine makes of the same two plans.
    """
    rows = []
    for predictor in PREDICTORS:
        pairs = [futures(name, source, change, planner, predictor, size) for planner in (greedy_plan, search)]
        for number, both in enumerate(zip(*pairs, strict=True)):
            row = {"run": name, "predictor": predictor, "window": number, "calls": len(both[0].plan)}
            for world in WORLDS:
                sums = [
                    SUM.value(f.window, workflow_ends(f.window, [t.finish_us for t in f.worlds[world]])).objective
                    for f in both
                ]
                row[world] = 1 - sums[1] / sums[0]
            rows.append(row)
    return pd.DataFrame(rows, columns=["run", "predictor", "window", "calls", *WORLDS])


def show_gains(found: pd.DataFrame) -> None:
    """Print what was promised and what came of it."""
    print(
        "gain of a searched plan over the greedy one, of the sum of ratios: mean over windows; better: windows that win"
    )
    for predictor in PREDICTORS:
        some = found[found["predictor"] == predictor]
        rows = []
        for run, windows in [*some.groupby("run", sort=False), ("all", some)]:
            means = {world: f"{windows[world].mean():+.2%}" for world in WORLDS}
            better = {f"{world} better": f"{(windows[world] > 0).mean():.0%}" for world in ("foretold", "joined")}
            rows.append({"run": run, "windows": len(windows), **means, **better})
        print(f"\n{predictor}\n{pd.DataFrame(rows).to_string(index=False)}")


def load(folder: Path) -> pd.DataFrame:
    """Return what was measured, with relative errors: of the time from the cut to when a call was done."""
    found = pd.concat([pd.read_csv(path) for path in sorted(folder.glob("error-*.csv"))])
    found = found[found["joined_us"] > 0].copy()
    for part in ("error", *(f"cause_{name}" for name in CAUSES)):
        found[part] = found[f"{part}_us"] / found["joined_us"]
    found["horizon"] = pd.cut(found["foretold_us"] / 1e6, HORIZONS_S, right=False)
    return found


def row(calls: pd.DataFrame) -> dict[str, object]:
    """Return the key figures of some calls."""
    kinds = {"windows": len(calls[["run", "window"]].drop_duplicates()), "calls": len(calls)}
    error = {label: f"{quantile(calls['error'].to_numpy(), q):+.1%}" for label, q in
             (("p10", "0.1"), ("median", "0.5"), ("p90", "0.9"))}  # fmt: skip
    bias = calls["error_us"].sum() / calls["joined_us"].sum()
    size = {name: f"{calls[f'cause_{name}_us'].abs().sum() / calls['joined_us'].sum():.1%}" for name in CAUSES}
    return {**kinds, **error, "bias": f"{bias:+.1%}", **size}


def tables(found: pd.DataFrame) -> None:
    """Print the errors by run, by regime and by horizon."""
    print("error: foretold less actual finish, of the actual one (+: sooner than foretold). bias: of the sums.")
    print("by cause: mean absolute part, of the mean actual finish.")
    found = found.assign(regime=found["run"].str.partition("/")[0])
    for predictor in PREDICTORS:
        some = found[found["predictor"] == predictor]
        for by in ("run", "regime", "horizon", "state"):
            rows = [{by: key, **row(calls)} for key, calls in some.groupby(by, observed=True, sort=by == "horizon")]
            rows.append({by: "all", **row(some)})
            print(f"\n{predictor}, by {by}\n{pd.DataFrame(rows).to_string(index=False)}")
        rows = []
        for stage in STAGES:
            us = some[f"stage_{stage}_us"]
            size, bias = us.abs().sum() / some["joined_us"].sum(), us.sum() / some["joined_us"].sum()
            rows.append(
                {"stage": stage, "size": f"{size:.2%}", "bias": f"{bias:+.2%}", "exact": f"{(us == 0).mean():.1%}"}
            )
        print(f"\n{predictor}, by stage\n{pd.DataFrame(rows).to_string(index=False)}")


def draw(found: pd.DataFrame, path: Path) -> None:
    """Draw the relative error against the horizon, and its parts by cause for each regime."""
    found = found.assign(regime=found["run"].str.partition("/")[0])
    regimes = list(dict.fromkeys(found["regime"]))
    with house_style():
        figure = Figure(figsize=(12.0, 5.2), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        edges = np.geomspace(0.1, 60, 12)
        for k, predictor in enumerate(PREDICTORS):
            calls = found[found["predictor"] == predictor]
            bins = pd.cut(calls["foretold_us"] / 1e6, edges, labels=np.sqrt(edges[:-1] * edges[1:]))
            groups = [(float(at), 100 * g["error"].abs()) for at, g in calls.groupby(bins, observed=True)]
            groups = [(at, g) for at, g in groups if len(g) >= 20]
            for q, line in (("0.5", "-"), ("0.9", "--")):
                y = [quantile(g.to_numpy(), q) for _, g in groups]
                label = f"{predictor}, {'median' if q == '0.5' else 'p90'}"
                left.plot([at for at, _ in groups], y, line, marker="os"[k], color=OKABE_ITO[k], label=label)
        log_x(left)
        left.set(xlabel="foretold finish after the cut (s), log", yscale="log")
        left.set_ylabel("absolute error of the finish (% of the actual), log")
        left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        left.set_title("By horizon, all runs (20 calls a point at least)")
        left.set_ylim(0.5, 3_000)
        left.legend(loc="upper right", ncols=2)
        calls = found[found["predictor"] == "app-mean"]
        below = np.zeros(len(regimes))
        for k, name in enumerate(CAUSES):
            sums = calls.groupby("regime")[[f"cause_{name}_us", "joined_us"]].agg(lambda us: us.abs().sum())
            share = 100 * (sums[f"cause_{name}_us"] / sums["joined_us"])[regimes].to_numpy()
            right.barh(regimes, share, left=below, color=OKABE_ITO[k], label=SHOWN[name])
            below += share
        right.invert_yaxis()
        right.set_xlabel("mean absolute part of the error (% of mean finish)")
        right.set_ylabel("regime")
        right.set_title("By cause, lengths by app-mean")
        right.legend(loc="lower right")
        figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Measure what is missing, then print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=4, help="windows of a run and predictor")
    parser.add_argument("--workflows", type=int, default=80, help="workflows of a run")
    parser.add_argument("--out", type=Path, default=Path("results/window_error"))
    parser.add_argument("--only", action="append", help="REGIME/SOURCE; may be repeated")
    parser.add_argument("--gain", action="store_true", help="compare a searched plan with the greedy one instead")
    given = parser.parse_args()
    folder = given.out / f"{given.windows}-windows-{given.workflows}-workflows"
    folder.mkdir(parents=True, exist_ok=True)
    kind, do = ("gain", gains) if given.gain else ("error", measure)
    for name, source, change in runs():
        file = folder / f"{kind}-{name.replace('/', '-')}.csv"
        if file.exists() or (given.only and name not in given.only):
            continue
        measured = do(name, source, change, Size(given.windows, given.workflows))
        measured.to_csv(file, index=False)
        print(f"{name}: {len(measured)} rows{'' if len(measured) else ', no window of that size'}", flush=True)
    if given.gain:
        show_gains(pd.concat([pd.read_csv(path) for path in sorted(folder.glob("gain-*.csv"))]))
        return
    found = load(folder)
    tables(found)
    draw(found, folder / "window-error.png")


if __name__ == "__main__":
    main()
