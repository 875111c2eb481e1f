"""CBC and HiGHS through PuLP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pulp

from hexopt.formulations.milp.backends import Answer, Backend, Limits
from hexopt.formulations.milp.linear import DUAL_TOLERANCE, INTEGER_TOLERANCE, LinearModel
from hexopt.formulations.protocol import StopReason

_KEPT_BACK = 0.2
"""Share of its time that CBC is not told of: it looks at the clock seldom, and writes its solution afterwards."""


def cbc() -> Backend | None:
    """Return the backend for the CBC that comes with PuLP, else one on the path; ``None`` if there is none."""
    path = getattr(getattr(pulp, "PULP_CBC_CMD", None), "pulp_cbc_path", None)
    solver = _Cbc(path=path, msg=False)
    if not solver.available():
        solver = _Cbc(msg=False)
    return _CbcBackend(solver.path) if solver.available() else None


def highs() -> Backend:
    """Return the backend for HiGHS."""
    _say_hello()
    return _HighsBackend()


@cache
def _say_hello() -> None:
    """Let HiGHS print its name where nobody sees it: it does so once a process, whatever it is told."""
    import highspy

    sys.stdout.flush()
    try:
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no standard output, nothing to keep clean
        return
    try:
        os.dup2(nowhere, 1)
        highspy.Highs()  # type: ignore[no-untyped-call]
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _problem(model: LinearModel) -> tuple[Any, list[Any]]:
    """Return the model as PuLP's, and its variables in the order of the columns."""
    problem = pulp.LpProblem("hexopt", pulp.LpMinimize)
    # Names sort as the columns do, and PuLP keeps variables sorted.
    columns = [
        pulp.LpVariable(f"x{j:07d}", low, up, pulp.LpInteger if integer else pulp.LpContinuous)
        for j, (low, up, integer) in enumerate(zip(model.lower, model.upper, model.integer, strict=True))
    ]
    problem.addVariables(columns)
    problem.setObjective(pulp.LpAffineExpression([(columns[j], a) for j, a in model.cost.items()]))
    for k, row in enumerate(model.rows):
        if not k % 64:
            model.check_time()
        terms = [(columns[j], a) for j, a in zip(row.columns, row.coefficients, strict=True)]
        for sense, side in _sides(row.lower, row.upper):
            problem.addConstraint(
                pulp.LpConstraint(pulp.LpAffineExpression(terms), sense, f"r{k:07d}{'gle'[sense + 1]}", side)
            )
    return problem, columns


def _sides(lower: float, upper: float) -> list[tuple[int, float]]:
    if lower == upper:
        return [(pulp.LpConstraintEQ, lower)]
    sides = [(pulp.LpConstraintGE, lower), (pulp.LpConstraintLE, upper)]
    return [(sense, side) for sense, side in sides if abs(side) != float("inf")]


class _CbcBackend:
    takes_start = False
    """With one, CBC 2.10.3 calls solutions optimal that are not (a test keeps such a case)."""

    def __init__(self, path: str) -> None:
        self._path = path

    def solve(self, model: LinearModel, limits: Limits) -> Answer:
        begin = time.perf_counter()
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore", DeprecationWarning)  # names that PuLP 4 will change
            problem, columns = _problem(model)
            log = Path(folder) / "log"
            solver = _Cbc(
                path=self._path,
                msg=False,
                gapRel=0.0,
                gapAbs=0.0,
                threads=limits.threads,
                maxNodes=limits.nodes,
                logPath=str(log),
                options=[
                    f"dualTolerance {DUAL_TOLERANCE}",
                    f"integerTolerance {INTEGER_TOLERANCE}",
                    f"randomSeed {limits.seed + 1}",  # 0 would mean the time of day
                    f"randomCbcSeed {limits.seed + 1}",
                ],
            )
            solver.tmpDir = folder
            solver.stop_at = None if limits.seconds is None else begin + limits.seconds
            try:
                problem.solve(solver)
            except subprocess.TimeoutExpired:
                return Answer(StopReason.TIME_LIMIT, note="CBC did not stop in time and was ended, its plans are lost")
            except pulp.PulpSolverError as error:
                return Answer(StopReason.ERROR, note=f"CBC failed: {error}")
            told = log.read_text(errors="replace")
        took = time.perf_counter() - begin
        if problem.status == pulp.LpStatusInfeasible and "Stopped on" not in told:
            return Answer(StopReason.PROVED, infeasible=True)
        proved = problem.sol_status == pulp.LpSolutionOptimal
        bound = re.search(r"^Lower bound:\s+(\S+)", told, re.M)
        dual = float(bound[1]) - 5e-4 if bound else None  # it is printed with three decimals
        late = limits.seconds is not None and took >= limits.seconds * (1 - _KEPT_BACK)
        stop = StopReason.TIME_LIMIT if limits.nodes is None or late else StopReason.WORK_LIMIT
        if not proved and problem.sol_status != pulp.LpSolutionIntegerFeasible:
            return Answer(stop, bound=dual)
        values = [float(column.varValue or 0.0) for column in columns]
        objective = sum(a * values[j] for j, a in model.cost.items())
        if proved:
            # Solutions are written with eight digits, the value with eight decimals.
            value = re.search(r"^Objective value:\s+(\S+)", told, re.M)
            dual = float(value[1]) - 1e-8 if value else objective - 1e-7 * abs(objective)
            objective = float(value[1]) if value else objective
        return Answer(
            StopReason.PROVED if proved else stop,
            values,
            objective,
            dual,
            incumbents=((took, objective),),
        )


