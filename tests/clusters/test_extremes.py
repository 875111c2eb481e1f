"""Finite values that no hardware has are refused: further on they would overflow, or stop time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hexopt.clusters import load_cluster
from hexopt.core.cluster import Cluster
from hexopt.errors import ClusterError
from tests.clusters.test_errors import GOOD
from tests.policies.views import cluster


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kv_tokens = 4096", f"kv_tokens = {10**26}", "instance 'p': kv_tokens: 1000"),
        ("kv_tokens = 4096", "kv_tokens = 0x1" + "0" * 5000, "kv_tokens: a whole number of 60 digits or more is too"),
        ("kv_tokens = 4096", f"kv_tokens = {2**40 + 1}", "too large, at most 1099511627776 is legal"),
        ('model = "toy"', f'model = "toy"\nblock_tokens = {2**41}', "block_tokens"),
        ("kv_bytes_per_token = 1000", f"kv_bytes_per_token = {2**41}", "kv_bytes_per_token"),
        ("a1_ms = 0.02", f"a1_ms = 0.02\nmax_batch_tokens = {2**41}", "max_batch_tokens"),
        ("[512, 10.0]", f"[{2**41}, 10.0]", "g_knots: x"),
        ("[512, 10.0]", "[512, 1e308]", "g_knots: ms at 512: 1e+308 is too large, at most 1e+09 is legal"),
        ("[8, 4.0]", "[8, 1e308]", "h_knots: ms at 8"),
        ("a1_ms = 0.02", "a1_ms = 1.1e9", "a1_ms"),
        ("a1_ms = 0.02", "a1_ms = 0.02\nc0_ms = 1.1e9", "c0_ms"),
        ("a1_ms = 0.02", "a1_ms = 0.02\nc1 = 1e7", "c1: 10000000.0 is too large, at most 1e+06 is legal"),
        ("b2_ms = 0.0001", "b2_ms = 1e300", "b2_ms"),
        ("b2_ms = 0.0001", "b2_ms = 0.0001\no1_ms = 1e300", "o1_ms"),
        ("b2_ms = 0.0001", f"b2_ms = 0.0001\nextrapolate = true\nmax_batch = {2**21}", "at most 1048576 is legal"),
        ("nic_bytes_per_s = 1e9", "nic_bytes_per_s = 1e-300", "nic_bytes_per_s: 1e-300 is too small, at least 1 is"),
        ("nic_bytes_per_s = 1e9", "nic_bytes_per_s = 1e19", "nic_bytes_per_s"),
        ("efficiency = 0.5", "efficiency = 1e-300", "network: efficiency: 1e-300 is too small, at least 1e-06 is"),
        ("efficiency = 0.5", f"latency_us = {10**20}", "network: latency_us"),
    ],
)
def test_files(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    file = tmp_path / "mine.toml"
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ClusterError) as caught:
        load_cluster(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_limits_themselves_are_legal(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        GOOD.replace("kv_tokens = 4096", f"kv_tokens = {2**40}")
        .replace("[512, 10.0]", "[512, 1e9]")
        .replace("efficiency = 0.5", f"efficiency = 1e-6\nlatency_us = {10**15}")
        .replace("nic_bytes_per_s = 1e9", "nic_bytes_per_s = 1e18", 1)
        .replace("nic_bytes_per_s = 1e9", "nic_bytes_per_s = 1", 1)
    )
    load_cluster(file)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), True, "1", None])
def test_objects(value: Any) -> None:
    site: Cluster = cluster()
    p = site.prefill[0]
    for bad in (
        replace(site, block_tokens=value if value is not True else 0),
        replace(site, prefill=(replace(p, nic_bytes_per_s=value),)),
        replace(site, prefill=(replace(p, latency=replace(p.latency, a1_ms=value)),)),
    ):
        with pytest.raises(ClusterError):
            bad.check()
