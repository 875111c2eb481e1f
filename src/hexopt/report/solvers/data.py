"""What a solver comparison left behind, as the report sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hexopt.errors import ConfigError


@dataclass(frozen=True)
class Solves:
    """Rows of a comparison. ``solvers`` are the labels, in the file's order; ``variants`` their variants' bases.

    ``by_size`` and ``by_regime`` have a row per solver, objective, limit and size or regime.
    """

    folder: Path
    name: str
    solves: pd.DataFrame
    by_size: pd.DataFrame
    by_regime: pd.DataFrame
    solvers: tuple[str, ...]
    variants: Mapping[str, str]
    record: Mapping[str, Any]

    @property
    def objectives(self) -> list[str]:
        """Objectives, in the study's order."""
        return list(dict.fromkeys(self.solves["objective"]))

    @property
    def sizes(self) -> list[int]:
        """Sizes of the instances, in calls."""
        return sorted({int(n) for n in self.solves["calls"]})

    @property
    def limits(self) -> list[float]:
        """Time limits, ms."""
        return sorted({float(ms) for ms in self.solves["limit_ms"]})

    @property
    def main(self) -> list[str]:
        """Solvers that are no variants and have a row here: those that are ranked and drawn."""
        here = set(self.solves["solver"])
        return [label for label in self.solvers if label in here and label not in self.variants]

    def of(self, **values: Any) -> Solves:
        """Return what has these values: ``data.of(objective="sum", calls=32)``."""

        def part(table: pd.DataFrame) -> pd.DataFrame:
            for column, value in values.items():
                if column in table:
                    table = table[table[column] == value]
            return table

        return replace(self, solves=part(self.solves), by_size=part(self.by_size), by_regime=part(self.by_regime))

    @property
    def where(self) -> str:
        """What is shown, for titles."""
        objectives, sizes = self.objectives, self.sizes
        parts = [f"objective {objectives[0]}"] if len(objectives) == 1 else []
        if len(sizes) == 1:
            parts.append(f"windows of {sizes[0]} calls")
        count = self.solves["instance"].nunique()
        return ", ".join([*parts, f"{count} window{'s' * (count != 1)}"])


def is_solves_folder(folder: Path) -> bool:
    """Say whether a folder is of a solver comparison."""
    return (folder / "solves.csv").is_file()


def load_solves(folder: str | Path) -> Solves:
    """Read the folder of a solver comparison.

    Raises
    ------
    ConfigError
        It holds none, or a file of it cannot be read.
    """
    folder = Path(folder)
    try:
        text = {"instance": str, "objective": str, "solver": str, "note": str, "error": str, "regime": str}
        tables = [
            pd.read_csv(folder / name, dtype=text, keep_default_na=True)
            for name in ("solves.csv", "solver_summary.csv", "solver_by_regime.csv")
        ]
        record = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        study = record["study"]
        entries = {entry["label"] or entry["formulation"]: entry for entry in study["solvers"]}
        solves = tables[0]
        if "proved_s" not in solves:  # of an earlier version
            solves["proved_s"] = solves["wall_s"].where(solves["proved"].astype(bool))
        # A formulation that tells of no time at all has not looked at the clock.
        solves["proved_s"] = solves["proved_s"].where(~(solves["proved_s"] <= 0), solves["wall_s"])
        for column in ("note", "error"):
            solves[column] = solves[column].fillna("")
        variants = {label: entry["variant_of"] for label, entry in entries.items() if entry.get("variant_of")}
        return Solves(folder, str(study["name"]), solves, tables[1], tables[2], tuple(entries), variants, record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = str(error).strip("'\"") or type(error).__name__
        raise ConfigError(
            f"{folder}: {' '.join(what.split())}, the folder of a solver comparison holds whole tables, make it again"
        ) from None
