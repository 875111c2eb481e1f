"""Windows cut from views: times, room and caps worked out by hand; every window of a run can be solved."""

from __future__ import annotations

import json
from types import SimpleNamespace

import hexopt
from hexopt.core.view import CallState
from hexopt.core.window import Placement, Window, load_window
from hexopt.experiments.windows import harvest_windows, save_windows
from hexopt.formulations.checker import check
from hexopt.latency import ClusterLatency
from hexopt.policies.cutting import Cut, Cutter, Horizons, _decode_us, _Decoder, waiting_calls
from hexopt.policies.harvest import most_urgent
from hexopt.policies.projection import Estimator
from tests.policies.sample_run import TRACE
from tests.policies.views import Books, cluster, decode, prefill


def cut(books: Books, **options: object) -> Cut:
    horizons = Horizons(Estimator(books.cluster, books.latency))
    return Cutter(books.cluster, books.latency).cut(books.view(), horizons.of, **options)  # type: ignore[arg-type]


def test_a_window_by_hand() -> None:
    # prefill takes 10 ms, an iteration 2 ms, a prompt token 1 µs on the wire; the KV of a token is a block
    books = Books(cluster(2, 1, network_us=500), now_us=1_000_000)
    books.segment_start_us[0] = 999_000
    running = books.place(books.call(100, 11, arrival_us=900_000), CallState.RUNNING, produced=3)
    books.place(books.call(200, 21, arrival_us=900_000), CallState.TRANSFERRING, p=1)
    prefilling = books.place(books.call(300, 31, arrival_us=950_000), CallState.PREFILLING, p=1)
    queued = books.place(books.call(40, 5, arrival_us=980_000), CallState.QUEUED, p=0)
    pool = books.call(50, 1, workflow=running.workflow, ready_us=990_000)
    window, calls, workflows = cut(books, tail_us=lambda call: 7 if call is running else 0)
    assert calls == (prefilling, queued, pool)
    assert workflows == (2, 3, 0)
    p0, p1 = window.prefill
    assert (p0.free_us, p0.held) == (0, ())
    # 10 ms of prefill began at the cut; 200 µs on the wire and 500 of latency as well
    assert (p1.free_us, p1.held) == (10_000, ((700, 200),))
    (d,) = window.decode
    # An iteration of 2 ms began 1 ms ago; 8 more tokens are wanted. The other one is there in 700 µs, 20 iterations.
    assert d.releases == ((8 * 2_000 - 1_000, 111), (700 + 20 * 2_000, 221))
    assert d.kv_free_blocks == 100_000 - 111 - 221
    assert (d.batch, d.context_tokens, d.max_new) == (3, 103 + 201 + 301, 1)
    first, second, third = window.calls
    assert (first.state, first.prefill, first.decode, first.available_us) == ("bound", 1, 0, 10_000)
    assert (second.state, second.prefill, second.decode, second.available_us) == ("open", 0, 0, None)
    assert second.prefill_us == (10_000, 10_000)
    assert second.wire_us == ((40,), (40,))
    assert second.decode_us == (4 * 2_000,)
    assert (second.prefill_blocks, second.kv_blocks) == (40, 45)
    assert third.one_token
    assert third.decode_us == (0,)
    assert [w.elapsed_us for w in window.workflows] == [50_000, 20_000, 100_000]
    assert [w.floor_us for w in window.workflows] == [None, None, 15_000 + 7]
    assert window.workflows[0].horizon_us == 10_000 + 300 + 500 + 30 * 2_000


def test_decode_times_are_those_of_a_full_cap() -> None:
    # iterations of batch B take B ms; two open calls, either may take both
    books = Books(cluster(1, [decode(f"d{i}", knots=((1, 1.0), (8, 8.0)), max_batch=3) for i in range(2)]))
    books.place(books.call(10, 11), CallState.RUNNING, d=1)
    for _ in range(2):
        books.call(10, 5)
    window = cut(books).window
    assert [d.max_new for d in window.decode] == [2, 1]  # dealt 2, 0: (1 ms, 2 ms), then a tie; one more, at most 2
    assert [c.decode_us for c in window.calls] == [(4 * 2_000, 4 * 2_000)] * 2
    for _ in range(4):
        books.call(10, 5)
    assert cut(books).window.calls[0].decode_us == (4 * 3_000, 4 * 3_000)  # no batch is above 3


