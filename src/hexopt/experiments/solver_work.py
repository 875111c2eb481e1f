"""One solve of a comparison: the formulation is given its limit, the clock runs around ``solve``, the checker judges.

What every formulation would pay once in the life of a process is not charged: before its first measured solve in a
process a formulation solves :data:`WARM_UP`, once for each kind of objective, so that its solver is loaded and its
code compiled. The hint is not charged either: in the loop it is there already.
"""

from __future__ import annotations

import gc
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from hexopt.core.window import Window, WindowPlan
from hexopt.errors import HexoptError
from hexopt.formulations.checker import check
from hexopt.formulations.library import NAME, Library, write_plan
from hexopt.formulations.objective import Objective, Value, parse_objective
from hexopt.formulations.protocol import Budget, Formulation, SolveResult, is_proved
from hexopt.formulations.registry import make_formulation
from hexopt.formulations.single_call import single_call_bound

WARM_UP_S = 5.0
"""Limit of a warm-up solve."""

GREEDY = "hexopt.formulations.greedy:greedy_plan"
"""Where the greedy hint comes from."""


@dataclass(frozen=True)
class Solver:
    """A solver entry as a worker needs it."""

    label: str
    formulation: str
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    seed: int = 0
    hint: str = "none"
    deterministic: float | None = None
    iterations: int | None = None


@dataclass(frozen=True)
class SolveTask:
    """One row to be: what is solved, by whom, within which limit."""

    key: str
    instance: str
    calls: int
    objective: str
    solver: Solver
    limit_ms: float

    @property
    def title(self) -> str:
        """What progress calls it."""
        return f"{self.solver.label}, {self.instance}, {self.objective}, {self.limit_ms:g} ms"

    def row(self) -> dict[str, Any]:
        """Return the columns of the row that are known before it is solved."""
        found = NAME.fullmatch(self.instance)
        return {
            "instance": self.instance,
            "regime": found["regime"] if found else "",
            "calls": self.calls,
            "objective": self.objective,
            "solver": self.solver.label,
            "limit_ms": self.limit_ms,
        }


def greedy_plan(window: Window) -> WindowPlan | None:
    """Return the greedy list schedule's plan of a window, ``None`` where it has none."""
    module, _, name = GREEDY.partition(":")
    plan: WindowPlan | None = getattr(import_module(module), name)(window)
    return plan


class Bench:
    """Where solves are measured: it remembers windows, hints and who is warm."""

    def __init__(self, library: str) -> None:
        self._library = Library(library)
        self._window: tuple[str, Window, WindowPlan | None] | None = None
        self._formulations: dict[str, Formulation] = {}
        self._warm: set[tuple[str, str]] = set()

    def prepare(self, task: SolveTask) -> None:
        """Do what is not charged: read the window, compute the hint, warm up; a warm-up's errors are its own."""
        if self._window is None or self._window[0] != task.instance:
            window = self._library.load(task.instance)
            self._window = task.instance, window, _greedy_or_none(window)
        solver, objective = task.solver, parse_objective(task.objective)
        if solver.label not in self._formulations:
            self._formulations[solver.label] = make_formulation(solver.formulation, **solver.options)
        if (solver.label, objective.kind) not in self._warm:
            self._warm.add((solver.label, objective.kind))
            # What fails here fails in the measured solve, which tells.
            for hint in (None, _greedy_or_none(WARM_UP)):
                try:
                    self._formulations[solver.label].solve(WARM_UP, objective, _budget(solver, WARM_UP_S), hint)
                except Exception:
                    break

    def measure(self, task: SolveTask) -> dict[str, Any]:
        """Return the row of a solve. It must have been prepared."""
        assert self._window is not None
        _, window, greedy = self._window
        objective, solver = parse_objective(task.objective), task.solver
        reference = None if greedy is None else check(window, greedy, objective).value
        row = task.row() | {
            "greedy_value": None if reference is None else reference.objective,
            "greedy_total": None if reference is None else reference.total,
            "single_call_bound": single_call_bound(window, objective),
            "load_1min": round(os.getloadavg()[0], 2),
            "error": "",
        }
        hint = greedy if solver.hint == "greedy" else None
        budget = _budget(solver, task.limit_ms / 1000)
        formulation = self._formulations[solver.label]
        gc.collect()
        wall, cpu = time.perf_counter(), _cpu_s()
        try:
            result = formulation.solve(window, objective, budget, hint)
        except Exception as error:
            row |= _spent(wall, cpu)
            return row | {"status": "error", "error": _told(error)}
        row |= _spent(wall, cpu)
        try:
            return row | _judged(window, objective, result, reference if hint is not None else None)
        except Exception as error:  # not even a result, or a plan that is none
            return row | {"status": "error", "error": _told(error)}


