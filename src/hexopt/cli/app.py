"""The commands and their options; what each does is in a module of its own, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import hexopt
from hexopt.cli import forecast, optimise
from hexopt.cli.run_options import Arrivals, Delays, EstimateError, FirstWorkflows, Predictor, Seed, SkipInvalid, Stop

UsageError: Any = typer.BadParameter.__base__
"""The base of all complaints about arguments, wherever the installed typer keeps it."""


class Interrupted(BaseException):
    """Ctrl-C on its way past typer, which would turn it into a bare exit status and lose its message."""


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(*interrupt.args) from None


class _App(typer.Typer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except Interrupted as interrupted:
            raise KeyboardInterrupt(*interrupted.args) from None


_LOOK: dict[str, Any] = {
    "invoke_without_command": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = _App(cls=_Group, **_LOOK)
trace_app = typer.Typer(**_LOOK)
cluster_app = typer.Typer(**_LOOK)
app.add_typer(trace_app, name="trace")
app.add_typer(cluster_app, name="cluster")


def _help_if_bare(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        text = ctx.get_help()  # with rich, typer prints it itself and returns nothing
        if text:
            typer.echo(text)
        raise typer.Exit(0)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"hexopt {hexopt.__version__}")
        raise typer.Exit(0)


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Schedule agentic LLM workflows on prefill-decode clusters: simulate, compare, plot.

    Example:

    hexopt simulate --trace traces/samples/bfcl_multi_turn.jsonl \\
      --cluster hetero-1-llama --policy hexagent \\
      --arrivals poisson:40 --delays zero
    """
    _help_if_bare(ctx)


@trace_app.callback()
def trace(ctx: typer.Context) -> None:
    """Look at trace files, check them, or generate them.

    Example:

    hexopt trace info traces/samples/bfcl_multi_turn.jsonl
    """
    _help_if_bare(ctx)


@cluster_app.callback()
def cluster(ctx: typer.Context) -> None:
    """Look at clusters, shipped or your own, or check them.

    Example:

    hexopt cluster show hetero-1-llama
    """
    _help_if_bare(ctx)


@app.command("run")
def run_command(
    experiment: Annotated[Path, typer.Argument(help="Experiment file (TOML).", metavar="EXPERIMENT.toml")],
    out: Annotated[
        Path | None,
        typer.Option(parser=optimise.folder, help="Folder of the results; else the experiment's own.", metavar="DIR"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Worker processes; else one per CPU core.", metavar="N", min=1)
    ] = None,
    dask: Annotated[
        str | None, typer.Option(help="Scheduler of a Dask cluster that does the runs.", metavar="ADDRESS")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove the folder's results of an earlier or changed study first.")
    ] = False,
) -> None:
    """Carry out an experiment: all its runs, a table, figures.

    Finished runs are kept whatever happens; the same command goes on where it was stopped.

    Example:

    hexopt run experiments/quickstart.toml --jobs 2
    """
    from hexopt.cli.run import run_and_report

    raise typer.Exit(run_and_report(experiment, out, jobs, dask=dask, fresh=fresh))


@app.command("simulate")
def simulate_command(
    trace: Annotated[Path, typer.Option(help="Trace file (.jsonl or .jsonl.gz).", metavar="FILE")],
    cluster: Annotated[str, typer.Option(help="Shipped cluster, or a cluster file.", metavar="NAME|FILE")],
    policy: Annotated[str, typer.Option(help="Policy; hexopt policies lists them.", metavar="NAME")],
    policy_option: Annotated[
        list[str] | None, typer.Option(help="Option of the policy; may be repeated.", metavar="NAME=VALUE")
    ] = None,
    predictor: Predictor = "app-mean",
    seed: Seed = 0,
    arrivals: Arrivals = None,
    delays: Delays = None,
    stop: Stop = None,
    estimate_error: EstimateError = 0.0,
    workflows: FirstWorkflows = None,
    skip_invalid: SkipInvalid = False,
    out: Annotated[
        Path | None, typer.Option(parser=optimise.folder, help="Folder for the tables of the run.", metavar="DIR")
    ] = None,
) -> None:
    """Simulate one run and show its key figures.

    Example:

    hexopt simulate --trace traces/samples/bfcl_multi_turn.jsonl \\
      --cluster hetero-1-llama --policy hexagent \\
      --policy-option plan_latency_us=0 --arrivals poisson:40 \\
      --delays zero --workflows 50 --out results/one
    """
    from hexopt.cli.simulate import simulate_and_show

    simulate_and_show(
        trace,
        cluster,
        policy,
        policy_option or [],
        predictor=predictor,
        seed=seed,
        arrivals=arrivals,
        delays=delays,
        stop_s=stop,
        estimate_error=estimate_error,
        workflows=workflows,
        skip_invalid=skip_invalid,
        out=out,
    )


@app.command("bound")
def bound_command(
    trace: Annotated[Path, typer.Option(help="Trace file (.jsonl or .jsonl.gz).", metavar="FILE")],
    cluster: Annotated[str, typer.Option(help="Shipped cluster, or a cluster file.", metavar="NAME|FILE")],
    quantile: Annotated[
        str, typer.Option(help="Of the ratios to standalone latency; 1 is the largest.", metavar="Q")
    ] = "0.99",
    arrivals: Arrivals = None,
    delays: Delays = None,
    seed: Seed = 0,
    workflows: FirstWorkflows = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="Policy to compare; may be repeated.", metavar="NAME")
    ] = None,
    predictor: Annotated[
        str, typer.Option(help="Output lengths as those policies see them.", metavar="RULE")
    ] = "app-mean",
    search: Annotated[
        int, typer.Option(help="Simulations of the search for a good schedule.", metavar="ITERATIONS", min=0)
    ] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option(parser=optimise.folder, help="Folder for the best schedule found.", metavar="DIR")
    ] = None,
) -> None:
    """Bound what any policy can reach on a trace, and find a good schedule.

    The bound is proved; the schedule is found with full knowledge of the
    trace. The best possible value lies between the two.

    Example:

    hexopt bound --trace traces/samples/bfcl_multi_turn.jsonl \\
      --cluster hetero-1-llama --quantile 0.95 --arrivals poisson:40 \\
      --delays zero --workflows 20 --policy hexagent --search 2
    """
    from hexopt.cli.bound import bound_and_show

    bound_and_show(
        trace,
        cluster,
        quantile,
        arrivals=arrivals,
        delays=delays,
        seed=seed,
        workflows=workflows,
        policies=policy or [],
        predictor=predictor,
        search=search,
        as_json=json,
        out=out,
    )


