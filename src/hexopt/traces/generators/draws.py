"""Distributions written as short texts, such as ``lognormal:126,0.95``, for parameters of generators.

A sum of weighted parts is a mixture: ``0.6*lognormal:0.06,0.2+0.4*lognormal:0.3,1.2``. Every draw takes its numbers
from the given generator alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np

from hexopt.core.workflow import MAX_US
from hexopt.errors import ConfigError, suggest
from hexopt.traces.schema import show

Rng = np.random.Generator

FORMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "beta:A,B": "Beta distribution on 0..1",
        "constant:X": "always X; a bare number means the same, and zero means constant:0",
        "gamma:K,THETA": "Gamma distribution of shape K and scale THETA, so of mean K x THETA",
        "lognormal:M,SIGMA": "M x exp(SIGMA x standard normal): M is the median",
        "skewed:M,LOW,HIGH": "M x exp(s x standard normal), s = LOW below the median M and HIGH above it",
        "uniform:LOW,HIGH": "a whole number from LOW to HIGH, each as likely",
        "WEIGHT*FORM+WEIGHT*FORM": "one of the forms, chosen with a probability in proportion to its weight",
    }
)
"""What a distribution may be, and what it means."""


class Dist(Protocol):
    """A distribution: ``draw`` one value; ``str`` gives the text that :func:`parse_dist` reads."""

    def draw(self, rng: Rng) -> float:
        """Return one value."""


@dataclass(frozen=True, slots=True)
class Constant:
    """``constant:X``."""

    value: float

    def draw(self, rng: Rng) -> float:
        """Return the value."""
        return self.value

    def __str__(self) -> str:
        return f"constant:{self.value:g}"


@dataclass(frozen=True, slots=True)
class Lognormal:
    """``lognormal:M,SIGMA``."""

    median: float
    sigma: float

    def draw(self, rng: Rng) -> float:
        """Return one value."""
        return _times_exp(self.median, self.sigma * float(rng.standard_normal()))

    def __str__(self) -> str:
        return f"lognormal:{self.median:g},{self.sigma:g}"


@dataclass(frozen=True, slots=True)
class Skewed:
    """``skewed:M,LOW,HIGH``: two half lognormals that meet at the median."""

    median: float
    low: float
    high: float

    def draw(self, rng: Rng) -> float:
        """Return one value."""
        normal = float(rng.standard_normal())
        return _times_exp(self.median, (self.low if normal < 0 else self.high) * normal)

    def __str__(self) -> str:
        return f"skewed:{self.median:g},{self.low:g},{self.high:g}"


@dataclass(frozen=True, slots=True)
class Gamma:
    """``gamma:K,THETA``."""

    shape: float
    scale: float

    def draw(self, rng: Rng) -> float:
        """Return one value."""
        return float(rng.standard_gamma(self.shape)) * self.scale

    def __str__(self) -> str:
        return f"gamma:{self.shape:g},{self.scale:g}"


@dataclass(frozen=True, slots=True)
class Beta:
    """``beta:A,B``."""

    a: float
    b: float

    def draw(self, rng: Rng) -> float:
        """Return one value."""
        return float(rng.beta(self.a, self.b))

    def __str__(self) -> str:
        return f"beta:{self.a:g},{self.b:g}"


@dataclass(frozen=True, slots=True)
class Uniform:
    """``uniform:LOW,HIGH``, whole numbers."""

    low: int
    high: int

    def draw(self, rng: Rng) -> float:
        """Return one value."""
        return float(rng.integers(self.low, self.high, endpoint=True))

    def __str__(self) -> str:
        return f"uniform:{self.low},{self.high}"


@dataclass(frozen=True, slots=True)
class Mixture:
    """``WEIGHT*FORM+WEIGHT*FORM``."""

    weights: tuple[float, ...]
    parts: tuple[Dist, ...]

    def draw(self, rng: Rng) -> float:
        """Return one value."""
        at = float(rng.random()) * sum(self.weights)
        for weight, part in zip(self.weights, self.parts, strict=True):
            at -= weight
            if at < 0:
                return part.draw(rng)
        return self.parts[-1].draw(rng)

    def __str__(self) -> str:
        return "+".join(f"{w:g}*{p}" for w, p in zip(self.weights, self.parts, strict=True))


def parse_dist(what: str, text: str) -> Dist:
    """Return the distribution that a text describes.

    Raises
    ------
    ConfigError
        The text has none of the :data:`FORMS`; ``what`` is the subject of the message.

    Examples
    --------
    >>> str(parse_dist("user_gap", "0.5*zero+0.5*lognormal:126,0.95"))
    '0.5*constant:0+0.5*lognormal:126,0.95'
    """
    if "*" not in text:
        return _parse_part(what, text.strip())
    weights, parts = [], []
    for piece in text.replace("e+", "e").split("+"):
        weight, star, form = piece.partition("*")
        if not star:
            raise ConfigError(f"{what}: {show(piece)} found, a part of a mixture is WEIGHT*FORM, correct it")
        weights.append(_number(what, "WEIGHT", weight, above=True))
        parts.append(_parse_part(what, form.strip()))
    return Mixture(tuple(weights), tuple(parts))


LONGEST: Final = 2**24
"""No length that is drawn exceeds this: a workflow's sums stay legal in a trace."""


