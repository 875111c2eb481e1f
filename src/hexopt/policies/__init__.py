"""One file per policy, solver-free and light: a router can embed any of them without the simulator."""
