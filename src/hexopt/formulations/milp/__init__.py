"""Mixed-integer linear formulations of a window, each written once and solved by any of four solvers.

All leave out KV, prefill KV and transfers that wait for one another, so their bounds hold under the checker's rules;
where :func:`hexopt.formulations.pressure.pressure` finds none of the three, they are exact. The mathematics they share
is in ``formulations/milp/model.md``, that of each in ``formulations/milp-NAME/model.md``. Importing this package loads
no solver; building a formulation does.
"""
