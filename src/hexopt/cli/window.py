"""``hexopt window``: cut windows, look at them, judge plans, keep the instance library."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hexopt.cli.console import line, note, stdout
from hexopt.cli.simulate import as_stop_us, check_writable, read_inputs
from hexopt.core.window import Window, WindowPlan, load_window
from hexopt.errors import ConfigError, OutputError, WindowError
from hexopt.formulations.checker import as_plan, check
from hexopt.formulations.library import Library
from hexopt.formulations.objective import Objective, objective_text, parse_objective


def find_window(name: str, library: str) -> Window:
    """Return the window of a file, or the instance of the library that has this name."""
    if Path(name).exists() or "/" in name or name.endswith((".json", ".gz")):
        return load_window(name)
    return Library(library).load(name)


def read_plan_file(path: Path) -> WindowPlan:
    """Return the plan of a file: a list of placements, or an object with one under ``plan``."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WindowError(f"{path}: {error.strerror or error}, a plan must be readable, check the file") from None
    except ValueError as error:
        raise WindowError(f"{path}: {error}, a plan is JSON, check the file") from None
    return as_plan(found.get("plan") if isinstance(found, dict) else found)


def check_picture(out: Path) -> None:
    """Refuse a name that is none of a picture."""
    if out.suffix not in (".png", ".svg"):
        raise WindowError(f"--out: '{out}' found, a picture ends in .png or .svg, rename it")


def draw(window: Window, plan: WindowPlan | None, objective: Objective, out: Path) -> None:
    """Write the picture of a window."""
    check_picture(out)
    from hexopt.report.gantt import plot_window
    from hexopt.report.style import house_style, save

    try:
        with house_style():
            save(plot_window(window, plan, objective), out.with_suffix(""), [out.suffix[1:]])
    except OSError as error:
        raise OutputError(f"{out}: {error.strerror or error}, choose another file with --out") from None


def cut_windows(
    trace_path: Path,
    cluster_name: str,
    policy_name: str,
    policy_options: Sequence[str],
    sizes: Sequence[int],
    *,
    every: int,
    limit: int,
    predictor: str,
    seed: int,
    arrivals: str | None,
    delays: str | None,
    stop_s: float | None,
    estimate_error: float,
    workflows: int | None,
    skip_invalid: bool,
    out: Path,
    prefix: str,
) -> None:
    """Simulate, once for each size, and save windows with so many open calls."""
    from hexopt.experiments.windows import harvest_windows, save_windows

    if Path(prefix).name != prefix:
        raise ConfigError(f"--prefix: '{prefix}' found, a file name begins with it, drop what names a folder")
    stop_us = as_stop_us(stop_s)
    trace, cluster, policy = read_inputs(
        trace_path, cluster_name, policy_name, policy_options, workflows=workflows, skip_invalid=skip_invalid
    )
    check_writable(out)
    windows: list[Window] = []
    missing = []
    for size in dict.fromkeys(sizes):
        found = harvest_windows(
            trace,
            cluster,
            policy,
            every=every,
            least=size,
            most=size,
            limit=limit,
            predictor=predictor,
            seed=seed,
            arrivals=arrivals,
            delays=delays,
            stop_us=stop_us,
            estimate_error=estimate_error,
        )
        windows += found
        if not found:
            missing.append(str(size))
    for window, path in zip(windows, save_windows(windows, out, prefix), strict=True):
        open_calls = sum(c.is_open for c in window.calls)
        line(f"{path}: {open_calls} open and {len(window.calls) - open_calls} bound calls")
    if missing:
        raise ConfigError(
            f"--size: {', '.join(missing)} found, so many calls never wait in this run, "
            "raise the load with --arrivals or ask for smaller windows"
        )


