"""What a formulation is, what it may spend, and what it answers with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from hexopt.core.window import Window, WindowPlan
from hexopt.errors import WindowError
from hexopt.formulations.checker import Verdict, check
from hexopt.formulations.objective import Objective, Value

TOLERANCE = 1e-9
"""Two values of an objective, both of plans, count as equal within this share of the larger (they are computed in
doubles). Whether a bound proves a value is another question: :func:`is_proved`."""


class Status(StrEnum):
    """What is known about the window when a formulation returns; it concerns the objective proper, not ties."""

    OPTIMAL = "optimal"
    """The plan's checked value is proved to be the least, as :func:`is_proved` says."""
    FEASIBLE = "feasible"
    """There is a plan; nothing says that it is the best."""
    INFEASIBLE = "infeasible"
    """It is proved that no plan keeps the rules."""
    NO_INCUMBENT = "no-incumbent"
    """Nothing was found and nothing proved."""
    MODEL_INVALID = "model-invalid"
    """The solver refused the model, or the formulation cannot state this window or objective; ``note`` says which."""


class StopReason(StrEnum):
    """Why the solver stopped."""

    PROVED = "proved"
    TIME_LIMIT = "time-limit"
    WORK_LIMIT = "work-limit"
    """Of iterations or deterministic time."""
    COMPLETE = "complete"
    """A heuristic had nothing left to try."""
    NOT_STARTED = "not-started"
    """Nothing was to be done, or building the model used up the time."""
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a formulation may spend. Without any limit it runs until it is done.

    Parameters
    ----------
    time_limit_s
        Wall-clock time from the call of ``solve``, model building included.
    deterministic
        The solver's own deterministic units; with them alone the answer does not depend on the machine. How much a unit
        is differs between solvers; one that has none ignores it and says so in ``note``.
    iterations
        Iterations of a local search.
    threads
        Worker threads of the solver.
    seed
        Of the solver's random choices.
    """

    time_limit_s: float | None = None
    deterministic: float | None = None
    iterations: int | None = None
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("time_limit_s", "deterministic", "iterations"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise WindowError(f"budget: {name} is {value!r}, it is above 0 (or None for no limit), correct it")
        if self.threads < 1 or self.seed < 0:
            raise WindowError(f"budget: threads {self.threads}, seed {self.seed}, at least 1 and 0, correct it")


@dataclass(frozen=True, slots=True)
class SolveResult:
    """The answer of a formulation.

    ``value`` is the **checker's** word on ``plan``; both are ``None`` without a plan. ``model_objective`` is what the
    model itself said of its best solution, in the units of the objective. ``bound`` is a proved lower bound on the
    objective over **all** plans of the window under the checker's rules, ``None`` if nothing is proved: a formulation
    that relaxes rules has a bound all the same, one that restricts plans or rounds times up has none.
    A bound above the value of the plan is a defect of a solver or a model; it is reported as it is, with a note, and
    the stop reason is ``error``.
    ``trajectory`` lists (seconds since ``solve`` was called, model objective) of each incumbent.
    """

    formulation: str
    objective: Objective
    status: Status
    stop_reason: StopReason
    plan: WindowPlan | None = None
    value: Value | None = None
    model_objective: float | None = None
    bound: float | None = None
    build_s: float = 0.0
    solve_s: float = 0.0
    trajectory: tuple[tuple[float, float], ...] = ()
    variables: int = 0
    constraints: int = 0
    note: str = ""
    solver: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """Whatever else the formulation has to say, in plain values."""

    @property
    def gap(self) -> float | None:
        """Return (value − bound) / the larger of the two, ``None`` if one of them is unknown; 0 where both are 0.

        It is negative where the plan contradicts the bound, and ``note`` says so.
        """
        if self.value is None or self.bound is None:
            return None
        top = max(self.value.objective, self.bound)
        return (self.value.objective - self.bound) / top if top > 0 else 0.0

    @property
    def proved_s(self) -> float | None:
        """Return when the plan was proved optimal, seconds after ``solve`` was called; ``None`` if it is not.

        What follows (lowering the sum of ratios among the best plans) takes what is left of the budget, and does not
        count. It is the formulation's ``facts["proved_s"]``, and the whole time where it says nothing.
        """
        if self.status is not Status.OPTIMAL:
            return None
        return float(self.facts.get("proved_s", self.build_s + self.solve_s))

    @property
    def first_incumbent_s(self) -> float | None:
        """Return when the first incumbent was there, seconds after ``solve`` was called."""
        return self.trajectory[0][0] if self.trajectory else None


@runtime_checkable
class Formulation(Protocol):
    """A way to solve windows. It never changes the window, prints nothing, and keeps its budget."""

    name: ClassVar[str]

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        """Find a plan, starting from ``hint`` if one is given; never return a plan worse than a feasible hint."""


class Incumbents:
    """The best of several plans, by the checker's word alone."""

    def __init__(self, window: Window, objective: Objective) -> None:
        self._window = window
        self._objective = objective
        self.plan: WindowPlan | None = None
        self.value: Value | None = None
        self.verdict: Verdict | None = None

    def offer(self, plan: WindowPlan | None) -> Verdict | None:
        """Judge a plan and keep it if it is the best so far; return what the checker says of it."""
        if plan is None:
            return None
        verdict = check(self._window, plan, self._objective)
        if verdict.value is not None and (self.value is None or verdict.value < self.value):
            self.plan, self.value, self.verdict = plan, verdict.value, verdict
        return verdict


def resolution(window: Window, objective: Objective) -> float:
    """Return the difference of objectives that is not told apart.

    Ends are whole µs. Let a workflow end one µs sooner, and its ratio falls by 1 / ``horizon_us``, at least 1 / the
    longest horizon: half of that is below what one end can change. (A plan in which one workflow ends sooner and
    another later can be better by less.) ``late`` is a whole number: half of one.
    """
    if objective.kind == "late":
        return 0.5
    return 0.5 / max((w.horizon_us for w in window.workflows), default=1)


def is_proved(value: Value | None, bound: float | None, window: Window, objective: Objective) -> bool:
    """Say whether a lower bound proves that a plan's value is the least, within half a µs of the longest horizon.

    A bound that is above the value by more than that proves nothing: one of the two is wrong. So is any bound above the
    value of ``late``, where there is nothing to round.
    """
    if value is None or bound is None:
        return False
    most = resolution(window, objective)
    return -(0.0 if objective.kind == "late" else most) <= value.objective - bound <= most


class Claim(NamedTuple):
    """What may be said of a value and a bound. Where they contradict each other the stop reason is an error."""

    status: Status
    bound: float | None
    note: str
    """Empty, or that the value contradicts the bound."""


def claim(value: Value | None, bound: float | None, window: Window, objective: Objective) -> Claim:
    """Return the status of a plan by its checked value and a bound, and the bound to report.

    A bound above the value by less than :func:`resolution` is reported as the value: sums of doubles are rounded. One
    above it by more stays as it is, the plan is only ``feasible``, and the note says so.
    """
    if value is None:
        return Claim(Status.NO_INCUMBENT, bound, "")
    if bound is None:
        return Claim(Status.FEASIBLE, None, "")
    if is_proved(value, bound, window, objective):
        return Claim(Status.OPTIMAL, min(bound, value.objective), "")
    if bound < value.objective:
        return Claim(Status.FEASIBLE, bound, "")
    told = f"the bound {bound!r} is above {value.objective!r}, which the checker says of a plan: "
    return Claim(Status.FEASIBLE, bound, told + "the solver or the model is wrong, nothing is proved")


BuildFormulation = Callable[..., Formulation]
