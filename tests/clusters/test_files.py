"""Cluster files: the contract of the format, the shipped clusters, and the way back to text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexopt.clusters import cluster_names, describe, dump_cluster, load_cluster
from hexopt.core.cluster import Cluster, DecodeInstance, DecodeLatency, Network, PrefillInstance, PrefillLatency
from hexopt.latency import ClusterLatency

LEAST = """\
schema_version = 1
model = "toy"
kv_bytes_per_token = 1000

[[instances]]
name = "p"
role = "prefill"
g_knots = [[1, 1], [512, 10.5]]
a1_ms = 0.02
a2_ms = 0
kv_tokens = 4096
nic_bytes_per_s = 1e9

[[instances]]
name = "d"
role = "decode"
h_knots = [[1, 2.0], [8, 4.0]]
b2_ms = 0.0001
kv_tokens = 8192
nic_bytes_per_s = 2_000_000_000
"""

PROFILED = """\
schema_version = 1
model = "llama3.1-70b"

[[instances]]
name = "p"
role = "prefill"
profile = "llama3.1-70b-h100-tp4"

[[instances]]
name = "d"
role = "decode"
profile = "llama3.1-70b-a100-tp4"
"""


def load(tmp_path: Path, text: str) -> Cluster:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return load_cluster(path)


def test_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, LEAST) == Cluster(
        name="mine",
        model="toy",
        prefill=(
            PrefillInstance(
                name="p",
                kv_tokens=4096,
                nic_bytes_per_s=1e9,
                kv_bytes_per_token=1000,
                latency=PrefillLatency(((1, 1.0), (512, 10.5)), 0.02, 0.0, c0_ms=0.0, c1=1.0, extrapolate=False),
                max_batch_tokens=1,
                gpu="",
            ),
        ),
        decode=(
            DecodeInstance(
                name="d",
                kv_tokens=8192,
                nic_bytes_per_s=2e9,
                kv_bytes_per_token=1000,
                latency=DecodeLatency(((1, 2.0), (8, 4.0)), 0.0001, o0_ms=0.0, o1_ms=0.0, extrapolate=False),
                max_batch=8,
                gpu="",
            ),
        ),
        network=Network(efficiency=0.75, latency_us=2000, contention="nic"),
        block_tokens=16,
        kv_admission="backfill",
        binding="dispatch",
    )


def test_every_key_is_read(tmp_path: Path) -> None:
    text = LEAST.replace(
        "kv_bytes_per_token = 1000\n",
        'kv_bytes_per_token = 1000\nname = "n"\ndescription = "d"\nblock_tokens = 8\nkv_admission = "strict"\n'
        'binding = "handoff"\nextrapolate = true\n[network]\nefficiency = 1\nlatency_us = 0\ncontention = "none"\n',
    )
    text = text.replace(
        'name = "p"\n',
        'name = "p"\nc0_ms = 1.5\nc1 = 2\nmax_batch_tokens = 99\ngpu = "x"\nextrapolate = false\n'
        "kv_bytes_per_token = 7\n",
    )
    text = text.replace('name = "d"\n', 'name = "d"\no0_ms = 1\no1_ms = 0.5\nmax_batch = 20\ngpu = "y"\n')
    cluster = load(tmp_path, text)
    assert (cluster.name, cluster.block_tokens, cluster.kv_admission, cluster.binding) == ("n", 8, "strict", "handoff")
    assert cluster.network == Network(1.0, 0, "none")
    (p,), (d,) = cluster.prefill, cluster.decode
    assert (p.latency.c0_ms, p.latency.c1, p.max_batch_tokens, p.gpu) == (1.5, 2.0, 99, "x")
    assert not p.latency.extrapolate  # the instance's word goes before the file's
    assert (p.kv_bytes_per_token, d.kv_bytes_per_token) == (7, 1000)
    assert (d.latency.o0_ms, d.latency.o1_ms, d.max_batch, d.gpu, d.latency.extrapolate) == (1.0, 0.5, 20, "y", True)


@pytest.mark.parametrize(
    ("count", "names"), [("", ["p"]), ("count = 1", ["p-0"]), ("count = 3", ["p-0", "p-1", "p-2"])]
)
def test_count_numbers_the_instances(tmp_path: Path, count: str, names: list[str]) -> None:
    cluster = load(tmp_path, LEAST.replace('name = "p"\n', f'name = "p"\n{count}\n'))
    assert [p.name for p in cluster.prefill] == names


def test_a_profile_brings_everything(tmp_path: Path) -> None:
    cluster = load(tmp_path, PROFILED)
    (p,), (d,) = cluster.prefill, cluster.decode
    assert (p.gpu, p.kv_tokens, p.kv_bytes_per_token, p.nic_bytes_per_s) == ("h100", 450_045, 327_680, 200e9)
    assert (p.latency.c0_ms, p.latency.c1, p.max_batch_tokens) == (27.5, 1.17, 1)
    assert (d.gpu, d.kv_tokens, d.nic_bytes_per_s, d.max_batch) == ("a100", 451_814, 100e9, 256)
    assert (d.latency.o0_ms, d.latency.o1_ms) == (0.83, 0.0445)


def test_a_profile_may_be_overridden(tmp_path: Path) -> None:
    overrides = (
        'kv_tokens = 5\nnic_bytes_per_s = 6\nkv_bytes_per_token = 7\ngpu = "z"\nextrapolate = true\n'
        "serving_overhead = false\n"
    )
    text = PROFILED.replace('name = "p"\n', f'name = "p"\nmax_batch_tokens = 8\n{overrides}')
    text = text.replace('name = "d"\n', f'name = "d"\nmax_batch = 300\n{overrides}')
    cluster = load(tmp_path, text)
    (p,), (d,) = cluster.prefill, cluster.decode
    for i in (p, d):
        assert (i.kv_tokens, i.nic_bytes_per_s, i.kv_bytes_per_token, i.gpu) == (5, 6.0, 7, "z")
        assert i.latency.extrapolate
    assert (p.latency.c0_ms, p.latency.c1, p.max_batch_tokens) == (0.0, 1.0, 8)
    assert (d.latency.o0_ms, d.latency.o1_ms, d.max_batch) == (0.0, 0.0, 300)


def test_kv_bytes_per_token_of_the_instance_then_the_file_then_the_profile(tmp_path: Path) -> None:
    assert load(tmp_path, PROFILED).decode[0].kv_bytes_per_token == 327_680
    top = PROFILED.replace('model = "llama3.1-70b"\n', 'model = "llama3.1-70b"\nkv_bytes_per_token = 11\n')
    cluster = load(tmp_path, top.replace('name = "d"\n', 'name = "d"\nkv_bytes_per_token = 12\n'))
    assert (cluster.prefill[0].kv_bytes_per_token, cluster.decode[0].kv_bytes_per_token) == (11, 12)


def test_a_path_may_be_text(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text(LEAST)  # no .toml, but a separator says that it is a path
    assert load_cluster(str(tmp_path / "mine")).name == "mine"


# The shipped clusters

POOLS = {
    "hetero-1-llama": ("llama3.1-70b", [("a100", 4)] * 2 + [("h100", 4)] * 3 + [("h200", 4)] * 3),
    "hetero-2-llama": ("llama3.1-70b", [("a100", 4)] * 3 + [("h100", 4)] * 4 + [("h200", 4)] * 3),
    "hetero-1-qwen": ("qwen3-235b-a22b", [("a100", 8)] * 2 + [("h100", 8)] * 3 + [("h200", 4)] * 3),
    "hetero-2-qwen": ("qwen3-235b-a22b", [("a100", 8)] * 3 + [("h100", 8)] * 4 + [("h200", 4)] * 3),
    "homogeneous-llama": ("llama3.1-70b", [("h200", 4)] * 4),
    "homogeneous-qwen": ("qwen3-235b-a22b", [("a100", 8)] * 4),
    "h100-4p4d-llama": ("llama3.1-70b", [("h100", 4)] * 4),
}


def test_the_shipped_clusters() -> None:
    assert set(cluster_names()) == {*POOLS, "tiny"}


@pytest.mark.parametrize("name", sorted(POOLS))
def test_a_shipped_cluster_has_its_pools(name: str) -> None:
    model, pool = POOLS[name]
    cluster = load_cluster(name)
    assert (cluster.name, cluster.model) == (name, model)
    assert (cluster.network, cluster.block_tokens) == (Network(0.75, 2000, "nic"), 16)
    assert (cluster.kv_admission, cluster.binding) == ("backfill", "dispatch")
    for instances in (cluster.prefill, cluster.decode):
        rate = {"a100": 25e9, "h100": 50e9, "h200": 50e9}
        assert [(i.gpu, i.nic_bytes_per_s) for i in instances] == [(gpu, tp * rate[gpu]) for gpu, tp in pool]
        assert not any(i.latency.extrapolate for i in instances)
    bytes_per_token = 327_680 if "llama" in name else None
    for d, (_, tp) in zip(cluster.decode, pool, strict=True):
        assert d.kv_bytes_per_token == (bytes_per_token or (385_024 if tp == 8 else 192_512))
        assert (d.max_batch, d.latency.o0_ms, d.latency.o1_ms) == (256, 0.83, 0.0445)
    for p in cluster.prefill:
        assert (p.max_batch_tokens, p.latency.c0_ms, p.latency.c1) == (1, 27.5, 1.17)


def test_tiny_is_small_and_round() -> None:
    cluster = load_cluster("tiny")
    latency = ClusterLatency(cluster)
    assert (len(cluster.prefill), len(cluster.decode)) == (2, 2)
    assert latency.decode_us(0, 1, 1000, 1) == 2100
    assert latency.wire_us(0, 0, 100) == 200


def test_transfer_times_of_a_long_prompt() -> None:
    # the figures of the calibration page: a 4k prompt takes about 20 ms from A100 TP4 and 11 ms from H100 TP4
    latency = ClusterLatency(load_cluster("hetero-1-llama"))
    h200 = 7
    assert latency.wire_us(0, h200, 4096) + latency.transfer_latency_us == pytest.approx(20_000, rel=0.02)
    assert latency.wire_us(2, h200, 4096) + latency.transfer_latency_us == pytest.approx(11_000, rel=0.02)


# Tables


def test_describe_groups_equal_neighbours() -> None:
    rows = describe(load_cluster("hetero-1-qwen"))
    assert [(r["role"], r["gpu"], r["count"]) for r in rows] == [
        *(("prefill", gpu, n) for gpu, n in (("a100", 2), ("h100", 3), ("h200", 3))),
        *(("decode", gpu, n) for gpu, n in (("a100", 2), ("h100", 3), ("h200", 3))),
    ]
    assert rows[0]["instances"] == "prefill-a100-0 .. prefill-a100-1"
    assert len({tuple(r) for r in rows}) == 1  # the same columns in every row
    assert rows[0]["max_batch"] == rows[0]["iteration_1_ms"] == rows[3]["prefill_512_ms"] == ""
    assert rows[0]["prefill_512_ms"] > rows[1]["prefill_512_ms"] > 0  # type: ignore[operator]
    assert rows[0]["nic_gb_per_s"] == 200.0


def test_describe_leaves_uncalibrated_times_blank(tmp_path: Path) -> None:
    row = describe(load(tmp_path, LEAST))[1]
    assert (row["instances"], row["iteration_1_ms"], row["iteration_32_ms"]) == ("d", 2.103, "")


# Back to text

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
number = st.floats(0, 1e9)
positive = st.floats(1, 1e6)
whole = st.integers(1, 2**20)
small = st.integers(1, 10**6)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    def knots() -> tuple[tuple[int, float], ...]:
        xs = sorted(draw(st.sets(small, min_size=2, max_size=5)))
        return tuple((x, draw(number)) for x in xs)

    names = draw(st.lists(text.filter(bool), min_size=2, max_size=6, unique=True))
    split = draw(st.integers(1, len(names) - 1))
    prefill = tuple(
        PrefillInstance(
            name=name,
            kv_tokens=draw(whole),
            nic_bytes_per_s=draw(positive),
            kv_bytes_per_token=draw(whole),
            latency=PrefillLatency(
                knots(), draw(number), draw(number), draw(number), draw(positive), draw(st.booleans())
            ),
            max_batch_tokens=draw(whole),
            gpu=draw(text),
        )
        for name in names[:split]
    )
    decode = []
    for name in names[split:]:
        h_knots = knots()
        extrapolate = draw(st.booleans())
        decode.append(
            DecodeInstance(
                name=name,
                kv_tokens=draw(whole),
                nic_bytes_per_s=draw(positive),
                kv_bytes_per_token=draw(whole),
                latency=DecodeLatency(h_knots, draw(number), draw(number), draw(number), extrapolate),
                max_batch=draw(whole if extrapolate else st.integers(1, h_knots[-1][0])),
                gpu=draw(text),
            )
        )
    return Cluster(
        name=draw(text),
        model=draw(text),
        prefill=prefill,
        decode=tuple(decode),
        network=Network(draw(st.floats(1e-6, 1)), draw(st.integers(0, 10**15)), draw(st.sampled_from(["nic", "none"]))),
        block_tokens=draw(whole),
        kv_admission=draw(st.sampled_from(["backfill", "strict"])),
        binding=draw(st.sampled_from(["dispatch", "handoff"])),
    )


@settings(deadline=None)  # the first example imports pydantic
@given(cluster=clusters())
def test_dump_and_load_are_inverse(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> None:
    cluster.check()
    path = tmp_path_factory.getbasetemp() / "dumped.toml"
    path.write_bytes(dump_cluster(cluster).encode("utf-8"))
    assert load_cluster(path) == cluster


@pytest.mark.parametrize("name", cluster_names())
def test_shipped_clusters_survive_a_dump(tmp_path: Path, name: str) -> None:
    cluster = load_cluster(name)
    dumped = dump_cluster(cluster)
    assert "profile" not in dumped
    assert load(tmp_path, dumped) == cluster
    assert dump_cluster(load(tmp_path, dumped)) == dumped


def test_importing_is_light() -> None:
    heavy = "{'pandas', 'matplotlib', 'pydantic'} & set(__import__('sys').modules)"
    code = f"import hexopt.clusters, hexopt.latency.profiles; print(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
