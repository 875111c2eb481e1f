"""Solving a window with CP-SAT: the formulation ``cpsat``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from typing import Any, ClassVar

from ortools.sat.python import cp_model

from hexopt.core.window import Window, WindowPlan
from hexopt.errors import ConfigError
from hexopt.formulations.cpsat.model import Rules, WindowModel, latest_end_us
from hexopt.formulations.cpsat.objectives import Scaled, state
from hexopt.formulations.earliest import EarliestTimes, earliest_times
from hexopt.formulations.greedy import greedy_plan
from hexopt.formulations.objective import Objective
from hexopt.formulations.protocol import Budget, Incumbents, SolveResult, Status, StopReason, claim, is_proved
from hexopt.formulations.window_bound import (
    hopeless,
    largest_ratio,
    limits_at,
    refuted,
    refuted_bound,
    strict_limits,
    window_bound,
)

_LARGEST_TIME = 2**48
"""Windows that may last longer (µs) are not stated: the solver's sums must stay far below 2**63."""
_MOST_BLOCKS = 2**62
"""Likewise of blocks."""
_FIRST_STEP = 0.03
"""Deterministic time of the first attempts at a target; it doubles with each round."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: Any
    bound: float
    found: list[int] | None
    """Ends of the workflows in the solver's best solution."""


class CpSat:
    """The constraint model of a window, solved with OR-Tools CP-SAT.

    ``formulations/cpsat/model.md`` has the equations, the proofs of what is relaxed, and measurements of each option.

    Parameters
    ----------
    hint
        Hint every variable from the best known plan. Without a feasible hint of the caller's the greedy plan is taken;
        ``False`` ignores both (a caller's hint is still returned if nothing better is found).
    search
        How the bottleneck is minimised. ``"targets"``: a series of yes-or-no models "is every ratio at most t", by
        bisection, each with domains cut to its target. ``"objective"``: one model with the ratio as its objective.
    ties
        After the objective proper is proved, lower the sum of ratios with what is left of the budget.
    tighten
        Cut domains by what must be beaten, start from :func:`hexopt.formulations.window_bound.window_bound`, and stop
        where they meet. ``False`` leaves all proving to the solver.
    symmetry
        Order identical instances by the lowest call on them.
    transfers
        State that transfers share network interfaces. ``"lazy"``: only where a solution without it does not keep its
        word. ``False`` relaxes it.
    prefixes
        State for each prefill instance that what must end by a time fits before it (redundant).
    presolve
        The solver's presolve; ``None``: on for models with an objective, off for yes-or-no models, which it slows down.
    linearization
        The solver's linearisation level, 0 to 2.
    """

    name: ClassVar[str] = "cpsat"

    def __init__(
        self,
        *,
        hint: bool = True,
        search: str = "targets",
        ties: bool = True,
        tighten: bool = True,
        symmetry: bool = True,
        transfers: bool | str = "lazy",
        prefixes: bool = False,
        presolve: bool | None = None,
        linearization: int = 1,
    ) -> None:
        _known("search", search, ("targets", "objective"))
        _known("transfers", transfers, (True, False, "lazy"))
        _known("linearization", linearization, (0, 1, 2))
        self.hint = hint
        self.search = search
        self.ties = ties
        self.tighten = tighten
        self.symmetry = symmetry
        self.transfers = transfers
        self.prefixes = prefixes
        self.presolve = presolve
        self.linearization = linearization

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        """Find a plan within the budget; see :class:`hexopt.formulations.Formulation`."""
        return _Search(self, window, objective, budget, hint).run()


def _known(name: str, value: object, legal: tuple[object, ...]) -> None:
    if value not in legal:
        told = ", ".join(map(str, legal))
        raise ConfigError(f"formulation 'cpsat': {name} is {value!r}, it is one of {told}, correct it")


