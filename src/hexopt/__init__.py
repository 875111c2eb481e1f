"""hexopt: scheduling of agentic LLM workflows on heterogeneous prefill-decode clusters.

>>> import hexopt
>>> hexopt.load_cluster("tiny").name
'tiny'

The names below are loaded when first used, so that ``import hexopt`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hexopt.api import make_policy, simulate
    from hexopt.capacity import demand
    from hexopt.clusters import load_cluster
    from hexopt.core.cluster import Cluster
    from hexopt.core.plan import Decision, Plan
    from hexopt.core.protocols import BasePolicy, Policy
    from hexopt.core.view import View
    from hexopt.core.workflow import Call, Trace, Workflow
    from hexopt.errors import HexoptError
    from hexopt.sim.result import RunResult
    from hexopt.traces import load_trace
    from hexopt.traces.generators import generate_trace

__version__ = "0.1.0"

_HOME = {
    "load_trace": "hexopt.traces",
    "generate_trace": "hexopt.traces.generators",
    "load_cluster": "hexopt.clusters",
    "make_policy": "hexopt.api",
    "simulate": "hexopt.api",
    "demand": "hexopt.capacity",
    "RunResult": "hexopt.sim.result",
    "Trace": "hexopt.core.workflow",
    "Workflow": "hexopt.core.workflow",
    "Call": "hexopt.core.workflow",
    "Cluster": "hexopt.core.cluster",
    "Policy": "hexopt.core.protocols",
    "BasePolicy": "hexopt.core.protocols",
    "Decision": "hexopt.core.plan",
    "Plan": "hexopt.core.plan",
    "View": "hexopt.core.view",
    "HexoptError": "hexopt.errors",
}

__all__ = [
    "BasePolicy",
    "Call",
    "Cluster",
    "Decision",
    "HexoptError",
    "Plan",
    "Policy",
    "RunResult",
    "Trace",
    "View",
    "Workflow",
    "__version__",
    "demand",
    "generate_trace",
    "load_cluster",
    "load_trace",
    "make_policy",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hexopt' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
