"""Cluster files (TOML, schema version 1) to and from :class:`hexopt.core.cluster.Cluster`."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from hexopt.core.cluster import (
    Cluster,
    DecodeInstance,
    DecodeLatency,
    Network,
    PrefillInstance,
    PrefillLatency,
)
from hexopt.errors import CalibrationRangeError, ClusterError, suggest
from hexopt.latency.model import ClusterLatency
from hexopt.latency.profiles import Profile, load_profile

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

    from hexopt.clusters.schema import ClusterFile, DecodeEntry, PrefillEntry

T = TypeVar("T")

SCHEMA_VERSION = 1

_INLINE = {
    "prefill": ("g_knots", "a1_ms", "a2_ms", "c0_ms", "c1"),
    "decode": ("h_knots", "b2_ms", "o0_ms", "o1_ms"),
}
"""Latency coefficients that an instance may state itself."""

_REQUIRED = {
    "prefill": ("g_knots", "a1_ms", "a2_ms", "kv_tokens", "nic_bytes_per_s"),
    "decode": ("h_knots", "b2_ms", "kv_tokens", "nic_bytes_per_s"),
}
"""What an instance without a profile must state."""


def cluster_names() -> tuple[str, ...]:
    """Return the names of the shipped clusters, sorted.

    >>> "tiny" in cluster_names()
    True
    """
    folder = resources.files("hexopt.clusters").joinpath("shipped")
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load_cluster(name_or_path: str | Path) -> Cluster:
    """Load a shipped cluster by its name, or a cluster file by its path.

    A text is a path if it ends in ``.toml`` or has a path separator in it, and the name of a shipped cluster
    otherwise.

    Raises
    ------
    ClusterError
        If there is no such cluster or file, or the file is not a usable cluster. The message is one line and names
        the file, the key, the value found and what to do; if more is wrong, it says how many errors follow.

    Examples
    --------
    >>> cluster = load_cluster("tiny")
    >>> len(cluster.prefill), len(cluster.decode)
    (2, 2)
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise _error(
            f"cluster {name_or_path!r}: no name and no path found, a cluster is a TOML file or one of "
            f"{', '.join(cluster_names())}, name one"
        )
    if isinstance(name_or_path, str) and not _is_path(name_or_path):
        known = cluster_names()
        if name_or_path not in known:
            raise _error(
                f"cluster '{name_or_path}': no such cluster is shipped, {suggest(name_or_path, known)}, "
                "or give the path of a file that ends in .toml"
            )
        file = resources.files("hexopt.clusters").joinpath("shipped", f"{name_or_path}.toml")
        return parse_cluster(file.read_bytes(), f"{name_or_path}.toml", name_or_path)
    path = Path(name_or_path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _error(
            f"{name_or_path}: it cannot be read ({reason}), a cluster is a TOML file or one of "
            f"{', '.join(cluster_names())}, correct the path"
        ) from None
    return parse_cluster(content, str(name_or_path), path.name.removesuffix(".toml"))


def parse_cluster(content: bytes, source: str, default_name: str) -> Cluster:
    """Read the content of a cluster file.

    Parameters
    ----------
    content
        The file's bytes, UTF-8.
    source
        The file's name in error messages.
    default_name
        The cluster's name if the file states none.

    Raises
    ------
    ClusterError
        If the content is not a usable cluster.
    """
    data = _parse_toml(content, source)
    # pydantic takes a while to import: only a program that reads a cluster pays for it
    from pydantic import ValidationError

    from hexopt.clusters.schema import ClusterFile

    try:
        file = ClusterFile.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        raise _first_of(source, [_translate(detail, data) for detail in details]) from None
    return _build(file, source, default_name)


def describe(cluster: Cluster) -> list[dict[str, str | int | float]]:
    """Return one row per group of equal instances that stand side by side, with times that tell them apart.

    Every row has the same keys; what does not apply to a role, or lies beyond its calibrated range, is ``""``.

    >>> [(row["role"], row["count"], row["kv_tokens"]) for row in describe(load_cluster("tiny"))]
    [('prefill', 2, 4096), ('decode', 2, 8192)]
    """
    latency = ClusterLatency(cluster)
    rows: list[dict[str, str | int | float]] = []
    for pool, same in ((cluster.prefill, latency.prefill_class), (cluster.decode, latency.decode_class)):
        first = 0
        while first < len(pool):
            last = first
            while last + 1 < len(pool) and same[last + 1] == same[first] and pool[last + 1].gpu == pool[first].gpu:
                last += 1
            rows.append(_row(latency, pool, first, last))
            first = last + 1
    return rows


def dump_cluster(cluster: Cluster) -> str:
    """Return the text of a cluster file that loads as an equal cluster, all coefficients inline.

    >>> cluster = load_cluster("hetero-1-llama")
    >>> parse_cluster(dump_cluster(cluster).encode(), "dump", "") == cluster
    True
    """
    lines = [
        f"schema_version = {SCHEMA_VERSION}",
        f"name = {_show(cluster.name)}",
        f"model = {_show(cluster.model)}",
        f"block_tokens = {cluster.block_tokens}",
        f"kv_admission = {_show(cluster.kv_admission)}",
        f"binding = {_show(cluster.binding)}",
        "",
        "[network]",
        f"efficiency = {_show(cluster.network.efficiency)}",
        f"latency_us = {cluster.network.latency_us}",
        f"contention = {_show(cluster.network.contention)}",
    ]
    for p in cluster.prefill:
        lines += _dump_common(p, "prefill")
        lines += [
            f"g_knots = {_show(p.latency.g_knots)}",
            f"a1_ms = {_show(p.latency.a1_ms)}",
            f"a2_ms = {_show(p.latency.a2_ms)}",
            f"c0_ms = {_show(p.latency.c0_ms)}",
            f"c1 = {_show(p.latency.c1)}",
            f"max_batch_tokens = {p.max_batch_tokens}",
        ]
    for d in cluster.decode:
        lines += _dump_common(d, "decode")
        lines += [
            f"h_knots = {_show(d.latency.h_knots)}",
            f"b2_ms = {_show(d.latency.b2_ms)}",
            f"o0_ms = {_show(d.latency.o0_ms)}",
            f"o1_ms = {_show(d.latency.o1_ms)}",
            f"max_batch = {d.max_batch}",
        ]
    return "\n".join(lines) + "\n"


def _is_path(text: str) -> bool:
    return text.endswith(".toml") or os.sep in text or (os.altsep is not None and os.altsep in text)


def _parse_toml(content: bytes, source: str) -> dict[str, Any]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _error(
            f"{source}: line {line}: byte {content[error.start]:#04x} found, TOML is UTF-8 text, save the file as UTF-8"
        ) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what = str(error)
        at = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", what)
        line = int(at[1]) if at and at[1] else len(text.splitlines())
        reason = what[: at.start()] if at else what
        raise _error(
            f"{source}: line {line}: no valid TOML found ({reason[:1].lower()}{reason[1:]}), "
            "a cluster is a TOML file, correct the line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise _error(
            f"{source}: a value is beyond what can be read ({error}), a cluster is a plain TOML file, correct it"
        ) from None


# From what pydantic found to one line a person can act on


def _first_of(source: str, problems: Sequence[str]) -> ClusterError:
    more = len(problems) - 1
    tail = f" (and {more} more error{'s' if more > 1 else ''} in this file)" if more else ""
    return _error(f"{source}: {problems[0]}{tail}")


def _error(message: str) -> ClusterError:
    # names and texts of the file may hold anything; a message stays one line
    return ClusterError("".join(c if c.isprintable() else " " for c in message))


def _translate(error: ErrorDetails, data: Mapping[str, Any]) -> str:
    from hexopt.clusters.schema import ClusterFile, DecodeEntry, NetworkTable, PrefillEntry

    loc = list(error["loc"])
    subject = ""
    fields: dict[str, FieldInfo] = ClusterFile.model_fields
    where = "a cluster file"
    if loc[0] == "network" and len(loc) > 1:
        subject, fields, where, loc = "network: ", NetworkTable.model_fields, "[network]", loc[1:]
    elif loc[0] == "instances" and len(loc) > 1:
        number = loc[1]
        entry = data["instances"][number]
        subject = f"{_instance_label(entry, int(number))}: "
        if error["type"].startswith("union_tag") or len(loc) < 4:
            role = entry.get("role") if isinstance(entry, dict) else None
            if not isinstance(entry, dict):
                return f"{subject}{_brief(entry)} found, a table [[instances]] is needed, correct it"
            if role is None:
                return f'{subject}role is missing, role = "prefill" or "decode" is needed, add it'
            return f'{subject}role: {_brief(role)} found, "prefill" or "decode" is needed, correct it'
        fields = PrefillEntry.model_fields if loc[2] == "prefill" else DecodeEntry.model_fields
        where = f"a {loc[2]} instance"
        loc = loc[3:]
    key = str(loc[0])
    if error["type"] == "extra_forbidden":
        other = (PrefillEntry if where == "a decode instance" else DecodeEntry).model_fields
        if where.endswith(" instance") and key in other:
            owner = "prefill" if where == "a decode instance" else "decode"
            return (
                f"{subject}{key}: the key is one of a {owner} instance, {where} has no such key, "
                f"remove it or correct the role"
            )
        return f"{subject}{key}: the key is unknown, {suggest(key, fields)}, correct or remove it"
    rule = _rule(fields[key])
    if error["type"] == "missing":
        return f"{subject}{key} is missing, {rule} is needed, add it"
    path = key + "".join(f"[{part}]" for part in loc[1:] if isinstance(part, int))
    return f"{subject}{path}: {_brief(error['input'])} found, {rule} is needed, correct it"


def _rule(field: FieldInfo) -> str:
    if field.description:
        return field.description
    for argument in get_args(field.annotation):  # X | None: the rule is X's
        for extra in getattr(argument, "__metadata__", ()):
            if extra.description:
                return str(extra.description)
    return "another value"


def _instance_label(entry: object, number: int) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return f"instance '{name}'" if isinstance(name, str) and name else f"instances[{number}]"


def _brief(value: object) -> str:
    text = _show(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _show(value: object) -> str:
    """Return a value as TOML has it; floats by repr, so that they are read back exactly."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, except that TOML escapes DEL too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_show(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_show(item)}" for key, item in value.items()) + "}"
    return repr(value)


# From a valid file to a cluster


def _build(file: ClusterFile, source: str, default_name: str) -> Cluster:
    problems: list[str] = []
    prefill: list[PrefillInstance] = []
    decode: list[DecodeInstance] = []
    profiles: dict[str, Profile] = {}
    for entry in file.instances:
        names = [entry.name] if entry.count is None else [f"{entry.name}-{i}" for i in range(entry.count)]
        try:
            if entry.role == "prefill":
                p = _prefill(file, entry, names[0], profiles)
                p.check()
                prefill += [replace(p, name=name) for name in names]
            else:
                d = _decode(file, entry, names[0], profiles)
                d.check()
                decode += [replace(d, name=name) for name in names]
        except ClusterError as error:
            problems.append(str(error))
    if problems:
        raise _first_of(source, problems)
    cluster = Cluster(
        name=default_name if file.name is None else file.name,
        model=file.model,
        prefill=tuple(prefill),
        decode=tuple(decode),
        network=Network(file.network.efficiency, file.network.latency_us, file.network.contention),
        block_tokens=file.block_tokens,
        kv_admission=file.kv_admission,
        binding=file.binding,
    )
    try:
        cluster.check()
    except ClusterError as error:
        raise _error(f"{source}: {error}") from None
    return cluster


def _prefill(file: ClusterFile, entry: PrefillEntry, name: str, profiles: dict[str, Profile]) -> PrefillInstance:
    profile = _profile(file, entry, profiles)
    extrapolate = file.extrapolate if entry.extrapolate is None else entry.extrapolate
    if profile is None:
        _need_inline(entry)
        latency = PrefillLatency(
            g_knots=tuple(_given(entry.g_knots)),
            a1_ms=_given(entry.a1_ms),
            a2_ms=_given(entry.a2_ms),
            c0_ms=0.0 if entry.c0_ms is None else entry.c0_ms,
            c1=1.0 if entry.c1 is None else entry.c1,
            extrapolate=extrapolate,
        )
    else:
        latency = profile.prefill_latency(entry.serving_overhead is not False, extrapolate)
    kv_tokens, nic_bytes_per_s, kv_bytes_per_token, gpu = _common(file, entry, profile)
    return PrefillInstance(
        name=name,
        kv_tokens=kv_tokens,
        nic_bytes_per_s=nic_bytes_per_s,
        kv_bytes_per_token=kv_bytes_per_token,
        latency=latency,
        max_batch_tokens=1 if entry.max_batch_tokens is None else entry.max_batch_tokens,
        gpu=gpu,
    )


def _decode(file: ClusterFile, entry: DecodeEntry, name: str, profiles: dict[str, Profile]) -> DecodeInstance:
    profile = _profile(file, entry, profiles)
    extrapolate = file.extrapolate if entry.extrapolate is None else entry.extrapolate
    if profile is None:
        _need_inline(entry)
        latency = DecodeLatency(
            h_knots=tuple(_given(entry.h_knots)),
            b2_ms=_given(entry.b2_ms),
            o0_ms=0.0 if entry.o0_ms is None else entry.o0_ms,
            o1_ms=0.0 if entry.o1_ms is None else entry.o1_ms,
            extrapolate=extrapolate,
        )
        max_batch = latency.h_knots[-1][0]
    else:
        latency = profile.decode_latency(entry.serving_overhead is not False, extrapolate)
        max_batch = profile.max_batch
    kv_tokens, nic_bytes_per_s, kv_bytes_per_token, gpu = _common(file, entry, profile)
    return DecodeInstance(
        name=name,
        kv_tokens=kv_tokens,
        nic_bytes_per_s=nic_bytes_per_s,
        kv_bytes_per_token=kv_bytes_per_token,
        latency=latency,
        max_batch=max_batch if entry.max_batch is None else entry.max_batch,
        gpu=gpu,
    )


def _profile(file: ClusterFile, entry: PrefillEntry | DecodeEntry, profiles: dict[str, Profile]) -> Profile | None:
    who = f"instance '{entry.name}'"
    if entry.profile is None:
        if entry.serving_overhead is not None:
            raise ClusterError(
                f"{who}: serving_overhead: {_show(entry.serving_overhead)} found without a profile, it switches a "
                f"profile's overhead, remove it and give {' and '.join(_INLINE[entry.role][-2:])} if there is overhead"
            )
        return None
    for key in _INLINE[entry.role]:
        if getattr(entry, key) is not None:
            raise ClusterError(
                f"{who}: {key}: it stands beside profile {_show(entry.profile)}, a profile brings all latency "
                f"coefficients, remove {key} or the profile"
            )
    profile = profiles.get(entry.profile)
    if profile is None:
        try:
            profile = profiles[entry.profile] = load_profile(entry.profile)
        except ClusterError as error:
            raise ClusterError(f"{who}: {error}") from None
    if profile.model != file.model:
        raise ClusterError(
            f"{who}: profile {_show(entry.profile)} is of model {_show(profile.model)}, the cluster's model is "
            f"{_show(file.model)}, choose a profile of that model or correct model"
        )
    return profile


def _need_inline(entry: PrefillEntry | DecodeEntry) -> None:
    who, keys = f"instance '{entry.name}'", _REQUIRED[entry.role]
    missing = [key for key in keys if getattr(entry, key) is None]
    if not missing:
        return
    if all(getattr(entry, key) is None for key in _INLINE[entry.role]):
        raise ClusterError(
            f"{who}: it has neither a profile nor {keys[0]}, an instance needs coefficients, "
            f'add profile = "NAME" or {", ".join(keys)}'
        )
    raise ClusterError(
        f"{who}: {missing[0]} is missing, an instance without a profile states {', '.join(keys)}, "
        f"add {', '.join(missing)}"
    )


def _common(
    file: ClusterFile, entry: PrefillEntry | DecodeEntry, profile: Profile | None
) -> tuple[int, float, int, str]:
    kv_tokens, nic_bytes_per_s, gpu = entry.kv_tokens, entry.nic_bytes_per_s, entry.gpu
    kv_bytes_per_token = file.kv_bytes_per_token if entry.kv_bytes_per_token is None else entry.kv_bytes_per_token
    if profile is not None:
        kv_tokens = profile.kv_tokens if kv_tokens is None else kv_tokens
        nic_bytes_per_s = profile.nic_bytes_per_s if nic_bytes_per_s is None else nic_bytes_per_s
        kv_bytes_per_token = profile.kv_bytes_per_token if kv_bytes_per_token is None else kv_bytes_per_token
        gpu = profile.gpu if gpu is None else gpu
    if kv_bytes_per_token is None:
        raise ClusterError(
            f"instance '{entry.name}': kv_bytes_per_token is missing here and at the top of the file, "
            "the size of a transfer follows from it, add it to one of the two"
        )
    return _given(kv_tokens), _given(nic_bytes_per_s), kv_bytes_per_token, gpu or ""


def _given(value: T | None) -> T:
    if value is None:  # _need_inline and the profile leave none open
        raise TypeError("a required key is absent")
    return value


# From a cluster to rows and text


def _row(
    latency: ClusterLatency, pool: Sequence[PrefillInstance | DecodeInstance], first: int, last: int
) -> dict[str, str | int | float]:
    instance = pool[first]
    prefill = isinstance(instance, PrefillInstance)

    def prefill_ms(tokens: int) -> str | float:
        return _or_blank(lambda: latency.prefill_us(first, tokens) / 1000) if prefill else ""

    def iteration_ms(batch: int) -> str | float:
        return "" if prefill else _or_blank(lambda: latency.decode_us(first, batch, batch * 1024, 1) / 1000)

    return {
        "instances": instance.name if first == last else f"{instance.name} .. {pool[last].name}",
        "role": "prefill" if prefill else "decode",
        "gpu": instance.gpu,
        "count": last - first + 1,
        "kv_tokens": instance.kv_tokens,
        "kv_bytes_per_token": instance.kv_bytes_per_token,
        "nic_gb_per_s": instance.nic_bytes_per_s / 1e9,
        "max_batch_tokens": instance.max_batch_tokens if isinstance(instance, PrefillInstance) else "",
        "max_batch": instance.max_batch if isinstance(instance, DecodeInstance) else "",
        "prefill_512_ms": prefill_ms(512),
        "prefill_4096_ms": prefill_ms(4096),
        "iteration_1_ms": iteration_ms(1),
        "iteration_32_ms": iteration_ms(32),
    }


def _or_blank(time: Callable[[], float]) -> str | float:
    try:
        return time()
    except CalibrationRangeError:
        return ""


def _dump_common(instance: PrefillInstance | DecodeInstance, role: str) -> list[str]:
    return [
        "",
        "[[instances]]",
        f"name = {_show(instance.name)}",
        f'role = "{role}"',
        f"gpu = {_show(instance.gpu)}",
        f"kv_tokens = {instance.kv_tokens}",
        f"kv_bytes_per_token = {instance.kv_bytes_per_token}",
        f"nic_bytes_per_s = {_show(instance.nic_bytes_per_s)}",
        f"extrapolate = {_show(instance.latency.extrapolate)}",
    ]
