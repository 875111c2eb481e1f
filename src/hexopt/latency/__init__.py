"""From coefficients to microseconds."""

from hexopt.latency.model import ClusterLatency
from hexopt.latency.range import check_calibrated

__all__ = ["ClusterLatency", "check_calibrated"]
