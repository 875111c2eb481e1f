"""Fit the latency model to a profile table, with the errors of the fit on rows that it did not see.

Prefill ``T = g(min(N, 512)) + a1·max(0, N − 512) + a2·A`` and decode ``T = h(B) + b2·K`` are linear in their
coefficients once a curve is written in the rises between its knots, and the curve is monotone exactly if no rise is
negative. So each fit is one non-negative least squares problem; rows are divided by their latency, which makes it one
of relative errors. Nothing here reads or writes anything but what it is given: the functions are pure, except
:func:`read_table`.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hexopt.core.cluster import DecodeLatency, Knots, PrefillLatency
from hexopt.errors import ClusterError, suggest
from hexopt.latency.curves import piecewise
from hexopt.latency.model import BASE_TOKENS

Array = NDArray[np.float64]

G_KNOTS = (32, 64, 128, 256, 512)
"""Knots of g, new tokens in a prefill batch."""

H_KNOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Knots of h, calls in a decode batch."""

MAX_TOKENS = 16384
"""Rows with longer prompts or contexts are left out: the operators under them were not measured there."""

COLUMNS = (
    "gpu",
    "model",
    "tp",
    "moe_tp",
    "moe_ep",
    "dtype",
    "framework",
    "version",
    "phase",
    "batch",
    "tokens_or_context",
    "prefix",
    "latency_ms",
)
"""Columns of a profile table."""

HELD_OUT = "rows off the grid of powers of two"
"""Which rows a fit does not see."""

_SMALLEST_SHARE = 1e-3
"""A column of the design that the others explain up to this share of its length cannot be told from them."""


@dataclass(frozen=True, slots=True, order=True)
class Configuration:
    """What one fit is of: a row's identity in a profile table."""

    gpu: str
    model: str
    tp: int
    dtype: str
    framework: str
    version: str
    moe_tp: str = ""
    moe_ep: str = ""

    def __str__(self) -> str:
        """Return the configuration in words, as error messages name it."""
        return f"{self.model} on {self.gpu} TP{self.tp} ({self.dtype}, {self.framework} {self.version})"


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """One measured latency, ms. ``tokens`` is new tokens per prompt (prefill) or context per call (decode)."""

    phase: str
    batch: int
    tokens: int
    prefix: int
    latency_ms: float


