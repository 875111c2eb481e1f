"""``rolling-cpsat``: CP-SAT in the loop (``rolling.py``)."""

from __future__ import annotations

from typing import ClassVar

from hexopt.policies.rolling import Rolling


class RollingCpsat(Rolling):
    """HexAGenT's plan, improved by CP-SAT."""

    name: ClassVar[str] = "rolling-cpsat"
    own_formulation: ClassVar[str] = "cpsat"
    own_deterministic: ClassVar[float] = 0.002
