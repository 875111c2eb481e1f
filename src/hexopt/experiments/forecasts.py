"""How good forecasts of what follows in a workflow are, by application: their error and their calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hexopt.core.cluster import Cluster
from hexopt.core.protocols import TAIL_LEVELS, Forecaster, Tail
from hexopt.core.streams import stream
from hexopt.core.view import WorkflowView
from hexopt.core.workflow import Trace
from hexopt.latency import ClusterLatency
from hexopt.latency.alone import Alone
from hexopt.policies.forecast import KNOWING, LEARNING, check_forecaster, check_training, make_learner
from hexopt.policies.forecast.lessons import as_log, tails_us
from hexopt.sim.forecasters import make_knowing

COVERED = (0.1, 0.5, 0.9)
"""The quantiles whose calibration is told: the share of calls whose truth is at most the quantile."""


def evaluate_forecasters(
    trace: Trace, cluster: Cluster, forecasters: Sequence[str], training: Trace | None = None, seed: int = 0
) -> pd.DataFrame:
    """Forecast what follows each call of a trace and compare it with the truth.

    Every call is forecast at the instant of its revealing, by what a router knows then, as if its workflow ran alone.

    Parameters
    ----------
    forecasters
        Their names, such as ``"learned"``.
    training
        What those that learn know beforehand, and all they know. Without it they learn on the way: of each workflow,
        in the order of the trace, after it was forecast.
    seed
        Of the errors of ``noisy:SIGMA``.

    Returns
    -------
    One row for each forecaster and application, and one with the application ``"all"`` where there are several.
    ``error_s`` is the mean absolute error of the mean, ``bias_s`` the mean of forecast minus truth, ``r2`` the share of
    the variance that is explained, ``pinball`` the mean loss of the quantiles over the mean truth (the smaller, the
    better), ``below_10`` and so on the share of truths up to that quantile, ``known`` the share of calls that anything
    was foretold about.

    Raises
    ------
    ConfigError
        A forecaster is unknown, or a workflow is in both traces.
    """
    if training is not None:
        check_training(training, trace)
    latency = ClusterLatency(cluster)
    alone = Alone(cluster, latency)
    logs = [as_log(workflow, i, alone) for i, workflow in enumerate(trace.workflows)]
    truths = [tails_us(log, alone) for log in logs]
    apps = np.array([log.app for log in logs for _ in log.calls], object)
    truth = np.array([us for row in truths for us in row], np.float64) / 1e6
    names = sorted({log.app for log in logs})
    groups = [(name, apps == name) for name in names]
    if len(names) > 1:
        groups.append(("all", np.ones(len(apps), bool)))
    rows = []
    for text in forecasters:
        tails = _forecasts(text, trace, logs, cluster, latency, training, seed)
        mean = np.array([t.mean_us for t in tails], np.float64) / 1e6
        quantiles = np.array([t.quantiles_us for t in tails], np.float64) / 1e6
        known = np.array([t.examples > 0 or text.partition(":")[0] in KNOWING for t in tails])
        for app, mine in groups:
            scores = _scores(truth[mine], mean[mine], quantiles[mine])
            rows.append({"forecaster": text, "app": app, **scores, "known": float(known[mine].mean())})
    return pd.DataFrame(rows)


def _forecasts(
    text: str,
    trace: Trace,
    logs: Sequence[WorkflowView],
    cluster: Cluster,
    latency: ClusterLatency,
    training: Trace | None,
    seed: int,
) -> list[Tail]:
    check_forecaster(text)
    name = text.partition(":")[0]
    if name in LEARNING:
        learner = make_learner(name, training)
        learner.reset(cluster, latency)
        tails: list[Tail] = []
        for log in logs:
            tails.extend(learner.tail(call) for call in log.calls)
            learner.lessons.reader.forget(log)
            if training is None:
                learner.learn(learner.lessons.lesson(log))
        return tails
    if name in KNOWING:
        knowing: Forecaster = make_knowing(text, trace, stream(seed, "forecaster"))
        knowing.reset(cluster, latency)
        return [knowing.tail(call) for log in logs for call in log.calls]
    return [Tail(0) for log in logs for _ in log.calls]


def _scores(truth: Any, mean: Any, quantiles: Any) -> dict[str, float]:
    miss = truth[:, None] - quantiles
    levels = np.array(TAIL_LEVELS)
    loss = float(np.maximum(levels * miss, (levels - 1) * miss).mean())
    spread = float(((truth - truth.mean()) ** 2).sum())
    average = float(truth.mean())
    return {
        "calls": len(truth),
        "truth_s": average,
        "error_s": float(np.abs(mean - truth).mean()),
        "bias_s": float((mean - truth).mean()),
        "r2": 1 - float(((truth - mean) ** 2).sum()) / spread if spread > 0 else float("nan"),
        "pinball": loss / average if average > 0 else float("nan"),
        **{f"below_{round(100 * level)}": float((miss[:, TAIL_LEVELS.index(level)] <= 0).mean()) for level in COVERED},
    }
