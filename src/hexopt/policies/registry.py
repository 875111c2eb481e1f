"""Policies by name. Adding one is a file and a line here, or an entry point of the group ``hexopt.policies``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from hexopt.core.protocols import BasePolicy, Policy
from hexopt.errors import ConfigError, suggest

POLICIES = {
    "autellix-atlas": "hexopt.policies.autellix_atlas:AutellixAtlas",
    "autellix-plas": "hexopt.policies.autellix_plas:AutellixPlas",
    "cortex": "hexopt.policies.cortex:Cortex",
    "earliest-finish": "hexopt.policies.earliest_finish:EarliestFinish",
    "fcfs": "hexopt.policies.fcfs:Fcfs",
    "goodserve": "hexopt.policies.goodserve:GoodServe",
    "hexagent": "hexopt.policies.hexagent:HexAGenT",
    "kairos": "hexopt.policies.kairos:Kairos",
    "least-loaded": "hexopt.policies.least_loaded:LeastLoaded",
    "netkv": "hexopt.policies.netkv:NetKv",
    "random": "hexopt.policies.random_choice:RandomChoice",
    "replay": "hexopt.policies.replay:Replay",
    "rolling-cpsat": "hexopt.policies.rolling_cpsat:RollingCpsat",
    "rolling-milp": "hexopt.policies.rolling_milp:RollingMilp",
    "rolling-search": "hexopt.policies.rolling_search:RollingSearch",
    "round-robin": "hexopt.policies.round_robin:RoundRobin",
    "sjf": "hexopt.policies.sjf:Sjf",
    "srpt": "hexopt.policies.srpt:Srpt",
    "workflow-fcfs": "hexopt.policies.workflow_fcfs:WorkflowFcfs",
    "workflow-llf": "hexopt.policies.workflow_llf:WorkflowLlf",
}

IN_MEMORY = "(in memory)"
"""What a record says of an option that has no plain value."""


class Option(NamedTuple):
    """One option of a policy. ``default`` is ``inspect.Parameter.empty`` where it must be given."""

    name: str
    default: Any
    doc: str


def policy_names() -> list[str]:
    """Return the names that :func:`make_policy` knows, sorted: ours and those of installed packages.

    >>> "hexagent" in policy_names()
    True
    """
    return sorted({*POLICIES, *(e.name for e in entry_points(group="hexopt.policies"))})


def policy_class(name: str) -> type[Any]:
    """Return the class behind a name.

    Raises
    ------
    ConfigError
        The name is unknown.
    """
    if name in POLICIES:
        module, _, attribute = POLICIES[name].partition(":")
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    for entry in entry_points(group="hexopt.policies"):
        if entry.name == name:
            return entry.load()  # type: ignore[no-any-return]
    raise ConfigError(f"policy '{name}': it is unknown, {suggest(name, policy_names())}, choose one")


def policy_summary(name: str) -> str:
    """Return the first line of the policy's documentation."""
    return (inspect.getdoc(policy_class(name)) or "").partition("\n")[0]


def policy_options(name: str) -> list[Option]:
    """Return the options of a policy, with their defaults and documentation."""
    cls = policy_class(name)
    docs = {**_parameter_docs(BasePolicy)}
    for part in reversed(cls.__mro__[:-1]):  # variants of a policy inherit the options of its base
        docs.update(_parameter_docs(part))
    options = []
    for parameter in inspect.signature(cls).parameters.values():
        default = parameter.default
        if parameter.name == "fallback" and default is None:
            default = getattr(cls, "default_fallback", "none")
        options.append(Option(parameter.name, default, docs.get(parameter.name, "")))
    return options


