"""Replay: a decisions table, from a file or a frame, carried out to the microsecond; and what a bad table is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import hexopt
from hexopt.errors import ConfigError, PlanError
from hexopt.policies.registry import policy_names
from tests.policies.views import cluster

HEADER = "at_us,workflow_id,call_id,prefill_instance,decode_instance,priority\n"


def trace() -> hexopt.Trace:
    call = hexopt.Call
    return hexopt.Trace(
        (
            hexopt.Workflow("w0", "a", 0, (call("c0", (), 100, 3), call("c1", (0,), 50, 2, tool_us=500))),
            hexopt.Workflow("w1", "a", 0, (call("c0", (), 70, 1),)),
        )
    )


def run(decisions: Any) -> hexopt.RunResult:
    return hexopt.simulate(trace(), cluster(2, 2), hexopt.make_policy("replay", decisions=decisions))


def table(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "decisions.csv"
    path.write_text(HEADER + "".join(row + "\n" for row in rows))
    return path


def test_a_table_written_by_hand(tmp_path: Path) -> None:
    # w0/c0 waits in the pool until 2 ms, and so does w1/c0, which is then moved before it starts. w0/c0 prefills 2 to
    # 12 ms on p1 and has its other two tokens at 12 + 0.1 + 4 = 16.1 ms; w0/c1 is ready at 16.6 ms.
    path = table(
        tmp_path,
        "2000,w0,c0,p1,d1,5",
        "2000,w1,c0,p1,d0,9",
        "3000,w1,c0,p0,d0,-1.5",
        "16600,w0,c1,p0,d0,0",
    )
    calls = run(path).calls
    assert list(calls["placed_us"]) == [2000, 16600, 2000]
    assert list(calls["prefill_start_us"]) == [2000, 16600, 3000]
    assert list(calls["prefill_instance"]) == ["p1", "p0", "p0"]
    assert list(calls["decode_instance"]) == ["d1", "d0", "d0"]
    assert list(calls["priority"]) == [5.0, 0.0, -1.5]


def test_order_of_rows_does_not_matter_and_further_columns_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "why,priority,decode_instance,prefill_instance,call_id,workflow_id,at_us\n"
        "x,0,d0,p0,c1,w0,16600\ny,9,d0,p1,c0,w1,2000\nz,5,d1,p1,c0,w0,2000\n"
    )
    assert list(run(path).calls["complete_us"]) == list(
        run(table(tmp_path, "2000,w0,c0,p1,d1,5", "2000,w1,c0,p1,d0,9", "16600,w0,c1,p0,d0,0")).calls["complete_us"]
    )


def test_a_later_row_of_one_instant_overrules(tmp_path: Path) -> None:
    path = table(tmp_path, "0,w0,c0,p0,d0,0", "0,w1,c0,p0,d0,1", "0,w1,c0,p1,d0,2", "14600,w0,c1,p0,d0,0")
    result = run(path)
    assert list(result.calls["prefill_instance"]) == ["p0", "p0", "p1"]
    assert len(result.decisions) == 3


@pytest.mark.parametrize("name", [n for n in policy_names() if n != "replay"])
@pytest.mark.parametrize("plan_latency_us", [0, 3000, "measured"])
def test_replaying_a_run_repeats_it(name: str, plan_latency_us: Any, tmp_path: Path) -> None:
    calls = [hexopt.Call(f"c{i}", (i - 1,) if i else (), 300, 20, 1500) for i in range(4)]
    flows = hexopt.Trace(tuple(hexopt.Workflow(f"w{i}", "a", 4000 * i, tuple(calls)) for i in range(12)))
    site = hexopt.load_cluster("tiny")
    first = hexopt.simulate(flows, site, hexopt.make_policy(name, plan_latency_us=plan_latency_us), seed=5)
    first.save(tmp_path / "first")
    for decisions in (tmp_path / "first" / "decisions.csv", str(tmp_path / "first" / "decisions.csv"), first.decisions):
        again = hexopt.simulate(flows, site, hexopt.make_policy("replay", decisions=decisions), seed=6)
        again.save(tmp_path / "again")
        assert (tmp_path / "again" / "calls.csv").read_bytes() == (tmp_path / "first" / "calls.csv").read_bytes()


def test_each_row_has_its_own_microsecond(tmp_path: Path) -> None:
    rows = ("2000,w0,c0,p0,d0,0", "2001,w1,c0,p1,d1,0", "2002,w1,c0,p1,d0,1", "16600,w0,c1,p0,d0,0")
    result = run(table(tmp_path, *rows[:2], rows[3]))
    assert list(result.decisions["at_us"]) == [2000, 2001, 16600]
    assert list(result.calls["placed_us"]) == [2000, 16600, 2001]
    # A microsecond later its prefill has started.
    with pytest.raises(PlanError, match="at 2002 µs about 'w1/c0'"):
        run(table(tmp_path, *rows))


def test_a_policy_is_good_for_several_runs(tmp_path: Path) -> None:
    path = table(tmp_path, "0,w0,c0,p0,d0,0", "0,w1,c0,p1,d0,1", "14600,w0,c1,p0,d0,0")
    policy = hexopt.make_policy("replay", decisions=path)
    tables = [hexopt.simulate(trace(), cluster(2, 2), policy).calls for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)


# -- bad tables


def told(error: type[Exception], decisions: Any, *parts: str) -> None:
    with pytest.raises(error) as caught:
        run(decisions)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("0,w9,c0,p0,d0,0", ("row 1", "'w9/c0'", "not ready then")),
        ("0,w0,c1,p0,d0,0", ("row 1", "'w0/c1'", "not ready then")),
        ("1,w0,c9,p0,d0,0", ("row 1", "'w0/c9'", "at 1 µs")),
        ("0,w0,c0,p7,d0,0", ("row 1", "'p7'", "p0, p1")),
        ("0,w0,c0,p0,p0,0", ("row 1", "'p0'", "d0, d1")),
    ],
)
def test_a_row_that_fits_no_run(row: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    told(PlanError, table(tmp_path, row), "policy 'replay'", *parts)


def test_a_row_before_any_call_is_ready(tmp_path: Path) -> None:
    flows = hexopt.Trace((hexopt.Workflow("w0", "a", 5000, (hexopt.Call("c0", (), 10, 1),)),))
    policy = hexopt.make_policy("replay", decisions=table(tmp_path, "1000,w0,c0,p0,d0,0"))
    with pytest.raises(PlanError, match="row 1 decides at 1000 µs about call 'w0/c0', no call at all is ready then"):
        hexopt.simulate(flows, cluster(), policy)


@pytest.mark.parametrize(
    "row",
    [
        "x,w0,c0,p0,d0,0",
        "1.5,w0,c0,p0,d0,0",
        "-1,w0,c0,p0,d0,0",
        "inf,w0,c0,p0,d0,0",
        ",w0,c0,p0,d0,0",
        "0,w0,c0,p0,d0,nan",
        "0,w0,c0,p0,d0,inf",
        "0,w0,c0,p0,d0,first",
        "0,w0,c0,p0,d0,",
        "0,w0,c0,p0,d0",
    ],
)
def test_bad_numbers_are_told_with_file_and_line(row: str, tmp_path: Path) -> None:
    path = table(tmp_path, "0,w1,c0,p0,d0,0", row)
    told(ConfigError, path, f"{path}:3: at_us", "is no number", "whole number of µs")


def test_missing_columns(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text("at_us,workflow_id,call_id,decode_instance\n")
    told(ConfigError, path, f"{path}: it has no column prefill_instance, priority")
    told(ConfigError, pd.DataFrame({"at_us": [0]}), "decisions: it has no column workflow_id, call_id")
    path.write_text("")
    told(ConfigError, path, "it has no column at_us")


def test_unreadable_files(tmp_path: Path) -> None:
    told(ConfigError, tmp_path / "none.csv", "none.csv: No such file or directory", "name one")
    told(ConfigError, tmp_path, str(tmp_path))
    path = tmp_path / "latin.csv"
    path.write_bytes(HEADER.encode() + b"0,w\xff,c0,p0,d0,0\n")
    told(ConfigError, path, str(path), "UTF-8")


def frame(**changed: Any) -> pd.DataFrame:
    row = {"at_us": 0, "workflow_id": "w0", "call_id": "c0", "prefill_instance": "p0", "decode_instance": "d0"}
    return pd.DataFrame([{**row, "priority": 0.0, **changed}])


def test_bad_frames() -> None:
    told(ConfigError, frame(at_us=-5), "decisions: row 1", "-5")
    told(ConfigError, frame(priority=float("nan")), "decisions: row 1", "nan")
    told(ConfigError, frame(at_us=float("nan")), "decisions: row 1")
    told(ConfigError, [1, 2], "decisions is a list", "a CSV file or a data frame")


@pytest.mark.parametrize("at_us", [float("inf"), 1.5])
def test_bad_instants_in_frames(at_us: float) -> None:
    told(ConfigError, frame(at_us=at_us), "decisions: row 1", "whole number of µs")


@pytest.mark.parametrize("latency", [1, 10_000, "measured"])
def test_plan_latency_must_be_zero(latency: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"policy 'replay': plan_latency_us is {latency!r}")):
        hexopt.make_policy("replay", decisions=table(tmp_path), plan_latency_us=latency)
