"""What the four formulations share when they solve: the clock, the hint, the two stages, and what is claimed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Protocol

from hexopt.core.window import Window, WindowPlan
from hexopt.formulations.earliest import earliest_times
from hexopt.formulations.milp.backends import NODES_PER_UNIT, Answer, Limits, make_backend
from hexopt.formulations.milp.frame import Frame
from hexopt.formulations.milp.linear import LinearModel, OutOfTime
from hexopt.formulations.milp.relaxation import Relaxation, Schedule
from hexopt.formulations.objective import Objective
from hexopt.formulations.pressure import pressure
from hexopt.formulations.protocol import Budget, Incumbents, SolveResult, Status, StopReason, claim, is_proved
from hexopt.formulations.single_call import single_call_bound
from hexopt.formulations.window_bound import hopeless


class Order(Protocol):
    """The part of a model that says in which order prefill instances serve their calls."""

    def orders(self, values: Sequence[float]) -> list[list[int]]:
        """Return orders of the open calls by a solution, each worth a plan."""

    def start_from(self, schedule: Schedule) -> None:
        """Set the columns of this part to a schedule."""


class Attempt:
    """One call of ``solve``: what is left of the budget, and what is known so far."""

    def __init__(self, formulation: Milp, window: Window, objective: Objective, budget: Budget) -> None:
        self.begin = time.perf_counter()
        self.formulation, self.window, self.objective, self.budget = formulation, window, objective, budget
        self.deadline = math.inf if budget.time_limit_s is None else self.begin + budget.time_limit_s
        self.best = Incumbents(window, objective)
        self.bound: float = single_call_bound(window, objective)
        self.infeasible = False
        self.stop = StopReason.NOT_STARTED
        self.build_s = self.solve_s = 0.0
        self.trajectory: list[tuple[float, float]] = []
        self.variables = self.constraints = 0
        self.model_objective: float | None = None
        self.reached = math.inf
        self.notes: list[str] = []
        self.runs = 0
        self.proved_s: float | None = None
        """When the objective proper was proved, before ties."""

    @property
    def left_s(self) -> float | None:
        """Return the seconds that are left; ``None`` without a limit."""
        return None if self.deadline == math.inf else self.deadline - time.perf_counter()

    def run(self, model: LinearModel) -> Answer | None:
        """Give a model to the solver; ``None`` if there is no time left."""
        left = self.left_s
        # What follows the solver (reading the solution, judging plans) takes a little too.
        seconds = None if left is None else left * 0.98 - 0.001
        if seconds is not None and seconds <= 0:
            return None
        units = self.budget.deterministic
        nodes = None if units is None else max(1, round(units * NODES_PER_UNIT))
        begin = time.perf_counter()
        try:
            answer = self.formulation.backend.solve(
                model, Limits(seconds, nodes, self.budget.threads, self.budget.seed)
            )
        except OutOfTime:
            return None
        finally:
            self.solve_s += time.perf_counter() - begin
            self.runs += 1
            self.variables = max(self.variables, len(model.lower))
            self.constraints = max(self.constraints, len(model.rows))
        if answer.note and answer.note not in self.notes:
            self.notes.append(answer.note)
        since = begin - self.begin
        return answer._replace(incumbents=tuple((since + s, value) for s, value in answer.incumbents))

    def result(self) -> SolveResult:
        """Return what can be claimed."""
        if self.infeasible and not hopeless(self.window, earliest_times(self.window)):
            # Only the caps can leave a model without a solution, and whether they do is told without doubles.
            self.infeasible, self.stop = False, StopReason.ERROR
            self.notes.append(f"{self.formulation.solver} says that there is no plan, which is not so")
        best = self.best
        status, bound, contradiction = claim(best.value, self.bound, self.window, self.objective)
        if self.infeasible:
            status, bound = Status.INFEASIBLE, None
        elif contradiction:
            self.stop = StopReason.ERROR
            self.notes.append(contradiction)
        limit, took = self.budget.time_limit_s, time.perf_counter() - self.begin
        if limit is not None and took > limit * 1.02 + 0.002:
            self.notes.append(f"the time limit was overrun by {took - limit:.3f} s")
        return SolveResult(
            self.formulation.name,
            self.objective,
            status,
            self.stop,
            plan=best.plan,
            value=best.value,
            model_objective=self.model_objective,
            bound=bound,
            build_s=self.build_s,
            solve_s=self.solve_s,
            trajectory=tuple(self.trajectory),
            variables=self.variables,
            constraints=self.constraints,
            note="; ".join(self.notes),
            solver=self.formulation.solver,
            # A hint at the single-call bound is proved before anything is built or solved, but not in no time.
            facts={
                "solver_runs": self.runs,
                "pressure": pressure(self.window)._asdict(),
                "proved_s": took if self.proved_s is None else self.proved_s,
            },
        )


class Milp:
    """A mixed-integer linear formulation.

    Parameters
    ----------
    solver
        ``"cbc"`` or ``"highs"`` (through PuLP), ``"ortools-scip"`` or ``"ortools-highs"`` (through OR-Tools).
    ties
        Whether time that is left after the objective proper is used to lower the sum of ratios among its best plans.
    """

    name: ClassVar[str]

    def __init__(self, solver: str = "highs", ties: bool = True) -> None:
        self.solver = solver
        self.ties = ties
        self.backend = make_backend(solver, self.name)

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        """Solve a window; see :class:`hexopt.formulations.Formulation`."""
        attempt = Attempt(self, window, objective, budget)
        if budget.iterations is not None:
            attempt.notes.append("iterations are no measure of a solver and were ignored")
        if budget.deterministic is not None:
            attempt.notes.append("deterministic units bound nodes, not the work at the root")
        if hint is not None and not self.backend.takes_start:
            attempt.notes.append(f"{self.solver} was not started from the hint")
        attempt.best.offer(hint)
        if not window.calls:
            attempt.best.offer(())
            attempt.stop = StopReason.PROVED
            return attempt.result()
        refused = self._cannot_state(window, objective) or _too_long(self.name, window)
        if refused:
            return replace(attempt.result(), status=Status.MODEL_INVALID, note=refused)
        try:
            self._solve(attempt, hint)
        except OutOfTime:
            attempt.notes.append("building the model took all the time")
        return attempt.result()

    def _cannot_state(self, window: Window, objective: Objective) -> str:
        """Return why the formulation cannot state this objective; empty if it can."""
        return ""

    def _order(self, frame: Frame) -> Order:
        """Add the columns and rows of the order: what a formulation states, unless it replaces :meth:`_solve`."""
        raise NotImplementedError

    def _solve(self, attempt: Attempt, hint: WindowPlan | None) -> None:
        relaxation = Relaxation(attempt.window, attempt.objective)
        known = [s for s in (relaxation.of_plan(hint), relaxation.list_schedule()) if s is not None]
        first = min(known, key=relaxation.value, default=None)
        most = None if first is None else relaxation.value(first)
        if most is not None:
            relaxation.cut_off(most)
        model = LinearModel(attempt.deadline)
        frame = Frame(relaxation, model, most)
        order = self._order(frame)
        if hint is not None and first is not None:
            frame.start_from(first)
            order.start_from(first)
            if attempt.best.plan is not None and known[0] is not first and self.backend.takes_start:
                attempt.notes.append("the solver was started from a list schedule, which is better than the hint")
        attempt.build_s = time.perf_counter() - attempt.begin
        self._first_stage(attempt, frame, order)
        if is_proved(attempt.best.value, attempt.bound, attempt.window, attempt.objective):
            attempt.proved_s = time.perf_counter() - attempt.begin
        if self.ties and attempt.objective.kind != "sum" and attempt.model_objective is not None:
            self._second_stage(attempt, frame, order)

    def _first_stage(self, attempt: Attempt, frame: Frame, order: Order) -> None:
        """Minimise the objective proper."""
        frame.model.minimise(frame.primary)
        answer = attempt.run(frame.model)
        if answer is None:
            return
        attempt.stop = answer.stop_reason
        if answer.infeasible:
            # What is left out only forbids more; and cutting off leaves the schedule it is made from.
            attempt.infeasible = attempt.best.value is None
            return
        if answer.bound is not None:
            attempt.bound = max(attempt.bound, _proved_bound(answer.bound, frame))
        if answer.values is not None and answer.objective is not None:
            attempt.model_objective = answer.objective / frame.scale
            attempt.trajectory += [(s, value / frame.scale) for s, value in answer.incumbents]
            attempt.reached = _offer(attempt, frame, order, answer.values)
            frame.model.start = dict(enumerate(answer.values))

    def _second_stage(self, attempt: Attempt, frame: Frame, order: Order) -> None:
        """Minimise the sum of ratios among what is as good; without an effect on the bound."""
        assert attempt.model_objective is not None
        # What the solution really comes to, without what tolerances hide: the model has to hold it.
        most = max(attempt.model_objective, attempt.reached) * frame.scale
        frame.model.add(frame.primary, upper=most + (0.5 if attempt.objective.kind == "late" else 1e-6))
        frame.model.minimise(frame.total)
        answer = attempt.run(frame.model)
        if answer is None:
            attempt.notes.append("no time was left for ties")
        elif answer.values is not None:
            _offer(attempt, frame, order, answer.values)
        if answer is None or answer.stop_reason is not StopReason.PROVED:
            attempt.notes.append("the sum of ratios among the best is not proved")


LARGEST_US = 2**36
"""19 hours. Where times may add up to more, a ms is too near the last digit of doubles, and solvers prove what is not
true: that a window has no plan, for one."""


def _too_long(name: str, window: Window) -> str:
    """Return why a window's times are beyond a solver in doubles; empty if they are not."""
    last = [0]
    for p in window.prefill:
        last += [p.free_us, p.nic_free_us]
    last += [d.nic_free_us for d in window.decode]
    last += [w.elapsed_us + (w.floor_us or 0) for w in window.workflows]
    work = window.options.latency_us
    for call in window.calls:
        last.append(call.available_us or 0)
        work += max(us or 0 for us in call.prefill_us) + call.tail_us
        work += max(map(max, call.wire_us)) + max(us or 0 for us in call.decode_us)
    longest = max(max(last) + work, *(w.horizon_us for w in window.workflows))
    if longest <= LARGEST_US:
        return ""
    return f"{name}: window '{window.name}' may last {longest} µs, at most {LARGEST_US} are stated, take another"


def _offer(attempt: Attempt, frame: Frame, order: Order, values: Sequence[float]) -> float:
    """Offer the plans of a solution; return the least objective of their schedules without what is left out."""
    relaxation = frame.relaxation
    prefill, decode = frame.pairs(values)
    schedules = [relaxation.play(prefill, decode, sequence) for sequence in order.orders(values)]
    for schedule in schedules:
        attempt.best.offer(relaxation.plan(schedule))
    return min(map(relaxation.value, schedules))


def _proved_bound(bound: float, frame: Frame) -> float:
    """Return what a solver's bound proves, in units of the objective."""
    safe = bound - frame.model.proof_error(bound)
    if frame.relaxation.objective.kind == "late":
        return float(max(0, math.ceil(safe)))  # a number of workflows
    return safe / frame.scale
