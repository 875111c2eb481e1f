"""Bounds of whole traces: tight where they can be worked out by hand, and never above what any policy reaches."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest

import hexopt
from hexopt.core.cluster import Cluster, DecodeInstance, DecodeLatency, Network, PrefillInstance, PrefillLatency
from hexopt.errors import CapacityError, ConfigError
from hexopt.formulations.bounds import Prices, Problem, Settings, proves, trace_bounds
from hexopt.formulations.bounds import certificate as certificate_module
from hexopt.formulations.bounds.bound import rank
from hexopt.formulations.bounds.service import Service, decode_modes
from hexopt.latency import ClusterLatency
from hexopt.offline import Foresight, Targets, problem_of
from tests.formulations.small_traces import cases, some_policies
from tests.sim.toys import flows

QUANTILES = ("0.5", "0.95", "0.99", "1")
QUICK = Settings(intervals=12, rounds=4, pieces=200)


def one_pair(max_batch_tokens: int = 1, max_batch: int = 2, count: int = 1) -> Cluster:
    """Prefill 10 ms whatever the prompt; an iteration 2 ms alone and 3 ms for two; 1 ms on the wire for 100 tokens."""
    prefill = PrefillInstance(
        "p", 10_000, 1e8, 1000, PrefillLatency(((512, 10.0),), 0.0, 0.0), max_batch_tokens=max_batch_tokens
    )
    decode = DecodeInstance("d", 10_000, 1e8, 1000, DecodeLatency(((1, 2.0), (2, 3.0)), 0.0), max_batch=max_batch)
    return Cluster(
        "pair",
        "toy",
        tuple(replace(prefill, name=f"p{i}") for i in range(count)),
        (decode,),
        Network(efficiency=1.0, latency_us=0),
    )


def least_of(trace: hexopt.Trace, cluster: Cluster) -> Problem:
    return problem_of(trace, cluster)


# -- by hand


def test_the_path_bound_is_the_standalone_latency_of_a_chain() -> None:
    calls = (
        hexopt.Call("a", (), 100, 3, 500),
        hexopt.Call("b", (0,), 100, 1, 2000),
        hexopt.Call("c", (1,), 200, 2, 0),
    )
    problem = least_of(hexopt.Trace((hexopt.Workflow("w", "x", 7, calls),)), one_pair())
    # a: 500 + 10,000 + 1,000 on the wire + 2 iterations of 2,000; b: 2,000 + 10,000; c: 10,000 + 2,000 + 2,000
    assert problem.paths.latency_us.tolist() == [15_500 + 12_000 + 14_000]
    assert problem.paths.head_us.tolist() == [500, 17_500, 27_500]
    assert problem.paths.tail_us.tolist() == [26_000, 14_000, 0]
    assert problem.path_ratios.tolist() == [1.0]


def test_the_path_bound_is_never_raised_to_one() -> None:
    calls = (hexopt.Call("a", (), 100, 1),)
    trace = hexopt.Trace((hexopt.Workflow("w", "x", 0, calls),))
    problem = Problem(trace, one_pair(), [40_000])  # as if earliest-finish were four times too slow
    assert trace_bounds(problem, "1").value == pytest.approx(0.25, rel=1e-3)


def test_capacity_bound_of_equal_prompts_on_one_instance_is_tight() -> None:
    # Four prompts of 10 ms at once on one instance: the last ends at 40 ms, Req_0.75 is 3 and Req_0.5 is 2.
    problem = least_of(flows(*[(0, 100, 1)] * 4), one_pair())
    for q, value in (("1", 4.0), ("0.75", 3.0), ("0.5", 2.0)):
        bound = trace_bounds(problem, q).value
        assert value * 0.995 < bound < value


def test_capacity_bound_on_two_instances_is_tight() -> None:
    problem = least_of(flows(*[(0, 100, 1)] * 6), one_pair(count=2))
    assert 2.985 < trace_bounds(problem, "1").value < 3.0


def test_batches_take_no_less_than_their_shares() -> None:
    # Prompts of 100 tokens: a batch of three takes the 10 ms of one, so six take 20 ms and not 60.
    problem = least_of(flows(*[(0, 100, 1)] * 6), one_pair(max_batch_tokens=300))
    assert problem.service.prefill_us[0, 0] == 10_000
    assert problem.service.prefill_share_us[0, 0] == pytest.approx(10_000 / 3)
    assert 1.99 < trace_bounds(problem, "1").value < 2.0


def test_decode_bound_of_calls_that_share_a_batch() -> None:
    # Two at a time at 3 ms an iteration, or one at 2 ms: 40 calls of 100 iterations take 6 s at least.
    trace = flows(*[(0, 1, 101)] * 40)
    problem = least_of(trace, one_pair())
    alone = 10_000 + 10 + 200_000
    assert problem.paths.latency_us.tolist() == [alone] * 40
    bound = trace_bounds(problem, "1").value
    assert 0.98 * 6_000_000 < bound * alone < 6_100_000


def test_delay_prices_see_that_large_batches_are_slow() -> None:
    # Two calls of 100 iterations on one instance: side by side 300 ms each; one after the other the second has 400.
    problem = least_of(flows((0, 1, 101), (0, 1, 101)), one_pair())
    alone = 10_000 + 10 + 200_000
    bound = trace_bounds(problem, "1").value
    assert bound * alone > 290_000


def test_delay_prices_that_change_see_that_a_workflow_does_one_thing_at_a_time() -> None:
    # Ten calls in a row, from 0 to 4 s at twice their least time: half of that is done in 2 s at most.
    calls = tuple(hexopt.Call(f"c{i}", (i - 1,) if i else (), 1, 101) for i in range(10))
    problem = least_of(hexopt.Trace((hexopt.Workflow("w", "x", 0, calls),)), one_pair())
    edges = np.array([0.0, 2e6, 4.3e6])
    flat = Prices(edges, {}, np.array([[1.0, 1.0]]), 1.0)
    evaluation = certificate_module.Evaluation(problem, flat, 2.0)
    assert evaluation.pay(flat.delay)[0] == pytest.approx(
        problem.paths.latency_us - 2 * problem.standalone_us, rel=1e-3
    )
    # Where the decode instance costs 1 a µs before 2 s, and time costs 1 after: the second half alone cannot do it all.
    shaped = Prices(edges, {"decode": np.array([[1.0, 0.0]])}, np.array([[0.0, 0.6]]), 1.0)
    pays = certificate_module.Evaluation(problem, shaped, 1.2).pay(shaped.delay)[0]
    assert 0 < pays < 2e6


def test_modes_lie_below_all_batch_sizes() -> None:
    knots = ((1, 5.0), (4, 6.0), (16, 20.0), (256, 30.0))
    cluster = replace(
        one_pair(), decode=(DecodeInstance("d", 10**6, 1e9, 1, DecodeLatency(knots, 1e-4), max_batch=256),)
    )
    modes = decode_modes(ClusterLatency(cluster), 0, 256, 50.0)
    assert len(modes.delay_ms) < 60
    rng = np.random.default_rng(0)
    batch = np.arange(1, 257)
    h = np.array([ClusterLatency(cluster).iteration_ms(0, int(b)) for b in batch])
    for x, y in np.exp(rng.normal(0, 3, (200, 2))):
        true = (x * h / batch + y * (h + 1e-4 * (batch - 1) * 50)).min()
        kept = (x * modes.share_ms + y * modes.delay_ms).min()
        assert 0.997 * true < kept <= true


def test_a_curve_that_falls_below_zero_gives_no_bound_beyond_a_microsecond_an_iteration() -> None:
    # h = 10, 1, and extrapolated -8, -17 ms, which long contexts lift above 0: 4 calls together are the quickest.
    curve = DecodeLatency(((1, 10.0), (2, 1.0)), 0.001, extrapolate=True)
    pair = one_pair(count=4)
    roomy = replace(pair.decode[0], kv_tokens=10**6, nic_bytes_per_s=1e12, latency=curve, max_batch=4)
    p = tuple(replace(x, nic_bytes_per_s=1e12) for x in pair.prefill)
    problem = problem_of(flows(*[(0, 5000, 101)] * 4), replace(pair, prefill=p, decode=(roomy,)))
    together = ratios_of(problem, hexopt.make_policy("earliest-finish"))
    assert together[-1] < 0.5
    assert problem.path_ratios.max() <= together[0]
    assert trace_bounds(problem, "1", settings=QUICK).value <= together[-1]


def test_ranks_are_exact() -> None:
    assert [rank(q, 100) for q in ("0.99", "0.95", "1", "0.001")] == [99, 95, 100, 1]
    assert rank("0.99", 400) == 396
    for wrong in ("0", "1.5", "much", "1/2", "1/0", "nan", "Infinity"):
        with pytest.raises(ConfigError, match="quantile"):
            rank(wrong, 4)


def test_a_call_that_fits_nowhere_is_refused() -> None:
    trace = flows((0, 20_000, 2))
    with pytest.raises(CapacityError, match="fits on no pair"):
        Service(trace, one_pair())


def test_worse_prices_prove_less_but_never_wrongly() -> None:
    problem = least_of(flows(*[(0, 100, 1)] * 4), one_pair())
    edges = np.array([0.0, 40_000.0])

    def price(level: float) -> Prices:
        return Prices(edges, {"prefill": np.full((1, 1), level)}, np.zeros((4, 1)), 1.0)

    # All four take 10 ms each within the first 40 ms, all of which costs as much: no excess, hence no proof.
    assert not proves(problem, price(1.0), 3.9, 0)
    short = replace(price(1.0), edges_us=np.array([0.0, 35_000.0]))
    assert proves(problem, short, 3.4, 0)
    assert not proves(problem, short, 3.6, 0)
    assert not proves(problem, short, 3.4, 1)


def test_a_scale_that_no_call_can_meet_is_proved() -> None:
    problem = least_of(flows(*[(0, 100, 2)] * 4), one_pair())
    edges = np.array([0.0, 5_000.0, 9_000.0, 900_000.0])
    prices = Prices(edges, {"decode": np.ones((1, 3))}, np.zeros((4, 3)), 1.0)
    assert proves(problem, prices, 1e-6, 3)
    assert not proves(problem, prices, 1e-6, 4)


# -- no policy ever gets below


def ratios_of(problem: Problem, policy: Any) -> list[float]:
    result = hexopt.simulate(problem.trace, problem.cluster, policy, predictor="oracle")
    return sorted(float(r) for r in result.workflows["ratio"])


def schedules(problem: Problem, rng: random.Random, policies: int) -> list[list[float]]:
    """Return the sorted ratios of some policies, the one with foresight among them."""
    scale = np.array([rng.choice((0.5, 1.0, 2.0, 1e3)) for _ in range(problem.workflows)])
    made = [*some_policies(rng, policies), Foresight(problem, Targets(scale))]
    return [ratios_of(problem, policy) for policy in made]


def random_prices(problem: Problem, rng: random.Random, ratios: list[float]) -> Prices:
    """Prices without sense, at a scale where they matter."""
    end = float((problem.arrival_us + ratios[-1] * problem.standalone_us).max())
    edges = np.array(sorted({rng.uniform(-0.1, 1.1) * end for _ in range(rng.randint(2, 6))}))
    of = {}
    for resource in problem.resources:
        if rng.random() < 0.6:
            unit = 1 / max(1.0, float(resource.capacity.max()))
            shape = len(resource.capacity), len(edges) - 1
            of[resource.name] = np.array([rng.choice((0, 1, 1, 3)) * unit for _ in range(math.prod(shape))]).reshape(
                shape
            )
    delay = np.array([[rng.choice((0.0, 0.1, 1.0, 5.0))] * (len(edges) - 1) for _ in range(problem.workflows)])
    if rng.random() < 0.7:  # prices of delay that change over time
        delay *= np.array([rng.choice((0.0, 0.3, 1.0, 1.0)) for _ in range(delay.size)]).reshape(delay.shape)
    return Prices(edges, of, delay, rng.choice((0.0, 1.0, 8.0)))


def broken(problem: Problem, rng: random.Random, results: list[list[float]], lp: bool, prices: int) -> str | None:
    """Say which bound is above what some policy reached, if any is."""
    n = problem.workflows
    path = sorted(problem.path_ratios.tolist())
    for q in QUANTILES:
        number = rank(q, n)
        value = min(ratios[number - 1] for ratios in results)
        if path[number - 1] > value:
            return f"path bound {path[number - 1]} > {value} at {q}"
        if lp and trace_bounds(problem, q, settings=QUICK).value > value:
            return f"capacity bound > {value} at {q}"
        for _ in range(prices):
            made = random_prices(problem, rng, results[0])
            if proves(problem, made, value, n - number):
                return f"{made} prove more than {value} at {q}"
    return None


def check_cases(count: int, first: int = 0, policies: int = 3) -> None:
    for number, trace, cluster, rng in cases(count, first):
        problem = problem_of(trace, cluster)
        results = schedules(problem, rng, policies)
        assert broken(problem, rng, results, lp=number % 3 == 0, prices=3) is None, number


def test_no_policy_gets_below_a_bound() -> None:
    check_cases(108)


@pytest.mark.slow
def test_no_policy_gets_below_a_bound_on_many_traces() -> None:
    check_cases(1500, first=1000, policies=8)


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}


def mutation(change: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    MUTATIONS[change.__name__] = change
    return change


def _after(patch: pytest.MonkeyPatch, change: Callable[[Service], None]) -> None:
    made = Service.__init__

    def changed(self: Service, trace: hexopt.Trace, cluster: Cluster) -> None:
        made(self, trace, cluster)
        change(self)

    patch.setattr(Service, "__init__", changed)


@mutation
def a_decode_is_two_percent_slower(patch: pytest.MonkeyPatch) -> None:
    def change(s: Service) -> None:
        s.best_us = s.best_us + 0.02 * np.where(s.decodes, s.decode_us.min(axis=1), 0.0)

    _after(patch, change)


@mutation
def a_batch_takes_each_prompt_as_if_alone(patch: pytest.MonkeyPatch) -> None:
    _after(patch, lambda s: setattr(s, "prefill_share_us", 1.0 * s.prefill_us))


@mutation
def capacity_is_a_tenth_smaller(patch: pytest.MonkeyPatch) -> None:
    true = certificate_module.budget
    patch.setattr(certificate_module, "budget", lambda problem, prices: 0.9 * true(problem, prices))


@mutation
def one_workflow_fewer_may_be_late(patch: pytest.MonkeyPatch) -> None:
    true = certificate_module.proves
    patch.setattr(
        certificate_module, "proves", lambda problem, prices, alpha, late, *more: true(problem, prices, alpha, late - 1)
    )


@mutation
def deadlines_are_a_tenth_too_early(patch: pytest.MonkeyPatch) -> None:
    true = Problem.deadlines_us
    patch.setattr(Problem, "deadlines_us", lambda self, alpha: true(self, 0.9 * alpha))


@mutation
def workflows_live_half_as_long_as_they_may(patch: pytest.MonkeyPatch) -> None:
    true = certificate_module.alive_us
    patch.setattr(certificate_module, "alive_us", lambda *arguments: 0.5 * true(*arguments))


@mutation
def time_outside_of_the_intervals_is_not_free(patch: pytest.MonkeyPatch) -> None:
    true = certificate_module.windows

    def changed(problem: Problem, resource: Any, edges: Any, alpha: float) -> Any:
        low, high = true(problem, resource, edges, alpha)
        k = len(edges) - 2
        return np.minimum(low, k), np.minimum(high, k)

    patch.setattr(certificate_module, "windows", changed)


@mutation
def every_path_carries_the_whole_flow(patch: pytest.MonkeyPatch) -> None:
    true = certificate_module.Flow.of.__func__  # type: ignore[attr-defined]

    def changed(cls: Any, problem: Problem, power: float) -> Any:
        return cls(np.ones_like(true(cls, problem, power).share))

    patch.setattr(certificate_module.Flow, "of", classmethod(changed))


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_wrong_proof_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)
    # Prompts that all are there at once, so that they share batches: rare among the random traces.
    burst = 1, flows(*[(0, 100, 1)] * 6), one_pair(max_batch_tokens=300), random.Random(0)
    for number, trace, cluster, rng in chain([burst], cases(270)):
        problem = problem_of(trace, cluster)
        results = schedules(problem, rng, 2)
        monkeypatch.setattr("tests.formulations.test_bounds.proves", certificate_module.proves)
        if broken(problem, rng, results, lp=number % 2 == 1, prices=2) is not None:
            return
    raise AssertionError(f"no bound was broken by: {name}")
