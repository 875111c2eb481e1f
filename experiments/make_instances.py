"""Fill the instance library with windows cut from simulated runs: every size of every regime.

``python experiments/make_instances.py`` adds what is missing in ``formulations/instances`` and leaves what is there. A
run is a cluster of the paper's grid (or one changed as the regime says), a trace (the sample, or generated), a load, a
policy, and perhaps the knowledge of what follows in a workflow. It is simulated twice: the first time shows at which
instants a window of which size can be cut, the second cuts those that a seed has chosen. Where more calls wait than the
window has, it has the most urgent ones.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hexopt
from hexopt.core.cluster import Cluster, DecodeLatency, PrefillLatency
from hexopt.core.plan import Plan
from hexopt.core.protocols import ALL_TRIGGERS, LatencyModel, Policy
from hexopt.core.view import CallState, CallView, View
from hexopt.core.window import Window
from hexopt.core.workflow import Trace, Workflow
from hexopt.errors import WindowError
from hexopt.formulations.library import Library
from hexopt.latency import ClusterLatency
from hexopt.policies.cutting import Cutter, Horizons, waiting_calls
from hexopt.policies.harvest import most_urgent
from hexopt.policies.projection import Estimator

ROOT = Path(__file__).resolve().parents[1]
SIZES = (4, 8, 16, 32, 64, 128)
NATURAL = 2
"""A window is taken where up to so many times its calls wait, if there is such an instant."""
COMPRESS_FROM = 16
"""Windows of so many calls are compressed."""
QUARTER_TO = 8
"""Windows of up to so many calls are of a quarter of the cluster: on all of it they would have nobody waiting."""
ENOUGH = 60
"""Of so many instants one is chosen; then the run is over."""
MOST_VIEWS = 3_000
"""So far a run is followed."""
MOST_BOUND = 0.7
"""No more than this share of a window's calls are bound; the rest are to be placed."""
HARDER = (1, 4, 16)
"""The load is raised by these factors for sizes that a run never has waiting."""


@dataclass(frozen=True)
class Source:
    """A run that one window of each size is cut from.

    ``load``: the share of the cluster's capacity that arrives. ``tail``: what follows in a workflow is known.
    """

    id: str
    cluster: str
    app: str
    load: float
    policy: str = "hexagent"
    tail: bool = False
    workflows: int = 300
    parameters: str = "paper"


def _slow_network(cluster: Cluster) -> Cluster:
    def slow(instance: Any) -> Any:
        return replace(instance, nic_bytes_per_s=instance.nic_bytes_per_s / 20)

    return replace(cluster, prefill=tuple(map(slow, cluster.prefill)), decode=tuple(map(slow, cluster.decode)))


