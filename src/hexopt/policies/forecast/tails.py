"""How policies use a forecast: one number a call, shrunk, remembered while the call is open."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.protocols import NO_TAIL, TAIL_LEVELS, Forecaster, LatencyModel, Tail
from hexopt.core.view import CallState, CallView, View
from hexopt.errors import ConfigError
from hexopt.policies.forecast import check_forecaster, make_forecaster
from hexopt.policies.horizon import Horizon

TailOf = Literal["mean", "median", "harmonic", "cautious", "low", "relative"]
"""Which number of a forecast is used.

``mean`` and ``median``; ``low``: the first quantile, 10%; ``harmonic``: the tail that gives the horizon its harmonic
mean, so that waiting counts as much as it is expected to lift the workflow's ratio. ``cautious``: the same with the
fourth power of the ratio, which the least that may follow dominates. ``relative``: the horizon times the cautious one
over what it would be with the usual forecast, that of the latest calls asked about. What says the same of all calls
then changes no order, while as a tail it would shift precedence to workflows with a long horizon. A call after which
less may follow than usual has a negative tail.
"""

_FORGET_ABOVE = 4096
_CAUTION = 4
_USUAL_CALLS = 512
"""The usual forecast is that of so many calls."""


class Forecasting(Protocol):
    """A policy with the options of a forecast. ``handed_forecaster`` is used in place of the named one."""

    name: ClassVar[str]
    forecaster: str
    shrinkage: float
    tail_of: TailOf
    handed_forecaster: Forecaster | None


def check_forecast(policy: Forecasting) -> None:
    """Raise :class:`~hexopt.errors.ConfigError` unless the options of a policy's forecast are legal."""
    check_forecaster(policy.forecaster)
    if not 0 <= policy.shrinkage <= 1:
        raise ConfigError(
            f"policy '{policy.name}': shrinkage is {policy.shrinkage}, it is a share from 0 to 1, correct it"
        )


def tails_of(policy: Forecasting, cluster: Cluster, latency: LatencyModel) -> Tails | None:
    """Return the tails of a policy whose run begins; ``None`` without a forecaster."""
    if policy.forecaster == "none":
        return None
    forecaster = policy.handed_forecaster or make_forecaster(policy.forecaster)
    if forecaster is None:
        return None
    forecaster.reset(cluster, latency)
    return Tails(forecaster, policy.shrinkage, policy.tail_of)


class Tails:
    """The tails (µs) that a policy reckons with.

    Parameters
    ----------
    shrinkage
        What is left of the forecast, from 0 (nothing) to 1 (all of it).
    """

    def __init__(self, forecaster: Forecaster, shrinkage: float, tail_of: TailOf) -> None:
        self._forecaster = forecaster
        self._shrinkage = shrinkage
        self._tail_of = tail_of
        self._usual = _Usual() if tail_of == "relative" else None
        self._known: dict[int, tuple[CallView, int]] = {}
        self._forget_above = _FORGET_ABOVE

    def look(self, view: View) -> None:
        """Show a view to the forecaster."""
        if len(self._known) > self._forget_above:
            self._known = {k: row for k, row in self._known.items() if row[0].state != CallState.COMPLETE}
            self._forget_above = max(_FORGET_ABOVE, 2 * len(self._known))
        self._forecaster.look(view)

    def of_call(self, call: CallView, revealed_us: int) -> int:
        """Return what is reckoned to follow a call of a workflow with this revealed horizon, µs."""
        known = self._known.get(call.key)
        if known is None:
            tail = self._forecaster.tail(call)
            if self._usual is not None:
                us = round(self._shrinkage * self._usual.compare(tail, revealed_us))
            else:
                us = max(0, round(self._shrinkage * _number(tail, self._tail_of, revealed_us)))
            known = self._known[call.key] = call, us
        return known[1]

    def horizon_us(self, horizon: Horizon) -> int:
        """Return the horizon of a workflow: what is revealed, and the longest tail of its open calls."""
        us = horizon.current_us()
        longest = max([self.of_call(c, us) for c in horizon.open_calls if c.state != CallState.COMPLETE], default=0)
        return max(1, us + longest)  # a negative tail may be of a time when more was revealed


class _Usual:
    """What is usually foretold: the forecasts of the latest calls, as one distribution."""

    def __init__(self) -> None:
        self._quantiles = np.empty((_USUAL_CALLS, len(TAIL_LEVELS)))
        self._count = 0

    def compare(self, tail: Tail, revealed_us: int) -> float:
        """Return what makes a horizon of the usual one, µs (above minus the horizon); nothing for the usual tail."""
        if tail is NO_TAIL:
            return 0.0
        self._quantiles[self._count % _USUAL_CALLS] = tail.quantiles_us
        self._count += 1
        growth = 1.0 + self._quantiles[: self._count] / revealed_us
        usual = float(np.mean(growth**-_CAUTION) ** (-1 / _CAUTION))
        own = 1.0 + _number(tail, "cautious", revealed_us) / revealed_us
        return revealed_us * (own / usual - 1.0)


def _number(tail: Tail, tail_of: TailOf, revealed_us: int) -> float:
    if tail_of == "mean":
        return tail.mean_us
    if tail_of == "median":
        return tail.quantiles_us[len(tail.quantiles_us) // 2]
    if tail_of == "low":
        return tail.quantiles_us[0]
    power = 1 if tail_of == "harmonic" else _CAUTION
    shares = [1.0 / float(revealed_us + us) ** power for us in tail.quantiles_us]
    return float((len(shares) / sum(shares)) ** (1 / power)) - revealed_us
