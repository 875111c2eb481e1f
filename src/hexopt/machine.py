"""The machine that solve times depend on: processor, cores, and the versions of what solves."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ortools", "pulp", "highspy", "numba", "numpy")
"""Whose versions matter; those that are not installed are left out."""


def machine() -> dict[str, str]:
    """Return what the times depend on: the processor, the number of cores, and the versions of Python and solvers."""
    facts = {"python": platform.python_version(), "system": platform.system(), "cores": str(os.cpu_count())}
    facts["processor"] = processor()
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    return facts


@cache
def processor() -> str:
    """Return the model name of the processor, its architecture where the system tells no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
