"""The solvers by name, what they are given, and what they answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import NamedTuple, Protocol

from hexopt.errors import ConfigError, SolverMissing, suggest
from hexopt.formulations.milp.linear import LinearModel
from hexopt.formulations.protocol import StopReason

NODES_PER_UNIT = 100
"""A deterministic unit of a budget is so many nodes of branch and bound (at least one)."""


class Limits(NamedTuple):
    """What one run of a solver may spend; ``None``: no limit."""

    seconds: float | None
    nodes: int | None
    threads: int
    seed: int


class Answer(NamedTuple):
    """What a solver says of a model, in the units of the model.

    ``bound`` is its own dual bound as it stands, without :meth:`LinearModel.proof_error`. ``incumbents`` are (seconds
    since the solver was started, objective).
    """

    stop_reason: StopReason
    values: list[float] | None = None
    objective: float | None = None
    bound: float | None = None
    infeasible: bool = False
    incumbents: tuple[tuple[float, float], ...] = ()
    note: str = ""


class Backend(Protocol):
    """Runs one solver. ``takes_start``: whether it makes use of a model's ``start``."""

    takes_start: bool

    def solve(self, model: LinearModel, limits: Limits) -> Answer:
        """Minimise a model, from its ``start`` where the solver takes one."""


SOLVERS: dict[str, tuple[str, str, str, str]] = {
    # name: module to import, its function, package that must be there, how to get it
    "cbc": ("hexopt.formulations.milp.with_pulp", "cbc", "pulp", "pip install pulp"),
    "highs": ("hexopt.formulations.milp.with_pulp", "highs", "highspy", "pip install 'hexopt[highs]'"),
    "ortools-scip": ("hexopt.formulations.milp.with_ortools", "scip", "ortools", "pip install ortools"),
    "ortools-highs": ("hexopt.formulations.milp.with_ortools", "highs", "ortools", "pip install ortools"),
}
"""``cbc`` and ``highs`` through PuLP; the others through the MathOpt interface of OR-Tools."""


def make_backend(solver: str, formulation: str) -> Backend:
    """Return what runs a solver; this is where the solver is imported.

    Raises
    ------
    ConfigError
        The name is unknown.
    SolverMissing
        It is not installed.
    """
    if solver not in SOLVERS:
        raise ConfigError(
            f"formulation '{formulation}': solver '{solver}' is unknown, {suggest(solver, SOLVERS)}, choose one"
        )
    _load_ortools_first()
    module, function, package, remedy = SOLVERS[solver]
    missing = SolverMissing(
        f"formulation '{formulation}': solver '{solver}' needs {package}, which is not installed, {remedy}"
    )
    try:
        import_module(package)
        make: Callable[[], Backend | None] = getattr(import_module(module), function)
    except ImportError as error:
        raise missing from error
    backend = make()
    if backend is None:
        raise missing
    return backend


_ORTOOLS = "ortools.math_opt.core.python.solver"
_clash = False


def _load_ortools_first() -> None:
    """Load the library of OR-Tools before highspy.

    Both carry a HiGHS of their own. In the other order, calls of OR-Tools end in that of highspy, and the process dies.
    """
    global _clash
    if _ORTOOLS not in sys.modules and "ortools.linear_solver._pywraplp" not in sys.modules:
        _clash = _clash or "highspy" in sys.modules
        with suppress(ImportError):
            import_module(_ORTOOLS)


def highs_clash() -> bool:
    """Return whether highspy was there before OR-Tools, whose HiGHS cannot be used then."""
    return _clash
