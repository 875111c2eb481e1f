"""Every mistake in a cluster file: one line that names the file, the thing, and what to do."""

# ruff: noqa: E501 - the messages of CASES are quoted whole, as a person sees them

from __future__ import annotations

from pathlib import Path

import pytest

from hexopt.clusters import cluster_names, load_cluster
from hexopt.errors import ClusterError

GOOD = """\
schema_version = 1
model = "toy"
kv_bytes_per_token = 1000

[network]
efficiency = 0.5

[[instances]]
name = "p"
role = "prefill"
g_knots = [[1, 1.0], [512, 10.0]]
a1_ms = 0.02
a2_ms = 0.000001
kv_tokens = 4096
nic_bytes_per_s = 1e9

[[instances]]
name = "d"
role = "decode"
h_knots = [[1, 2.0], [8, 4.0]]
b2_ms = 0.0001
kv_tokens = 8192
nic_bytes_per_s = 1e9
"""

G = "g_knots = [[1, 1.0], [512, 10.0]]"
INLINE = f"{G}\na1_ms = 0.02\na2_ms = 0.000001\n"
PAIRS = "a list of [x, ms] pairs with whole x of at least 1 and finite ms of at least 0 is needed, correct it"
TOP = (
    "known: binding, block_tokens, description, extrapolate, instances, kv_admission, kv_bytes_per_token, model, "
    "name, network, schema_version, correct or remove it"
)
INSTANCE_NEEDS = "g_knots, a1_ms, a2_ms, kv_tokens, nic_bytes_per_s"
WHOLE = "a whole number of at least 1 is needed, correct it"
NUMBER = "a finite number of at least 0 is needed, correct it"
POSITIVE = "a finite number above 0 is needed, correct it"
LLAMA = 'profile = "llama3.1-70b-h100-tp4"'

