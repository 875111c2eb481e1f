"""The four mixed-integer linear models: what they prove is true, and where they are exact they agree."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexopt.core.window import Window, WindowOptions
from hexopt.errors import ConfigError, SolverMissing
from hexopt.formulations import (
    BOTTLENECK,
    Budget,
    Objective,
    SolveResult,
    Status,
    StopReason,
    check,
    make_formulation,
    parse_objective,
)
from hexopt.formulations.milp import backends
from hexopt.formulations.milp.backends import SOLVERS, Limits, make_backend
from hexopt.formulations.milp.linear import LinearModel
from hexopt.formulations.pressure import pressure
from hexopt.testing.windows import all_plans, best_values, make_window, random_plans, tiny_windows
from tests.formulations.small import call, instances, small_window
from tests.formulations.windows import REGIMES, random_window

NAMES = ["milp-disjunctive", "milp-positional", "milp-time-indexed", "milp-deadline"]
OBJECTIVES = [parse_objective(text) for text in ("bottleneck", "sum", "hinge:0.8", "hinge:0.6,give_up=0.4", "late:0.8")]
FREE = WindowOptions(contention="none", prefill_kv=False, latency_us=700)


def solve(name: str, solver: str, window: Window, objective: Objective, **more: Any) -> SolveResult:
    budget = more.pop("budget", Budget())
    return make_formulation(name, solver=solver, **more).solve(window, objective, budget)


def states(name: str, objective: Objective) -> bool:
    return name != "milp-deadline" or objective.kind in ("late", "bottleneck")


# ----- by hand --------------------------------------------------------------------------------------------------------


def by_hand() -> Window:
    """One prefill and one decode instance, three calls of 100, 200, 300 ms; 50 ms on the wire and 850 of decode each.

    Each is a workflow of its own with a horizon of 1 s that has waited for 0, 0.4 and 0 s.
    """
    window = replace(make_window("by hand", 3, prefills=1, decodes=1), options=WindowOptions("none", "backfill", False))
    return replace(
        window,
        prefill=(replace(window.prefill[0], free_us=0, held=()),),
        workflows=tuple(
            replace(window.workflows[0], id=f"w{k}", elapsed_us=us, horizon_us=1_000_000)
            for k, us in enumerate((0, 400_000, 0))
        ),
        calls=tuple(
            replace(
                call,
                workflow=k,
                tail_us=0,
                prefill_us=(100_000 * (k + 1),),
                wire_us=((50_000,),),
                decode_us=(850_000,),
            )
            for k, call in enumerate(window.calls)
        ),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("text", "value", "total"),
    [
        # w1 first, 0.2 + 0.9 + 0.4 s; then w0, 0.3 + 0.9, and w2, 0.6 + 0.9.
        ("bottleneck", 1.5, 4.2),
        # The shortest first: 0.1 + 0.3 + 0.6 s, 2.7 after them, 0.4 before.
        ("sum", 4.1, 4.1),
        # At 1.2 prefills of w0 and w2 must be over at 0.3 s, which only one of them can; w1 cannot be in time.
        ("late:1.2", 2.0, 4.1),
        # w1 first: it exceeds by 0.1 and so does w2, last. w0 first would make it 0.2 + 0.1.
        ("hinge:1.4", 0.2, 4.2),
        # One of three may be given up: w1, last, so that the others are over at 0.1 and 0.4 s.
        ("hinge:1.4,give_up=0.4", 0.0, 4.2),
    ],
)
def test_by_hand(name: str, text: str, value: float, total: float) -> None:
    objective = parse_objective(text)
    if not states(name, objective):
        pytest.skip("it cannot state this objective")
    options = {"slot_us": 50_000} if name == "milp-time-indexed" else {}
    result = solve(name, "highs", by_hand(), objective, **options)
    assert result.status is Status.OPTIMAL
    assert result.value is not None
    assert result.value.objective == pytest.approx(value, rel=1e-9, abs=1e-9)
    if name != "milp-deadline":  # which does not break ties
        assert result.value.total == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_where_neither_the_bound_nor_the_list_schedule_is_right(name: str) -> None:
    """Five calls of 300, 300, 200, 200, 200 ms on two equal instances, 0.9 s to follow, horizons of 1 s.

    The longest first makes one instance end at 700 ms; 300 + 300 and 200 + 200 + 200 is best: 1.5. Alone, a call has at
    most 1.2. So the bisection has to find its way.
    """
    window = make_window("five", 5, workflows=5, decodes=1)
    window = replace(
        window,
        options=WindowOptions("none", "backfill", False),
        prefill=tuple(replace(p, free_us=0, held=()) for p in window.prefill),
        workflows=tuple(replace(w, elapsed_us=0, horizon_us=1_000_000) for w in window.workflows),
        calls=tuple(
            replace(
                call,
                tail_us=0,
                prefill_us=(300_000 if c < 2 else 200_000,) * 2,
                wire_us=((50_000,), (50_000,)),
                decode_us=(850_000,),
            )
            for c, call in enumerate(window.calls)
        ),
    )
    options = {"slot_us": 50_000} if name == "milp-time-indexed" else {}
    result = solve(name, "highs", window, BOTTLENECK, budget=Budget(deterministic=50.0), **options)
    assert result.value is not None
    assert result.value.objective == pytest.approx(1.5, rel=1e-9)
    assert result.bound == pytest.approx(1.5, rel=1e-6)
    assert result.status is Status.OPTIMAL


# ----- agreement ------------------------------------------------------------------------------------------------------


def library() -> list[Window]:
    """Windows without pressure."""
    return [
        replace(make_window("small", 3), options=FREE),
        replace(make_window("one machine", 4, prefills=1, decodes=2), options=FREE),
        replace(make_window("uneven", 3, workflows=2, spread=6.0), options=FREE),
        replace(random_window(7, 4, "bound", 2, 2), options=FREE),
    ]


def assert_exact(result: SolveResult, best: float) -> None:
    what = f"{result.formulation} {result.solver} {result.objective} {result.note}"
    assert result.value is not None, what
    assert result.bound is not None, what
    assert result.bound <= best + 1e-9 * max(1.0, best), what
    if result.status is Status.OPTIMAL:
        assert result.value.objective == pytest.approx(best, rel=1e-6, abs=1e-9), what
    # Slots are rounded down: what that model proves is true, but not always the best.
    assert result.status is Status.OPTIMAL or result.formulation == "milp-time-indexed", what


@pytest.mark.parametrize("window", library(), ids=lambda w: w.name)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_exact_models_agree_with_every_plan_tried(window: Window, objective: Objective) -> None:
    assert not any(pressure(window))
    best = best_values(window, all_plans(window), [objective])
    assert best is not None
    for name in NAMES:
        if states(name, objective):
            assert_exact(solve(name, "highs", window, objective), best[0].objective)


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"highs"}))
def test_solvers_agree(solver: str) -> None:
    window = library()[0]
    best = best_values(window, all_plans(window), OBJECTIVES)
    assert best is not None
    for name, (k, objective) in product(NAMES, enumerate(OBJECTIVES)):
        if states(name, objective) and (objective.kind in ("bottleneck", "late") or name == "milp-disjunctive"):
            assert_exact(solve(name, solver, window, objective), best[k].objective)


def test_ties_go_to_the_smaller_sum() -> None:
    for window in library():
        best = best_values(window, all_plans(window), [BOTTLENECK])
        assert best is not None
        result = solve("milp-positional", "highs", window, BOTTLENECK)
        assert result.value is not None
        assert result.value.total == pytest.approx(best[0].total, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", range(8))
def test_all_agree_on_random_windows(seed: int, solver: str) -> None:
    for regime in REGIMES:
        window = random_window(seed, 3 + seed % 2, regime, 2, 2)
        if seed % 2:
            window = replace(window, options=replace(window.options, contention="none", prefill_kv=False))
        best = best_values(window, all_plans(window), OBJECTIVES)
        for name, (k, objective) in product(NAMES, enumerate(OBJECTIVES)):
            if not states(name, objective):
                continue
            result = solve(name, solver, window, objective)
            if best is None:
                assert result.plan is None
            elif any(pressure(window)):
                assert result.bound is not None
                assert result.bound <= best[k].objective * (1 + 1e-9) + 1e-9
                if result.status is Status.OPTIMAL:
                    assert result.value is not None
                    assert result.value.objective == pytest.approx(best[k].objective, rel=1e-6, abs=1e-9)
            else:
                assert_exact(result, best[k].objective)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10**6), calls=st.integers(1, 7), regime=st.sampled_from(REGIMES))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_no_plan_beats_a_bound(name: str, seed: int, calls: int, regime: str) -> None:
    window = random_window(seed, calls, regime, 2, 2)
    objective = OBJECTIVES[seed % len(OBJECTIVES)]
    if not states(name, objective):
        objective = BOTTLENECK
    best = best_values(window, random_plans(window, 100, seed), [objective])
    result = make_formulation(name).solve(window, objective, Budget(deterministic=0.2))
    if result.plan is not None:
        verdict = check(window, result.plan, objective)
        assert verdict.value == result.value
    if best is not None:
        assert result.status is not Status.INFEASIBLE
        assert result.bound is not None
        assert result.bound <= best[0].objective + 1e-9 * max(1.0, best[0].objective)


# ----- solvers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_model_by_hand(solver: str) -> None:
    """min 2a + 3b + t, t >= 4 − 2.5(a + b), not both: a is bought, 2 + 1.5."""
    model = LinearModel()
    a, b, t = model.binary(), model.binary(), model.real(0.0, 10.0)
    model.add([(t, 1.0), (a, 2.5), (b, 2.5)], lower=4.0)
    model.add([(a, 1.0), (b, 1.0)], upper=1.0)
    model.minimise([(a, 1.0), (b, 3.0), (t, 1.0), (a, 1.0)])
    backend = make_backend(solver, "test")
    answer = backend.solve(model, Limits(None, None, 1, 0))
    assert answer.stop_reason is StopReason.PROVED
    assert answer.values == pytest.approx([1.0, 0.0, 1.5])
    assert answer.objective == pytest.approx(3.5)
    assert answer.bound == pytest.approx(3.5, abs=1e-6)
    assert len(answer.incumbents) >= 1
    model.start = {a: 0.0, b: 0.0, t: 4.0}
    assert backend.solve(model, Limits(5.0, 100, 1, 3)).objective == pytest.approx(3.5)
    model.add([(a, 1.0), (b, 1.0)], lower=2.0)
    assert backend.solve(model, Limits(None, None, 1, 0)).infeasible


def test_a_row_without_columns() -> None:
    model = LinearModel()
    model.add([], upper=1.0)
    assert model.rows == []
    model.add([], lower=1.0)
    assert make_backend("highs", "test").solve(model, Limits(None, None, 1, 0)).infeasible


def test_the_error_of_a_bound_grows_with_the_range_of_the_columns() -> None:
    model = LinearModel()
    model.real(0.0, 1e4)
    assert model.proof_error(100.0) == pytest.approx(1e-9 * 1e4 + 2e-5 + 1e-7)


def test_a_start_that_highs_mishandles() -> None:
    """In the second stage its presolve improves the start, and HiGHS 1.16 returns the start with the better value."""
    window = random_window(1, 3, "slow-network", 2, 2)
    window = replace(window, options=replace(window.options, contention="none", prefill_kv=False))
    best = best_values(window, all_plans(window), [BOTTLENECK])
    assert best is not None
    assert solve("milp-disjunctive", "highs", window, BOTTLENECK).value == best[0]


def test_a_start_with_which_cbc_would_prove_what_is_not_true() -> None:
    """Given the start, CBC 2.10.3 ends at its value, 0.3945, as optimal; 0.3849 is possible."""
    window = next(window for window in tiny_windows() if window.name == "no contention")
    objective = parse_objective("hinge:0.8,give_up=0.5")
    best = best_values(window, all_plans(window), [objective])
    assert best is not None
    hint = next(plan for plan in all_plans(window) if check(window, plan).feasible)
    result = make_formulation("milp-disjunctive", solver="cbc").solve(window, objective, Budget(), hint)
    assert result.value is not None
    assert result.value.objective == pytest.approx(best[0].objective)
    assert "cbc was not started from the hint" in result.note


def test_a_missing_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(SolverMissing, match=r"'highs' needs highspy, .*pip install 'hexopt\[highs\]'"):
        make_formulation("milp-deadline")
    with pytest.raises(ConfigError, match="solver 'hihgs' is unknown, did you mean 'highs'"):
        make_formulation("milp-deadline", solver="hihgs")
    with pytest.raises(ConfigError, match="slot_us is 0"):
        make_formulation("milp-time-indexed", solver="cbc", slot_us=0)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_highspy_before_ortools_kills_nothing() -> None:
    """Both bring a HiGHS: in this order that of OR-Tools would be called with highspy's, and the process would die."""
    told = run(
        "import highspy\n"
        "from hexopt.formulations import *\n"
        "from hexopt.testing.windows import make_window\n"
        "for solver in ('highs', 'ortools-highs'):\n"
        "    f = make_formulation('milp-deadline', solver=solver)\n"
        "    r = f.solve(make_window('w', 3), parse_objective('late:1'), Budget())\n"
        "    print(r.status, r.stop_reason, r.note)\n"
    ).splitlines()
    assert told[0].startswith(("optimal", "feasible"))
    assert "highspy was imported before OR-Tools" in told[1]


