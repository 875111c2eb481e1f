"""``autellix-atlas``: adaptive thread-level attained service (Autellix, arXiv 2502.13965), along the critical path.

A completed call lifts its program's service to ``max(service, what the call inherited + its execution)``, and a new
call inherits that: calls that run side by side count once. See :mod:`hexopt.policies.autellix`.
"""

from __future__ import annotations

from typing import ClassVar

from hexopt.policies.autellix import Autellix


class AutellixAtlas(Autellix):
    """Least attained service first; a program's service is that of its longest chain of calls."""

    name: ClassVar[str] = "autellix-atlas"
    critical_path: ClassVar[bool] = True
