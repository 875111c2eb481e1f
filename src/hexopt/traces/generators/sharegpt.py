"""Chats like those of ShareGPT: a chain of user turns.

``fitted``: turns, lengths and gaps as fitted on a ShareGPT subset; the context grows with every turn.

``paper``: the published means of ShareGPT in HexAGenT's evaluation (arXiv 2605.16637; the figures are Autellix's,
arXiv 2502.13965): 6.66 calls a workflow, at most 80; 256 prompt and 277 output tokens a call. The spread is not
published. *Calls*: lognormal with the published mean whose 99.9th percentile is the published maximum. *Prompt*: a
mean of 256 is less than one mean output, so it cannot count the conversation before; each prompt is drawn on its own
(``context = false``), with the spread of fitted first prompts. *Output*: the fitted shape, scaled. *User gap*: none,
as the papers state none.
"""

from __future__ import annotations

from dataclasses import dataclass

from hexopt.core.workflow import Call
from hexopt.traces.generators.chain import Chain
from hexopt.traces.generators.draws import Constant, Dist, Gamma, Lognormal, Rng, delay_us, tokens


@dataclass(frozen=True)
class Parameters:
    """What the generator draws from; tokens, and seconds for delays."""

    calls: Dist
    max_calls: int
    first_prompt: Dist
    new: Dist
    output: Dist
    max_tokens: int
    user_gap: Dist
    context: bool


FITTED = Parameters(
    calls=Lognormal(2.55, 0.77),
    max_calls=30,
    first_prompt=Lognormal(39, 1.23),
    new=Lognormal(28, 0.82),
    output=Gamma(1.5, 178),
    max_tokens=4096,
    user_gap=Lognormal(126, 0.95),
    context=True,
)
PAPER = Parameters(
    calls=Lognormal(4.25, 0.95),
    max_calls=80,
    first_prompt=Lognormal(120.5, 1.23),
    new=Lognormal(120.5, 1.23),
    output=Gamma(1.5, 184.7),
    max_tokens=8192,
    user_gap=Constant(0),
    context=False,
)
SETS = {"fitted": FITTED, "paper": PAPER}


def build(p: Parameters, rng: Rng, delays: Rng) -> tuple[Call, ...]:
    """Return the calls of one chat."""
    chain = Chain()
    for turn in range(tokens(p.calls, rng, 1, p.max_calls)):
        new = tokens(p.new if turn else p.first_prompt, rng, 1, p.max_tokens)
        output = tokens(p.output, rng, 1, p.max_tokens)
        gap = delay_us(p.user_gap, delays) if turn else 0
        chain.add(new, output, gap, "user" if turn else "start", context=p.context)
    return tuple(chain.calls)
