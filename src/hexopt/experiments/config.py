"""The experiment file: strict TOML that names a grid of runs. docs/experiments.md describes it key by key.

Paths of inputs are relative to the experiment file, which they travel with; the output folder is relative to
the current directory, where the person works.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hexopt.errors import ConfigError, suggest

SCHEMA_VERSION = 1

OptionValue = bool | int | float | str


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number is needed")
    return value


def _seeds(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | list):
        raise ValueError("a count or a list of seeds is needed")
    if isinstance(value, int):
        if not 1 <= value <= 10_000:
            raise ValueError("a count of seeds lies in 1..10000")
        return tuple(range(value))
    if not value:
        raise ValueError("at least one seed is needed")
    if any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in value):
        raise ValueError("a seed is a whole number of at least 0")
    if len(set(value)) != len(value):
        raise ValueError("a seed counts once")
    return tuple(value)


def _names(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        if not value:
            raise ValueError("at least one is needed")
        return tuple(value)
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list):
        if not value:
            raise ValueError("at least one is needed")
        plain = [float(v) for v in value if isinstance(v, int | float)]
        if len(set(plain)) != len(plain):
            raise ValueError("numbers that differ are needed")
        return tuple(value)
    return value


Load = Annotated[float, Field(gt=0, le=100), BeforeValidator(_finite)]
EstimateError = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_finite)]
Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_names)]


class Table(BaseModel):
    """A table of an experiment file: strict, and never changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Checked = TypeVar("Checked", bound=Table)


Options = dict[str, Annotated[OptionValue, BeforeValidator(_finite)]]
Label = Annotated[str, Field(pattern=r"^[^/\\]*$", max_length=60)]


class PolicyEntry(Table):
    """One ``[[policies]]`` table: a policy's name, the label it goes by in the results, its options.

    ``predictor`` is what this policy is given output lengths by, instead of the experiment's.
    """

    name: Text
    label: Label = ""
    options: Options = {}
    predictor: Text | None = None

    @property
    def title(self) -> str:
        """The label, or else the name."""
        return self.label or self.name


class TraceEntry(Table):
    """One ``[[traces]]`` table: a file, or a generator and what it is to draw.

    ``trace_seed`` fixes the generated trace; without it every seed of the study draws its own. ``workflows``,
    ``arrivals``, ``delays`` and ``skip_invalid`` go before those of the experiment.
    """

    name: Label = ""
    file: Text | None = None
    generate: Text | None = None
    parameters: Literal["paper", "fitted"] | None = None
    options: Options = {}
    workflows: Annotated[int, Field(ge=1)] | None = None
    arrivals: Text | None = None
    delays: Text | None = None
    skip_invalid: bool | None = None
    trace_seed: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> TraceEntry:
        if (self.file is None) == (self.generate is None):
            found = "neither" if self.file is None else "both"
            raise ValueError(f"{found} of file and generate found, a trace is exactly one of them")
        if self.file is not None:
            for key in ("parameters", "options", "trace_seed"):
                if getattr(self, key) not in (None, {}):
                    raise ValueError(f"{key} found beside file, only a generated trace has it")
        elif self.skip_invalid is not None:
            raise ValueError("skip_invalid found beside generate, only a file has invalid workflows")
        return self

    @property
    def title(self) -> str:
        """The name, or else the file's without endings, or else the generator."""
        return self.name or (self.generate or re.sub(r"\.jsonl(\.gz)?$", "", Path(str(self.file)).name))


class OutputEntry(Table):
    """The ``[output]`` table: where results go, what is kept of each run, how tables and figures are written."""

    folder: str = ""
    keep: Literal["all", "tables", "summary"] = "all"
    table: Literal["csv", "parquet"] = "csv"
    formats: Annotated[tuple[Literal["png", "svg"], ...], BeforeValidator(_names)] = ("png", "svg")


