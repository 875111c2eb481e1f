"""The trace format, version 1: one JSON object (one workflow) a line, checked and turned into core types.

Known keys are checked strictly; unknown keys are kept in ``extra``. What may be missing, and what that means:

========  =======================================================================
Level     Key and meaning when missing
========  =======================================================================
workflow  ``schema_version``: 1; ``arrival_s``: unknown; ``app``, ``source``, ``license``: empty
call      ``parents``: none (a root); ``tool_delay_s``: unknown; ``cached_prefix_tokens``, ``delay_kind``: unknown
========  =======================================================================

``workflow_id``, ``calls``, ``call_id``, ``prompt_tokens`` and ``output_tokens`` are required.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any, Final

from hexopt.core.workflow import EMPTY, MAX_TOKENS, MAX_US, Call, Workflow

SCHEMA_VERSION: Final = 1
"""The version of the trace format that this package reads and writes."""

WORKFLOW_KEYS: Final = frozenset(
    ("schema_version", "workflow_id", "app", "arrival_s", "source", "license", "calls"),
)
"""Keys of a line that have a meaning of their own; all others are ``extra``."""

CALL_KEYS: Final = frozenset(
    ("call_id", "parents", "prompt_tokens", "output_tokens", "cached_prefix_tokens", "tool_delay_s", "delay_kind"),
)
"""Keys of a call that have a meaning of their own; all others are ``extra``."""

Report = Callable[[str], None]
"""Receives one problem, ``subject: value found, rule, remedy``; the caller knows file and line."""

FIX: Final = "correct the line or leave it out with --skip-invalid"
"""The remedy for a line that is wrong in itself."""

_MISSING: Final = object()
_MICRO: Final = Decimal("0.000001")
_MILLION: Final = Decimal(1_000_000)
_MAX_WHOLE_S: Final = MAX_US // 1_000_000
_ZERO: Final = Decimal(0)
_MAX_S: Final = Decimal(MAX_US) / _MILLION
_EXACT: Final = Context(prec=60)


class LineError(Exception):
    """A line is no JSON object at all; the message is ``subject: value found, rule, remedy``."""


def show(value: object) -> str:
    """Return ``value`` as a short text on one line, for an error message.

    >>> show("a\\nb")
    "'a\\\\nb'"
    >>> show(None), show(True), show(Decimal("1e400"))
    ('null', 'true', '1E+400')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else repr(value[:57]) + "..."
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of about {value.bit_length() * 3 // 10} digits"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def seconds_to_us(value: Decimal | int) -> int:
    """Return a time in µs: round-half-even(``value`` in s x 10^6), exactly; a float would round twice.

    ``value`` lies in 0..``MAX_US``/10^6.

    >>> seconds_to_us(Decimal("0.0000005")), seconds_to_us(Decimal("0.0000015")), seconds_to_us(2)
    (0, 2, 2000000)
    """
    if isinstance(value, int):
        return value * 1_000_000
    # quantize rounds the whole operand once, however many digits it has, and never expands a huge exponent.
    return int(value.quantize(_MICRO, ROUND_HALF_EVEN, _EXACT) * _MILLION)


def us_to_seconds(us: int) -> str:
    """Return a time in µs as the exact decimal number of seconds, in JSON's notation.

    >>> us_to_seconds(0), us_to_seconds(10_000), us_to_seconds(12_345_678)
    ('0.0', '0.01', '12.345678')
    """
    whole, rest = divmod(us, 1_000_000)
    return f"{whole}." + (f"{rest:06d}".rstrip("0") or "0")


def parse_line(line: bytes) -> dict[str, Any]:
    """Return the JSON object on a line; numbers with a point or an exponent are :class:`~decimal.Decimal`.

    Raises
    ------
    LineError
        The line is no UTF-8, no JSON (``NaN`` and ``Infinity`` are not), repeats a key, or is no object.
    """
    try:
        text = line.decode().rstrip()
    except UnicodeDecodeError as error:
        raise LineError(
            f"byte {error.start + 1}: 0x{line[error.start]:02x} found, a trace is UTF-8 text, save the file as UTF-8"
        ) from None
    try:
        try:
            record = json.loads(text, parse_float=Decimal, parse_constant=_constant, object_pairs_hook=_object)
        except InvalidOperation:
            # An exponent beyond even Decimal's range. Read again, slowly, so that the check of the field names it.
            record = json.loads(text, parse_float=_extreme, parse_constant=_constant, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise LineError(
            f"column {error.pos + 1}: broken JSON found ({error.msg[:1].lower() + error.msg[1:]}), "
            f"a line is one JSON object, {FIX}"
        ) from None
    except RecursionError:
        raise LineError(f"JSON: too deeply nested values found, a line is one flat JSON object, {FIX}") from None
    except LineError:
        raise
    except ValueError:
        raise LineError(
            f"number: thousands of digits found, whole numbers up to {MAX_TOKENS} have a meaning here, {FIX}"
        ) from None
    if not isinstance(record, dict):
        raise LineError(f"line: {show(record)} found, a line is one JSON object (one workflow), {FIX}")
    return record


def _constant(name: str) -> Any:
    raise LineError(f"number: {name} found, JSON numbers are finite (unknown is null), {FIX}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise LineError(f"key {show(key)}: found twice in one object, keys are unique, {FIX}")
            seen.add(key)
    return record


def _extreme(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        mantissa, _, exponent = text.lower().partition("e")
        if exponent.startswith("-") or not mantissa.strip("-0."):
            return Decimal(0)
        return Decimal("-Infinity" if text.startswith("-") else "Infinity")


@dataclass(slots=True)
class Pool:
    """Equal strings and parent tuples of one trace, kept once: a log repeats 'c1', 'tool', (0,) on every line."""

    strings: dict[str, str] = field(default_factory=dict)
    parents: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)

    def string(self, value: str) -> str:
        """Return the one copy of ``value``."""
        return self.strings.setdefault(value, value)


def build_fast(record: dict[str, Any], pool: Pool) -> Workflow | None:
    """Return the workflow of a line that is right in every known key, else ``None``; leaves ``record`` as it is.

    Only reads what nearly every line looks like. A line that it gives up on may still be right:
    :func:`build_carefully` decides, and words the error.
    """
    get = record.get
    workflow_id = get("workflow_id")
    rows = get("calls")
    app = get("app", "")
    source = get("source", "")
    licence = get("license", "")
    if (
        type(workflow_id) is not str
        or not workflow_id
        or type(rows) is not list
        or not rows
        or type(app) is not str
        or type(source) is not str
        or type(licence) is not str
    ):
        return None
    version = get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version != SCHEMA_VERSION:
        return None
    arrival: Any = get("arrival_s")
    if arrival is not None:
        arrival = _fast_us(arrival)
        if arrival is None:
            return None
    strings = pool.strings
    positions: dict[str, int] = {}
    calls: list[Call] = []
    for position, row in enumerate(rows):
        if type(row) is not dict:
            return None
        at = row.get
        call_id = at("call_id")
        prompt = at("prompt_tokens")
        output = at("output_tokens")
        cached = at("cached_prefix_tokens")
        kind = at("delay_kind")
        if (
            type(call_id) is not str
            or not call_id
            or call_id in positions
            or type(prompt) is not int
            or not 1 <= prompt <= MAX_TOKENS
            or type(output) is not int
            or not 1 <= output <= MAX_TOKENS
            or (cached is not None and (type(cached) is not int or not 0 <= cached <= prompt))
            or (kind is not None and type(kind) is not str)
        ):
            return None
        tool: Any = at("tool_delay_s")
        if tool is not None:
            tool = _fast_us(tool)
            if tool is None:
                return None
        names = at("parents", ())
        if not names:
            if names != [] and names != ():
                return None
            parents: tuple[int, ...] = ()
        else:
            if type(names) is not list:
                return None
            try:
                # Only calls further up are in positions, so that a match also proves the graph acyclic.
                parents = tuple([positions[name] for name in names])
            except (KeyError, TypeError):
                return None
            if len(parents) > 1 and len(set(parents)) < len(parents):
                return None
            parents = pool.parents.setdefault(parents, parents)
        positions[call_id] = position
        extra = EMPTY
        if len(row) > 7 or not row.keys() <= CALL_KEYS:
            kept = _extra(row, CALL_KEYS)
            if kept is None:
                return None
            extra = kept
        calls.append(
            Call(
                strings.setdefault(call_id, call_id),
                parents,
                prompt,
                output,
                tool,
                cached,
                None if kind is None else strings.setdefault(kind, kind),
                extra,
            )
        )
    more = _extra(record, WORKFLOW_KEYS)
    if more is None:
        return None
    string = pool.string
    return Workflow(workflow_id, string(app), arrival, tuple(calls), string(source), string(licence), more)


def _fast_us(value: Any) -> int | None:
    kind = type(value)
    if kind is Decimal:
        return seconds_to_us(value) if _ZERO <= value <= _MAX_S else None
    if kind is int:
        return value * 1_000_000 if 0 <= value <= _MAX_WHOLE_S else None
    return None


def _extra(record: Mapping[str, Any], known: frozenset[str]) -> Mapping[str, Any] | None:
    """Return the unknown keys with plain floats; ``None`` if a number has no finite float."""
    kept = {key: value for key, value in record.items() if key not in known}
    if not kept:
        return EMPTY
    try:
        return {key: _plain(value) for key, value in kept.items()}
    except OverflowError:
        return None


def _plain(value: Any) -> Any:
    if type(value) is Decimal:
        number = float(value)
        if number in (float("inf"), float("-inf")):
            raise OverflowError
        return number
    if type(value) is list:
        return [_plain(item) for item in value]
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    return value


def build_carefully(record: dict[str, Any], pool: Pool, report: Report) -> Workflow | None:
    """Return the workflow of a line, or report every problem that it has and return ``None``."""
    problems = 0

    def tell(subject: str, found: str, rule: str, remedy: str = FIX) -> None:
        nonlocal problems
        problems += 1
        report(f"{subject}: {found} found, {rule}, {remedy}")

    def text(who: str, row: Mapping[str, Any], key: str, *, required: bool = False) -> str | None:
        value = row.get(key, _MISSING)
        if value is _MISSING:
            if required:
                tell(f"{who}{key}", "nothing", "the key is required", f"add {key} or {FIX}")
            return None
        if value is None and key == "delay_kind":
            return None
        if not isinstance(value, str):
            tell(f"{who}{key}", show(value), "a string is legal")
            return None
        if required and not value:
            tell(f"{who}{key}", "an empty string", "an id has at least one character")
            return None
        return pool.string(value)

    def tokens(who: str, row: Mapping[str, Any], key: str, low: int, high: int, why: str = "") -> int | None:
        value = row.get(key, _MISSING)
        if value is None and not low:
            return None
        if value is _MISSING:
            if low:
                tell(f"{who}{key}", "nothing", "the key is required", f"add {key} or {FIX}")
            return None
        if type(value) is not int or not low <= value <= high:
            orelse = "" if low else " or null for unknown"
            tell(f"{who}{key}", show(value), f"a whole number from {low} to {high}{why}{orelse} is legal")
            return None
        return value

    def time(who: str, row: Mapping[str, Any], key: str) -> int | None:
        value = row.get(key)
        if value is None:
            return None
        us = _fast_us(value)
        if us is None:
            tell(f"{who}{key}", show(value), f"seconds from 0 to {_MAX_WHOLE_S} or null for unknown are legal")
        return us

    def unknown(who: str, row: Mapping[str, Any], known: frozenset[str]) -> Mapping[str, Any]:
        kept = _extra(row, known)
        if kept is None:
            for key, value in row.items():
                if key not in known and _extra({key: value}, frozenset()) is None:
                    tell(f"{who}{show(key)}", "a number beyond 1.8e308", "numbers of unknown keys fit a double")
        return kept or EMPTY

    version = record.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version != SCHEMA_VERSION:
        tell(
            "schema_version",
            show(version),
            f"this hexopt reads version {SCHEMA_VERSION}",
            "convert the file or use a newer hexopt",
        )
        return None  # Another version's keys may mean something else: judging them would mislead.

    workflow_id = text("", record, "workflow_id", required=True)
    who = f"workflow {show(workflow_id)}: " if workflow_id else ""
    app, source, licence = (text(who, record, key) or "" for key in ("app", "source", "license"))
    arrival = time(who, record, "arrival_s")
    extra = unknown(who, record, WORKFLOW_KEYS)
    rows = record.get("calls", _MISSING)
    if rows is _MISSING:
        tell(f"{who}calls", "nothing", "the key is required", f"add calls or {FIX}")
        return None
    if not isinstance(rows, list) or not rows:
        tell(f"{who}calls", show(rows), "a list of at least one call is legal")
        return None

    who = f"workflow {show(workflow_id)}, " if workflow_id else ""
    positions: dict[str, int] = {}
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            tell(f"{who}call at position {position}", show(row), "a call is a JSON object")
            continue
        call_id = text(f"{who}call at position {position}: ", row, "call_id", required=True)
        if call_id is not None and positions.setdefault(call_id, position) != position:
            tell(
                f"{who}call {show(call_id)}: call_id",
                f"the id of position {positions[call_id]} again at position {position}",
                "ids are unique within a workflow",
                f"rename one or {FIX}",
            )
    calls: list[Call] = []
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            continue
        call_id = row.get("call_id")
        name = f"call {show(call_id)}" if isinstance(call_id, str) and call_id else f"call at position {position}"
        what = f"{who}{name}: "
        prompt = tokens(what, row, "prompt_tokens", 1, MAX_TOKENS)
        output = tokens(what, row, "output_tokens", 1, MAX_TOKENS)
        cached = tokens(what, row, "cached_prefix_tokens", 0, prompt or MAX_TOKENS, " (prompt_tokens)" * bool(prompt))
        tool = time(what, row, "tool_delay_s")
        kind = text(what, row, "delay_kind")
        call_extra = unknown(what, row, CALL_KEYS)
        names = row.get("parents", [])
        parents: list[int] = []
        if not isinstance(names, list):
            tell(f"{what}parents", show(names), "a list of call ids is legal")
            names = []
        for parent in names:
            if not isinstance(parent, str):
                tell(f"{what}parents", show(parent), "a parent is a call id (a string)")
            elif parent == call_id:
                tell(f"{what}parents", "the call itself", "no call waits for itself")
            elif parent not in positions:
                tell(f"{what}parents", show(parent), "a parent is a call of the same workflow")
            elif positions[parent] in parents:
                tell(f"{what}parents", f"{show(parent)} twice", "a parent counts once")
            else:
                parents.append(positions[parent])
        key = tuple(parents)
        calls.append(
            Call(
                str(call_id),
                pool.parents.setdefault(key, key),
                prompt or 1,
                output or 1,
                tool,
                cached,
                kind,
                call_extra,
            )
        )
    if len(calls) == len(rows) and (circle := _circle(calls)):
        names = " -> ".join(show(calls[i].call_id) for i in circle[:6]) + (" -> ..." if len(circle) > 6 else "")
        tell(f"{who}parents", f"the circle {names} -> {show(calls[circle[0]].call_id)}", "a workflow has no circle")
    if problems:
        return None
    return Workflow(str(workflow_id), app, arrival, tuple(calls), source, licence, extra)


def _circle(calls: list[Call]) -> list[int]:
    """Return positions of which each waits for the next and the last for the first; empty if there are none."""
    state = [0] * len(calls)  # 0 not seen, 1 on the current path, 2 done
    for start in range(len(calls)):
        if state[start]:
            continue
        path, todo = [start], [iter(calls[start].parents)]
        state[start] = 1
        while path:
            for parent in todo[-1]:
                if state[parent] == 1:
                    return path[path.index(parent) :]
                if state[parent] == 0:
                    state[parent] = 1
                    path.append(parent)
                    todo.append(iter(calls[parent].parents))
                    break
            else:
                state[path.pop()] = 2
                todo.pop()
    return []
