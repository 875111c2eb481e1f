"""Forecasts of what follows in a workflow: who makes them, by name, and how policies use them."""

from __future__ import annotations

from hexopt.core.protocols import Forecaster
from hexopt.errors import ConfigError, suggest

FORECASTERS = {
    "none": "what is revealed is all there is",
    "oracle": "the truth; simulations only",
    "noisy:SIGMA": "the truth times a lognormal error, exp(SIGMA·z), one z per call; simulations only",
    "app-residual": "what followed the application's calls, wherever they stood, learnt from workflows that ended",
    "learned": "what followed calls like this one, learnt from workflows that ended; learned:FILE: also from a trace",
}
"""Forecasters that a policy's option can name, and what they do."""

KNOWING = ("oracle", "noisy")
"""Those that need the truth: :func:`hexopt.simulate` hands them in."""


def make_forecaster(text: str) -> Forecaster | None:
    """Build a forecaster from its name; ``None`` for ``"none"``.

    Raises
    ------
    ConfigError
        The name is unknown, or the forecaster needs the truth.
    """
    check_forecaster(text)
    if text == "none":
        return None
    if text.partition(":")[0] in KNOWING:
        raise ConfigError(
            f"forecaster '{text}': it knows the truth, only hexopt.simulate can hand it in, name another forecaster"
        )
    if text == "app-residual":
        from hexopt.policies.forecast.residual import AppResidual

        return AppResidual()
    if text == "learned":
        from hexopt.policies.forecast.learned import Learned

        return Learned()
    raise ConfigError(
        f"forecaster '{text}': policies read no files, only hexopt.simulate can hand it in, use learned alone"
    )


def check_forecaster(text: str) -> None:
    """Raise :class:`~hexopt.errors.ConfigError` unless the text names a forecaster."""
    name, _, argument = text.partition(":")
    known = {rule.partition(":")[0]: ":" in rule for rule in FORECASTERS}
    if name not in known:
        raise ConfigError(f"forecaster '{text}': it is unknown, {suggest(text, FORECASTERS)}, choose one")
    if name != "learned" and bool(argument) != known[name]:
        rule = next(rule for rule in FORECASTERS if rule.partition(":")[0] == name)
        raise ConfigError(f"forecaster '{text}': it is not understood, it is written {rule}, correct it")
    if name == "noisy":
        try:
            sigma = float(argument)
        except ValueError:
            sigma = -1.0
        if not 0 <= sigma <= 10:
            raise ConfigError(f"forecaster '{text}': SIGMA is no number in 0..10, e.g. noisy:0.3, correct it")
