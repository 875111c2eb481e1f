"""What policies believe about service times, when that is not the truth.

The sensitivity study of HexAGenT (arXiv 2605.16637, section 5) multiplies the estimates of prefill and decode times by
an error. Here the error belongs to the *profile* of a GPU type, as a miscalibrated estimator's would: one factor for
each distinct instance specification and phase, drawn once per run and the same for every policy. An error that differs
from call to call is one of its predicted length, which the predictor ``noisy:SIGMA`` makes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hexopt.core.cluster import Cluster, DecodeLatency, Knots, PrefillLatency
from hexopt.errors import ConfigError


def misjudged(cluster: Cluster, error: float, rng: np.random.Generator) -> Cluster:
    """Return the cluster as an estimator with a multiplicative error believes it to be.

    Parameters
    ----------
    error
        Half the width of the error, in [0, 1): every factor is uniform in [1 − error, 1 + error].
    rng
        Draws one factor per distinct prefill specification and then one per distinct decode specification, in order of
        first appearance. Another error scales the same draws.

    Raises
    ------
    ConfigError
        ``error`` lies outside [0, 1).

    >>> import numpy as np
    >>> from hexopt.clusters import load_cluster
    >>> tiny = load_cluster("tiny")
    >>> misjudged(tiny, 0.0, np.random.default_rng(0)) == tiny
    True
    """
    check_error(error)
    factors: dict[PrefillLatency | DecodeLatency, float] = {}
    specifications: list[PrefillLatency | DecodeLatency] = [p.latency for p in cluster.prefill]
    specifications.extend(d.latency for d in cluster.decode)
    for latency in specifications:
        if latency not in factors:
            factors[latency] = 1.0 + error * float(rng.uniform(-1.0, 1.0))
    return replace(
        cluster,
        prefill=tuple(replace(p, latency=_prefill(p.latency, factors[p.latency])) for p in cluster.prefill),
        decode=tuple(replace(d, latency=_decode(d.latency, factors[d.latency])) for d in cluster.decode),
    )


def check_error(error: Any) -> None:
    """Raise :class:`~hexopt.errors.ConfigError` unless ``error`` is a number in [0, 1)."""
    if isinstance(error, bool) or not isinstance(error, int | float) or not 0 <= error < 1:
        raise ConfigError(
            f"estimate_error: {error!r} found, it is half the width of a multiplicative error, a number in [0, 1), "
            "correct it"
        )


def _scaled(knots: Knots, factor: float) -> Knots:
    return tuple((x, factor * y) for x, y in knots)


def _prefill(latency: PrefillLatency, factor: float) -> PrefillLatency:
    return replace(
        latency,
        g_knots=_scaled(latency.g_knots, factor),
        a1_ms=factor * latency.a1_ms,
        a2_ms=factor * latency.a2_ms,
        c0_ms=factor * latency.c0_ms,
    )


def _decode(latency: DecodeLatency, factor: float) -> DecodeLatency:
    return replace(
        latency,
        h_knots=_scaled(latency.h_knots, factor),
        b2_ms=factor * latency.b2_ms,
        o0_ms=factor * latency.o0_ms,
        o1_ms=factor * latency.o1_ms,
    )