class ExperimentConfig(Table):
    """A grid of runs: clusters × traces × loads × estimate errors × policies × seeds.

    Attributes
    ----------
    name
        Names the results; a plain word that can be a folder's name.
    trace
        Path of the only trace, relative to the experiment file; ``traces`` names several, or generated ones.
    workflows
        Only the first so many workflows of a file, or so many generated ones; all of a file if absent.
    cluster
        Shipped names, or paths of cluster files relative to the experiment file.
    loads
        Each value sets the arrivals to :func:`load_rule` of it.
    load_cv
        Coefficient of variation of the gaps between arrivals under ``loads``; the rule's own if absent.
    estimate_errors
        Each value is a run's ``estimate_error``, see :func:`hexopt.simulate`.
    seeds
        A count *n* (seeds 0 to n − 1) or the seeds themselves. A seed draws the same trace and arrivals for every
        policy.
    baselines
        Labels of the policies that each policy is compared with (always the best one of them other than itself);
        all policies if absent.
    folder
        Folder of the experiment file, filled in by :func:`load_config`.
    """

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    description: str = ""
    trace: Text | None = None
    traces: Annotated[tuple[TraceEntry, ...], BeforeValidator(_names)] | None = None
    workflows: Annotated[int, Field(ge=1)] | None = None
    skip_invalid: bool = False
    cluster: Names
    arrivals: Text | None = None
    delays: Text | None = None
    loads: Annotated[tuple[Load, ...], BeforeValidator(_numbers)] | None = None
    load_cv: Annotated[float, Field(gt=0, le=100), BeforeValidator(_finite)] | None = None
    predictor: Text = "app-mean"
    estimate_errors: Annotated[tuple[EstimateError, ...], BeforeValidator(_numbers)] = (0.0,)
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)] = (0,)
    stop_s: Annotated[float, Field(gt=0, lt=9e9), BeforeValidator(_finite)] | None = None
    baselines: Names | None = None
    policies: Annotated[tuple[PolicyEntry, ...], BeforeValidator(_names)]
    output: OutputEntry = OutputEntry()
    folder: Annotated[Path, Field(exclude=True)] = Path()

    @model_validator(mode="after")
    def _labels_are_unique(self) -> ExperimentConfig:
        titles = [policy.title for policy in self.policies]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"policies: '{title}' occurs twice, results are told apart by label, add a label")
        for title in self.baselines or ():
            if title not in titles:
                raise ValueError(f"baselines: '{title}' is no policy of this experiment, {suggest(title, titles)}")
        for what, names in (("cluster", self.cluster), ("baselines", self.baselines or ())):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{what}: '{name}' occurs twice, each is named once, drop the repetition")
        return self

    @model_validator(mode="after")
    def _traces_are_whole(self) -> ExperimentConfig:
        if self.trace is None and self.traces is None:
            raise ValueError("trace: it is missing, every experiment states it or [[traces]], add trace = …")
        if self.trace is not None and self.traces is not None:
            raise ValueError("trace: it stands beside [[traces]], an experiment has one of them, make it a table too")
        if self.load_cv is not None and self.loads is None:
            raise ValueError("load_cv: it stands without loads, it says how their arrivals vary, add loads or drop it")
        titles = [entry.title for entry in self.trace_entries]
        for i, entry in enumerate(self.trace_entries):
            where = f"traces[{i}]" if self.traces is not None else "trace"
            if titles.count(entry.title) > 1:
                raise ValueError(f"{where}: '{entry.title}' occurs twice, results are told apart by name, add a name")
            if entry.generate is not None and entry.workflows is None:
                raise ValueError(f"{where}: workflows is missing, a generator is told how many, add workflows = …")
            if self.loads is not None and entry.arrivals is not None:
                raise ValueError(f"{where}: arrivals stand beside loads, which set the arrivals, drop one of them")
        return self

    @property
    def trace_entries(self) -> tuple[TraceEntry, ...]:
        """All traces, with what the experiment says for all of them filled in; the plain ``trace`` is one of them."""
        entries = (TraceEntry(file=self.trace),) if self.traces is None else self.traces
        return tuple(
            entry.model_copy(
                update={
                    "workflows": entry.workflows or self.workflows,
                    "arrivals": entry.arrivals or self.arrivals,
                    "delays": entry.delays or self.delays,
                    "skip_invalid": entry.generate is None
                    and (self.skip_invalid if entry.skip_invalid is None else entry.skip_invalid),
                    "parameters": entry.parameters or ("paper" if entry.generate else None),
                }
            )
            for entry in entries
        )

    @property
    def stop_us(self) -> int | None:
        """``stop_s`` in µs."""
        return None if self.stop_s is None else round(self.stop_s * 1_000_000)

    def resolve(self, path: str) -> Path:
        """Return an input's path as seen from the current directory."""
        return Path(path) if Path(path).is_absolute() else self.folder / path


