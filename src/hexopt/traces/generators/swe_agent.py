"""Software agents like SWE-agent: one long append-only chain of shell commands.

``fitted`` only: the paper evaluates no such trace.
"""

from __future__ import annotations

from dataclasses import dataclass

from hexopt.core.workflow import Call
from hexopt.traces.generators.chain import Chain
from hexopt.traces.generators.draws import Dist, Lognormal, Mixture, Rng, delay_us, tokens


@dataclass(frozen=True)
class Parameters:
    """What the generator draws from; tokens, and seconds for delays."""

    calls: Dist
    max_calls: int
    first_prompt: Dist
    new: Dist
    output: Dist
    max_tokens: int
    tool_delay: Dist


FITTED = Parameters(
    calls=Lognormal(46, 0.63),
    max_calls=250,
    first_prompt=Lognormal(1570, 0.32),
    new=Lognormal(128, 1.08),
    output=Lognormal(93, 0.90),
    max_tokens=8192,
    tool_delay=Mixture((0.61, 0.39), (Lognormal(0.057, 0.22), Lognormal(0.31, 1.25))),
)
SETS = {"fitted": FITTED}


def build(p: Parameters, rng: Rng, delays: Rng) -> tuple[Call, ...]:
    """Return the calls of one task."""
    chain = Chain()
    for step in range(tokens(p.calls, rng, 1, p.max_calls)):
        new = tokens(p.new if step else p.first_prompt, rng, 1, p.max_tokens)
        output = tokens(p.output, rng, 1, p.max_tokens)
        chain.add(new, output, delay_us(p.tool_delay, delays) if step else 0, "tool" if step else "start")
    return tuple(chain.calls)
