"""Says at the end of a run how much was compared; the numbers travel with the tests' reports, so workers add up."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    total: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name.startswith("oracle: ") and getattr(report, "when", "") == "teardown":
                    total[name] += value
    for name, value in sorted(total.items()):
        terminalreporter.write_line(f"{name.removeprefix('oracle: ')}: {value}")
