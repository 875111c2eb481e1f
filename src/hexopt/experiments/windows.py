"""Windows cut from simulated runs, for instance libraries and studies of formulations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hexopt.api import make_policy, simulate
from hexopt.core.cluster import Cluster
from hexopt.core.protocols import Policy
from hexopt.core.window import Window
from hexopt.core.workflow import Trace
from hexopt.errors import OutputError
from hexopt.policies.harvest import Harvest


def harvest_windows(
    trace: Trace,
    cluster: Cluster,
    policy: Policy | str = "hexagent",
    *,
    every: int = 1,
    least: int = 1,
    most: int | None = None,
    limit: int | None = None,
    **run: Any,
) -> list[Window]:
    """Simulate and return windows of what the policy was asked about.

    Parameters
    ----------
    every, least, most, limit
        Which windows, see :class:`hexopt.policies.harvest.Harvest`.
    run
        More arguments of :func:`hexopt.simulate`: predictor, seed, arrivals, …
    """
    made = make_policy(policy) if isinstance(policy, str) else policy
    harvest = Harvest(made, every, least=least, most=most, limit=limit)
    simulate(trace, cluster, harvest, **run)
    return harvest.windows


def save_windows(windows: list[Window], folder: str | Path, prefix: str = "window") -> list[Path]:
    """Write each window to a file ``PREFIX-NUMBER-nCALLS.json`` of a folder, and return the files.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    out = Path(folder)
    paths = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for k, window in enumerate(windows):
            paths.append(out / f"{prefix}-{k:04d}-n{len(window.calls):03d}.json")
            window.save(paths[-1])
    except OSError as error:
        raise OutputError(
            f"{out}: {error.strerror}, windows need a folder that can be written, name another with --out"
        ) from None
    return paths
