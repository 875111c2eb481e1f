"""Carry out runs on a Dask cluster that somebody has started; the optional extra ``dask``.

Nothing is read from or written to a shared disk: the inputs travel in a task, results come back as bytes. A worker must
have the same hexopt, which is checked; what a policy's options name as files must lie at the same path there.
"""

from __future__ import annotations

import gc
import pickle
import queue
import time
import uuid
import warnings
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from hexopt.errors import ConfigError, OutputError
from hexopt.experiments.grid import Inputs, RunSpec, package_code
from hexopt.experiments.pools import in_groups, killed
from hexopt.experiments.remaining import Remaining
from hexopt.experiments.work import Ending, carry_out

CONNECT_S = 10.0
"""So long a scheduler may take to answer."""

LONELY_S = 60.0
"""So long a study waits without any worker, before it gives up: workers may be on their way back."""

_LOOK_EVERY_S = 1.0
_ARRIVES_S = 60.0
_REMEDY = "finished runs are kept, start the cluster again and the same command goes on"


def on_dask(inputs: Inputs, pending: Sequence[RunSpec], address: str, watch: Remaining) -> Iterator[Ending]:
    """Carry out runs on the workers of the scheduler at an address such as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    ConfigError
        The extra is not installed, no scheduler answers, or a worker has another hexopt.
    OutputError
        The scheduler is lost on the way, or all workers for :data:`LONELY_S`.
    """
    client = connect(address)
    try:
        with warnings.catch_warnings():
            # That the inputs are large is no mistake: as part of a task they survive the loss of every worker.
            warnings.filterwarnings("ignore", message="Sending large graph")
            yield from _Study(client, address, inputs, in_groups(pending), watch).endings()
    finally:
        client.close(timeout=2)


def connect(address: str) -> Any:
    """Return a client of the scheduler, having seen that its workers have this hexopt."""
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise ConfigError(
            f"dask {address!r}: the package distributed is not installed, a Dask cluster needs the optional extra "
            "dask, install it with pip install 'hexopt[dask]'"
        ) from None
    client = why = None
    try:
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # TimeoutError is an OSError
        why = " ".join(str(error).split()) or type(error).__name__
    if client is None:
        # What is left of the client closes itself when it is collected. Should that happen while another client
        # starts, the two wait for each other for ever, so let it happen now.
        gc.collect()
        raise ConfigError(
            f"dask {address!r}: no scheduler answered within {CONNECT_S:g} s ({why}), "
            "an address is like tcp://HOST:8786, start one with dask scheduler, or check the address"
        )
    try:
        _check_workers(client, address)
    except BaseException:
        client.close(timeout=2)
        raise
    return client


def _check_workers(client: Any, address: str) -> None:
    for worker, code in client.run(package_code, on_error="return").items():
        if isinstance(code, OSError):  # it has just gone; the scheduler will know soon
            continue
        if isinstance(code, BaseException):
            raise ConfigError(
                f"dask {address!r}: worker {worker} cannot use hexopt ({type(code).__name__}: "
                f"{' '.join(str(code).split())}), every worker needs the hexopt that this process has, install it there"
            )
        if code != package_code():
            raise _other_code(address, worker, code)


def _other_code(address: str, worker: str, code: str) -> ConfigError:
    return ConfigError(
        f"dask {address!r}: worker {worker} has other code of hexopt ({code[:12]}, here {package_code()[:12]}), "
        "results of two codes do not mix, install the same hexopt there and restart it"
    )


class _Study:
    """Hands out runs as workers can take them, and hears how they end.

    When a worker dies, the scheduler blames all runs that it had, and gives a run up that it has blamed several times.
    Such a run is only suspected here: it is done again when nothing else is at work, and then fails or not by itself.
    """

    def __init__(self, client: Any, address: str, inputs: Inputs, waiting: Sequence[RunSpec], watch: Remaining) -> None:
        self._client = client
        self._address = address
        self._waiting = deque(waiting)
        self._suspects: deque[RunSpec] = deque()
        self._alone = False
        self._watch = watch
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._busy: dict[Any, RunSpec] = {}
        self._room = 0
        self._looked = self._last_seen = time.monotonic()
        blob = zlib.compress(pickle.dumps(inputs))
        # A task and no scattered data: the scheduler keeps what it is made of, and makes it again on any worker.
        # Names of its own: the scheduler may still be forgetting those of an earlier call.
        self._session = uuid.uuid4().hex
        self._inputs = client.submit(_unpack, blob, key=f"hexopt-{self._session}-inputs", pure=False)

    def endings(self) -> Iterator[Ending]:
        self._look()
        while self._busy or self._waiting or self._suspects:
            try:
                future = self._ended.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                self._look()
                continue
            spec = self._busy.pop(future)
            ending = self._ending(future, spec)
            del future  # and with it the result on the cluster
            if time.monotonic() - self._looked < _LOOK_EVERY_S:
                self._hand_out()
            else:
                self._look()
            if ending is not None:
                yield ending

    def _look(self) -> None:
        """See which workers there are, and hand out what they can take."""
        try:
            workers = self._client.nthreads() if self._client.status == "running" else None
        except (OSError, TimeoutError):
            workers = None
        if workers is None:
            raise self._gone()
        self._looked = time.monotonic()
        if workers:
            self._last_seen = self._looked
        elif self._looked - self._last_seen > LONELY_S:
            raise OutputError(f"dask {self._address!r}: it has had no worker for {LONELY_S:g} s, {_REMEDY}")
        # One run per thread, and one more per worker so that it need not wait for the next.
        self._room = sum(workers.values()) + len(workers)
        self._watch.workers = max(1, sum(workers.values()))
        self._hand_out()

    def _hand_out(self) -> None:
        if self._alone and self._busy:
            return
        self._alone = False
        for _ in range(min(self._room - len(self._busy), len(self._waiting))):
            self._submit(self._waiting.popleft(), "")
        if self._suspects and not self._busy and self._room:
            self._alone = True
            self._submit(self._suspects.popleft(), "-alone")

    def _submit(self, spec: RunSpec, suffix: str) -> None:
        key = f"hexopt-{self._session}-{spec.key}{suffix}"
        future = self._client.submit(_carry_out_there, self._inputs, spec, key=key, pure=False)
        self._busy[future] = spec
        future.add_done_callback(self._ended.put)
        self._watch.started(spec)

    def _gone(self) -> OutputError:
        return OutputError(f"dask {self._address!r}: the scheduler is gone, {_REMEDY}")

    def _ending(self, future: Any, spec: RunSpec) -> Ending | None:
        distributed: Any = import_module("distributed")
        try:
            ending, worker, code = future.result(timeout=_ARRIVES_S)
        except distributed.KilledWorker as error:
            if not self._alone:
                self._suspects.append(spec)
                return None
            deaths = int(getattr(error, "allowed_failures", 3)) + 1
            return killed(spec, deaths, "give the workers more memory and run again")
        except Exception as error:
            if future.cancelled() or self._client.status != "running":
                raise self._gone() from None
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return Ending(spec.key, f"dask {self._address!r}: the run's result did not arrive ({why}), run again")
        if code != package_code():  # a worker that came later
            raise _other_code(self._address, worker, code)
        result: Ending = ending
        return result


def _unpack(blob: bytes) -> Inputs:
    inputs: Inputs = pickle.loads(zlib.decompress(blob))
    return inputs


def _carry_out_there(inputs: Inputs, spec: RunSpec) -> tuple[Ending, str, str]:
    distributed: Any = import_module("distributed")
    return carry_out(inputs, spec), str(distributed.get_worker().address), package_code()
