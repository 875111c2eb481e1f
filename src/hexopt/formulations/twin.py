"""The checker's compiled twin: the same answer to the microsecond, quick enough to be asked thousands of times.

The checker remains the judge: what a formulation reports comes from it. The twin is what a search asks meanwhile.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

import numpy as np

from hexopt.core.window import Window, WindowPlan
from hexopt.formulations.arrays import Ints, WindowArrays, arrays_of
from hexopt.formulations.jit import Compiler


@cache
def load_kernels() -> ModuleType:
    """Return the kernels, compiled and ready to run.

    Where Numba is not installed, or finds no folder to keep what it compiles, they are plain Python: the same answers,
    a hundred times slower. ``Compiler.plain`` says so.
    """
    try:
        from hexopt.formulations import kernels

        kernels.compile_all()
    except (ImportError, RuntimeError, OSError):
        Compiler.plain = True
        from hexopt.formulations import kernels

        kernels = importlib.reload(kernels)
    return kernels


def plan_arrays(window: Window, plan: WindowPlan) -> tuple[Ints, Ints, Ints]:
    """Return the instances of each call (decode −1 for none) and its place in the order of (priority, position)."""
    n = len(plan)
    p = np.array([row.prefill for row in plan], np.int64)
    d = np.array([-1 if row.decode is None else row.decode for row in plan], np.int64)
    rank = np.empty(n, np.int64)
    rank[sorted(range(n), key=lambda c: plan[c].priority)] = np.arange(n)
    return p, d, rank


def play(window: Window, plan: WindowPlan, arrays: WindowArrays | None = None) -> Ints:
    """Play a plan that breaks no rule of placement, and return its times.

    Returns
    -------
    Ints
        Shape (calls, 5): start and end of prefill, admission, start of the transfer, completion, µs after the cut; −1
        for what does not occur. The checker's ``Verdict`` has the same.

    Raises
    ------
    OverflowError
        The window's times are too large for it.
    """
    kernels = load_kernels()
    a = arrays or arrays_of(window)
    if a is None:
        raise OverflowError(f"window '{window.name}': sums of its times could exceed 2**61 µs, use the checker")
    times = np.empty((len(window.calls), 5), np.int64)
    kernels.play(a, *plan_arrays(window, plan), times)
    return times
