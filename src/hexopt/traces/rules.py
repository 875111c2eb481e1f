"""Named, seeded rules that fill in what a log does not know: arrivals and delays between calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from hexopt.core.streams import stream
from hexopt.core.workflow import MAX_US, Call, Trace
from hexopt.errors import ConfigError, TraceError, suggest
from hexopt.traces.schema import seconds_to_us, show

ARRIVAL_RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "burst": "all workflows arrive at 0",
        "fixed:GAP_S": "workflow i (from 0, in file order) arrives at i x GAP_S seconds",
        "gamma:RATE,cv=CV": "independent gamma gaps of mean 1/RATE seconds and coefficient of variation CV "
        "(1 is poisson, above 1 is burstier); the first arrival is one gap after 0",
        "poisson:RATE": "independent exponential gaps of mean 1/RATE seconds; the first arrival is one gap after 0",
        "replay": "the recorded arrivals; an error if one is unknown",
        "sinusoid:RATE,period=S,depth=D": "a Poisson process of rate RATE x (1 + D x sin(2 pi t/S)) at t seconds, "
        "D from 0 to 1",
        "steps:RATE@T;RATE@T": "a Poisson process whose rate is RATE from T seconds on, such as steps:2@0;10@60;2@120; "
        "the first T is 0, the last RATE lasts",
        "utilisation:U,cv=CV": "gamma gaps (poisson without ,cv=CV) at the rate at which the trace takes the share U "
        "of the cluster's capacity; needs a cluster",
    }
)
"""Arrival rules and what they mean. They set the arrival of every workflow, in file order."""

DELAY_RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fixed:S": "S seconds",
        "lognormal:MEDIAN_S,SIGMA": "independent MEDIAN_S x exp(SIGMA x standard normal) seconds",
        "zero": "no delay",
        "KIND=RULE;KIND=RULE;*=RULE": "one rule per delay_kind, such as user=lognormal:126,0.95;tool=zero; "
        "* is every kind not named (and no kind); without it their delays stay unknown",
    }
)
"""Delay rules and what they mean. They set only the delays that are unknown."""

USUAL_KINDS: Final = ("none", "start", "tool", "user")
"""Delay kinds that a rule may name though the trace has none of them."""

_ARRIVALS: Final = "--arrivals"
_DELAYS: Final = "--delays"


def apply_arrivals(trace: Trace, rule: str, seed: int) -> Trace:
    """Return the trace with the arrival of every workflow set by a rule.

    Parameters
    ----------
    trace
        Its recorded arrivals are replaced (``replay`` keeps them).
    rule
        One of :data:`ARRIVAL_RULES`.
    seed
        Draws come from the stream ``"arrivals"`` of this seed, see :func:`hexopt.core.streams.stream`. Another
        rate scales the same draws.

    Returns
    -------
    Trace
        With ``provenance["arrivals"] = {"rule": rule, "seed": seed}``.

    Raises
    ------
    ConfigError
        The rule is unknown, has illegal numbers, or leads beyond the largest instant.
    TraceError
        ``replay``, and an arrival is unknown.

    Examples
    --------
    >>> from hexopt.core.workflow import Call, Trace, Workflow
    >>> call = Call("c0", (), 100, 20)
    >>> trace = Trace(tuple(Workflow(name, "chat", None, (call,)) for name in "abc"))
    >>> [w.arrival_us for w in apply_arrivals(trace, "fixed:0.5", seed=0).workflows]
    [0, 500000, 1000000]
    """
    count = len(trace.workflows)
    what = f"{_ARRIVALS} {show(rule)}"
    name, _, text = rule.partition(":")
    rng = stream(seed, "arrivals")
    us: list[int]
    if name == "replay" and not text:
        if unknown := trace.unknown_arrivals:
            raise TraceError(
                f"{what}: {unknown} of {count} arrivals unknown, replay needs every recorded arrival, "
                f"choose another rule ({', '.join(sorted(ARRIVAL_RULES))})"
            )
        us = [workflow.arrival_us or 0 for workflow in trace.workflows]
    elif name == "burst" and not text:
        us = [0] * count
    elif name == "fixed":
        (gap,) = _numbers(what, "fixed:GAP_S", text, zero="GAP_S")
        _us(what, gap)  # refuses what is too long
        # Of the product, not of the gap: rounding every gap would shift the rate.
        top, bottom = (Fraction(gap) * 1_000_000).as_integer_ratio()
        us = [round(Fraction(i * top, bottom)) for i in range(count)]
    elif name == "poisson":
        (rate,) = _numbers(what, "poisson:RATE", text)
        us = _instants(what, rng.standard_exponential(count) / float(rate))
    elif name == "gamma":
        rate, cv = _numbers(what, "gamma:RATE,cv=CV", text)
        shape = 1 / float(cv) ** 2
        us = _instants(what, rng.standard_gamma(shape, count) / (shape * float(rate)))
    elif name == "sinusoid":
        rate, period, depth = _numbers(what, "sinusoid:RATE,period=S,depth=D", text, zero="D")
        if depth > 1:
            raise ConfigError(f"{what}: D {depth} found, D is a number from 0 to 1 (no rate is negative), correct it")
        mean_s = np.cumsum(rng.standard_exponential(count)) / float(rate)
        us = _rounded(what, _sinusoid(mean_s, float(period), float(depth)))
    elif name == "steps":
        us = _rounded(what, _steps(what, text, np.cumsum(rng.standard_exponential(count))))
    elif utilisation_numbers(rule):
        raise ConfigError(
            f"{what}: {show(rule)} found without a cluster, utilisation is a share of a cluster's capacity, "
            "give the rule to a simulation or choose another"
        )
    else:
        raise _unknown_rule(what, rule, ARRIVAL_RULES)
    if us and us[-1] > MAX_US:
        raise ConfigError(f"{what}: an arrival at {us[-1]} µs found, instants end at {MAX_US} µs, choose shorter gaps")
    workflows = tuple(
        workflow if workflow.arrival_us == at else replace(workflow, arrival_us=at)
        for workflow, at in zip(trace.workflows, us, strict=True)
    )
    return replace(trace, workflows=workflows, provenance={**trace.provenance, "arrivals": _record(rule, seed)})


def utilisation_numbers(rule: str) -> tuple[Decimal, Decimal | None] | None:
    """Return U and CV (``None``: Poisson) of the rule ``utilisation``, and ``None`` for any other rule.

    >>> utilisation_numbers("utilisation:0.8,cv=2")
    (Decimal('0.8'), Decimal('2'))
    """
    name, _, text = rule.partition(":")
    if name != "utilisation":
        return None
    what = f"{_ARRIVALS} {show(rule)}"
    if "," not in text:
        return _numbers(what, "utilisation:U", text)[0], None
    share, cv = _numbers(what, "utilisation:U,cv=CV", text)
    return share, cv


def apply_delays(trace: Trace, rule: str, seed: int) -> Trace:
    """Return the trace with its unknown delays set by a rule; known delays stay.

    Parameters
    ----------
    trace
        Calls with ``tool_us`` ``None`` receive a delay.
    rule
        One of :data:`DELAY_RULES`.
    seed
        Draws come from the stream ``"delays"`` of this seed. The n-th call of the trace owns the n-th draw,
        whichever delays are known and whichever rule its kind has.

    Returns
    -------
    Trace
        With ``provenance["delays"] = {"rule": rule, "seed": seed, "filled": number of delays set}``; an earlier
        rule's record is kept in its ``"before"``.

    Raises
    ------
    ConfigError
        The rule is unknown, has illegal numbers, names a delay kind that neither the trace nor
        :data:`USUAL_KINDS` has, or leads to a delay beyond the largest instant.

    Examples
    --------
    >>> from hexopt.core.workflow import Call, Trace, Workflow
    >>> calls = (Call("c0", (), 100, 20, 0), Call("c1", (0,), 150, 20, None, delay_kind="user"))
    >>> trace = apply_delays(Trace((Workflow("w", "chat", 0, calls),)), "user=fixed:2.5;*=zero", seed=0)
    >>> trace.workflows[0].calls[1].tool_us, trace.provenance["delays"]
    (2500000, {'rule': 'user=fixed:2.5;*=zero', 'seed': 0, 'filled': 1})
    """
    what = f"{_DELAYS} {show(rule)}"
    by_kind, otherwise = _delay_rules(what, rule)
    kinds = {call.delay_kind for workflow in trace.workflows for call in workflow.calls if call.delay_kind}
    for kind in by_kind:
        if kind not in kinds and kind not in USUAL_KINDS:
            raise ConfigError(
                f"{what}: delay kind {show(kind)} found, a rule names kinds of the trace, "
                f"{suggest(kind, kinds | set(USUAL_KINDS))}"
            )
    # One draw for every call, needed or not: otherwise a delay that becomes known would move all later ones.
    normals = stream(seed, "delays").standard_normal(trace.call_count).tolist()
    position = 0
    filled = 0
    workflows = []
    for workflow in trace.workflows:
        calls: list[Call] | None = None
        for index, call in enumerate(workflow.calls):
            if call.tool_us is None:
                part = by_kind.get(call.delay_kind or "", otherwise)
                if part is not None:
                    calls = calls or list(workflow.calls)
                    calls[index] = replace(call, tool_us=part(normals[position + index]))
                    filled += 1
        position += len(workflow.calls)
        workflows.append(workflow if calls is None else replace(workflow, calls=tuple(calls)))
    record = {**_record(rule, seed), "filled": filled}
    if "delays" in trace.provenance:
        record["before"] = trace.provenance["delays"]
    return replace(trace, workflows=tuple(workflows), provenance={**trace.provenance, "delays": record})


def require_known(trace: Trace) -> None:
    """Raise unless every arrival and delay of the trace is known, as a simulation needs.

    Raises
    ------
    TraceError
        Some are unknown; the message counts them and lists the rules that fill them in.
    """
    problems = []
    remedies = []
    if arrivals := trace.unknown_arrivals:
        problems.append(f"{arrivals} of {len(trace.workflows)} arrivals")
        remedies.append(f"{_ARRIVALS} RULE ({', '.join(sorted(ARRIVAL_RULES.keys() - {'replay'}))})")
    if delays := trace.unknown_delays:
        kinds = {call.delay_kind or "no kind" for w in trace.workflows for call in w.calls if call.tool_us is None}
        listing = ", ".join(sorted(kinds)[:6]) + (", ..." if len(kinds) > 6 else "")
        problems.append(f"{delays} of {trace.call_count} delays (kind: {listing})")
        remedies.append(f"{_DELAYS} RULE ({', '.join(sorted(DELAY_RULES))})")
    if problems:
        raise TraceError(
            f"trace {show(trace.name)}: {' and '.join(problems)} unknown, a simulation needs every time, "
            f"fill them in with {' and '.join(remedies)}"
        )


def _record(rule: str, seed: int) -> dict[str, Any]:
    return {"rule": rule, "seed": int(seed)}


def _unknown_rule(what: str, rule: str, rules: Mapping[str, str]) -> ConfigError:
    names = {key.partition(":")[0]: key for key in rules if "=RULE" not in key}
    name = rule.partition(":")[0]
    if name in names:
        return ConfigError(f"{what}: {show(rule)} found, the rule is written {names[name]}, correct it")
    known = suggest(name, names).partition("known: ")[0]
    return ConfigError(
        f"{what}: unknown rule {show(name)} found, legal are {', '.join(sorted(rules))}, {known or 'choose one'}"
    )


def _numbers(what: str, form: str, text: str, *, zero: str = "") -> list[Decimal]:
    """Return the numbers that ``text`` has where ``form``, such as ``gamma:RATE,cv=CV``, has names."""
    slots = form.partition(":")[2].split(",")
    parts = text.split(",")
    if not text or len(parts) != len(slots):
        raise ConfigError(f"{what}: {show(text)} found after the name, the rule is written {form}, correct it")
    numbers = []
    for slot, part in zip(slots, parts, strict=True):
        prefix, equals, name = slot.rpartition("=")
        word = part.strip()
        if equals:
            found, _, word = (piece.strip() for piece in part.partition("="))
            if found != prefix:
                raise ConfigError(f"{what}: {show(part)} found, the rule is written {form}, correct it")
        try:
            number = Decimal(word)
        except InvalidOperation:
            raise ConfigError(f"{what}: {name} {show(word)} found, {name} is a decimal number, correct it") from None
        if not (number.is_finite() and (number > 0 or (number == 0 and name == zero))):
            rule = "a number from 0" if name == zero else "a number above 0"
            raise ConfigError(f"{what}: {name} {word} found, {name} is {rule}, correct it")
        if number and not -30 <= number.adjusted() <= 30:
            raise ConfigError(f"{what}: {name} {word} found, {name} lies in 1e-30..1e30, correct it")
        numbers.append(number)
    return numbers


def _us(what: str, seconds: Decimal) -> int:
    if seconds * 1_000_000 > MAX_US:
        raise ConfigError(f"{what}: {seconds} s found, at most {MAX_US // 1_000_000} s are legal, choose less")
    return seconds_to_us(seconds)


_Floats = np.ndarray[Any, np.dtype[np.float64]]


def _sinusoid(mean_s: _Floats, period: float, depth: float) -> _Floats:
    """Return the instants at which the expected number of arrivals, in units of the mean rate, reaches ``mean_s``.

    Time change: the arrivals of a unit Poisson process, seen through the inverse of
    ``t + depth x period / 2 pi x (1 - cos(2 pi t / period))``, which runs ahead of t by at most ``2 x swing``.
    """
    swing = depth * period / (2 * math.pi)
    low, high = np.maximum(mean_s - 2 * swing, 0.0), mean_s.copy()
    for _ in range(64):  # Halved so often, any interval is below a µs.
        middle = (low + high) / 2
        reached = middle + swing * (1 - np.cos(2 * math.pi * middle / period)) >= mean_s
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return high


def _steps(what: str, text: str, expected: _Floats) -> _Floats:
    """Return the instants (s) at which the expected number of arrivals reaches ``expected``."""
    rates: list[float] = []
    starts: list[float] = []
    for part in text.split(";"):
        rate, at, start = part.partition("@")
        if not at:
            raise ConfigError(f"{what}: {show(part)} found, the rule is written steps:RATE@T;RATE@T, correct it")
        rates.append(float(_numbers(what, "steps:RATE", rate, zero="RATE")[0]))
        starts.append(float(_numbers(what, "steps:T", start, zero="T")[0]))
        if starts[-1] != 0 if len(starts) == 1 else starts[-1] <= starts[-2]:
            raise ConfigError(f"{what}: T {start} found, the first T is 0 and each T is above the last, correct it")
    if rates[-1] == 0:
        raise ConfigError(f"{what}: a last RATE of 0 found, it lasts until all have arrived, give one above 0")
    lengths = np.diff(starts)
    reached = np.concatenate(([0.0], np.cumsum(lengths * rates[:-1])))
    # The latest step that begins before: one without arrivals is passed over.
    step = np.maximum(np.searchsorted(reached, expected, side="left") - 1, 0)
    instants: _Floats = np.asarray(starts)[step] + (expected - reached[step]) / np.asarray(rates)[step]
    return instants


def _instants(what: str, gaps_s: _Floats) -> list[int]:
    # Summed before rounding: rounding every gap would shift the rate where gaps are a few µs.
    return _rounded(what, np.cumsum(gaps_s))


def _rounded(what: str, at_s: _Floats) -> list[int]:
    at = np.rint(at_s * 1e6)
    if at.size and not at[-1] <= MAX_US:
        raise ConfigError(
            f"{what}: an arrival at {at[-1]:.3g} µs found, instants end at {MAX_US} µs, choose a higher rate"
        )
    return [int(value) for value in at.tolist()]


_Delay = Callable[[float], int]


def _delay_rules(what: str, rule: str) -> tuple[dict[str, _Delay], _Delay | None]:
    """Return the rule of each named kind, and that of all other kinds (``None``: stay unknown)."""
    if "=" not in rule:
        return {}, _delay_rule(what, rule.strip())
    by_kind: dict[str, _Delay] = {}
    for part in rule.split(";"):
        kind, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals or not kind:
            raise ConfigError(f"{what}: {show(part)} found, a part is KIND=RULE, correct it")
        if kind in by_kind:
            raise ConfigError(f"{what}: kind {show(kind)} found twice, a kind has one rule, drop one")
        by_kind[kind] = _delay_rule(what, text)
    otherwise = by_kind.pop("*", None)
    return by_kind, otherwise


def _delay_rule(what: str, text: str) -> _Delay:
    name, _, numbers = text.partition(":")
    if text == "zero":
        return lambda _: 0
    if name == "fixed":
        return _Fixed(_us(what, _numbers(what, "fixed:S", numbers, zero="S")[0]))
    if name == "lognormal":
        median, sigma = _numbers(what, "lognormal:MEDIAN_S,SIGMA", numbers, zero="SIGMA")
        return _Lognormal(what, float(median), float(sigma))
    raise _unknown_rule(what, text, DELAY_RULES)


@dataclass(frozen=True, slots=True)
class _Fixed:
    us: int

    def __call__(self, normal: float) -> int:
        return self.us


@dataclass(frozen=True, slots=True)
class _Lognormal:
    what: str
    median_s: float
    sigma: float

    def __call__(self, normal: float) -> int:
        exponent = self.sigma * normal
        us = self.median_s * math.exp(exponent) * 1e6 if exponent < 700 else math.inf
        if us > MAX_US:
            raise ConfigError(f"{self.what}: a delay of {us:.3g} µs drawn, delays end at {MAX_US} µs, choose less")
        return round(us)
