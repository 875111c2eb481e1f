"""Writing trace files that :func:`hexopt.traces.load_trace` reads back unchanged."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, BinaryIO

from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.errors import OutputError, TraceError
from hexopt.traces.schema import CALL_KEYS, SCHEMA_VERSION, WORKFLOW_KEYS, show, us_to_seconds


def write_trace(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace, gzip if the name ends in ``.gz``; the same trace gives the same bytes.

    Times are written as exact decimal seconds and ``extra`` keys as they are, so that reading the file gives an
    equal trace (up to name and provenance, which a file does not hold). The file appears complete or not at all.

    Parameters
    ----------
    trace
        A trace that obeys the rules of :func:`hexopt.traces.load_trace`.
    path
        Where to write; an existing file is replaced.

    Raises
    ------
    TraceError
        The trace breaks a rule of the format, or an ``extra`` is no plain JSON value.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from hexopt.core.workflow import Call, Trace, Workflow
    >>> trace = Trace((Workflow("w", "chat", 1_500_000, (Call("c0", (), 100, 20),)),))
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "one.jsonl"
    >>> write_trace(trace, file)
    >>> file.read_text()[:75]
    '{"schema_version":1,"workflow_id":"w","app":"chat","arrival_s":1.5,"source"'
    """
    trace.check()
    target = os.fspath(path)
    part = f"{target}.part"
    try:
        with open(part, "wb") as raw:
            if target.endswith(".gz"):
                # No name and no time in the header: equal traces give equal files.
                with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=0) as packed:
                    _write(trace, packed)
            else:
                _write(trace, raw)
        os.replace(part, target)
    except OSError as error:
        _remove(part)
        reason = (error.strerror or str(error)).lower()
        raise OutputError(
            f"{target}: file: not writable ({reason}), a trace is written to a file in an existing folder, "
            "choose another path"
        ) from None
    except BaseException:
        _remove(part)
        raise


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)


def _write(trace: Trace, file: BinaryIO | gzip.GzipFile) -> None:
    dumps = cache(json.dumps)  # The same few strings occur on every line.
    for workflow in trace.workflows:
        file.write("".join(_line(workflow, dumps)).encode("ascii"))


def _line(workflow: Workflow, dumps: Callable[[str], str]) -> Iterator[str]:
    who = f"workflow {show(workflow.workflow_id)}"
    _check_strings(who, workflow.app, workflow.source, workflow.license)
    arrival = "null" if workflow.arrival_us is None else us_to_seconds(workflow.arrival_us)
    yield (
        f'{{"schema_version":{SCHEMA_VERSION},"workflow_id":{json.dumps(workflow.workflow_id)},'
        f'"app":{dumps(workflow.app)},"arrival_s":{arrival},"source":{dumps(workflow.source)},'
        f'"license":{dumps(workflow.license)}{_extra(who, workflow.extra, WORKFLOW_KEYS)},"calls":['
    )
    for position, call in enumerate(workflow.calls):
        what = f"{who}, call {show(call.call_id)}"
        _check_strings(what, "" if call.delay_kind is None else call.delay_kind)
        yield "," * (position > 0) + _call(what, call, workflow, dumps)
    yield "]}\n"


def _call(what: str, call: Call, workflow: Workflow, dumps: Callable[[str], str]) -> str:
    parents = ",".join(dumps(workflow.calls[parent].call_id) for parent in call.parents)
    cached = "null" if call.cached_prefix_tokens is None else call.cached_prefix_tokens
    tool = "null" if call.tool_us is None else us_to_seconds(call.tool_us)
    kind = "" if call.delay_kind is None else f',"delay_kind":{dumps(call.delay_kind)}'
    return (
        f'{{"call_id":{dumps(call.call_id)},"parents":[{parents}],"prompt_tokens":{call.prompt_tokens},'
        f'"output_tokens":{call.output_tokens},"cached_prefix_tokens":{cached},"tool_delay_s":{tool}{kind}'
        f"{_extra(what, call.extra, CALL_KEYS)}}}"
    )


def _check_strings(who: str, *values: str) -> None:
    for value in values:
        if not isinstance(value, str):
            raise TraceError(f"{who}: {value!r} found, labels are strings, correct it")


def _extra(who: str, extra: Mapping[str, Any], known: frozenset[str]) -> str:
    if not extra:
        return ""
    for key in extra:
        if not isinstance(key, str) or key in known:
            raise TraceError(f"{who}: extra key {key!r} found, extra keys are strings unknown to the format, rename it")
    try:
        text = json.dumps(dict(extra), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise TraceError(
            f"{who}: extra: a value that is no JSON found ({error}), extras are plain finite JSON values, change it"
        ) from None
    return "," + text[1:-1]
