"""A serving cluster: prefill and decode instances, their latency coefficients, and the network.

Plain frozen data in the units of its names. :mod:`hexopt.clusters` reads it from TOML;
:class:`hexopt.latency.ClusterLatency` turns it into times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from hexopt.core.workflow import MAX_TOKENS
from hexopt.errors import ClusterError

MAX_BATCH = 2**20
"""Batch limits above this are refused, as are the values below: no hardware has them, and sums stay in 64 bits."""

MAX_MS = 1e9
MAX_FACTOR = 1e6
MAX_LATENCY_US = 10**15
NIC_BYTES_PER_S = (1, 1e18)
MIN_EFFICIENCY = 1e-6

Knots = tuple[tuple[int, float], ...]
KvAdmission = Literal["backfill", "strict"]
Binding = Literal["dispatch", "handoff"]
Contention = Literal["nic", "none"]


@dataclass(frozen=True, slots=True)
class PrefillLatency:
    """``T_ms = g(min(N, 512)) + a1·max(0, N − 512) + a2·A``, served as ``c0 + c1·T`` (semantics, section 3).

    ``g_knots`` are (new tokens, ms). ``extrapolate`` continues g past its last knot on the line through the
    last two; without it, a batch that needs g there is an error.
    """

    g_knots: Knots
    a1_ms: float
    a2_ms: float
    c0_ms: float = 0.0
    c1: float = 1.0
    extrapolate: bool = False

    def check(self, who: str) -> None:
        """Raise :class:`~hexopt.errors.ClusterError` unless the coefficients make sense."""
        _check_knots(f"{who}: g_knots", self.g_knots)
        _check_number(f"{who}: a1_ms", self.a1_ms)
        _check_number(f"{who}: a2_ms", self.a2_ms)
        _check_number(f"{who}: c0_ms", self.c0_ms)
        _check_number(f"{who}: c1", self.c1, high=MAX_FACTOR, positive=True)


@dataclass(frozen=True, slots=True)
class DecodeLatency:
    """Iteration ``h(B) + o0 + o1·B + b2·K`` ms, B calls with K context tokens in all (semantics, section 5)."""

    h_knots: Knots
    b2_ms: float
    o0_ms: float = 0.0
    o1_ms: float = 0.0
    extrapolate: bool = False

    def check(self, who: str) -> None:
        """Raise :class:`~hexopt.errors.ClusterError` unless the coefficients make sense."""
        _check_knots(f"{who}: h_knots", self.h_knots)
        _check_number(f"{who}: b2_ms", self.b2_ms)
        _check_number(f"{who}: o0_ms", self.o0_ms)
        _check_number(f"{who}: o1_ms", self.o1_ms)


@dataclass(frozen=True, slots=True)
class PrefillInstance:
    """A serving replica that runs prompts. ``nic_bytes_per_s`` is its network interface's rate, bytes/s."""

    name: str
    kv_tokens: int
    nic_bytes_per_s: float
    kv_bytes_per_token: int
    latency: PrefillLatency
    max_batch_tokens: int = 1
    gpu: str = ""

    def check(self) -> None:
        """Raise :class:`~hexopt.errors.ClusterError` unless the instance makes sense."""
        _check_instance(self)
        _check_int(f"instance '{self.name}': max_batch_tokens", self.max_batch_tokens)
        self.latency.check(f"instance '{self.name}'")


@dataclass(frozen=True, slots=True)
class DecodeInstance:
    """A serving replica that generates tokens, at most ``max_batch`` calls at a time."""

    name: str
    kv_tokens: int
    nic_bytes_per_s: float
    kv_bytes_per_token: int
    latency: DecodeLatency
    max_batch: int
    gpu: str = ""

    def check(self) -> None:
        """Raise :class:`~hexopt.errors.ClusterError` unless the instance makes sense."""
        who = f"instance '{self.name}'"
        _check_instance(self)
        _check_int(f"{who}: max_batch", self.max_batch, high=MAX_BATCH)
        self.latency.check(who)
        last = self.latency.h_knots[-1][0]
        if self.max_batch > last and not self.latency.extrapolate:
            raise ClusterError(
                f"{who}: max_batch {self.max_batch} lies beyond the last calibrated batch {last} of h_knots, "
                "a model is not extrapolated unasked, lower max_batch or set extrapolate = true"
            )
        if self.max_batch > last and len(self.latency.h_knots) < 2:
            raise ClusterError(f"{who}: h_knots has one knot, extrapolation needs two, add a knot")