def _budget(solver: Solver, limit_s: float) -> Budget:
    return Budget(limit_s, solver.deterministic, solver.iterations, solver.threads, solver.seed)


def _greedy_or_none(window: Window) -> WindowPlan | None:
    try:
        return greedy_plan(window)
    except ImportError:
        return None


def _spent(wall: float, cpu: float) -> dict[str, float]:
    return {"wall_s": time.perf_counter() - wall, "cpu_s": _cpu_s() - cpu}


def _cpu_s() -> float:
    """Return the CPU time of this process and of the programs that it has waited for, s."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _told(error: Exception) -> str:
    if isinstance(error, HexoptError):
        return " ".join(str(error).split())
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(where.filename)}:{where.lineno}"
    return " ".join(f"{type(error).__name__}: {error} ({place})".split())


def _judged(window: Window, objective: Objective, result: SolveResult, hint: Value | None) -> dict[str, Any]:
    """Return what a result says, its values by the checker's word."""
    value, error = None, ""
    if result.plan is not None:
        verdict = check(window, result.plan, objective)
        value = verdict.value
        if value is None:
            error = f"the plan breaks a rule: {verdict.violations[0].message}"
    return {
        "status": "error" if error else str(result.status),
        "stop_reason": str(result.stop_reason),
        "value": None if value is None else value.objective,
        "total": None if value is None else value.total,
        "model_objective": result.model_objective,
        "bound": result.bound,
        "proved": is_proved(value, result.bound, window, objective),
        # What it said of its plan is not what the checker says.
        "misreported": value is not None and result.value != value,
        "worse_than_hint": hint is not None and (value is None or value > hint),
        "proved_s": result.proved_s,
        "first_incumbent_s": result.first_incumbent_s,
        "build_s": result.build_s,
        "solve_s": result.solve_s,
        "variables": result.variables,
        "constraints": result.constraints,
        "backend": result.solver,
        "note": " ".join(result.note.split())[:200],
        "error": error,
        "plan": "" if value is None else write_plan(result.plan or ()),
    }


def _warm_up_window() -> Window:
    """Return a window of four calls in which everything occurs that a window may have."""

    def call(k: int, **more: Any) -> dict[str, Any]:
        return {
            "id": f"c{k}", "workflow": k // 2, "state": "open", "one_token": False, "prefill_blocks": 4 + k,
            "kv_blocks": 6 + k, "tail_us": 1000 * k, "prefill_us": [9_000 + 1_000 * k, 14_000],
            "wire_us": [[900, 900], [900, 900]], "decode_us": [90_000, 60_000 + 5_000 * k],
        } | more  # fmt: skip

    def instance(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "type": name, "nic_free_us": 0} | more

    prefill = [instance(n, free_us=1_000, kv_blocks=40, held=[[2_000, 3]]) for n in ("p0", "p1")]
    decode = [
        instance(n, kv_free_blocks=12, releases=[[50_000, 8]], max_new=4, batch=1, context_tokens=100)
        for n in ("d0", "d1")
    ]
    bound = {"state": "bound", "prefill": 0, "decode": 1, "available_us": 1_000}
    one = {"one_token": True, "kv_blocks": 0, "decode_us": [0, 0]}
    return Window.from_json(
        {
            "schema_version": 1,
            "name": "warm-up",
            "provenance": "made by hand",
            "options": {"latency_us": 2_000},
            "prefill": prefill,
            "decode": decode,
            "workflows": [
                {"id": "a", "elapsed_us": 40_000, "horizon_us": 100_000, "floor_us": 70_000},
                {"id": "b", "elapsed_us": 10_000, "horizon_us": 120_000},
            ],
            "calls": [call(0), call(1, **bound), call(2), call(3, **one)],
        },
        "warm-up window",
    )


WARM_UP = _warm_up_window()
