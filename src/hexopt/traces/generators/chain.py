"""A growing context: what chains of calls have in common, whatever application they come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from hexopt.core.workflow import Call


@dataclass(slots=True)
class Chain:
    """Calls in a row, each of which gets the whole context before it and adds something.

    The prompt of a call is its predecessor's prompt, the predecessor's output (``keep_output``), and new tokens. Its
    ``cached_prefix_tokens`` are the predecessor's prompt: that is what a prefill instance has seen of it. (The output
    repeats as well, but its KV was made on the decode side.)
    """

    calls: list[Call] = field(default_factory=list)
    prefix: str = "c"
    last: int | None = None
    """Position of the predecessor in ``calls``; ``None``: the chain begins."""
    count: int = 0

    def add(
        self,
        new_tokens: int,
        output_tokens: int,
        tool_us: int,
        kind: str,
        *,
        joins: tuple[int, ...] = (),
        parent: int | None = None,
        keep_output: bool = True,
        context: bool = True,
    ) -> int:
        """Append a call and return its position.

        ``joins`` are further parents; ``parent`` is the call that starts a chain of its own, without its context.
        Without ``context`` the prompt is the new tokens alone.
        """
        parents = joins if parent is None else (parent,)
        prompt, cached = new_tokens, 0
        if self.last is not None:
            before = self.calls[self.last]
            parents = (self.last, *joins)
            if context:
                cached = before.prompt_tokens
                prompt += cached + (before.output_tokens if keep_output else 0)
        self.calls.append(Call(f"{self.prefix}{self.count}", parents, prompt, output_tokens, tool_us, cached, kind))
        self.last = len(self.calls) - 1
        self.count += 1
        return self.last