def test_both_highs_in_one_process() -> None:
    told = run(
        "from hexopt.formulations import *\n"
        "from hexopt.testing.windows import make_window\n"
        "for solver in ('highs', 'ortools-highs', 'cbc', 'ortools-scip') * 2:\n"
        "    f = make_formulation('milp-deadline', solver=solver)\n"
        "    print(f.solve(make_window('w', 3), parse_objective('late:1'), Budget()).value.objective)\n"
    )
    assert len(set(told.split())) == 1
    assert len(told.splitlines()) == 8  # and HiGHS does not print its name


def test_the_package_loads_no_solver() -> None:
    told = run("import sys, hexopt.formulations.milp.driver\nprint({'pulp', 'ortools', 'highspy'} & set(sys.modules))")
    assert told.strip() == "set()"
    assert not backends.highs_clash()


# ----- budgets and answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "solver"), [(n, "highs") for n in NAMES] + [("milp-time-indexed", s) for s in SOLVERS]
)
def test_little_time(name: str, solver: str) -> None:
    window = random_window(3, 32, "roomy", 8, 8)
    hint = next(plan for plan in random_plans(window, 500, 1) if check(window, plan).feasible)
    value = check(window, hint, BOTTLENECK).value
    assert value is not None
    formulation = make_formulation(name, solver=solver)
    for limit in (0.005, 0.15):
        begin = time.perf_counter()
        result = formulation.solve(window, BOTTLENECK, Budget(time_limit_s=limit), hint)
        took = time.perf_counter() - begin
        assert took < limit + 5  # a busy machine
        assert result.status in (Status.FEASIBLE, Status.OPTIMAL)
        assert result.value is not None
        assert result.value <= value
        assert result.bound is not None
        assert result.bound <= result.value.objective
        assert took < 1.1 * limit + 0.02 or "overrun" in result.note
    assert formulation.solve(window, BOTTLENECK, Budget(time_limit_s=1e-6)).status is Status.NO_INCUMBENT


