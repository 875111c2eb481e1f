"""``hexopt solve``: one window, one formulation."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from hexopt.cli.console import line, stdout
from hexopt.cli.simulate import parse_options
from hexopt.cli.window import check_picture, draw, find_window, read_plan_file
from hexopt.core.window import Window
from hexopt.errors import ConfigError
from hexopt.formulations.library import Library
from hexopt.formulations.objective import objective_text, parse_objective
from hexopt.formulations.protocol import Budget, SolveResult, StopReason
from hexopt.formulations.registry import formulation_class, make_formulation
from hexopt.machine import machine


def solve_and_show(
    instance: str,
    formulation: str,
    solver: str | None,
    objective: str,
    options: list[str],
    *,
    time_limit: float | None,
    deterministic: float | None,
    iterations: int | None,
    threads: int,
    seed: int,
    hint: Path | None,
    as_json: bool,
    out: Path | None,
    submit: str | None,
    library: str,
) -> int:
    """Solve a window, print and draw the result; return 0 if there is a plan and 1 if not."""
    wanted = parse_objective(objective)
    budget = Budget(time_limit, deterministic, iterations, threads, seed)
    if out is not None:
        check_picture(out)  # before anything is solved, or entered into the library
    given = parse_options(options, flag="--option")
    if solver is not None:
        if "solver" not in inspect.signature(formulation_class(formulation)).parameters:
            raise ConfigError(f"--solver: '{solver}' found, formulation '{formulation}' has no choice of one, drop it")
        given["solver"] = solver
    chosen = make_formulation(formulation, **given)
    window = find_window(instance, library)
    start = None if hint is None else read_plan_file(hint)
    result = chosen.solve(window, wanted, budget, start)
    if submit is not None and result.plan is not None:
        seconds = result.build_s + result.solve_s
        Library(library).submit(window.name, wanted, result.plan, submit, seconds, result.bound)
    if out is not None:
        draw(window, result.plan, wanted, out)
    if as_json:
        line(json.dumps(as_record(window, result), allow_nan=False))
    else:
        _print(window, result, out)
    return 0 if result.plan is not None else 1


def as_record(window: Window, result: SolveResult) -> dict[str, Any]:
    """Return a result as plain values. ``objective`` is the model's word, ``checked_objective`` the checker's."""
    plan = None
    if result.plan is not None:
        plan = [
            {"call": call.id, "prefill": p, "decode": d, "priority": priority}
            for call, (p, d, priority) in zip(window.calls, result.plan, strict=True)
        ]
    checked = None if result.value is None else result.value.objective
    return {
        "instance": window.name,
        "formulation": result.formulation,
        "solver": result.solver,
        "objective_kind": objective_text(result.objective),
        "status": str(result.status),
        "stop_reason": str(result.stop_reason),
        "objective": checked if result.model_objective is None else result.model_objective,
        "checked_objective": checked,
        "checked_total": None if result.value is None else result.value.total,
        "bound": result.bound,
        "gap": result.gap,
        "build_s": result.build_s,
        "solve_s": result.solve_s,
        "proved_s": result.proved_s,
        "first_incumbent_s": result.first_incumbent_s,
        "trajectory": [list(point) for point in result.trajectory],
        "variables": result.variables,
        "constraints": result.constraints,
        "calls": len(window.calls),
        "note": result.note,
        "machine": machine(),
        "plan": plan,
    }


def _print(window: Window, result: SolveResult, out: Path | None) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    record = as_record(window, result)
    for key in ("plan", "trajectory", "instance", "formulation", "machine"):
        del record[key]
    line(f"{window.name}: {result.formulation}")
    for key, value in record.items():
        if value not in (None, ""):
            table.add_row(key, Text(f"{value:.6g}" if isinstance(value, float) else str(value)))
    stdout().print(table)
    if result.plan is None and result.stop_reason == StopReason.TIME_LIMIT:
        line("no plan was found within the time limit; a larger one, or a --hint, may help")
    if out is not None:
        line(str(out))
