"""From coefficients to microseconds."""

from hexopt.latency.model import ClusterLatency

__all__ = ["ClusterLatency"]
