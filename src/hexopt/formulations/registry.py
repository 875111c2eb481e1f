"""Formulations by name. Adding one is a file and a line here, or an entry point of group ``hexopt.formulations``."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from hexopt.errors import ConfigError, suggest
from hexopt.formulations.protocol import Formulation

FORMULATIONS: dict[str, str] = {
    "cpsat": "hexopt.formulations.cpsat:CpSat",
    "exhaustive": "hexopt.formulations.exhaustive:Exhaustive",
    "local-search": "hexopt.formulations.local_search:LocalSearch",
    "milp-deadline": "hexopt.formulations.milp.deadline:MilpDeadline",
    "milp-disjunctive": "hexopt.formulations.milp.disjunctive:MilpDisjunctive",
    "milp-positional": "hexopt.formulations.milp.positional:MilpPositional",
    "milp-time-indexed": "hexopt.formulations.milp.time_indexed:MilpTimeIndexed",
    "portfolio": "hexopt.formulations.portfolio:Portfolio",
}


def formulation_names() -> list[str]:
    """Return the names that :func:`make_formulation` knows, sorted: ours and those of installed packages."""
    return sorted({*FORMULATIONS, *(e.name for e in entry_points(group="hexopt.formulations"))})


def formulation_class(name: str) -> Any:
    """Return the class behind a name.

    Raises
    ------
    ConfigError
        The name is unknown.
    """
    if name in FORMULATIONS:
        module, _, attribute = FORMULATIONS[name].partition(":")
        return getattr(import_module(module), attribute)
    for entry in entry_points(group="hexopt.formulations"):
        if entry.name == name:
            return entry.load()
    raise ConfigError(f"formulation '{name}': it is unknown, {suggest(name, formulation_names())}, choose one")


def make_formulation(name: str, **options: Any) -> Formulation:
    """Build a formulation from its name and options.

    Raises
    ------
    ConfigError
        The name or an option is unknown.
    SolverMissing
        It needs a solver that is not installed.
    """
    cls = formulation_class(name)
    known = inspect.signature(cls).parameters
    for option in options:
        if option not in known:
            raise ConfigError(
                f"formulation '{name}': option '{option}' is unknown, {suggest(option, known)}, drop or rename it"
            )
    return cls(**options)  # type: ignore[no-any-return]
