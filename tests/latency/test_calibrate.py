"""Fitting: known coefficients come back, data that do not identify one are refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexopt.core.cluster import DecodeLatency, PrefillLatency
from hexopt.errors import ClusterError
from hexopt.latency.calibrate import (
    COLUMNS,
    G_KNOTS,
    H_KNOTS,
    Configuration,
    Row,
    decode_ms,
    errors_of,
    fit,
    fit_decode,
    fit_overhead,
    fit_prefill,
    nonnegative_least_squares,
    prefill_ms,
    read_table,
)

PREFILL = PrefillLatency(tuple(zip(G_KNOTS, (10.0, 11.0, 13.0, 17.0, 30.0), strict=True)), 0.05, 1e-6)
DECODE = DecodeLatency(tuple(zip(H_KNOTS, (8.0, 9.0, 11.0, 14.0, 16.0, 24.0, 27.0, 31.0, 40.0), strict=True)), 2e-5)
TOKENS = (32, 64, 128, 256, 384, 512, 768, 1024, 2048, 4096, 6144, 8192)
CONTEXTS = (128, 512, 1024, 1536, 4096, 8192)


def prefill_rows(
    truth: PrefillLatency = PREFILL, batches: tuple[int, ...] = (1, 2, 4), tokens: tuple[int, ...] = TOKENS
) -> list[Row]:
    sizes = [Row("prefill", b, n, 0, 1.0) for b in batches for n in tokens]
    return [Row("prefill", r.batch, r.tokens, 0, prefill_ms(truth, r)) for r in sizes]


def decode_rows(
    truth: DecodeLatency = DECODE,
    batches: tuple[int, ...] = (1, 2, 3, 4, 8, 12, 16, 32, 64, 128, 256),
    contexts: tuple[int, ...] = CONTEXTS,
) -> list[Row]:
    sizes = [Row("decode", b, c, 0, 1.0) for b in batches for c in contexts]
    return [Row("decode", r.batch, r.tokens, 0, decode_ms(truth, r)) for r in sizes]


def noisy(rows: list[Row], share: float) -> list[Row]:
    rng = np.random.default_rng(7)
    return [Row(r.phase, r.batch, r.tokens, r.prefix, r.latency_ms * (1 + share * rng.uniform(-1, 1))) for r in rows]


def assert_close(found: PrefillLatency | DecodeLatency, truth: PrefillLatency | DecodeLatency, rel: float) -> None:
    if isinstance(found, PrefillLatency) and isinstance(truth, PrefillLatency):
        assert [x for x, _ in found.g_knots] == [x for x, _ in truth.g_knots]
        assert [y for _, y in found.g_knots] == pytest.approx([y for _, y in truth.g_knots], rel=rel)
        assert (found.a1_ms, found.a2_ms) == pytest.approx((truth.a1_ms, truth.a2_ms), rel=rel)
    elif isinstance(found, DecodeLatency) and isinstance(truth, DecodeLatency):
        assert [x for x, _ in found.h_knots] == [x for x, _ in truth.h_knots]
        assert [y for _, y in found.h_knots] == pytest.approx([y for _, y in truth.h_knots], rel=rel)
        assert found.b2_ms == pytest.approx(truth.b2_ms, rel=rel)
    else:
        pytest.fail("two phases")


def test_exact_data_give_the_coefficients_back() -> None:
    assert_close(fit_prefill(prefill_rows()), PREFILL, 1e-9)
    assert_close(fit_decode(decode_rows()), DECODE, 1e-9)


rises = st.floats(0, 20).map(lambda x: round(x, 3))


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 50), st.tuples(*[rises] * 4), st.floats(1e-3, 0.5), st.floats(1e-8, 1e-4))
def test_any_monotone_prefill_is_recovered(first: float, rise: tuple[float, ...], a1: float, a2: float) -> None:
    heights = np.cumsum([first, *rise]).tolist()
    truth = PrefillLatency(tuple(zip(G_KNOTS, heights, strict=True)), a1, a2)
    assert_close(fit_prefill(prefill_rows(truth)), truth, 1e-6)


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 50), st.tuples(*[rises] * 8), st.floats(1e-6, 1e-3))
def test_any_monotone_decode_is_recovered(first: float, rise: tuple[float, ...], b2: float) -> None:
    heights = np.cumsum([first, *rise]).tolist()
    truth = DecodeLatency(tuple(zip(H_KNOTS, heights, strict=True)), b2)
    assert_close(fit_decode(decode_rows(truth)), truth, 1e-6)


def test_noise_moves_the_coefficients_little_and_shows_in_the_errors() -> None:
    result = fit(noisy(prefill_rows(), 0.01) + noisy(decode_rows(), 0.01))
    assert_close(result.prefill, PREFILL, 0.2)
    assert_close(result.decode, DECODE, 0.05)
    assert result.held_out == "rows off the grid of powers of two"
    for errors in (result.prefill_errors, result.decode_errors):
        assert 0.001 < errors.mape <= errors.p95 <= errors.largest < 0.03
    assert result.prefill_errors.rows == 9  # 384, 768 and 6144 tokens, three batch sizes
    assert 0 < result.decode_sum_largest < 0.02


def test_curves_are_monotone_even_where_the_data_are_not() -> None:
    falling = [
        Row(r.phase, r.batch, r.tokens, 0, r.latency_ms * (0.9 if r.batch in (2, 16) else 1.0)) for r in decode_rows()
    ]
    heights = [y for _, y in fit_decode(falling).h_knots]
    assert heights == sorted(heights)


def test_rows_outside_the_model_are_left_out() -> None:
    strange = [
        Row("prefill", 1, 1024, 512, 1e6),  # cached prefix
        Row("prefill", 1, 16, 0, 1e6),  # below the first knot
        Row("prefill", 1, 32768, 0, 1e6),  # too long
        Row("decode", 1, 32768, 0, 1e6),
        Row("decode", 512, 128, 0, 1e6),  # beyond the last knot
    ]
    rows = prefill_rows() + decode_rows()
    assert fit(rows + strange) == fit(rows)
    too_much = [Row("decode", 256, 8192, 0, 1e6)]
    room = 256 * 8192 - 1
    kept = [r for r in rows if r.batch * r.tokens <= room]
    assert fit(kept + too_much, kv_tokens=room) == fit(kept)


def test_without_rows_off_the_grid_there_are_no_errors_to_report() -> None:
    rows = prefill_rows() + [r for r in decode_rows() if r.tokens != 1536 and r.batch not in (3, 12)]
    with pytest.raises(ClusterError, match=r"^t: decode: all 45 usable rows .* measure some, such as 3 calls or 384 t"):
        fit(rows, "t")


def test_order_of_rows_does_not_matter() -> None:
    rows = noisy(prefill_rows(), 0.01) + noisy(decode_rows(), 0.01)
    assert fit(rows) == fit(rows[::-1])


@pytest.mark.parametrize(
    ("rows", "coefficient", "found"),
    [
        (prefill_rows(tokens=(32, 64, 128), batches=(1, 2, 4)), "a1", "no row depends on it"),
        (prefill_rows(tokens=(32, 64, 512, 1024, 2048, 4096, 8192), batches=(1,)), r"g\(128 new tokens\)", "no row"),
        (prefill_rows(tokens=(32, 64, 128, 256, 512, 1024), batches=(1,)) * 2, "a1", "the rows cannot tell it"),
    ],
)
def test_prefill_data_that_identify_nothing_are_refused(rows: list[Row], coefficient: str, found: str) -> None:
    with pytest.raises(ClusterError, match=rf"^h100: prefill: {coefficient} is not identified \({found}.*measure more"):
        fit_prefill(rows * 2, "h100")


@pytest.mark.parametrize(
    ("rows", "coefficient", "found"),
    [
        (decode_rows(batches=(1, 2, 4, 8, 16, 32, 64, 128)), r"h\(256 calls\)", "no row depends on it"),
        (decode_rows(contexts=(128,)) * 2, "b2", "the rows cannot tell it"),
        # 6 and 12 alone say something of 4, 8 and 16 together, not of each
        (decode_rows(batches=(1, 2, 6, 12, 32, 64, 128, 256)), r"h\(4 calls\)", "the rows cannot tell it"),
    ],
)
def test_decode_data_that_identify_nothing_are_refused(rows: list[Row], coefficient: str, found: str) -> None:
    with pytest.raises(ClusterError, match=rf"^h100: decode: {coefficient} is not identified \({found}.*measure more"):
        fit_decode(rows, "h100")


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ClusterError, match=r"^a100: decode: 5 usable rows found, 10 coefficients .* measure more"):
        fit_decode(decode_rows()[:5], "a100")
    with pytest.raises(ClusterError, match=r"^a100: prefill: 0 usable rows found"):
        fit([], "a100")


def test_overhead_is_recovered() -> None:
    computed = [10.0, 20.0, 50.0, 200.0]
    assert fit_overhead(computed, [27.5 + 1.17 * t for t in computed]) == pytest.approx((27.5, 1.17))
    batches = [1.0, 8.0, 32.0, 64.0]
    measured = [t + 0.83 + 0.0445 * b for t, b in zip(computed, batches, strict=True)]
    assert fit_overhead(computed, measured, batches) == pytest.approx((0.83, 0.0445))
    with pytest.raises(ClusterError, match=r"^ttft: the constant is not identified .* measure more"):
        fit_overhead([10.0, 10.0], [12.0, 13.0], who="ttft")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_nonnegative_least_squares_meets_the_optimality_conditions(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    design, target = rng.normal(size=(size + 4, size)), rng.normal(size=size + 4)
    x = nonnegative_least_squares(design, target)
    gradient = design.T @ (target - design @ x)
    assert (x >= 0).all()
    assert (gradient <= 1e-9).all()
    assert np.abs(gradient[x > 0]).max(initial=0.0) < 1e-9


def test_errors_are_relative() -> None:
    rows = [Row("decode", 1, 1, 0, 10.0), Row("decode", 1, 2, 0, 20.0)]
    errors = errors_of(rows, lambda r: 11.0)
    assert (errors.rows, errors.mape, errors.largest) == pytest.approx((2, 0.275, 0.45))


HEADER = ",".join(COLUMNS)
LINE = "h100,m,4,,,bf16,vllm,0.1,decode,1,128,0,9.5"


def test_a_table_is_read_plain_or_compressed(tmp_path: Path) -> None:
    text = f"{HEADER}\n{LINE}\n{LINE.replace('decode,1,128', 'prefill,2,64')}\n"
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    expected = {
        Configuration("h100", "m", 4, "bf16", "vllm", "0.1"): [
            Row("decode", 1, 128, 0, 9.5),
            Row("prefill", 2, 64, 0, 9.5),
        ]
    }
    assert read_table(tmp_path / "t.csv") == expected
    assert read_table(tmp_path / "t.csv.gz") == expected
    assert str(next(iter(expected))) == "m on h100 TP4 (bf16, vllm 0.1)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("latency_ms", "ms"), r"column 'latency_ms' is missing, .*, add it$"),
        (lambda t: t.replace("9.5", "nan"), r"line 2: latency_ms: 'nan' found, a finite number above 0 .* correct it$"),
        (lambda t: t.replace("9.5", "0"), r"line 2: latency_ms: '0' found"),
        (lambda t: t.replace(",9.5", ""), r"line 2: latency_ms: 'None' found"),
        (lambda t: t.replace(",1,128", ",x,128"), r"line 2: batch: 'x' found, a whole number of at least 1 is needed"),
        (lambda t: t.replace("decode", "decoed"), r"line 2: phase: 'decoed' found, did you mean 'decode'\?"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(change(f"{HEADER}\n{LINE}\n"))
    with pytest.raises(ClusterError, match=rf"^{path}: {message}"):
        read_table(path)


def test_an_unreadable_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(b"no gzip")
    for name in ("t.csv.gz", "absent.csv"):
        with pytest.raises(
            ClusterError, match=rf"^{tmp_path / name}: it cannot be read .* correct the path or the file$"
        ):
            read_table(tmp_path / name)