def _tight_kv(cluster: Cluster) -> Cluster:
    """A sixteenth of the room for KV: admission waits for calls to complete."""
    room = [max(8_192, d.kv_tokens // 16) for d in cluster.decode]
    decode = tuple(replace(d, kv_tokens=kv) for d, kv in zip(cluster.decode, room, strict=True))
    return replace(cluster, decode=decode)


def _strict_kv(cluster: Cluster) -> Cluster:
    return replace(_tight_kv(cluster), kv_admission="strict")


def _uneven(cluster: Cluster) -> Cluster:
    """Instances that differ by up to a factor of eight more than they do."""

    def prefill(x: PrefillLatency, by: float) -> PrefillLatency:
        return replace(
            x, g_knots=tuple((n, ms * by) for n, ms in x.g_knots), a1_ms=x.a1_ms * by, a2_ms=x.a2_ms * by,
            c0_ms=x.c0_ms * by,
        )  # fmt: skip

    def decode(x: DecodeLatency, by: float) -> DecodeLatency:
        return replace(
            x, h_knots=tuple((n, ms * by) for n, ms in x.h_knots), b2_ms=x.b2_ms * by, o0_ms=x.o0_ms * by,
            o1_ms=x.o1_ms * by,
        )  # fmt: skip

    by = (1.0, 8.0, 2.0, 4.0)
    return replace(
        cluster,
        prefill=tuple(replace(p, latency=prefill(p.latency, by[k % 4])) for k, p in enumerate(cluster.prefill)),
        decode=tuple(replace(d, latency=decode(d.latency, by[-1 - k % 4])) for k, d in enumerate(cluster.decode)),
    )


def quarter_of(cluster: Cluster) -> Cluster:
    """Return every fourth instance of a cluster."""
    return replace(cluster, prefill=cluster.prefill[::4], decode=cluster.decode[::4])


def _as_it_is(cluster: Cluster) -> Cluster:
    return cluster


REGIMES: dict[str, tuple[Callable[[Cluster], Cluster], tuple[Source, ...]]] = {
    "roomy": (
        _as_it_is,
        (
            Source("sample1", "hetero-1-llama", "sample", 3.0),
            Source("bfcl1", "hetero-2-llama", "bfcl", 3.0, tail=True),
            Source("chat1", "hetero-1-qwen", "sharegpt", 3.0, workflows=400),
            Source("claude1", "hetero-2-qwen", "claude-code", 3.0, tail=True, workflows=140, parameters="fitted"),
            Source("bfcl2", "homogeneous-llama", "bfcl", 3.0, "workflow-fcfs"),
            Source("swe1", "homogeneous-qwen", "swe-agent", 3.0, workflows=140, parameters="fitted"),
        ),
    ),
    "high-load": (
        _as_it_is,
        (
            Source("sample1", "hetero-1-llama", "sample", 10.0, tail=True),
            Source("bfcl1", "hetero-2-llama", "bfcl", 10.0),
            Source("chat1", "hetero-1-llama", "sharegpt", 10.0, "workflow-fcfs", tail=True, workflows=400),
            Source("mixed1", "hetero-1-qwen", "mixed", 10.0, parameters="fitted"),
            Source("bfcl2", "homogeneous-llama", "bfcl", 10.0, "workflow-llf", tail=True),
            Source("chat2", "hetero-2-qwen", "sharegpt", 10.0, workflows=400),
        ),
    ),
    "tight-kv": (
        _tight_kv,
        (
            Source("sample1", "hetero-1-llama", "sample", 4.0),
            Source("bfcl1", "hetero-2-llama", "bfcl", 4.0, tail=True),
            Source("chat1", "hetero-1-llama", "sharegpt", 4.0, workflows=400),
            Source("bfcl2", "hetero-1-qwen", "bfcl", 4.0, "workflow-fcfs", tail=True),
            Source("chat2", "homogeneous-llama", "sharegpt", 4.0, "workflow-llf", workflows=400),
            Source("lats1", "hetero-2-qwen", "lats", 4.0, tail=True, workflows=30),
        ),
    ),
    "strict-kv": (
        _strict_kv,
        (
            Source("bfcl1", "hetero-1-llama", "bfcl", 4.0),
            Source("chat1", "hetero-2-llama", "sharegpt", 4.0, tail=True, workflows=400),
        ),
    ),
    "slow-network": (
        _slow_network,
        (
            Source("sample1", "hetero-1-llama", "sample", 4.0),
            Source("bfcl1", "hetero-2-llama", "bfcl", 4.0, tail=True),
            Source("chat1", "hetero-1-qwen", "sharegpt", 4.0, workflows=400),
            Source("swe1", "homogeneous-llama", "swe-agent", 4.0, tail=True, workflows=140, parameters="fitted"),
            Source("claude1", "hetero-2-qwen", "claude-code", 4.0, "workflow-fcfs", workflows=140, parameters="fitted"),
            Source("lats1", "hetero-1-llama", "lats", 4.0, tail=True, workflows=30),
        ),
    ),
    "fan-out": (
        _as_it_is,
        (
            Source("lats1", "hetero-1-llama", "lats", 3.0, workflows=30),
            Source("lats2", "hetero-2-llama", "lats", 3.0, tail=True, workflows=30),
            Source("lats3", "hetero-1-qwen", "lats", 4.0, "workflow-fcfs", workflows=30),
            Source("lats4", "homogeneous-llama", "lats", 4.0, "workflow-llf", tail=True, workflows=30),
            Source("lats5", "hetero-2-qwen", "lats", 4.0, workflows=30),
            Source("lats6", "homogeneous-qwen", "lats", 4.0, tail=True, workflows=30),
            Source("lats7", "hetero-1-llama", "lats", 6.0, workflows=150),
            Source("lats8", "hetero-2-qwen", "lats", 6.0, tail=True, workflows=150),
        ),
    ),
    "uneven": (
        _uneven,
        (
            Source("sample1", "hetero-1-llama", "sample", 4.0),
            Source("bfcl1", "hetero-2-llama", "bfcl", 4.0, tail=True),
            Source("chat1", "hetero-1-qwen", "sharegpt", 4.0, workflows=400),
            Source("lats1", "homogeneous-llama", "lats", 4.0, tail=True, workflows=30),
            Source("bfcl2", "hetero-2-qwen", "bfcl", 4.0, "workflow-fcfs"),
            Source("claude1", "homogeneous-qwen", "claude-code", 4.0, tail=True, workflows=140, parameters="fitted"),
        ),
    ),
}  # fmt: skip


class _OverError(Exception):
    """The rest of the run is not needed."""


class _Asked:
    """Does as ``policy`` does and tells ``look`` of everything that it is asked, with a running number."""

    name = "asked"

    def __init__(self, policy: Policy, look: Callable[[int, View], None]) -> None:
        self.policy = policy
        self.triggers = getattr(policy, "triggers", ALL_TRIGGERS)
        self.fallback = getattr(policy, "fallback", None)
        self.plan_latency_us = getattr(policy, "plan_latency_us", 0)
        self._look = look

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: Any) -> None:
        self._number = 0
        self.policy.reset(cluster, latency, rng)

    def plan(self, view: View) -> Plan:
        self._look(self._number, view)
        self._number += 1
        return self.policy.plan(view)


def _bound(view: View) -> int:
    """How many calls a window of this view has that are not open: in prefill, or waiting for admission."""
    calls = [c for d in view.decode for c in d.bound.values()]
    return sum(CallState.QUEUED < c.state <= CallState.ADMISSION for c in calls)


def _instants(
    source: Source, trace: Trace, cluster: Cluster, sizes: Sequence[int], rng: random.Random, arrivals: str
) -> dict[int, int]:
    """Choose, for each size, the running number of the view that its window is cut from."""
    natural: dict[int, list[int]] = {size: [] for size in sizes}
    possible: dict[int, list[int]] = {size: [] for size in sizes}

    def look(number: int, view: View) -> None:
        waiting = len(view.pool) + sum(len(p.queue) for p in view.prefill)
        if not waiting:
            return
        bound = _bound(view)
        for size in sizes:
            if waiting + bound >= size and bound <= MOST_BOUND * size:
                (natural if waiting + bound <= NATURAL * size else possible)[size].append(number)
        if number > MOST_VIEWS or all(len(found) >= ENOUGH for found in natural.values()):
            raise _OverError

    _simulate(source, trace, cluster, look, arrivals)
    return {size: rng.choice(natural[size] or possible[size]) for size in sizes if natural[size] or possible[size]}


def _simulate(source: Source, trace: Trace, cluster: Cluster, look: Callable[[int, View], None], arrivals: str) -> None:
    policy = _Asked(hexopt.make_policy(source.policy), look)
    with suppress(_OverError):
        hexopt.simulate(trace, cluster, policy, arrivals=arrivals, delays="zero", seed=0)


def _tails(trace: Trace) -> dict[tuple[str, str], tuple[int, int]]:
    """Return, for each call, how many calls the longest path after it has, and its known tool delays in µs."""
    after: dict[tuple[str, str], tuple[int, int]] = {}
    for workflow in trace.workflows:
        children = _children(workflow)
        found: list[tuple[int, int]] = [(0, 0)] * len(workflow.calls)
        for k in reversed(range(len(workflow.calls))):
            for child in children[k]:
                calls, us = found[child]
                found[k] = max(found[k], (calls + 1, us + (workflow.calls[child].tool_us or 0)))
        for call, tail in zip(workflow.calls, found, strict=True):
            after[workflow.workflow_id, call.call_id] = tail
    return after


def _children(workflow: Workflow) -> list[list[int]]:
    children: list[list[int]] = [[] for _ in workflow.calls]
    for k, call in enumerate(workflow.calls):
        for parent in call.parents:
            children[parent].append(k)
    return children


def trace_of(regime: str, source: Source, quarter: bool) -> Trace:
    """Return the trace of a run: fewer workflows on a quarter of the cluster."""
    count = max(20, source.workflows // 4) if quarter else source.workflows
    if source.app == "sample":
        trace = hexopt.load_trace(ROOT / "traces/samples/bfcl_multi_turn.jsonl")
        return replace(trace, workflows=trace.workflows[:count])
    seed = sum(map(ord, regime + source.id)) + quarter
    return hexopt.generate_trace(source.app, workflows=count, seed=seed, parameters=source.parameters)


def cut(regime: str, source: Source, quarter: bool) -> list[Window]:
    """Return the windows of a run, by size: the small ones on a quarter of the cluster, or the others."""
    change, _ = REGIMES[regime]
    cluster = change(hexopt.load_cluster(source.cluster))
    cluster = quarter_of(cluster) if quarter else cluster
    trace = trace_of(regime, source, quarter)
    rng = random.Random(f"{regime} {source.id} {quarter}")
    left = [size for size in SIZES if (size <= QUARTER_TO) == quarter]
    windows: list[Window] = []
    for factor in HARDER:
        arrivals = f"utilisation:{source.load * factor:g}"
        instants = _instants(source, trace, cluster, left, rng, arrivals)
        if instants:
            windows += _cut(regime, source, quarter, cluster, trace, instants, arrivals)
        left = [size for size in left if size not in instants]
        if not left:
            break
    return sorted(windows, key=lambda w: len(w.calls))


def _cut(
    regime: str, source: Source, quarter: bool, cluster: Cluster, trace: Trace, instants: dict[int, int], arrivals: str
) -> list[Window]:
    known = _tails(trace) if source.tail else {}
    latency = ClusterLatency(cluster)
    windows: list[Window] = []
    cutter, horizons = Cutter(cluster, latency), Horizons(Estimator(cluster, latency))

    def tail_us(call: CallView) -> int:
        if not source.tail:
            return 0
        # Those that follow are taken to be like this one: their true lengths are not for a planner.
        calls, tools_us = known[call.workflow.workflow_id, call.call_id]
        return calls * horizons.alone_us(call) + tools_us

    def horizon_us(call: CallView) -> int:
        return horizons.of(call) + tail_us(call)

    def look(number: int, view: View) -> None:
        for size, instant in instants.items():
            if instant == number:
                windows.append(window_of(view, size))
        if len(windows) == len(instants):
            raise _OverError

    def window_of(view: View, size: int) -> Window:
        calls = most_urgent(waiting_calls(view), view.now_us, horizons, size - _bound(view))
        changed = "" if REGIMES[regime][0] is _as_it_is else f" made {regime}"
        on = f"{'a quarter of ' if quarter else ''}{source.cluster}{changed}"
        where = "sample trace" if source.app == "sample" else f"generated {source.app} ({source.parameters})"
        provenance = (
            f"cluster {on}, {where}, {len(trace.workflows)} workflows, arrivals {arrivals}, policy {source.policy}, "
            f"{'what follows foretold' if source.tail else 'no forecast'}, at {view.now_us} µs"
        )
        name = f"n{size:03d}-{regime}-{source.id}"
        return cutter.cut(view, horizon_us, tail_us=tail_us, calls=calls, name=name, provenance=provenance).window

    _simulate(source, trace, cluster, look, arrivals)
    return windows


def main() -> None:
    """Add what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--library", type=Path, default=ROOT / "formulations", help="folder of the library")
    parser.add_argument("--regime", choices=REGIMES, action="append", help="only this one; may be repeated")
    parser.add_argument("--anew", action="store_true", help="replace instances that would now be cut differently")
    given = parser.parse_args()
    library = Library(given.library)
    for regime in given.regime or REGIMES:
        for source in REGIMES[regime][1]:
            windows = [w for quarter in (True, False) for w in cut(regime, source, quarter)]
            for window in windows:
                try:
                    library.add(window, compress=len(window.calls) >= COMPRESS_FROM)
                except WindowError:
                    if not given.anew:
                        raise
                    library.path(window.name).unlink()
                    library.add(window, compress=len(window.calls) >= COMPRESS_FROM)
            print(f"{regime}-{source.id}: {', '.join(str(len(w.calls)) for w in windows)}", flush=True)
    print(f"{len(library.names())} instances")


if __name__ == "__main__":
    main()