@dataclass(frozen=True, slots=True)
class FitErrors:
    """Relative errors |fit − measured| / measured over a set of rows, as shares.

    Attributes
    ----------
    rows
        How many rows.
    mape, p95, largest
        Their mean, 95th percentile and maximum.
    """

    rows: int
    mape: float
    p95: float
    largest: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted coefficients of one configuration and their errors.

    Attributes
    ----------
    prefill_errors, decode_errors
        On held-out rows.
    decode_sum_largest
        The largest relative error of a sum over consecutive iterations at a fixed batch, the table's sum by the
        trapezoidal rule: single errors cancel in part, and this is what a call's decode time sees.
    held_out
        Which rows were held out, in words.
    """

    prefill: PrefillLatency
    decode: DecodeLatency
    prefill_errors: FitErrors
    decode_errors: FitErrors
    decode_sum_largest: float
    held_out: str


def read_table(path: Path) -> dict[Configuration, list[Row]]:
    """Read a profile table, a CSV file with the columns :data:`COLUMNS`, plain or gzip-compressed.

    Raises
    ------
    ClusterError
        If the file cannot be read, a column is missing or a value makes no sense; the message names the line.
    """
    table: dict[Configuration, list[Row]] = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for column in COLUMNS:
                if column not in (reader.fieldnames or ()):
                    raise ClusterError(
                        f"{path}: column '{column}' is missing, a profile table has {', '.join(COLUMNS)}, add it"
                    )
            for record in reader:
                who = f"{path}: line {reader.line_num}"
                configuration = Configuration(
                    gpu=record["gpu"],
                    model=record["model"],
                    tp=_whole(who, "tp", record["tp"], 1),
                    dtype=record["dtype"],
                    framework=record["framework"],
                    version=record["version"],
                    moe_tp=record["moe_tp"],
                    moe_ep=record["moe_ep"],
                )
                phase = record["phase"]
                if phase not in ("prefill", "decode"):
                    raise ClusterError(
                        f"{who}: phase: '{phase}' found, {suggest(phase, ('prefill', 'decode'))}, correct it"
                    )
                row = Row(
                    phase=phase,
                    batch=_whole(who, "batch", record["batch"], 1),
                    tokens=_whole(who, "tokens_or_context", record["tokens_or_context"], 1),
                    prefix=_whole(who, "prefix", record["prefix"], 0),
                    latency_ms=_positive(who, "latency_ms", record["latency_ms"]),
                )
                table.setdefault(configuration, []).append(row)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ClusterError(
            f"{path}: it cannot be read ({error}), a profile table is a CSV file, correct the path or the file"
        ) from None
    return table


def fit(rows: Iterable[Row], who: str = "profile table", kv_tokens: int | None = None) -> Fit:
    """Fit both phases of one configuration.

    Rows with a cached prefix, with more than :data:`MAX_TOKENS` tokens per call, below the first knot of g or beyond
    the last knot of h are left out. The rest is fitted where batch size and tokens are powers of two; the errors are
    those on the rows between, which the fit has not seen and which lie farthest from the knots.

    Parameters
    ----------
    rows
        Rows of one configuration, both phases.
    who
        What the rows are of, for error messages.
    kv_tokens
        Room for KV, tokens: rows of batches that hold more are left out too, for the replica never runs them.

    Raises
    ------
    ClusterError
        If the rows do not identify a coefficient, or none is left to take the errors on.
    """
    everything = sorted(r for r in rows if kv_tokens is None or r.batch * (r.prefix + r.tokens) <= kv_tokens)
    prefill = [
        r
        for r in everything
        if r.phase == "prefill" and r.prefix == 0 and r.tokens <= MAX_TOKENS and r.batch * r.tokens >= G_KNOTS[0]
    ]
    decode = [r for r in everything if r.phase == "decode" and r.tokens <= MAX_TOKENS and r.batch <= H_KNOTS[-1]]
    prefill_train, prefill_test = _split(f"{who}: prefill", prefill)
    decode_train, decode_test = _split(f"{who}: decode", decode)
    prefill_fit = fit_prefill(prefill_train, who)
    decode_fit = fit_decode(decode_train, who)
    return Fit(
        prefill=prefill_fit,
        decode=decode_fit,
        prefill_errors=errors_of(prefill_test, lambda r: prefill_ms(prefill_fit, r)),
        decode_errors=errors_of(decode_test, lambda r: decode_ms(decode_fit, r)),
        decode_sum_largest=_largest_sum_error(decode, decode_fit),
        held_out=HELD_OUT,
    )


def fit_prefill(rows: Sequence[Row], who: str = "profile table") -> PrefillLatency:
    """Fit g, a1 and a2 to all of ``rows`` (prefill rows without cached prefix).

    Raises
    ------
    ClusterError
        If the rows do not identify a coefficient.

    Examples
    --------
    >>> truth = PrefillLatency(((32, 10.0), (64, 11.0), (128, 13.0), (256, 17.0), (512, 30.0)), 0.05, 1e-6)
    >>> sizes = [(b, n) for b in (1, 2, 4) for n in (32, 64, 128, 256, 512, 1024, 4096)]
    >>> rows = [Row("prefill", b, n, 0, prefill_ms(truth, Row("prefill", b, n, 0, 1.0))) for b, n in sizes]
    >>> [round(ms, 6) for _, ms in fit_prefill(rows).g_knots]
    [10.0, 11.0, 13.0, 17.0, 30.0]
    """
    tokens = np.array([r.batch * r.tokens for r in rows], dtype=float)
    attention = np.array([r.batch * r.tokens**2 for r in rows], dtype=float)
    extra = np.column_stack([np.maximum(0.0, tokens - BASE_TOKENS), attention])
    curve, (a1, a2) = _fit(
        f"{who}: prefill", rows, np.minimum(tokens, BASE_TOKENS), G_KNOTS, "g", "new tokens", extra, ("a1", "a2")
    )
    return PrefillLatency(g_knots=curve, a1_ms=a1, a2_ms=a2)


def fit_decode(rows: Sequence[Row], who: str = "profile table") -> DecodeLatency:
    """Fit h and b2 to all of ``rows`` (decode rows).

    Raises
    ------
    ClusterError
        If the rows do not identify a coefficient.
    """
    batch = np.array([r.batch for r in rows], dtype=float)
    context = np.array([r.batch * r.tokens for r in rows], dtype=float)
    curve, (b2,) = _fit(f"{who}: decode", rows, batch, H_KNOTS, "h", "calls", context.reshape(len(rows), 1), ("b2",))
    return DecodeLatency(h_knots=curve, b2_ms=b2)


def fit_overhead(
    computed: Sequence[float], measured: Sequence[float], slope_of: Sequence[float] | None = None, who: str = "overhead"
) -> tuple[float, float]:
    """Fit what serving adds to computed times, least squares of relative errors, neither coefficient negative.

    Without ``slope_of`` the model is ``measured = c0 + c1·computed`` and the result (c0, c1), as for prefill; with it
    ``measured = computed + o0 + o1·slope_of`` and the result (o0, o1), as for decode with the batch sizes.

    Raises
    ------
    ClusterError
        If the figures do not identify both coefficients.
    """
    y = np.array(measured, dtype=float)
    base = np.array(computed, dtype=float)
    slope, target = (base, y) if slope_of is None else (np.array(slope_of, dtype=float), y - base)
    design = np.column_stack([np.ones_like(y), slope]) / y[:, None]
    _check_identified(who, design, ("the constant", "the slope"))
    constant, per_unit = nonnegative_least_squares(design, target / y)
    return float(constant), float(per_unit)


def prefill_ms(latency: PrefillLatency, row: Row) -> float:
    """Return the model's time for a prefill row, without serving overhead, ms."""
    tokens = row.batch * row.tokens
    g = piecewise(latency.g_knots, min(tokens, BASE_TOKENS), latency.extrapolate, "prefill")
    attention = row.batch * row.tokens * (row.tokens + 2 * row.prefix)
    return g + latency.a1_ms * max(0, tokens - BASE_TOKENS) + latency.a2_ms * attention


