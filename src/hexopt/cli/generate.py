"""``hexopt trace generate``: draw a trace, write it, show what is in it."""

from __future__ import annotations

from collections.abc import Sequence

import hexopt
from hexopt.cli.console import line
from hexopt.cli.look import print_info
from hexopt.cli.simulate import parse_options
from hexopt.errors import ConfigError


def generate_and_show(app: str, workflows: int, seed: int, parameters: str, options: Sequence[str], out: str) -> None:
    """Check all arguments, draw and write the trace, print what ``hexopt trace info`` would."""
    from hexopt.traces import trace_info, write_trace

    if not out.endswith((".jsonl", ".jsonl.gz")):
        raise ConfigError(f"--out: '{out}' found, a trace file is named .jsonl or .jsonl.gz, rename it")
    values = parse_options(options, flag="--option")
    for name in ("workflows", "seed", "parameters"):
        if name in values:
            raise ConfigError(f"--option: '{name}' found, it has a flag of its own, use --{name}")
    trace = hexopt.generate_trace(app, workflows=workflows, seed=seed, parameters=parameters, **values)
    write_trace(trace, out)
    # Read back, so that the figures and the checksum are those of the file.
    print_info(trace_info(hexopt.load_trace(out)))
    line(f"\ntrace: {out}; arrivals are drawn when it is simulated (--arrivals)")
