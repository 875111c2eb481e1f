"""Refit the shipped latency profiles from the calibration data, and compare them with the first fit.

    .venv/bin/python experiments/refit_profiles.py

The data are no part of the project: they are read from ``../shared/calibration`` beside the checkout, or from
``--data``. The same data and versions give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hexopt.core.cluster import DecodeLatency, PrefillLatency
from hexopt.errors import HexoptError
from hexopt.latency.calibrate import (
    MAX_TOKENS,
    Configuration,
    Fit,
    Row,
    decode_ms,
    errors_of,
    fit,
    fit_overhead,
    prefill_ms,
    read_table,
)

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "calibration"
OUT = ROOT / "src" / "hexopt" / "latency" / "profiles"

FIT_DATE = "2026-11-24"
"""The day of the fit that is shipped; change it when the figures change."""

SOURCE = "aiconfigurator-core 0.12.0 (PyPI): measured operator times composed to iteration latencies"
LICENSE = "Apache-2.0"

NIC_BYTES_PER_S = {"a100": 25e9, "h100": 50e9, "h200": 50e9}
"""One network interface per GPU: 200 Gbit/s beside an A100, 400 Gbit/s beside an H100 or H200."""

C0_MS, C1, O0_MS, O1_MS = 27.5, 1.17, 0.83, 0.0445
"""Serving overhead. The data identify none of it alone: see docs/calibration.md, Serving overhead."""

OVERHEAD_PREFILL = (
    "middle of the ranges 25-30 ms and 1.10-1.24 seen on measured time to first token at low load "
    "(vLLM, Llama-3.1-70B FP8, H100/H200); taken over for every profile"
)
OVERHEAD_DECODE = (
    "fit to measured time per output token (vLLM, Llama-3.1-70B FP8, H100/H200; n = 33, MAPE 4.0%, max 10.9%); "
    "taken over for every profile"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    parser = argparse.ArgumentParser(description="Refit the shipped latency profiles.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the calibration data (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write the profiles to (%(default)s)")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        print(
            f"{options.data}: no such folder, the calibration data are not part of the project, "
            "give their folder with --data (the shipped profiles stay as they are)",
            file=sys.stderr,
        )
        return 2
    try:
        refit(options.data, options.out)
    except (HexoptError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def refit(data: Path, out: Path) -> None:
    """Fit every vLLM bf16 configuration of ``data`` that has room for KV, and write its profile to ``out``."""
    table = read_table(data / "opdb_grid_bf16.csv.gz")
    capacity = read_capacity(data / "kv_capacity.csv")
    first_fit = read_first_fit(data / "coefficients.json")
    out.mkdir(parents=True, exist_ok=True)
    for configuration in sorted(table):
        key = (configuration.gpu, configuration.model, configuration.tp)
        if configuration.framework != "vllm" or configuration.dtype != "bf16" or key not in capacity:
            continue
        kv_tokens, kv_bytes_per_token = capacity[key]
        rows = [r for r in table[configuration] if r.batch * (r.prefix + r.tokens) <= kv_tokens]
        result = fit(rows, str(configuration), kv_tokens)
        name = f"{configuration.model}-{configuration.gpu}-tp{configuration.tp}"
        text = profile_text(name, configuration, result, rows, kv_tokens, kv_bytes_per_token)
        (out / f"{name}.toml").write_text(text, encoding="utf-8", newline="\n")
        print_fit(name, result, first_fit.get(key))
    check_overhead(data)


def read_capacity(path: Path) -> dict[tuple[str, str, int], tuple[int, int]]:
    """Return (KV tokens, KV bytes per token) of each bf16 (gpu, model, tp) that fits its weights and some KV."""
    with open(path, encoding="utf-8") as file:
        return {
            (r["gpu"], r["model"], int(r["tp"])): (int(r["hand_kv_tokens"]), int(r["kv_bytes_per_token_on_instance"]))
            for r in csv.DictReader(file)
            if r["weights_dtype"] == "bf16" and r["fits"] == "1"
        }


def read_first_fit(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the vLLM bf16 coefficients of the first fit by (gpu, model, tp)."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {(e["gpu"], e["model"], e["tp"]): e for e in entries if e["framework"] == "vllm" and e["dtype"] == "bf16"}


def profile_text(
    name: str, configuration: Configuration, result: Fit, rows: Sequence[Row], kv_tokens: int, kv_bytes_per_token: int
) -> str:
    """Return the text of a profile file. Coefficients have six digits: more would differ between machines."""
    moe = configuration.model.startswith("qwen3-235b")
    configured = f"TP{configuration.tp}, bf16 weights and KV"
    if moe:
        configured += f", experts TP{configuration.moe_tp} EP{configuration.moe_ep}"
    known = [
        "Mixture of experts: -22% to +16% against measured serving (FP8, H100/H200)."
        if moe
        else "About 5% either way against measured serving (FP8, H100/H200).",
        *(["A100 prefill may be 8-21% optimistic at 1k-4k tokens."] if configuration.gpu == "a100" else []),
        f"Contexts beyond {MAX_TOKENS} tokens are extrapolated: see the errors from 16k to 32k.",
        "The cost of a cached prefix is modelled, not measured.",
        "The serving overhead was seen on a dense FP8 model; that it holds here is assumed.",
    ]
    long = [r for r in rows if r.prefix == 0 and MAX_TOKENS < r.tokens <= 2 * MAX_TOKENS]
    long_prefill = errors_of([r for r in long if r.phase == "prefill"], lambda r: prefill_ms(result.prefill, r))
    last_batch = result.decode.h_knots[-1][0]
    long_decode = errors_of(
        [r for r in long if r.phase == "decode" and r.batch <= last_batch], lambda r: decode_ms(result.decode, r)
    )
    p, d = result.prefill_errors, result.decode_errors
    lines = [
        "# Written by experiments/refit_profiles.py; refit instead of editing.",
        "schema_version = 1",
        f'name = "{name}"',
        f'gpu = "{configuration.gpu}"',
        f'model = "{configuration.model}"',
        f"tp = {configuration.tp}",
        f"kv_tokens = {kv_tokens}",
        f"kv_bytes_per_token = {kv_bytes_per_token}",
        f"nic_bytes_per_s = {NIC_BYTES_PER_S[configuration.gpu] * configuration.tp!r}",
        f"max_batch = {last_batch}",
        "",
        "[prefill]",
        f"g_knots = {knots_text(result.prefill.g_knots)}",
        f"a1_ms = {digits(result.prefill.a1_ms)}",
        f"a2_ms = {digits(result.prefill.a2_ms)}",
        "",
        "[decode]",
        f"h_knots = {knots_text(result.decode.h_knots)}",
        f"b2_ms = {digits(result.decode.b2_ms)}",
        "",
        "[serving_overhead]",
        f"c0_ms = {C0_MS!r}",
        f"c1 = {C1!r}",
        f"o0_ms = {O0_MS!r}",
        f"o1_ms = {O1_MS!r}",
        "",
        "[errors]  # relative errors of the fit, as shares, on rows it did not see",
        f"prefill_rows = {p.rows}",
        f"prefill_mape = {p.mape:.4f}",
        f"prefill_p95 = {p.p95:.4f}",
        f"prefill_max = {p.largest:.4f}",
        f"decode_rows = {d.rows}",
        f"decode_mape = {d.mape:.4f}",
        f"decode_p95 = {d.p95:.4f}",
        f"decode_max = {d.largest:.4f}",
        f"decode_sum_max = {result.decode_sum_largest:.4f}",
        f"prefill_16k_to_32k_max = {long_prefill.largest:.4f}",
        f"decode_16k_to_32k_max = {long_decode.largest:.4f}",
        "",
        "[provenance]",
        f'source = "{SOURCE}"',
        f'license = "{LICENSE}"',
        f'framework = "{configuration.framework} {configuration.version}"',
        f'configuration = "{configured}"',
        f'date = "{FIT_DATE}"',
        f'fit = "monotone, relative least squares, up to {MAX_TOKENS} tokens per call and kv_tokens in all"',
        f'held_out = "{result.held_out}"',
        'kv_tokens = "0.90 of the usable HBM less 4 GiB per GPU, less the weights"',
        'nic = "one network interface per GPU, assumed"',
        f'serving_overhead_prefill = "{OVERHEAD_PREFILL}"',
        f'serving_overhead_decode = "{OVERHEAD_DECODE}"',
        "known_errors = [",
        *(f'    "{sentence}",' for sentence in known),
        "]",
    ]
    return "\n".join(lines) + "\n"


def digits(value: float) -> str:
    """Return the value rounded to six significant digits, as a TOML float."""
    return repr(float(f"{value:.6g}"))


def knots_text(knots: Sequence[tuple[int, float]]) -> str:
    """Return a curve as TOML."""
    return "[" + ", ".join(f"[{x}, {digits(ms)}]" for x, ms in knots) + "]"


def print_fit(name: str, result: Fit, first: dict[str, Any] | None) -> None:
    """Print the errors of a fit, and by how much it differs from the first one."""
    p, d = result.prefill_errors, result.decode_errors
    print(
        f"{name}: prefill MAPE {p.mape:.1%} max {p.largest:.1%} (n={p.rows}), "
        f"decode MAPE {d.mape:.1%} max {d.largest:.1%} (n={d.rows}), sums max {result.decode_sum_largest:.1%}"
    )
    if first is None:
        print("  not in the first fit")
        return
    g, h = first["prefill"], first["decode"]
    print("  against the first fit:")
    for curve, knots, old in (("g", result.prefill.g_knots, g["g_ms"]), ("h", result.decode.h_knots, h["h_ms"])):
        print(f"    {curve}: " + "  ".join(f"{x}: {ms / o - 1:+.1%}" for (x, ms), o in zip(knots, old, strict=True)))
    pairs = (
        ("a1", result.prefill.a1_ms, g["a1_ms_per_tok"]),
        ("a2", result.prefill.a2_ms, g["a2_ms_per_tok2"]),
        ("b2", result.decode.b2_ms, h["b2_ms_per_ctx_tok"]),
    )
    print("    " + "  ".join(f"{key}: {new / old - 1:+.1%}" for key, new, old in pairs))


def check_overhead(data: Path) -> None:
    """Print what the measured serving rows say about the overhead, as far as they say anything.

    They are of FP8, for which the data hold fits of other frameworks only, so this is a check of size: the overhead
    of the profiles is not taken from here.
    """
    entries = json.loads((data / "coefficients.json").read_text(encoding="utf-8"))
    with open(data / "silicon_serving_measured.csv", encoding="utf-8") as file:
        measured = [
            r for r in csv.DictReader(file) if r["backend"] == "vllm" and "Llama" in r["model_path"] and r["tp_size"]
        ]
    print("serving overhead, measured vLLM FP8 against the FP8 operators of another framework (a check of size):")
    for framework in ("sglang", "trtllm"):
        fp8 = {
            (e["gpu"], e["tp"]): e
            for e in entries
            if e["framework"] == framework and e["dtype"] == "fp8" and e["model"].startswith("llama")
        }
        ttft: list[tuple[float, float]] = []
        tpot: list[tuple[float, float, float]] = []
        for r in measured:
            entry = fp8.get((r["system"].removesuffix("_sxm"), int(float(r["tp_size"]))))
            if entry is None or int(r["osl"]) > 1024:
                continue
            prompt, output, batch = int(r["isl"]), int(r["osl"]), int(float(r["batch_size"]))
            computed = first_fit_ms(entry, prompt, batch, prompt + output // 2)
            if batch == 4:
                ttft.append((computed[0], float(r["silicon_ttft_ms"])))
            if prompt == 1024:  # longer prompts' prefills interrupt decoding too much to be an overhead
                tpot.append((computed[1], float(r["silicon_tpot_ms"]), float(batch)))
        c0, c1 = fit_overhead([t[0] for t in ttft], [t[1] for t in ttft])
        o0, o1 = fit_overhead([t[0] for t in tpot], [t[1] for t in tpot], [t[2] for t in tpot])
        print(f"  {framework}: c0 {c0:.1f} ms, c1 {c1:.2f} (n={len(ttft)})", end="; ")
        print(f"o0 {o0:.2f} ms, o1 {o1:.4f} ms (n={len(tpot)})")
    print(f"  shipped: c0 {C0_MS} ms, c1 {C1}; o0 {O0_MS} ms, o1 {O1_MS} ms")


def first_fit_ms(entry: dict[str, Any], prompt: int, batch: int, context: int) -> tuple[float, float]:
    """Return the first fit's times of a prefill of ``prompt`` tokens and of a decode iteration, ms."""
    g, h = entry["prefill"], entry["decode"]
    prefill = PrefillLatency(
        tuple((int(x), ms) for x, ms in zip(g["knots"], g["g_ms"], strict=True)),
        g["a1_ms_per_tok"],
        g["a2_ms_per_tok2"],
    )
    decode = DecodeLatency(
        tuple((int(x), ms) for x, ms in zip(h["knots"], h["h_ms"], strict=True)), h["b2_ms_per_ctx_tok"]
    )
    return (
        prefill_ms(prefill, Row("prefill", 1, prompt, 0, 1.0)),
        decode_ms(decode, Row("decode", batch, context, 0, 1.0)),
    )


if __name__ == "__main__":
    sys.exit(main())
