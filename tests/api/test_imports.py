"""What is imported stays light: a router that embeds a policy carries no simulator, tables, plots or solver."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hexopt

HEAVY = [
    "pandas",
    "matplotlib",
    "pydantic",
    "ortools",
    "pulp",
    "typer",
    "rich",
    "joblib",
    "numba",
    "hexopt.sim",
    "hexopt.traces",
    "hexopt.report",
    "hexopt.experiments",
    "hexopt.cli",
]


def imported(code: str) -> set[str]:
    """The modules that are there after this code, in an interpreter of its own."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import hexopt",
        "import hexopt.policies.hexagent",
        "import hexopt.policies.earliest_finish, hexopt.policies.fcfs, hexopt.policies.registry",
        "from hexopt import Cluster, View, Plan, Decision, Policy, BasePolicy, Call, Workflow, Trace, HexoptError",
        "import hexopt.core.cluster, hexopt.core.protocols, hexopt.core.view",
        "from hexopt.latency import ClusterLatency",
    ],
)
def test_light(code: str) -> None:
    there = imported(code)
    assert "hexopt" in there
    assert sorted(there & set(HEAVY)) == []


def test_importing_hexopt_alone_needs_no_numpy() -> None:
    assert "numpy" not in imported("import hexopt")


def test_simulating_needs_no_plots_and_no_command_line() -> None:
    there = imported(
        "import hexopt\n"
        "trace = hexopt.Trace((hexopt.Workflow('w', 'a', 0, (hexopt.Call('c', (), 10, 3),)),))\n"
        "hexopt.simulate(trace, hexopt.load_cluster('tiny'), hexopt.make_policy('fcfs'))"
    )
    assert sorted(there & {"matplotlib", "typer", "rich", "joblib", "hexopt.cli", "hexopt.report", "pandas"}) == []


def test_all_names_are_there() -> None:
    for name in hexopt.__all__:
        assert getattr(hexopt, name) is not None
    assert dir(hexopt) == hexopt.__all__


def test_unknown_attributes() -> None:
    with pytest.raises(AttributeError, match="module 'hexopt' has no attribute 'simulat'"):
        _ = hexopt.simulat  # type: ignore[attr-defined]
