"""``hexopt plot``: draw the figures of a result folder."""

from __future__ import annotations

from pathlib import Path

from hexopt.cli.console import line
from hexopt.errors import ConfigError, suggest

FORMATS = ("png", "svg")


def check_formats(formats: list[str]) -> None:
    """Refuse a picture format that figures do not come in."""
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"--format: '{name}' is unknown, {suggest(name, FORMATS)}, choose one")


def plot_folder(folder: Path, formats: list[str]) -> None:
    """Write the figures of ``folder`` into ``folder/figures`` and print their paths."""
    check_formats(formats)
    from hexopt.report.data import load_results
    from hexopt.report.figures import write_figures

    for path in write_figures(load_results(folder), folder / "figures", list(dict.fromkeys(formats))):
        line(str(path))
