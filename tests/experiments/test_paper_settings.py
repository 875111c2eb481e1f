"""The search over what the paper leaves open: how a setting is judged, and what it changes."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

import hexopt
from hexopt.report.paper import load_paper

SCRIPT = Path(__file__).parents[2] / "experiments" / "paper_settings.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_settings", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(script: ModuleType, setting: tuple[object, ...], factor: float) -> list[dict[str, object]]:
    """The paper's own figures, all off by one factor, as runs of a setting."""
    rows = []
    for cluster, trace in script.ROWS:
        for policy in script.POLICIES:
            published = load_paper().beside(cluster, trace, policy)
            assert published is not None
            named = dict(zip(script.Setting._fields, setting, strict=True))
            row = {"cluster": cluster, "trace": trace, "policy": policy, "seed": 0}
            rows.append({**named, **row, "req95": published[0] * factor, "req99": published[1] / factor})
    return rows


def test_a_setting_is_judged_by_its_factor_and_its_orders(script: ModuleType) -> None:
    exact = ("fixed", 1, 0, True, "app-mean")
    off = ("burst", 1, 0, True, "app-mean")
    rows = table(script, exact, 1.0) + table(script, off, 2.0)
    # Under the second setting fcfs has the least Req99 in one row: two of its three orders are wrong.
    rows[12]["req99"] = 0.1
    judged = script.judged(pd.DataFrame(rows)).set_index("arrivals")
    assert judged.loc["fixed", "off_by"] == 1.0
    assert judged.loc["fixed", "orders_of_12"] == 12
    published = load_paper().beside(*script.ROWS[0], "fcfs")
    assert published is not None
    extra = math.log(published[1] / 0.1) - math.log(2.0)
    assert judged.loc["burst", "off_by"] == pytest.approx(2.0 * math.exp(extra / 24))
    assert judged.loc["burst", "orders_of_12"] == 10


def test_settings_change_what_they_say(script: ModuleType) -> None:
    cluster = hexopt.load_cluster("hetero-1-llama")
    as_shipped = script.Setting("fixed", 1, 0, True, "app-mean")
    assert script.changed(cluster, as_shipped) == cluster
    other = script.changed(cluster, script.Setting("fixed", 4096, 16, False, "app-mean"))
    assert {(p.max_batch_tokens, p.latency.c0_ms, p.latency.c1) for p in other.prefill} == {(4096, 0.0, 1.0)}
    assert {(d.max_batch, d.latency.o0_ms, d.latency.o1_ms) for d in other.decode} == {(16, 0.0, 0.0)}
    assert other.prefill[0].latency.g_knots == cluster.prefill[0].latency.g_knots
    assert as_shipped in script.settings()
