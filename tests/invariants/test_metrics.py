"""What a run is worth: standalone latency, ratio and Req_q, against their definitions."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import given

import hexopt
from hexopt.api import standalone_us
from hexopt.core.workflow import Trace
from hexopt.metrics.slo import attainment, req
from hexopt.sim.predictors import Constant
from hexopt.sim.result import RunResult
from tests.invariants.evidence import plain_rows
from tests.invariants.runs import POLICIES, Setting, profile, run_settings

RATIOS = st.lists(
    st.one_of(st.sampled_from((0.5, 1.0, 1.5, 2.0, math.inf)), st.floats(0.01, 100)), min_size=1, max_size=60
)
QUANTILES = ("0.01", "0.5", "0.9", "0.95", "0.99", "0.999", "1", "0.07")


def req_by_definition(ratios: list[float], q: str) -> float:
    """The smallest SLO scale at which a fraction q finishes within scale × standalone, by trying them all."""
    for scale in sorted(ratios):
        if Fraction(sum(r <= scale for r in ratios), len(ratios)) >= Fraction(q):
            return scale
    raise AssertionError("at the largest ratio all finish")


@profile(300)
@given(RATIOS, st.sampled_from(QUANTILES))
def test_req_is_the_smallest_scale_that_is_attained(ratios: list[float], q: str) -> None:
    scale = req(ratios, q)
    assert scale == req_by_definition(ratios, q)
    # The float that attainment returns is the share itself, correctly rounded, as is Fraction's.
    assert attainment(ratios, scale) >= float(Fraction(q))
    below = math.nextafter(scale, 0)
    assert attainment(ratios, below) < float(Fraction(q)) or scale == below


def test_req_differs_from_its_neighbours() -> None:
    """The definition tells ⌈q·n⌉ from ⌊q·n⌋, ⌊q·n⌋ + 1 and interpolation, also where a float q would not."""
    ratios = [float(i) for i in range(1, 101)]
    assert req(ratios, "0.95") == req_by_definition(ratios, "0.95") == 95.0
    assert req(ratios, "0.07") == 7.0  # 0.07 · 100 is 7.000000000000001 in floating point
    assert req(ratios[:21], "0.95") == 20.0
    assert req([*ratios[:19], math.inf], "0.95") == 19.0
    assert req([*ratios[:18], math.inf, math.inf], "0.95") == math.inf


def check_ratios(result: RunResult) -> None:
    table = plain_rows(result.workflows)
    for row, flow in zip(table, result.trace.workflows, strict=True):
        assert row["arrival_us"] == flow.arrival_us
        if row["complete_us"] is None:
            assert row["latency_us"] is None
            assert row["ratio"] == math.inf
        else:
            assert row["latency_us"] == row["complete_us"] - row["arrival_us"]
            assert row["ratio"] == row["latency_us"] / row["standalone_us"]
    ratios = [row["ratio"] for row in table]
    for key, q in (("req95", "0.95"), ("req99", "0.99"), ("req_max", "1")):
        assert result.summary[key] == req_by_definition(ratios, q)


@profile(60)
@given(run_settings(), st.sampled_from((None, None, 5000)))
def test_ratios_are_latency_by_standalone(setting: Setting, stop_us: int | None) -> None:
    check_ratios(setting.run(stop_us=stop_us))


def test_ratio_checker_rejects_another_ratio() -> None:
    from tests.invariants.test_tables import crowded

    e = crowded()
    result = Setting(e.trace, e.cluster, "fcfs", 0, "oracle").run()
    check_ratios(result)
    result.workflows.loc[0, "ratio"] *= 1.0001
    with pytest.raises(AssertionError):
        check_ratios(result)


@profile(40)
@given(run_settings(policies=("fcfs",), latencies=(0,)))
def test_standalone_is_a_property_of_workflow_and_cluster(setting: Setting) -> None:
    """Neither policy, predictor, seed, arrivals nor other workflows move it; the policy that defines it attains it."""
    base = list(setting.run().workflows["standalone_us"])
    for policy in POLICIES:
        other = replace(setting, policy=policy, plan_latency_us=500, predictor="constant:3")
        assert list(other.run().workflows["standalone_us"]) == base
    late = tuple(replace(w, arrival_us=10_000 * i + 7) for i, w in enumerate(reversed(setting.trace.workflows)))
    moved = hexopt.simulate(Trace(late), setting.cluster, hexopt.make_policy("random"), seed=9)
    assert list(moved.workflows["standalone_us"]) == base[::-1]
    for i, flow in enumerate(setting.trace.workflows):
        assert standalone_us(flow, setting.cluster) == base[i]
        alone = Trace((replace(flow, arrival_us=0),))
        by = hexopt.make_policy("earliest-finish")
        run = hexopt.simulate(alone, setting.cluster, by, predictor="oracle", seed=1)
        assert run.workflows["latency_us"][0] == base[i]
        assert run.workflows["ratio"][0] == 1.0


def test_standalone_needs_true_lengths() -> None:
    """It is no constant of the cluster, and with other predictions earliest-finish may do otherwise."""
    from tests.invariants.test_tables import crowded

    e = crowded()
    flow = e.trace.workflows[0]
    base = standalone_us(flow, e.cluster)
    longer = replace(flow, calls=tuple(replace(c, output_tokens=c.output_tokens + 1) for c in flow.calls))
    assert standalone_us(longer, e.cluster) > base
    differing = 0
    rng = random.Random(0)
    for _ in range(30):
        shuffled = replace(flow, calls=tuple(replace(c, prompt_tokens=rng.randint(1, 30)) for c in flow.calls))
        run = hexopt.simulate(
            Trace((shuffled,)), e.cluster, hexopt.make_policy("earliest-finish"), predictor=Constant(40)
        )
        differing += run.workflows["latency_us"][0] != run.workflows["standalone_us"][0]
    assert differing
