"""What is to be minimised over the workflows of a window, by their ratios.

The ratio of workflow w is ``R_w = max(floor_w, max over its calls (elapsed_w + F_c + tail_c)) / horizon_w`` with F_c
the completion of call c; see ``formulations/README.md``, equation (1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple, get_args

from hexopt.core.window import Window
from hexopt.errors import WindowError, suggest

ObjectiveKind = Literal["bottleneck", "sum", "hinge", "late"]


class Value(NamedTuple):
    """The value of a plan, smaller is better: the objective proper, and the sum of all ratios to break ties."""

    objective: float
    total: float


@dataclass(frozen=True, slots=True)
class Objective:
    """What to minimise.

    Parameters
    ----------
    kind
        ``"bottleneck"``: the largest ratio. ``"sum"``: the sum of ratios. ``"hinge"``: the sum of what exceeds
        ``slo_scale`` (in ratios). ``"late"``: the number of workflows above ``slo_scale``. Ties go to the smaller sum.
    slo_scale
        The SLO scale α of ``"hinge"`` and ``"late"``.
    give_up
        The share of the window's workflows, rounded down, that ``"hinge"`` may leave out of its sum: with 0.01 it aims
        at Req99.
    """

    kind: ObjectiveKind = "bottleneck"
    slo_scale: float | None = None
    give_up: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(ObjectiveKind):
            raise WindowError(f"objective '{self.kind}': it is unknown, {suggest(self.kind, get_args(ObjectiveKind))}")
        if (self.slo_scale is not None) != (self.kind in ("hinge", "late")):
            rule = "hinge and late need one, the others have none"
            raise WindowError(f"objective '{self.kind}': slo_scale is {self.slo_scale}, {rule}, correct it")
        if self.slo_scale is not None and not (0 < self.slo_scale < math.inf):
            raise WindowError(f"objective '{self.kind}': slo_scale is {self.slo_scale}, it is above 0, correct it")
        if not 0 <= self.give_up < 1 or (self.give_up and self.kind != "hinge"):
            raise WindowError(
                f"objective '{self.kind}': give_up is {self.give_up}, 0, or up to 1 with hinge, correct it"
            )

    def given_up(self, workflows: int) -> int:
        """Return how many of so many workflows may be given up."""
        return math.floor(Fraction(str(self.give_up)) * workflows)

    def latest_us(self, window: Window) -> list[int]:
        """Return, for each workflow, the latest end (µs after its arrival) that is within ``slo_scale``.

        Rounded down to whole µs, which excludes no whole µs that is within.
        """
        if self.slo_scale is None:
            raise WindowError(f"objective '{self.kind}': it has no slo_scale, choose hinge or late")
        alpha = Fraction(str(self.slo_scale))
        return [math.floor(alpha * w.horizon_us) for w in window.workflows]

    def value(self, window: Window, ends_us: Sequence[int]) -> Value:
        """Return the value of a plan under which workflow w is done ``ends_us[w]`` µs after its arrival."""
        horizons = [w.horizon_us for w in window.workflows]
        total = math.fsum(e / h for e, h in zip(ends_us, horizons, strict=True))
        if self.kind == "sum":
            return Value(total, total)
        if self.kind == "bottleneck":
            return Value(max((e / h for e, h in zip(ends_us, horizons, strict=True)), default=0.0), total)
        excess = [max(0, e - late) for e, late in zip(ends_us, self.latest_us(window), strict=True)]
        if self.kind == "late":
            return Value(float(sum(x > 0 for x in excess)), total)
        shares = sorted(x / h for x, h in zip(excess, horizons, strict=True))
        return Value(math.fsum(shares[: len(shares) - self.given_up(len(shares))]), total)


BOTTLENECK = Objective()
"""The objective that is meant where none is named."""


def parse_objective(text: str) -> Objective:
    """Return the objective that a text names: ``bottleneck``, ``sum``, ``hinge:ALPHA[,give_up=SHARE]``, ``late:ALPHA``.

    Raises
    ------
    WindowError
        The text names none.

    >>> parse_objective("hinge:3.5,give_up=0.01")
    Objective(kind='hinge', slo_scale=3.5, give_up=0.01)
    """
    kind, _, rest = text.partition(":")
    scale, _, share = rest.partition(",")
    key, _, given = share.partition("=")
    try:
        if share and key.strip() != "give_up":
            raise ValueError
        return Objective(kind.strip(), float(scale) if scale else None, float(given) if share else 0.0)  # type: ignore[arg-type]
    except ValueError:
        raise WindowError(
            f"objective '{text}': it is not understood, it is bottleneck, sum, hinge:ALPHA[,give_up=SHARE] or "
            "late:ALPHA, correct it"
        ) from None


def objective_text(objective: Objective) -> str:
    """Return the text that :func:`parse_objective` reads."""
    text = objective.kind if objective.slo_scale is None else f"{objective.kind}:{_number(objective.slo_scale)}"
    return f"{text},give_up={_number(objective.give_up)}" if objective.give_up else text


def _number(value: float) -> str:
    """Return the shortest text of a number that loses nothing: it is part of the key of best known values."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))
