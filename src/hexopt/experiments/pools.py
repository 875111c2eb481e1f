"""Where runs are carried out: in this process, or in worker processes of this machine.

A pool takes runs in the order it is given, hands each to a worker, and yields how they ended. A run whose worker was
killed is tried again, and fails when that has happened :data:`MAX_DEATHS` times.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from hexopt.experiments.grid import Inputs, RunSpec
from hexopt.experiments.work import Ending, carry_out

MAX_DEATHS = 3
"""A run is recorded as failed when so many workers were killed while they had it."""

OnStart = Callable[[RunSpec], None]
"""Told in the parent which run a worker is given."""


def in_process(inputs: Inputs, pending: Sequence[RunSpec], on_start: OnStart) -> Iterator[Ending]:
    """Carry out runs one after the other in this process."""
    for spec in in_groups(pending):
        on_start(spec)
        yield carry_out(inputs, spec)


def in_processes(inputs: Inputs, pending: Sequence[RunSpec], jobs: int, on_start: OnStart) -> Iterator[Ending]:
    """Carry out runs in ``jobs`` worker processes.

    Each worker is a pool of one process, so that a death says which run it cost, and costs no other. A worker gets
    runs of one group (one trace and cluster) as long as there are any: what the runs share is made once.
    """
    queue = Queue(pending)
    workers = [_Worker(inputs) for _ in range(jobs)]
    deaths: Counter[str] = Counter()
    busy: dict[Future[Ending], tuple[_Worker, RunSpec]] = {}

    def give(worker: _Worker) -> None:
        if (spec := queue.take(worker)) is not None:
            busy[worker.submit(spec)] = worker, spec
            on_start(spec)

    try:
        for worker in workers:
            give(worker)
        while busy:
            ended, _ = wait(busy, return_when=FIRST_COMPLETED)
            for future in ended:
                worker, spec = busy.pop(future)
                try:
                    ending = future.result()
                except BrokenProcessPool:
                    worker.replace()
                    deaths[spec.key] += 1
                    if deaths[spec.key] < MAX_DEATHS:
                        queue.put_back(spec)
                        give(worker)
                        continue
                    ending = killed(spec, deaths[spec.key], "run again with fewer --jobs")
                give(worker)
                yield ending
            # A run put back when the others had nothing left to do.
            for worker in workers:
                if len(queue) and all(worker is not at_work for at_work, _ in busy.values()):
                    give(worker)
    finally:
        for worker in workers:
            worker.stop()


def in_groups(pending: Sequence[RunSpec]) -> list[RunSpec]:
    """Return the runs with those of one group together, in their order otherwise."""
    return sorted(pending, key=lambda spec: spec.group)


def killed(spec: RunSpec, deaths: int, remedy: str) -> Ending:
    """Return the ending of a run that cost too many workers their lives."""
    return Ending(
        spec.key,
        f"a worker process was killed {deaths} times before this run ended, often for want of memory, {remedy}",
    )


class Queue:
    """Runs that wait, in groups; a worker stays with its group, then opens the next, then helps with the longest."""

    def __init__(self, pending: Sequence[RunSpec]) -> None:
        self._groups: dict[tuple[int, int, int], deque[RunSpec]] = {}
        for spec in in_groups(pending):
            self._groups.setdefault(spec.group, deque()).append(spec)
        self._unopened = deque(self._groups)
        self._group_of: dict[int, tuple[int, int, int]] = {}

    def __len__(self) -> int:
        return sum(len(group) for group in self._groups.values())

    def take(self, worker: object) -> RunSpec | None:
        """Return the next run for a worker, or ``None`` if there is none left."""
        group = self._group_of.get(id(worker))
        if group is None or not self._groups[group]:
            while self._unopened and not self._groups[self._unopened[0]]:
                self._unopened.popleft()
            if self._unopened:
                group = self._unopened.popleft()
            else:
                group = max(self._groups, key=lambda g: len(self._groups[g]), default=None)
            if group is None or not self._groups[group]:
                return None
            self._group_of[id(worker)] = group
        return self._groups[group].popleft()

    def put_back(self, spec: RunSpec) -> None:
        """Let a run wait again, behind the others of its group."""
        self._groups[spec.group].append(spec)


class _Worker:
    """One worker process, replaced when it was killed."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._pool: Any = None

    def submit(self, spec: RunSpec) -> Future[Ending]:
        from joblib.externals.loky import ProcessPoolExecutor

        if self._pool is not None:
            return self._hand(spec)
        with _sigint_ignored():  # the process starts with the first submission
            self._pool = ProcessPoolExecutor(1, initializer=_begin, initargs=(self._inputs, os.getpid()))
            return self._hand(spec)

    def _hand(self, spec: RunSpec) -> Future[Ending]:
        future: Future[Ending] = Future()
        try:
            future = self._pool.submit(_carry_out_here, spec)
        except BrokenProcessPool as broken:  # killed while it had nothing to do
            future.set_exception(broken)
        return future

    def replace(self) -> None:
        self.stop()
        self._pool = None

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)


_inputs: Inputs | None = None


def _begin(inputs: Inputs, parent: int) -> None:
    """Set a worker process up."""
    global _inputs
    _inputs = inputs
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: nobody would take its results."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _carry_out_here(spec: RunSpec) -> Ending:
    assert _inputs is not None
    return carry_out(_inputs, spec)


@contextmanager
def _sigint_ignored() -> Generator[None]:
    """Start child processes that ignore SIGINT: Ctrl-C is the parent's business, which then stops them silently.

    Being ignored is what a child inherits; a signal mask would not do, since starting the pool clears it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
