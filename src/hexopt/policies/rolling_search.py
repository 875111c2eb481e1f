"""``rolling-search``: a compiled local search in the loop (``rolling.py``)."""

from __future__ import annotations

from typing import ClassVar

from hexopt.policies.rolling import Rolling


class RollingSearch(Rolling):
    """HexAGenT's plan, improved by a local search."""

    name: ClassVar[str] = "rolling-search"
    own_formulation: ClassVar[str] = "local-search"
    own_iterations: ClassVar[int] = 2_000
