"""Forecasts of what follows in a workflow: who makes them, by name, and how policies use them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from hexopt.core.protocols import Forecaster
from hexopt.core.workflow import Trace, Workflow
from hexopt.errors import ConfigError, suggest

if TYPE_CHECKING:
    from hexopt.policies.forecast.lessons import Learner

FORECASTERS = {
    "none": "what is revealed is all there is",
    "oracle": "the truth; simulations only",
    "noisy:SIGMA": "the truth times a lognormal error, exp(SIGMA·z), one z per call; simulations only",
    "app-residual": "what followed the application's calls, wherever they stood, learnt from workflows that ended",
    "learned": "what followed calls like this one, learnt from workflows that ended",
}
"""Forecasters that a policy's option can name, and what they do.

Those that learn can be told to learn from a trace file first: ``learned:FILE``.
"""

LEARNING = {
    "app-residual": "hexopt.policies.forecast.residual:AppResidual",
    "learned": "hexopt.policies.forecast.learned:Learned",
}
"""Those that learn."""

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
    name, _, argument = text.partition(":")
    if name in KNOWING:
        raise ConfigError(
            f"forecaster '{text}': it knows the truth, only hexopt.simulate can hand it in, name another forecaster"
        )
    if argument:
        raise ConfigError(
            f"forecaster '{text}': policies read no files, only hexopt.simulate can hand it in, name it without a file"
        )
    return make_learner(name)


def make_learner(name: str, training: Trace | None = None) -> Learner:
    """Build a forecaster that learns, from a training trace to begin with."""
    module, _, attribute = LEARNING[name].partition(":")
    return getattr(import_module(module), attribute)(training)  # type: ignore[no-any-return]


def training_file(text: str) -> str | None:
    """Return the trace file that a forecaster's name tells it to learn from, if it names one.

    >>> training_file("learned:past.jsonl"), training_file("learned"), training_file("noisy:0.3")
    ('past.jsonl', None, None)
    """
    name, _, argument = text.partition(":")
    return argument if argument and name in LEARNING else None


def check_training(training: Trace, tested: Trace) -> None:
    """Refuse to learn from workflows that are to be forecast: those of one name, with the same calls.

    Delays do not count, which rules fill in. Traces that were generated from two seeds share names, but not calls.

    Raises
    ------
    ConfigError
        A workflow is in both traces.
    """
    past = {_identity(workflow) for workflow in training.workflows}
    both = [workflow.workflow_id for workflow in tested.workflows if _identity(workflow) in past]
    if both:
        raise ConfigError(
            f"forecaster: {len(both)} of {len(tested)} workflows, '{both[0]}' first, are in the training trace "
            f"'{training.name}' too, who learns from them knows what it forecasts, train on other workflows"
        )


def _identity(workflow: Workflow) -> tuple[object, ...]:
    return workflow.workflow_id, *((c.parents, c.prompt_tokens, c.output_tokens) for c in workflow.calls)


def check_forecaster(text: str) -> None:
    """Raise :class:`~hexopt.errors.ConfigError` unless the text names a forecaster."""
    name, _, argument = text.partition(":")
    known = {rule.partition(":")[0]: ":" in rule for rule in FORECASTERS}
    if name not in known:
        raise ConfigError(f"forecaster '{text}': it is unknown, {suggest(text, FORECASTERS)}, choose one")
    if name not in LEARNING and bool(argument) != known[name]:
        rule = next(rule for rule in FORECASTERS if rule.partition(":")[0] == name)
        raise ConfigError(f"forecaster '{text}': it is not understood, it is written {rule}, correct it")
    if name == "noisy":
        try:
            sigma = float(argument)
        except ValueError:
            sigma = -1.0
        if not 0 <= sigma <= 10:
            raise ConfigError(f"forecaster '{text}': SIGMA is no number in 0..10, e.g. noisy:0.3, correct it")
