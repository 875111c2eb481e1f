"""``hexopt trace``, ``hexopt cluster``, ``hexopt policies``: look at what there is, and check files."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import hexopt
from hexopt.cli.console import line, note, stdout


def show_trace(file: Path, skip_invalid: bool, as_json: bool) -> None:
    """Print the key figures of a trace."""
    from hexopt.traces import trace_info

    info = trace_info(hexopt.load_trace(file, skip_invalid=skip_invalid))
    if as_json:
        line(json.dumps(info, indent=2))
    else:
        print_info(info)


def print_info(info: dict[str, Any]) -> None:
    """Print the key figures of a trace as a table."""
    table = _table("", "")
    for key, value in info.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name or '(none)'} {_shown(part)}" for name, part in value.items())
        table.add_row(key, _text(_shown(value)))
    stdout().print(table)


def check_trace(file: Path) -> int:
    """Print every problem of a trace file; return 2 if there is one, else 0."""
    from hexopt.traces import check_trace_file

    problems = check_trace_file(file)
    for problem in problems:
        note(f"error: {' '.join(str(problem).split())}")
    if problems:
        return 2
    trace = hexopt.load_trace(file)
    line(f"{file}: valid, {len(trace)} workflows with {trace.call_count} calls")
    for unknown, what, option in (
        (trace.unknown_arrivals, "arrivals", "--arrivals"),
        (trace.unknown_delays, "delays", "--delays"),
    ):
        if unknown:
            line(f"{unknown} {what} are unknown, a simulation needs a rule for them ({option})")
    return 0


def list_clusters() -> None:
    """Print the shipped clusters, a line each."""
    from hexopt.clusters import cluster_names

    table = _table("name", "model", "prefill", "decode")
    for name in cluster_names():
        cluster = hexopt.load_cluster(name)
        table.add_row(name, _text(cluster.model), _gpus(cluster.prefill), _gpus(cluster.decode))
    stdout().print(table)


def show_cluster(name: str) -> None:
    """Print what a cluster consists of."""
    from hexopt.clusters import describe

    cluster = hexopt.load_cluster(name)
    rows = describe(cluster)
    out = stdout()
    network = cluster.network
    line(f"{cluster.name}: {cluster.model}, {len(cluster.prefill)} prefill + {len(cluster.decode)} decode instances")
    line(
        f"blocks of {cluster.block_tokens} tokens, admission {cluster.kv_admission}, binding {cluster.binding}\n"
        f"network: efficiency {network.efficiency:g}, latency {network.latency_us / 1e6:g} s, "
        f"contention {network.contention}"
    )
    for role, columns in (("prefill", _PREFILL_COLUMNS), ("decode", _DECODE_COLUMNS)):
        line("")
        table = _table(*(heading for _, heading in columns), numbers=2)
        for row in rows:
            if row["role"] == role:
                table.add_row(*(_text(_shown(row[key])) for key, _ in columns))
        out.print(table)


_COMMON_COLUMNS = (
    ("instances", "instances"),
    ("gpu", "GPU"),
    ("count", "count"),
    ("kv_tokens", "KV\ntokens"),
    ("nic_gb_per_s", "network\nGB/s"),
)
_PREFILL_COLUMNS = (
    *_COMMON_COLUMNS,
    ("max_batch_tokens", "max batch\ntokens"),
    ("prefill_512_ms", "prefill of\n512, ms"),
    ("prefill_4096_ms", "prefill of\n4096, ms"),
)
_DECODE_COLUMNS = (
    *_COMMON_COLUMNS,
    ("max_batch", "max\nbatch"),
    ("iteration_1_ms", "iteration\nof 1, ms"),
    ("iteration_32_ms", "iteration\nof 32, ms"),
)


def check_cluster(file: Path) -> None:
    """Print that a cluster file is valid; an invalid one raises."""
    # As a path even without a folder or suffix: a check of a file never means a shipped cluster.
    cluster = hexopt.load_cluster(file)
    line(f"{file}: valid, {len(cluster.prefill)} prefill and {len(cluster.decode)} decode instances")


def show_policies(name: str | None) -> None:
    """Print the policies and their options; of one policy also what the options mean."""
    from hexopt.policies.registry import policy_names, policy_options, policy_summary

    if name is not None:
        line(f"{name}: {_unmarked(policy_summary(name))}")
        line("")
        table = _table("option", "default", "meaning")
        for option in policy_options(name):
            table.add_row(option[0], _text(_default(option[1])), _text(_unmarked(option[2])))
        stdout().print(table)
        return
    table = _table("policy", "what it does", "options and their defaults")
    for policy in policy_names():
        options = ", ".join(f"{option[0]}={_default(option[1])}" for option in policy_options(policy))
        table.add_row(policy, _text(_unmarked(policy_summary(policy))), _text(options))
    stdout().print(table)
    line("\nhexopt policies NAME explains a policy's options; --policy-option NAME=VALUE sets one.")


def _unmarked(doc: str) -> str:
    """Return a docstring's text without its markup: ``:class:`~a.b.C```  and double backticks are for Sphinx."""
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", doc).replace("``", "")


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "(must be given)"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _gpus(pool: Any) -> str:
    """``2×a100 + 3×h100``, in order of first appearance."""
    counts: dict[str, int] = {}
    for instance in pool:
        counts[instance.gpu or "instance"] = counts.get(instance.gpu or "instance", 0) + 1
    return " + ".join(f"{count}×{gpu}" for gpu, count in counts.items())


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return str(value)


def _text(text: str) -> str:
    """Escape what rich would take for markup: names come from files."""
    return text.replace("[", "\\[")


def _table(*headings: str, numbers: int = 10_000) -> Any:
    """Return a plain table; columns from number ``numbers`` on are right-aligned."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(headings))
    for i, heading in enumerate(headings):
        table.add_column(
            heading, justify="right" if i >= numbers else "left", no_wrap=i == 0, overflow="fold", vertical="top"
        )
    return table
