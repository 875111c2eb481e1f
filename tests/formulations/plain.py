"""The kernels as they are where Numba is missing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

from hexopt.formulations import kernels
from hexopt.formulations.jit import Compiler
from hexopt.formulations.twin import load_kernels


@contextmanager
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Make Numba unavailable for a while."""

    def no_numba() -> None:
        raise ImportError("numba")

    load_kernels.cache_clear()
    try:
        monkeypatch.setitem(sys.modules, "numba", None)
        monkeypatch.setattr(kernels, "compile_all", no_numba)
        yield load_kernels()
    finally:
        monkeypatch.undo()
        Compiler.plain = False
        importlib.reload(kernels)
        load_kernels.cache_clear()
