"""``hexopt forecast``: how good are forecasts of what follows in a workflow?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import hexopt
from hexopt.cli.console import line, stdout
from hexopt.errors import OutputError


def register(app: typer.Typer, look: dict[str, Any], help_if_bare: Any) -> None:
    """Add the commands to the command line."""
    forecast_app = typer.Typer(**look)
    app.add_typer(forecast_app, name="forecast")
    forecast_app.command("evaluate")(evaluate_command)

    @forecast_app.callback()
    def forecast(ctx: typer.Context) -> None:
        """Look at forecasts of what follows in a workflow.

        Example:

        hexopt forecast evaluate \\
          --trace traces/samples/bfcl_multi_turn.jsonl --forecaster learned
        """
        help_if_bare(ctx)


def evaluate_command(
    trace: Annotated[Path, typer.Option(help="Trace file whose workflows are forecast.", metavar="FILE")],
    forecaster: Annotated[
        list[str],
        typer.Option(help="app-residual, learned, noisy:SIGMA, oracle, none; may be repeated.", metavar="NAME"),
    ],
    train: Annotated[
        Path | None,
        typer.Option(help="Trace to learn from; else learn from each workflow after its forecast.", metavar="FILE"),
    ] = None,
    cluster: Annotated[
        str, typer.Option(help="Whose times; a shipped cluster, or a cluster file.", metavar="NAME|FILE")
    ] = "hetero-1-llama",
    delays: Annotated[
        str | None, typer.Option(help="Rule for unknown tool delays, such as zero.", metavar="RULE")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of noisy and of delays.", metavar="N", min=0)] = 0,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave invalid workflows of the traces out.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Table as CSV.", metavar="FILE")] = None,
) -> None:
    """Forecast what follows each call of a trace; show error and calibration by application.

    Example:

    hexopt forecast evaluate \\
      --trace traces/samples/bfcl_multi_turn.jsonl --delays zero \\
      --forecaster app-residual --forecaster learned --out forecasts.csv
    """
    from hexopt.experiments.forecasts import evaluate_forecasters
    from hexopt.traces import apply_arrivals, apply_delays, require_known

    traces = []
    for path in (trace, train):
        read = None if path is None else hexopt.load_trace(path, skip_invalid=skip_invalid)
        if read is not None:
            read = read if delays is None else apply_delays(read, delays, seed)
            require_known(apply_arrivals(read, "fixed:1", seed))  # arrivals do not matter, delays do
        traces.append(read)
    tested, training = traces
    assert tested is not None
    frame = evaluate_forecasters(tested, hexopt.load_cluster(cluster), forecaster, training, seed)
    _print(frame)
    if out is not None:
        try:
            frame.to_csv(out, index=False, lineterminator="\n")
        except OSError as error:
            raise OutputError(
                f"{out}: {error.strerror}, the table needs a file that can be written, name another with --out"
            ) from None
        line(str(out))


def _print(frame: Any) -> None:
    from rich.table import Table

    table = Table("forecaster", "application", box=None, pad_edge=False)
    headings = {
        "calls": "calls", "truth_s": "truth s", "error_s": "error s", "bias_s": "bias s", "r2": "R²",
        "pinball": "pinball", "below_10": "≤10%", "below_50": "≤50%", "below_90": "≤90%", "known": "known",
    }  # fmt: skip
    for heading in headings.values():
        table.add_column(heading, justify="right")
    for row in frame.to_dict("records"):
        table.add_row(row["forecaster"], row["app"] or "(none)", *[_shown(row[key], key) for key in headings])
    stdout().print(table)
    line(
        "error: mean absolute error of the mean; ≤q: share of truths up to the q quantile; pinball: over the mean truth"
    )


def _shown(value: float, key: str) -> str:
    if key == "calls":
        return f"{value:,}"
    if key.startswith("below") or key == "known":
        return f"{100 * value:.0f}%"
    return "–" if value != value else f"{value:.3f}" if key in ("r2", "pinball") else f"{value:.2f}"