@pytest.mark.parametrize("hinted", [True, False])
def test_limit_of_nodes_of_highs(hinted: bool) -> None:
    window = random_window(3, 16, "roomy", 4, 4)
    hint = next(plan for plan in random_plans(window, 500, 1) if check(window, plan).feasible)
    formulation = make_formulation("milp-disjunctive", solver="highs")
    result = formulation.solve(window, BOTTLENECK, Budget(deterministic=0.01), hint if hinted else None)
    assert result.stop_reason is not StopReason.ERROR
    assert "deterministic units bound nodes, not the work at the root" in result.note
    if hinted:
        value = check(window, hint, BOTTLENECK).value
        assert value is not None
        assert result.value is not None
        assert result.value <= value


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_of_the_model(name: str) -> None:
    window = replace(make_window("small", 3), options=FREE)
    hint = next(plan for plan in all_plans(window))
    result = make_formulation(name).solve(window, parse_objective("late:0.8"), Budget(iterations=5), hint)
    assert result.variables > 3
    assert result.constraints > 3
    assert result.solver == "highs"
    assert result.facts["pressure"] == {"kv": False, "nic": False, "prefill_kv": False}
    assert "iterations are no measure of a solver" in result.note
    assert result.solve_s > 0
    times = [at for at, _ in result.trajectory]
    assert times == sorted(times)
    assert result.trajectory[-1][1] == pytest.approx(result.model_objective)
    assert result.model_objective == pytest.approx(result.value.objective if result.value else math.nan)


