"""The instance library: windows to compare solvers on, and the best that anybody has found for each.

A folder with ``instances/NAME.json`` (or ``.json.gz``) and ``best_known.csv``, one row per instance and objective: the
value, the plan that has it, and the best proved lower bound, each with who found it and in what time. A value enters
only through :meth:`Library.submit`, which lets the checker judge its plan; :meth:`Library.verify` judges all again. A
bound is the word of the one who submits it: it is refused only where a known plan proves it wrong.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from hexopt.core.window import Placement, Window, WindowPlan, load_window
from hexopt.errors import WindowError, suggest
from hexopt.formulations.checker import check
from hexopt.formulations.objective import Objective, Value, objective_text, parse_objective
from hexopt.formulations.protocol import TOLERANCE, claim, is_proved

NAME = re.compile(r"n(?P<calls>\d{3,})-(?P<regime>[a-z0-9]+(?:-[a-z0-9]+)*)-(?P<id>[a-z0-9]+)")
"""Names of instances: the number of calls, a regime, and what tells it from others."""


@dataclass(frozen=True, slots=True)
class BestKnown:
    """A row of ``best_known.csv``.

    ``value`` is the checker's objective of ``plan``, ``total`` its sum of ratios, which breaks ties; ``found_by`` and
    ``found_s`` say who found it and in what time, ``bound_by`` and ``bound_s`` the same of the proved bound. The plan
    is written in order of priority, ``position/prefill/decode`` for each call.
    """

    instance: str
    objective: str
    value: float
    total: float
    found_by: str
    found_s: float
    bound: float | None
    bound_by: str
    bound_s: float | None
    plan: str


COLUMNS = [field.name for field in fields(BestKnown)]


class Library:
    """The library in a folder, which need not exist yet."""

    def __init__(self, folder: str | os.PathLike[str] = "formulations") -> None:
        self.folder = Path(folder)

    @property
    def table(self) -> Path:
        """The file of best known values."""
        return self.folder / "best_known.csv"

    def names(self) -> list[str]:
        """Return the names of the instances, sorted, and so by size."""
        files = (self.folder / "instances").glob("n*.json*")
        return sorted(file.name.partition(".")[0] for file in files)

    def path(self, name: str) -> Path:
        """Return the file of an instance.

        Raises
        ------
        WindowError
            There is none of this name.
        """
        for suffix in (".json", ".json.gz"):
            file = self.folder / "instances" / f"{name}{suffix}"
            if file.exists():
                return file
        known = self.names()
        near = suggest(name, known) if len(known) < 12 else suggest(name, known).partition(" known:")[0]
        raise WindowError(f"instance '{name}': {self.folder / 'instances'} has none of this name, {near}, choose one")

    def load(self, name: str) -> Window:
        """Read an instance."""
        return load_window(self.path(name))

    def add(self, window: Window, name: str | None = None, compress: bool = False) -> Path:
        """Add a window under ``name``, its own name if none is given; return its file.

        Raises
        ------
        WindowError
            The name breaks the rule, does not say the number of calls, or belongs to another window.
        """
        name = name or window.name
        found = NAME.fullmatch(name)
        if found is None or int(found["calls"]) != len(window.calls):
            raise WindowError(
                f"instance '{name}': a name is nNNN-REGIME-ID with NNN the number of calls ({len(window.calls):03d}) "
                "and small letters and digits, rename it"
            )
        window = replace(window, name=name)
        if name in self.names():
            if self.load(name) == window:
                return self.path(name)
            raise WindowError(f"instance '{name}': another window has this name, names are unique, rename it")
        file = self.folder / "instances" / f"{name}.json{'.gz' if compress else ''}"
        file.parent.mkdir(parents=True, exist_ok=True)
        window.save(file)
        return file

    def best_known(self) -> dict[tuple[str, str], BestKnown]:
        """Return the rows of ``best_known.csv`` by instance and objective.

        Raises
        ------
        WindowError
            A line cannot be understood.
        """
        if not self.table.exists():
            return {}
        rows: dict[tuple[str, str], BestKnown] = {}
        with self.table.open(encoding="utf-8", newline="") as file:
            for number, line in enumerate(csv.DictReader(file), start=2):
                try:
                    row = BestKnown(
                        instance=line["instance"],
                        objective=line["objective"],
                        value=float(line["value"]),
                        total=float(line["total"]),
                        found_by=line["found_by"],
                        found_s=float(line["found_s"]),
                        bound=float(line["bound"]) if line["bound"] else None,
                        bound_by=line["bound_by"],
                        bound_s=float(line["bound_s"]) if line["bound_s"] else None,
                        plan=line["plan"],
                    )
                except (KeyError, TypeError, ValueError) as error:
                    raise WindowError(
                        f"{self.table}:{number}: {error!r}, a line has the columns {', '.join(COLUMNS)}, correct it"
                    ) from None
                rows[row.instance, row.objective] = row
        return rows

    def submit(
        self,
        name: str,
        objective: Objective,
        plan: WindowPlan | None,
        by: str,
        seconds: float,
        bound: float | None = None,
    ) -> bool:
        """Take over a plan, a bound, or both, where they are better than what is known; say whether anything was.

        Raises
        ------
        WindowError
            The plan breaks a rule of the window, the bound is above the value of a known plan, or there is no such
            instance.
        """
        return self.submit_all([(name, objective, plan, by, seconds, bound)]) > 0

    def submit_all(self, entries: Iterable[tuple[str, Objective, WindowPlan | None, str, float, float | None]]) -> int:
        """Do :meth:`submit` for many, writing once; return how many changed something."""
        rows = self.best_known()
        changed = 0
        for name, objective, plan, by, seconds, bound in entries:
            key = name, objective_text(objective)
            after = self._better(rows.get(key), key, objective, plan, by, seconds, bound)
            if after is not None and after != rows.get(key):
                rows[key] = after
                changed += 1
        if changed:
            self._write(rows)
        return changed

    def proved(self, row: BestKnown) -> bool:
        """Say whether the bound of a row proves its value; the window is read if that is not plain."""
        if row.bound is None or row.bound >= row.value:
            return row.bound is not None
        value = Value(row.value, row.total)
        return is_proved(value, row.bound, self.load(row.instance), parse_objective(row.objective))

    def verify(self) -> list[str]:
        """Let the checker judge every plan again; return what is wrong, an instance a line."""
        wrong = []
        for (name, text), row in sorted(self.best_known().items()):
            try:
                window, objective = self.load(name), parse_objective(text)
                verdict = check(window, read_plan(window, row.plan), objective)
            except WindowError as error:
                wrong.append(str(error))
                continue
            if verdict.value is None:
                wrong.append(f"instance '{name}', {text}: {verdict.violations[0].message}")
            elif (verdict.value.objective, verdict.value.total) != (row.value, row.total):
                wrong.append(f"instance '{name}', {text}: {row.value!r} found, the checker says {verdict.value}")
            elif row.bound is not None and row.bound > row.value * (1 + TOLERANCE):
                wrong.append(f"instance '{name}', {text}: bound {row.bound!r} is above the value {row.value!r}")
        return wrong

    def _better(
        self,
        before: BestKnown | None,
        key: tuple[str, str],
        objective: Objective,
        plan: WindowPlan | None,
        by: str,
        seconds: float,
        bound: float | None,
    ) -> BestKnown | None:
        name, text = key
        row = before
        for what, number, rule in (("seconds", seconds, "0 or more"), ("bound", bound, "any")):
            if number is not None and not (math.isfinite(number) and (what == "bound" or number >= 0)):
                raise WindowError(
                    f"instance '{name}': {what} is {number!r}, a finite number ({rule}) is legal, correct it"
                )
        if plan is not None:
            window = self.load(name)
            verdict = check(window, plan, objective)
            if verdict.value is None:
                raise WindowError(f"instance '{name}': {verdict.violations[0].message}")
            value, total = verdict.value
            if row is None:
                row = BestKnown(name, text, value, total, by, seconds, None, "", None, write_plan(plan))
            elif (value, total) < (row.value, row.total):
                row = replace(row, value=value, total=total, found_by=by, found_s=seconds, plan=write_plan(plan))
        if row is not None and bound is not None and (row.bound is None or bound > row.bound):
            if claim(Value(row.value, row.total), bound, self.load(name), objective).note:
                raise WindowError(
                    f"instance '{name}': bound {bound!r} by {by} is above {row.value!r}, the value of a plan found by "
                    f"{row.found_by}, a bound is below all plans, look for the mistake"
                )
            # What is above the value by rounding alone is that value.
            row = replace(row, bound=min(bound, row.value), bound_by=by, bound_s=seconds)
        return row

    def _write(self, rows: dict[tuple[str, str], BestKnown]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for key in sorted(rows):
            line = asdict(rows[key])
            for name in ("found_s", "bound_s"):
                line[name] = None if line[name] is None else f"{line[name]:.4g}"
            writer.writerow(line)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.table.with_suffix(".csv.partial")
        partial.write_text(text.getvalue(), encoding="utf-8")
        partial.replace(self.table)


def write_plan(plan: WindowPlan) -> str:
    """Return a plan as text, in order of priority: ``position/prefill/decode`` for each call, ``-`` for no decode."""
    order = sorted(range(len(plan)), key=lambda c: (plan[c].priority, c))
    return " ".join(f"{c}/{plan[c].prefill}/{'-' if plan[c].decode is None else plan[c].decode}" for c in order)


def read_plan(window: Window, text: str) -> WindowPlan:
    """Return the plan that :func:`write_plan` wrote.

    Raises
    ------
    WindowError
        The text is no plan of the window.
    """
    placements: dict[int, Placement] = {}
    try:
        for rank, part in enumerate(text.split()):
            c, p, d = part.split("/")
            placements[int(c)] = Placement(int(p), None if d == "-" else int(d), float(rank))
        return tuple(placements[c] for c in range(len(window.calls)))
    except (ValueError, KeyError):
        raise WindowError(
            f"instance '{window.name}': plan {text[:40]!r} found, it has position/prefill/decode for each of "
            f"{len(window.calls)} calls, correct it"
        ) from None


__all__ = ["BestKnown", "Library", "read_plan", "write_plan"]
