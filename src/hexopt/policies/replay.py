"""``replay``: carry out a decisions table, of an earlier run or of another system's log."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hexopt.core.cluster import Cluster
from hexopt.core.plan import Decision, Plan
from hexopt.core.protocols import BasePolicy, LatencyModel, PlanLatency, Policy
from hexopt.core.view import Trigger, View
from hexopt.errors import ConfigError, PlanError

COLUMNS = ("at_us", "workflow_id", "call_id", "prefill_instance", "decode_instance", "priority")

Row = tuple[int, str, str, str, str, float]


class Replay(BasePolicy):
    """Applies each row of a decisions table at its instant, without plan latency.

    Parameters
    ----------
    decisions
        A CSV file with the columns ``at_us, workflow_id, call_id, prefill_instance, decode_instance, priority``
        (further columns are ignored), or a data frame with them. Rows of one instant keep their order.
    plan_latency_us
        Only 0 is legal: the table says when each decision takes effect.
    fallback
        Not used.
    """

    name: ClassVar[str] = "replay"
    default_fallback: ClassVar[str] = "none"
    triggers = frozenset((Trigger.CALL_READY, Trigger.WAKE_UP))

    def __init__(
        self, *, decisions: str | Path | Any, plan_latency_us: PlanLatency = 0, fallback: Policy | None = None
    ) -> None:
        super().__init__(plan_latency_us=plan_latency_us, fallback=fallback)
        if plan_latency_us != 0:
            raise ConfigError(
                f"policy 'replay': plan_latency_us is {plan_latency_us!r}, the decisions table says when each takes "
                "effect, leave it at 0"
            )
        self.decisions = decisions
        rows = _read_csv(Path(decisions)) if isinstance(decisions, str | Path) else _read_frame(decisions)
        self._rows = sorted(rows, key=lambda row: row[0])

    def reset(self, cluster: Cluster, latency: LatencyModel, rng: np.random.Generator) -> None:
        """Start over at the first row."""
        self._next = 0
        self._asked_us = -1
        self._keys: dict[tuple[str, str], int] = {}
        self._prefill = {p.name: i for i, p in enumerate(cluster.prefill)}
        self._decode = {d.name: i for i, d in enumerate(cluster.decode)}

    def plan(self, view: View) -> Plan:
        """Carry out the rows of this instant and ask to be called at the next one's."""
        for call in view.pool:
            self._keys.setdefault((call.workflow.workflow_id, call.call_id), call.key)
        now = view.now_us
        decisions: dict[int, Decision] = {}
        while self._next < len(self._rows) and self._rows[self._next][0] <= now:
            at_us, workflow_id, call_id, p, d, priority = self._rows[self._next]
            key = self._keys.get((workflow_id, call_id))
            if key is None or at_us < now:
                why = "the call is not ready then" if key is None else "no call at all is ready then"
                raise PlanError(
                    f"policy 'replay': row {self._next + 1} decides at {at_us} µs about call "
                    f"'{workflow_id}/{call_id}', {why}, "
                    "replay a table on the trace and cluster it was made with"
                )
            # A later row of the same instant overrules an earlier one.
            decisions[key] = Decision(key, self._index(self._prefill, p), self._index(self._decode, d), priority)
            self._next += 1
        wake_us = None
        if self._next < len(self._rows) and self._rows[self._next][0] != self._asked_us:
            wake_us = self._asked_us = self._rows[self._next][0]
        return Plan(list(decisions.values()), wake_us)

    def _index(self, instances: Mapping[str, int], name: str) -> int:
        if name not in instances:
            raise PlanError(
                f"policy 'replay': row {self._next + 1} names instance '{name}', the cluster has "
                f"{', '.join(instances)}, replay a table on the cluster it was made with"
            )
        return instances[name]


def _read_csv(path: Path) -> Iterator[Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            _check_columns(str(path), reader.fieldnames or ())
            for record in reader:
                yield _row(f"{path}:{reader.line_num}", record)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}, a decisions table is a readable CSV file, name one") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: {error}, a decisions table is a CSV file in UTF-8, mend it") from None


def _read_frame(frame: Any) -> Iterator[Row]:
    columns = getattr(frame, "columns", None)
    if columns is None:
        raise ConfigError(
            f"policy 'replay': decisions is a {type(frame).__name__}, it is a CSV file or a data frame, give one"
        )
    _check_columns("decisions", columns)
    for number, values in enumerate(zip(*(frame[c] for c in COLUMNS), strict=True), start=1):
        yield _row(f"decisions: row {number}", dict(zip(COLUMNS, values, strict=True)))


def _check_columns(where: str, found: Iterable[str]) -> None:
    missing = [c for c in COLUMNS if c not in set(found)]
    if missing:
        raise ConfigError(
            f"{where}: it has no column {', '.join(missing)}, a decisions table has {', '.join(COLUMNS)}, add them"
        )


def _row(where: str, record: Mapping[str, Any]) -> Row:
    try:
        at_us = int(record["at_us"])
        priority = float(record["priority"])
        if at_us != record["at_us"] and not isinstance(record["at_us"], str):
            at_us = -1  # a fraction of a microsecond
    except (TypeError, ValueError, OverflowError):
        at_us, priority = -1, math.nan
    if at_us < 0 or not math.isfinite(priority):
        raise ConfigError(
            f"{where}: at_us {record['at_us']!r} or priority {record['priority']!r} is no number, "
            "at_us is a whole number of µs and priority is finite, correct it"
        )
    return (
        at_us,
        str(record["workflow_id"]),
        str(record["call_id"]),
        str(record["prefill_instance"]),
        str(record["decode_instance"]),
        priority,
    )
