"""Result tables: exact columns, kinds and values; files that are the same bytes for the same run."""

from __future__ import annotations

import gzip
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hexopt
from hexopt.core.plan import Decision
from hexopt.errors import OutputError
from tests.policies.views import cluster, decode, prefill
from tests.sim.toys import Acting, chain, flows, nothing, place_all, run

CALLS = {
    "workflow_id": "str",
    "call_id": "str",
    "ready_us": "Int64",
    "placed_us": "Int64",
    "prefill_instance": "names",
    "decode_instance": "names",
    "priority": "float64",
    "prefill_start_us": "Int64",
    "prefill_end_us": "Int64",
    "admit_us": "Int64",
    "transfer_start_us": "Int64",
    "transfer_end_us": "Int64",
    "join_us": "Int64",
    "complete_us": "Int64",
    "decode_iterations": "Int64",
}
WORKFLOWS = {
    "workflow_id": "str",
    "app": "str",
    "arrival_us": "int64",
    "complete_us": "Int64",
    "latency_us": "Int64",
    "standalone_us": "int64",
    "ratio": "float64",
}
INSTANCES = {
    "name": "str",
    "role": "str",
    "gpu": "str",
    "kv_capacity_blocks": "int64",
    "kv_peak_blocks": "int64",
    "busy_us": "int64",
    "nic_busy_us": "int64",
    "batches": "Int64",
    "iterations": "Int64",
    "segments": "Int64",
}
DECISIONS = {
    "at_us": "int64",
    "workflow_id": "names",
    "call_id": "names",
    "prefill_instance": "names",
    "decode_instance": "names",
    "priority": "float64",
}
PLANS = {"at_us": "int64", "latency_us": "int64"}
TABLES = {"calls": CALLS, "workflows": WORKFLOWS, "instances": INSTANCES, "decisions": DECISIONS, "plans": PLANS}

SUMMARY = [
    "hexopt",
    "trace",
    "cluster",
    "policy",
    "policy_options",
    "plan_latency_us",
    "predictor",
    "estimate_error",
    "seed",
    "stop_us",
    "arrivals",
    "arrivals_seed",
    "arrivals_rate_per_s",
    "delays",
    "delays_seed",
    "workflows",
    "calls",
    "finished_workflows",
    "finished_calls",
    "makespan_s",
    "req95",
    "req99",
    "req_max",
    "ratio_mean",
    "latency_mean_s",
    "latency_p50_s",
    "latency_p95_s",
    "latency_p99_s",
    "ttft_mean_s",
    "ttft_p99_s",
    "tpot_mean_ms",
    "prefill_utilisation",
    "decode_utilisation",
    "nic_utilisation",
    "kv_peak_share",
    "decisions",
    "g_extrapolated",
    "h_extrapolated",
    "plans",
    "plan_ms_mean",
    "plan_ms_p50",
    "plan_ms_p99",
    "plan_ms_max",
]
FILES = sorted(
    [f"{name}.csv" for name in TABLES] + ["summary.json", "timing.json", "run.json", "cluster.toml", "trace.jsonl.gz"]
)


def result(**more: Any) -> Any:
    trace = hexopt.Trace((chain(5, 1, tool_us=100), *flows((0, 100, 3), (2_000, 50, 1)).workflows), name="toy")
    return run(trace, cluster(2, 2, network_us=1000), hexopt.make_policy("fcfs"), **more)


def check_kinds(table: pd.DataFrame, kinds: dict[str, str]) -> None:
    assert list(table.columns) == list(kinds)
    for column, kind in kinds.items():
        dtype = str(table[column].dtype)
        if kind in ("str", "names"):
            # Text in whatever form pandas keeps it.
            assert dtype in ("str", "object", "string"), column
            assert all(isinstance(v, str) for v in table[column].dropna()), column
        else:
            assert dtype == kind, column


@pytest.mark.parametrize("name", list(TABLES))
def test_columns_and_kinds(name: str) -> None:
    check_kinds(getattr(result(), name), TABLES[name])