def test_calls_get_room_where_they_may_go() -> None:
    books = Books(cluster(1, [decode("small", kv_tokens=50), decode("large", kv_tokens=500)]))
    for _ in range(5):
        books.call(60, 10)
    window = cut(books).window
    assert window.calls[0].decode_us[0] is None
    assert window.decode[1].max_new == 5
    assert check(window, [(0, 1, float(k)) for k in range(5)]).feasible


def test_handoff_leaves_decode_open_until_admission() -> None:
    for binding, expected in (("dispatch", 1), ("handoff", None)):
        books = Books(cluster(1, 2, binding=binding))  # type: ignore[arg-type]
        books.place(books.call(), CallState.ADMISSION, d=1)
        (call,) = cut(books).window.calls
        assert (call.state, call.decode, call.available_us) == ("bound", expected, 0)


def test_room_adds_up_where_predictions_were_too_small() -> None:
    books = Books(cluster(1, [decode(kv_tokens=40)]))
    for produced in (15, 9):  # they hold 10 + 15 + 1 and 10 + 9 + 1 at least, foretold were 12
        books.place(books.call(10, 2), CallState.RUNNING, produced=produced)
    (d,) = cut(books).window.decode
    assert d.kv_free_blocks == 0
    assert sum(blocks for _, blocks in d.releases) == 40


def test_a_call_needs_no_more_than_where_it_fits() -> None:
    books = Books(cluster(1, [decode(kv_tokens=150)]))
    call = books.call(100, 400)
    call.decode_candidates = [0]  # the truth is shorter than foretold
    window = cut(books).window
    assert window.calls[0].kv_blocks == 150
    assert check(window, [Placement(0, 0, 0.0)]).feasible


def test_some_calls_only() -> None:
    books = Books(cluster(1, 1), now_us=100_000)
    old, new, middle = (books.call(100, 11, arrival_us=us) for us in (0, 90_000, 50_000))
    horizons = Horizons(Estimator(books.cluster, books.latency))
    assert most_urgent(waiting_calls(books.view()), 100_000, horizons, 2) == [old, middle]
    assert cut(books, calls=[new]).calls == (new,)


def test_windows_of_a_run_can_be_solved_and_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    trace = hexopt.load_trace(TRACE).head(20)
    tight = hexopt.load_cluster("hetero-1-llama")
    windows = harvest_windows(trace, tight, every=10, least=3, most=6, limit=8, arrivals="poisson:8")
    assert len(windows) == 8
    for window in windows:
        assert Window.from_json(json.loads(window.to_text())) == window
        room = [d.max_new for d in window.decode]
        plan = []
        for call in window.calls:  # wherever there is room
            d = next(d for d in call.decodes() if not call.is_open or call.one_token or room[d] > 0)
            room[d] -= call.is_open and not call.one_token
            plan.append(Placement(call.prefills()[0], d, 0.0))
        assert check(window, plan).feasible
        assert 3 <= sum(c.is_open for c in window.calls) <= 6
    paths = save_windows(windows, tmp_path / "w", "bfcl")
    assert [p.name[:9] for p in paths[:2]] == ["bfcl-0000", "bfcl-0001"]
    assert load_window(paths[3]) == windows[3]


def test_prefill_candidates_are_kept() -> None:
    books = Books(cluster([prefill("small", kv_tokens=50), prefill("large")], 1))
    books.call(60, 10)
    assert cut(books).window.calls[0].prefill_us == (None, 10_000)


def test_arrays_are_the_models_own_arithmetic() -> None:
    c = hexopt.load_cluster("hetero-1-llama")
    model = ClusterLatency(c)
    placed = SimpleNamespace(batch=3, context=5_000)
    for most in (5, 1_000):  # a full batch, or not
        decodes = [_Decoder(model, d, placed, 7, most, 900) for d in range(len(c.decode))]  # type: ignore[arg-type]
        calls = [(17 * k + 2, k * k % 91, k % 3 == 0) for k in range(60)]
        found = _decode_us(decodes, model, [d.latency.b2_ms for d in c.decode], calls)
        assert found == [[d.decode_us(*call) for d in decodes] for call in calls]
        large = [(2**41, 2**21, True)]
        assert _decode_us(decodes, model, [0.0] * len(decodes), large) == [[d.decode_us(*large[0]) for d in decodes]]
    assert _decode_us(decodes, model, [], []) == []
