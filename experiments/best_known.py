"""Compute best known values of the instance library: run solvers on every instance and enter what is better.

``python experiments/best_known.py --solver portfolio --solver local-search --seconds 5`` solves each instance for each
objective with each solver, from the best plan known so far (the library's, or the greedy one), and enters plans and
proved bounds through the library, where the checker judges them. ``--from FOLDER`` enters the plans and bounds of a
solver comparison instead, without solving anything. A bound that a known plan contradicts is reported and not entered.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from hexopt.core.window import WindowPlan
from hexopt.errors import HexoptError
from hexopt.experiments.solver_work import greedy_plan
from hexopt.formulations.library import NAME, Library, read_plan
from hexopt.formulations.objective import Objective, objective_text, parse_objective
from hexopt.formulations.protocol import Budget, Formulation
from hexopt.formulations.registry import make_formulation
from hexopt.formulations.single_call import single_call_bound

ROOT = Path(__file__).resolve().parents[1]
Entry = tuple[str, Objective, WindowPlan | None, str, float, float | None]


def parse_solver(text: str) -> tuple[str, Formulation, int | None]:
    """Return the label, the formulation and the most calls of ``NAME[:OPTION=VALUE,…][@CALLS]``."""
    label, _, calls = text.partition("@")
    name, _, given = label.partition(":")
    options = dict(pair.split("=", 1) for pair in given.split(",") if pair)
    values = {key: {"true": True, "false": False}.get(value, value) for key, value in options.items()}
    return label, make_formulation(name, **values), int(calls) if calls else None


def enter(library: Library, entries: list[Entry]) -> int:
    """Enter what is better; where one is refused, enter the others and say which."""
    try:
        return library.submit_all(entries)
    except HexoptError:
        changed = 0
        for entry in entries:
            try:
                changed += library.submit_all([entry])
            except HexoptError as error:
                print(f"refused: {error}", flush=True)
                # The plan is worth having all the same.
                changed += library.submit_all([(*entry[:5], None)]) if entry[2] is not None else 0
        return changed


def solve(library: Library, names: list[str], objectives: list[Objective], solvers: list[str], budget: Budget) -> int:
    """Solve all instances, entering after each."""
    made = [parse_solver(text) for text in solvers]
    changed = 0
    for k, name in enumerate(names, 1):
        window, began = library.load(name), time.monotonic()
        for objective in objectives:
            known = library.best_known().get((name, objective_text(objective)))
            if known is not None and library.proved(known):
                continue
            start = greedy_plan(window)
            entries: list[Entry] = [(name, objective, start, "greedy", 0.0, None)] if start is not None else []
            hint = read_plan(window, known.plan) if known is not None else start
            bound = single_call_bound(window, objective)
            for label, formulation, most in made:
                if most is not None and len(window.calls) > most:
                    continue
                try:
                    result = formulation.solve(window, objective, budget, hint)
                except Exception as error:
                    print(f"{name}, {objective_text(objective)}, {label}: {type(error).__name__}: {error}", flush=True)
                    continue
                plan = result.plan
                entries.append((name, objective, plan, label, result.build_s + result.solve_s, result.bound))
                hint = plan or hint
            entries.append((name, objective, None, "single-call bound", 0.0, bound))
            changed += enter(library, entries)
        print(f"{k} of {len(names)}: {name}, {time.monotonic() - began:.1f} s, {changed} changes", flush=True)
    return changed


def take_over(library: Library, folder: Path) -> int:
    """Enter the plans and bounds that a solver comparison has found; rows that misreport their plan are passed over."""
    entries: list[Entry] = []
    for line in (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line).get("summary")
        if not row or row.get("misreported"):
            continue
        name, objective = row["instance"], parse_objective(row["objective"])
        plan = read_plan(library.load(name), row["plan"]) if row.get("plan") else None
        if plan is not None or row.get("bound") is not None:
            entries.append((name, objective, plan, row["solver"], row["wall_s"], row.get("bound")))
    return enter(library, entries)


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--library", type=Path, default=ROOT / "formulations")
    parser.add_argument("--solver", action="append", help="NAME[:OPTION=VALUE,…][@CALLS]: up to so many calls")
    parser.add_argument("--objective", action="append", help="bottleneck and sum if absent")
    parser.add_argument("--seconds", type=float, default=2.0, help="limit of each solve")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", type=int, nargs="*", help="only windows of so many calls")
    parser.add_argument("--from", dest="folder", type=Path, help="folder of a solver comparison")
    given = parser.parse_args()
    library = Library(given.library)
    if given.folder is not None:
        print(f"{take_over(library, given.folder)} changes")
        return
    objectives = [parse_objective(text) for text in given.objective or ("bottleneck", "sum")]
    names = [
        n for n in library.names() if (m := NAME.fullmatch(n)) and (not given.sizes or int(m["calls"]) in given.sizes)
    ]
    budget = Budget(time_limit_s=given.seconds, threads=given.threads, seed=given.seed)
    changed = solve(library, names, objectives, given.solver or ["local-search", "portfolio"], budget)
    wrong = library.verify()
    print(f"{changed} changes; {'all values verified' if not wrong else '; '.join(wrong)}")


if __name__ == "__main__":
    main()