def tokens(dist: Dist, rng: Rng, low: int = 1, high: int = LONGEST) -> int:
    """Return one drawn length, rounded, within ``low`` and ``high``."""
    return round(min(max(dist.draw(rng), low), high))


def delay_us(dist: Dist, rng: Rng) -> int:
    """Return one drawn delay: the distribution is in seconds, the result in whole µs.

    A day is the longest: a lognormal tail beyond that is nobody who is still waiting.
    """
    return round(min(max(dist.draw(rng), 0.0), MAX_DELAY_S) * 1e6)


MAX_DELAY_S: Final = 86_400.0
assert MAX_DELAY_S * 1e6 < MAX_US


def _times_exp(median: float, exponent: float) -> float:
    return median * math.exp(min(exponent, 500.0))


def _parse_part(what: str, text: str) -> Dist:
    if text == "zero":
        return Constant(0.0)
    name, colon, numbers = text.partition(":")
    if not colon and _is_number(text):
        name, numbers = "constant", text
    forms = {form.partition(":")[0]: form for form in FORMS if "*" not in form}
    if name not in forms:
        raise ConfigError(
            f"{what}: unknown distribution {show(name)} found, legal are {', '.join(FORMS)}, "
            f"{suggest(name, forms).partition('known: ')[0] or 'choose one'}"
        )
    slots = forms[name].partition(":")[2].split(",")
    pieces = numbers.split(",")
    if len(pieces) != len(slots):
        raise ConfigError(
            f"{what}: {show(numbers)} found after {name}, the distribution is written {forms[name]}, correct it"
        )
    spread = ("SIGMA", "LOW", "HIGH", "X")
    values = [_number(what, s, p, above=s not in spread) for s, p in zip(slots, pieces, strict=True)]
    if name == "uniform":
        low, high = values
        if low != int(low) or high != int(high) or high < low:
            raise ConfigError(f"{what}: {show(numbers)} found, LOW and HIGH are whole numbers in order, correct it")
        return Uniform(int(low), int(high))
    return _MAKE[name](*values)


_MAKE: Final[Mapping[str, Callable[..., Dist]]] = MappingProxyType(
    {"beta": Beta, "constant": Constant, "gamma": Gamma, "lognormal": Lognormal, "skewed": Skewed}
)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(what: str, name: str, text: str, *, above: bool) -> float:
    if not _is_number(text):
        raise ConfigError(f"{what}: {name} {show(text.strip())} found, {name} is a decimal number, correct it")
    value = float(text)
    if not (0 <= value <= 1e12) or (above and value == 0):
        least = "above 0" if above else "from 0"
        raise ConfigError(f"{what}: {name} {text.strip()} found, {name} is a number {least} to 1e12, correct it")
    return value
