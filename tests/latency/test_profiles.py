"""Shipped profiles: they load, say where they come from, and agree with the published figures and the data."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from hexopt.errors import ClusterError
from hexopt.latency.profiles import load_profile, parse_profile, profile_names

DATA = Path(__file__).resolve().parents[3] / "shared" / "calibration"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the optional calibration data are not at {DATA}")

NEEDED = {
    "llama3.1-70b-a100-tp4",
    "llama3.1-70b-h100-tp4",
    "llama3.1-70b-h200-tp4",
    "qwen3-235b-a22b-a100-tp8",
    "qwen3-235b-a22b-h100-tp8",
    "qwen3-235b-a22b-h200-tp4",
}

# The first fit's figures: g(512) ms, a1 µs/token, a2 1e-6 ms, h(1), h(32), h(128) ms, b2 1e-6 ms/token, KV tokens.
FIRST_FIT = {
    "llama3.1-70b-a100-tp4": (102.7, 148.9, 1.826, 27.5, 31.3, 39.3, 55.97, 452e3),
    "llama3.1-70b-h100-tp4": (35.8, 62.1, 0.505, 14.9, 16.3, 19.0, 27.63, 450e3),
    "llama3.1-70b-h200-tp4": (33.5, 62.8, 0.519, 12.3, 13.0, 15.6, 19.05, 1.17e6),
    "qwen3-235b-a22b-a100-tp8": (71.6, 52.2, 1.068, 11.4, 39.3, 50.5, 38.77, 281e3),
    "qwen3-235b-a22b-h100-tp8": (42.8, 24.2, 0.291, 8.0, 24.8, 31.1, 17.58, 278e3),
    "qwen3-235b-a22b-h200-tp4": (51.1, 29.4, 0.600, 9.5, 30.2, 37.1, 13.66, 275e3),
}


def text_of(name: str) -> str:
    return resources.files("hexopt.latency").joinpath("profiles", f"{name}.toml").read_text(encoding="utf-8")


def test_the_needed_profiles_are_shipped() -> None:
    assert set(profile_names()) >= NEEDED


@pytest.mark.parametrize("name", profile_names())
def test_a_shipped_profile_is_complete(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == f"{profile.model}-{profile.gpu}-tp{profile.tp}" == name
    provenance = dict(profile.provenance)
    assert "aiconfigurator-core 0.12.0" in provenance["source"]
    assert provenance["license"] == "Apache-2.0"
    assert provenance["framework"].startswith("vllm ")
    assert {"date", "fit", "held_out", "serving_overhead_prefill", "serving_overhead_decode"} <= set(provenance)
    assert len(profile.known_errors) >= 4
    assert [x for x, _ in profile.prefill.g_knots] == [32, 64, 128, 256, 512]
    assert [x for x, _ in profile.decode.h_knots] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    for knots in (profile.prefill.g_knots, profile.decode.h_knots):
        assert [y for _, y in knots] == sorted(y for _, y in knots)
    assert profile.max_batch == 256
    assert profile.nic_bytes_per_s == profile.tp * (25e9 if profile.gpu == "a100" else 50e9)
    llama = profile.model.startswith("llama")
    assert profile.kv_bytes_per_token == (327_680 if llama else 385_024 if profile.tp == 8 else 192_512)


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_figures_agree_with_the_first_fit(name: str) -> None:
    # wide for a1 and a2, which share the long prompts between them: the first fit had other rows
    profile = load_profile(name)
    g512, a1, a2, h1, h32, h128, b2, kv = FIRST_FIT[name]
    h = dict(profile.decode.h_knots)
    assert dict(profile.prefill.g_knots)[512] == pytest.approx(g512, rel=0.03)
    assert 1000 * profile.prefill.a1_ms == pytest.approx(a1, rel=0.02)
    assert 1e6 * profile.prefill.a2_ms == pytest.approx(a2, rel=0.3)
    assert (h[1], h[32], h[128]) == pytest.approx((h1, h32, h128), rel=0.04)
    assert 1e6 * profile.decode.b2_ms == pytest.approx(b2, rel=0.06)
    assert profile.kv_tokens == pytest.approx(kv, rel=0.005)


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_errors_lie_in_the_stated_bands(name: str) -> None:
    errors = dict(load_profile(name).errors)
    assert errors["prefill_mape"] < 0.0265
    assert errors["prefill_max"] <= 0.18
    assert errors["decode_mape"] < 0.0195
    assert errors["decode_max"] <= 0.11
    assert errors["decode_sum_max"] <= 0.115


def test_overhead_is_switchable() -> None:
    profile = load_profile("llama3.1-70b-h100-tp4")
    with_it, without = profile.prefill_latency(), profile.prefill_latency(serving_overhead=False)
    assert (with_it.c0_ms, with_it.c1, without.c0_ms, without.c1) == (27.5, 1.17, 0.0, 1.0)
    decode, bare = profile.decode_latency(extrapolate=True), profile.decode_latency(serving_overhead=False)
    assert (decode.o0_ms, decode.o1_ms, bare.o0_ms, bare.o1_ms) == (0.83, 0.0445, 0.0, 0.0)
    assert decode.extrapolate
    assert not bare.extrapolate


def test_an_unknown_profile_suggests_the_nearest() -> None:
    with pytest.raises(
        ClusterError,
        match=r"^latency profile 'llama3.1-70b-h100-tp5': no such profile is shipped, did you mean 'llama3",
    ):
        load_profile("llama3.1-70b-h100-tp5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("tp = 4", "tp 4"), r"no valid TOML \(.*line 6.*\), .* correct it$"),
        (lambda t: t.replace("tp = 4", ""), "tp: it is missing, a profile states it, add it$"),
        (lambda t: t.replace("tp = 4", "tp = true"), "tp: True found, a whole number of at least 1 is needed, correct"),
        (lambda t: t.replace("tp = 4", "tp = 4\ntpp = 4"), "tpp: the key is unknown, did you mean 'tp'"),
        (lambda t: t.replace("schema_version = 1", "schema_version = 2"), "schema_version: 2 found, .* reads 1, refit"),
        (lambda t: t.replace("a1_ms = ", "a1_ms = -"), r"prefill\.a1_ms: -.* found, a finite number of at least 0"),
        (lambda t: t.replace("b2_ms = ", "b2_ms = nan #"), r"decode\.b2_ms: nan found"),
        (lambda t: t.replace("[[32, ", "[[3200, "), "prefill: g_knots: 64 follows 3200, .* sort them$"),
        (lambda t: t.replace("[[32, ", "[[32.5, "), "prefill: g_knots: x: 32.5 is no integer"),
        (lambda t: t.replace("g_knots = [", "g_knots = [3, "), r"prefill\.g_knots: .* a list of \[x, ms\] pairs"),
        (lambda t: t.replace("[decode]", "[decoed]"), "decoed: the key is unknown, did you mean 'decode'"),
        (lambda t: t.replace('gpu = "h100"', 'gpu = ""'), "gpu: '' found, a text is needed"),
        (
            lambda t: t.replace("known_errors = [", "known_errors = [3,"),
            r"provenance\.known_errors: .* a list of texts",
        ),
        (lambda t: "prefill = 3\n" + t.replace("[prefill]", "[x]"), "x: the key is unknown"),
    ],
)
def test_a_broken_profile_is_refused(change: Callable[[str], str], message: str) -> None:
    with pytest.raises(ClusterError, match=rf"^mine\.toml: {message}") as caught:
        parse_profile(change(text_of("llama3.1-70b-h100-tp4")), "mine.toml")
    assert "\n" not in str(caught.value)


def refit() -> Any:
    return importlib.import_module("experiments.refit_profiles")


@needs_data
def test_refit_writes_the_shipped_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refit().main(["--data", str(DATA), "--out", str(tmp_path)]) == 0
    assert sorted(f.stem for f in tmp_path.iterdir()) == list(profile_names())
    for file in tmp_path.iterdir():
        assert file.read_text(encoding="utf-8") == text_of(file.stem), file.name
    assert "against the first fit" in capsys.readouterr().out


@needs_data
def test_every_coefficient_is_close_to_the_first_fit() -> None:
    first_fit = json.loads((DATA / "coefficients.json").read_text(encoding="utf-8"))
    compared = 0
    for entry in first_fit:
        name = f"{entry['model']}-{entry['gpu']}-tp{entry['tp']}"
        if (entry["framework"], entry["dtype"]) != ("vllm", "bf16"):
            continue
        profile = load_profile(name)
        assert [y for _, y in profile.prefill.g_knots] == pytest.approx(entry["prefill"]["g_ms"], rel=0.1)
        assert [y for _, y in profile.decode.h_knots] == pytest.approx(entry["decode"]["h_ms"], rel=0.06)
        assert profile.prefill.a1_ms == pytest.approx(entry["prefill"]["a1_ms_per_tok"], rel=0.02)
        assert profile.prefill.a2_ms == pytest.approx(entry["prefill"]["a2_ms_per_tok2"], rel=0.3)
        assert profile.decode.b2_ms == pytest.approx(entry["decode"]["b2_ms_per_ctx_tok"], rel=0.06)
        assert profile.kv_tokens == entry["kv_tokens"]
        compared += 1
    assert compared == len(profile_names())


def test_refit_says_why_it_stops_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent"
    assert refit().main(["--data", str(absent), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"{absent}: no such folder")
    assert "--data" in message
    assert not (tmp_path / "out").exists()


def test_refit_says_why_it_stops_on_broken_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refit().main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "opdb_grid_bf16.csv.gz: it cannot be read" in capsys.readouterr().err