@pytest.mark.parametrize("name", list(TABLES))
def test_columns_and_kinds_where_nothing_happened(name: str) -> None:
    check_kinds(getattr(run(flows((50, 10, 2)), cluster(), nothing, stop_us=10), name), TABLES[name])


def test_rows_are_in_trace_order() -> None:
    calls = result().calls
    assert list(zip(calls["workflow_id"], calls["call_id"], strict=True)) == [
        ("chain", "c0"),
        ("chain", "c1"),
        ("w0", "c"),
        ("w1", "c"),
    ]
    assert list(result().workflows["workflow_id"]) == ["chain", "w0", "w1"]


def test_steps_that_do_not_occur_are_empty() -> None:
    calls = result().calls
    # One output token: complete at the end of its prefill, bound but never on the wire.
    for row in (calls.iloc[1], calls.iloc[3]):
        for column in ("admit_us", "transfer_start_us", "transfer_end_us", "join_us"):
            assert row[column] is pd.NA
        assert row["complete_us"] == row["prefill_end_us"]
        assert row["decode_iterations"] == 0
        assert row["decode_instance"] in ("d0", "d1")
    assert list(calls["decode_iterations"]) == [4, 0, 2, 0]


def test_unplaced_calls() -> None:
    row = run(flows((0, 10, 2)), cluster(), nothing, stop_us=10).calls.iloc[0]
    assert row["ready_us"] == 0
    assert row["placed_us"] is pd.NA
    assert pd.isna(row["prefill_instance"])
    assert math.isnan(row["priority"])
    assert row["decode_iterations"] is pd.NA


def test_last_placement_and_first_placed_us() -> None:
    # The second call, placed at 0 behind the first, moves at 3 ms under another priority.
    def act(view: Any) -> Any:
        if view.now_us == 3_000:
            return [Decision(1, 1, 1, -7.0), *place_all(view)]
        return place_all(view)

    table = run(flows((0, 10, 2), (0, 10, 2), (3_000, 10, 2)), cluster(2, 2), act)
    row = table.calls.iloc[1]
    assert (row["placed_us"], row["prefill_instance"], row["decode_instance"], row["priority"]) == (0, "p1", "d1", -7.0)
    assert [tuple(r) for r in table.decisions.itertuples(index=False)] == [
        (0, "w0", "c", "p0", "d0", 0.0),
        (0, "w1", "c", "p0", "d0", 0.0),
        (3_000, "w1", "c", "p1", "d1", -7.0),
        (3_000, "w2", "c", "p0", "d0", 3000.0),
    ]


def test_instances_by_hand() -> None:
    # Two calls of 100 tokens on one pair: prefill 0-10-20 ms; the first's KV is held until its transfer has ended,
    # 1.1 ms after. The first decodes 4 tokens from 11.1 to 19.1 ms, the second 1 from 21.1 to 23.1.
    table = run(flows((0, 100, 5), (0, 100, 2)), cluster(network_us=1000), place_all).instances.set_index("name")
    assert list(table.loc["p0"]) == ["prefill", "", 100_000, 200, 20_000, 200, 2, pd.NA, pd.NA]
    assert list(table.loc["d0"]) == ["decode", "", 100_000, 105, 10_000, 200, pd.NA, 5, 2]


def test_workflows_by_hand() -> None:
    # Alone each takes 10 + 0.1 + 1 + 8 = 19.1 ms; the second starts 10 ms late.
    table = run(flows((0, 100, 5), (0, 100, 5)), cluster(network_us=1000), place_all).workflows
    assert list(table["standalone_us"]) == [19_100, 19_100]
    assert list(table["latency_us"]) == [19_100, 29_100]
    assert list(table["ratio"]) == [1.0, 29_100 / 19_100]