# (old text, new text, message after "FILE: ")
CASES = [
    # the whole file
    ("schema_version = 1", "schema_version = 2", "schema_version: 2 found, 1 (the version that this hexopt reads) is needed, correct it"),
    ("schema_version = 1", "schema_version = true", "schema_version: true found, 1 (the version that this hexopt reads) is needed, correct it"),
    ("schema_version = 1", "schema_version = 1.0", "schema_version: 1.0 found, 1 (the version that this hexopt reads) is needed, correct it"),
    ("schema_version = 1\n", "", "schema_version is missing, 1 (the version that this hexopt reads) is needed, add it"),
    ('model = "toy"\n', "", "model is missing, a text is needed, add it"),
    ('model = "toy"', "model = 3", "model: 3 found, a text is needed, correct it"),
    ('model = "toy"', 'model = "toy"\nkv_admision = "strict"', f"kv_admision: the key is unknown, did you mean 'kv_admission'? {TOP}"),
    ('model = "toy"', 'model = "toy"\nx = 1979-05-27', f"x: the key is unknown, {TOP}"),
    ('model = "toy"', 'model = "toy"\nkv_admission = "lax"', 'kv_admission: "lax" found, "backfill" or "strict" is needed, correct it'),
    ('model = "toy"', 'model = "toy"\nbinding = true', 'binding: true found, "dispatch" or "handoff" is needed, correct it'),
    ('model = "toy"', 'model = "toy"\nextrapolate = 1', "extrapolate: 1 found, true or false is needed, correct it"),
    ('model = "toy"', 'model = "toy"\nblock_tokens = 0', f"block_tokens: 0 found, {WHOLE}"),
    ('model = "toy"', 'model = "toy"\nblock_tokens = 16.0', f"block_tokens: 16.0 found, {WHOLE}"),
    ("kv_bytes_per_token = 1000", "kv_bytes_per_token = false", f"kv_bytes_per_token: false found, {WHOLE}"),
    # TOML
    ('model = "toy"', 'model "toy"', "line 2: no valid TOML found (expected '=' after a key in a key/value pair), a cluster is a TOML file, correct the line"),
    ('model = "toy"', 'model = "toy"\nmodel = "toy"', "line 3: no valid TOML found (cannot overwrite a value), a cluster is a TOML file, correct the line"),
    ("nic_bytes_per_s = 1e9\n\n", "nic_bytes_per_s = 1e9\n\n[[instances\n", "line 17: no valid TOML found (expected ']]' at the end of an array declaration), a cluster is a TOML file, correct the line"),
    # [network]
    ("[network]\nefficiency = 0.5\n", "network = 3\n", "network: 3 found, a table is needed, correct it"),
    ("efficiency = 0.5", "eficiency = 0.5", "network: eficiency: the key is unknown, did you mean 'efficiency'? known: contention, efficiency, latency_us, correct or remove it"),
    ("efficiency = 0.5", "efficiency = 1.5", "network: efficiency: 1.5 found, a share of the wire rate above 0 and at most 1 is needed, correct it"),
    ("efficiency = 0.5", "efficiency = nan", "network: efficiency: nan found, a share of the wire rate above 0 and at most 1 is needed, correct it"),
    ("efficiency = 0.5", "latency_us = -1", "network: latency_us: -1 found, a whole number of at least 0 is needed, correct it"),
    ("efficiency = 0.5", "latency_us = true", "network: latency_us: true found, a whole number of at least 0 is needed, correct it"),
    ("efficiency = 0.5", 'contention = "all"', 'network: contention: "all" found, "nic" or "none" is needed, correct it'),
    # [[instances]]: names, roles, counts
    ('name = "d"\n', "", "instances[1]: name is missing, a text of at least one character is needed, add it"),
    ('name = "d"', 'name = ""', 'instances[1]: name: "" found, a text of at least one character is needed, correct it'),
    ('role = "decode"\n', "", "instance 'd': role is missing, role = \"prefill\" or \"decode\" is needed, add it"),
    ('role = "decode"', 'role = "deocde"', "instance 'd': role: \"deocde\" found, \"prefill\" or \"decode\" is needed, correct it"),
    ('role = "decode"', "role = true", "instance 'd': role: true found, \"prefill\" or \"decode\" is needed, correct it"),
    ('name = "d"', 'name = "p"', "cluster 'mine': instance name 'p' occurs twice, names are unique, rename one"),
    ('name = "p"', 'name = "p"\ncount = 0', "instance 'p': count: 0 found, a whole number from 1 to 10000 is needed, correct it"),
    ('name = "p"', 'name = "p"\ncount = true', "instance 'p': count: true found, a whole number from 1 to 10000 is needed, correct it"),
    ('name = "p"', 'name = "p"\ncount = 1000000000', "instance 'p': count: 1000000000 found, a whole number from 1 to 10000 is needed, correct it"),
    # [[instances]]: keys
    ("kv_tokens = 4096", "kv_token = 4096", "instance 'p': kv_token: the key is unknown, did you mean 'kv_tokens'? known: a1_ms, a2_ms, c0_ms, c1, count, extrapolate, g_knots, gpu, kv_bytes_per_token, kv_tokens, max_batch_tokens, name, nic_bytes_per_s, profile, role, serving_overhead, correct or remove it"),
    ('name = "p"', 'name = "p"\nmax_batch = 4', "instance 'p': max_batch: the key is one of a decode instance, a prefill instance has no such key, remove it or correct the role"),
    ('name = "d"', 'name = "d"\na1_ms = 4', "instance 'd': a1_ms: the key is one of a prefill instance, a decode instance has no such key, remove it or correct the role"),
    ("a1_ms = 0.02\n", "", f"instance 'p': a1_ms is missing, an instance without a profile states {INSTANCE_NEEDS}, add a1_ms"),
    ("a2_ms = 0.000001\n", "", f"instance 'p': a2_ms is missing, an instance without a profile states {INSTANCE_NEEDS}, add a2_ms"),
    ("b2_ms = 0.0001\n", "", "instance 'd': b2_ms is missing, an instance without a profile states h_knots, b2_ms, kv_tokens, nic_bytes_per_s, add b2_ms"),
    ("kv_tokens = 4096\nnic_bytes_per_s = 1e9\n", "", f"instance 'p': kv_tokens is missing, an instance without a profile states {INSTANCE_NEEDS}, add kv_tokens, nic_bytes_per_s"),
    (INLINE, "", f"instance 'p': it has neither a profile nor g_knots, an instance needs coefficients, add profile = \"NAME\" or {INSTANCE_NEEDS}"),
    # [[instances]]: values
    ("kv_tokens = 4096", "kv_tokens = true", f"instance 'p': kv_tokens: true found, {WHOLE}"),
    ("kv_tokens = 4096", "kv_tokens = 4096.0", f"instance 'p': kv_tokens: 4096.0 found, {WHOLE}"),
    ("kv_tokens = 4096", 'kv_tokens = "4096"', f"instance 'p': kv_tokens: \"4096\" found, {WHOLE}"),
    ("kv_tokens = 4096", "kv_tokens = -1", f"instance 'p': kv_tokens: -1 found, {WHOLE}"),
    ("a1_ms = 0.02", "a1_ms = inf", f"instance 'p': a1_ms: inf found, {NUMBER}"),
    ("a1_ms = 0.02", "a1_ms = nan", f"instance 'p': a1_ms: nan found, {NUMBER}"),
    ("a1_ms = 0.02", "a1_ms = -0.02", f"instance 'p': a1_ms: -0.02 found, {NUMBER}"),
    ("a1_ms = 0.02", "a1_ms = true", f"instance 'p': a1_ms: true found, {NUMBER}"),
    ("a1_ms = 0.02", "a1_ms = {x = [1]}", f"instance 'p': a1_ms: {{x = [1]}} found, {NUMBER}"),
    ("b2_ms = 0.0001", 'b2_ms = "x"', f"instance 'd': b2_ms: \"x\" found, {NUMBER}"),
    ("a1_ms = 0.02", "a1_ms = 0.02\nc1 = 0", f"instance 'p': c1: 0 found, {POSITIVE}"),
    ("nic_bytes_per_s = 1e9", "nic_bytes_per_s = 0.0", f"instance 'p': nic_bytes_per_s: 0.0 found, {POSITIVE}"),
    (G, "g_knots = []", f"instance 'p': g_knots: [] found, {PAIRS}"),
    (G, "g_knots = 5", f"instance 'p': g_knots: 5 found, {PAIRS}"),
    (G, "g_knots = [[1, 1.0, 2]]", f"instance 'p': g_knots[0]: [1, 1.0, 2] found, {PAIRS}"),
    (G, "g_knots = [[1, 1.0], [2.5, 2.0]]", f"instance 'p': g_knots[1][0]: 2.5 found, {PAIRS}"),
    (G, "g_knots = [[1, 1.0], [2, nan]]", f"instance 'p': g_knots[1][1]: nan found, {PAIRS}"),
    (G, "g_knots = [[true, 1.0]]", f"instance 'p': g_knots[0][0]: true found, {PAIRS}"),
    (G, "g_knots = [[512, 1.0], [1, 2.0]]", "instance 'p': g_knots: 1 follows 512, knots stand in increasing order of x, sort them"),
    ("h_knots = [[1, 2.0], [8, 4.0]]", "h_knots = [[8, 2.0], [8, 4.0]]", "instance 'd': h_knots: 8 follows 8, knots stand in increasing order of x, sort them"),
    ('name = "d"', 'name = "d"\nmax_batch = 9', "instance 'd': max_batch 9 lies beyond the last calibrated batch 8 of h_knots, a model is not extrapolated unasked, lower max_batch or set extrapolate = true"),
    ("h_knots = [[1, 2.0], [8, 4.0]]", "h_knots = [[1, 2.0]]\nmax_batch = 9\nextrapolate = true", "instance 'd': h_knots has one knot, extrapolation needs two, add a knot"),
    # profiles
    ('name = "p"', f'name = "p"\n{LLAMA}', "instance 'p': g_knots: it stands beside profile \"llama3.1-70b-h100-tp4\", a profile brings all latency coefficients, remove g_knots or the profile"),
    (INLINE, f"{LLAMA}\nc1 = 2.0\n", "instance 'p': c1: it stands beside profile \"llama3.1-70b-h100-tp4\", a profile brings all latency coefficients, remove c1 or the profile"),
    (INLINE, f"{LLAMA}\n", "instance 'p': profile \"llama3.1-70b-h100-tp4\" is of model \"llama3.1-70b\", the cluster's model is \"toy\", choose a profile of that model or correct model"),
    ('name = "d"', 'name = "d"\nserving_overhead = false', "instance 'd': serving_overhead: false found without a profile, it switches a profile's overhead, remove it and give o0_ms and o1_ms if there is overhead"),
]  # fmt: skip