def make_policy(name: str, **options: Any) -> Policy:
    """Build a policy from its name and options; ``fallback`` may be a name or a record too, or ``"none"``.

    Raises
    ------
    ConfigError
        The name or an option is unknown, an option's value is illegal, or one that must be given is missing.

    >>> make_policy("hexagent", plan_latency_us=0).name
    'hexagent'
    """
    cls = policy_class(name)
    known = policy_options(name)
    for option in options:
        if option not in {o.name for o in known}:
            raise ConfigError(
                f"policy '{name}': option '{option}' is unknown, "
                f"{suggest(option, (o.name for o in known))}, drop or rename it"
            )
    for needed in known:
        if needed.default is inspect.Parameter.empty and needed.name not in options:
            what = needed.doc.split(". ")[0].split(" with ")[0].replace("`", "")
            raise ConfigError(
                f"policy '{name}': option '{needed.name}' is missing, it must be given"
                f"{f' ({what})' if what else ''}, give it as option {needed.name}"
            )
    hints = get_type_hints(cls.__init__)
    for option_name, value in options.items():
        _check_value(name, option_name, value, hints.get(option_name, Any))
    if any(o.name == "fallback" for o in known):
        fallback = options.get("fallback", getattr(cls, "default_fallback", "none"))
        if isinstance(fallback, Mapping) and {"name", "options"} == set(fallback):
            options["fallback"] = make_policy(fallback["name"], **fallback["options"])
        elif isinstance(fallback, str):
            options["fallback"] = None if fallback == "none" else _make_fallback(fallback)
        elif fallback is not None and not isinstance(fallback, Policy):
            raise ConfigError(
                f"policy '{name}': option 'fallback' is {fallback!r}, it is a policy, its name or none, correct it"
            )
    return cls(**options)  # type: ignore[no-any-return]


def _make_fallback(name: str) -> Policy:
    """Build a policy that places calls while a plan is in flight. Its plans apply at once: it needs no fallback."""
    if any(option.name == "fallback" for option in policy_options(name)):
        return make_policy(name, fallback="none")
    return make_policy(name)


def policy_record(policy: Policy) -> dict[str, Any]:
    """Return the name and options that rebuild a policy, as plain values; options only of shipped policies.

    A fallback is its name where :func:`make_policy` builds an equal one from that, and a record of its own
    otherwise. What has no plain value, such as a data frame, is ``"(in memory)"``: that alone does not rebuild.
    """
    record: dict[str, Any] = {"name": policy.name, "options": {}}
    if isinstance(policy, BasePolicy):
        for parameter in inspect.signature(type(policy)).parameters:
            value = getattr(policy, parameter, None)
            record["options"][parameter] = _fallback_record(value) if parameter == "fallback" else _plain(value)
    return record


def _fallback_record(fallback: Any) -> str | dict[str, Any]:
    if fallback is None:
        return "none"
    if isinstance(fallback, BasePolicy):
        record = policy_record(fallback)
        try:
            usual = policy_record(_make_fallback(fallback.name))
        except ConfigError:  # no such name, or one with options that must be given
            usual = None
        if record != usual:
            return record
    return str(getattr(fallback, "name", IN_MEMORY))


def _plain(value: Any) -> bool | int | float | str | None:
    if isinstance(value, PurePath):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else IN_MEMORY


def text_options(name: str) -> frozenset[str]:
    """Return the options of a policy that may be a text but no number: ``1`` is the text ``"1"`` to them."""
    found = set()
    for option, hint in get_type_hints(policy_class(name).__init__).items():
        kinds = {hint, *get_args(hint)}
        if str in kinds and not kinds & {bool, int, float}:
            found.add(option)
    return frozenset(found)


def _check_value(policy: str, option: str, value: Any, hint: Any) -> None:
    """Refuse a value of the wrong kind; kinds we cannot judge are left to the policy."""
    if option == "plan_latency_us":
        if value == "measured" or (type(value) is int and value >= 0):
            return
        legal = "a whole number of µs of at least 0, or measured"
    elif get_origin(hint) is Literal:
        if value in get_args(hint):
            return
        legal = "one of " + ", ".join(map(str, get_args(hint)))
    elif hint is bool:
        if type(value) is bool:
            return
        legal = "true or false"
    elif hint is int:
        if type(value) is int and value >= 0:
            return
        legal = "a whole number of at least 0"
    elif hint is float:
        if type(value) in (int, float) and value == value and abs(value) != float("inf"):
            return
        legal = "a finite number"
    else:
        return
    raise ConfigError(f"policy '{policy}': option '{option}' is {value!r}, it is {legal}, correct it")


def _parameter_docs(cls: type[Any]) -> dict[str, str]:
    """Read the ``Parameters`` section of a NumPy-style docstring."""
    doc = inspect.getdoc(cls) or ""
    section = re.search(r"Parameters\n-+\n(.*?)(?:\n\n[A-Z]\w+\n-+\n|\Z)", doc, re.S)
    if section is None:
        return {}
    found: dict[str, list[str]] = {}
    name = ""
    for line in section.group(1).splitlines():
        if line and not line.startswith(" "):
            name = line.strip()
            found[name] = []
        elif name:
            found[name].append(line.strip())
    return {name: " ".join(lines).strip() for name, lines in found.items()}
