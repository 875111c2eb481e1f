"""The commands about windows and solvers, and their options; ``app.py`` has the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hexopt.cli.run_options import Arrivals, Delays, EstimateError, FirstWorkflows, Predictor, Seed, SkipInvalid, Stop

LibraryOption = Annotated[str, typer.Option(help="Folder of the instance library.", metavar="DIR")]
ObjectiveOption = Annotated[
    str, typer.Option(help="bottleneck, sum, hinge:ALPHA[,give_up=SHARE] or late:ALPHA.", metavar="OBJECTIVE")
]


def folder(text: str) -> Path:
    """Return a folder that is named; as a ``Path``, an empty text would be the current one."""
    if not text:
        raise typer.BadParameter("a folder has a name")
    return Path(text)


def register(app: typer.Typer, look: dict[str, Any], help_if_bare: Any) -> None:
    """Add the commands to the command line."""
    window_app = typer.Typer(**look)
    app.command("solve")(solve_command)
    app.add_typer(window_app, name="window")
    for name, command in WINDOW_COMMANDS.items():
        window_app.command(name)(command)

    @window_app.callback()
    def window(ctx: typer.Context) -> None:
        """Cut windows, look at them, and keep the instance library.

        Example:

        hexopt window list
        """
        help_if_bare(ctx)


def solve_command(
    instance: Annotated[str, typer.Argument(help="An instance of the library, or a file.", metavar="INSTANCE")],
    formulation: Annotated[str, typer.Option(help="hexopt window formulations lists them.", metavar="NAME")],
    solver: Annotated[
        str | None, typer.Option(help="Solver, where the formulation has a choice.", metavar="NAME")
    ] = None,
    objective: ObjectiveOption = "bottleneck",
    time_limit: Annotated[float | None, typer.Option(help="Wall-clock limit.", metavar="SECONDS")] = None,
    deterministic: Annotated[
        float | None, typer.Option(help="Limit in the solver's deterministic units.", metavar="UNITS")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Iterations of a local search.", metavar="N", min=1)] = None,
    threads: Annotated[int, typer.Option(help="Worker threads.", metavar="N", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the solver.", metavar="N", min=0)] = 0,
    hint: Annotated[
        Path | None, typer.Option(help="Plan to start from (JSON; what --json printed will do).", metavar="FILE")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the formulation; may be repeated.", metavar="NAME=VALUE")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Picture of the plan (.png or .svg).", metavar="FILE")] = None,
    submit: Annotated[
        str | None, typer.Option(help="Enter what is better into the library, found by NAME.", metavar="NAME")
    ] = None,
    library: LibraryOption = "formulations",
) -> None:
    """Solve one window; the checker judges the plan.

    The exit status is 0 if there is a plan.

    Example:

    hexopt solve n006-roomy-example --formulation cpsat \\
      --objective sum --time-limit 10 --out plan.png
    """
    from hexopt.cli.solve import solve_and_show

    status = solve_and_show(
        instance, formulation, solver, objective, option or [],
        time_limit=time_limit, deterministic=deterministic, iterations=iterations, threads=threads, seed=seed,
        hint=hint, as_json=json, out=out, submit=submit, library=library,
    )  # fmt: skip
    raise typer.Exit(status)


def show_command(
    file: Annotated[str, typer.Argument(help="A window file, or an instance of the library.", metavar="FILE")],
    plan: Annotated[
        Path | None, typer.Option(help="Plan to draw (JSON; what solve --json printed will do).", metavar="PLAN")
    ] = None,
    objective: ObjectiveOption = "bottleneck",
    out: Annotated[Path | None, typer.Option(help="The picture; else NAME.png.", metavar="FILE")] = None,
    library: LibraryOption = "formulations",
) -> None:
    """Draw a window: what is committed, what is free, and a plan if one is given.

    Example:

    hexopt window show n006-roomy-example --out window.png
    """
    from hexopt.cli.window import show_window

    show_window(file, plan, objective, out, library)


def check_command(
    file: Annotated[str, typer.Argument(help="A window file, or an instance of the library.", metavar="FILE")],
    plan: Annotated[Path | None, typer.Option(help="Plan to judge (JSON).", metavar="PLAN")] = None,
    objective: ObjectiveOption = "bottleneck",
    library: LibraryOption = "formulations",
) -> None:
    """Check a window, or judge a plan of it; exit status 2 if a rule is broken.

    Example:

    hexopt window check n006-roomy-example
    """
    from hexopt.cli.window import check_window

    raise typer.Exit(check_window(file, plan, objective, library))


def list_command(library: LibraryOption = "formulations") -> None:
    """List the instances, with the best known values and bounds.

    Example:

    hexopt window list
    """
    from hexopt.cli.window import list_instances

    list_instances(library)


def cut_command(
    trace: Annotated[Path, typer.Option(help="Trace file (.jsonl or .jsonl.gz).", metavar="FILE")],
    cluster: Annotated[str, typer.Option(help="Shipped cluster, or a cluster file.", metavar="NAME|FILE")],
    size: Annotated[list[int], typer.Option(help="Open calls of a window; may be repeated.", metavar="N", min=1)],
    policy: Annotated[str, typer.Option(help="Policy that is asked; hexopt policies lists them.", metavar="NAME")],
    policy_option: Annotated[
        list[str] | None, typer.Option(help="Option of the policy; may be repeated.", metavar="NAME=VALUE")
    ] = None,
    every: Annotated[int, typer.Option(help="Of so many windows that could be cut, one is.", metavar="N", min=1)] = 1,
    limit: Annotated[int, typer.Option(help="At most so many windows of a size.", metavar="N", min=1)] = 10,
    predictor: Predictor = "app-mean",
    seed: Seed = 0,
    arrivals: Arrivals = None,
    delays: Delays = None,
    stop: Stop = None,
    estimate_error: EstimateError = 0.0,
    workflows: FirstWorkflows = None,
    skip_invalid: SkipInvalid = False,
    out: Annotated[Path, typer.Option(parser=folder, help="Folder of the windows.", metavar="DIR")] = Path("windows"),
    prefix: Annotated[str, typer.Option(help="What their files' names begin with.", metavar="TEXT")] = "window",
) -> None:
    """Cut windows from a simulated run into files PREFIX-NUMBER-nCALLS.json.

    Where more calls wait than a window has, it has the most urgent ones.
    Calls in prefill or waiting for KV room are in it besides.

    Example:

    hexopt window cut --trace traces/samples/bfcl_multi_turn.jsonl \\
      --cluster hetero-1-llama --policy fcfs --arrivals poisson:40 \\
      --delays zero --workflows 20 --size 8 --limit 2 --out windows
    """
    from hexopt.cli.window import cut_windows

    cut_windows(
        trace, cluster, policy, policy_option or [], size,
        every=every, limit=limit, predictor=predictor, seed=seed, arrivals=arrivals, delays=delays, stop_s=stop,
        estimate_error=estimate_error, workflows=workflows, skip_invalid=skip_invalid, out=out, prefix=prefix,
    )  # fmt: skip


def formulations_command() -> None:
    """List the formulations and their options.

    Example:

    hexopt window formulations
    """
    from hexopt.cli.window import list_formulations

    list_formulations()


def add_command(
    file: Annotated[Path, typer.Argument(help="A window file.", metavar="FILE")],
    name: Annotated[
        str | None, typer.Option(help="nNNN-REGIME-ID; the window's own name if absent.", metavar="NAME")
    ] = None,
    compress: Annotated[bool, typer.Option("--compress", help="Write .json.gz.")] = False,
    library: LibraryOption = "formulations",
) -> None:
    """Add a window to the instance library.

    Example:

    hexopt window add formulations/instances/n006-roomy-example.json \\
      --library mine
    """
    from hexopt.cli.window import add_instance

    add_instance(file, name, compress, library)


def submit_command(
    instance: Annotated[str, typer.Argument(help="An instance of the library.", metavar="INSTANCE")],
    plan: Annotated[Path, typer.Argument(help="The plan (JSON; what solve --json printed will do).", metavar="PLAN")],
    by: Annotated[str, typer.Option(help="Who or what found it.", metavar="NAME")],
    seconds: Annotated[float, typer.Option(help="In what time.", metavar="SECONDS")],
    bound: Annotated[float | None, typer.Option(help="A proved lower bound.", metavar="VALUE")] = None,
    objective: ObjectiveOption = "bottleneck",
    library: LibraryOption = "formulations",
) -> None:
    """Enter a better plan (or bound) into the best known values; the checker judges it.

    Example:

    hexopt window submit n006-roomy-example \\
      formulations/example-plan.json --by hand --seconds 60
    """
    from hexopt.cli.window import submit_plan

    submit_plan(instance, plan, by, seconds, bound, objective, library)


def verify_command(library: LibraryOption = "formulations") -> None:
    """Let the checker judge every best known plan again; exit status 2 if one is not what it says.

    Example:

    hexopt window verify
    """
    from hexopt.cli.window import verify_library

    raise typer.Exit(verify_library(library))


WINDOW_COMMANDS: dict[str, Callable[..., None]] = {
    "show": show_command,
    "check": check_command,
    "cut": cut_command,
    "list": list_command,
    "formulations": formulations_command,
    "add": add_command,
    "submit": submit_command,
    "verify": verify_command,
}
