"""From an experiment file to single runs, each with a key of everything that determines its result."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import hexopt
from hexopt.capacity import apply_arrivals_on
from hexopt.core.cluster import Cluster
from hexopt.core.workflow import Trace
from hexopt.errors import ConfigError
from hexopt.experiments.config import ExperimentConfig, PolicyEntry
from hexopt.latency import check_calibrated
from hexopt.policies.registry import policy_class
from hexopt.sim.engine import Simulation
from hexopt.sim.predictors import make_predictor
from hexopt.traces import apply_delays, require_known

FILE_OPTIONS = frozenset({("replay", "decisions")})
"""Policy options that name a file: its path is relative to the experiment file, its contents are part of the key."""


@dataclass(frozen=True)
class RunSpec:
    """One run of a grid.

    ``cluster`` is what results call it, ``cluster_source`` what loads it; ``policy`` is the label. ``key`` is a
    readable prefix and a hash of inputs' contents, rules, options, seed and code.
    """

    key: str
    cluster: str
    cluster_source: str
    policy: str
    policy_name: str
    options: tuple[tuple[str, Any], ...]
    seed: int

    @property
    def title(self) -> str:
        """How a person would name the run."""
        return f"{self.cluster} · {self.policy} · seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """All runs of an experiment, in the order of its tables: clusters, then policies, then seeds."""

    config: ExperimentConfig
    runs: tuple[RunSpec, ...]
    trace_sha256: str
    workflows: int
    calls: int


def make_grid(config: ExperimentConfig) -> Grid:
    """Load and check every input of an experiment and list its runs; nothing is simulated.

    Raises
    ------
    HexoptError
        A trace, cluster, policy, option or rule is not usable: found here, before any run has cost time.
    """
    trace = load_experiment_trace(config)
    trace_sha256 = str(trace.provenance["sha256"])
    clusters = _clusters(config)
    policies = [(entry, _options(config, entry)) for entry in config.policies]
    _rehearse(config, trace, clusters, policies)
    code = _package_code()
    runs = []
    for source, cluster in clusters:
        for entry, options in policies:
            for seed in config.seeds:
                facts = {
                    "hexopt": hexopt.__version__,
                    "code": code,
                    "trace": trace_sha256,
                    "workflows": config.workflows,
                    "skip_invalid": config.skip_invalid,
                    "arrivals": config.arrivals,
                    "delays": config.delays,
                    "predictor": config.predictor,
                    "stop_us": config.stop_us,
                    "cluster": asdict(cluster),
                    "policy": entry.name,
                    "policy_code": _policy_code(entry.name),
                    "options": _option_facts(entry, options),
                    "seed": seed,
                    "keep": config.output.keep,
                }
                runs.append(
                    RunSpec(
                        key=f"{_word(cluster.name)}--{_word(entry.name)}--{seed}--{_digest(facts)}",
                        cluster=cluster.name,
                        cluster_source=source,
                        policy=entry.title,
                        policy_name=entry.name,
                        options=tuple(options.items()),
                        seed=seed,
                    )
                )
    return Grid(config, tuple(runs), trace_sha256, len(trace), trace.call_count)


def _rehearse(
    config: ExperimentConfig,
    trace: Trace,
    clusters: Sequence[tuple[str, Cluster]],
    policies: Sequence[tuple[PolicyEntry, dict[str, Any]]],
) -> None:
    """Set up one simulation per cluster and policy without running it, to find bad input before it costs time."""
    seed = config.seeds[0]
    if config.delays is not None:
        trace = apply_delays(trace, config.delays, seed)
    predictor = make_predictor(config.predictor)
    for _, cluster in clusters:
        if config.arrivals is not None:
            trace = apply_arrivals_on(cluster, trace, config.arrivals, seed)
        require_known(trace)
        check_calibrated(trace, cluster)
        for entry, options in policies:
            policy = hexopt.make_policy(entry.name, **options)
            Simulation(trace, cluster, policy, predictor, seed=seed, stop_us=config.stop_us)


def load_experiment_trace(config: ExperimentConfig) -> Trace:
    """Return the experiment's trace, cut to its ``workflows``."""
    trace = _load_trace(str(config.resolve(config.trace)), config.skip_invalid)
    return trace if config.workflows is None else trace.head(config.workflows)


@lru_cache(maxsize=4)
def _load_trace(path: str, skip_invalid: bool) -> Trace:
    # Cached because a worker process carries out many runs of one trace.
    return hexopt.load_trace(path, skip_invalid=skip_invalid)


def cluster_source(config: ExperimentConfig, name: str) -> str:
    """Return what ``load_cluster`` takes: a path stays relative to the experiment file, a shipped name is itself."""
    return str(config.resolve(name)) if name.endswith(".toml") or "/" in name else name


def _clusters(config: ExperimentConfig) -> list[tuple[str, Cluster]]:
    clusters = [(source, hexopt.load_cluster(source)) for source in (cluster_source(config, n) for n in config.cluster)]
    names = [cluster.name for _, cluster in clusters]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"cluster: two files are named '{name}', results are told apart by cluster name, rename one file"
            )
    return clusters


def _options(config: ExperimentConfig, entry: PolicyEntry) -> dict[str, Any]:
    return {
        key: str(config.resolve(str(value))) if (entry.name, key) in FILE_OPTIONS else value
        for key, value in entry.options.items()
    }


def _option_facts(entry: PolicyEntry, options: dict[str, Any]) -> dict[str, Any]:
    # make_policy has read these files already, so they exist.
    return {
        key: hashlib.sha256(Path(value).read_bytes()).hexdigest() if (entry.name, key) in FILE_OPTIONS else value
        for key, value in options.items()
    }


_NO_RESULT_DEPENDS_ON = ("cli", "experiments", "report")


@lru_cache(maxsize=1)
def _package_code() -> str:
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
