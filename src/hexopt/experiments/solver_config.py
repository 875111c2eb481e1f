"""The file of a solver comparison: strict TOML with ``kind = "solver_comparison"``. docs/experiments.md describes it.

The library's path is relative to the file, the output folder to the current directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hexopt.errors import HexoptError, suggest
from hexopt.experiments.config import (
    Label,
    Names,
    Options,
    Table,
    Text,
    _finite,
    _names,
    _numbers,
    parse_model,
    read_toml,
)
from hexopt.formulations.objective import objective_text, parse_objective

KIND = "solver_comparison"

Limit = Annotated[float, Field(gt=0, le=3_600_000), BeforeValidator(_finite)]
Size = Annotated[int, Field(ge=1)]
HintRule = Literal["greedy", "none"]


class SolverEntry(Table):
    """One ``[[solvers]]`` table: a formulation with its options and what it may use.

    Attributes
    ----------
    label
        What it goes by in the results; the formulation's name if absent.
    hint
        The plan that it starts from: that of the greedy list schedule, or none.
    deterministic, iterations
        Limits besides the time limit, see :class:`hexopt.formulations.Budget`.
    variant_of
        Label of the entry that this one is a variant of. A variant shows what one setting does: the report holds it
        against that entry, and leaves it out of rankings and figures.
    objectives
        Only these of the study's objectives; all if absent.
    most_calls
        Only instances of up to so many calls; all if absent.
    """

    formulation: Text
    label: Label = ""
    options: Options = Field(default_factory=dict)
    threads: Annotated[int, Field(ge=1)] = 1
    seed: Annotated[int, Field(ge=0)] = 0
    hint: HintRule = "none"
    deterministic: Annotated[float, Field(gt=0), BeforeValidator(_finite)] | None = None
    iterations: Annotated[int, Field(ge=1)] | None = None
    variant_of: Text | None = None
    objectives: Names | None = None
    most_calls: Size | None = None

    @property
    def title(self) -> str:
        """The label, or else the formulation's name."""
        return self.label or self.formulation


class InstancesEntry(Table):
    """The ``[instances]`` table: which instances of the library; all of them where nothing is said.

    ``per_size`` takes so many of each size, spread evenly over the names in their order, so that no regime is left out
    as long as there are enough of them.
    """

    sizes: Annotated[tuple[Size, ...], BeforeValidator(_names)] | None = None
    regimes: Names | None = None
    per_size: Annotated[int, Field(ge=1)] | None = None
    names: Names | None = None

    @model_validator(mode="after")
    def _is_one_way(self) -> InstancesEntry:
        if self.names is not None and (self.sizes or self.regimes or self.per_size):
            raise ValueError("names stand beside sizes, regimes or per_size, name instances or describe them")
        return self


class SolverOutput(Table):
    """The ``[output]`` table."""

    folder: str = ""
    formats: Annotated[tuple[Literal["png", "svg"], ...], BeforeValidator(_names)] = ("png", "svg")


class SolverStudy(Table):
    """A grid of solves: instances × objectives × solvers × time limits, each solved on its own.

    Attributes
    ----------
    library
        Folder of the instance library.
    objectives
        Texts of :func:`hexopt.formulations.parse_objective`.
    time_limits_ms
        Wall-clock limits of a solve, model building included.
    """

    schema_version: Literal[1] = 1
    kind: Literal["solver_comparison"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    description: str = ""
    library: Text = "../formulations"
    instances: InstancesEntry = InstancesEntry()
    objectives: Names = ("bottleneck", "sum")
    time_limits_ms: Annotated[tuple[Limit, ...], BeforeValidator(_numbers)] = (5.0, 20.0, 50.0, 200.0, 1000.0)
    solvers: Annotated[tuple[SolverEntry, ...], BeforeValidator(_names)]
    output: SolverOutput = SolverOutput()
    folder: Annotated[Path, Field(exclude=True)] = Path()

    @model_validator(mode="after")
    def _names_are_known(self) -> SolverStudy:
        titles = [entry.title for entry in self.solvers]
        try:
            known = [objective_text(parse_objective(text)) for text in self.objectives]
            own = [[objective_text(parse_objective(t)) for t in entry.objectives or ()] for entry in self.solvers]
        except HexoptError as error:
            raise ValueError(f"objectives: {error}") from None
        for i, entry in enumerate(self.solvers):
            where = f"solvers[{i}]"
            if titles.count(entry.title) > 1:
                raise ValueError(f"{where}: '{entry.title}' occurs twice, results are told apart by label, add a label")
            base = entry.variant_of
            if base is not None and (base == entry.title or base not in titles):
                others = [title for title in titles if title != entry.title]
                raise ValueError(f"{where}: variant_of: '{base}' is no other solver, {suggest(base, others)}")
            for text in own[i]:
                if text not in known:
                    raise ValueError(f"{where}: objectives: '{text}' is none of the study, {suggest(text, known)}")
        if len(set(known)) != len(known):
            raise ValueError("objectives: one occurs twice, each is named once, drop the repetition")
        return self

    @property
    def library_folder(self) -> Path:
        """The library as seen from the current directory."""
        return Path(self.library) if Path(self.library).is_absolute() else self.folder / self.library


def is_solver_study(path: str | Path) -> bool:
    """Say whether an experiment file is a solver comparison."""
    return read_toml(Path(path)).get("kind") == KIND


def load_solver_study(path: str | Path) -> SolverStudy:
    """Read the file of a solver comparison.

    Raises
    ------
    ConfigError
        The file cannot be read, is no TOML, or breaks a rule; the message names file, key, value, rule and remedy.
    """
    path = Path(path)
    return parse_solver_study(read_toml(path), str(path), path.parent)


def parse_solver_study(data: Mapping[str, Any], source: str, folder: Path) -> SolverStudy:
    """Check a solver comparison given as plain data."""
    return parse_model(SolverStudy, data, source, folder)
