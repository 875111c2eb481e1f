"""Shipped latency profiles: fitted coefficients of one (model, GPU, tensor parallelism), with their provenance.

A profile is a TOML file in ``hexopt/latency/profiles``, written by ``experiments/refit_profiles.py``.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, replace
from importlib import resources

from hexopt.core.cluster import DecodeLatency, Knots, PrefillLatency
from hexopt.errors import ClusterError, suggest

SCHEMA_VERSION = 1

_TOP = (
    "schema_version",
    "name",
    "gpu",
    "model",
    "tp",
    "kv_tokens",
    "kv_bytes_per_token",
    "nic_bytes_per_s",
    "max_batch",
    "prefill",
    "decode",
    "serving_overhead",
    "errors",
    "provenance",
)


@dataclass(frozen=True, slots=True)
class Profile:
    """One calibrated serving replica: ``tp`` GPUs of one kind running one model.

    Attributes
    ----------
    kv_tokens, kv_bytes_per_token
        KV room of the replica, and what one token takes there (replicated heads included) and on the wire.
    nic_bytes_per_s
        All its network interfaces together.
    prefill, decode
        The fitted curves alone, without serving overhead.
    c0_ms, c1, o0_ms, o1_ms
        The serving overhead: ``T' = c0 + c1·T`` and ``h'(B) = h(B) + o0 + o1·B``.
    provenance
        Where the figures come from, as (key, text) pairs in the order of the file.
    errors
        Errors of the fit on rows it did not see, as (measure, share) pairs.
    known_errors
        What is known to be off against measured serving, one sentence each.
    """

    name: str
    gpu: str
    model: str
    tp: int
    kv_tokens: int
    kv_bytes_per_token: int
    nic_bytes_per_s: float
    max_batch: int
    prefill: PrefillLatency
    decode: DecodeLatency
    c0_ms: float = 0.0
    c1: float = 1.0
    o0_ms: float = 0.0
    o1_ms: float = 0.0
    provenance: tuple[tuple[str, str], ...] = ()
    errors: tuple[tuple[str, float], ...] = ()
    known_errors: tuple[str, ...] = ()

    def prefill_latency(self, serving_overhead: bool = True, extrapolate: bool = False) -> PrefillLatency:
        """Return the coefficients of a prefill instance with this profile."""
        if serving_overhead:
            return replace(self.prefill, c0_ms=self.c0_ms, c1=self.c1, extrapolate=extrapolate)
        return replace(self.prefill, extrapolate=extrapolate)

    def decode_latency(self, serving_overhead: bool = True, extrapolate: bool = False) -> DecodeLatency:
        """Return the coefficients of a decode instance with this profile."""
        if serving_overhead:
            return replace(self.decode, o0_ms=self.o0_ms, o1_ms=self.o1_ms, extrapolate=extrapolate)
        return replace(self.decode, extrapolate=extrapolate)


def profile_names() -> tuple[str, ...]:
    """Return the names of the shipped profiles, sorted.

    >>> "llama3.1-70b-h100-tp4" in profile_names()
    True
    """
    folder = resources.files("hexopt.latency").joinpath("profiles")
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load_profile(name: str) -> Profile:
    """Load a shipped profile.

    Raises
    ------
    ClusterError
        If no shipped profile has this name, or its file is not a valid profile.

    Examples
    --------
    >>> load_profile("llama3.1-70b-h100-tp4").kv_tokens
    450045
    """
    known = profile_names()
    if name not in known:
        raise ClusterError(
            f"latency profile '{name}': no such profile is shipped, {suggest(name, known)}, "
            "or give the coefficients inline"
        )
    file = resources.files("hexopt.latency").joinpath("profiles", f"{name}.toml")
    profile = parse_profile(file.read_text(encoding="utf-8"), f"{name}.toml")
    if profile.name != name:
        raise ClusterError(f"{name}.toml: name: '{profile.name}' found, a profile is named as its file, correct it")
    return profile


def parse_profile(text: str, source: str) -> Profile:
    """Parse the text of a profile file; ``source`` is its name in error messages.

    Raises
    ------
    ClusterError
        If the text is not TOML, a key is unknown or missing, or a value makes no sense.
    """
    try:
        data = tomllib.loads(text)
    except ValueError as error:
        raise ClusterError(f"{source}: no valid TOML ({error}), a profile is a TOML file, correct it") from None
    top = _Table(source, "", data, _TOP)
    version = top.integer("schema_version")
    if version != SCHEMA_VERSION:
        raise ClusterError(
            f"{source}: schema_version: {version} found, this hexopt reads {SCHEMA_VERSION}, refit the profile"
        )
    prefill = top.table("prefill", ("g_knots", "a1_ms", "a2_ms"))
    decode = top.table("decode", ("h_knots", "b2_ms"))
    overhead = top.table("serving_overhead", ("c0_ms", "c1", "o0_ms", "o1_ms"))
    errors = top.table("errors", None)
    provenance = top.table("provenance", None)
    profile = Profile(
        name=top.string("name"),
        gpu=top.string("gpu"),
        model=top.string("model"),
        tp=top.integer("tp"),
        kv_tokens=top.integer("kv_tokens"),
        kv_bytes_per_token=top.integer("kv_bytes_per_token"),
        nic_bytes_per_s=top.number("nic_bytes_per_s"),
        max_batch=top.integer("max_batch"),
        prefill=PrefillLatency(prefill.knots("g_knots"), prefill.number("a1_ms"), prefill.number("a2_ms")),
        decode=DecodeLatency(decode.knots("h_knots"), decode.number("b2_ms")),
        c0_ms=overhead.number("c0_ms"),
        c1=overhead.number("c1"),
        o0_ms=overhead.number("o0_ms"),
        o1_ms=overhead.number("o1_ms"),
        provenance=tuple((key, provenance.string(key)) for key in provenance.data if key != "known_errors"),
        errors=tuple((key, errors.number(key)) for key in errors.data),
        known_errors=provenance.strings("known_errors"),
    )
    try:
        profile.prefill_latency().check("prefill")
        profile.decode_latency().check("decode")
    except ClusterError as error:
        raise ClusterError(f"{source}: {error}") from None
    return profile


class _Table:
    """A TOML table that yields values of the asked type, or an error that names file, key, value and remedy."""

    def __init__(self, source: str, path: str, data: dict[str, object], known: tuple[str, ...] | None) -> None:
        self.source, self.path, self.data = source, path, data
        for key in data:
            if known is not None and key not in known:
                raise ClusterError(f"{source}: {path}{key}: the key is unknown, {suggest(key, known)}, remove it")

    def _get(self, key: str) -> object:
        if key not in self.data:
            raise ClusterError(f"{self.source}: {self.path}{key}: it is missing, a profile states it, add it")
        return self.data[key]

    def _wrong(self, key: str, value: object, rule: str) -> ClusterError:
        return ClusterError(f"{self.source}: {self.path}{key}: {value!r} found, {rule} is needed, correct it")

    def string(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, value, "a text")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, value, "a list of texts")
        return tuple(value)

    def integer(self, key: str) -> int:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(key, value, "a whole number of at least 1")
        return value

    def number(self, key: str) -> float:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise self._wrong(key, value, "a finite number of at least 0")
        return float(value)

    def knots(self, key: str) -> Knots:
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(item, list) and len(item) == 2 for item in value):
            raise self._wrong(key, value, "a list of [x, ms] pairs")
        # what x and ms may be is checked by the coefficients themselves
        return tuple((x, ms) for x, ms in value)

    def table(self, key: str, known: tuple[str, ...] | None) -> _Table:
        value = self._get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, value, "a table")
        return _Table(self.source, f"{self.path}{key}.", value, known)
