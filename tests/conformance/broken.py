"""Policies that each break one rule, and what the kit must say of them."""

from __future__ import annotations

import gc
import itertools
import math
import os
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import NO_PLAN, Decision, Plan
from hexopt.core.protocols import LatencyModel
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.sim.engine import Simulation


class Decent:
    """Breaks nothing: all that is wrong with a policy below is what it adds."""

    name: ClassVar[str] = "decent"

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        self.rng = rng

    def plan(self, view: View) -> Plan:
        return Plan([self.place(call) for call in view.pool])

    def place(self, call: CallView) -> Decision:
        return Decision(call.key, call.prefill_candidates[-1], call.decode_candidates[-1], self.priority(call))

    def priority(self, call: CallView) -> float:
        return float(call.ready_us)


class Liberties(Decent):
    """Breaks nothing either, and does all that is allowed: moves, re-binds, re-ranks, holds back, asks for wake-ups."""

    name: ClassVar[str] = "liberties"

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        super().reset(cluster, latency, rng)
        self.handoff = cluster.binding == "handoff"

    def plan(self, view: View) -> Plan:
        held = [call for call in view.pool if view.now_us < call.ready_us + 300]
        decisions = [self.place(call) for call in view.pool if call not in held]
        for p in view.prefill:
            decisions += [self.place(call) for _, call in sorted(p.queue.items()) if call.key % 3]
        for d in view.decode:
            for _, call in sorted(d.bound.items()):
                if CallState.PREFILLING <= call.state <= CallState.TRANSFERRED:
                    free = self.handoff and call.state <= CallState.ADMISSION
                    decode = self.one_of(call.decode_candidates) if free else call.decode
                    decisions.append(Decision(call.key, call.prefill, decode, float(self.rng.normal())))
        return Plan(decisions, min(call.ready_us for call in held) + 300 if held else None)

    def place(self, call: CallView) -> Decision:
        p, d = self.one_of(call.prefill_candidates), self.one_of(call.decode_candidates)
        return Decision(call.key, p, d, float(self.rng.normal()))

    def one_of(self, candidates: Sequence[int]) -> int:
        return candidates[int(self.rng.integers(len(candidates)))]


# ----- P1, P2 ---------------------------------------------------------------------------------------------------------


class Nameless(Decent):
    name: ClassVar[str] = ""


class NoPlan:
    name: ClassVar[str] = "planless"

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        pass


class StrangeTriggers(Decent):
    triggers = ("call-ready",)


class NegativeLatency(Decent):
    plan_latency_us = -1


class FallbackByName(Decent):
    fallback = "fcfs"


class FixedTable(Decent):
    """Has memory for 256 waiting calls."""

    def plan(self, view: View) -> Plan:
        table = [0] * 256
        for i, call in enumerate(view.pool):
            table[i] = call.key
        return super().plan(view)


class NeedsCalls(Decent):
    def plan(self, view: View) -> Plan:
        assert view.pool[0].ready_us >= 0
        return super().plan(view)


class Averages(Decent):
    """Divides by what may be nothing, in ``reset``."""

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        self.spread = 1 / (len(cluster.prefill) - 1)


class Crashing(Decent):
    name: ClassVar[str] = "crashing"

    def plan(self, view: View) -> Plan:
        raise ZeroDivisionError


class BadFallback(Decent):
    def __init__(self) -> None:
        self.fallback = Crashing()


# ----- P3, P4 ---------------------------------------------------------------------------------------------------------


class TooSmall(Decent):
    """Does not look at the candidates."""

    def place(self, call: CallView) -> Decision:
        return Decision(call.key, 0, 0, 0.0)


class Confuses(Decent):
    """Numbers decode instances on from the prefill instances."""

    def place(self, call: CallView) -> Decision:
        return super().place(call)._replace(decode=call.decode_candidates[-1] + 3)


class Names(Decent):
    def place(self, call: CallView) -> Decision:
        return super().place(call)._replace(prefill="p0")  # type: ignore[arg-type]


