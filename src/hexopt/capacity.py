"""What a trace demands of a cluster, what the cluster can give, and arrivals at a stated utilisation.

The definitions are in docs/semantics.md, section 7.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hexopt.core.cluster import Cluster
from hexopt.core.workflow import Trace
from hexopt.errors import CapacityError, ConfigError
from hexopt.latency import ClusterLatency, check_calibrated
from hexopt.traces import apply_arrivals
from hexopt.traces.rules import utilisation_numbers
from hexopt.traces.schema import show


@dataclass(frozen=True, slots=True)
class Demand:
    """What the mean workflow of a trace takes of a cluster's pools.

    ``prefill_us`` and ``decode_us`` are µs for which it would keep the whole pool, all its instances, at capacity.
    """

    workflows: int
    calls: int
    prefill_us: float
    decode_us: float

    @property
    def bottleneck(self) -> str:
        """The pool that is the first to be full, ``"prefill"`` or ``"decode"``."""
        return "prefill" if self.prefill_us >= self.decode_us else "decode"

    def utilisation(self, rate_per_s: float) -> dict[str, float]:
        """Return the share of each pool's capacity that so many workflows a second take.

        >>> Demand(1, 1, prefill_us=50_000.0, decode_us=20_000.0).utilisation(10)
        {'prefill': 0.5, 'decode': 0.2}
        """
        return {"prefill": rate_per_s * self.prefill_us / 1e6, "decode": rate_per_s * self.decode_us / 1e6}

    def rate_at(self, utilisation: float) -> float:
        """Return the workflows per second at which the bottleneck is used to this share of its capacity.

        >>> Demand(1, 1, prefill_us=50_000.0, decode_us=20_000.0).rate_at(0.5)
        10.0
        """
        if isinstance(utilisation, bool) or not isinstance(utilisation, int | float) or not 0 < utilisation < 1e30:
            raise ConfigError(f"utilisation: {show(utilisation)} found, a number above 0 is legal, correct it")
        return utilisation * 1e6 / max(self.prefill_us, self.decode_us)


def demand(trace: Trace, cluster: Cluster) -> Demand:
    """Return what a trace's mean workflow demands of a cluster (docs/semantics.md, section 7.1).

    Arrivals and delays do not matter.

    Raises
    ------
    CapacityError
        A call fits on no instance of a pool.
    CalibrationRangeError
        A prompt lies beyond what an instance was calibrated on.

    Examples
    --------
    >>> import hexopt
    >>> call = hexopt.Call("c0", (), prompt_tokens=512, output_tokens=1)
    >>> trace = hexopt.Trace((hexopt.Workflow("w0", "demo", 0, (call,)),))
    >>> hexopt.demand(trace, hexopt.load_cluster("tiny")).prefill_us  # 10.262144 ms on each of two instances
    5131.5
    """
    trace.check()
    cluster.check()
    check_calibrated(trace, cluster)
    pools = _Pools(cluster)
    prefill, decode, calls = 0.0, 0.0, 0
    for workflow in trace.workflows:
        for call in workflow.calls:
            who = f"call '{workflow.workflow_id}/{call.call_id}'"
            prefill += pools.prefill_us(who, call.prompt_tokens)
            decode += pools.decode_us(who, call.prompt_tokens, call.output_tokens)
            calls += 1
    count = len(trace.workflows)
    return Demand(count, calls, prefill / count, decode / count)


def apply_arrivals_on(cluster: Cluster, trace: Trace, rule: str, seed: int) -> Trace:
    """Return the trace with arrivals set by a rule, which may be one that needs the cluster: ``utilisation``.

    As :func:`hexopt.traces.apply_arrivals`; for ``utilisation`` the provenance also has ``rate_per_s``.
    """
    numbers = utilisation_numbers(rule)
    if numbers is None:
        return apply_arrivals(trace, rule, seed)
    utilisation, cv = numbers
    rate = demand(trace, cluster).rate_at(float(utilisation))
    # A float's shortest text is exact, so that the written rate repeats these arrivals.
    text = f"poisson:{rate!r}" if cv is None else f"gamma:{rate!r},cv={cv}"
    drawn = apply_arrivals(trace, text, seed)
    record = {**drawn.provenance["arrivals"], "rule": rule, "rate_per_s": rate}
    return replace(drawn, provenance={**drawn.provenance, "arrivals": record})


class _Pools:
    """µs for which a call keeps a whole pool at capacity: 1 / Σ of its instances' rates for calls like it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._latency = latency = ClusterLatency(cluster)
        self._prefill: dict[int, float] = {}
        self._decode: dict[tuple[int, int], float] = {}
        self._prefill_classes = _counted(latency.prefill_class)
        self._decode_classes = _counted(latency.decode_class)

    def prefill_us(self, who: str, prompt: int) -> float:
        us = self._prefill.get(prompt)
        if us is None:
            us = self._prefill[prompt] = self._pool(
                who, f"a prompt of {prompt} tokens", "prefill", self._prefill_classes,
                lambda p: self._prefill_rate(p, prompt),
            )  # fmt: skip
        return us

    def decode_us(self, who: str, prompt: int, output: int) -> float:
        if output == 1:
            return 0.0
        us = self._decode.get((prompt, output))
        if us is None:
            us = self._decode[prompt, output] = self._pool(
                who, f"{prompt + output} tokens", "decode", self._decode_classes,
                lambda d: self._decode_rate(d, prompt, output),
            )  # fmt: skip
        return us

    def _prefill_rate(self, p: int, prompt: int) -> float:
        """Return the calls of this prompt per µs of an instance that forms the largest batches of them."""
        latency = self._latency
        room = latency.prefill_capacity_blocks[p] // latency.blocks(prompt)
        batch = min(room, max(1, self._cluster.prefill[p].max_batch_tokens // prompt))
        return batch / latency.prefill_batch_us(p, batch * prompt, batch * prompt * prompt) if batch else 0.0

    def _decode_rate(self, d: int, prompt: int, output: int) -> float:
        """Return the calls per µs of an instance that decodes as many of them as it holds, side by side."""
        latency = self._latency
        room = latency.decode_capacity_blocks[d] // latency.blocks(prompt + output)
        batch = min(room, self._cluster.decode[d].max_batch)
        return batch / latency.decode_us(d, batch, batch * (prompt + 1), output - 1) if batch else 0.0

    def _pool(self, who: str, what: str, role: str, classes: dict[int, int], rate: Callable[[int], float]) -> float:
        total = sum([count * rate(index) for index, count in classes.items()])
        if not total:
            raise CapacityError(
                f"{who}: {what} fit on no {role} instance of cluster '{self._cluster.name}', "
                "a call needs one that holds it, leave the workflow out or take a larger cluster"
            )
        return 1 / total


def _counted(classes: tuple[int, ...]) -> dict[int, int]:
    """Return, for the first instance of each class, how many the class has."""
    first: dict[int, int] = {}
    counts: dict[int, int] = {}
    for index, number in enumerate(classes):
        key = first.setdefault(number, index)
        counts[key] = counts.get(key, 0) + 1
    return counts
