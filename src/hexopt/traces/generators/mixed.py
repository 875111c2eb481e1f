"""Which application each workflow of a mixture comes from.

Shares are exact up to about one workflow at any length of the trace, in an order without a visible period: workflow i
falls where ``u + i x golden ratio`` (fraction) lies among the weights, u drawn from the seed. Workflow i of a mixture
is workflow i of its application's own trace with the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from itertools import accumulate
from typing import Final

from hexopt.errors import ConfigError, suggest
from hexopt.traces.schema import show

EQUAL: Final = "sharegpt=1,bfcl=1,lats=1"
"""The paper's Mixed trace: equal shares of its other three."""

GOLDEN: Final = (math.sqrt(5) - 1) / 2


def split_options(
    options: Mapping[str, object], apps: Collection[str]
) -> tuple[dict[str, float], dict[str, dict[str, object]]]:
    """Return the weights, and the options of each application."""
    weights = _weights(options.get("weights", EQUAL), apps)
    own: dict[str, dict[str, object]] = {}
    for name, value in options.items():
        if name == "weights":
            continue
        app, dot, option = name.partition(".")
        if not dot:
            raise ConfigError(
                f"option {show(name)}: unknown to generator mixed, its options are weights and APP.PARAMETER, "
                "such as sharegpt.user_gap, correct it"
            )
        if app not in weights:
            raise ConfigError(
                f"option {show(name)}: {show(app)} found, only applications with a weight have options, "
                f"{suggest(app, weights)}"
            )
        own.setdefault(app, {})[option] = value
    return weights, own


def picker(weights: Mapping[str, float], start: float) -> Callable[[int], str]:
    """Return the function from a workflow's index to its application."""
    names = list(weights)
    bounds = list(accumulate(weights.values()))

    def pick(index: int) -> str:
        at = math.fmod(start + index * GOLDEN, 1.0) * bounds[-1]
        return next((name for name, bound in zip(names, bounds, strict=True) if at < bound), names[-1])

    return pick


def _weights(text: object, apps: Collection[str]) -> dict[str, float]:
    what = "option 'weights'"
    weights: dict[str, float] = {}
    for part in str(text).split(","):
        app, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ConfigError(f"{what}: {show(part)} found, weights are written APP=WEIGHT,APP=WEIGHT, correct it")
        if app not in apps:
            raise ConfigError(f"{what}: {show(app)} found, weights name generators, {suggest(app, apps)}")
        if app in weights:
            raise ConfigError(f"{what}: {show(app)} found twice, an application has one weight, drop one")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not 0 < weight <= 1e9:
            raise ConfigError(f"{what}: {show(number)} found, a weight is a number above 0 to 1e9, correct it")
        weights[app] = weight
    return weights
