"""Autellix-PLAS: a program's service is the sum over its calls. What it shares with ATLAS is tested there."""

from __future__ import annotations

import hexopt
from hexopt.policies.autellix_atlas import AutellixAtlas
from hexopt.policies.autellix_plas import AutellixPlas
from tests.policies.views import cluster


def test_a_fan_out_sinks_deeper_than_a_chain_of_its_length() -> None:
    # One prefill of 10 ms, decode 2 ms a token. Four calls of `fan` at once prefill 0-40; each has 40 further tokens,
    # 80 ms, the last at about 122 ms (a token's time later at most for joining). Then `join`. Executed: 90 ms along the
    # critical path, 360 ms in all. The first queue ends at 100, the second at 200, the third at 400 ms.
    # Ten newcomers at 115 ms keep the prefill busy until 215, five more come at 150 ms. ATLAS: `join` is in the first
    # queue, ready before the five, and goes at 215. PLAS: in the third, behind them: 265 ms.
    call = hexopt.Call
    roots = [call(f"c{i}", (), 100, 41) for i in range(4)]
    fan = hexopt.Workflow("fan", "a", 0, (*roots, call("join", (0, 1, 2, 3), 100, 2)))
    others = [
        hexopt.Workflow(f"o{i}", "a", 115_000 if i < 10 else 150_000, (call("c0", (), 100, 2),)) for i in range(15)
    ]
    starts = {}
    for cls in (AutellixAtlas, AutellixPlas):
        policy = cls(first_bound=0.1, bound_unit="second", beta=0.0)
        table = hexopt.simulate(hexopt.Trace((fan, *others)), cluster(), policy, predictor="oracle").calls
        assert list(table["prefill_start_us"][:4]) == [0, 10_000, 20_000, 30_000]
        assert 120_000 <= table["ready_us"][4] < 125_000
        starts[cls.name] = table["prefill_start_us"][4]
    assert starts == {"autellix-atlas": 215_000, "autellix-plas": 265_000}
