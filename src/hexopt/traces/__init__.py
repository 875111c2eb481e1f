"""Traces: reading, checking, writing, and filling in what a log does not know.

Imports nothing heavier than numpy.
"""

from __future__ import annotations

from hexopt.traces.reader import check_trace_file, load_trace
from hexopt.traces.schema import SCHEMA_VERSION

__all__ = ["SCHEMA_VERSION", "check_trace_file", "load_trace"]
