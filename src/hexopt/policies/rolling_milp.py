"""``rolling-milp``: a mixed-integer programme in the loop (``rolling.py``)."""

from __future__ import annotations

from typing import ClassVar

from hexopt.policies.rolling import Rolling


class RollingMilp(Rolling):
    """HexAGenT's plan, improved by a mixed-integer programme."""

    name: ClassVar[str] = "rolling-milp"
    own_formulation: ClassVar[str] = "milp-disjunctive"
    own_deterministic: ClassVar[float] = 0.1
