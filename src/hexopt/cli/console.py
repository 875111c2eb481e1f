"""Where commands print: tables to stdout, progress to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console

WIDTH = 100
PLAIN_EVERY_S = 10.0
"""Without a terminal, a line of progress is printed no more often than this."""


def stdout() -> Console:
    """Return a console for results; where nobody reads along, tables get a fixed width."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def line(text: str) -> None:
    """Print one line to stdout, unwrapped and without markup."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Print one line to stderr, unwrapped and without markup."""
    sys.stderr.write(text + "\n")


def left(seconds: float, unmeasured: int) -> str:
    """Say how long it will take.

    >>> left(200.0, 0), left(30000.0, 2)
    ('about 3 min left', 'perhaps 8 h left (2 kinds of run not yet measured)')
    """
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if seconds >= 2 * size or unit == "s":
            amount = f"{seconds / size:.0f} {unit} left"
            break
    if unmeasured:
        kinds = "kind" if unmeasured == 1 else "kinds"
        return f"perhaps {amount} ({unmeasured} {kinds} of run not yet measured)"
    return f"about {amount}"


@contextmanager
def progress(what: str, unit: str, *, remaining: bool = True) -> Generator[Callable[[int, int, str], None]]:
    """Yield a function (done, total, remark) that shows progress: a bar on a terminal, else a line now and then.

    ``remaining``: whether the bar says how long it will take, by the share done.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            *([TimeRemainingColumn()] if remaining else []),
            TextColumn("{task.fields[remark]}", markup=False),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=None, remark="")
            yield lambda done, total, remark: bar.update(task, completed=done, total=total, remark=remark)
        return
    last = time.monotonic()

    def plain(done: int, total: int, remark: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S:
            last = now
            note(f"{what}: {done} of {total} {unit}" + (f" ({remark})" if remark else ""))

    yield plain
