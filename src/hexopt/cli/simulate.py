"""``hexopt simulate``: one run, its key figures, and on demand its tables."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import hexopt
from hexopt.cli.console import line, note, progress, stdout
from hexopt.core.cluster import Cluster
from hexopt.core.protocols import Policy
from hexopt.core.workflow import Trace
from hexopt.errors import ConfigError, OutputError
from hexopt.latency import check_calibrated
from hexopt.policies.registry import text_options


def simulate_and_show(
    trace_path: Path,
    cluster_name: str,
    policy_name: str,
    policy_options: Sequence[str],
    *,
    predictor: str,
    seed: int,
    arrivals: str | None,
    delays: str | None,
    stop_s: float | None,
    estimate_error: float,
    workflows: int | None,
    skip_invalid: bool,
    out: Path | None,
) -> None:
    """Check all arguments, simulate, print the summary, save the tables."""
    stop_us = as_stop_us(stop_s)
    trace, cluster, policy = read_inputs(
        trace_path, cluster_name, policy_name, policy_options, workflows=workflows, skip_invalid=skip_invalid
    )
    if out is not None:
        check_writable(out)
    with progress(policy_name, "calls") as show:
        result = hexopt.simulate(
            trace,
            cluster,
            policy,
            predictor=predictor,
            seed=seed,
            arrivals=arrivals,
            delays=delays,
            stop_us=stop_us,
            estimate_error=estimate_error,
            progress=lambda done, total: show(done, total, ""),
        )
    _print_summary(result.summary)
    if out is not None:
        result.save(out)
        line(f"tables: {out}; hexopt plot {out} draws them")


def read_inputs(
    trace_path: Path,
    cluster_name: str,
    policy_name: str,
    policy_options: Sequence[str],
    *,
    workflows: int | None,
    skip_invalid: bool,
) -> tuple[Trace, Cluster, Policy]:
    """Return what a run needs, checked; note on stderr how many workflows were left out."""
    policy = hexopt.make_policy(policy_name, **parse_options(policy_options, text_options(policy_name)))
    cluster = hexopt.load_cluster(cluster_name)
    trace = hexopt.load_trace(trace_path, skip_invalid=skip_invalid)
    if skipped := trace.provenance.get("skipped"):
        note(f"{trace_path}: {skipped} invalid workflows left out, hexopt trace check lists them")
    if workflows is not None:
        trace = trace.head(workflows)
    check_calibrated(trace, cluster)
    return trace, cluster, policy


def parse_options(texts: Sequence[str], as_text: Collection[str] = (), flag: str = "--policy-option") -> dict[str, Any]:
    """Return options from ``NAME=VALUE`` texts; a value is an integer, a number, true or false, or else text.

    Those named in ``as_text`` are text whatever they look like.

    >>> parse_options(["a=1", "b=0.5", "c=true", "d=zero"])
    {'a': 1, 'b': 0.5, 'c': True, 'd': 'zero'}
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ConfigError(f"{flag}: '{text}' found, an option is written NAME=VALUE, correct it")
        if name in options:
            raise ConfigError(f"{flag}: '{name}' occurs twice, an option has one value, drop one")
        options[name] = value.strip() if name in as_text else _value(value.strip())
    return options


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def as_stop_us(stop_s: float | None) -> int | None:
    """Return ``--stop`` in µs."""
    if stop_s is None:
        return None
    if not math.isfinite(stop_s) or not 0 < stop_s < 9e9:
        raise ConfigError(f"--stop: {stop_s} found, a finite number of seconds above 0 is needed, correct it")
    return round(stop_s * 1_000_000)


def check_writable(folder: Path) -> None:
    """Raise :class:`~hexopt.errors.OutputError` now rather than after a long simulation."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder}: {error.strerror or error}, results must be writable, choose another folder with --out"
        ) from None


def _print_summary(summary: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in summary.items():
        if isinstance(value, float):
            shown = "∞" if math.isinf(value) else f"{value:.6g}"
        elif value is None:
            shown = "–"
        elif isinstance(value, bool):
            shown = "yes" if value else "no"
        else:
            shown = str(value)
        table.add_row(key, shown.replace("[", "\\["))
    stdout().print(table)