class _Cbc(pulp.COIN_CMD):  # type: ignore[misc]
    """PuLP's way to CBC, but a process that overruns its time is ended, which PuLP would wait for."""

    stop_at: float | None = None
    """On the clock of :func:`time.perf_counter`."""

    def solve_CBC(self, lp: Any, use_mps: bool = True) -> int:  # noqa: N802 - PuLP's name
        mps, solution = self.create_tmp_files(lp.name, "mps", "sol")
        columns, names, rows, _ = lp.writeMPS(mps, rename=1)
        command = [self.path, mps]
        left = None if self.stop_at is None else max(0.01, self.stop_at - time.perf_counter())
        if left is not None:
            command += ["-sec", f"{left * (1 - _KEPT_BACK):.3f}"]
        for option in (*self.options, *self.getOptions()):
            command += ["-" + option.split()[0], *option.split()[1:]]
        command += ["-solve", "-printingOptions", "all", "-solution", solution]
        with open(self.optionsDict["logPath"], "w") as log:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=left, check=False)
        if done.returncode or not Path(solution).exists():
            raise pulp.PulpSolverError(f"exit status {done.returncode}")
        status, values, *_, solved = self.readsol_MPS(solution, lp, columns, names, rows)
        lp.assignVarsVals(values)
        lp.assignStatus(status, solved)
        return int(status)


class _HighsBackend:
    takes_start = True

    def solve(self, model: LinearModel, limits: Limits) -> Answer:
        begin = time.perf_counter()
        answer, reported = _run_highs(model, model.start, limits, begin)
        if model.start and answer.objective is not None and answer.objective > reported + 1e-7 * abs(reported) + 1e-6:
            # Where presolve turns the start into something better, HiGHS 1.16 proves that optimal, and returns the
            # columns of the start.
            again, _ = _run_highs(model, {}, limits, begin)
            found = (*answer.incumbents, *again.incumbents)
            if again.objective is not None and again.objective < answer.objective:
                return again._replace(incumbents=found, note="HiGHS mishandled the hint, run again")
            return answer._replace(stop_reason=again.stop_reason)
        return answer


def _run_highs(model: LinearModel, start: Mapping[int, float], limits: Limits, begin: float) -> tuple[Answer, float]:
    """Return the answer, and the objective as HiGHS reports it."""
    import highspy

    found: list[tuple[float, float]] = []

    def improved(kind: Any, message: str, told: Any, asked: Any, user: Any) -> None:
        found.append((time.perf_counter() - begin, told.objective_function_value))

    options: dict[str, Any] = {
        "random_seed": limits.seed,
        "dual_feasibility_tolerance": DUAL_TOLERANCE,
        "mip_feasibility_tolerance": INTEGER_TOLERANCE,
    }
    if limits.nodes is not None:
        options["mip_max_nodes"] = limits.nodes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # names that PuLP 4 will change
        problem, columns = _problem(model)
        solver = _Highs(
            msg=False,
            gapRel=0.0,
            gapAbs=0.0,
            threads=limits.threads,
            callbackTuple=(improved, None),
            callbacksToActivate=[highspy.cb.HighsCallbackType.kCallbackMipImprovingSolution],
            **options,
        )
        solver.start = start
        solver.stop_at = None if limits.seconds is None else begin + limits.seconds
        problem.solve(solver)
    highs, status = problem.solverModel, problem.solverModel.getModelStatus()
    kinds = highspy.HighsModelStatus
    if status in (kinds.kInfeasible, kinds.kUnboundedOrInfeasible):  # every column is bounded
        return Answer(StopReason.PROVED, infeasible=True), 0.0
    stop = {
        kinds.kOptimal: StopReason.PROVED,
        kinds.kTimeLimit: StopReason.TIME_LIMIT,
        kinds.kSolutionLimit: StopReason.WORK_LIMIT,
        kinds.kIterationLimit: StopReason.WORK_LIMIT,
    }.get(status, StopReason.ERROR)
    note = "" if stop is not StopReason.ERROR else f"HiGHS: {highs.modelStatusToString(status)}"
    info = highs.getInfo()
    dual = info.mip_dual_bound
    if not any(model.integer):
        dual = info.objective_function_value if stop is StopReason.PROVED else None
    bound = dual if dual is not None and abs(dual) < 1e30 else None
    if info.primal_solution_status != _FEASIBLE:
        return Answer(stop, bound=bound, note=note), 0.0
    values = [float(column.varValue) for column in columns]
    objective = sum(a * values[j] for j, a in model.cost.items())
    if not found:
        found.append((time.perf_counter() - begin, objective))
    answer = Answer(stop, values, objective, bound, incumbents=tuple(found), note=note)
    return answer, info.objective_function_value


_FEASIBLE = 2
"""As HiGHS says of a solution."""


class _Highs(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's way to HiGHS, but it starts from a solution, and its time limit counts from when the model is built."""

    start: Mapping[int, float] = MappingProxyType({})
    stop_at: float | None = None

    def callSolver(self, lp: Any) -> None:  # noqa: N802 - PuLP's name
        if self.start:
            from highspy import HighsSolution

            solution = HighsSolution()
            solution.col_value = [self.start[j] for j in range(len(self.start))]
            lp.solverModel.setSolution(solution)
        if self.stop_at is not None:
            lp.solverModel.setOptionValue("time_limit", max(0.0, self.stop_at - time.perf_counter()))
        lp.solverModel.run()

    def findSolutionValues(self, lp: Any) -> tuple[int, int]:  # noqa: N802 - PuLP's name
        try:
            found: tuple[int, int] = super().findSolutionValues(lp)
            return found
        except KeyError:
            # PuLP knows no limit of nodes. It has read the columns by then, and _run_highs asks HiGHS what they are.
            return pulp.LpStatusOptimal, pulp.LpSolutionIntegerFeasible