def test_plans() -> None:
    policy = Acting(place_all, plan_latency_us=4_000, triggers=frozenset((hexopt.core.view.Trigger.CALL_READY,)))
    table = run(flows((0, 10, 2), (9_000, 10, 2)), cluster(), policy).plans
    assert table.to_numpy().tolist() == [[0, 4_000], [9_000, 4_000]]


def test_summary_keys_and_plain_values() -> None:
    summary = result(seed=3).summary
    assert list(summary) == SUMMARY
    assert all(type(v) in (str, int, float, bool, dict, type(None)) for v in summary.values())
    assert (summary["trace"], summary["cluster"], summary["policy"], summary["seed"]) == ("toy", "hand-made", "fcfs", 3)
    assert summary["policy_options"] == {"plan_latency_us": 0, "fallback": "fcfs"}
    assert (summary["arrivals"], summary["delays"], summary["stop_us"]) == ("recorded", "recorded", None)
    assert (summary["workflows"], summary["calls"], summary["finished_calls"]) == (3, 4, 4)


def test_summary_by_hand() -> None:
    # As in test_workflows_by_hand. TTFT 10 and 20 ms; 4 more tokens 9.1 ms after: 2.275 ms each; makespan 29.1 ms.
    summary = run(flows((0, 100, 5), (0, 100, 5)), cluster(network_us=1000), place_all).summary
    assert summary["makespan_s"] == 0.0291
    assert (summary["latency_p50_s"], summary["latency_p99_s"]) == (0.0191, 0.0291)
    assert summary["latency_mean_s"] == 0.0241
    assert (summary["ttft_mean_s"], summary["ttft_p99_s"]) == (0.015, 0.02)
    assert summary["tpot_mean_ms"] == 2.275
    assert summary["prefill_utilisation"] == 20_000 / 29_100
    assert summary["decode_utilisation"] == 16_000 / 29_100
    assert summary["nic_utilisation"] == 200 / 29_100
    assert summary["req95"] == summary["req_max"] == 29_100 / 19_100
    assert summary["ratio_mean"] == (1 + 29_100 / 19_100) / 2
    assert summary["kv_peak_share"] == 200 / 100_000
    assert summary["decisions"] == 2


# -- files


