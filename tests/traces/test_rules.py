"""Rules: what they set, what they leave, their statistics, and what a wrong rule is told."""

from __future__ import annotations

import re
import statistics
import zlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexopt.core.streams import stream
from hexopt.core.workflow import Call, Trace, Workflow
from hexopt.errors import ConfigError, TraceError
from hexopt.traces import ARRIVAL_RULES, DELAY_RULES, apply_arrivals, apply_delays, require_known


def flows(count: int, arrival_us: int | None = None) -> Trace:
    return Trace(tuple(Workflow(f"w{i}", "a", arrival_us, (Call("c", (), 10, 2),)) for i in range(count)))


def chain(*delays: tuple[int | None, str | None]) -> Trace:
    calls = tuple(
        Call(f"c{i}", (i - 1,) if i else (), 10, 2, us, delay_kind=kind) for i, (us, kind) in enumerate(delays)
    )
    return Trace((Workflow("w", "a", 0, calls),))


def arrivals(trace: Trace) -> list[int | None]:
    return [w.arrival_us for w in trace.workflows]


def delays(trace: Trace) -> list[int | None]:
    return [c.tool_us for w in trace.workflows for c in w.calls]


def test_streams_are_named_and_stable() -> None:
    key = (zlib.crc32(b"arrivals"),)
    expected = np.random.default_rng(np.random.SeedSequence(5, spawn_key=key)).integers(1 << 30, size=2).tolist()
    assert stream(5, "arrivals").integers(1 << 30, size=2).tolist() == expected == [294176770, 944229986]
    assert stream(5, "delays").integers(1 << 30) != stream(5, "arrivals").integers(1 << 30)
    assert stream(5, "delays").integers(1 << 30) != stream(6, "delays").integers(1 << 30)
    for seed in (-1, True, 1.5, None):
        with pytest.raises(ConfigError, match="a whole number from 0 is legal"):
            stream(seed, "delays")  # type: ignore[arg-type]


def test_fixed_and_burst() -> None:
    assert arrivals(apply_arrivals(flows(3, 7), "fixed:0.0000015", 0)) == [0, 2, 3]
    assert arrivals(apply_arrivals(flows(6), "fixed:0.0000004", 0)) == [0, 0, 1, 1, 2, 2]
    assert arrivals(apply_arrivals(flows(4), "fixed:0.0333333333", 0)) == [0, 33_333, 66_667, 100_000]
    assert arrivals(apply_arrivals(flows(4), "fixed:0.0000005", 0)) == [0, 0, 1, 2], "half to even"
    assert arrivals(apply_arrivals(flows(3, 7), "fixed:" + "0.0000005" + "0" * 40 + "1", 0)) == [0, 1, 1], "exactly"
    assert arrivals(apply_arrivals(flows(3, 7), "fixed:0", 0)) == [0, 0, 0]
    assert arrivals(apply_arrivals(flows(3, 7), "burst", 0)) == [0, 0, 0]


def test_replay() -> None:
    assert arrivals(apply_arrivals(flows(2, 7), "replay", 0)) == [7, 7]
    with pytest.raises(
        TraceError, match=r"--arrivals 'replay': 2 of 2 arrivals unknown, replay needs every recorded .*poisson:RATE"
    ):
        apply_arrivals(flows(2), "replay", 0)


@pytest.mark.parametrize(
    ("rule", "mean", "cv"),
    [("poisson:4", 0.25, 1), ("gamma:4,cv=1", 0.25, 1), ("gamma:20,cv=3", 0.05, 3), ("gamma:20,cv=0.2", 0.05, 0.2)],
)
def test_random_gaps(rule: str, mean: float, cv: float) -> None:
    got = apply_arrivals(flows(40_000), rule, 1)
    at = [0, *(us for us in arrivals(got) if us is not None)]
    gaps = [b - a for a, b in pairwise(at)]
    assert min(gaps) >= 0
    assert statistics.fmean(gaps) / 1e6 == pytest.approx(mean, rel=0.05)
    assert statistics.pstdev(gaps) / statistics.fmean(gaps) == pytest.approx(cv, rel=0.05)
    assert arrivals(apply_arrivals(flows(40_000), rule, 1)) == at[1:]
    assert arrivals(apply_arrivals(flows(100), rule, 1)) == at[1:101]
    assert arrivals(apply_arrivals(flows(40_000), rule, 2)) != at[1:]
    assert got.provenance["arrivals"] == {"rule": rule, "seed": 1}