@dataclass(frozen=True, slots=True)
class Network:
    """KV transfer: ``wire = bytes / (efficiency · min of the two interfaces)``, then ``latency_us``."""

    efficiency: float = 0.75
    latency_us: int = 2000
    contention: Contention = "nic"

    def check(self) -> None:
        """Raise :class:`~hexopt.errors.ClusterError` unless the network makes sense."""
        _check_number("network: efficiency", self.efficiency, MIN_EFFICIENCY, 1, positive=True)
        _check_int("network: latency_us", self.latency_us, low=0, high=MAX_LATENCY_US)
        _check_choice("network: contention", self.contention, ("nic", "none"))


@dataclass(frozen=True)
class Cluster:
    """Fixed pools of prefill and decode instances; an instance's index is its position in its pool."""

    name: str
    model: str
    prefill: tuple[PrefillInstance, ...]
    decode: tuple[DecodeInstance, ...]
    network: Network = field(default_factory=Network)
    block_tokens: int = 16
    kv_admission: KvAdmission = "backfill"
    binding: Binding = "dispatch"

    def check(self) -> None:
        """Raise :class:`~hexopt.errors.ClusterError` unless the cluster can serve anything."""
        who = f"cluster '{self.name}'"
        _check_int(f"{who}: block_tokens", self.block_tokens)
        _check_choice(f"{who}: kv_admission", self.kv_admission, ("backfill", "strict"))
        _check_choice(f"{who}: binding", self.binding, ("dispatch", "handoff"))
        self.network.check()
        pools: tuple[tuple[str, int], ...] = (("prefill", len(self.prefill)), ("decode", len(self.decode)))
        for role, size in pools:
            if size == 0:
                raise ClusterError(
                    f"{who}: it has no instance of role {role}, at least one of each role is needed, add an instance"
                )
        names: set[str] = set()
        instances: list[PrefillInstance | DecodeInstance] = [*self.prefill, *self.decode]
        for instance in instances:
            if instance.name in names:
                raise ClusterError(f"{who}: instance name '{instance.name}' occurs twice, names are unique, rename one")
            names.add(instance.name)
            instance.check()


def _check_instance(instance: PrefillInstance | DecodeInstance) -> None:
    who = f"instance '{instance.name}'"
    if not instance.name:
        raise ClusterError("instance '': its name is empty, results are told apart by it, name it")
    _check_int(f"{who}: kv_tokens", instance.kv_tokens)
    _check_int(f"{who}: kv_bytes_per_token", instance.kv_bytes_per_token)
    _check_number(f"{who}: nic_bytes_per_s", instance.nic_bytes_per_s, *NIC_BYTES_PER_S, positive=True)


def _check_knots(what: str, knots: Knots) -> None:
    if not knots:
        raise ClusterError(f"{what}: it is empty, a curve has at least one [x, ms] knot, add one")
    for x, ms in knots:
        _check_int(f"{what}: x", x)
        _check_number(f"{what}: ms at {x}", ms)
    for (x0, _), (x1, _) in pairwise(knots):
        if x1 <= x0:
            raise ClusterError(f"{what}: {x1} follows {x0}, knots stand in increasing order of x, sort them")


def _check_int(what: str, value: object, low: int = 1, high: int = MAX_TOKENS) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ClusterError(f"{what}: {value!r} is no integer, a whole number of at least {low} is needed, correct it")
    if value < low:
        raise ClusterError(f"{what}: {_brief(value)} is too small, at least {low} is needed, correct it")
    if value > high:
        raise ClusterError(f"{what}: {_brief(value)} is too large, at most {high} is legal, correct it")


def _check_number(what: str, value: object, low: float = 0, high: float = MAX_MS, positive: bool = False) -> None:
    rule = "a finite number above 0 is needed" if positive else "a finite number of at least 0 is needed"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ClusterError(f"{what}: {value!r} is no number, {rule}, correct it")
    if not 0 <= value < math.inf or (positive and value == 0):
        raise ClusterError(f"{what}: {_brief(value)} is out of range, {rule}, correct it")
    if value < low:
        raise ClusterError(f"{what}: {value} is too small, at least {low:g} is needed, correct it")
    if value > high:
        raise ClusterError(f"{what}: {_brief(value)} is too large, at most {high:g} is legal, correct it")


def _brief(value: int | float) -> str:
    # str() refuses whole numbers of thousands of digits
    return (
        f"{value}" if isinstance(value, float) or value.bit_length() <= 200 else "a whole number of 60 digits or more"
    )


def _check_choice(what: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise ClusterError(f"{what}: '{value}' is unknown, legal are {', '.join(legal)}, choose one")
