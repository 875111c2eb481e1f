"""The checker's rules, one by one, on windows worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hexopt.core.window import Placement, Window
from hexopt.errors import WindowError
from hexopt.formulations import Verdict, check, objective_text, parse_objective
from tests.formulations.small import bound, call, instances, plain_window, small_window


def played(window: Window, *plan: tuple[int, int | None, float]) -> Verdict:
    verdict = check(window, plan)
    assert verdict.feasible, verdict.violations
    return verdict


def broken(window: Window, *plan: Any) -> list[str]:
    verdict = check(window, plan)
    assert verdict.value is None
    assert verdict.ends_us == ()
    return [v.rule for v in verdict.violations]


def test_one_call_step_by_step() -> None:
    where = instances(1, 1, {"free_us": 7})
    window = small_window([call("a", [10], [85], tail_us=20)], where, latency_us=3)
    v = played(window, (0, 0, 0.0))
    assert v.prefill_start_us == (7,)
    assert v.prefill_end_us == v.admit_us == v.transfer_start_us == (17,)
    assert v.finish_us == (17 + 5 + 3 + 85,)
    assert v.ends_us == (130,)
    assert v.value == (1.3, 1.3)


def test_lower_priority_goes_first_and_equal_ones_by_position() -> None:
    window = small_window([call("a", [10], [0], wire=1), call("b", [20], [0], wire=1)])
    assert played(window, (0, 0, 1.0), (0, 0, 1.0)).prefill_start_us == (0, 10)
    assert played(window, (0, 0, 2), (0, 0, 1.5)).prefill_start_us == (20, 0)
    assert played(window, (0, 0, -1.0), (0, 0, -2.0)).prefill_start_us == (20, 0)


def test_one_prefill_at_a_time_on_each_instance() -> None:
    window = small_window([call("a", [10, 40], [1]), call("b", [20, 50], [1])])
    assert played(window, (0, 0, 0), (1, 0, 0)).prefill_end_us == (10, 50)
    assert played(window, (0, 0, 0), (0, 0, 1)).prefill_end_us == (10, 30)


def test_a_transfer_takes_both_interfaces() -> None:
    # a: p0 to d0, on the wire from 10 to 40. c, from p1, is ready at 15 and waits for d0. b, to d1, is ready at 20 and
    # waits for p0 although d1 is free.
    calls = [call("a", [10, 10], [0, 0], wire=30), call("b", [10, 10], [0, 0]), call("c", [15, 15], [0, 0], wire=7)]
    window = small_window(calls, latency_us=4)  # which takes no interface
    v = played(window, (0, 0, 0), (0, 1, 1), (1, 0, 2))
    assert v.admit_us == (10, 20, 15)
    assert v.transfer_start_us == (10, 40, 40)
    assert v.finish_us == (44, 49, 51)
    free = small_window(calls, contention="none")
    assert played(free, (0, 0, 0), (0, 1, 1), (1, 0, 2)).transfer_start_us == (10, 20, 15)


def test_a_waiting_transfer_books_the_silent_end_too() -> None:
    # b waits for d0 until 40, and keeps p1 booked until 45: c, from p1 to the idle d1, starts then.
    calls = [call("a", [10, 10], [0, 0], wire=30), call("b", [10, 12], [0, 0]), call("c", [9, 5], [0, 0], wire=1)]
    v = played(small_window(calls), (0, 0, 0), (1, 0, 0), (1, 1, 1))
    assert v.prefill_end_us == (10, 12, 17)
    assert v.transfer_start_us == (10, 40, 45)


def test_interfaces_are_booked_from_before() -> None:
    window = small_window([call("a", [10], [1])], instances(1, 1, {"nic_free_us": 30}, {"nic_free_us": 33}))
    v = played(window, (0, 0, 0))
    assert (v.admit_us, v.transfer_start_us) == ((10,), (33,))
    none = small_window([call("a", [10], [1])], instances(1, 1, {"nic_free_us": 30}), contention="none")
    assert played(none, (0, 0, 0)).transfer_start_us == (10,)


def test_within_an_instant_decode_instances_go_by_index_and_calls_by_priority() -> None:
    calls = [
        bound("a", [9], [0, 0], decode=1, wire=5),
        bound("b", [9], [0, 0], decode=0, wire=7),
        bound("c", [9], [0, 0], decode=0, wire=9),
    ]
    v = played(small_window(calls), (0, 1, -9.0), (0, 0, 2.0), (0, 0, 1.0))
    assert v.transfer_start_us == (16, 9, 0)


@pytest.mark.parametrize(("admission", "admitted"), [("backfill", (100, 10)), ("strict", (100, 157))])
def test_backfill_walks_past_what_does_not_fit_and_strict_stops(admission: str, admitted: tuple[int, int]) -> None:
    # 5 blocks are free, 5 more at 100. Strict: big is admitted at 100 and leaves 4; small needs 5 and waits for the
    # completion of big, 100 + 7 + 50.
    calls = [call("big", [10, 9], [50], kv_blocks=6, wire=7), call("small", [9, 10], [3], kv_blocks=5)]
    where = instances(2, 1, None, {"kv_free_blocks": 5, "releases": [[100, 5]]})
    v = played(small_window(calls, where, kv_admission=admission), (0, 0, 0), (1, 0, 1))
    assert v.admit_us == admitted


def test_backfill_admits_the_large_call_when_the_small_one_is_done() -> None:
    calls = [call("big", [10, 9], [50], kv_blocks=6), call("small", [9, 10], [20], kv_blocks=5, wire=7)]
    v = played(small_window(calls, instances(2, 1, None, {"kv_free_blocks": 9})), (0, 0, 1), (1, 0, 0))
    assert v.admit_us == (10 + 7 + 20, 10)


def test_what_is_released_at_an_instant_is_free_at_that_instant() -> None:
    where = instances(1, 1, None, {"kv_free_blocks": 0, "releases": [[10, 1]]})
    assert played(small_window([call("a", [10], [1])], where), (0, 0, 0)).admit_us == (10,)
    # a completes at 10 + 5 + 25 = 40, when the prefill of b ends.
    calls = [call("a", [10], [25]), call("b", [30], [1])]
    window = small_window(calls, instances(1, 1, None, {"kv_free_blocks": 1}))
    assert played(window, (0, 0, 0), (0, 0, 1)).admit_us == (10, 40)


def test_kv_is_held_from_admission_through_the_transfer_to_completion() -> None:
    calls = [call("a", [10, 9], [25], wire=6), call("b", [9, 12], [1])]
    window = small_window(calls, instances(2, 1, None, {"kv_free_blocks": 1}), latency_us=2)
    assert played(window, (0, 0, 0), (1, 0, 0)).admit_us == (10, 10 + 6 + 2 + 25)


def test_prompts_without_room_wait_until_a_transfer_ends() -> None:
    # Room for 4, two prompts of 3: the second starts when the transfer of the first is over, latency included.
    calls = [call("a", [10], [90], prefill_blocks=3), call("b", [10], [1], prefill_blocks=3)]
    where = instances(1, 1, {"kv_blocks": 4})
    assert played(small_window(calls, where, latency_us=2), (0, 0, 0), (0, 0, 1)).prefill_start_us == (0, 17)
    free = small_window(calls, where, latency_us=2, prefill_kv=False)
    assert played(free, (0, 0, 0), (0, 0, 1)).prefill_start_us == (0, 10)


def test_a_congested_decode_instance_pushes_back_on_prefill() -> None:
    calls = [call("a", [10], [1], prefill_blocks=3), call("b", [10], [1], prefill_blocks=3)]
    where = instances(1, 1, {"kv_blocks": 4}, {"kv_free_blocks": 0, "releases": [[70, 1]]})
    v = played(small_window(calls, where), (0, 0, 0), (0, 0, 1))
    assert v.admit_us == (70, 85)
    assert v.prefill_start_us == (0, 75)


def test_the_first_of_a_prefill_queue_is_never_skipped() -> None:
    calls = [call("big", [10], [1], prefill_blocks=4), call("small", [10], [1])]
    where = instances(1, 1, {"kv_blocks": 4, "held": [[50, 2]]})
    assert played(small_window(calls, where), (0, 0, 0), (0, 0, 1)).prefill_start_us == (50, 65)
    assert played(small_window(calls, where), (0, 0, 1), (0, 0, 0)).prefill_start_us == (50, 0)


def test_bound_calls_hold_their_prompts_until_their_transfers_end() -> None:
    calls = [bound("a", [0], [1], prefill_blocks=3, available_us=20), call("b", [10], [1], prefill_blocks=2)]
    v = played(small_window(calls, instances(1, 1, {"kv_blocks": 4})), (0, 0, 0), (0, 0, 1))
    assert v.prefill_start_us == (-1, 25)
    assert v.prefill_end_us == (20, 35)


def test_a_call_of_one_token_is_done_when_its_prefill_is() -> None:
    one = call("one", [10], [5], one_token=True, prefill_blocks=3, kv_blocks=500)
    calls = [one, call("next", [10], [1], prefill_blocks=3)]
    window = small_window(calls, instances(1, 1, {"kv_blocks": 4}))
    for decode in (None, 0):
        v = played(window, (0, decode, 0), (0, 0, 1))
        assert (v.admit_us[0], v.transfer_start_us[0], v.finish_us[0]) == (-1, -1, 10)
        assert v.prefill_start_us == (0, 10)
    assert broken(window, (0, 1, 0), (0, 0, 1)) == ["instance-unknown"]


def test_a_bound_call_of_one_token_is_done_when_it_is_available() -> None:
    one = bound("one", [None], [None, 5], one_token=True, decode=None, available_us=30)
    assert played(small_window([one], instances(1, 2)), (0, None, 0)).finish_us == (30,)


def test_a_bound_call_may_choose_what_is_open_and_nothing_else() -> None:
    fixed = bound("a", [None, 9], [3, 3], available_us=30)
    window = small_window([fixed])
    v = played(window, (0, 0, 0))
    assert (v.prefill_start_us, v.prefill_end_us, v.admit_us, v.finish_us) == ((-1,), (30,), (30,), (38,))
    assert broken(window, (0, 1, 0)) == ["bound"]
    assert broken(window, (1, 0, 0)) == ["bound"]
    assert broken(window, (0, None, 0)) == ["instance-unknown"]
    free = small_window([bound("a", [0], [3, 4, None], decode=None)])
    assert played(free, (0, 1, 0)).finish_us == (9,)
    assert broken(free, (0, 2, 0)) == ["bound"]


def test_floors_and_tails_decide_when_a_workflow_is_done() -> None:
    workflows = [
        {"id": "u", "elapsed_us": 50, "horizon_us": 100, "floor_us": 40},
        {"id": "v", "elapsed_us": 10, "horizon_us": 200, "floor_us": None},
        {"id": "x", "elapsed_us": 7, "horizon_us": 10},
    ]
    calls = [
        call("a", [10], [4], workflow=0, tail_us=0),  # done at 19, before the floor
        call("b", [10], [4], workflow=1, tail_us=100),  # 29 + 100
        call("c", [10], [4], workflow=1, tail_us=1),
    ]
    v = played(small_window(calls, workflows=workflows), (0, 0, 0), (0, 0, 1), (0, 0, 2))
    assert v.finish_us == (19, 29, 39)
    assert v.ends_us == (90, 139, 7)
    assert v.value == (0.9, math.fsum([0.9, 139 / 200, 0.7]))


def test_at_most_max_new_open_calls_of_more_than_one_token() -> None:
    calls = [
        call("a", [10], [1, 1]),
        call("b", [10], [1, 1]),
        call("one", [10], [1, 1], one_token=True),
        bound("held", [10], [1, 1]),
    ]
    window = small_window(calls, instances(1, 2, None, {"max_new": 1}))
    assert broken(window, (0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)) == ["max-new"]
    assert played(window, (0, 0, 0), (0, 1, 1), (0, 0, 2), (0, 0, 3))


def test_a_call_that_never_fits_is_left_over() -> None:
    calls = [call("a", [10], [1], kv_blocks=3), call("b", [10], [1])]
    window = small_window(calls, instances(1, 1, None, {"kv_free_blocks": 1, "releases": [[5, 1]]}))
    v = check(window, [(0, 0, 0), (0, 0, 1)])
    assert [x.rule for x in v.violations] == ["left-over"]
    assert "call 'a': it never is admitted" in v.violations[0].message
    assert v.finish_us == (-1, 26)
    full = small_window([call("a", [10], [1], prefill_blocks=3), calls[1]], instances(1, 1, {"kv_blocks": 2}))
    v = check(full, [(0, 0, 0), (0, 0, 1)])
    assert ["it never starts" in x.message for x in v.violations] == [True, True]
    assert check(full, [(0, 0, 1), (0, 0, 0)]).prefill_start_us == (-1, 0)


def test_what_a_plan_gets_wrong_is_told_by_rule() -> None:
    window = small_window([call("a", [10, None], [1, None])])
    assert broken(window) == ["one-placement-a-call"]
    assert (
        broken(window, (2, 0, 0)) == broken(window, (0, -1, 0)) == broken(window, (True, 0, 0)) == ["instance-unknown"]
    )
    assert broken(window, (0, None, 0)) == ["instance-unknown"]
    for priority in (math.nan, math.inf, True, "1", None, 10**400):
        assert broken(window, (0, 0, priority)) == ["priority-finite"]
    assert broken(window, (1, 0, 0)) == broken(window, (0, 1, 0)) == ["candidate"]
    (violation,) = check(window, [(0, 1, 0)]).violations
    assert violation.message == "call 'a': pair (0, 1) found, it may go to prefill [0], decode [0], choose from them"


def test_plans_and_windows_may_be_plain_values() -> None:
    plain = plain_window([call("a", [10], [1])])
    assert check(plain, [{"prefill": 0, "decode": 0, "priority": 1}]).finish_us == (16,)
    assert check(plain, [[0, 0, 1]]) == check(Window.from_json(plain), (Placement(0, 0, 1.0),))
    for nonsense in (None, 7, [1], [(0, 0)], [{"prefill": 0}]):
        with pytest.raises(WindowError, match="it is a list of"):
            check(plain, nonsense)


def test_a_window_without_calls_has_its_floors() -> None:
    plain = plain_window([call("a", [10], [1])], workflows=[{"id": "w", "elapsed_us": 30, "horizon_us": 60}])
    assert check({**plain, "calls": []}, []).value == (0.5, 0.5)


def test_objectives_on_the_same_times() -> None:
    workflows = [{"id": str(k), "elapsed_us": 0, "horizon_us": h} for k, h in enumerate((10, 16, 32, 64))]
    calls = [call(str(k), [8], [0], workflow=k, wire=0) for k in range(4)]
    window = small_window(calls, workflows=workflows)
    plan = [(0, 0, k) for k in range(4)]  # 8/10, 16/16, 24/32, 32/64
    total = 0.8 + 1.0 + 0.75 + 0.5
    for text, value in {
        "bottleneck": 1.0,
        "sum": total,
        "hinge:0.5": 0.3 + 0.5 + 0.25,
        "hinge:0.5,give_up=0.25": 0.3 + 0.25,
        "hinge:0.5,give_up=0.24": 0.3 + 0.5 + 0.25,
        "late:0.75": 2.0,
        "late:1": 0.0,
    }.items():
        assert check(window, plan, parse_objective(text)).value == pytest.approx((value, total))


@pytest.mark.parametrize(
    "text", ["late:1.2345678", "hinge:0.1234567,give_up=0.0123456", "late:1.5", "hinge:3", "late:1e+300"]
)
def test_an_objective_survives_being_written(text: str) -> None:
    assert objective_text(parse_objective(text)) == text