def test_another_rate_scales_the_same_draws() -> None:
    slow = arrivals(apply_arrivals(flows(50), "poisson:1", 3))
    fast = arrivals(apply_arrivals(flows(50), "poisson:2", 3))
    for a, b in zip(slow, fast, strict=True):
        assert a is not None
        assert b == pytest.approx(a / 2, abs=1)


def test_sinusoid_is_the_time_change_of_a_unit_process() -> None:
    """The expected number of arrivals up to the n-th one is the sum of n unit exponentials, by definition."""
    rate, period, depth = 5.0, 40.0, 0.9
    at = [
        us / 1e6 for us in arrivals(apply_arrivals(flows(2000), "sinusoid:5,period=40,depth=0.9", 3)) if us is not None
    ]
    expected = np.cumsum(stream(3, "arrivals").standard_exponential(2000))
    for t, sum_ in zip(at, expected, strict=True):
        reached = rate * (t + depth * period / (2 * np.pi) * (1 - np.cos(2 * np.pi * t / period)))
        assert reached == pytest.approx(sum_, abs=rate * 2e-6)
    assert at == sorted(at)


def test_sinusoid_crowds_the_first_half_of_each_period() -> None:
    """At depth 1 a share 1/2 + 1/pi of all arrivals."""
    at = np.array(arrivals(apply_arrivals(flows(20_000), "sinusoid:20,period=10,depth=1", 1)), float) / 1e6
    assert (at % 10 < 5).mean() == pytest.approx(0.5 + 1 / np.pi, abs=4 * 0.5 / 20_000**0.5)
    assert 20_000 / at[-1] == pytest.approx(20, rel=0.03)


def test_no_depth_is_poisson() -> None:
    flat = arrivals(apply_arrivals(flows(100), "sinusoid:4,period=7,depth=0", 3))
    for a, b in zip(flat, arrivals(apply_arrivals(flows(100), "poisson:4", 3)), strict=True):
        assert a == pytest.approx(b, abs=1)


def test_steps() -> None:
    """2/s for 10 s, nobody for 10 s, then 4/s: the first 20 expected arrivals fall into the first step."""
    at = arrivals(apply_arrivals(flows(60), "steps:2@0;0@10;4@20", 3))
    sums = np.cumsum(stream(3, "arrivals").standard_exponential(60))
    assert sums[0] < 20 < sums[-1]
    for us, sum_ in zip(at, sums, strict=True):
        assert us == pytest.approx(1e6 * (sum_ / 2 if sum_ <= 20 else 20 + (sum_ - 20) / 4), abs=1)
    one = arrivals(apply_arrivals(flows(60), "steps:2@0", 3))
    for a, b in zip(one, arrivals(apply_arrivals(flows(60), "poisson:2", 3)), strict=True):
        assert a == pytest.approx(b, abs=1)
    late = arrivals(apply_arrivals(flows(3), "steps:0@0;1000@5", 3))
    assert min(us or 0 for us in late) > 5_000_000


def test_delays_fill_only_the_unknown() -> None:
    trace = chain((None, "start"), (5, "tool"), (None, None))
    assert delays(apply_delays(trace, "fixed:0.25", 0)) == [250_000, 5, 250_000]
    assert delays(apply_delays(trace, "zero", 0)) == [0, 5, 0]
    assert apply_delays(trace, "zero", 9).provenance["delays"] == {"rule": "zero", "seed": 9, "filled": 2}