def decode_ms(latency: DecodeLatency, row: Row) -> float:
    """Return the model's time for a decode row, without serving overhead, ms."""
    h = piecewise(latency.h_knots, row.batch, latency.extrapolate, "decode")
    return h + latency.b2_ms * row.batch * row.tokens


def errors_of(rows: Sequence[Row], model: Callable[[Row], float]) -> FitErrors:
    """Return the relative errors of ``model`` on ``rows`` (at least one)."""
    shares = np.array([abs(model(r) - r.latency_ms) / r.latency_ms for r in rows])
    return FitErrors(len(rows), float(shares.mean()), float(np.quantile(shares, 0.95)), float(shares.max()))


def nonnegative_least_squares(design: Array, target: Array) -> Array:
    """Return x ≥ 0 that minimises ‖design·x − target‖, by the active-set method of Lawson and Hanson (1974, ch. 23).

    >>> nonnegative_least_squares(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([2.0, -1.0])).tolist()
    [2.0, 0.0]
    """
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0
    a = design / scale
    size = a.shape[1]
    x = np.zeros(size)
    free = np.zeros(size, dtype=bool)
    tolerance = 1e-12 * max(1.0, float(np.linalg.norm(target)))
    for _ in range(10 * size):
        gradient = a.T @ (target - a @ x)
        gradient[free] = -math.inf
        if free.all() or gradient.max() <= tolerance:
            break
        free[int(gradient.argmax())] = True
        while True:
            trial = np.zeros(size)
            trial[free] = np.linalg.lstsq(a[:, free], target, rcond=None)[0]
            blocked = free & (trial <= 0)
            if not blocked.any():
                break
            # walk towards the trial until the first coefficient reaches zero, and hold that one there
            steps = x[blocked] / (x[blocked] - trial[blocked])
            x = x + steps.min() * (trial - x)
            leaving = free & (x <= 1e-15)
            leaving[np.flatnonzero(blocked)[steps.argmin()]] = True
            free &= ~leaving
            x[~free] = 0.0
        x = trial
    solution: Array = x / scale
    return solution


