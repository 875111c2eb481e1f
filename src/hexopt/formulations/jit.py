"""Numba where it is, plain Python where it is not: kernels are written once and give the same answers either way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


class Compiler:
    """Says whether kernels are compiled. ``plain`` is set where Numba is missing or cannot keep what it compiles."""

    plain = False


def jit(function: F) -> F:
    """Compile a kernel and keep the result on disk, or leave it as it is."""
    if Compiler.plain:
        return function
    import numba

    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def inlined(function: F) -> F:
    """As :func:`jit`, for a small kernel that others call: it becomes part of them."""
    if Compiler.plain:
        return function
    import numba

    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True)(function))