def load_rule(load: float, cv: float | None) -> str:
    """Return the arrival rule that loads a cluster to this share of what it can do.

    >>> load_rule(0.8, None), load_rule(0.8, 2.0)
    ('utilisation:0.8', 'utilisation:0.8,cv=2')
    """
    return f"utilisation:{load:.12g}" + ("" if cv is None else f",cv={cv:.12g}")


def load_config(path: str | Path) -> ExperimentConfig:
    """Read an experiment file.

    Raises
    ------
    ConfigError
        The file cannot be read, is no TOML, or breaks a rule; the message names file, key, value, rule and remedy.
    """
    path = Path(path)
    data = read_toml(path)
    return parse_config(data, str(path), path.parent)


def read_toml(path: Path) -> dict[str, Any]:
    """Return what an experiment file says, unchecked.

    Raises
    ------
    ConfigError
        The file cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}, an experiment file is needed, check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text, an experiment file is TOML, check the path") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {_one_line(str(error))}, an experiment file is TOML, mend that line") from None


def parse_config(data: Mapping[str, Any], source: str, folder: Path) -> ExperimentConfig:
    """Check an experiment given as plain data; ``source`` names it in errors, ``folder`` is where paths start."""
    return parse_model(ExperimentConfig, data, source, folder)


def parse_model(model: type[Checked], data: Mapping[str, Any], source: str, folder: Path) -> Checked:
    """Check plain data against a model that has ``schema_version`` and a ``folder`` to be filled in."""
    if "folder" in data:
        raise ConfigError(_unknown_key(source, ("folder",), model))
    version = data.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ConfigError(
            f"{source}: schema_version: {version!r} is unknown, this hexopt reads version {SCHEMA_VERSION}, "
            "update hexopt or the file"
        )
    try:
        return model.model_validate({**data, "folder": folder})
    except ValidationError as error:
        # The first complaint is enough for one line; an unknown key usually explains a missing one, so it goes first.
        details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        raise ConfigError(_explain(source, details[0], model)) from None


_RULES = {
    "string_type": "text is needed",
    "string_too_short": "some text is needed",
    "string_pattern_mismatch": "it names files, so letters, digits and . _ - are legal",
    "int_type": "a whole number is needed",
    "float_type": "a number is needed",
    "bool_type": "true, false, a number or text is needed",
    "tuple_type": "a list is needed",
    "dict_type": "a table is needed",
    "model_type": "a table is needed",
}
"""What pydantic's complaints are called in an experiment file."""


def _explain(source: str, detail: Any, model: type[BaseModel]) -> str:
    """Say a pydantic complaint in hexopt's four parts."""
    loc, kind, value = detail["loc"], detail["type"], detail["input"]
    where = _where(loc)
    if kind == "extra_forbidden":
        return _unknown_key(source, loc, model)
    if kind == "missing":
        return f"{source}: {where}: it is missing, every experiment states it, add {loc[-1]} = …"
    if kind == "value_error" and not loc:
        return f"{source}: {_one_line(str(detail['ctx']['error']))}"
    if kind == "value_error" and isinstance(value, dict):
        return f"{source}: {where}: {_one_line(str(detail['ctx']['error']))}, correct it"
    if kind in _RULES:
        rule = _RULES[kind]
    elif kind == "value_error":
        rule = str(detail["ctx"]["error"])
    else:
        rule = str(detail["msg"]).replace("Input should", "it should")
    shown = repr(value)
    if len(shown) > 60:
        shown = shown[:57] + "…"
    return f"{source}: {where}: {shown} found, {_one_line(rule)}, correct it"


def _unknown_key(source: str, loc: tuple[int | str, ...], model: type[BaseModel]) -> str:
    found = model
    for part in loc[:-1]:
        if isinstance(part, str):
            found = _table_of(found.model_fields[part].annotation) or found
    known = [name for name in found.model_fields if not (found is model and name == "folder")]
    return f"{source}: {_where(loc)}: unknown key, {suggest(str(loc[-1]), known)}; rename or remove it"


def _table_of(annotation: Any) -> type[BaseModel] | None:
    """Return the table that a field holds, or that it holds a list of; ``None`` for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for part in get_args(annotation) if (table := _table_of(part)) is not None), None)


def _where(loc: tuple[int | str, ...]) -> str:
    """``('policies', 2, 'name')`` as ``policies[2].name``; positions count from 0, as everywhere in hexopt."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in ("bool", "int", "float", "str"):  # the branch of a union is no part of the file
            text += f".{part}" if text else part
    return text or "file"


def _one_line(text: str) -> str:
    return " ".join(text.split())