@app.command("policies")
def policies_command(
    name: Annotated[str | None, typer.Argument(help="Show one policy and explain its options.", metavar="NAME")] = None,
) -> None:
    """List the policies and their options.

    Example:

    hexopt policies hexagent
    """
    from hexopt.cli.look import show_policies

    show_policies(name)


@app.command("plot")
def plot_command(
    folder: Annotated[Path, typer.Argument(help="Folder that run or simulate --out wrote.", metavar="DIR")],
    format: Annotated[
        list[str] | None, typer.Option(help="png or svg; may be repeated; both if absent.", metavar="FORMAT")
    ] = None,
) -> None:
    """Draw the figures of a result folder into its folder figures/.

    Example:

    hexopt plot results/one
    """
    from hexopt.cli.plot import plot_folder

    plot_folder(folder, format or ["png", "svg"])


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder that run or simulate --out wrote.", metavar="DIR")],
    out: Annotated[
        Path | None, typer.Option(parser=optimise.folder, help="Folder of the report; else DIR itself.", metavar="DIR")
    ] = None,
    format: Annotated[
        list[str] | None, typer.Option(help="png or svg; may be repeated; both if absent.", metavar="FORMAT")
    ] = None,
) -> None:
    """Write report.html and report.md of a result folder, with all figures.

    They say what was run and what came out, with intervals, and where the
    proposals lose. report.html is one file and needs no network.

    Example:

    hexopt report results/one
    """
    from hexopt.cli.report import report_folder

    report_folder(folder, out, format or ["png", "svg"])


@trace_app.command("info")
def trace_info_command(
    file: Annotated[Path, typer.Argument(help="Trace file (.jsonl or .jsonl.gz).", metavar="FILE")],
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave invalid workflows out.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is in a trace: sizes, shapes, applications, what is unknown.

    Example:

    hexopt trace info traces/samples/bfcl_multi_turn.jsonl
    """
    from hexopt.cli.look import show_trace

    show_trace(file, skip_invalid, json)


@trace_app.command("check")
def trace_check_command(
    file: Annotated[Path, typer.Argument(help="Trace file (.jsonl or .jsonl.gz).", metavar="FILE")],
) -> None:
    """Check a trace and list everything that is wrong with it; exit status 2 if anything is.

    Example:

    hexopt trace check traces/samples/bfcl_multi_turn.jsonl
    """
    from hexopt.cli.look import check_trace

    raise typer.Exit(check_trace(file))


@trace_app.command("generate")
def trace_generate_command(
    app: Annotated[str, typer.Argument(help="bfcl, claude-code, lats, sharegpt, swe-agent or mixed.", metavar="APP")],
    workflows: Annotated[int, typer.Option(help="How many workflows.", metavar="N", min=1)],
    out: Annotated[str, typer.Option(help="File to write (.jsonl or .jsonl.gz).", metavar="FILE")],
    seed: Annotated[int, typer.Option(help="Seed of all draws.", metavar="N", min=0)] = 0,
    parameters: Annotated[
        str, typer.Option(help="paper: published means; fitted: fitted on public logs.", metavar="SET")
    ] = "paper",
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="A parameter (traces/generators.md), such as user_gap=zero; may be repeated.", metavar="NAME=VALUE"
        ),
    ] = None,
) -> None:
    """Generate a trace: workflows of an application, drawn from stated distributions.

    Example:

    hexopt trace generate sharegpt --workflows 100 --seed 1 \\
      --parameters fitted --option user_gap=zero \\
      --out chats.jsonl.gz
    """
    from hexopt.cli.generate import generate_and_show

    generate_and_show(app, workflows, seed, parameters, option or [], out)


@cluster_app.command("list")
def cluster_list_command() -> None:
    """List the shipped clusters.

    Example:

    hexopt cluster list
    """
    from hexopt.cli.look import list_clusters

    list_clusters()


@cluster_app.command("show")
def cluster_show_command(
    name: Annotated[str, typer.Argument(help="Shipped cluster, or a cluster file.", metavar="NAME|FILE")],
) -> None:
    """Show a cluster's instances, with times that tell them apart.

    Example:

    hexopt cluster show hetero-1-llama
    """
    from hexopt.cli.look import show_cluster

    show_cluster(name)


@cluster_app.command("check")
def cluster_check_command(
    file: Annotated[Path, typer.Argument(help="Cluster file (TOML).", metavar="FILE")],
) -> None:
    """Check a cluster file; exit status 2 if it is not usable.

    Example:

    hexopt cluster check src/hexopt/clusters/shipped/tiny.toml
    """
    from hexopt.cli.look import check_cluster

    check_cluster(file)


optimise.register(app, _LOOK, _help_if_bare)
forecast.register(app, _LOOK, _help_if_bare)
