"""How near the quick formulations come to the best known plans, and how soon they prove: CPU time on one core.

``python benchmarks/window_solvers.py`` prints two tables over the instance library (sizes of ``--sizes``) and over
random windows of 8 prefill and 8 decode instances (``--random``): what ``local-search`` loses to the best known after
1, 5 and 20 ms of CPU time, and the CPU time in which ``cpsat`` and ``portfolio`` prove the bottleneck. The best known
is that of ``best_known.csv`` or better, found by ``--reference-s`` seconds of local search and portfolio each; a file
(``--reference``) keeps it for the next time. All limits are CPU time of the process, so that other processes do no
harm: the clock that the formulations read is replaced here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

time.perf_counter = time.process_time  # before anything reads it

from hexopt.core.window import Window  # noqa: E402
from hexopt.formulations import Budget, make_formulation, parse_objective  # noqa: E402
from hexopt.formulations.library import NAME, Library  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.formulations.windows import REGIMES, random_window, refreshed  # noqa: E402

LIMITS_MS = (1, 5, 20)


def windows(sizes: list[int], library: bool, rand: int) -> Iterable[tuple[str, str, Window]]:
    """Yield (regime, name, window) of the library, then of random windows, fresh ones too."""
    instances = Library(ROOT / "formulations")
    for name in instances.names() if library else []:
        found = NAME.fullmatch(name)
        if found is not None and int(found["calls"]) in sizes:
            yield found["regime"], name, instances.load(name)
    for size in sizes:
        for regime in REGIMES:
            for seed in range(rand):
                window = random_window(seed, size, regime, 8, 8)
                yield f"random {regime}", window.name, window
                if regime not in ("tight-kv", "strict", "bound"):
                    yield f"fresh {regime}", f"fresh-{window.name}", refreshed(window)


class Reference:
    """Best known values by window and objective."""

    def __init__(self, file: Path | None, seconds: float) -> None:
        self._file, self._seconds = file, seconds
        self.values: dict[str, float] = json.loads(file.read_text()) if file is not None and file.exists() else {}
        for (name, text), row in Library(ROOT / "formulations").best_known().items():
            self.note(name, text, row.value)

    def note(self, name: str, text: str, value: float) -> float:
        """Keep a value if it is the best; return the best."""
        key = f"{name} {text}"
        self.values[key] = min(value, self.values.get(key, value))
        return self.values[key]

    def find(self, name: str, text: str, window: Window) -> None:
        """Look for a good plan, once a window and objective."""
        done = f"{name} {text} searched"
        if done in self.values or not self._seconds:
            return
        objective, budget = parse_objective(text), Budget(time_limit_s=self._seconds)
        first = make_formulation("local-search").solve(window, objective, budget)
        both = make_formulation("portfolio", ties=False).solve(window, objective, budget, first.plan)
        for result in (first, both):
            if result.value is not None:
                self.note(name, text, result.value.objective)
        self.values[done] = self._seconds
        self.save()

    def save(self) -> None:
        """Write the file."""
        if self._file is not None:
            self._file.write_text(json.dumps(self.values, indent=0))


def search_table(rows: list[tuple[str, str, Window]], reference: Reference, objectives: list[str]) -> None:
    """Print what local search loses, by objective, size and regime."""
    local = make_formulation("local-search")
    for text in objectives:
        losses: dict[tuple[int, str], list[list[float]]] = defaultdict(list)
        found = []
        for regime, name, window in rows:
            values = []
            for ms in LIMITS_MS:
                result = local.solve(window, parse_objective(text), Budget(time_limit_s=ms / 1000))
                values.append(result.value.objective if result.value is not None else float("inf"))
                reference.note(name, text, values[-1])
            found.append((regime, name, window, values))
        for regime, name, window, values in found:
            best = reference.values[f"{name} {text}"]
            loss = [100 * (v - best) / best if best else 0.0 for v in values]
            for key in ((len(window.calls), regime), (len(window.calls), "all")):
                losses[key].append(loss)
        print(f"\n**{text}**: mean (largest) loss in %, and share of windows within 1%, after so many CPU ms\n")
        print("| calls | regime | windows |" + "".join(f" {ms} ms | within 1% |" for ms in LIMITS_MS))
        print("|---:|---|---:|" + "---:|---:|" * len(LIMITS_MS))
        for (size, regime), all_losses in sorted(losses.items(), key=lambda item: (item[0][0], item[0][1])):
            cells = ""
            for k in range(len(LIMITS_MS)):
                column = [loss[k] for loss in all_losses]
                near = sum(x <= 1 for x in column) / len(column)
                cells += f" {statistics.mean(column):.2f} ({max(column):.1f}) | {near:.0%} |"
            print(f"| {size} | {regime} | {len(all_losses)} |{cells}")
    reference.save()


def proof_table(rows: list[tuple[str, str, Window]], solvers: list[str], limit_s: float) -> None:
    """Print how soon the bottleneck is proved, by size and regime; what is open at the limit counts as that much."""
    print(f"\n**Proof of the bottleneck** within {limit_s:g} s: median and 90% of CPU ms; mean gap of the others\n")
    print("| calls | regime | windows | solver | proved | median ms | 90% | gap % |")
    print("|---:|---|---:|---|---:|---:|---:|---:|")
    for label in solvers:
        name, _, given = label.partition(":")
        options = dict(pair.split("=", 1) for pair in given.split(",") if pair)
        values = {k: {"True": True, "False": False}.get(v, int(v) if v.isdigit() else v) for k, v in options.items()}
        solver = make_formulation(name, **{"ties": False, **values})
        spent: dict[tuple[int, str], list[tuple[float, float | None]]] = defaultdict(list)  # gap: None where proved
        for regime, _, window in rows:
            result = solver.solve(window, parse_objective("bottleneck"), Budget(time_limit_s=limit_s))
            took = result.proved_s
            ms, gap = (1000 * limit_s, 100 * (result.gap or 0.0)) if took is None else (1000 * took, None)
            for key in ((len(window.calls), regime), (len(window.calls), "all")):
                spent[key].append((ms, gap))
        for (size, regime), all_spent in sorted(spent.items()):
            times = sorted(ms for ms, _ in all_spent)
            gaps = [gap for _, gap in all_spent if gap is not None]
            print(
                f"| {size} | {regime} | {len(times)} | {label} | {len(times) - len(gaps)} | "
                f"{statistics.median(times):.1f} | {times[int(0.9 * (len(times) - 1))]:.0f} | "
                f"{statistics.mean(gaps) if gaps else 0:.2f} |",
                flush=True,
            )


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tables", nargs="*", default=["search", "proof"], help="search, proof, or reference")
    parser.add_argument("--sizes", type=int, nargs="*", default=[32, 64])
    parser.add_argument("--no-library", action="store_true")
    parser.add_argument("--random", type=int, default=1, help="random windows of each regime and size")
    parser.add_argument("--objective", action="append", help="of the search table; bottleneck and sum if absent")
    parser.add_argument("--reference", type=Path, help="file of best known values, read and written")
    parser.add_argument("--reference-s", type=float, default=2.0, help="seconds to look for the best known; 0: none")
    parser.add_argument("--solver", action="append", help="of the proof table, NAME[:OPTION=VALUE,…]")
    parser.add_argument("--proof-s", type=float, default=2.0, help="limit of a proof")
    parser.add_argument("--only", default="", help="only regimes with this in their names")
    given = parser.parse_args()
    rows = [row for row in windows(given.sizes, not given.no_library, given.random) if given.only in row[0]]
    objectives = given.objective or ["bottleneck", "sum"]
    reference = Reference(given.reference, given.reference_s)
    if "search" in given.tables or "reference" in given.tables:
        for _, name, window in rows:
            for text in objectives:
                reference.find(name, text, window)
    if "search" in given.tables:
        search_table(rows, reference, objectives)
    if "proof" in given.tables:
        proof_table(rows, given.solver or ["portfolio", "cpsat"], given.proof_s)


if __name__ == "__main__":
    main()
