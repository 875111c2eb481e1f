"""A plain greedy list schedule: a plan of a window within a few milliseconds, as a first hint for the others.

The call that would do worst even on its best pair goes first, to the pair on which it finishes first: the rule of
HexAGenT's planner without its preselection, on the window's own numbers. KV is looked at only as far as a call that can
never fit is sent nowhere; the checker says what the plan is worth.
"""

from __future__ import annotations

import numpy as np

from hexopt.core.window import Placement, Window, WindowPlan
from hexopt.formulations.earliest import FAR, EarliestTimes, earliest_times


def greedy_plan(window: Window, arrays: EarliestTimes | None = None) -> WindowPlan | None:
    """Return a plan, ``None`` where greedy choices leave a call without an instance.

    Priorities are ranks in the order of choice; bound calls come in it like open ones.
    """
    a = arrays or earliest_times(window)
    n, n_d = len(window.calls), len(window.decode)
    nic = window.options.contention == "nic"
    free = np.array([p.free_us for p in window.prefill], np.int64)
    nic_p = np.array([p.nic_free_us for p in window.prefill], np.int64)
    nic_d = np.array([d.nic_free_us for d in window.decode], np.int64)
    left = np.array([d.max_new for d in window.decode], np.int64)
    counted = a.open & ~a.one_token
    served = np.where(a.one_token[:, None, None], 0, a.wire_us + window.options.latency_us + a.decode_us[:, None, :])
    ready = a.transfer_start.copy()
    horizon = a.horizon[a.workflow] if n else a.horizon
    todo = np.ones(n, bool)
    plan: list[Placement] = [Placement(0, None, 0.0)] * n
    usable = a.usable.copy()
    finish = a.finish.copy()
    for rank in range(n):
        best = finish.reshape(n, -1).min(axis=1)
        ratio = np.where(todo, (best + a.after) / horizon, -1.0)
        c = int(ratio.argmax())
        if best[c] >= FAR:
            return None
        p, d = divmod(int(finish[c].argmin()), n_d)
        plan[c] = Placement(p, None if a.one_token[c] else d, float(rank))
        todo[c] = False
        begin = int(ready[c, p, d])
        if a.open[c]:
            free[p] = max(free[p], int(a.prefill_start[c, p])) + a.prefill_us[c, p]
        if nic and not a.one_token[c]:
            nic_p[p] = nic_d[d] = begin + a.wire_us[c, p, d]
        if counted[c]:
            left[d] -= 1
            if left[d] <= 0:
                usable[counted, :, d] = False
                finish[counted, :, d] = FAR
        # What changed: the prefill instance p, and the interfaces of p and d.
        end = np.where(a.open, np.maximum(free[p], a.prefill_start[:, p]) + a.prefill_us[:, p], a.prefill_end[:, p])
        row = np.maximum(a.transfer_start[:, p, :], end[:, None])
        ready[:, p, :] = row
        if nic:
            busy = ~a.one_token[:, None]
            ready[:, p, :] = np.where(
                busy, np.maximum(ready[:, p, :], np.maximum(nic_p[p], nic_d)[None, :]), ready[:, p, :]
            )
            ready[:, :, d] = np.where(
                busy, np.maximum(ready[:, :, d], np.maximum(nic_p, nic_d[d])[None, :]), ready[:, :, d]
            )
            finish[:, :, d] = np.where(usable[:, :, d], ready[:, :, d] + served[:, :, d], FAR)
        finish[:, p, :] = np.where(usable[:, p, :], ready[:, p, :] + served[:, p, :], FAR)
    return tuple(plan)
