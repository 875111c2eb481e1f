"""The checker's twin gives the checker's times, to the microsecond."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.formulations import check
from hexopt.formulations.arrays import arrays_of
from hexopt.formulations.jit import Compiler
from hexopt.formulations.twin import load_kernels, plan_arrays, play
from tests.formulations.plain import plain_kernels
from tests.formulations.small import bound, call, instances, small_window
from tests.formulations.windows import REGIMES, random_window

EXAMPLES = int(os.environ.get("HEXOPT_EXAMPLES", "2000"))


def random_plan(window: Window, rng: random.Random) -> WindowPlan:
    """Return a plan that breaks no rule of placement."""
    room = [d.max_new for d in window.decode]
    plan = []
    for c in window.calls:
        decodes = [d for d in c.decodes() if c.one_token or not c.is_open or room[d] > 0]
        d = rng.choice(decodes)
        if c.is_open and not c.one_token:
            room[d] -= 1
        decode = None if c.one_token and rng.random() < 0.5 else d
        plan.append(Placement(rng.choice(c.prefills()), decode, float(rng.randrange(-3, 4))))
    return tuple(plan)


def times_of(window: Window, plan: WindowPlan) -> list[tuple[int, ...]]:
    v = check(window, plan)
    steps = (v.prefill_start_us, v.prefill_end_us, v.admit_us, v.transfer_start_us, v.finish_us)
    return [tuple(row) for row in zip(*steps, strict=True)]


def compare(seed: int, largest: int) -> None:
    rng = random.Random(seed)
    shape = rng.randrange(1, 5), rng.randrange(1, 5)
    window = random_window(seed, rng.randrange(1, largest), rng.choice(REGIMES), *shape)
    for _ in range(3):
        plan = random_plan(window, rng)
        assert play(window, plan).tolist() == [list(row) for row in times_of(window, plan)], (seed, plan)


def test_on_random_windows() -> None:
    for seed in range(400):
        compare(seed, 14)


@pytest.mark.slow
def test_on_many_random_windows() -> None:
    for seed in range(1000, 1000 + 4 * EXAMPLES):
        compare(seed, 40)


def test_a_call_that_is_left_over() -> None:
    calls = [call("a", [10], [1], kv_blocks=3), call("b", [10], [1]), bound("c", [0], [0], prefill_blocks=98)]
    window = small_window(calls, instances(1, 1, None, {"kv_free_blocks": 1, "releases": [[5, 1]]}))
    plan = (Placement(0, 0, 0.0), Placement(0, 0, 1.0), Placement(0, 0, 2.0))
    assert play(window, plan).tolist() == [list(row) for row in times_of(window, plan)]
    a = arrays_of(window)
    assert load_kernels().play(a, *plan_arrays(window, plan), np.empty((3, 5), np.int64)) == 1


def test_steps_that_take_no_time() -> None:
    rng = random.Random(5)
    for _ in range(60):
        calls = [
            call(str(k), [rng.choice([0, 0, 3])] * 2, [rng.choice([0, 2])] * 2, wire=rng.choice([0, 1]), kv_blocks=2)
            for k in range(5)
        ]
        window = small_window(calls, instances(2, 2, {"kv_blocks": 2}, {"kv_free_blocks": 3}))
        plan = random_plan(window, rng)
        assert play(window, plan).tolist() == [list(row) for row in times_of(window, plan)]


def test_times_too_large_for_it() -> None:
    window = small_window([call(str(k), [2**53], [2**53]) for k in range(200)])
    assert arrays_of(window) is None
    with pytest.raises(OverflowError, match="use the checker"):
        play(window, tuple(Placement(0, 0, 0.0) for _ in range(200)))


def test_without_numba_the_kernels_are_plain_and_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    window = random_window(11, 12, "tight-kv")
    plan = random_plan(window, random.Random(1))
    expected = play(window, plan).tolist()
    with plain_kernels(monkeypatch) as kernels:
        assert Compiler.plain
        assert not hasattr(kernels.play, "py_func")
        assert play(window, plan).tolist() == expected
