"""Whether a cluster's prefill curves reach as far as a trace's prompts."""

from __future__ import annotations

from hexopt.core.cluster import Cluster
from hexopt.core.workflow import Trace
from hexopt.errors import CalibrationRangeError
from hexopt.latency.model import BASE_TOKENS


def check_calibrated(trace: Trace, cluster: Cluster) -> None:
    """Raise :class:`~hexopt.errors.CalibrationRangeError` for a prompt that a prefill instance holds but cannot time.

    A policy may place a call wherever its prompt fits, so every such instance's curve g must reach
    ``min(prompt, 512)``. A simulation notices when it first asks; this notices before it costs time. It judges
    prompts one by one: a batch of several (``max_batch_tokens``) may still need more of g than each of them.
    """
    for p in cluster.prefill:
        last = p.latency.g_knots[-1][0]
        if last >= BASE_TOKENS or (p.latency.extrapolate and len(p.latency.g_knots) > 1):
            continue
        room = p.kv_tokens // cluster.block_tokens * cluster.block_tokens
        for w in trace.workflows:
            for c in w.calls:
                if last < c.prompt_tokens <= room:
                    raise CalibrationRangeError(
                        f"call '{w.workflow_id}/{c.call_id}': its prompt of {c.prompt_tokens} tokens lies beyond the "
                        f"last knot {last} of g_knots of instance '{p.name}', which holds it, a model is not "
                        "extrapolated unasked, add knots or set extrapolate = true"
                    )