def test_files(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert result().save(folder) == folder
    assert sorted(p.name for p in folder.iterdir()) == FILES
    for name in TABLES:
        table = pd.read_csv(folder / f"{name}.csv")
        assert list(table.columns) == list(TABLES[name])
        assert len(table) == len(getattr(result(), name))
        assert b"\r" not in (folder / f"{name}.csv").read_bytes()
    # Integers stay integers, an empty cell is empty. The chain's root is ready at 0.1 ms, prefills for 10, its KV takes
    # 0.1 + 1, its decode 4·2 ms; 0.1 ms later its second call finds p0 busy with w1 until 20 ms.
    line = (folder / "calls.csv").read_text().splitlines()[2]
    assert line == "chain,c1,19300,19300,p1,d1,19300.0,19300,29300,,,,,29300,0"


def test_the_same_run_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        result(seed=1).save(tmp_path / name)
    different = [n for n in FILES if (tmp_path / "a" / n).read_bytes() != (tmp_path / "b" / n).read_bytes()]
    assert set(different) <= {"timing.json"}
    # The archive holds no time of its making.
    assert (tmp_path / "a" / "trace.jsonl.gz").read_bytes()[4:8] == b"\0\0\0\0"


def test_saving_over_an_earlier_run(tmp_path: Path) -> None:
    run(flows(*((0, 10, 2) for _ in range(50))), cluster(), place_all).save(tmp_path)
    result().save(tmp_path)
    assert len(pd.read_csv(tmp_path / "calls.csv")) == 4


def strict_json(path: Path) -> Any:
    def refuse(text: str) -> Any:
        raise AssertionError(f"{path.name}: {text} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_json_knows_no_infinity(tmp_path: Path) -> None:
    # Nothing is finished: ratios are infinite, means of nothing are not a number.
    stopped = run(flows((0, 100, 5)), cluster(), place_all, stop_us=5)
    assert stopped.summary["req95"] == math.inf
    assert math.isnan(stopped.summary["latency_mean_s"])
    stopped.save(tmp_path)
    summary = strict_json(tmp_path / "summary.json")
    assert summary["req95"] is None
    assert summary["latency_mean_s"] is None
    assert sorted([*summary, *strict_json(tmp_path / "timing.json")]) == sorted(SUMMARY)
    strict_json(tmp_path / "run.json")


def test_what_is_needed_to_run_it_again(tmp_path: Path) -> None:
    trace = hexopt.Trace(
        tuple(hexopt.Workflow(f"w{i}", "a", None, (hexopt.Call("c", (), 100, 9),)) for i in range(20)), name="toy"
    )
    policy = hexopt.make_policy("hexagent", small_queue=3)
    site = hexopt.load_cluster("tiny")
    first = hexopt.simulate(trace, site, policy, predictor="noisy:0.5", seed=4, arrivals="poisson:100")
    first.save(tmp_path / "first")
    about = strict_json(tmp_path / "first" / "run.json")
    assert about["arrivals"] == "poisson:100"
    again = hexopt.simulate(
        hexopt.load_trace(str(tmp_path / "first" / about["trace_file"])),
        hexopt.load_cluster(str(tmp_path / "first" / about["cluster_file"])),
        hexopt.make_policy(about["policy"], **about["policy_options"]),
        predictor=about["predictor"],
        seed=about["seed"],
    )
    again.save(tmp_path / "again")
    for name in ("calls.csv", "workflows.csv", "instances.csv", "decisions.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def test_gzip_holds_the_trace(tmp_path: Path) -> None:
    result().save(tmp_path)
    lines = gzip.decompress((tmp_path / "trace.jsonl.gz").read_bytes()).decode().splitlines()
    assert [json.loads(line)["workflow_id"] for line in lines] == ["chain", "w0", "w1"]


@pytest.mark.parametrize("what", ["file", "under a file", "calls.csv is a folder"])
def test_unwritable_folders(what: str, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    if what == "calls.csv is a folder":
        (blocked / "calls.csv").mkdir(parents=True)
        folder = blocked
    else:
        blocked.write_text("a file")
        folder = blocked if what == "file" else blocked / "out"
    with pytest.raises(OutputError) as caught:
        result().save(folder)
    assert str(folder) in str(caught.value)
    assert "results need a folder that can be written" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            result().save(tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)


# -- standalone latencies


def test_standalone_is_computed_once_per_shape_and_only_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from hexopt import api

    runs = []
    real = api.Simulation

    def counting(*args: Any, **more: Any) -> Any:
        runs.append(1)
        return real(*args, **more)

    monkeypatch.setattr(api, "Simulation", counting)
    api._known_alone.cache_clear()  # other tests may have met these shapes on this cluster
    done = run(flows((0, 100, 5), (0, 100, 5), (7, 100, 5), (0, 100, 6)), cluster(), place_all)
    assert len(done.calls) == 4
    assert len(done.instances) == 2
    assert len(done.decisions) == 4
    assert len(runs) == 1
    assert len(done.workflows) == 4
    assert len(runs) == 1 + 2
    assert done.summary["req95"] > 0
    assert len(runs) == 1 + 2


def test_standalone_takes_the_best_pair_with_true_lengths() -> None:
    # Whatever the run's policy and predictor: p1 and d1 are the fast ones, 5 + 0.1 + 4·1 ms.
    site = cluster([prefill("p0"), prefill("p1", ms=5)], [decode("d0"), decode("d1", knots=((64, 1.0),))])
    table = run(flows((0, 100, 5)), site, place_all, "constant:900").workflows
    assert table["standalone_us"][0] == 9_100
    assert table["latency_us"][0] == 18_100
    assert hexopt.api.standalone_us(flows((0, 100, 5)).workflows[0], site) == 9_100


def test_a_ratio_below_one_is_legal() -> None:
    assert np.isfinite(result().workflows["ratio"]).all()
