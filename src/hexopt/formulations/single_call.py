"""The single-call bound: no workflow is done before its calls would be, each alone on the free cluster.

Equation (2) of ``formulations/README.md``. It needs no solver, costs O(calls · P · D), and often equals the best
bottleneck: the workflow that decides it is mostly late already.
"""

from __future__ import annotations

from hexopt.core.window import Window, WindowCall
from hexopt.formulations.checker import workflow_ends
from hexopt.formulations.objective import Objective


def earliest_finish_us(window: Window, call: WindowCall) -> int:
    """Return a lower bound on the completion of a call under any plan, µs after the cut."""
    latency = window.options.latency_us
    nic = window.options.contention == "nic"
    best = None
    for p in call.prefills():
        end = window.prefill[p].free_us + (call.prefill_us[p] or 0) if call.is_open else call.available_us or 0
        if call.one_token:
            finish = end
            best = finish if best is None else min(best, finish)
            continue
        for d in call.decodes():
            start = max(end, window.prefill[p].nic_free_us, window.decode[d].nic_free_us) if nic else end
            finish = start + call.wire_us[p][d] + latency + (call.decode_us[d] or 0)
            best = finish if best is None else min(best, finish)
    return best or 0


def single_call_ends(window: Window) -> list[int]:
    """Return a lower bound on when each workflow is done, µs after its arrival."""
    return workflow_ends(window, [earliest_finish_us(window, call) for call in window.calls])


def single_call_bound(window: Window, objective: Objective) -> float:
    """Return a lower bound on the objective over all plans of a window."""
    return objective.value(window, single_call_ends(window)).objective
