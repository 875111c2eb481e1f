"""How fast the engine and its policies are, in calls per CPU-second, and what their cost grows with.

    make bench                                      # everything but the million calls
    python benchmarks/engine_speed.py --quick       # a look, in less than a minute
    python benchmarks/engine_speed.py --million     # the million calls, too
    python benchmarks/engine_speed.py rates queue   # only these tables

README.md beside this file says how to read the tables and what was measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import hexopt
from hexopt.core.plan import Plan
from hexopt.core.view import View
from hexopt.traces import apply_arrivals

PROMPT_TOKENS, OUTPUT_TOKENS, CALLS_PER_S = 1455, 293, 6.0
TARGETS = {"fcfs": 20_000, "hexagent": 10_000}
POLICIES = ("fcfs", "earliest-finish", "hexagent")


def poisson(calls: int, rate: float = CALLS_PER_S, output_tokens: int = OUTPUT_TOKENS) -> hexopt.Trace:
    """One-call workflows that arrive as a Poisson process."""
    call = hexopt.Call("c0", (), PROMPT_TOKENS, output_tokens)
    flows = tuple(hexopt.Workflow(f"w{i}", "bench", None, (call,)) for i in range(calls))
    return apply_arrivals(hexopt.Trace(flows, "bench"), f"poisson:{rate:.6f}", seed=0)


def cluster(instances: int = 8) -> hexopt.Cluster:
    """As many H100 instances, half of them of each role."""
    base = hexopt.load_cluster("h100-4p4d-llama")
    half = instances // 2
    return replace(
        base,
        prefill=tuple(replace(base.prefill[0], name=f"p{i}") for i in range(half)),
        decode=tuple(replace(base.decode[0], name=f"d{i}") for i in range(half)),
    )


def cpu_s(trace: hexopt.Trace, site: hexopt.Cluster, policy: str, **more: object) -> float:
    """CPU time of one run, without building the trace and without result tables."""
    made = hexopt.make_policy(policy)
    start = time.process_time()
    hexopt.simulate(trace, site, made, predictor="oracle", **more)  # type: ignore[arg-type]
    return time.process_time() - start


def marginal_us(
    traces: Callable[[int], hexopt.Trace], site: hexopt.Cluster, policy: str, sizes: tuple[int, int], repeats: int
) -> float:
    """CPU µs that one more call costs: the difference of two sizes, medians of the repeats, over the calls between."""
    small, large = (traces(size) for size in sizes)
    took = [statistics.median(cpu_s(trace, site, policy) for _ in range(repeats)) for trace in (small, large)]
    return (took[1] - took[0]) / (sizes[1] - sizes[0]) * 1e6


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    text = [
        [f"{v:,.1f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else str(v) for v in r] for r in rows
    ]
    widths = [max(len(row[i]) for row in [list(head), *text]) for i in range(len(head))]
    print(f"\n{title}\n")
    print("| " + " | ".join(h.rjust(w) for h, w in zip(head, widths, strict=True)) + " |")
    print("|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
    for row in text:
        print("| " + " | ".join(v.rjust(w) for v, w in zip(row, widths, strict=True)) + " |", flush=True)


# -- the tables


def rates(quick: bool, repeats: int) -> None:
    """Calls per CPU-second of each policy."""
    sizes = (1_000, 4_000) if quick else (5_000, 20_000)
    rows = []
    for policy in POLICIES:
        us = marginal_us(poisson, cluster(), policy, sizes, repeats)
        target = TARGETS.get(policy)
        rows.append((policy, us, round(1e6 / us), "" if target is None else f"{target:,}"))
    table(
        f"Calls per CPU-second: Poisson {CALLS_PER_S:g}/s, prompt {PROMPT_TOKENS}, output {OUTPUT_TOKENS}, 4P + 4D,"
        f" between {sizes[0]:,} and {sizes[1]:,} calls",
        ("policy", "µs per call", "calls per CPU-s", "target"),
        rows,
    )


def instances(quick: bool, repeats: int) -> None:
    """Cost per call as the cluster grows, at the same load of each instance."""
    rows = []
    for count in (8, 64) if quick else (8, 32, 128, 512):
        sizes = (10 * count, 40 * count) if quick else (max(2_000, 12 * count), max(8_000, 48 * count))
        rate = CALLS_PER_S * count / 8

        def traces(calls: int, rate: float = rate) -> hexopt.Trace:
            return poisson(calls, rate)

        rows.append((count, *(marginal_us(traces, cluster(count), policy, sizes, repeats) for policy in POLICIES)))
    table("CPU µs per call by number of instances, 0.75 calls/s for each", ("instances", *POLICIES), rows)


def queue(quick: bool, repeats: int) -> None:
    """Cost of a burst: per call until all are served, and of a HexAGenT round while the queue is long."""
    rows: list[tuple[object, ...]] = []
    for calls in (100, 1_000) if quick else (100, 1_000, 10_000):
        times = repeats if calls < 10_000 else 1
        call = hexopt.Call("c0", (), PROMPT_TOKENS, OUTPUT_TOKENS)
        trace = hexopt.Trace(tuple(hexopt.Workflow(f"w{i}", "bench", 0, (call,)) for i in range(calls)))
        per_call = [
            statistics.median(cpu_s(trace, cluster(), policy) for _ in range(times)) / calls * 1e6
            for policy in ("fcfs", "earliest-finish")
        ]
        # The first two seconds of simulated time: nearly all calls wait, and each transfer calls the planner.
        rounds = []
        for _ in range(times):
            policy = hexopt.make_policy("hexagent")
            result = hexopt.simulate(trace, cluster(), policy, predictor="oracle", stop_us=2_000_000)
            rounds.append(float(result.summary["plan_ms_mean"]))
        rows.append((calls, *per_call, statistics.median(rounds)))
    table(
        "A burst: CPU µs per call, and wall-clock ms per HexAGenT round while all wait",
        ("waiting calls", "fcfs", "earliest-finish", "hexagent ms/round"),
        rows,
    )


class Timed:
    """A policy, with the number of waiting calls and the wall-clock time of each of its invocations."""

    name = "timed"

    def __init__(self, policy: hexopt.Policy) -> None:
        self._policy = policy
        self.triggers = policy.triggers  # type: ignore[attr-defined]
        self.fallback = policy.fallback  # type: ignore[attr-defined]
        self.plan_latency_us = policy.plan_latency_us  # type: ignore[attr-defined]
        self.seen: list[tuple[int, float]] = []

    def reset(self, *about: object) -> None:
        """Pass on."""
        self._policy.reset(*about)  # type: ignore[arg-type]

    def plan(self, view: View) -> Plan:
        """Pass on, and note the time."""
        waiting = len(view.pool) + sum(len(p.queue) for p in view.prefill)
        start = time.perf_counter()
        plan = self._policy.plan(view)
        self.seen.append((waiting, time.perf_counter() - start))
        return plan


def planner(quick: bool, repeats: int) -> None:
    """Wall-clock time of a HexAGenT round at 256 instances while 150 to 250 calls wait, as a burst is worked off."""
    rows = []
    draw = random.Random(0)
    lengths = [(draw.randint(200, 9000), draw.randint(2, 600)) for _ in range(1_200)]
    flows = tuple(
        hexopt.Workflow(f"w{i}", "bench", 0 if i < 400 else 2_000 * (i - 400), (hexopt.Call("c0", (), *lengths[i]),))
        for i in range(300 if quick else len(lengths))
    )
    base = hexopt.load_cluster("hetero-1-llama")
    mixed = replace(
        base,
        prefill=tuple(replace(p, name=f"{p.name}-{k}") for k in range(16) for p in base.prefill),
        decode=tuple(replace(d, name=f"{d.name}-{k}") for k in range(16) for d in base.decode),
    )
    for title, site in (("one type", cluster(256)), ("three types", mixed)):
        timed = Timed(hexopt.make_policy("hexagent"))
        hexopt.simulate(hexopt.Trace(flows, "bench"), site, timed, predictor="oracle")
        took = sorted(1e3 * s for waiting, s in timed.seen if 150 <= waiting <= 250)
        if took:
            rows.append((title, len(took), statistics.mean(took), took[int(0.95 * len(took))], took[-1], "5"))
    table(
        "A HexAGenT round at 256 instances and 150 to 250 waiting calls, wall-clock ms",
        ("instances", "rounds", "mean", "p95", "longest", "target"),
        rows,
    )


def output(quick: bool, repeats: int) -> None:
    """Cost per call by output length, at the same load: it must not grow."""
    rows = []
    sizes = (500, 2_000) if quick else (2_000, 8_000)
    for tokens in (10, 1_000) if quick else (10, 100, 1_000, 10_000):
        rate = CALLS_PER_S * min(1.0, OUTPUT_TOKENS / tokens)

        def traces(calls: int, rate: float = rate, tokens: int = tokens) -> hexopt.Trace:
            return poisson(calls, rate, tokens)

        rows.append((tokens, *(marginal_us(traces, cluster(), policy, sizes, repeats) for policy in POLICIES)))
    table("CPU µs per call by output tokens", ("output tokens", *POLICIES), rows)


def start_up(quick: bool, repeats: int) -> None:
    """Wall-clock time of an interpreter that imports hexopt, beyond that of one that does not."""

    def wall_ms(code: str) -> float:
        took = []
        for _ in range(2 * repeats + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            took.append(time.perf_counter() - start)
        return statistics.median(took) * 1e3

    bare = wall_ms("pass")
    codes = ("import hexopt", "import hexopt.policies.hexagent", "from hexopt import simulate")
    table(
        "Start-up, beyond a bare interpreter",
        ("code", "ms", "target"),
        [(code, wall_ms(code) - bare, "500" if code == "import hexopt" else "") for code in codes],
    )


def million(quick: bool, repeats: int) -> None:
    """Peak memory and time of a million calls, trace included, in a process of its own."""
    calls = 50_000 if quick else 1_000_000
    command = [sys.executable, str(Path(__file__).resolve()), "--measure-memory", str(calls)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    table(
        "A million calls under fcfs" if not quick else f"{calls:,} calls under fcfs",
        ("calls", "peak GiB", "target", "trace GiB", "CPU s", "calls per CPU-s"),
        [
            (
                calls,
                f"{told['peak_gib']:.2f}",
                "2",
                f"{told['trace_gib']:.2f}",
                told["cpu_s"],
                round(calls / told["cpu_s"]),
            )
        ],
    )


def peak_gib() -> float:
    """Return the largest memory that this process ever held."""
    try:
        # The kernel hands ru_maxrss down from the process that started this one; this figure is our own.
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    except (OSError, StopIteration):
        unit = 2**30 if sys.platform == "darwin" else 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure_memory(calls: int) -> None:
    """Run so many calls and print the peak as JSON."""
    trace = poisson(calls)
    trace_gib = peak_gib()
    took = cpu_s(trace, cluster(), "fcfs")
    print(json.dumps({"peak_gib": peak_gib(), "trace_gib": trace_gib, "cpu_s": took}))


TABLES = {
    "rates": rates,
    "instances": instances,
    "queue": queue,
    "planner": planner,
    "output": output,
    "start-up": start_up,
}


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}, million (default: all but it)"
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes, one repeat")
    parser.add_argument("--million", action="store_true", help="measure the million calls, too")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median counts (default 3)")
    parser.add_argument("--measure-memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        measure_memory(options.measure_memory)
        return
    known = {**TABLES, "million": million}
    for name in options.tables:
        if name not in known:
            parser.error(f"table '{name}' is unknown, known: {', '.join(known)}")
    chosen = options.tables or list(TABLES)
    if options.million and "million" not in chosen:
        chosen = [*chosen, "million"]
    repeats = 1 if options.quick else options.repeats
    print(
        f"hexopt {hexopt.__version__}, Python {platform.python_version()}, {platform.machine()}, medians of {repeats}"
    )
    for policy in POLICIES:
        cpu_s(poisson(100), cluster(), policy)  # what is compiled, is compiled now
    for name in chosen:
        known[name](options.quick, repeats)


if __name__ == "__main__":
    main()
