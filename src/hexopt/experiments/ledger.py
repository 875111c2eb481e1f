"""The ledger of a study: an append-only file that says what the study is and which runs are finished, with results.

``ledger.jsonl`` starts with a line about the study. Each finished run adds one line: no killed process takes it back,
and a power cut at most those of the last moment, see :data:`FLUSH_S`. What a killed process left of a last line is cut
off at the next start. The file is locked while a process works on the study; the system gives the lock back when that
process ends, however it ends.

docs/adr/0005-ledger.md has the reasons.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import hexopt
from hexopt.errors import ConfigError, OutputError

NAME = "ledger.jsonl"
FORMAT = 1
FLUSH_S = 0.2
"""Runs that end within so much time share a flush to the disk, which takes as long as some runs."""

_TOLD = 6
"""So many changed keys are named; a message is one line."""

_OWN = (NAME, "runs", "failed", "runs.csv", "runs.parquet", "summary.csv", "across_traces.csv", "timing.csv")
_OWN_SOLVES = ("solves.csv", "solver_summary.csv", "solver_by_regime.csv", "study.json")
_OWN_REPORTS = ("experiment.json", "summary.md", "figures")


@dataclass(frozen=True)
class Entry:
    """One finished run: its summary, wall-clock figures, and the sizes of its files."""

    summary: Mapping[str, Any]
    timing: Mapping[str, float]
    files: Mapping[str, int]


class Ledger:
    """The open, locked ledger of one study.

    Attributes
    ----------
    runs
        Finished runs by key, those of other code of this version included.
    other_code
        How many of them were made by other code, which makes keys of its own.
    """

    def __init__(self, folder: Path, code: str, facts: Mapping[str, Any]) -> None:
        """Open the ledger of a result folder, or start it.

        Raises
        ------
        ConfigError
            The study was started by another version or from another file, or a process is at work on it.
        OutputError
            The file cannot be read or written.
        """
        self.path = folder / NAME
        self.runs: dict[str, Entry] = {}
        self.other_code = 0
        self._flushed = -FLUSH_S
        self._file = self._open()
        try:
            _lock(self._file, self.path)
            self._start(code, json.loads(json.dumps(dict(facts))))
        except BaseException:
            self._file.close()
            raise

    def append(self, key: str, entry: Entry) -> None:
        """Commit a finished run: when this returns, no killed process takes it back.

        It counts as made by the code that the last line about the study names.
        """
        self._append(
            {
                "kind": "run",
                "key": key,
                "summary": dict(entry.summary),
                "timing": dict(entry.timing),
                "files": dict(entry.files),
            }
        )
        self.runs[key] = entry

    def close(self) -> None:
        """Flush to the disk and give the lock back."""
        with suppress(OSError, ValueError):  # ValueError: closed, after a write that failed
            os.fsync(self._file.fileno())
        self._file.close()

    def _open(self) -> IO[bytes]:
        try:
            return open(self.path, "a+b")
        except OSError as error:
            raise OutputError(
                f"{self.path}: {error.strerror or error}, the ledger must be writable, choose another folder with --out"
            ) from None

    def _start(self, code: str, facts: dict[str, Any]) -> None:
        self._file.seek(0)
        text = self._file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            self._file.truncate(whole)
        studies: list[dict[str, Any]] = []
        by_code: dict[str, int] = {}
        for number, line in enumerate(text[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
                if number == 1 and record["ledger"] != FORMAT:
                    raise ConfigError(
                        f"{self.path}: its format is {record['ledger']!r}, this hexopt {hexopt.__version__} reads "
                        f"format {FORMAT}, {_REMEDY}"
                    )
                if record["kind"] == "study":
                    studies.append(record)
                else:
                    entry = Entry(record["summary"], record["timing"], record["files"])
                    self.runs[str(record["key"])] = entry
                    by_code[studies[-1]["code"]] = by_code.get(studies[-1]["code"], 0) + 1
            except (ValueError, KeyError, TypeError, IndexError):
                raise ConfigError(
                    f"{self.path}: line {number} is damaged, only the last line of a ledger may be incomplete, "
                    f"remove that line (its run is done again), or {_REMEDY}"
                ) from None
        if studies:
            self._refuse_if_changed(studies[-1], facts)
        self.other_code = sum(count for made_by, count in by_code.items() if made_by != code)
        if not studies or studies[-1]["code"] != code:
            self._append(
                {"kind": "study", "ledger": FORMAT, "hexopt": hexopt.__version__, "code": code, "facts": facts}
            )

    def _refuse_if_changed(self, study: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        if study["hexopt"] != hexopt.__version__:
            raise ConfigError(
                f"{self.path}: the study was started by hexopt {study['hexopt']}, this is hexopt {hexopt.__version__}, "
                f"results of two versions do not mix, {_REMEDY}"
            )
        if changes := list(_changes(study["facts"], facts)):
            more = f"; and {len(changes) - _TOLD} more" if len(changes) > _TOLD else ""
            raise ConfigError(
                f"{self.path}: the study has changed since it was started: {'; '.join(changes[:_TOLD])}{more}; "
                f"finished runs are of the old one, {_REMEDY}"
            )

    def _append(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(line)
            self._file.flush()
            if time.monotonic() - self._flushed >= FLUSH_S:
                os.fsync(self._file.fileno())
                self._flushed = time.monotonic()
        except OSError as error:
            self._undo(end)
            raise OutputError(
                f"{self.path}: {error.strerror or error}, a finished run cannot be recorded, "
                "free the disk, then the same command goes on"
            ) from None

    def _undo(self, end: int) -> None:
        """Cut off what was written of a line; if even that fails, the next start does it."""
        descriptor = os.dup(self._file.fileno())
        with suppress(OSError):
            self._file.close()  # writes what it still holds, so it goes first
        with suppress(OSError):
            os.ftruncate(descriptor, end)
        os.close(descriptor)


_REMEDY = "start anew with --fresh (which removes its results) or choose another folder with --out"


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[str]:
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            yield f"{key}: {_shown(old.get(key))} → {_shown(new.get(key))}"


def _shown(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:38] + " … " + text[-38:]


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"{path}: another process is at work on this study, one at a time writes it, "
            "wait for it or choose another folder with --out"
        ) from None
    except OSError:  # a file system without locks; keys keep results apart all the same
        return


def clear(folder: Path) -> None:
    """Remove what studies leave in a result folder, and nothing else.

    Raises
    ------
    ConfigError
        A process is at work on the study.
    OutputError
        Something of it cannot be removed.
    """
    with ExitStack() as stack:
        path = folder / NAME
        with suppress(OSError):  # no ledger, or one that cannot be read: it goes like the rest
            _lock(stack.enter_context(path.open("rb")), path)
        # The ledger goes last: without it the rest would be nobody's.
        for name in reversed((*_OWN, *_OWN_SOLVES, *_OWN_REPORTS)):
            path = folder / name
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(
                    f"{path}: {error.strerror or error}, --fresh removes old results, remove it yourself"
                ) from None
