"""Local queues against a sorted list."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexopt.sim import queues
from hexopt.sim.queues import AdmissionQueue, LocalQueue

FAST = settings(max_examples=150, derandomize=True, deadline=None, database=None)


@dataclass(eq=False)
class Item:
    """What a queue needs of a call."""

    priority: float
    ready_us: int
    workflow: Any
    index: int
    kv_blocks: int
    entry: Any = None
    call_id: str = "c"

    def key(self) -> tuple[float, int, int, int]:
        return self.priority, self.ready_us, self.workflow.index, self.index

    def make_entry(self) -> Any:
        self.entry = (*self.key(), self)
        return self.entry


# Few values, so that ties reach down to the last place; the item's number makes keys unique.
ITEMS = st.tuples(st.sampled_from((-1.0, 0.0, 0.5, 7.0)), st.integers(0, 2), st.integers(0, 1), st.integers(1, 9))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), ITEMS),
        st.tuples(st.just("take"), st.just(None)),
        st.tuples(st.just("remove"), st.integers(0, 99)),
        st.tuples(st.just("reorder"), st.tuples(st.integers(0, 99), st.sampled_from((-2.0, 0.0, 3.0)))),
        st.tuples(st.just("admit"), st.tuples(st.integers(0, 30), st.booleans())),
    ),
    max_size=60,
)


def naive_admit(items: list[Item], free: int, strict: bool) -> list[Item]:
    admitted = []
    for item in sorted(items, key=Item.key):
        if item.kv_blocks <= free:
            free -= item.kv_blocks
            admitted.append(item)
        elif strict:
            break
    return admitted


def play(queue: Any, steps: list[tuple[str, Any]]) -> None:
    items: list[Item] = []
    number = 0
    for what, value in steps:
        if what == "add":
            priority, ready, workflow, blocks = value
            item = Item(priority, ready, SimpleNamespace(index=workflow), number, blocks)
            number += 1
            queue.add(item)
            items.append(item)
        elif what == "admit":
            if isinstance(queue, AdmissionQueue):
                want = naive_admit(items, *value)
                assert queue.admit(*value) == want
                items = [item for item in items if item not in want]
                assert all(item.entry is None for item in want)
        elif items and what == "take":
            item = min(items, key=Item.key)
            assert queue.first() is item
            assert queue.take() is item
            assert item.entry is None
            items.remove(item)
        elif items and what == "remove":
            item = items.pop(value % len(items))
            queue.remove(item)
            assert item.entry is None
        elif items and what == "reorder":
            item = items[value[0] % len(items)]
            item.priority = value[1]
            queue.reorder(item)
        assert len(queue) == len(items)
        assert [entry[4] for entry in queue] == sorted(items, key=Item.key)


@FAST
@given(STEPS)
def test_local_queue(steps: list[tuple[str, Any]]) -> None:
    play(LocalQueue(), steps)


@FAST
@given(STEPS)
def test_admission_queue(steps: list[tuple[str, Any]]) -> None:
    play(AdmissionQueue(), steps)


@pytest.mark.parametrize("queue", [LocalQueue, AdmissionQueue])
def test_the_front_is_given_back_now_and_then(queue: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # Compaction every few takes instead of every 256.
    monkeypatch.setattr(queues, "_COMPACT", 3)

    @FAST
    @given(STEPS)
    def check(steps: list[tuple[str, Any]]) -> None:
        play(queue(), steps)

    check()


@FAST
@given(st.lists(st.integers(1, 5), max_size=12), st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=6))
def test_admission_to_the_last_block(needs: list[int], rounds: list[tuple[int, bool]]) -> None:
    queue = AdmissionQueue()
    items = [Item(0.0, 0, SimpleNamespace(index=0), i, need) for i, need in enumerate(needs)]
    for item in items:
        queue.add(item)  # type: ignore[arg-type]
    for free, strict in rounds:
        want = naive_admit(items, free, strict)
        assert queue.admit(free, strict) == want
        items = [item for item in items if item not in want]
        assert [entry[4] for entry in queue] == items


def test_a_long_queue_does_not_keep_what_was_taken() -> None:
    queue = LocalQueue()
    for i in range(3000):
        queue.add(Item(0.0, 0, SimpleNamespace(index=0), i, 1))  # type: ignore[arg-type]
    for i in range(2999):
        assert queue.take().index == i
    assert len(queue) == 1
    assert len(queue.items) < 1000


def test_removing_what_is_not_queued_is_an_engine_defect() -> None:
    with pytest.raises(RuntimeError, match="is in no queue"):
        LocalQueue().remove(Item(0.0, 0, SimpleNamespace(index=0), 0, 1))  # type: ignore[arg-type]
