"""A window: one planning problem, cut from what a policy may see at one instant.

It holds no ground truth and can leave the process: integers only, versioned JSON. Times are µs **after the instant of
the cut**, KV is in blocks, and instances and workflows are named by their position. ``formulations/README.md`` states
the rules by which a plan of a window is played; :func:`hexopt.formulations.check` plays them.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from hexopt.errors import WindowError, suggest

SCHEMA_VERSION = 1
MAX_INT = 2**53
"""Largest legal integer; sums of a few of them stay below 2**63."""


class Placement(NamedTuple):
    """What a plan says of one call: its pair of instances and its priority, the **lower** first.

    ``decode`` is ``None`` where a call has no decode and none is named.
    """

    prefill: int
    decode: int | None
    priority: float


WindowPlan = tuple[Placement, ...]
"""One placement for each call of a window, in its order."""


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """The rules of the cluster. ``prefill_kv``: whether prompts can run out of room on prefill instances."""

    contention: Literal["nic", "none"] = "nic"
    kv_admission: Literal["backfill", "strict"] = "backfill"
    prefill_kv: bool = True
    latency_us: int = 0


@dataclass(frozen=True, slots=True)
class WindowPrefill:
    """A prefill instance.

    It can start at ``free_us``; its network interface is booked until ``nic_free_us``. ``kv_blocks`` is its capacity,
    of which ``held`` lists what calls in transfer still hold, as (until, blocks). What *bound* calls of the window hold
    is not in it.
    """

    name: str
    type: str
    free_us: int
    nic_free_us: int
    kv_blocks: int
    held: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class WindowDecode:
    """A decode instance.

    ``kv_free_blocks`` are free now, ``releases`` become free later, as (when, blocks). At most ``max_new`` open calls
    of more than one token may be sent here: the calls' decode times are those of a batch of that many beside what is
    there. ``batch`` and ``context_tokens`` of the running calls tell where they come from, and are used by no rule.
    """

    name: str
    type: str
    nic_free_us: int
    kv_free_blocks: int
    releases: tuple[tuple[int, int], ...]
    max_new: int
    batch: int
    context_tokens: int


@dataclass(frozen=True, slots=True)
class WindowWorkflow:
    """A workflow: how long ago it arrived and its horizon.

    ``floor_us`` is when what of it is already on its way (with what follows) will be done, ``None`` for nothing.
    """

    id: str
    elapsed_us: int
    horizon_us: int
    floor_us: int | None = None


@dataclass(frozen=True, slots=True)
class WindowCall:
    """A call of P prefill and D decode instances.

    *open*: its pair and priority are to be chosen; ``prefill`` and ``decode`` say where it is queued now, if it is, and
    bind nobody. *bound*: its prefill runs or is over, at ``available_us`` (0: it is over); only its priority can be
    chosen, and its decode instance where ``decode`` is ``None``.

    ``prefill_us`` has shape (P,), ``wire_us`` (P, D) and ``decode_us`` (D,); an entry of ``prefill_us`` or
    ``decode_us`` is ``None`` where the call may not go; a call of one token needs no decode instance, so all of its
    ``decode_us`` may be. ``tail_us`` is what is expected to follow in its workflow after
    it. ``prefill_blocks`` and ``kv_blocks`` are its room on either side.
    """

    id: str
    workflow: int
    state: Literal["open", "bound"]
    prefill: int | None
    decode: int | None
    available_us: int | None
    one_token: bool
    prefill_blocks: int
    kv_blocks: int
    tail_us: int
    prefill_us: tuple[int | None, ...]
    wire_us: tuple[tuple[int, ...], ...]
    decode_us: tuple[int | None, ...]

    @property
    def is_open(self) -> bool:
        """Whether its placement is to be chosen."""
        return self.state == "open"

    def prefills(self) -> list[int]:
        """Return the prefill instances that it may go to."""
        if self.prefill is not None and not self.is_open:
            return [self.prefill]
        return [p for p, us in enumerate(self.prefill_us) if us is not None]

    def decodes(self) -> list[int]:
        """Return the decode instances that it may go to."""
        if self.decode is not None and not self.is_open:
            return [self.decode]
        return [d for d, us in enumerate(self.decode_us) if us is not None]

    def may_prefill(self, p: int) -> bool:
        """Say whether p, a position of a prefill instance, is one of :meth:`prefills`."""
        bound = self.prefill is not None and not self.is_open
        return p == self.prefill if bound else self.prefill_us[p] is not None

    def may_decode(self, d: int) -> bool:
        """Say whether d, a position of a decode instance, is one of :meth:`decodes`."""
        bound = self.decode is not None and not self.is_open
        return d == self.decode if bound else self.decode_us[d] is not None


@dataclass(frozen=True, slots=True)
class Window:
    """One planning problem. List order breaks ties between equal priorities."""

    name: str
    provenance: str
    options: WindowOptions
    prefill: tuple[WindowPrefill, ...]
    decode: tuple[WindowDecode, ...]
    workflows: tuple[WindowWorkflow, ...]
    calls: tuple[WindowCall, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the window as plain values, schema version first."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, found: Any, source: str = "window") -> Window:
        """Build a window from plain values and check it.

        Raises
        ------
        WindowError
            Something breaks a rule; the message begins with ``source``.
        """
        if not isinstance(found, Mapping):
            raise WindowError(f"{source}: {_show(found)} found, a window is a JSON object, correct it")
        version = found.get("schema_version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise WindowError(
                f"{source}: schema_version is {_show(version)}, this version of hexopt reads {SCHEMA_VERSION}, "
                "convert the window or use another version"
            )
        values = {key: value for key, value in found.items() if key != "schema_version"}
        window: Window = _build(cls, values, source)
        _check(window, source)
        return window

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the window as JSON, a line a call; compressed if the name ends in ``.gz``."""
        text = self.to_text().encode()
        # No time and no name in the header: same window, same bytes.
        Path(path).write_bytes(gzip.compress(text, mtime=0) if os.fspath(path).endswith(".gz") else text)

    def to_text(self) -> str:
        """Return the text that :meth:`save` writes."""
        parts = []
        for key, value in self.to_json().items():
            if isinstance(value, tuple | list) and value:
                rows = ",\n  ".join(_dumps(row) for row in value)
                parts.append(f"{_dumps(key)}: [\n  {rows}\n ]")
            else:
                parts.append(f"{_dumps(key)}: {_dumps(value)}")
        return "{" + ",\n ".join(parts) + "}\n"


