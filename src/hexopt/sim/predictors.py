"""Output-length predictors. They alone may look at the truth on a policy's behalf, and their name says so."""

from __future__ import annotations

import math

import numpy as np

from hexopt.core.protocols import Predictor
from hexopt.core.workflow import MAX_TOKENS, Trace
from hexopt.errors import ConfigError, suggest

PREDICTORS = {
    "app-mean": "mean output of the application's completed calls; before the first, a prior (app-mean:PRIOR, 256)",
    "constant:N": "always N tokens",
    "noisy:SIGMA": "the truth times a lognormal error, exp(SIGMA·z), one z per call",
    "oracle": "the truth",
}
"""Rules that :func:`make_predictor` understands, and what they do."""


class Oracle:
    """Knows the truth."""

    name = "oracle"

    def reset(self, trace: Trace, rng: np.random.Generator) -> None:
        """Take the truth of ``trace``."""
        self._trace = trace

    def predict(self, workflow: int, call: int) -> int:
        """Return the true output length."""
        return self._trace.workflows[workflow].calls[call].output_tokens

    def observe(self, workflow: int, call: int) -> None:
        """Learn nothing."""


class Constant:
    """Says the same for every call."""

    def __init__(self, tokens: int) -> None:
        self.name = f"constant:{tokens}"
        self._tokens = tokens

    def reset(self, trace: Trace, rng: np.random.Generator) -> None:
        """Nothing to forget."""

    def predict(self, workflow: int, call: int) -> int:
        """Return the constant."""
        return self._tokens

    def observe(self, workflow: int, call: int) -> None:
        """Learn nothing."""


class AppMean:
    """Mean output of the application's completed calls, rounded half up; ``prior`` tokens before the first."""

    def __init__(self, prior: int = 256) -> None:
        self.name = "app-mean" if prior == 256 else f"app-mean:{prior}"
        self._prior = prior
        self._seen: dict[str, tuple[int, int]] = {}

    def reset(self, trace: Trace, rng: np.random.Generator) -> None:
        """Forget what was observed."""
        self._trace = trace
        self._seen = {}

    def predict(self, workflow: int, call: int) -> int:
        """Return the application's mean so far."""
        seen = self._seen.get(self._trace.workflows[workflow].app)
        if seen is None:
            return self._prior
        tokens, calls = seen
        return max(1, (2 * tokens + calls) // (2 * calls))

    def observe(self, workflow: int, call: int) -> None:
        """Count a completed call."""
        truth = self._trace.workflows[workflow]
        tokens, calls = self._seen.get(truth.app, (0, 0))
        self._seen[truth.app] = (tokens + truth.calls[call].output_tokens, calls + 1)


class Noisy:
    """The truth times ``exp(sigma·z)``, at least 1; ``z`` is drawn per call of the trace, so no policy moves it."""

    def __init__(self, sigma: float) -> None:
        self.name = f"noisy:{sigma!r}"
        self._sigma = sigma

    def reset(self, trace: Trace, rng: np.random.Generator) -> None:
        """Draw every call's error."""
        self._trace = trace
        # math.exp, not numpy's: its last bit must not depend on the processor's vector unit.
        self._errors = [math.exp(self._sigma * z) for z in rng.standard_normal(trace.call_count).tolist()]
        self._first_row: list[int] = np.cumsum([0] + [len(w.calls) for w in trace.workflows]).tolist()

    def predict(self, workflow: int, call: int) -> int:
        """Return the true length with its error."""
        truth = self._trace.workflows[workflow].calls[call].output_tokens
        return min(MAX_TOKENS, max(1, round(truth * self._errors[self._first_row[workflow] + call])))

    def observe(self, workflow: int, call: int) -> None:
        """Learn nothing."""


def make_predictor(text: str) -> Predictor:
    """Build a predictor from its rule, one of :data:`PREDICTORS`.

    Raises
    ------
    ConfigError
        The rule is unknown or its number is out of range.

    >>> make_predictor("constant:64").name
    'constant:64'
    """
    name, _, argument = text.partition(":")
    if name == "oracle" and not argument:
        return Oracle()
    if name == "app-mean":
        return AppMean(_whole(text, argument)) if argument else AppMean()
    if name == "constant":
        return Constant(_whole(text, argument))
    if name == "noisy":
        try:
            sigma = float(argument)
        except ValueError:
            sigma = math.nan
        if not 0 <= sigma <= 10:
            raise ConfigError(f"predictor '{text}': SIGMA is no number in 0..10, e.g. noisy:0.3, correct it")
        return Noisy(sigma)
    raise ConfigError(f"predictor '{text}': it is unknown, {suggest(text, PREDICTORS)}, choose one")


def _whole(text: str, argument: str) -> int:
    if not (argument.isascii() and argument.isdigit()) or not 1 <= int(argument[:20]) <= MAX_TOKENS:
        raise ConfigError(
            f"predictor '{text}': N is a whole number of tokens of at least 1, e.g. constant:256, correct it"
        )
    return int(argument)
