"""Tool-using conversations like BFCL's multi-turn tasks: a chain of turns, each of tool calls and a closing answer.

``fitted``: fitted on the ground truth of BFCL v4 (which never errs), plus a share of ``failing`` workflows in which
every turn takes many calls. ``prompt_scale`` is the size of the first prompt (function documents) against a compact
rendering: 1.7 stands for indented documents, 1 for the compact ones the fit was made on.

``paper``: the published means of BFCL-v3 (Autellix, arXiv 2502.13965): 10.75 calls a workflow, at most 70; 735 prompt
and 34 output tokens a call. *Calls*: lognormal with the published mean whose 99.9th percentile is the published
maximum. *Prompt*: the whole growing context; what it grows by was set to 12 new tokens in the median and the first
prompt then follows from the mean. *Output*: one lognormal, of the fitted spread of answers, scaled. *User gap*: none.
"""

from __future__ import annotations

from dataclasses import dataclass

from hexopt.core.workflow import Call
from hexopt.traces.generators.chain import Chain
from hexopt.traces.generators.draws import Constant, Dist, Lognormal, Mixture, Rng, Uniform, delay_us, tokens


@dataclass(frozen=True)
class Parameters:
    """What the generator draws from; tokens, and seconds for delays."""

    calls: Dist
    max_calls: int
    calls_per_turn: Dist
    failing: float
    failing_calls_per_turn: Dist
    first_prompt: Dist
    prompt_scale: float
    new: Dist
    tool_output: Dist
    closing_output: Dist
    max_tokens: int
    tool_delay: Dist
    user_gap: Dist


FITTED = Parameters(
    calls=Lognormal(9.5, 0.32),
    max_calls=120,
    calls_per_turn=Mixture(
        (0.27, 0.33, 0.25, 0.11, 0.03, 0.01),  # 5th, 50th and 95th percentile: 1, 2, 4
        tuple(Constant(k) for k in range(1, 7)),
    ),
    failing=0.1,
    failing_calls_per_turn=Uniform(7, 13),
    first_prompt=Lognormal(3300, 0.25),
    prompt_scale=1.7,
    new=Lognormal(41, 1.0),
    tool_output=Lognormal(24, 0.45),
    closing_output=Lognormal(32, 0.95),
    max_tokens=20_000,
    tool_delay=Constant(0.01),
    user_gap=Lognormal(126, 0.95),
)
PAPER = Parameters(
    calls=Lognormal(8.55, 0.68),
    max_calls=70,
    calls_per_turn=FITTED.calls_per_turn,
    failing=0.0,
    failing_calls_per_turn=FITTED.failing_calls_per_turn,
    first_prompt=Lognormal(299, 0.25),
    prompt_scale=1.0,
    new=Lognormal(12, 1.0),
    tool_output=Lognormal(21.7, 0.95),
    closing_output=Lognormal(21.7, 0.95),
    max_tokens=8192,
    tool_delay=Constant(0.01),
    user_gap=Constant(0),
)
SETS = {"fitted": FITTED, "paper": PAPER}


def build(p: Parameters, rng: Rng, delays: Rng) -> tuple[Call, ...]:
    """Return the calls of one conversation."""
    chain = Chain()
    for turn in _turns(p, rng):
        for position in range(turn):
            kind = "start" if not chain.calls else "tool" if position else "user"
            new = tokens(p.new, rng, 1, p.max_tokens)
            if kind == "start":
                new = max(1, round(p.prompt_scale * tokens(p.first_prompt, rng, 1, p.max_tokens)))
            output = tokens(p.closing_output if position == turn - 1 else p.tool_output, rng, 1, p.max_tokens)
            gap = 0 if kind == "start" else delay_us(p.user_gap if kind == "user" else p.tool_delay, delays)
            chain.add(new, output, gap, kind)
    return tuple(chain.calls)


def _turns(p: Parameters, rng: Rng) -> list[int]:
    """Return the number of calls of each turn, in all as many as the workflow has."""
    left = tokens(p.calls, rng, 1, p.max_calls)
    failing = float(rng.random()) < p.failing
    turns: list[int] = []
    while left:
        calls = min(left, tokens(p.calls_per_turn, rng))
        turns.append(calls)
        left -= calls
    if failing:
        turns = [tokens(p.failing_calls_per_turn, rng) for _ in turns]
        while len(turns) > 1 and sum(turns) > p.max_calls:
            turns.pop()
        turns[0] = min(turns[0], p.max_calls)
    return turns