class _Search:
    """One call of ``solve``."""

    def __init__(
        self, options: CpSat, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None
    ) -> None:
        self.began = time.perf_counter()
        self.options = options
        self.window = window
        self.objective = objective
        self.budget = budget
        self.given = hint
        self.best = Incumbents(window, objective)
        self.arrays: EarliestTimes
        self.horizons = [w.horizon_us for w in window.workflows]
        self.bound: float | None = None
        self.model_best: float | None = None
        self.trajectory: list[tuple[float, float]] = []
        self.build_s = 0.0
        self.size = (0, 0)
        self.spent = 0.0
        self.stop: StopReason | None = None
        self.proved_infeasible = False
        self.invalid = ""
        self.facts: dict[str, Any] = {"branches": 0, "conflicts": 0, "models": 0, "deterministic": 0.0, "parts": []}
        self.models: list[tuple[str, str, float]] = []

    # -- the course of it ------------------------------------------------------------------------------------------

    def run(self) -> SolveResult:
        self.best.offer(self.given)
        if self.best.value is not None:
            self._note_incumbent(self.best.value.objective)
        self.arrays = earliest_times(self.window)
        last = latest_end_us(self.window)
        self.open_limits = [int(f) for f in self.arrays.floor_ends]
        for w, after in zip(self.arrays.workflow.tolist(), self.arrays.after.tolist(), strict=True):
            self.open_limits[w] = max(self.open_limits[w], last + after)
        if max([last, *self.open_limits, *self.horizons]) * (len(self.window.calls) + 1) > _LARGEST_TIME:
            self.invalid = f"window '{self.window.name}': it may last {last} µs, sums of times would overflow, scale it"
            return self._result()
        if _most_blocks(self.window) > _MOST_BLOCKS:
            self.invalid = f"window '{self.window.name}': sums of its KV blocks would overflow, scale them"
            return self._result()
        if not self.window.calls:
            self.best.offer(())
        elif hopeless(self.window, self.arrays):
            self.proved_infeasible = True
            return self._result()
        if self.best.value is None and self.options.hint:
            self.best.offer(greedy_plan(self.window, self.arrays))
            if self.best.value is not None:
                self._note_incumbent(self.best.value.objective)
        self._earliest_bound()
        if not self._done():
            if self.objective.kind == "bottleneck" and self.options.search == "targets":
                self._targets()
            else:
                self._minimise(self.objective)
        if self._proved():
            self.facts["proved_s"] = time.perf_counter() - self.began
            if self.options.ties and self.objective.kind != "sum" and self.window.calls:
                self._break_ties()
        return self._result()

    def _earliest_bound(self) -> None:
        value = self.objective.value(self.window, self.arrays.earliest_ends()).objective
        if self.options.tighten:
            self.bound = value

    def _proved(self) -> bool:
        return is_proved(self.best.value, self.bound, self.window, self.objective)

    def _done(self) -> bool:
        if self._proved():
            return True
        return self.proved_infeasible or self._out_of_time()

    def _out_of_time(self) -> bool:
        if self.stop is not None:
            return True
        limit = self.budget.time_limit_s
        if limit is not None and time.perf_counter() - self.began >= limit:
            self.stop = StopReason.TIME_LIMIT if self.facts["models"] else StopReason.NOT_STARTED
        elif self.budget.deterministic is not None and self.spent >= self.budget.deterministic:
            self.stop = StopReason.WORK_LIMIT
        return self.stop is not None

    # -- bottleneck by targets ---------------------------------------------------------------------------------------

    def _targets(self) -> None:
        """Bisect between the bound and what the model can reach; section 6 of the page."""
        tighten = self.options.tighten
        if tighten and self.best.verdict is not None:
            if refuted(self.window, self.arrays, strict_limits(self.best.verdict.ends_us, self.horizons)):
                assert self.best.value is not None
                self._raise_bound(self.best.value.objective)
                return
            self._raise_bound(window_bound(self.window, self.objective, self.arrays))
        elif tighten:
            self._raise_bound(window_bound(self.window, self.objective, self.arrays))
        step = _FIRST_STEP
        # Ends that the model can reach; while nothing is known, those that no plan exceeds.
        reach: Sequence[int] | None = self.best.verdict.ends_us if self.best.verdict is not None else None
        soft = self._low()
        tries = 0
        while not self._done():
            low = self._low()
            soft = max(soft, low)
            if reach is None:
                limits, final = self._first_limits(low, tries)
                tries += 1
            else:
                high = Fraction(*largest_ratio(reach, self.horizons))
                if self.bound is not None and float(high) <= self.bound * (1 + 1e-12):
                    return  # the model says no more; the plan does not keep its word
                final = high - soft <= high / 250
                if final and not self._played(high):
                    return  # what is left to prove is less than what the plan loses against the model
                middle = soft + (high - soft) * Fraction(1, 3)
                limits = strict_limits(reach, self.horizons) if final else limits_at(middle, self.horizons)
            answer = self._decide(limits, step)
            if answer is None:
                return
            if answer.found is not None:
                reach = answer.found
                played = self.best.verdict
                if played is not None and _below(played.ends_us, reach, self.horizons):
                    reach = played.ends_us
            elif answer.status == cp_model.INFEASIBLE:
                if reach is None and final:
                    self.proved_infeasible = True
                    return
                self._raise_bound(refuted_bound(limits, self.horizons))
                if final and reach is not None and self.best.value is not None:
                    top = largest_ratio(reach, self.horizons)
                    self._raise_bound(top[0] / top[1])
            elif final:  # no answer even to the last question: again with more time
                step *= 2
                soft = self._low()
            else:
                soft = middle if reach is not None else soft
        return

    def _played(self, ratio: Fraction) -> bool:
        """Say whether the best plan is as good as what the model can reach."""
        return self.best.value is not None and self.best.value.objective <= float(ratio) * (1 + 1e-12)

    def _low(self) -> Fraction:
        return Fraction(self.bound or 0.0)

    def _first_limits(self, low: Fraction, tries: int) -> tuple[list[int], bool]:
        """Return limits to try while no plan is known: growing multiples of the bound, at last none that matters."""
        if tries >= 4 or not low:
            return list(self.open_limits), True
        limits = limits_at(low * (Fraction(5, 4) ** (tries + 1)), self.horizons)
        return [min(pair) for pair in zip(limits, self.open_limits, strict=True)], False

    def _raise_bound(self, bound: float) -> None:
        self.bound = bound if self.bound is None else max(self.bound, bound)

    def _decide(self, limits: Sequence[int], step: float) -> _Answer | None:
        """Ask whether the model has a solution within limits; first without transfers, where that is the option."""
        stages: list[bool] = [False, True] if self.options.transfers == "lazy" else [bool(self.options.transfers)]
        if self.window.options.contention != "nic":
            stages = [False]
        answer = None
        for transfers in stages:
            answer = self._solve(limits, None, transfers, step)
            if answer is None or answer.found is None:
                return answer
            played = self.best.verdict
            if not transfers and len(stages) > 1 and played is not None and _within(played.ends_us, limits):
                # The plan keeps the model's word. It, not the solution, is what the full model can reach.
                return _Answer(answer.status, 0.0, list(played.ends_us))
        return answer

    # -- one model with an objective -----------------------------------------------------------------------------------

    def _minimise(self, objective: Objective) -> None:
        limits = self._cut(objective)
        limited = bool(self.options.transfers)
        answer = self._solve(limits, objective, limited, None)
        if answer is None:
            return
        if answer.status == cp_model.INFEASIBLE:
            if self.best.value is None:
                self.proved_infeasible = True
            else:
                self._raise_bound(self.best.value.objective)
            return
        # Plans outside the limits are no better than the incumbent by which they were cut.
        self._raise_bound(min(answer.bound, self.cut_value) if self.cut_value is not None else answer.bound)
        verdict = self.best.verdict
        if answer.status == cp_model.OPTIMAL and verdict is not None and not self._done():
            if objective.kind == "bottleneck":  # the objective is rounded, the last question is not
                last = self._solve(strict_limits(verdict.ends_us, self.horizons), None, limited, None)
                if last is not None and last.status == cp_model.INFEASIBLE:
                    top = largest_ratio(verdict.ends_us, self.horizons)
                    self._raise_bound(top[0] / top[1])
            if not self._done():
                self.stop = StopReason.COMPLETE

    cut_value: float | None = None

    def _cut(self, objective: Objective) -> list[int]:
        """Return limits outside of which no plan beats the incumbent; equation (23)."""
        limits = list(self.open_limits)
        value = self.best.value
        self.cut_value = None
        if not self.options.tighten or value is None or objective.kind == "late" or objective.give_up:
            return limits
        self.cut_value = value.objective
        worth = Fraction(value.objective) * (1 + Fraction(1, 10**9))
        earliest = self.arrays.earliest_ends()
        base = [0] * len(limits)
        if objective.kind == "hinge":
            base = objective.latest_us(self.window)
        rest = Fraction(0)
        if objective.kind != "bottleneck":
            shares = [Fraction(max(0, e - b), h) for e, b, h in zip(earliest, base, self.horizons, strict=True)]
            rest = sum(shares, Fraction(0))
        for w, h in enumerate(self.horizons):
            own = Fraction(max(0, earliest[w] - base[w]), h) if objective.kind != "bottleneck" else Fraction(0)
            room = worth - (rest - own)
            limits[w] = min(limits[w], max(earliest[w], base[w] + room.numerator * h // room.denominator))
        return limits

    def _break_ties(self) -> None:
        """Lower the sum of ratios while the objective proper stays; equation (24)."""
        verdict = self.best.verdict
        if verdict is None or self._out_of_time():
            return
        objective = self.objective
        limits = list(self.open_limits)
        if objective.kind == "bottleneck":
            top = strict_limits(verdict.ends_us, self.horizons, strict=False)
            limits = [min(pair) for pair in zip(limits, top, strict=True)]
        answer = self._solve(limits, Objective("sum"), bool(self.options.transfers), None, keep=objective)
        if answer is not None:
            self.facts["ties"] = str(answer.status).rsplit(".", 1)[-1].lower()
            self.facts["ties_bound"] = answer.bound
        self.stop = StopReason.PROVED

    # -- the solver ----------------------------------------------------------------------------------------------------

    def _solve(
        self,
        limits: Sequence[int],
        objective: Objective | None,
        transfers: bool,
        step: float | None,
        keep: Objective | None = None,
    ) -> _Answer | None:
        """Build and solve one model; ``None`` if there was no time for it."""
        if self._out_of_time():
            return None
        options = self.options
        built = time.perf_counter()
        rules = Rules(transfers=transfers, prefixes=options.prefixes, symmetry=options.symmetry)
        model = WindowModel(self.window, self.arrays, limits, rules)
        self.facts["models"] += 1
        if not model.feasible:
            return _Answer(cp_model.INFEASIBLE, 0.0, None)
        hint = self.best.verdict if options.hint else None
        scaled: Scaled | None = None
        if objective is not None:
            ends = hint.ends_us if hint is not None else None
            scaled = state(model, objective, limits, ends)
            if keep is not None and keep.kind != "bottleneck" and self.best.value is not None:
                kept = state(model, keep, limits, ends)
                most = int((self.best.value.objective - kept.offset) * kept.scale * (1 + 1e-12)) + 1
                model.model.add(kept.expression <= (most if kept.scale > 1 else most - 1))
            model.model.minimize(scaled.expression)
        if hint is not None and self.best.plan is not None:
            model.hint(self.best.plan, hint)
        self.size = max(self.size, model.size())
        self.facts["parts"] = sorted({*self.facts["parts"], *(part.split(":")[0] for part in model.parts)})
        self.build_s += time.perf_counter() - built
        if self._out_of_time():
            if self.facts["models"] == 1:
                self.stop = StopReason.NOT_STARTED
            return None
        return self._run(model, scaled, step, keep is not None)

    def _run(self, model: WindowModel, scaled: Scaled | None, step: float | None, ties: bool) -> _Answer:
        options, budget = self.options, self.budget
        solver = cp_model.CpSolver()
        parameters: Any = solver.parameters
        parameters.num_workers = 1 if budget.deterministic is not None else budget.threads
        parameters.random_seed = budget.seed
        parameters.cp_model_presolve = scaled is not None if options.presolve is None else options.presolve
        parameters.linearization_level = options.linearization
        parameters.symmetry_level = 2 if options.symmetry else 0
        if budget.time_limit_s is not None:
            parameters.max_time_in_seconds = max(1e-3, budget.time_limit_s - (time.perf_counter() - self.began))
        work = [step] if step is not None else []
        if budget.deterministic is not None:
            work.append(budget.deterministic - self.spent)
        if work:
            parameters.max_deterministic_time = min(work)
        callback = _Callback(self, model, scaled, ties)
        status = solver.solve(model.model, callback)
        response = solver.response_proto
        self.spent += response.deterministic_time
        self.facts["branches"] += solver.num_branches
        self.facts["conflicts"] += solver.num_conflicts
        self.facts["deterministic"] = round(self.spent, 9)
        if status == cp_model.MODEL_INVALID:
            self.invalid = f"window '{self.window.name}': the solver refuses the model ({model.model.validate()[:200]})"
            self.stop = StopReason.ERROR
        found = None
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            found = model.ends(solver.value)
            self._take(model, solver.value, scaled, ties)
        bound = scaled.bound(solver.best_objective_bound) if scaled is not None else 0.0
        self._out_of_time()
        return _Answer(status, bound, found)

    def _take(self, model: WindowModel, value: Any, scaled: Scaled | None, ties: bool) -> None:
        """Judge a solution of the solver."""
        if not ties:
            said = self.objective.value(self.window, model.ends(value)).objective
            if self.model_best is None or said < self.model_best:
                self.model_best = said
                self._note_incumbent(said)
        self.best.offer(model.plan(value))

    def _note_incumbent(self, value: float) -> None:
        if not self.trajectory or value < self.trajectory[-1][1]:
            self.trajectory.append((time.perf_counter() - self.began, value))

    # -- the answer ----------------------------------------------------------------------------------------------------

    def _result(self) -> SolveResult:
        value = self.best.value
        status, bound, contradiction = claim(value, self.bound, self.window, self.objective)
        if self.invalid and status is not Status.OPTIMAL:
            status = Status.MODEL_INVALID
        elif self.proved_infeasible and value is None:
            status = Status.INFEASIBLE
        if status in (Status.OPTIMAL, Status.INFEASIBLE):
            stop = StopReason.PROVED
        elif contradiction:
            stop = StopReason.ERROR
        else:
            stop = self.stop or (StopReason.NOT_STARTED if self.invalid else StopReason.COMPLETE)
        took = time.perf_counter() - self.began
        return SolveResult(
            formulation=CpSat.name,
            objective=self.objective,
            status=status,
            stop_reason=stop,
            plan=self.best.plan,
            value=value,
            model_objective=self.model_best,
            bound=bound,
            build_s=self.build_s,
            solve_s=took - self.build_s,
            trajectory=tuple(self.trajectory),
            variables=self.size[0],
            constraints=self.size[1],
            note="; ".join(filter(None, [self.invalid or self._note(), contradiction])),
            solver=f"CP-SAT {version('ortools')}",
            facts=self.facts,
        )

    def _note(self) -> str:
        strict = self.window.options.kv_admission == "strict" and any(p.startswith("kv") for p in self.facts["parts"])
        relaxed = ["strict admission is relaxed to backfill"] if strict else []
        if self.options.transfers is False and self.window.options.contention == "nic":
            relaxed.append("transfers are relaxed")
        return "; ".join(relaxed)


class _Callback(cp_model.CpSolverSolutionCallback):
    """Judges each solution as it is found."""

    def __init__(self, search: _Search, model: WindowModel, scaled: Scaled | None, ties: bool) -> None:
        super().__init__()
        self._search, self._model, self._scaled, self._ties = search, model, scaled, ties

    def on_solution_callback(self) -> None:
        """Judge the solution."""
        if self._scaled is not None:
            self._search._take(self._model, self.value, self._scaled, self._ties)


def _most_blocks(window: Window) -> int:
    """Return more than what any one instance can have or be asked for, in blocks."""
    asked = sum(call.kv_blocks + call.prefill_blocks for call in window.calls)
    there = [p.kv_blocks + sum(blocks for _, blocks in p.held) for p in window.prefill]
    there += [d.kv_free_blocks + sum(blocks for _, blocks in d.releases) for d in window.decode]
    return asked + max(there)


def _within(ends_us: Sequence[int], limits_us: Sequence[int]) -> bool:
    return all(e <= limit for e, limit in zip(ends_us, limits_us, strict=True))


def _below(left: Sequence[int], right: Sequence[int], horizons: Sequence[int]) -> bool:
    return Fraction(*largest_ratio(left, horizons)) <= Fraction(*largest_ratio(right, horizons))