def _fit(
    who: str,
    rows: Sequence[Row],
    x: Array,
    knots: tuple[int, ...],
    curve: str,
    unit: str,
    extra: Array,
    extra_names: tuple[str, ...],
) -> tuple[Knots, tuple[float, ...]]:
    names = (*(f"{curve}({knot} {unit})" for knot in knots), *extra_names)
    if len(rows) <= len(names):
        raise ClusterError(
            f"{who}: {len(rows)} usable rows found, {len(names)} coefficients need more rows than that, "
            "measure more batch sizes and token counts that are powers of two"
        )
    weight = 1.0 / np.array([r.latency_ms for r in rows])
    # hat functions say which knot the data are silent about ...
    hats = np.column_stack([np.interp(x, knots, np.eye(len(knots))[i]) for i in range(len(knots))])
    # (first the slopes: when they are not identified, the curve often is not either, and the slope is the cause)
    _check_identified(who, np.column_stack([extra, hats]) * weight[:, None], (*extra_names, *names[: len(knots)]))
    # ... and rises, the sums of the hats from a knot on, make the curve monotone by their sign
    rises = np.cumsum(hats[:, ::-1], axis=1)[:, ::-1]
    design = np.column_stack([rises, extra]) * weight[:, None]
    solution = nonnegative_least_squares(design, np.ones(len(rows)))
    heights = np.cumsum(solution[: len(knots)])
    fitted = tuple((knot, float(height)) for knot, height in zip(knots, heights, strict=True))
    return fitted, tuple(float(value) for value in solution[len(knots) :])


def _check_identified(who: str, design: Array, names: tuple[str, ...]) -> None:
    for i, name in enumerate(names):
        column = design[:, i]
        length = float(np.linalg.norm(column))
        others = np.delete(design, i, axis=1)
        scale = np.linalg.norm(others, axis=0)
        others = others[:, scale > 0] / scale[scale > 0]
        left = column - others @ np.linalg.lstsq(others, column, rcond=None)[0] if length else column
        if length == 0 or float(np.linalg.norm(left)) < _SMALLEST_SHARE * length:
            found = "no row depends on it" if length == 0 else "the rows cannot tell it from the other coefficients"
            raise ClusterError(
                f"{who}: {name} is not identified ({found}), every coefficient needs rows in which it varies by "
                "itself, measure more batch sizes and token counts around it"
            )


def _split(who: str, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    on_grid = [r for r in rows if r.batch & (r.batch - 1) == 0 and r.tokens & (r.tokens - 1) == 0]
    off_grid = [r for r in rows if r.batch & (r.batch - 1) or r.tokens & (r.tokens - 1)]
    if rows and not off_grid:
        raise ClusterError(
            f"{who}: all {len(rows)} usable rows have batch sizes and token counts that are powers of two, the error "
            "of a fit is taken on rows between them, measure some, such as 3 calls or 384 tokens"
        )
    return on_grid, off_grid


def _largest_sum_error(rows: Sequence[Row], latency: DecodeLatency) -> float:
    worst = 0.0
    for batch in sorted({r.batch for r in rows}):
        line = sorted((r.tokens, r.latency_ms, decode_ms(latency, r)) for r in rows if r.batch == batch)
        for i in range(len(line)):
            measured = fitted = 0.0
            for (c0, y0, f0), (c1, y1, f1) in zip(line[i:], line[i + 1 :], strict=False):
                measured += (c1 - c0) * (y0 + y1) / 2
                fitted += (c1 - c0) * (f0 + f1) / 2
                worst = max(worst, abs(fitted - measured) / measured)
    return worst


def _whole(who: str, column: str, text: str, low: int) -> int:
    try:
        value = int(text)
    except (TypeError, ValueError):
        value = low - 1
    if value < low:
        raise ClusterError(f"{who}: {column}: '{text}' found, a whole number of at least {low} is needed, correct it")
    return value


def _positive(who: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ClusterError(f"{who}: {column}: '{text}' found, a finite number above 0 is needed, correct it")
    return value
