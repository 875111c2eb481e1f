"""The ``hexopt`` command: the only place that prints or exits.

This module holds what every command shares, the handling of errors; :mod:`hexopt.cli.app` lists the commands.
Nothing heavy is imported before a command needs it, so that ``hexopt --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hexopt.errors import HexoptError

INTERRUPTED = 130
"""What a shell expects of a program that Ctrl-C ended: 128 + SIGINT."""


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run())


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0: done. 1: a run of an experiment failed, or hexopt has a bug. 2: the input is at fault (of an experiment: in
    every run that failed), said in one line on stderr. 130: interrupted. ``HEXOPT_DEBUG=1`` adds the traceback of
    an error that is said in one line.
    """
    try:
        from hexopt.cli.app import UsageError, app

        try:
            status = app(args, prog_name="hexopt", standalone_mode=False)
        except UsageError as error:
            _say(f"error: {_usage(error, sys.argv[1:] if args is None else args)}")
            return 2
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except HexoptError as error:
        if os.environ.get("HEXOPT_DEBUG"):
            traceback.print_exc()
        _say(f"error: {error}")
        return error.exit_status
    except KeyboardInterrupt as interrupt:
        _say(f"interrupted: {interrupt}" if str(interrupt) else "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone (`hexopt policies | head -1`). Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        traceback.print_exc()
        _say(
            f"error: internal error: {type(error).__name__}: {error}; "
            "this is a bug in hexopt, please report it with the lines above"
        )
        return 1


def _usage(error: Any, args: Sequence[str]) -> str:
    """Say a complaint about arguments with the value found, which typer leaves out, and where to read on."""
    context, options = getattr(error, "ctx", None), getattr(getattr(error, "param", None), "opts", ())
    found = next((b for a, b in pairwise(args) if a in options), None)
    for option, equals, value in (arg.partition("=") for arg in args):
        if equals and option in options:
            found = value
    value = "" if found is None else f" ('{found}' found)"
    where = context.command_path if context else "hexopt"
    return f"{error.format_message().rstrip('.')}{value}; {where} --help shows the usage"


def _say(line: str) -> None:
    # One physical line whatever the message holds: it can be grepped, and no terminal width breaks it.
    sys.stderr.write(" ".join(line.split()) + "\n")
