"""No path of references leads from a view to ground truth, and a view cannot be used to move the simulator."""

from __future__ import annotations

import array
import gc
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.view import CallState, CallView, DecodeView, PrefillView, View
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.sim.live import LiveCall
from hexopt.sim.prefill import PrefillEngine
from tests.invariants.runs import POLICIES, Recorder, Setting, profile, roomy, run_settings

TRUTH_MODULES = ("hexopt.sim", "hexopt.core.workflow", "hexopt.traces", "hexopt.api")
DEEPEST = 64

# Primes that no sum of small numbers and no instant of these runs is likely to hit.
SENTINELS = (104_729, 1_299_709, 15_485_863, 9_999_991, 2_750_159, 32_452_843, 86_028_121, 7_368_787)


def referents(thing: Any) -> list[Any]:
    """What an object refers to, private or not, however it is kept; code and modules lead out of the data."""
    if isinstance(thing, type | types.ModuleType | types.CodeType | types.FrameType):
        return []
    if isinstance(thing, types.FunctionType):
        return [thing.__closure__, thing.__defaults__, thing.__kwdefaults__, thing.__dict__]
    if isinstance(thing, array.array):
        return list(thing)
    if isinstance(thing, np.ndarray):
        return [*thing.ravel().tolist(), thing.base]
    if isinstance(thing, dict):
        return [*thing, *thing.values()]  # the collector does not visit keys that are text
    return gc.get_referents(thing)


def reachable(*roots: Any) -> Iterator[tuple[str, Any]]:
    """Every object that can be reached, once, with the types on the way to it."""
    known: set[int] = set()
    stack = [(root, type(root).__name__) for root in roots]
    keep = []  # so that ids stay unique
    while stack:
        thing, path = stack.pop()
        if id(thing) in known:
            continue
        known.add(id(thing))
        keep.append(thing)
        yield path, thing
        if path.count(" > ") > DEEPEST:
            raise AssertionError(f"the view is a maze: {path}")
        stack.extend((other, f"{path} > {type(other).__name__}") for other in referents(thing))


def assert_blind(hidden: set[float], unrevealed: set[str], *roots: Any) -> int:
    """Raise if ground truth can be reached; return how many objects were looked at."""
    count = 0
    for path, thing in reachable(*roots):
        count += 1
        module = type(thing).__module__ or ""
        assert not module.startswith(TRUTH_MODULES), f"{path}: an object of {module}"
        if isinstance(thing, int | float) and not isinstance(thing, bool):
            assert thing not in hidden, f"{path}: the hidden number {thing}"
        elif isinstance(thing, str):
            assert thing not in unrevealed, f"{path}: the unrevealed '{thing}'"
    return count


class Spy(Recorder):
    """Looks around before each plan of the policy it wraps, from the view and from what ``reset`` gave."""

    def __init__(self, inner: Any, trace: Trace) -> None:
        super().__init__(inner)
        self.fallback = None if self.fallback is None else Spy(self.fallback.inner, trace)
        self.trace = trace
        self.looks = 0

    def reset(self, cluster: Cluster, latency: Any, rng: np.random.Generator) -> None:
        super().reset(cluster, latency, rng)
        self._roots = (latency, cluster)
        self.met: dict[tuple[str, str], CallView] = {}

    def plan(self, view: View) -> Plan:
        # A view drops what is complete; whoever saw a call before may know its length from then on.
        for _, call in reachable(view):
            if isinstance(call, CallView):
                self.met[call.workflow.workflow_id, call.call_id] = call
        hidden: set[float] = set()
        unrevealed: set[str] = set()
        for flow in self.trace.workflows:
            for truth in flow.calls:
                seen = self.met.get((flow.workflow_id, truth.call_id))
                if seen is None:
                    unrevealed.add(truth.call_id)
                if seen is None or seen.state != CallState.COMPLETE:
                    # The length itself, and what tells it: iterations to go, tokens and blocks (of one token) in all.
                    out, prompt = truth.output_tokens, truth.prompt_tokens
                    hidden |= {out, out - 1, out + 1, prompt + out, prompt + out - 1, prompt + out + 1}
        assert assert_blind(hidden, unrevealed, view, *self._roots) > 50
        self.looks += 1
        return super().plan(view)


