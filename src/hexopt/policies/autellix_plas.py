"""``autellix-plas``: program-level attained service (Autellix, arXiv 2502.13965), over all calls of a program.

The source means it for programs with one call at a time. See :mod:`hexopt.policies.autellix`.
"""

from __future__ import annotations

from typing import ClassVar

from hexopt.policies.autellix import Autellix


class AutellixPlas(Autellix):
    """Least attained service first; a program's service is the sum of its calls' execution times."""

    name: ClassVar[str] = "autellix-plas"
    critical_path: ClassVar[bool] = False
