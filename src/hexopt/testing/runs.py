"""One watched run, and the comparison of two."""

from __future__ import annotations

from hexopt.core.protocols import Policy
from hexopt.core.streams import stream
from hexopt.core.workflow import Trace
from hexopt.errors import PlanError, SimulationStalled
from hexopt.latency import ClusterLatency
from hexopt.latency.estimates import misjudged
from hexopt.policies.fcfs import Fcfs
from hexopt.sim.engine import Simulation
from hexopt.sim.predictors import make_predictor
from hexopt.sim.table import NONE
from hexopt.testing.scenarios import Scenario
from hexopt.testing.watch import CutShort, Entry, Watch, as_policy

NEVER = 2**63


class Run:
    """A scenario carried out under a policy: what was decided, and when each call was revealed and completed.

    ``about`` is added to the scenario's name in messages. ``closely``: whether writing to a view is looked for.
    ``mirrored``: whether the view's mappings are shown in the opposite order.
    """

    def __init__(
        self, policy: Policy, scenario: Scenario, about: str = "", *, closely: bool = False, mirrored: bool = False
    ) -> None:
        fallback = None
        if scenario.fallback == "own":
            fallback = getattr(policy, "fallback", None) or Fcfs()
        self.watch = Watch(
            policy,
            f"scenario '{scenario.name}'{about}",
            plan_latency_us=scenario.plan_latency_us,
            fallback=fallback,
            at_most=scenario.at_most,
            closely=closely,
            mirrored=mirrored,
        )
        self._trace: Trace = scenario.trace
        believed = misjudged(scenario.cluster, scenario.estimate_error, stream(scenario.seed, "estimates"))
        simulation = Simulation(
            scenario.trace,
            scenario.cluster,
            as_policy(self.watch),
            make_predictor(scenario.predictor),
            seed=scenario.seed,
            stop_us=scenario.stop_us,
            estimates=ClusterLatency(believed),
        )
        self._table = simulation.table
        try:
            simulation.run()
        except CutShort:
            pass
        except PlanError as error:
            raise self.watch.breach("P4", f"made an illegal plan: {error}") from error
        except SimulationStalled as error:
            raise self.watch.breach("P5", f"left calls behind: {error}") from error

    @property
    def log(self) -> list[Entry]:
        """Every plan, the fallback's included, in order."""
        return self.watch.log

    def times(self, step: str) -> dict[tuple[int, int], int]:
        """Return by (workflow, call) the instant (µs) of a step, a column of the engine's table; never: 2⁶³."""
        column = getattr(self._table, step)
        names = ((w, c) for w, flow in enumerate(self._trace.workflows) for c in range(len(flow.calls)))
        return {name: NEVER if at_us == NONE else at_us for name, at_us in zip(names, column, strict=True)}


def difference(one: Run, other: Run, until_us: int = NEVER) -> str:
    """Say where the plans of two runs first differ before an instant; empty if they do not.

    Up to there the engine has shown both the same views, since it follows from the plans alone what is shown.
    """
    logs = [[entry for entry in run.log if entry.at_us < until_us] for run in (one, other)]
    for a, b in zip(*logs, strict=False):
        if a == b:
            continue
        who = f"{a.who} " if a.who else ""
        if (a.who, a.at_us) == (b.who, b.at_us):
            for x, y in zip(a.plan.decisions, b.plan.decisions, strict=False):
                if x != y:
                    return f"{who}decided at {a.at_us} µs once {_shown(x)} and once {_shown(y)}"
            sizes = [len(entry.plan.decisions) for entry in (a, b)]
            if sizes[0] != sizes[1]:
                return f"{who}made at {a.at_us} µs once {sizes[0]} decisions and once {sizes[1]}"
            return f"{who}asked at {a.at_us} µs once for wake-up {a.plan.wake_us} and once for {b.plan.wake_us}"
        return f"{who}was invoked once at {a.at_us} µs and once at {b.at_us} µs"
    if len(logs[0]) != len(logs[1]):
        return f"was invoked once {len(logs[0])} and once {len(logs[1])} times"
    return ""


def _shown(decision: object) -> str:
    return str(decision).removeprefix("Decision")