def test_delays_by_kind() -> None:
    trace = chain((None, "start"), (None, "tool"), (None, "user"), (None, None), (None, "spawn"))
    assert delays(apply_delays(trace, "user=fixed:2;tool=zero", 0)) == [None, 0, 2_000_000, None, None]
    assert (
        delays(apply_delays(trace, "user = fixed:2 ; * = fixed:1", 0))
        == [1_000_000] * 2 + [2_000_000] + [1_000_000] * 2
    )
    assert delays(apply_delays(trace, "spawn=zero;none=zero", 0)) == [None] * 4 + [0]
    half = apply_delays(trace, "user=zero", 1)
    full = apply_delays(half, "zero", 2)
    assert full.provenance["delays"] == {
        "rule": "zero",
        "seed": 2,
        "filled": 4,
        "before": {"rule": "user=zero", "seed": 1, "filled": 1},
    }


def test_lognormal() -> None:
    trace = chain(*[(None, "user")] * 20_000)
    got = [us / 1e6 for us in delays(apply_delays(trace, "lognormal:126,0.95", 1)) if us is not None]
    assert statistics.median(got) == pytest.approx(126, rel=0.03)
    assert statistics.fmean(got) == pytest.approx(126 * 2.718281828 ** (0.95**2 / 2), rel=0.03)
    assert set(delays(apply_delays(trace, "lognormal:2,0", 1))) == {2_000_000}


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 2**32))
def test_a_draw_belongs_to_its_call(known: list[bool], seed: int) -> None:
    rule = "lognormal:1,1"
    everything = delays(apply_delays(chain(*[(None, "user")] * len(known)), rule, seed))
    some = delays(apply_delays(chain(*[(5 if k else None, "user") for k in known]), rule, seed))
    assert some == [5 if k else drawn for k, drawn in zip(known, everything, strict=True)]
    mixed = chain(*[(None, "tool" if k else "user") for k in known])
    assert delays(apply_delays(mixed, f"tool=zero;user={rule}", seed)) == [
        0 if k else drawn for k, drawn in zip(known, everything, strict=True)
    ]


