"""Every error hexopt raises on purpose.

A message has four parts, ``subject: value found, rule, remedy``, on one line, so that a log line or a
terminal shows all a person needs. The command line prints the message and exits with ``exit_status``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HexoptError(Exception):
    """Base of all errors raised by hexopt on purpose."""

    exit_status: int = 2


class TraceError(HexoptError):
    """A trace, or a rule applied to one, is not usable."""


class ClusterError(HexoptError):
    """A cluster, or a latency profile it names, is not usable."""


class ConfigError(HexoptError):
    """An experiment file, an option or a name is not usable."""


class CapacityError(HexoptError):
    """A call fits on no instance at all; raised before anything is simulated."""


class CalibrationRangeError(HexoptError):
    """A latency was asked for outside the range it was calibrated on."""


class WindowError(HexoptError):
    """A window, a plan of one, or a solver's options are not usable."""


class SolverMissing(HexoptError):  # noqa: N818 - says what is wrong
    """A solver that was asked for is not installed; the message names the extra that brings it."""


class PlanError(HexoptError):
    """A policy decided something that can never be carried out."""


class SimulationStalled(HexoptError):  # noqa: N818 - the name is fixed by the semantics page
    """No event is left but calls are: the policy left them in the pool, or nothing can ever free their room."""


class ConformanceError(HexoptError, AssertionError):
    """A policy breaks a rule that every policy keeps (:mod:`hexopt.testing`); a test runner shows it as a failure.

    ``rule`` is the number of the rule, such as ``"P6"``.
    """

    def __init__(self, message: str, rule: str = "") -> None:
        super().__init__(message)
        self.rule = rule


class OutputError(HexoptError):
    """Results cannot be written where they were asked for."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'? known: a, b, c`` for an unknown name.

    >>> suggest("hexagnt", ["fcfs", "hexagent"])
    "did you mean 'hexagent'? known: fcfs, hexagent"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    listing = "known: " + (", ".join(names) if names else "none")
    return f"did you mean '{near[0]}'? {listing}" if near else listing
