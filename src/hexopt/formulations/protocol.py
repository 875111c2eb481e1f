"""What a formulation is, what it may spend, and what it answers with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol, runtime_checkable

from hexopt.core.window import Window, WindowPlan
from hexopt.errors import WindowError
from hexopt.formulations.checker import Verdict, check
from hexopt.formulations.objective import Objective, Value

TOLERANCE = 1e-9
"""Two values of an objective count as equal within this share of the larger (they are computed in doubles)."""


class Status(StrEnum):
    """What is known about the window when a formulation returns; it concerns the objective proper, not ties."""

    OPTIMAL = "optimal"
    """The plan's checked value equals a proved bound."""
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
        """Return (value − bound) / value, ``None`` if one of them is unknown; 0 where both are 0."""
        if self.value is None or self.bound is None:
            return None
        top = self.value.objective
        return max(0.0, (top - self.bound) / top) if top > 0 else 0.0

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


def is_proved(value: Value | None, bound: float | None) -> bool:
    """Say whether a plan's value equals a proved bound."""
    return value is not None and bound is not None and value.objective <= bound + TOLERANCE * max(1.0, abs(bound))


BuildFormulation = Callable[..., Formulation]
