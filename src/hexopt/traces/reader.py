"""Reading trace files: ``.jsonl``, plain or gzip, one workflow a line."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hexopt.core.workflow import MAX_US, Trace, Workflow
from hexopt.errors import TraceError
from hexopt.traces.schema import FIX, LineError, Pool, build_carefully, build_fast, parse_line, show, us_to_seconds

REASONS_KEPT = 5
"""So many reasons of left-out workflows are kept in the provenance."""

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


def load_trace(path: str | os.PathLike[str], *, skip_invalid: bool = False) -> Trace:
    """Read and check a trace file.

    Parameters
    ----------
    path
        A ``.jsonl`` file, plain or gzip (told apart by content); one workflow a line, blank lines allowed.
        The format is described in :mod:`hexopt.traces.schema`.
    skip_invalid
        Leave out workflows that break a rule, and record how many and why in ``provenance["skipped"]`` and
        ``provenance["skipped_reasons"]`` (the first few), instead of stopping at the first.

    Returns
    -------
    Trace
        Its name is the file's name without ``.jsonl`` and ``.gz``. Its provenance holds ``file`` (as given),
        ``sha256`` (of the decompressed content), ``workflows`` and ``calls``.

    Raises
    ------
    TraceError
        The file cannot be read, or a line breaks a rule: ``FILE:LINE: subject: value found, rule, remedy``.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "two.jsonl"
    >>> call = '{"call_id": "c0", "prompt_tokens": 100, "output_tokens": 20}'
    >>> _ = file.write_text(f'{{"workflow_id": "a", "arrival_s": 0.5, "calls": [{call}]}}')
    >>> trace = load_trace(file)
    >>> trace.name, trace.workflows[0].arrival_us, trace.unknown_delays
    ('two', 500000, 1)
    """
    reasons: list[str] = []
    skipped = 0

    def report(error: TraceError) -> None:
        nonlocal skipped
        if not skip_invalid:
            raise error
        skipped += 1
        if len(reasons) < REASONS_KEPT:
            reasons.append(str(error))

    digest = hashlib.sha256()
    workflows = tuple(_read(path, digest.update, report, first_only=True))
    if not workflows:
        if skipped:
            raise TraceError(f"{reasons[0]} (no workflow is left: all {skipped} are invalid)")
        raise TraceError(
            f"{_name(path)}:1: file: no workflow found, a trace has one JSON object a line, check how it was made"
        )
    provenance: dict[str, Any] = {
        "file": os.fspath(path),
        "sha256": digest.hexdigest(),
        "workflows": len(workflows),
        "calls": sum(len(workflow.calls) for workflow in workflows),
    }
    if skip_invalid:
        provenance["skipped"] = skipped
        provenance["skipped_reasons"] = tuple(reasons)
    return Trace(workflows, trace_name(path), provenance)


def check_trace_file(path: str | os.PathLike[str], *, limit: int = 100) -> list[TraceError]:
    """Return the problems of a trace file, in file order, at most ``limit``; an empty list is a usable file.

    Where :func:`load_trace` stops at the first problem, this goes on: within a line as well, unless the line
    is no JSON object.

    Examples
    --------
    >>> [str(problem) for problem in check_trace_file("no/such.jsonl")]
    ['no/such.jsonl: file: nothing found, a trace file is readable, check the path']
    """
    problems: list[TraceError] = []

    def report(error: TraceError) -> None:
        problems.append(error)
        if len(problems) >= limit:
            raise _EnoughError

    found = 0
    try:
        for _ in _read(path, lambda _: None, report, first_only=False):
            found += 1
    except _EnoughError:
        pass
    except TraceError as error:
        problems.append(error)
    if not found and not problems:
        problems.append(
            TraceError(
                f"{_name(path)}:1: file: no workflow found, a trace has one JSON object a line, check how it was made"
            )
        )
    return problems[:limit]


class _EnoughError(Exception):
    pass


def trace_name(path: str | os.PathLike[str]) -> str:
    """Return a file's name without ``.jsonl`` and ``.gz``."""
    name = Path(path).name
    return name.removesuffix(".gz").removesuffix(".jsonl") or name


def _name(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return name if name.isprintable() and name else repr(name)


def _read(
    path: str | os.PathLike[str],
    digest: Callable[[bytes], object],
    report: Callable[[TraceError], None],
    *,
    first_only: bool,
) -> Iterator[Workflow]:
    """Yield the workflows without a problem; with ``first_only`` at most one problem of each other is reported."""
    if not isinstance(path, str | os.PathLike):
        raise TraceError(f"trace {show(path)}: no path found, a trace is read from a file, name a .jsonl file")
    file = _name(path)
    pool = Pool()
    lines: dict[str, int] = {}
    for number, line in _lines(path, digest):
        messages: list[str] = []
        workflow: Workflow | None = None
        try:
            record = parse_line(line)
        except LineError as error:
            messages.append(str(error))
        else:
            workflow = build_fast(record, pool) or build_carefully(record, pool, messages.append)
        if workflow is not None and workflow.given_us > MAX_US:
            messages.append(
                f"workflow {show(workflow.workflow_id)}: arrival_s and tool_delay_s: "
                f"{us_to_seconds(workflow.given_us)} s in all found, instants end at {MAX_US // 1_000_000} s, {FIX}"
            )
        elif workflow is not None:
            first = lines.setdefault(workflow.workflow_id, number)
            if first == number:
                yield workflow
                continue
            messages.append(
                f"workflow {show(workflow.workflow_id)}: workflow_id: the id of line {first} again found, "
                f"ids are unique in a trace, rename one or {FIX}"
            )
        for message in messages[:1] if first_only else messages:
            report(TraceError(f"{file}:{number}: {message}"))


def _lines(path: str | os.PathLike[str], digest: Callable[[bytes], object]) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the lines that are not blank; raise for a file that cannot be read on."""
    file = _name(path)
    number = 0
    problem = ""
    try:
        with open(path, "rb") as raw:
            packed = raw.peek(2)[:2] == _GZIP_MAGIC
            stream: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            for line in stream:
                number += 1
                digest(line)
                if number == 1:
                    line = line.removeprefix(_BOM)
                if line.strip():
                    yield number, line
    except EOFError:
        problem = f"{number + 1}: file: the end of the gzip data found too early, a file is complete"
    except (gzip.BadGzipFile, zlib.error):
        problem = f"{number + 1}: file: broken gzip data found, a file is plain text or intact gzip"
    except (FileNotFoundError, NotADirectoryError):
        raise TraceError(f"{file}: file: nothing found, a trace file is readable, check the path") from None
    except IsADirectoryError:
        raise TraceError(f"{file}: file: a directory found, a trace is one file, name a .jsonl file in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TraceError(
            f"{file}: file: no readable file found ({reason.lower()}), a trace file is readable, check the path"
        ) from None
    if problem:
        raise TraceError(f"{file}:{problem}, fetch or pack it again")