def test_what_deadline_cannot_state() -> None:
    for text in ("sum", "hinge:1"):
        result = solve("milp-deadline", "highs", make_window("w", 3), parse_objective(text))
        assert result.status is Status.MODEL_INVALID
        assert "it states late and bottleneck only" in result.note


@pytest.mark.parametrize("name", NAMES)
def test_no_calls(name: str) -> None:
    window = replace(make_window("w", 3), calls=())
    result = solve(name, "highs", window, BOTTLENECK)
    assert (result.status, result.plan, result.stop_reason) == (Status.OPTIMAL, (), StopReason.PROVED)
    assert result.value == check(window, ()).value


@pytest.mark.parametrize("name", NAMES)
def test_no_decode_slot(name: str) -> None:
    window = make_window("w", 3)
    window = replace(window, decode=tuple(replace(d, max_new=1) for d in window.decode))
    result = solve(name, "highs", window, BOTTLENECK)
    assert (result.status, result.plan, result.bound) == (Status.INFEASIBLE, None, None)


@pytest.mark.parametrize("name", NAMES)
def test_times_beyond_doubles_are_not_stated(name: str) -> None:
    # HiGHS said of such windows that they have no plan, or never came back.
    big = 2**40
    rows = [call(f"c{i}", [big] * 2, [big] * 2, wire=big, tail_us=big, workflow=i % 2) for i in range(4)]
    booked = {"free_us": big, "nic_free_us": big}
    workflows = [{"id": f"w{i}", "elapsed_us": 0, "horizon_us": 2**35} for i in range(2)]
    window = small_window(rows, instances(2, 2, booked, {"nic_free_us": big}), workflows)
    result = make_formulation(name).solve(window, parse_objective("late:0.8"), Budget(time_limit_s=5.0))
    assert result.status is Status.MODEL_INVALID
    assert "µs, at most" in result.note
