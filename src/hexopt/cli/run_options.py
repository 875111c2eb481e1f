"""Options that commands share: what a run is made of, said once."""

from __future__ import annotations

from typing import Annotated

import typer

Predictor = Annotated[str, typer.Option(help="Output lengths as the policy sees them.", metavar="RULE")]
Seed = Annotated[int, typer.Option(help="Seed of every random stream.", metavar="N", min=0)]
Arrivals = Annotated[str | None, typer.Option(help="Arrival rule, such as poisson:40.", metavar="RULE")]
Delays = Annotated[str | None, typer.Option(help="Rule for unknown tool delays, such as zero.", metavar="RULE")]
Stop = Annotated[float | None, typer.Option(help="End the simulation after so many seconds.", metavar="SECONDS")]
EstimateError = Annotated[
    float, typer.Option(help="Error of the service times that policies are told, such as 0.3.", metavar="SHARE")
]
FirstWorkflows = Annotated[int | None, typer.Option(help="Only the first N workflows.", metavar="N", min=1)]
SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Leave invalid workflows of the trace out.")]
