"""Studies: a strict TOML file names a grid of runs, the runner carries it out in parallel and resumes it.

The pieces: :mod:`~hexopt.experiments.config` reads the file, :mod:`~hexopt.experiments.grid` turns it into runs with
a key each, :mod:`~hexopt.experiments.runner` has those carried out that :mod:`~hexopt.experiments.ledger` does not know
yet (:mod:`~hexopt.experiments.work` says how, :mod:`~hexopt.experiments.pools` and :mod:`~hexopt.experiments.on_dask`
where), and :mod:`~hexopt.experiments.aggregate` makes tables of all. Nothing here prints. docs/experiments.md describes
the file and the results.
"""

from hexopt.experiments.config import ExperimentConfig, load_config
from hexopt.experiments.grid import Grid, Inputs, RunSpec, make_grid
from hexopt.experiments.runner import ExperimentOutcome, Progress, run_experiment

__all__ = [
    "ExperimentConfig",
    "ExperimentOutcome",
    "Grid",
    "Inputs",
    "Progress",
    "RunSpec",
    "load_config",
    "make_grid",
    "run_experiment",
]
