"""From an experiment file to single runs, each with a key of everything that determines its result."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import hexopt
from hexopt.api import hand_forecasters
from hexopt.capacity import apply_arrivals_on
from hexopt.core.cluster import Cluster
from hexopt.core.workflow import Trace
from hexopt.errors import ConfigError
from hexopt.experiments.config import ExperimentConfig, PolicyEntry, TraceEntry, load_rule
from hexopt.latency import check_calibrated
from hexopt.policies.forecast import training_file
from hexopt.policies.registry import policy_class
from hexopt.sim.engine import Simulation
from hexopt.sim.predictors import make_predictor
from hexopt.traces import apply_delays, require_known

FILE_OPTIONS = frozenset({("replay", "decisions")})
"""Policy options that name a file: its path is relative to the experiment file, its contents are part of the key.

So it is with the training trace of a ``forecaster``, of whatever policy.
"""


@dataclass(frozen=True)
class RunSpec:
    """One run of a grid.

    ``cluster``, ``trace`` and ``policy`` are what results call them. ``key`` is a readable prefix and a hash of
    inputs' contents, rules, options, seed and code. ``draw`` is the seed of a generated trace; ``trace_at`` and
    ``cluster_at`` are positions in :class:`Inputs`.
    """

    key: str
    title: str
    cluster: str
    trace: str
    load: float | None
    estimate_error: float
    policy: str
    policy_name: str
    options: tuple[tuple[str, Any], ...]
    predictor: str
    arrivals: str | None
    delays: str | None
    seed: int
    trace_at: int
    cluster_at: int
    draw: int | None

    @property
    def group(self) -> tuple[int, int, int]:
        """Runs of one group share their trace before arrivals, and standalone latencies."""
        return self.trace_at, -1 if self.draw is None else self.draw, self.cluster_at


@dataclass(frozen=True)
class Inputs:
    """All that the runs of a study need besides their specs; a worker on another machine is sent it once.

    ``traces`` holds a trace as read from its file, or the entry that a generated one is drawn by. ``code`` is the
    digest of the code that the study's keys speak of.
    """

    traces: tuple[Trace | TraceEntry, ...]
    clusters: tuple[Cluster, ...]
    stop_us: int | None
    keep: str
    code: str


@dataclass(frozen=True)
class Grid:
    """All runs of an experiment, in the order of its tables: by cluster, trace, load, error, policy, seed.

    ``facts`` says by dotted keys, in plain values, what determines the runs: the file's content, and digests of
    what it names. ``traces`` tells what is known of each trace before it is drawn.
    """

    config: ExperimentConfig
    runs: tuple[RunSpec, ...]
    inputs: Inputs
    traces: tuple[dict[str, Any], ...]
    facts: dict[str, Any]


def make_grid(config: ExperimentConfig) -> Grid:
    """Load and check every input of an experiment and list its runs; nothing is simulated.

    Raises
    ------
    HexoptError
        A trace, cluster, policy, option or rule is not usable: found here, before any run has cost time.
    """
    entries = config.trace_entries
    traces = [_trace(config, entry) for entry in entries]
    clusters = _clusters(config)
    policies = [(entry, _options(config, entry)) for entry in config.policies]
    _rehearse(config, entries, traces, clusters, policies)
    code = package_code()
    trace_facts = [_trace_facts(entry, trace) for entry, trace in zip(entries, traces, strict=True)]
    cluster_facts = [_digest(asdict(cluster)) for cluster in clusters]
    policy_facts = [
        {"name": entry.name, "code": _policy_code(entry.name), "options": _option_facts(entry, options)}
        for entry, options in policies
    ]
    common = {"hexopt": hexopt.__version__, "code": code, "stop_us": config.stop_us, "keep": config.output.keep}
    several = len(traces) > 1 or config.traces is not None
    runs = []
    for (c, cluster), (t, entry), load, error, (p, (policy, options)), seed in product(
        enumerate(clusters),
        enumerate(entries),
        config.loads or (None,),
        config.estimate_errors,
        enumerate(policies),
        config.seeds,
    ):
        arrivals = entry.arrivals if load is None else load_rule(load, config.load_cv)
        draw = None if entry.generate is None else seed if entry.trace_seed is None else entry.trace_seed
        predictor = policy.predictor or config.predictor
        facts = {
            **common,
            "trace": trace_facts[t],
            "draw": draw,
            "arrivals": arrivals,
            "delays": entry.delays,
            "predictor": predictor,
            "estimate_error": error,
            "cluster": cluster_facts[c],
            "policy": policy_facts[p],
            "seed": seed,
        }
        title = [cluster.name]
        title += [entry.title] if several else []
        title += [] if load is None else [f"load {load:.12g}"]
        title += [f"error {error:.12g}"] if len(config.estimate_errors) > 1 else []
        runs.append(
            RunSpec(
                key=f"{_word(cluster.name)}--{_word(policy.name)}--{seed}--{_digest(facts)}",
                title=" · ".join([*title, policy.title, f"seed {seed}"]),
                cluster=cluster.name,
                trace=entry.title,
                load=load,
                estimate_error=error,
                policy=policy.title,
                policy_name=policy.name,
                options=tuple(options.items()),
                predictor=predictor,
                arrivals=arrivals,
                delays=entry.delays,
                seed=seed,
                trace_at=t,
                cluster_at=c,
                draw=draw,
            )
        )
    inputs = Inputs(tuple(traces), tuple(clusters), config.stop_us, config.output.keep, code)
    known = tuple(_known(entry, trace) for entry, trace in zip(entries, traces, strict=True))
    return Grid(config, tuple(runs), inputs, known, _study_facts(config, trace_facts, cluster_facts, policy_facts))


def drawn_trace(entry: TraceEntry, seed: int) -> Trace:
    """Return the trace that a generator draws of a seed; the last few are kept."""
    options = tuple(sorted(entry.options.items()))
    return _drawn(str(entry.generate), entry.workflows or 0, str(entry.parameters), options, seed)


@lru_cache(maxsize=4)
def _drawn(generate: str, workflows: int, parameters: str, options: tuple[tuple[str, Any], ...], seed: int) -> Trace:
    return hexopt.generate_trace(generate, workflows=workflows, seed=seed, parameters=parameters, **dict(options))


def _rehearse(
    config: ExperimentConfig,
    entries: Sequence[TraceEntry],
    traces: Sequence[Trace | TraceEntry],
    clusters: Sequence[Cluster],
    policies: Sequence[tuple[PolicyEntry, dict[str, Any]]],
) -> None:
    """Set up simulations without running them, to find bad input before it costs time.

    Every pair of trace and cluster is set up with the first policy, every policy with the first pair, and every policy
    that learns from a file with every pair: it may know some traces. Of generated traces the first seed stands for all.
    """
    readers = [row for row in policies if training_file(str(row[1].get("forecaster", "")))]
    seed = config.seeds[0]
    for t, (entry, source) in enumerate(zip(entries, traces, strict=True)):
        rule = load_rule(config.loads[0], config.load_cv) if config.loads else entry.arrivals
        for c, cluster in enumerate(clusters):
            trace = _rehearsed(entry, source, seed, rule, cluster)
            check_calibrated(trace, cluster)
            for policy, options in policies if t == c == 0 else [*policies[:1], *readers]:
                made = hexopt.make_policy(policy.name, **options)
                predictor = make_predictor(policy.predictor or config.predictor)
                hand_forecasters(made, trace, seed, entry.delays)
                Simulation(trace, cluster, made, predictor, seed=seed, stop_us=config.stop_us)


def _rehearsed(
    entry: TraceEntry, source: Trace | TraceEntry, seed: int, arrivals: str | None, cluster: Cluster
) -> Trace:
    if isinstance(source, Trace):
        trace = source
    else:
        trace = drawn_trace(source, seed if source.trace_seed is None else source.trace_seed)
        trace.check()
    if arrivals is not None:
        trace = apply_arrivals_on(cluster, trace, arrivals, seed)
    if entry.delays is not None:
        trace = apply_delays(trace, entry.delays, seed)
    require_known(trace)
    return trace


def _trace(config: ExperimentConfig, entry: TraceEntry) -> Trace | TraceEntry:
    """Return the trace of a file, cut to its ``workflows``, or the entry that one is drawn by."""
    if entry.file is None:
        return entry
    trace = _load_trace(str(config.resolve(entry.file)), bool(entry.skip_invalid))
    return trace if entry.workflows is None else trace.head(entry.workflows)


@lru_cache(maxsize=4)
def _load_trace(path: str, skip_invalid: bool) -> Trace:
    # Cached because programs make the grid of one file again and again.
    return hexopt.load_trace(path, skip_invalid=skip_invalid)


def _trace_facts(entry: TraceEntry, trace: Trace | TraceEntry) -> dict[str, Any]:
    if isinstance(trace, Trace):
        return {
            "sha256": str(trace.provenance["sha256"]),
            "workflows": entry.workflows,
            "skip_invalid": entry.skip_invalid,
        }
    return {
        "generate": entry.generate,
        "parameters": entry.parameters,
        "options": dict(entry.options),
        "workflows": entry.workflows,
    }


def _known(entry: TraceEntry, trace: Trace | TraceEntry) -> dict[str, Any]:
    facts = {"name": entry.title, **_trace_facts(entry, trace)}
    if isinstance(trace, Trace):
        facts |= {"workflows": len(trace), "calls": trace.call_count}
    return facts


_SHOWN_ONLY = {"name", "description", "baselines", "schema_version"}
"""Keys of an experiment that no run depends on: they may change at any time."""


def _study_facts(
    config: ExperimentConfig,
    traces: Sequence[dict[str, Any]],
    clusters: Sequence[str],
    policies: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    plain = config.model_dump(mode="json", exclude=_SHOWN_ONLY | {"policies", "traces", "trace", "output"})
    for key in ("workflows", "arrivals", "delays", "skip_invalid"):  # said trace by trace below
        del plain[key]
    facts |= plain | {"output.keep": config.output.keep}
    for entry, of_trace in zip(config.trace_entries, traces, strict=True):
        told = entry.model_dump(mode="json", exclude={"name"}) | {"sha256": of_trace.get("sha256")}
        facts |= _flat(f"traces[{entry.title}]", told)
    for name, digest in zip(config.cluster, clusters, strict=True):
        facts[f"content of cluster '{name}'"] = digest
    facts["policies"] = [policy.title for policy in config.policies]
    for policy, of_policy in zip(config.policies, policies, strict=True):
        told = {"name": policy.name, "predictor": policy.predictor, "options": of_policy["options"]}
        facts |= _flat(f"policies[{policy.title}]", told)
    return facts


def _flat(prefix: str, table: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(f"{prefix}.{key}", value) if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return {key: value for key, value in flat.items() if value is not None}


def _cluster_source(config: ExperimentConfig, name: str) -> str:
    """Return what ``load_cluster`` takes: a path stays relative to the experiment file, a shipped name is itself."""
    return str(config.resolve(name)) if name.endswith(".toml") or "/" in name else name


def _clusters(config: ExperimentConfig) -> list[Cluster]:
    clusters = [hexopt.load_cluster(_cluster_source(config, name)) for name in config.cluster]
    names = [cluster.name for cluster in clusters]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"cluster: two files are named '{name}', results are told apart by cluster name, rename one file"
            )
    return clusters


def _options(config: ExperimentConfig, entry: PolicyEntry) -> dict[str, Any]:
    options = dict(entry.options)
    for key, value in entry.options.items():
        path = _file_of(entry, key, value)
        if path is not None:
            options[key] = str(value).removesuffix(path) + str(config.resolve(path))
    return options


def _option_facts(entry: PolicyEntry, options: dict[str, Any]) -> dict[str, Any]:
    # The rehearsal has read these files already, so they exist.
    facts = dict(options)
    for key, value in options.items():
        path = _file_of(entry, key, value)
        if path is not None:
            facts[key] = str(value).removesuffix(path) + hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return facts


def _file_of(entry: PolicyEntry, key: str, value: Any) -> str | None:
    """Return the path that ends the value of an option, if it names a file."""
    if (entry.name, key) in FILE_OPTIONS:
        return str(value)
    return training_file(value) if key == "forecaster" and isinstance(value, str) else None


_NO_RESULT_DEPENDS_ON = ("cli", "experiments", "report")


@lru_cache(maxsize=1)
def package_code() -> str:
    """Hash the package's own files: a version number alone would reuse results of code that has been edited since."""
    root = Path(hexopt.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".toml")):
        name = path.relative_to(root)
        if name.parts[0] not in _NO_RESULT_DEPENDS_ON:
            digest.update(f"{name.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _policy_code(name: str) -> str:
    """Hash the file that defines a policy, which may belong to another package."""
    module = sys.modules.get(policy_class(name).__module__)
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _digest(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _word(text: str) -> str:
    """Make a label fit to be part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:40] or "x"