def with_sentinels(setting: Setting) -> Setting:
    """Every call gets a call id and a long output of its own; one KV block is one token."""
    flows = []
    n = 0
    for flow in setting.trace.workflows:
        calls = []
        for call in flow.calls:
            length = SENTINELS[n % len(SENTINELS)] + 4_000_037 * (n // len(SENTINELS))
            calls.append(replace(call, call_id=f"secret-{n}", output_tokens=length))
            n += 1
        flows.append(replace(flow, calls=tuple(calls)))
    cluster = replace(roomy(setting.cluster), block_tokens=1)
    # So long outputs would end beyond the last instant if iterations also grew with the context.
    cluster = replace(
        cluster,
        decode=tuple(replace(d, kv_tokens=2**40, latency=replace(d.latency, b2_ms=0.0)) for d in cluster.decode),
    )
    return replace(setting, trace=Trace(tuple(flows)), cluster=cluster)


@pytest.mark.parametrize("policy", [*POLICIES, "scripted"])
def test_truth_is_out_of_reach(policy: str) -> None:
    looks = 0

    @profile(15)
    @given(run_settings(predictors=("constant:8", "app-mean:8"), policies=(policy,), latencies=(0, 500)))
    def check(setting: Setting) -> None:
        nonlocal looks
        setting = with_sentinels(setting)
        spy = Spy(setting.make_policy(), setting.trace)
        setting.run(spy)
        looks += spy.looks

    check()
    assert looks > 20


class Holder:
    """A class with a slot, as views have."""

    __slots__ = ("_kept",)

    def __init__(self, kept: object) -> None:
        self._kept = kept


TRUTH = Workflow("w", "a", 0, (Call("secret", (), 10, 104_729),))
LIVE = LiveCall.__new__(LiveCall)  # its kind is enough: the search must not even come to an empty one


@pytest.mark.parametrize(
    "leak",
    [
        Holder(LIVE),
        Holder(TRUTH),
        Holder([{"x": (104_729,)}]),
        Holder(float(104_729)),
        Holder(types.MappingProxyType({0: Holder(104_729)})),
        Holder(array.array("q", [1, 104_729])),
        Holder(np.array([[1.0, 104_729.0]])),
        Holder((lambda kept: lambda: kept)(LIVE)),
        Holder(partial(print, TRUTH.calls[0])),
        Holder(LIVE.make_entry),
        Holder(iter([104_729])),
        Holder({"secret": 1}),
    ],
    ids=lambda leak: type(leak._kept).__name__,
)
def test_the_search_finds_a_leak(leak: Any) -> None:
    view = View([PrefillView(0, "p", "", 1, {})], [DecodeView(0, "d", "", 1, 1, {}, {})], pool=[leak])
    with pytest.raises(AssertionError):
        assert_blind({104_729}, {"secret"}, view)


def test_the_search_passes_what_hides_nothing() -> None:
    view = View([PrefillView(0, "p", "", 1, {})], [DecodeView(0, "d", "", 1, 1, {}, {})], pool=[Holder([1, "open"])])  # type: ignore[list-item]
    assert assert_blind({104_729}, {"secret"}, view) > 10


class Vandal(Recorder):
    """Scribbles over the view once it has planned: numbers, states, keys, candidates. Only its next view is spoilt."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.fallback = None  # it would be given the spoiled view

    def plan(self, view: View) -> Plan:
        plan = place(view)
        calls = [call for d in view.decode for call in d.bound.values()] + list(view.pool)
        for thing in [*calls, *view.prefill, *view.decode]:
            for field in fields(thing):
                if isinstance(getattr(thing, field.name), int | float):
                    setattr(thing, field.name, -12345)
        for call in calls:
            call.prefill_candidates = call.decode_candidates = ()
        view.now_us = 5
        view.pool = ()
        return plan


class Tidy(Vandal):
    """Decides as the vandal does, and touches nothing."""

    def plan(self, view: View) -> Plan:
        return place(view)


def place(view: View) -> Plan:
    """A plan that needs nothing a vandal could have spoiled before: calls of the pool are always new to it."""
    return Plan(
        [Decision(c.key, c.prefill_candidates[0], c.decode_candidates[0], float(c.ready_us % 1000)) for c in view.pool]
    )


def assert_unmoved(setting: Setting, stop_us: int | None = None) -> None:
    runs = [setting.run(kind(setting.make_policy()), stop_us=stop_us) for kind in (Tidy, Vandal)]
    for table in ("calls", "decisions", "instances", "workflows"):
        assert getattr(runs[0], table).equals(getattr(runs[1], table)), table


@profile(60)
@given(run_settings(policies=("fcfs",), latencies=(0,)), st.sampled_from((None, 3000, 9000)))
def test_writing_to_a_view_moves_nothing(setting: Setting, stop_us: int | None) -> None:
    assert_unmoved(setting, stop_us)


def test_an_engine_that_reads_its_views_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.invariants.test_tables import crowded

    start_batch = PrefillEngine.start_batch

    def credulous(engine: PrefillEngine, now_us: int) -> int:
        engine.used_blocks = engine.view.kv_used_blocks
        return start_batch(engine, now_us)

    monkeypatch.setattr(PrefillEngine, "start_batch", credulous)
    e = crowded()
    with pytest.raises(AssertionError):
        assert_unmoved(Setting(e.trace, e.cluster, "fcfs", 0, "constant:8"))


def test_mappings_of_the_view_are_what_they_say() -> None:
    """The kinds the search has to know: if the view grows other containers, the search must learn them."""
    from tests.invariants.test_tables import crowded

    e = crowded()
    setting = Setting(e.trace, e.cluster, "fcfs", 0, "constant:8")
    kinds: set[str] = set()

    class Look(Recorder):
        def plan(self, view: View) -> Plan:
            kinds.update(
                type(thing).__name__ for _, thing in reachable(view) if isinstance(thing, Mapping | list | tuple)
            )
            return super().plan(view)

    setting.run(Look(setting.make_policy()))
    assert kinds <= {"dict", "list", "tuple", "mappingproxy"}
