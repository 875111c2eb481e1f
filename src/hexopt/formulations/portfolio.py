"""``portfolio``: local search, then what proves most windows at once, then CP-SAT for what is left.

``formulations/portfolio/model.md`` says why in this order, and what each stage proves.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, ClassVar

from hexopt.core.window import Window, WindowPlan
from hexopt.formulations.earliest import earliest_times
from hexopt.formulations.objective import Objective
from hexopt.formulations.protocol import (
    Budget,
    Formulation,
    Incumbents,
    SolveResult,
    Status,
    StopReason,
    claim,
    is_proved,
)
from hexopt.formulations.registry import make_formulation
from hexopt.formulations.window_bound import hopeless, refuted, strict_limits

_SEARCH_S_A_CALL = 1.5e-4
"""Seconds of local search for each call of the window, before anything is asked of a solver."""
_SEARCH_ITERATIONS_A_CALL = 500
"""The same as iterations, where the budget is deterministic."""
_CHUNKS = 4
"""Local search is cut into so many pieces; after each, the bound may already be met."""


class Portfolio:
    """Local search, bounds, and CP-SAT from the best plan.

    Parameters
    ----------
    search_share
        At most this share of a time limit goes to the local search at first.
    ties
        As of ``cpsat``.
    polish
        Let the local search go on from the solver's plan, where that is not proved to be the best: the solver's model
        relaxes how the checker books network and memory.
    local_search, solver
        The two formulations, by name or built; for tests and for trying others.
    """

    name: ClassVar[str] = "portfolio"

    def __init__(
        self,
        *,
        search_share: float = 0.3,
        ties: bool = True,
        polish: bool = True,
        local_search: str | Formulation = "local-search",
        solver: str | Formulation | None = None,
    ) -> None:
        self.search_share = search_share
        self.polish = polish
        self._local: Formulation = make_formulation(local_search) if isinstance(local_search, str) else local_search
        self._ties = ties
        self._solver = solver

    def solve(
        self, window: Window, objective: Objective, budget: Budget, hint: WindowPlan | None = None
    ) -> SolveResult:
        """Find a plan within the budget; see :class:`hexopt.formulations.Formulation`."""
        began = time.perf_counter()

        def left(share: float = 1.0) -> float | None:
            if budget.time_limit_s is None:
                return None
            return max(1e-4, share * (budget.time_limit_s - (time.perf_counter() - began)))

        best = Incumbents(window, objective)
        best.offer(hint)
        stages: list[dict[str, Any]] = []
        trajectory: list[tuple[float, float]] = []
        calls = len(window.calls)
        earliest = earliest_times(window)
        solvable = not hopeless(window, earliest)
        bound = objective.value(window, earliest.earliest_ends()).objective if solvable else None

        def search(share: float) -> None:
            at = time.perf_counter() - began
            if budget.deterministic is not None and budget.time_limit_s is None:
                spend = replace(budget, iterations=budget.iterations or _SEARCH_ITERATIONS_A_CALL * max(1, calls))
            else:
                wanted = _SEARCH_S_A_CALL * max(1, calls)
                most = left(share)
                spend = replace(budget, time_limit_s=wanted if most is None else min(wanted, most), iterations=None)
            found = self._local.solve(window, objective, spend, best.plan)
            best.offer(found.plan)
            trajectory.extend((at + t, v) for t, v in found.trajectory)
            stages.append({"stage": found.formulation, "seconds": time.perf_counter() - began - at})

        def done() -> bool:
            return is_proved(best.value, bound, window, objective)

        if solvable and not done():
            search(self.search_share)
        if best.value is not None and objective.kind == "bottleneck" and not done():
            assert best.verdict is not None
            horizons = [w.horizon_us for w in window.workflows]
            if refuted(window, earliest, strict_limits(best.verdict.ends_us, horizons)):
                bound = best.value.objective
        proved = done()
        facts: dict[str, Any] = {"stages": stages, "proved_by": "bound" if proved else None}
        if proved:
            facts["proved_s"] = time.perf_counter() - began
        result: SolveResult | None = None
        spent_up = budget.time_limit_s is not None and time.perf_counter() - began >= budget.time_limit_s
        if not spent_up and not (proved and not (self._ties and objective.kind != "sum" and calls)):
            at = time.perf_counter() - began
            solver = self._make_solver()
            result = solver.solve(window, objective, replace(budget, time_limit_s=left(), iterations=None), best.plan)
            best.offer(result.plan)
            trajectory.extend((at + t, v) for t, v in result.trajectory)
            stages.append({"stage": result.formulation, "seconds": time.perf_counter() - began - at})
            facts["solver"] = result.facts
            if result.bound is not None:
                bound = result.bound if bound is None else max(bound, result.bound)
            if not proved and done():
                proved = True
                facts["proved_by"] = result.formulation
                facts["proved_s"] = at + result.facts.get("proved_s", result.build_s + result.solve_s)
            infeasible = result.status is Status.INFEASIBLE
            if self.polish and not proved and not infeasible and not self._spent(budget, began):
                search(1.0)
                if done():
                    facts["proved_by"], facts["proved_s"] = "polish", time.perf_counter() - began
        return self._result(
            window, objective, best, bound, result, began, trajectory, facts, self._spent(budget, began)
        )

    def _make_solver(self) -> Formulation:
        # Made when it is needed: most windows never load the solver.
        if self._solver is None or isinstance(self._solver, str):
            options = {"ties": self._ties} if self._solver is None else {}
            self._solver = make_formulation(self._solver or "cpsat", **options)
        return self._solver

    @staticmethod
    def _spent(budget: Budget, began: float) -> bool:
        return budget.time_limit_s is not None and time.perf_counter() - began >= budget.time_limit_s

    def _result(
        self,
        window: Window,
        objective: Objective,
        best: Incumbents,
        bound: float | None,
        result: SolveResult | None,
        began: float,
        trajectory: list[tuple[float, float]],
        facts: dict[str, Any],
        spent: bool,
    ) -> SolveResult:
        took = time.perf_counter() - began
        status, bound, contradiction = claim(best.value, bound, window, objective)
        if status is Status.OPTIMAL:
            stop = StopReason.PROVED
        elif best.value is not None:
            stop = result.stop_reason if result is not None else StopReason.COMPLETE
            stop = StopReason.TIME_LIMIT if spent else stop
        elif result is not None:
            status, stop = result.status, result.stop_reason
        else:
            stop = StopReason.TIME_LIMIT if spent else StopReason.COMPLETE
        if contradiction:
            stop = StopReason.ERROR
        falling: list[tuple[float, float]] = []
        for at, value in trajectory:
            if not falling or value < falling[-1][1]:
                falling.append((at, value))
        build_s = result.build_s if result is not None else 0.0
        return SolveResult(
            formulation=self.name,
            objective=objective,
            status=status,
            stop_reason=stop,
            plan=best.plan,
            value=best.value,
            model_objective=falling[-1][1] if falling else None,
            bound=bound,
            build_s=build_s,
            solve_s=took - build_s,
            trajectory=tuple(falling),
            variables=result.variables if result is not None else 0,
            constraints=result.constraints if result is not None else 0,
            note="; ".join(filter(None, [result.note if result is not None else "", contradiction])),
            solver=result.solver if result is not None else "",
            facts=facts,
        )