def test_arrivals_and_delays_do_not_touch_each_other() -> None:
    trace = Trace(tuple(replace(w, calls=(Call("c", (), 10, 2, None),)) for w in flows(20).workflows))
    one = apply_delays(apply_arrivals(trace, "poisson:1", 4), "lognormal:1,1", 4)
    other = apply_arrivals(apply_delays(trace, "lognormal:1,1", 4), "poisson:1", 4)
    assert one.workflows == other.workflows
    assert delays(apply_delays(apply_arrivals(trace, "gamma:1,cv=2", 4), "lognormal:1,1", 4)) == delays(one)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            "possion:10",
            "--arrivals 'possion:10': unknown rule 'possion' found, legal are burst, fixed:GAP_S, gamma:",
        ),
        (
            "possion:10",
            "steps:RATE@T;RATE@T, utilisation:U,cv=CV, did you mean 'poisson'?",
        ),
        ("", "--arrivals '': unknown rule '' found, legal are burst, "),
        ("poisson", "--arrivals 'poisson': '' found after the name, the rule is written poisson:RATE, correct it"),
        ("poisson:0", "--arrivals 'poisson:0': RATE 0 found, RATE is a number above 0, correct it"),
        ("poisson:-3", "RATE -3 found, RATE is a number above 0"),
        ("poisson:nan", "RATE nan found, RATE is a number above 0"),
        ("poisson:fast", "RATE 'fast' found, RATE is a decimal number"),
        ("poisson:1,2", "'1,2' found after the name, the rule is written poisson:RATE"),
        ("poisson:1e400", "RATE 1e400 found, RATE lies in 1e-30..1e30"),
        ("poisson:1e-20", "an arrival at "),
        ("fixed:-1", "GAP_S -1 found, GAP_S is a number from 0"),
        ("fixed:1e10", "1E+10 s found, at most 9007199254 s are legal, choose less"),
        ("fixed:5e9", "instants end at 9007199254740992 µs, choose shorter gaps"),
        ("gamma:3", "'3' found after the name, the rule is written gamma:RATE,cv=CV"),
        ("gamma:3,2", "'2' found, the rule is written gamma:RATE,cv=CV"),
        ("gamma:3,cv=0", "CV 0 found, CV is a number above 0"),
        ("burst:1", "'burst:1' found, the rule is written burst"),
        ("sinusoid:3", "'3' found after the name, the rule is written sinusoid:RATE,period=S,depth=D"),
        ("sinusoid:3,period=2,depth=1.5", "D 1.5 found, D is a number from 0 to 1"),
        ("sinusoid:3,period=0,depth=1", "S 0 found, S is a number above 0"),
        ("sinusoid:1e-20,period=1,depth=1", "an arrival at "),
        ("steps:", "'' found, the rule is written steps:RATE@T;RATE@T"),
        ("steps:3", "'3' found, the rule is written steps:RATE@T;RATE@T"),
        ("steps:3@1", "T 1 found, the first T is 0"),
        ("steps:3@0;2@0", "T 0 found, the first T is 0 and each T is above the last"),
        ("steps:3@0;0@9", "a last RATE of 0 found, it lasts until all have arrived"),
        ("steps:-3@0", "RATE -3 found, RATE is a number from 0"),
        (
            "utilisation:0.5",
            "'utilisation:0.5' found without a cluster, utilisation is a share of",
        ),
        ("utilisation:0", "U 0 found, U is a number above 0"),
        ("utilisation:1,2", "'2' found, the rule is written utilisation:U,cv=CV"),
        ("utilisation", "'' found after the name, the rule is written utilisation:U"),
        ("replay:x", "'replay:x' found, the rule is written replay"),
    ],
)
def test_bad_arrival_rule(rule: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        apply_arrivals(flows(3), rule, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("lognorm:1,2", "--delays 'lognorm:1,2': unknown rule 'lognorm' found, legal are KIND=RULE;KIND=RULE;*=RULE, "),
        ("lognorm:1,2", "fixed:S, lognormal:MEDIAN_S,SIGMA, zero, did you mean 'lognormal'?"),
        ("zero:1", "'zero:1' found, the rule is written zero"),
        ("lognormal:1", "'1' found after the name, the rule is written lognormal:MEDIAN_S,SIGMA"),
        ("lognormal:0,1", "MEDIAN_S 0 found, MEDIAN_S is a number above 0"),
        ("lognormal:1,-1", "SIGMA -1 found, SIGMA is a number from 0"),
        ("lognormal:1e9,1e9", "a delay of inf µs drawn, delays end at "),
        ("user=zero;user=zero", "kind 'user' found twice, a kind has one rule, drop one"),
        ("user=zero;zero", "'zero' found, a part is KIND=RULE"),
        ("=zero", "'=zero' found, a part is KIND=RULE"),
        ("user=", "unknown rule '' found"),
        ("usr=zero;*=zero", "delay kind 'usr' found, a rule names kinds of the trace, did you mean 'user'? known: "),
    ],
)  # fmt: skip
def test_bad_delay_rule(rule: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        apply_delays(chain(*[(None, "user")] * 40), rule, 0)


def test_require_known() -> None:
    require_known(flows(2, 0))
    with pytest.raises(TraceError) as caught:
        require_known(replace(chain((0, "start"), (None, "user"), (None, None)), name="t"))
    assert str(caught.value) == (
        "trace 't': 2 of 3 delays (kind: no kind, user) unknown, a simulation needs every time, fill them in with "
        "--delays RULE (KIND=RULE;KIND=RULE;*=RULE, fixed:S, lognormal:MEDIAN_S,SIGMA, zero)"
    )
    with pytest.raises(
        TraceError,
        match=r"2 of 2 arrivals unknown, .* with --arrivals RULE \(burst, .*poisson:RATE, .*, utilisation:.*\)$",
    ):
        require_known(flows(2))
    both = Trace((replace(chain((None, None)).workflows[0], arrival_us=None),))
    with pytest.raises(
        TraceError, match=r"1 of 1 arrivals and 1 of 1 delays .* with --arrivals RULE .* and --delays RULE"
    ):
        require_known(both)


def test_every_rule_is_described() -> None:
    assert all(ARRIVAL_RULES.values())
    assert all(DELAY_RULES.values())
    assert list(ARRIVAL_RULES) == sorted(ARRIVAL_RULES)
