"""SCIP and HiGHS through OR-Tools (its MathOpt interface, which tells of bounds and takes seeds and hints)."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt

from hexopt.formulations.milp.backends import Answer, Backend, Limits, highs_clash
from hexopt.formulations.milp.linear import DUAL_TOLERANCE, INTEGER_TOLERANCE, LinearModel
from hexopt.formulations.protocol import StopReason


def scip() -> Backend:
    """Return the backend for SCIP."""
    return _MathOpt(mathopt.SolverType.GSCIP)


def highs() -> Backend:
    """Return the backend for the HiGHS that is built into OR-Tools."""
    return _MathOpt(mathopt.SolverType.HIGHS)


def _proto(model: LinearModel) -> Any:
    proto = model_pb2.ModelProto(name="hexopt")
    proto.variables.ids.extend(range(len(model.lower)))
    proto.variables.lower_bounds.extend(model.lower)
    proto.variables.upper_bounds.extend(model.upper)
    proto.variables.integers.extend(model.integer)
    objective = sorted(model.cost.items())
    proto.objective.linear_coefficients.ids.extend(j for j, _ in objective)
    proto.objective.linear_coefficients.values.extend(a for _, a in objective)
    matrix = proto.linear_constraint_matrix
    for k, row in enumerate(model.rows):
        if not k % 64:
            model.check_time()
        proto.linear_constraints.ids.append(k)
        proto.linear_constraints.lower_bounds.append(row.lower)
        proto.linear_constraints.upper_bounds.append(row.upper)
        entries = sorted(zip(row.columns, row.coefficients, strict=True))
        matrix.row_ids.extend([k] * len(entries))
        matrix.column_ids.extend(j for j, _ in entries)
        matrix.coefficients.extend(a for _, a in entries)
    return proto


class _MathOpt:
    def __init__(self, solver: Any) -> None:
        self._solver = solver
        self.takes_start = solver is mathopt.SolverType.GSCIP  # OR-Tools gives HiGHS none

    def solve(self, model: LinearModel, limits: Limits) -> Answer:
        if self._solver is mathopt.SolverType.HIGHS and highs_clash():
            told = "highspy was imported before OR-Tools and hides its HiGHS, import ortools first"
            return Answer(StopReason.ERROR, note=told)
        begin = time.perf_counter()
        built = mathopt.Model.from_model_proto(_proto(model))
        columns = list(built.variables())
        parameters = mathopt.SolveParameters(
            random_seed=limits.seed, relative_gap_tolerance=0.0, absolute_gap_tolerance=0.0, node_limit=limits.nodes
        )
        hints = mathopt.ModelSolveParameters()
        note = ""
        if self._solver is mathopt.SolverType.GSCIP:
            parameters.threads = limits.threads
            parameters.gscip.real_params["numerics/dualfeastol"] = DUAL_TOLERANCE
            parameters.gscip.real_params["numerics/feastol"] = INTEGER_TOLERANCE
            if model.start:
                values = {columns[j]: value for j, value in model.start.items()}
                hints.solution_hints.append(mathopt.SolutionHint(variable_values=values))
        else:
            parameters.highs.int_options["threads"] = limits.threads
            parameters.highs.double_options["dual_feasibility_tolerance"] = DUAL_TOLERANCE
            # Its own integer tolerance stays: with less it repairs solutions, and prints that it does.
        if limits.seconds is not None:
            left = limits.seconds - (time.perf_counter() - begin)
            parameters.time_limit = timedelta(seconds=max(0.001, left))
        try:
            result = mathopt.solve(built, self._solver, params=parameters, model_params=hints)
        except Exception as error:  # whatever it raises, serving goes on
            return Answer(StopReason.ERROR, note=f"OR-Tools failed: {' '.join(str(error).split())}")
        ended = result.termination
        reasons = mathopt.TerminationReason
        if ended.reason in (reasons.INFEASIBLE, reasons.INFEASIBLE_OR_UNBOUNDED):  # every column is bounded
            return Answer(StopReason.PROVED, infeasible=True, note=note)
        stop = StopReason.PROVED
        if ended.reason is not reasons.OPTIMAL:
            if ended.reason not in (reasons.FEASIBLE, reasons.NO_SOLUTION_FOUND):
                stop, note = StopReason.ERROR, f"OR-Tools: {ended.detail or ended.reason.value}"
            elif ended.limit is mathopt.Limit.TIME:
                stop = StopReason.TIME_LIMIT
            else:
                stop = StopReason.WORK_LIMIT
        dual = ended.objective_bounds.dual_bound
        bound = dual if abs(dual) < 1e30 else None
        if not result.solutions or result.solutions[0].primal_solution is None:
            return Answer(stop, bound=bound, note=note)
        found = result.solutions[0].primal_solution.variable_values
        values_by_column = [float(found[column]) for column in columns]
        objective = sum(a * values_by_column[j] for j, a in model.cost.items())
        return Answer(
            stop,
            values_by_column,
            objective,
            bound,
            incumbents=((time.perf_counter() - begin, objective),),
            note=note,
        )