def show_window(file: str, plan: Path | None, objective: str, out: Path | None, library: str) -> None:
    """Print what a window consists of and draw it."""
    window = find_window(file, library)
    placements = None if plan is None else read_plan_file(plan)
    wanted = parse_objective(objective)
    open_calls = sum(c.is_open for c in window.calls)
    options = window.options
    line(f"{window.name}: {open_calls} open and {len(window.calls) - open_calls} bound calls")
    line(f"from: {window.provenance or 'not stated'}")
    line(
        f"{len(window.workflows)} workflows, {len(window.prefill)} prefill and {len(window.decode)} decode instances; "
        f"contention {options.contention}, admission {options.kv_admission}, "
        f"prefill KV {'limited' if options.prefill_kv else 'unlimited'}"
    )
    target = out or Path(f"{window.name}.png")
    draw(window, placements, wanted, target)
    line(str(target))


def check_window(file: str, plan: Path | None, objective: str, library: str) -> int:
    """Print whether a window is valid, or what a plan is worth; return 2 if the plan breaks a rule."""
    window = find_window(file, library)
    if plan is None:
        line(f"{file}: valid, {len(window.calls)} calls of {len(window.workflows)} workflows")
        return 0
    verdict = check(window, read_plan_file(plan), parse_objective(objective))
    for violation in verdict.violations:
        note(f"error: {violation.rule}: {violation.message}")
    if verdict.value is None:
        return 2
    line(f"{objective} {verdict.value.objective:.12g}, sum of ratios {verdict.value.total:.12g}")
    return 0


def list_instances(library: str) -> None:
    """Print the instances and the best known values, a line each."""
    from rich.table import Table

    known = Library(library)
    rows = known.best_known()
    objectives = sorted({objective for _, objective in rows})
    table = Table(box=None, pad_edge=False)
    table.add_column("instance", no_wrap=True)
    for objective in objectives:
        table.add_column(objective, justify="right")
        table.add_column("bound", justify="right")
    for name in known.names():
        cells = []
        for objective in objectives:
            row = rows.get((name, objective))
            cells.append("" if row is None else f"{row.value:.6g}")
            if row is None or row.bound is None:
                cells.append("")
            else:
                cells.append("proved" if known.proved(row) else f"{row.bound:.6g}")
        table.add_row(name, *cells)
    stdout().print(table)
    line(f"{len(known.names())} instances in {known.folder}")


def list_formulations() -> None:
    """Print the formulations and their options."""
    from rich.table import Table
    from rich.text import Text

    from hexopt.formulations.registry import formulation_class, formulation_names

    table = Table("formulation", "what it does", "options and their defaults", box=None, pad_edge=False)
    for name in formulation_names():
        cls = formulation_class(name)
        options = ", ".join(f"{p.name}={_shown(p.default)}" for p in inspect.signature(cls).parameters.values())
        table.add_row(name, Text((inspect.getdoc(cls) or "").partition("\n")[0].replace("``", "")), Text(options))
    stdout().print(table)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def add_instance(file: Path, name: str | None, compress: bool, library: str) -> None:
    """Add a window to the library."""
    line(str(Library(library).add(load_window(file), name, compress)))


def submit_plan(
    instance: str, plan: Path, by: str, seconds: float, bound: float | None, objective: str, library: str
) -> None:
    """Enter a plan into the library if it is better than the best known."""
    known = Library(library)
    wanted = parse_objective(objective)
    changed = known.submit(instance, wanted, read_plan_file(plan), by, seconds, bound)
    text = objective_text(wanted)
    row = known.best_known()[instance, text]
    line(f"{instance}, {text}: best known {row.value:.12g} by {row.found_by}")
    line("entered" if changed else "not entered: it is no better than what is known")


def verify_library(library: str) -> int:
    """Print what is wrong with the best known values; return 2 if anything is."""
    known = Library(library)
    wrong = known.verify()
    for text in wrong:
        note(f"error: {text}")
    if wrong:
        return 2
    line(f"{known.table}: {len(known.best_known())} values verified, {len(known.names())} instances")
    return 0
