"""``hexopt bound``: how far policies, and the best schedule that was found, are from what is possible at all."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hexopt
from hexopt.cli.console import line, note, progress, stdout
from hexopt.cli.simulate import check_writable
from hexopt.errors import OutputError


def bound_and_show(
    trace_path: Path,
    cluster_name: str,
    quantile: str,
    *,
    arrivals: str | None,
    delays: str | None,
    seed: int,
    workflows: int | None,
    policies: Sequence[str],
    predictor: str,
    search: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Check all arguments, compute bound and best known, print them, save the best schedule."""
    from hexopt.offline import enclose, problem_of
    from hexopt.policies.registry import policy_class

    for name in policies:
        policy_class(name)
    cluster = hexopt.load_cluster(cluster_name)
    trace = hexopt.load_trace(trace_path)
    if workflows is not None:
        trace = trace.head(workflows)
    if out is not None:
        check_writable(out)
    problem = problem_of(trace, cluster, arrivals=arrivals, delays=delays, seed=seed)
    with progress("bound", "steps", remaining=False) as show:
        found = enclose(
            problem, quantile, policies=policies, predictor=predictor, iterations=search, seed=seed, progress=show
        )
    lp = found.bounds.lp
    answer: dict[str, Any] = {
        "trace": trace.name,
        "cluster": cluster.name,
        "workflows": problem.workflows,
        "calls": trace.call_count,
        "arrivals": arrivals,
        "delays": delays,
        "seed": seed,
        "quantile": quantile,
        "bound": found.bounds.value,
        "bounds": {"path": found.bounds.path, "lp": None if lp is None else lp.value},
        "lp": {} if lp is None else {**lp.facts, "programs": len(lp.programs)},
        "best_known": found.best.value,
        "best_known_by": found.best.how,
        "gap": found.gap,
        "policies": found.policies,
    }
    text = json.dumps(_plain(answer), indent=2, allow_nan=False)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            found.best.decisions.to_csv(out / "decisions.csv", index=False, lineterminator="\n")
            (out / "bound.json").write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{out}: {error.strerror}, results need a folder that can be written, name another with --out"
            ) from None
    if as_json:
        line(text)
    else:
        _print(answer)
    if out is not None:
        replay = f"--policy replay --policy-option decisions={out / 'decisions.csv'}"
        (note if as_json else line)(f"best schedule: {out / 'decisions.csv'}; hexopt simulate {replay} carries it out")


def _plain(value: Any) -> Any:
    # JSON knows no infinity; the ratio of a workflow that is never done is written as null.
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(answer: dict[str, Any]) -> None:
    from rich.table import Table

    label = "largest ratio" if float(answer["quantile"]) == 1 else f"Req at quantile {answer['quantile']}"
    line(f"{answer['trace']} on {answer['cluster']}, {answer['workflows']} workflows, {answer['calls']} calls: {label}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("what", "value", "above the bound"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    table.add_row("bound: longest paths", f"{answer['bounds']['path']:.4f}", "")
    if answer["bounds"]["lp"] is not None:
        table.add_row("bound: capacity", f"{answer['bounds']['lp']:.4f}", "")
    table.add_row(f"best known ({answer['best_known_by']})", f"{answer['best_known']:.4f}", f"{answer['gap']:.1%}")
    for name, row in answer["policies"].items():
        table.add_row(name, f"{row['value']:.4f}", f"{row['gap']:.1%}")
    stdout().print(table)
    line("above the bound: (value - bound) / value; the best possible value lies between bound and best known")