class Twice(Decent):
    def plan(self, view: View) -> Plan:
        return Plan([self.place(call) for call in view.pool for _ in range(1 + len(view.pool) // 4)])


class WakesBefore(Decent):
    def plan(self, view: View) -> Plan:
        return super().plan(view)._replace(wake_us=view.now_us)


class NotANumber(Decent):
    def priority(self, call: CallView) -> float:
        return math.nan if call.parents else 0.0


class Infinite(Decent):
    def priority(self, call: CallView) -> float:
        return -math.inf


class Moves(Decent):
    """Re-places calls that run already."""

    def plan(self, view: View) -> Plan:
        running = [c for d in view.decode for c in d.bound.values() if c.state == CallState.RUNNING]
        return Plan([self.place(call) for call in (*view.pool, *running)])


class Haunts(Decent):
    """Decides about calls that are complete."""

    def plan(self, view: View) -> Plan:
        parents = {p.key: p for call in view.pool for p in call.parents}
        return Plan([self.place(call) for call in (*view.pool, *parents.values())])


class Answerless(Decent):
    def plan(self, view: View) -> Any:
        return super().plan(view) if view.pool else None


class Invents(Decent):
    """Decides about call 0 before there is any."""

    def plan(self, view: View) -> Plan:
        return super().plan(view) if view.pool else Plan([Decision(0, 0, 0, 0.0)])


# ----- P5 -------------------------------------------------------------------------------------------------------------


class Forgets(Decent):
    """Every seventh call is never placed."""

    def plan(self, view: View) -> Plan:
        return Plan([self.place(call) for call in view.pool if call.key % 7 != 6])


class Waits(Decent):
    """Does nothing, again and again."""

    def plan(self, view: View) -> Plan:
        return Plan((), view.now_us + 1)


class OnlyOnReady(Decent):
    """Places one call at each invocation, and is invoked once for all that become ready at an instant."""

    triggers = frozenset((Trigger.CALL_READY,))

    def plan(self, view: View) -> Plan:
        return Plan([self.place(call) for call in view.pool[:1]])


# ----- P6, P7 ---------------------------------------------------------------------------------------------------------


class Marks(Decent):
    def place(self, call: CallView) -> Decision:
        call.priority = -1.0
        return super().place(call)


class Sorts(Decent):
    def plan(self, view: View) -> Plan:
        view.pool.sort(key=lambda call: -call.key)  # type: ignore[attr-defined]
        return super().plan(view)


class Dequeues(Decent):
    def plan(self, view: View) -> Plan:
        for p in view.prefill:
            p.queue.clear()  # type: ignore[attr-defined]
        return super().plan(view)


class Books(Decent):
    """Keeps its books in the view's own."""

    def place(self, call: CallView) -> Decision:
        call.workflow.calls.append(call)
        return super().place(call)


class Narrows(Decent):
    def place(self, call: CallView) -> Decision:
        call.decode_candidates = list(call.decode_candidates)[:1]
        return super().place(call)


class Empties(Decent):
    def plan(self, view: View) -> Plan:
        plan = super().plan(view)
        view.pool = None  # type: ignore[assignment]
        return plan


class Coin(Decent):
    def priority(self, call: CallView) -> float:
        return random.random()


class NumpyCoin(Decent):
    def priority(self, call: CallView) -> float:
        return float(np.random.rand())


class Seeds(Decent):
    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        random.seed(0)


# ----- P8, P9 ---------------------------------------------------------------------------------------------------------


class Entropy(Decent):
    def priority(self, call: CallView) -> float:
        return float(int.from_bytes(os.urandom(6)))


class Unseeded(Decent):
    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        self.rng = np.random.default_rng()

    def plan(self, view: View) -> Plan:
        decisions = super().plan(view).decisions
        return Plan([decisions[i] for i in self.rng.permutation(len(decisions))])


class SharedCount(Decent):
    """Its memory lies in the class."""

    count = itertools.count()

    def priority(self, call: CallView) -> float:
        return float(next(self.count) % 100)


class TrustsOrder(Decent):
    """Ranks queued calls by where they stand in a mapping."""

    def plan(self, view: View) -> Plan:
        again = [Decision(c.key, c.prefill, c.decode, float(i)) for i, c in enumerate(view.prefill[0].queue.values())]
        return Plan([*super().plan(view).decisions, *again])


class Remembers(Decent):
    """Counts calls, and ``reset`` does not start again."""

    def __init__(self) -> None:
        self.calls = 0

    def priority(self, call: CallView) -> float:
        self.calls += 1
        return float(self.calls)


class KeepsGenerator(Decent):
    """Takes the generator of the first run only."""

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        self.rng = getattr(self, "rng", rng)

    def priority(self, call: CallView) -> float:
        return float(self.rng.random())


class WarmStart(Decent):
    """What it learnt of an application's outputs survives reset."""

    def __init__(self) -> None:
        self.longest: dict[str, int] = {}

    def priority(self, call: CallView) -> float:
        for parent in call.parents:
            app = parent.workflow.app
            self.longest[app] = max(self.longest.get(app, 0), parent.output_tokens)
        return float(self.longest.get(call.workflow.app, 0))


# ----- P10 ------------------------------------------------------------------------------------------------------------


def engine_above() -> Simulation:
    """Find the engine among the callers."""
    frame: Any = sys._getframe()
    while not isinstance(frame.f_locals.get("self"), Simulation):
        frame = frame.f_back
    found: Simulation = frame.f_locals["self"]
    return found


class KnowsLengths(Decent):
    """Shortest true output first."""

    def priority(self, call: CallView) -> float:
        return float(engine_above()._live[call.key].output_tokens)


class KnowsOneLength(Decent):
    """Looks at lengths only of workflows whose first calls are complete."""

    def priority(self, call: CallView) -> float:
        return float(engine_above()._live[call.key].output_tokens > 500) if call.parents else 0.0


class Collects(Decent):
    """Finds the engine's record of a call with the garbage collector; of one call, for it takes its time."""

    def priority(self, call: CallView) -> float:
        if call.key:
            return 0.0
        (live,) = [r for r in gc.get_referrers(call) if type(r).__name__ == "LiveCall"]
        return float(live.output_tokens)


class KnowsWhatFollows(Decent):
    """Workflows with the least calls left first."""

    def priority(self, call: CallView) -> float:
        return float(engine_above()._live[call.key].workflow.remaining)


class KnowsArrivals(Decent):
    """Has the number of workflows to come."""

    def priority(self, call: CallView) -> float:
        engine = engine_above()
        return float(len(engine._roots) - engine._next_root)


class KnowsPrompts(Decent):
    """Has the trace: prefers workflows with small prompts to come."""

    def priority(self, call: CallView) -> float:
        truth = engine_above().trace.workflows[call.workflow.index]
        return float(sum(c.prompt_tokens for c in truth.calls))


class SleepsUntilTold(Decent):
    """Asks for a wake-up at the next arrival, which nobody can know."""

    def plan(self, view: View) -> Plan:
        if not view.pool:
            return NO_PLAN
        engine = engine_above()
        later = [at_us for at_us, *_ in engine._roots[engine._next_root :] if at_us > view.now_us]
        return super().plan(view)._replace(wake_us=later[0] if later else None)


class Broken(NamedTuple):
    """A policy, the rule it breaks, and words that the message must have."""

    policy: Callable[[], Any]
    rule: str
    words: tuple[str, ...]


BROKEN = (
    Broken(Nameless, "P1", ("of name (a text), reset and plan it has name, reset, plan",)),
    Broken(NoPlan, "P1", ("policy 'planless'", "it has name, reset, P1 protocol")),
    Broken(StrangeTriggers, "P1", ("its triggers hold 'call-ready'", "no hexopt.core.view.Trigger")),
    Broken(NegativeLatency, "P1", ("plan_latency_us is -1",)),
    Broken(FallbackByName, "P1", ("its fallback is 'fcfs'",)),
    Broken(FixedTable, "P2", ("'thousand'", "raised IndexError", "at 0 µs with 1000 calls in the pool")),
    Broken(NeedsCalls, "P2", ("in an idle cluster", "raised IndexError", "with 0 calls in the pool and 0 queued")),
    Broken(Averages, "P2", ("raised ZeroDivisionError (division by zero) in reset",)),
    Broken(BadFallback, "P2", ("its fallback 'crashing' raised ZeroDivisionError",)),
    Broken(TooSmall, "P3", ("on prefill instance 0 where [1", "are legal", "choose among the call's")),
    Broken(Confuses, "P3", ("on decode instance 3 where [0] are legal",)),
    Broken(Names, "P3", ("on prefill instance 'p0'",)),
    Broken(Twice, "P4", ("decides twice about call 0", "a plan decides at most once about a call")),
    Broken(WakesBefore, "P4", ("for a wake-up at 1000 µs", "later wake-ups only")),
    Broken(NotANumber, "P4", ("priority nan is no finite number",)),
    Broken(Infinite, "P4", ("priority -inf is no finite number",)),
    Broken(Moves, "P4", ("the call has joined its batch", "only about what can still be decided")),
    Broken(Haunts, "P4", ("the call is complete",)),
    Broken(Answerless, "P4", ("a policy answers with Plan(decisions, wake_us)",)),
    Broken(Invents, "P4", ("about no call",)),
    Broken(Forgets, "P5", ("left calls behind", "in state pool", "every call is placed in the end")),
    Broken(Waits, "P5", ("was invoked 50000 times", "without end")),
    Broken(OnlyOnReady, "P5", ("left calls behind",)),
    Broken(Marks, "P6", ("wrote to the view at 0 µs: priority of call 0 ('w0/c0') was 0.0 and is -1.0", "copy")),
    Broken(Sorts, "P6", ("pool of the view was [0, 1, 2] and is [2, 1, 0]",)),
    Broken(Dequeues, "P6", ("queue of instance 'p0' was [", "and is []")),
    Broken(Books, "P6", ("calls of workflow 'w0' was [0] and is [0, 0]",)),
    Broken(Narrows, "P6", ("decode_candidates of call 0 ('w0/c0') was range(0, 1) and is [0]",)),
    Broken(Empties, "P6", ("pool of the view was [] and is None",)),
    Broken(Coin, "P7", ("used the global generator of random at 0 µs", "draw from the generator that reset is given")),
    Broken(NumpyCoin, "P7", ("used the global generator of numpy.random at 0 µs",)),
    Broken(Seeds, "P7", ("used the global generator of random in reset",)),
    Broken(Entropy, "P8", ("of two fresh instances decided at 0 µs once (call=0,", "same views and the same seed")),
    Broken(Unseeded, "P8", ("of two fresh instances decided at",)),
    Broken(SharedCount, "P8", ("state outside the instance",)),
    Broken(TrustsOrder, "P8", ("of two fresh instances decided at", "mappings have no order", "sort what comes from")),
    Broken(Remembers, "P9", ("after other runs of a fresh and a used instance decided", "priority=1.0", "in reset")),
    Broken(KeepsGenerator, "P9", ("of a fresh and a used instance decided at 0 µs",)),
    Broken(WarmStart, "P9", ("of a fresh and a used instance decided",)),
    Broken(KnowsLengths, "P10", ("decided at 0 µs", "differ only in the true output lengths of all calls", "shows at")),
    Broken(KnowsOneLength, "P10", ("differ only in the true output length",)),
    Broken(Collects, "P10", ("differ only in the true output lengths of all calls",)),
    Broken(KnowsWhatFollows, "P10", ("differ only in which workflows go on",)),
    Broken(KnowsArrivals, "P10", ("differ only in the workflows that arrive later",)),
    Broken(KnowsPrompts, "P10", ("differ only in the calls that are not yet revealed",)),
    Broken(SleepsUntilTold, "P10", ("asked at", "once for wake-up", "the workflows that arrive later")),
)
