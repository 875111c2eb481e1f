"""The report of a solver comparison: tables, figures, computed sentences."""

from hexopt.report.solvers.data import Solves, is_solves_folder, load_solves
from hexopt.report.solvers.writer import summary_lines, write_solver_report

__all__ = ["Solves", "is_solves_folder", "load_solves", "summary_lines", "write_solver_report"]
