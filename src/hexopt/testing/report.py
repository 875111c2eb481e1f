"""What a passed check says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hexopt.testing.rules import RULES


@dataclass(frozen=True)
class PlanningTime:
    """Wall-clock planning time of one scenario; it differs from run to run and decides nothing.

    ``most_waiting`` is the largest number of calls in the pool and in prefill queues at an invocation; ``mean_us`` and
    ``longest_us`` are of one invocation, in µs.
    """

    scenario: str
    invocations: int
    most_waiting: int
    mean_us: float
    longest_us: float


@dataclass(frozen=True)
class ConformanceReport:
    """What was checked.

    ``checks`` counts, by rule number: resets and plans looked at (P1 to P7), pairs of runs compared (P8 to P10).
    """

    policy: str
    checks: Mapping[str, int]
    planning: tuple[PlanningTime, ...]

    def __str__(self) -> str:
        lines = [f"policy '{self.policy}' keeps all rules"]
        lines += [f"  {number:<4}{RULES[number].title:<20}{count:>8} checks" for number, count in self.checks.items()]
        lines.append(f"  {'planning time':<26}{'invocations':>12}{'most waiting':>14}{'mean µs':>12}{'longest µs':>12}")
        lines += [
            f"    {t.scenario:<24}{t.invocations:>12}{t.most_waiting:>14}{t.mean_us:>12,.0f}{t.longest_us:>12,.0f}"
            for t in self.planning
        ]
        return "\n".join(lines)
