"""Studies: a strict TOML file names a grid of runs, the runner carries it out in parallel and resumes it.

The pieces: :mod:`~hexopt.experiments.config` reads the file, :mod:`~hexopt.experiments.grid` turns it into runs with
a key each, :mod:`~hexopt.experiments.runner` carries out those whose key has no result yet, and
:mod:`~hexopt.experiments.aggregate` makes one table of all. Nothing here prints.
"""

from hexopt.experiments.config import ExperimentConfig, load_config
from hexopt.experiments.grid import Grid, RunSpec, make_grid
from hexopt.experiments.runner import ExperimentOutcome, Progress, run_experiment

__all__ = [
    "ExperimentConfig",
    "ExperimentOutcome",
    "Grid",
    "Progress",
    "RunSpec",
    "load_config",
    "make_grid",
    "run_experiment",
]
