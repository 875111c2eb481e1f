"""Generators by name: their parameter sets and options, and :func:`generate_trace`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Final

from hexopt.core.streams import substream
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.errors import ConfigError, suggest
from hexopt.traces.generators import bfcl, claude_code, lats, mixed, sharegpt, swe_agent
from hexopt.traces.generators.draws import LONGEST, Constant, Rng, parse_dist
from hexopt.traces.schema import show

VERSION: Final = 1
"""Of the generators: another one draws other workflows from the same arguments."""

MAX_WORKFLOWS: Final = 10_000_000

LIMITS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    dict.fromkeys(("max_calls", "samples", "rollout_depth", "max_depth", "max_iterations"), (1, 10_000))
    | {"max_reflections": (0, 10_000), "max_observation": (0, LONGEST), "system_tokens": (0, LONGEST)}
    | {"prompt_scale": (0.001, 100)}
)
"""Least and most of numbers that are neither a length (from 1) nor a share (up to 1): sums stay legal in a trace."""

PARAMETER_SETS: Final = ("fitted", "paper")


@dataclass(frozen=True)
class Generator:
    """An application: a sentence about it, its parameter sets, and how one workflow is drawn from one."""

    summary: str
    sets: Mapping[str, Any]
    build: Callable[[Any, Rng, Rng], tuple[Call, ...]]


GENERATORS: Final[Mapping[str, Generator]] = MappingProxyType(
    {
        "bfcl": Generator("tool-using conversations, chains", bfcl.SETS, bfcl.build),
        "claude-code": Generator("coding sessions: long chains, some sub-agents", claude_code.SETS, claude_code.build),
        "lats": Generator("tree search with parallel samples and evaluations", lats.SETS, lats.build),
        "sharegpt": Generator("chats, chains", sharegpt.SETS, sharegpt.build),
        "swe-agent": Generator("software agents: long chains of commands", swe_agent.SETS, swe_agent.build),
    }
)
"""Every application; ``mixed`` draws from several of them."""

MIXED: Final = "mixed"


def generate_trace(
    app: str,
    /,
    *,
    workflows: int,
    seed: int = 0,
    parameters: str = "paper",
    **options: object,
) -> Trace:
    """Draw a trace of an application's workflows; arrivals are unknown, delays known.

    Parameters
    ----------
    app
        One of :data:`GENERATORS`, or ``"mixed"``: each workflow from one of several (option ``weights``, by default
        the paper's equal shares, ``"sharegpt=1,bfcl=1,lats=1"``).
    workflows
        How many. Workflow i is the same whatever their number: it has random streams of its own.
    seed
        Of all draws.
    parameters
        ``"paper"``: the means that HexAGenT's evaluation states (arXiv 2605.16637, with the statistics of Autellix,
        arXiv 2502.13965). ``"fitted"``: distributions fitted on public logs. The modules say how each was set.
    options
        Any parameter of the application, see :func:`generator_options`: a number, true or false, or a distribution
        such as ``user_gap="zero"`` or ``output="lognormal:100,0.8"``. For ``mixed``: ``weights``, and
        ``APP.PARAMETER``, such as ``**{"sharegpt.user_gap": "zero"}``.

    Returns
    -------
    Trace
        How it was made is in its provenance, and for files, which keep no provenance, in ``extra["generated"]`` of
        every workflow.

    Raises
    ------
    ConfigError
        An unknown name, or a value that is not legal.

    Examples
    --------
    >>> trace = generate_trace("sharegpt", workflows=3, seed=1, parameters="fitted", user_gap="zero")
    >>> [len(w.calls) for w in trace.workflows], trace.unknown_arrivals, trace.unknown_delays
    ([2, 5, 4], 3, 0)
    """
    if not isinstance(app, str) or (app != MIXED and app not in GENERATORS):
        raise ConfigError(
            f"generator: {show(app)} found, a generator has a name, {suggest(str(app), [*GENERATORS, MIXED])}"
        )
    if isinstance(workflows, bool) or not isinstance(workflows, int) or not 1 <= workflows <= MAX_WORKFLOWS:
        raise ConfigError(
            f"workflows: {show(workflows)} found, a whole number from 1 to {MAX_WORKFLOWS} is legal, correct it"
        )
    substream(seed, app, 0)  # refuses what is no seed
    if not isinstance(parameters, str) or parameters not in PARAMETER_SETS:
        raise ConfigError(
            f"parameters: {show(parameters)} found, a parameter set has a name, "
            f"{suggest(str(parameters), PARAMETER_SETS)}"
        )
    if app == MIXED:
        weights, own = mixed.split_options(options, GENERATORS)
        chosen = {name: _parameters(name, parameters, own.get(name, {}), f"{name}.") for name in weights}
        pick = mixed.picker(weights, float(substream(seed, MIXED, 0).random()))
    else:
        chosen = {app: _parameters(app, parameters, options)}
        pick = _always(app)
    record: dict[str, Any] = {
        "generator": app,
        "parameters": parameters,
        "seed": int(seed),
        "options": {name: _plain(value) for name, value in sorted(options.items())},
        "version": VERSION,
    }
    extra = {"generated": record}
    drawn = []
    for index in range(workflows):
        name = pick(index)
        calls = GENERATORS[name].build(
            chosen[name], substream(seed, f"{name} lengths", index), substream(seed, f"{name} delays", index)
        )
        drawn.append(Workflow(f"{name}-{index}", name, None, calls, "generated by hexopt", "Apache-2.0", extra))
    return Trace(tuple(drawn), f"{app}-{parameters}-{workflows}", {**extra, "workflows": workflows})


def generator_options(app: str, parameters: str) -> dict[str, str]:
    """Return the options of a generator with their defaults, as they would be written.

    >>> generator_options("swe-agent", "fitted")["calls"]
    'lognormal:46,0.63'
    """
    chosen = _parameters(app, parameters, {})
    return {field.name: _text(getattr(chosen, field.name)) for field in fields(chosen)}


def _parameters(app: str, parameters: str, options: Mapping[str, object], prefix: str = "") -> Any:
    sets = GENERATORS[app].sets
    if parameters not in sets:
        raise ConfigError(
            f"parameters: {show(parameters)} found, nothing is published about {app}, "
            f"use parameters {' or '.join(sorted(sets))}"
        )
    chosen = sets[parameters]
    known = {field.name for field in fields(chosen)}
    changes = {}
    for name, value in options.items():
        if name not in known:
            raise ConfigError(
                f"option {show(prefix + name)}: unknown to generator {app}, an option is a parameter of it, "
                f"{suggest(name, known)}"
            )
        changes[name] = _value(f"option {show(prefix + name)}", name, value, getattr(chosen, name))
    return replace(chosen, **changes)


def _value(what: str, option: str, value: object, default: object) -> Any:
    """Return an option's value as what its default is: true or false, a count, a share or factor, or a distribution."""
    if isinstance(default, bool):
        word = str(value).lower()
        if word not in ("true", "false"):
            raise ConfigError(f"{what}: {show(value)} found, true or false is legal, correct it")
        return word == "true"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"{what}: {show(value)} found, a number or a text is legal, correct it")
    if not isinstance(default, int | float):
        return parse_dist(what, value) if isinstance(value, str) else parse_dist(what, repr(value))
    dist = parse_dist(what, str(value))
    if not isinstance(dist, Constant):
        raise ConfigError(f"{what}: {show(value)} found, this one is a number, correct it")
    low, high = LIMITS.get(option, (0, 1) if isinstance(default, float) else (1, LONGEST))
    whole = isinstance(default, int)
    if not low <= dist.value <= high or (whole and dist.value != int(dist.value)):
        rule = f"a {'whole ' if whole else ''}number from {low:g} to {high:g} is legal"
        raise ConfigError(f"{what}: {show(value)} found, {rule}, correct it")
    return int(dist.value) if whole else dist.value


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _always(app: str) -> Callable[[int], str]:
    return lambda _: app
