"""How wrong a window is about the future that it describes.

A plan of a window is played by the checker and carried out by the engine, from the instant of the cut on. Between what
the window foretells and what the engine makes of the same plan for the same calls lie three steps, each of which
changes one thing:

=============  ==========  ==========================================================================================
``foretold``   checker     the window as a policy can cut it
``lengths``    checker     the window cut with true output lengths: of its calls and of the residents
``batch``      checker     its decode times, too, at the batch that the plan leads to, not at one of ``max_new``
``alone``      engine      calls that become ready later are left in the pool
``joined``     engine      they are placed by ``earliest-finish`` when they are ready, behind the plan's in every queue
=============  ==========  ==========================================================================================

So the differences of neighbours are the error by cause, and add up to the error. What is left between ``batch`` and
``alone`` is what a window cannot say: that batches shrink and grow, that a call waits for an iteration to end (or for
room in a full batch) before it joins, that contexts grow, and rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from hexopt.api import make_policy, simulate
from hexopt.core.cluster import Cluster
from hexopt.core.plan import NO_PLAN, Decision, Plan
from hexopt.core.protocols import ALL_TRIGGERS, LatencyModel, Policy, Predictor
from hexopt.core.view import CallState, CallView, Trigger, View
from hexopt.core.window import Window, WindowPlan
from hexopt.core.workflow import Trace
from hexopt.errors import WindowError
from hexopt.formulations.checker import Verdict, check
from hexopt.policies.cutting import Cut, Cutter, Horizons, waiting_calls
from hexopt.policies.projection import Estimator

if TYPE_CHECKING:
    import pandas as pd

Planner = Callable[[Window], WindowPlan | None]
"""Plans a window; ``None``: it found no plan."""


class Times(NamedTuple):
    """Steps of one call, µs after the cut; 0 for a prefill that was over then, -1 for a step that does not occur.

    ``arrive_us``: its KV is on the decode instance. ``join_us``: it decodes; to the checker that is the same.
    """

    prefill_start_us: int
    prefill_end_us: int
    admit_us: int
    arrive_us: int
    join_us: int
    finish_us: int

    def stages(self) -> tuple[int, ...]:
        """Return how long each of :data:`STAGES` lasts, µs; they add up to ``finish_us``."""
        if self.admit_us < 0:
            return self.prefill_end_us, 0, 0, 0, 0
        at = (0, self.prefill_end_us, self.admit_us, self.arrive_us, self.join_us, self.finish_us)
        return tuple(b - a for a, b in pairwise(at))


STAGES = ("prefill", "admission", "transfer", "boundary", "decode")
"""What a call does one after the other: wait for its prefill and do it, wait for KV room, be transferred, wait for the
end of an iteration or for room in the batch, decode."""

WORLDS = ("foretold", "lengths", "batch", "alone", "joined")
"""From what the window says to what happens, one change at a time."""

CAUSES = ("lengths", "cap", "batch", "later")
"""What each change is about: output lengths, ``max_new``, the batch as it changes with time, calls that come later."""


@dataclass(frozen=True)
class Future:
    """A window, a plan of it, and what becomes of its calls in each of :data:`WORLDS`, in the order of its calls.

    ``at_us`` is the instant of the cut.
    """

    window: Window
    plan: WindowPlan
    at_us: int
    worlds: dict[str, tuple[Times, ...]]


def window_futures(
    trace: Trace,
    cluster: Cluster,
    policy: Policy | str,
    planner: Planner,
    *,
    least: int = 1,
    most: int = 128,
    limit: int = 10,
    predictor: str | Predictor = "app-mean",
    seed: int = 0,
    arrivals: str | None = None,
    delays: str | None = None,
) -> list[Future]:
    """Cut windows of all waiting calls from a run and see what becomes of a plan of each.

    The run is simulated once to find the instants, and twice for each window: it takes 1 + 2·``limit`` times as long.

    Parameters
    ----------
    policy
        Who decides before the cut, without plan latency.
    planner
        Plans each window, as the policy can cut it.
    least, most
        Fewest and most open calls of a window.
    limit
        So many windows are taken, evenly spread over all instants at which the policy was asked and that would do.
    predictor, seed, arrivals, delays
        As for :func:`hexopt.simulate`.

    Raises
    ------
    WindowError
        The planner has no plan, or one that breaks a rule of its window.
    """
    made = make_policy(policy) if isinstance(policy, str) else policy

    def run(carry: _Carry) -> _Carry:
        with suppress(_OverError):
            simulate(trace, cluster, carry, predictor=predictor, seed=seed, arrivals=arrivals, delays=delays)
        return carry

    waiting = run(_Carry(made, trace, planner)).waiting
    would_do = [k for k, count in enumerate(waiting) if least <= count <= most]
    picked = sorted({round(i) for i in np.linspace(0, len(would_do) - 1, min(limit, len(would_do)))})
    futures = []
    for k in picked:
        alone = run(_Carry(made, trace, planner, number=would_do[k]))
        cut, plan = alone.cut, alone.window_plan
        behind = make_policy("earliest-finish", plan_latency_us=0, fallback="none")
        joined = run(_Carry(made, trace, _always(plan), number=would_do[k], behind=behind))
        worlds = {**alone.forecasts, "alone": alone.times(), "joined": joined.times()}
        futures.append(Future(cut.window, plan, alone.at_us, worlds))
    return futures


def errors(futures: Iterable[Future]) -> pd.DataFrame:
    """Return a row for each call of each window.

    Columns: ``window`` (a number), ``at_us``, ``call``, ``state``, ``calls`` (of the window); its finish in each of
    :data:`WORLDS` (``foretold_us``, …, µs after the cut); ``error_us``, foretold less what happens with all who join,
    so that what comes sooner than foretold has a positive one, with its parts by cause (``cause_lengths_us``, …) and
    by stage (``stage_prefill_us``, …), which add up to it.
    """
    import pandas as pd

    rows = []
    for number, future in enumerate(futures):
        for c, call in enumerate(future.window.calls):
            times = [future.worlds[world][c] for world in WORLDS]
            finish = [t.finish_us for t in times]
            row = {
                "window": number,
                "at_us": future.at_us,
                "call": call.id,
                "state": call.state,
                "calls": len(future.window.calls),
            }
            row |= {f"{world}_us": us for world, us in zip(WORLDS, finish, strict=True)}
            row["error_us"] = finish[0] - finish[-1]
            row |= {f"cause_{name}_us": a - b for name, (a, b) in zip(CAUSES, pairwise(finish), strict=True)}
            foretold, happens = times[0].stages(), times[-1].stages()
            row |= {f"stage_{name}_us": a - b for name, a, b in zip(STAGES, foretold, happens, strict=True)}
            rows.append(row)
    return pd.DataFrame(rows)


class _OverError(Exception):
    """The rest of the run is not needed."""


def _always(plan: WindowPlan) -> Planner:
    return lambda _: plan


class _Carry:
    """Does as ``policy`` does until it is asked for the ``number``-th time, and then carries out a plan of a window.

    From then on ``behind`` (nobody: ``None``) places calls that are not of the window, and the run ends when those of
    the window are complete. ``waiting``: how many calls were waiting each time before.
    """

    name: ClassVar[str] = "carry"
    triggers = ALL_TRIGGERS
    fallback: ClassVar[Policy | None] = None
    plan_latency_us = 0

    def __init__(
        self, policy: Policy, trace: Trace, planner: Planner, *, number: int = -1, behind: Policy | None = None
    ) -> None:
        self.policy = policy
        self.waiting: list[int] = []
        self.at_us = 0
        self.window_plan: WindowPlan = ()
        self.forecasts: dict[str, tuple[Times, ...]] = {}
        self._trace = trace
        self._planner = planner
        self._number = number
        self._behind = behind
        self._subscribed: frozenset[Trigger] = frozenset(getattr(policy, "triggers", ALL_TRIGGERS))

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        self._cutter = Cutter(cluster, latency)
        self._horizons = Horizons(Estimator(cluster, latency))
        self._latency = latency
        self._carried = False
        self.policy.reset(cluster, latency, rng)
        if self._behind is not None:
            self._behind.reset(cluster, latency, rng)

    def plan(self, view: View) -> Plan:
        if self._carried:
            return self._go_on(view)
        if len(self.waiting) == self._number:
            self._carried = True
            return self._carry_out(view)
        self.waiting.append(len(waiting_calls(view)))
        view.triggers &= self._subscribed
        return self.policy.plan(view) if view.triggers else NO_PLAN

    def times(self) -> tuple[Times, ...]:
        """Return what became of the calls of the window."""
        return tuple(_happened(call, self.at_us) for call in self.cut.calls)

    def _carry_out(self, view: View) -> Plan:
        self.at_us = view.now_us
        self.cut = self._cutter.cut(view, self._horizons.of, name=f"{self._trace.name}-{view.now_us}")
        window = self.cut.window
        found = self._planner(window)
        if found is None:
            raise WindowError(f"window '{window.name}': the planner has no plan, one is needed, use another planner")
        self.window_plan = plan = found
        # The same plan in windows that differ from this one as little as can be.
        with _told_the_truth(view, self._trace, self._latency):
            sent = [0] * len(window.decode)
            for call, (_, d, _) in zip(self.cut.calls, plan, strict=True):
                if call.state <= CallState.QUEUED and call.predicted_output_tokens > 1:
                    sent[_decode_of(d, call)] += 1
            room = [max(pair) for pair in zip(sent, (d.max_new for d in window.decode), strict=True)]
            lengths = self._cutter.cut(view, _no_horizon, max_new=room)
            batch = self._cutter.cut(view, _no_horizon, max_new=sent)
        for name, cut in (("foretold", self.cut), ("lengths", lengths), ("batch", batch)):
            self.forecasts[name] = _foretell(cut, plan)
        order = sorted(range(len(plan)), key=lambda k: (plan[k].priority, k))
        decisions = []
        for rank, k in enumerate(order):
            call, (p, d, _) = self.cut.calls[k], plan[k]
            decisions.append(Decision(call.key, p, _decode_of(d, call), float(rank)))
        return Plan(decisions)

    def _go_on(self, view: View) -> Plan:
        if all(call.state == CallState.COMPLETE for call in self.cut.calls):
            raise _OverError
        if self._behind is None or not view.pool:
            return NO_PLAN
        # Later than all calls of the window, whose priorities are their ranks.
        ahead = len(self.cut.calls)
        plan = self._behind.plan(view)
        return Plan([d._replace(priority=ahead + d.priority) for d in plan.decisions])


def _no_horizon(call: CallView) -> int:
    return 1  # times do not depend on it


def _decode_of(decode: int | None, call: CallView) -> int:
    """Return the decode instance of a placement: a call that is thought to need none is bound to one all the same."""
    if decode is not None:
        return decode
    return call.decode if call.decode >= 0 else min(call.decode_candidates)


@contextmanager
def _told_the_truth(view: View, trace: Trace, latency: LatencyModel) -> Generator[None]:
    """Have a view foretell true output lengths for a while. The engine keeps its own books and does not notice."""
    calls = {c.key: c for c in view.pool} | {k: c for d in view.decode for k, c in d.bound.items()}
    before = [(c, c.predicted_output_tokens, c.kv_blocks) for c in calls.values()]
    try:
        for call in calls.values():
            tokens = trace.workflows[call.workflow.index].calls[call.index].output_tokens
            call.predicted_output_tokens = tokens
            call.kv_blocks = latency.blocks(call.prompt_tokens + tokens)
        yield
    finally:
        for call, tokens, blocks in before:
            call.predicted_output_tokens, call.kv_blocks = tokens, blocks


def _foretell(cut: Cut, plan: WindowPlan) -> tuple[Times, ...]:
    """Return what the checker says of a plan."""
    window = cut.window
    placements = [
        placement._replace(decode=None if known.one_token else _decode_of(placement.decode, call))
        for placement, call, known in zip(plan, cut.calls, window.calls, strict=True)
    ]
    verdict = check(window, placements)
    if verdict.violations:
        raise WindowError(f"window '{window.name}': {verdict.violations[0].message}")
    return tuple(_said(window, verdict, c, d) for c, (_, d, _) in enumerate(placements))


def _said(window: Window, verdict: Verdict, c: int, d: int | None) -> Times:
    call, finish = window.calls[c], verdict.finish_us[c]
    arrive = -1 if d is None else finish - (call.decode_us[d] or 0)
    return Times(verdict.prefill_start_us[c], verdict.prefill_end_us[c], verdict.admit_us[c], arrive, arrive, finish)


def _happened(call: CallView, at_us: int) -> Times:
    def after(us: int) -> int:
        return -1 if us < 0 else us - at_us

    start = -1 if call.prefill_start_us < at_us and call.prefill_start_us >= 0 else after(call.prefill_start_us)
    return Times(
        start,
        max(0, after(call.prefill_end_us)),
        after(call.admit_us),
        after(call.transfer_end_us),
        after(call.join_us),
        after(call.complete_us),
    )
