"""Traces: reading, checking, writing, and filling in what a log does not know.

Imports nothing heavier than numpy.
"""

from __future__ import annotations

from hexopt.traces.info import trace_info
from hexopt.traces.reader import check_trace_file, load_trace
from hexopt.traces.rules import ARRIVAL_RULES, DELAY_RULES, apply_arrivals, apply_delays, require_known
from hexopt.traces.schema import SCHEMA_VERSION
from hexopt.traces.writer import write_trace

__all__ = [
    "ARRIVAL_RULES",
    "DELAY_RULES",
    "SCHEMA_VERSION",
    "apply_arrivals",
    "apply_delays",
    "check_trace_file",
    "load_trace",
    "require_known",
    "trace_info",
    "write_trace",
]