def load_window(path: str | os.PathLike[str]) -> Window:
    """Read and check a window, plain or gzip (told apart by content).

    Raises
    ------
    WindowError
        The file cannot be read, is no JSON, or breaks a rule.
    """
    name = os.fspath(path)
    try:
        content = Path(path).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        found = json.loads(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise WindowError(f"{name}: {reason}, a window must be readable, check the file") from None
    except ValueError as error:
        raise WindowError(f"{name}: {error}, a window is one JSON object, check the file") from None
    return Window.from_json(found, name)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _build(cls: Any, values: Any, where: str) -> Any:
    """Build one of the classes above from plain values, checking names and kinds."""
    if not isinstance(values, Mapping):
        raise WindowError(f"{where}: {_show(values)} found, it is an object, correct it")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise WindowError(f"{where}: key '{key}' is unknown, {suggest(str(key), hints)}, drop or rename it")
    built = {}
    for item in fields(cls):
        if item.name in values:
            built[item.name] = _value(hints[item.name], values[item.name], f"{where}: {item.name}")
        elif type(None) in get_args(hints[item.name]):
            built[item.name] = None
        elif item.default is MISSING:
            raise WindowError(f"{where}: key '{item.name}' is missing, it must be given, add it")
    return cls(**built)


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if type(None) in args:
        return None if value is None else _value(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value in args:
            return value
        legal = "one of " + ", ".join(map(str, args))
    elif origin is tuple:
        if isinstance(value, Sequence) and not isinstance(value, str):
            if args[-1] is Ellipsis:
                return tuple(_value(args[0], v, f"{where}[{k}]") for k, v in enumerate(value))
            if len(value) == len(args):
                return tuple(_value(a, v, f"{where}[{k}]") for k, (a, v) in enumerate(zip(args, value, strict=True)))
        legal = "a list" if args[-1] is Ellipsis else f"a list of {len(args)}"
    elif hint is int:
        if type(value) is int and 0 <= value <= MAX_INT:
            return value
        legal = f"a whole number from 0 to {MAX_INT}"
    elif hint is bool:
        if type(value) is bool:
            return value
        legal = "true or false"
    elif hint is str:
        if isinstance(value, str):
            return value
        legal = "a text"
    else:
        return _build(hint, value, where)
    raise WindowError(f"{where}: {_show(value)} found, it is {legal}, correct it")


def _check(window: Window, source: str) -> None:
    """Check what goes beyond names and kinds."""
    if not window.prefill or not window.decode:
        role = "decode" if window.prefill else "prefill"
        raise WindowError(f"{source}: no {role} instance found, a window has one of each role at least, add one")
    seen: set[str] = set()
    for workflow in window.workflows:
        where = f"{source}: workflow '{workflow.id}'"
        if workflow.id in seen:
            raise WindowError(f"{where}: the id is there twice, ids are unique, rename one")
        seen.add(workflow.id)
        if workflow.horizon_us < 1:
            raise WindowError(f"{where}: horizon_us is 0, it is at least 1, correct it")
    seen.clear()
    shape = len(window.prefill), len(window.decode)
    for call in window.calls:
        where = f"{source}: call '{call.id}'"
        if call.id in seen:
            raise WindowError(f"{where}: the id is there twice, ids are unique, rename one")
        seen.add(call.id)
        _check_call(call, shape, len(window.workflows), where)


def _check_call(call: WindowCall, shape: tuple[int, int], workflows: int, where: str) -> None:
    if call.workflow >= workflows:
        raise WindowError(f"{where}: workflow {call.workflow} is unknown, there are {workflows}, correct it")
    lengths = {"prefill_us": len(call.prefill_us), "wire_us": len(call.wire_us), "decode_us": len(call.decode_us)}
    for (name, length), wanted in zip(lengths.items(), (shape[0], shape[0], shape[1]), strict=True):
        if length != wanted:
            raise WindowError(f"{where}: {name} has {length} entries, one for each of {wanted} instances, correct it")
    if any(len(row) != shape[1] for row in call.wire_us):
        raise WindowError(f"{where}: a row of wire_us is not {shape[1]} long, one entry an instance, correct it")
    for role, index, count in (("prefill", call.prefill, shape[0]), ("decode", call.decode, shape[1])):
        if index is not None and index >= count:
            raise WindowError(f"{where}: {role} {index} is unknown, there are {count} instances, correct it")
    if call.is_open:
        if call.available_us is not None:
            raise WindowError(f"{where}: available_us is given, an open call has none, drop it")
    elif call.prefill is None or call.available_us is None:
        raise WindowError(f"{where}: prefill or available_us is missing, a bound call has both, add it")
    if not call.is_open and not call.one_token and call.decode is not None and call.decode_us[call.decode] is None:
        raise WindowError(f"{where}: decode_us[{call.decode}] is null, the call is bound to it, give its time")
    for role, choices in (("prefill", call.prefills()), ("decode", call.decodes())):
        if not choices and not (role == "decode" and call.one_token):
            raise WindowError(f"{where}: no {role} instance is left to it, it needs one, correct {role}_us")
