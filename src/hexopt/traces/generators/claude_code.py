"""Coding sessions like Claude Code's: a long chain with user waits, and now and then sub-agents that the parent joins.

``fitted`` only: the paper evaluates no such trace. A prompt is its predecessor's and a drawn number of uncached
tokens, which include what is kept of the predecessor's output (reasoning is dropped, so that the output says little
about it). A context that would outgrow ``context_limit`` starts afresh with a new first prompt, of which the system
prompt is cached. The limit, the share of user waits (0.13), the first prompts of resumed sessions and of sub-agents
were added to the fit; they are medians and spreads of the same log.
"""

from __future__ import annotations

from dataclasses import dataclass

from hexopt.core.workflow import Call
from hexopt.traces.generators.chain import Chain
from hexopt.traces.generators.draws import Constant, Dist, Lognormal, Mixture, Rng, Skewed, Uniform, delay_us, tokens


@dataclass(frozen=True)
class Parameters:
    """What the generator draws from; tokens, and seconds for delays."""

    calls: Dist
    max_calls: int
    first_prompt: Dist
    resumed: float
    resumed_prompt: Dist
    system_tokens: int
    uncached: Dist
    output: Dist
    max_tokens: int
    context_limit: int
    user_share: float
    user_gap: Dist
    tool_delay: Dist
    subagents: float
    subagent_width: Dist
    subagent_calls: Dist
    subagent_prompt: Dist
    spawn_delay: Dist


FITTED = Parameters(
    calls=Lognormal(37, 1.16),
    max_calls=600,
    first_prompt=Skewed(19_300, 0.30, 0.47),  # 5th, 50th and 95th percentile: 11.8k, 19.3k, 42k
    resumed=0.39,
    resumed_prompt=Lognormal(129_000, 0.65),
    system_tokens=9_000,
    uncached=Lognormal(898, 1.22),
    output=Lognormal(263, 0.89),
    max_tokens=64_000,
    context_limit=200_000,
    user_share=0.13,
    user_gap=Lognormal(129, 1.73),
    tool_delay=Mixture((0.66, 0.34), (Lognormal(0.027, 1.0), Lognormal(8.65, 0.48))),
    subagents=0.026,
    subagent_width=Uniform(1, 3),
    subagent_calls=Lognormal(11, 0.42),  # 50th and 95th percentile: 11, 22
    subagent_prompt=Lognormal(10_700, 0.12),
    spawn_delay=Constant(0),
)
SETS = {"fitted": FITTED}

MAX_WIDTH = 64
"""No call starts more sub-agents than this."""


def build(p: Parameters, rng: Rng, delays: Rng) -> tuple[Call, ...]:
    """Return the calls of one session."""
    chain = Chain(prefix="m")
    count = tokens(p.calls, rng, 1, p.max_calls)
    resumed = float(rng.random()) < p.resumed
    spawns = float(rng.random()) < p.subagents and count > 1
    # Not after the last call: a sub-agent is joined.
    spawn_at = int(rng.integers(count - 1)) if spawns else -1
    joins: tuple[int, ...] = ()
    for step in range(count):
        user = float(rng.random()) < p.user_share and step > 0
        output = tokens(p.output, rng, 1, p.max_tokens)
        if step == 0:
            at = chain.add(_first(p, rng, resumed), output, 0, "start")
        else:
            gap = delay_us(p.user_gap if user else p.tool_delay, delays)
            new = tokens(p.uncached, rng, 1, p.max_tokens)
            kind = "user" if user else "tool"
            if chain.calls[chain.last or 0].prompt_tokens + new > p.context_limit:
                at = _start_afresh(p, rng, chain, output, gap, kind, joins)
            else:
                at = chain.add(new, output, gap, kind, joins=joins, keep_output=False)
        joins = _subagents(p, rng, delays, chain.calls, at) if step == spawn_at else ()
    return tuple(chain.calls)


def _first(p: Parameters, rng: Rng, resumed: bool) -> int:
    """Return the length of a first prompt, at least a token beyond the system prompt and within the limit."""
    low = min(p.system_tokens + 1, p.context_limit)
    return tokens(p.resumed_prompt if resumed else p.first_prompt, rng, low, p.context_limit)


def _start_afresh(
    p: Parameters, rng: Rng, chain: Chain, output: int, gap: int, kind: str, joins: tuple[int, ...]
) -> int:
    prompt = _first(p, rng, False)
    cached = min(p.system_tokens, prompt, chain.calls[chain.last or 0].prompt_tokens)
    chain.calls.append(Call(f"m{chain.count}", (chain.last or 0, *joins), prompt, output, gap, cached, kind))
    chain.last = len(chain.calls) - 1
    chain.count += 1
    return chain.last


def _subagents(p: Parameters, rng: Rng, delays: Rng, calls: list[Call], parent: int) -> tuple[int, ...]:
    """Append the sub-agents that a call starts and return the positions of their last calls."""
    ends = []
    for agent in range(tokens(p.subagent_width, rng, 1, MAX_WIDTH)):
        chain = Chain(calls, prefix=f"s{agent}.")
        for step in range(tokens(p.subagent_calls, rng, 1, p.max_calls)):
            output = tokens(p.output, rng, 1, p.max_tokens)
            if step == 0:
                prompt = tokens(p.subagent_prompt, rng, 1, p.context_limit)
                chain.add(prompt, output, delay_us(p.spawn_delay, delays), "spawn", parent=parent)
            else:
                room = p.context_limit - calls[-1].prompt_tokens
                new = tokens(p.uncached, rng, 0, max(0, min(room, p.max_tokens)))
                chain.add(new, output, delay_us(p.tool_delay, delays), "tool", keep_output=False)
        ends.append(len(calls) - 1)
    return tuple(ends)
