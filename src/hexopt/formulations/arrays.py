"""A window as arrays, for kernels."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hexopt.core.window import Window
from hexopt.formulations.objective import Objective

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NIC, STRICT, PREFILL_KV, LATENCY = range(4)
"""Entries of ``rules``."""
WORKFLOW, OPEN, ONE, AVAILABLE, PROMPT_BLOCKS, KV_BLOCKS, TAIL = range(7)
"""Columns of ``calls``."""
ELAPSED, HORIZON, FLOOR = range(3)
"""Columns of ``workflows``; FLOOR is an end, µs after the arrival, and at least what has elapsed."""
BOTTLENECK, SUM, HINGE, LATE = range(4)
"""Kinds of objective."""
KINDS = {"bottleneck": BOTTLENECK, "sum": SUM, "hinge": HINGE, "late": LATE}

LARGEST = 2.0**61
"""No instant of any plan may exceed it."""


class WindowArrays(NamedTuple):
    """A window of N calls, P prefill and D decode instances, W workflows; times in µs, room in blocks.

    What a bound call may not choose is taken from its candidates, so kernels need not ask whether a call is bound.
    """

    rules: Ints
    """Shape (4,)."""
    prefill: Ints
    """Shape (P, 3): free_us, nic_free_us, room now: capacity less what is held and what bound calls hold."""
    decode: Ints
    """Shape (D, 3): nic_free_us, kv_free_blocks, max_new."""
    held: Ints
    """Shape (any, 3): (until, prefill instance, blocks)."""
    releases: Ints
    """Shape (any, 3): (when, decode instance, blocks)."""
    workflows: Ints
    """Shape (W, 3)."""
    calls: Ints
    """Shape (N, 7)."""
    prefill_us: Ints
    """Shape (N, P), −1 where the call may not go; 0 for a bound call."""
    wire_us: Ints
    """Shape (N, P, D)."""
    decode_us: Ints
    """Shape (N, D), −1 where the call may not go; 0 for a call of one token that may go nowhere: it matters nowhere."""


class Goal(NamedTuple):
    """An objective for kernels: its kind, the SLO scale (as a ratio), and how many workflows may be given up."""

    kind: int
    alpha: float
    given_up: int


def goal_of(objective: Objective, workflows: int) -> Goal:
    """Return an objective of so many workflows for kernels."""
    return Goal(KINDS[objective.kind], objective.slo_scale or 0.0, objective.given_up(workflows))


def arrays_of(window: Window) -> WindowArrays | None:
    """Return a window as arrays; ``None`` if its times are so large that sums of them could overflow."""
    options, calls = window.options, window.calls
    n, n_p, n_d = len(calls), len(window.prefill), len(window.decode)
    rules = np.array(
        [options.contention == "nic", options.kv_admission == "strict", options.prefill_kv, options.latency_us],
        np.int64,
    )
    prefill = np.array(
        [(p.free_us, p.nic_free_us, p.kv_blocks - sum(b for _, b in p.held)) for p in window.prefill], np.int64
    )
    decode = np.array([(d.nic_free_us, d.kv_free_blocks, d.max_new) for d in window.decode], np.int64)
    held = np.array([(us, k, b) for k, p in enumerate(window.prefill) for us, b in p.held], np.int64).reshape(-1, 3)
    releases = np.array([(us, k, b) for k, d in enumerate(window.decode) for us, b in d.releases], np.int64)
    workflows = np.array(
        [(w.elapsed_us, w.horizon_us, w.elapsed_us + (w.floor_us or 0)) for w in window.workflows], np.int64
    ).reshape(-1, 3)
    facts = np.array(
        [
            (
                c.workflow,
                c.state == "open",
                c.one_token,
                c.available_us or 0,
                c.prefill_blocks,
                c.kv_blocks,
                c.tail_us,
            )
            for c in calls
        ],
        np.int64,
    ).reshape(-1, 7)
    # As doubles, which hold every legal time exactly, because None then becomes nan.
    prefill_us = np.array([c.prefill_us for c in calls], np.float64).reshape(n, n_p)
    decode_us = np.array([c.decode_us for c in calls], np.float64).reshape(n, n_d)
    flat = chain.from_iterable(chain.from_iterable(c.wire_us for c in calls))
    wire_us = np.fromiter(flat, np.int64, n * n_p * n_d).reshape(n, n_p, n_d)
    prefill_us[np.isnan(prefill_us)] = -1
    decode_us[np.isnan(decode_us)] = -1
    for k, call in enumerate(calls):
        if call.state == "bound":
            assert call.prefill is not None  # the reader has seen to it
            prefill[call.prefill, 2] -= call.prefill_blocks
            prefill_us[k] = -1
            prefill_us[k, call.prefill] = 0
            if call.decode is not None:
                mine = max(0.0, decode_us[k, call.decode])
                decode_us[k] = -1
                decode_us[k, call.decode] = mine
        if call.one_token and (decode_us[k] < 0).all():
            decode_us[k] = 0
    most = options.latency_us + float(prefill[:, :2].max()) + float(decode[:, 0].max())
    if n:
        a_call = prefill_us.max(axis=1) + decode_us.max(axis=1) + options.latency_us
        most += float((a_call + wire_us.max(axis=(1, 2)) + facts[:, AVAILABLE] + facts[:, TAIL]).sum())
    for table in (held, releases):
        most += float(table[:, 0].max()) if len(table) else 0.0
    if len(workflows):
        most += float(workflows.max())
    if most > LARGEST:
        return None
    return WindowArrays(
        rules,
        prefill,
        decode,
        held,
        releases.reshape(-1, 3),
        workflows,
        facts,
        prefill_us.astype(np.int64),
        wire_us,
        decode_us.astype(np.int64),
    )