def message_of(tmp_path: Path, content: str | bytes) -> str:
    path = tmp_path / "mine.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ClusterError) as caught:
        load_cluster(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(("old", "new", "message"), CASES, ids=[f"{i}-{case[1][:20]}" for i, case in enumerate(CASES)])
def test_message(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert message_of(tmp_path, GOOD.replace(old, new, 1)) == message


def test_the_file_itself_is_good(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    assert load_cluster(tmp_path / "mine.toml").name == "mine"


def test_unknown_profile(tmp_path: Path) -> None:
    message = message_of(tmp_path, GOOD.replace(INLINE, 'profile = "llama-70b-h100-tp4"\n'))
    assert message.startswith(
        "instance 'p': latency profile 'llama-70b-h100-tp4': no such profile is shipped, "
        "did you mean 'llama3.1-70b-h100-tp4'? known: llama3.1-70b-a100-tp4, "
    )
    assert message.endswith(", or give the coefficients inline")


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_no_instance_of_a_role(tmp_path: Path, role: str) -> None:
    kept = [part for part in GOOD.split("[[instances]]") if f'role = "{role}"' not in part]
    assert message_of(tmp_path, "[[instances]]".join(kept)) == (
        f"cluster 'mine': it has no instance of role {role}, at least one of each role is needed, add an instance"
    )


def test_no_instances_at_all(tmp_path: Path) -> None:
    head = 'schema_version = 1\nmodel = "m"\n'
    rule = "an array of tables [[instances]] is needed"
    assert message_of(tmp_path, head) == f"instances is missing, {rule}, add it"
    assert message_of(tmp_path, f"{head}instances = 3") == f"instances: 3 found, {rule}, correct it"
    assert message_of(tmp_path, f"{head}instances = [3]") == (
        "instances[0]: 3 found, a table [[instances]] is needed, correct it"
    )


def test_no_kv_bytes_per_token(tmp_path: Path) -> None:
    text = GOOD.replace("kv_bytes_per_token = 1000\n", "").replace('name = "p"', 'name = "p"\nkv_bytes_per_token = 1')
    assert message_of(tmp_path, text) == (
        "instance 'd': kv_bytes_per_token is missing here and at the top of the file, "
        "the size of a transfer follows from it, add it to one of the two"
    )


def test_the_first_error_and_how_many_follow(tmp_path: Path) -> None:
    text = GOOD.replace("a1_ms = 0.02", "a1_ms = -1").replace("a2_ms = 0.000001", 'a2_ms = "x"')
    assert message_of(tmp_path, text) == (f"instance 'p': a1_ms: -1 found, {NUMBER} (and 1 more error in this file)")
    assert message_of(tmp_path, text.replace("b2_ms = 0.0001", "b2_ms = nan")).endswith(
        " (and 2 more errors in this file)"
    )
    # errors that show only once every value is of its type are counted alike
    unsorted = GOOD.replace(G, "g_knots = [[2, 1.0], [1, 1.0]]").replace("b2_ms = 0.0001\n", "")
    assert message_of(tmp_path, unsorted) == (
        "instance 'p': g_knots: 1 follows 2, knots stand in increasing order of x, sort them "
        "(and 1 more error in this file)"
    )


def test_an_empty_file(tmp_path: Path) -> None:
    assert message_of(tmp_path, "").endswith("(and 2 more errors in this file)")


def test_no_text(tmp_path: Path) -> None:
    assert message_of(tmp_path, GOOD.encode() + b"\n\xff") == (
        "line 25: byte 0xff found, TOML is UTF-8 text, save the file as UTF-8"
    )


def test_an_unfinished_file_names_its_last_line(tmp_path: Path) -> None:
    message = message_of(tmp_path, "a = 1\nb = [1,")
    assert message.startswith("line 2: no valid TOML found (")
    assert message.endswith("), a cluster is a TOML file, correct the line")


@pytest.mark.parametrize("content", ["a = " + "[" * 10_000, "a = " + "1" * 5_000])
def test_values_beyond_reason(tmp_path: Path, content: str) -> None:
    message = message_of(tmp_path, content)
    assert "a value is beyond what can be read (" in message or "no valid TOML found" in message


def test_long_and_odd_values_are_shown_briefly_on_one_line(tmp_path: Path) -> None:
    message = message_of(tmp_path, GOOD.replace("a1_ms = 0.02", f'a1_ms = "{"x" * 500}"'))
    assert message == f"instance 'p': a1_ms: \"{'x' * 55} ... found, {NUMBER}"
    huge = GOOD.replace("nic_bytes_per_s = 1e9", "nic_bytes_per_s = 1" + "0" * 400, 1)
    assert message_of(tmp_path, huge).endswith(f"0 ... found, {POSITIVE}")
    assert "instance 'a b': kv_tokens" in message_of(
        tmp_path, GOOD.replace('name = "p"', 'name = "a\\nb"').replace("kv_tokens = 4096", "kv_tokens = 0")
    )


def test_unknown_shipped_name() -> None:
    with pytest.raises(ClusterError) as caught:
        load_cluster("hetero-1-lama")
    assert str(caught.value) == (
        "cluster 'hetero-1-lama': no such cluster is shipped, did you mean 'hetero-1-llama'? "
        f"known: {', '.join(cluster_names())}, or give the path of a file that ends in .toml"
    )


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path, tmp_path / "nul\0.toml"):
        with pytest.raises(ClusterError) as caught:
            load_cluster(path)
        message = str(caught.value)
        assert message.startswith(str(path).replace("\0", " ") + ": it cannot be read (")
        assert message.endswith(f"a cluster is a TOML file or one of {', '.join(cluster_names())}, correct the path")
