"""Tree search like LATS (Language Agent Tree Search) on HotpotQA: parallel samples, evaluations, reflections.

An iteration goes down from the root to a leaf of the tree and expands it: ``samples`` parallel calls with one prompt,
each followed by a step of the environment; then as many parallel evaluations as samples differ, each of which waits for
all samples. A child is expanded in turn, down to depth ``rollout_depth`` or an answer (``finish``). The iteration
solves the task with the workflow's own success probability; if it does not, a reflection on the trajectory follows, up
to ``max_reflections``, and stands in all later prompts. Children are chosen uniformly where the search would follow its
scores: no length depends on which it is.

A prompt is its template, the reflections so far, the question, and the path from the root to the node. Its
``cached_prefix_tokens`` are what it shares with its tree parent's prompt, or, where a reflection has come between, with
the latest prompt of its template. Both belong to earlier steps, which are complete then. Samples of one step have one
prompt, but run at the same time, so they count nothing of each other.

``fitted``: lengths of LATS's own prompts on HotpotQA; ``finish`` gives about 107 calls a workflow. ``paper``: the
published means (Autellix, arXiv 2502.13965): 159.7 calls a workflow, 467 prompt and 73 output tokens a call. *Calls*:
the success probability is lowered until the mean is met. *Output*: samples and evaluations of the fit times 1.5.
*Prompt*: such outputs alone make up most of 467 tokens, so observations and reflections are short, and the templates,
in the proportions of the fit, are what is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hexopt.core.workflow import Call
from hexopt.traces.generators.draws import Beta, Dist, Lognormal, Rng, Uniform, delay_us, tokens


@dataclass(frozen=True)
class Parameters:
    """What the generator draws from; tokens, and seconds for delays."""

    samples: int
    evaluations: Dist
    rollout_depth: int
    max_depth: int
    max_iterations: int
    max_reflections: int
    success: Dist
    finish: float
    sample_template: int
    value_template: int
    reflect_template: int
    question: Dist
    sample_output: Dist
    observation: Dist
    max_observation: int
    value_output: Dist
    reflect_output: Dist
    tool_delay: Dist


FITTED = Parameters(
    samples=5,
    evaluations=Uniform(2, 5),
    rollout_depth=4,
    max_depth=7,
    max_iterations=30,
    max_reflections=3,
    success=Beta(1.2, 3),
    finish=0.05,
    sample_template=1522,  # with a question of 24 tokens 1,546, 1,932 and 2,772
    value_template=1908,
    reflect_template=2748,
    question=Lognormal(24, 0.4),
    sample_output=Lognormal(42, 0.237),  # 95th percentile 62
    observation=Lognormal(70, 1.23),  # 95th percentile 529
    max_observation=1000,
    value_output=Lognormal(55, 0.3),  # 95th percentile 90
    reflect_output=Lognormal(90, 0.3),
    tool_delay=Lognormal(0.6, 0.5),
)
PAPER = Parameters(
    samples=5,
    evaluations=Uniform(2, 5),
    rollout_depth=4,
    max_depth=7,
    max_iterations=30,
    max_reflections=3,
    success=Beta(1.2, 7.12),
    finish=0.05,
    sample_template=134,
    value_template=168,
    reflect_template=241,
    question=Lognormal(24, 0.4),
    sample_output=Lognormal(63, 0.237),
    observation=Lognormal(7, 1.23),
    max_observation=100,
    value_output=Lognormal(82.5, 0.3),
    reflect_output=Lognormal(30, 0.3),
    tool_delay=Lognormal(0.6, 0.5),
)
SETS = {"fitted": FITTED, "paper": PAPER}


@dataclass(slots=True, eq=False)
class _Node:
    """A state of the search. ``path_tokens`` are the thoughts, actions and observations from the root to it."""

    depth: int
    path_tokens: int
    parent: _Node | None = None
    round: int = -1
    """Number of reflections in this node's sample prompt; -1: none was made."""
    value_round: int = -1
    """The same of its value prompt."""
    is_open: bool = True
    """Whether it, or a node below it, can still be expanded."""
    children: list[_Node] = field(default_factory=list)

    def close(self) -> None:
        """Close this node, and those above of which nothing is left."""
        node: _Node | None = self
        while node and not any(child.is_open for child in node.children):
            node.is_open = False
            node = node.parent


@dataclass(slots=True)
class _Template:
    """One of the three prompts, and what is known of its prefixes."""

    tokens: int
    round: int = -1
    """Number of reflections in its latest prompt; -1: there was none."""

    def prompt(self, reflections: list[int], question: int, path: int) -> int:
        return self.tokens + sum(reflections) + question + path

    def cached(self, reflections: list[int], question: int, path: int | None) -> int:
        """Return the tokens shared with prompts of earlier steps; ``path``: of a tree parent with this prefix."""
        if path is not None:
            return self.prompt(reflections, question, path)
        if self.round < 0:
            return 0
        return self.tokens + sum(reflections[: self.round]) + (question if self.round == len(reflections) else 0)


class _Search:
    """One workflow while it is built."""

    def __init__(self, p: Parameters, rng: Rng, delays: Rng) -> None:
        self.p, self.rng, self.delays = p, rng, delays
        self.calls: list[Call] = []
        self.question = tokens(p.question, rng)
        self.reflections: list[int] = []
        self.root = _Node(0, 0)
        self.before: tuple[int, ...] = ()
        self.sample = _Template(p.sample_template)
        self.value = _Template(p.value_template)
        self.reflect = _Template(p.reflect_template)

    def add(self, name: str, prompt: int, output: int, tool_us: int, cached: int, kind: str) -> int:
        """Append a call that waits for the step before it."""
        self.calls.append(Call(f"{name}{len(self.calls)}", self.before, prompt, output, tool_us, cached, kind))
        return len(self.calls) - 1

    def expand(self, node: _Node) -> None:
        """Sample, act, evaluate: one step of the search, which gives the node its children."""
        p, rng, now = self.p, self.rng, len(self.reflections)
        prompt = self.sample.prompt(self.reflections, self.question, node.path_tokens)
        known = node.parent.path_tokens if node.parent and node.parent.round == now else None
        cached = self.sample.cached(self.reflections, self.question, known)
        kind = "none" if self.calls else "start"
        outputs = [tokens(p.sample_output, rng) for _ in range(p.samples)]
        self.before = tuple([self.add("s", prompt, output, 0, cached, kind) for output in outputs])
        self.sample.round = node.round = now
        known = node.path_tokens if node.value_round == now else None
        cached = self.value.cached(self.reflections, self.question, known)
        values = []
        # A child for each sample that differs from the others.
        for output in outputs[: tokens(p.evaluations, rng, 1, p.samples)]:
            observation = tokens(p.observation, rng, 0, p.max_observation)
            child = _Node(node.depth + 1, node.path_tokens + output + observation, node, value_round=now)
            prompt = self.value.prompt(self.reflections, self.question, child.path_tokens)
            delay = delay_us(p.tool_delay, self.delays)
            values.append(self.add("v", prompt, tokens(p.value_output, rng), delay, cached, "tool"))
            node.children.append(child)
        self.value.round = now
        self.before = tuple(values)
        for child in node.children:
            # An answer cannot be expanded, nor can a node at the bottom.
            if float(rng.random()) < p.finish or child.depth >= p.max_depth:
                child.close()

    def iterate(self) -> _Node:
        """Expand a leaf and roll out from it; return where the trajectory ends."""
        node = self.root
        while node.children:
            node = self.pick([child for child in node.children if child.is_open])
        while True:
            self.expand(node)
            node = self.pick(node.children)
            if node.depth >= self.p.rollout_depth or not node.is_open:
                return node

    def pick(self, nodes: list[_Node]) -> _Node:
        """Return one of the nodes, each as likely."""
        return nodes[int(self.rng.integers(len(nodes)))]

    def learn(self, end: _Node) -> None:
        """Reflect on the trajectory that failed."""
        prompt = self.reflect.prompt(self.reflections, self.question, end.path_tokens)
        cached = self.reflect.cached(self.reflections, self.question, None)
        output = tokens(self.p.reflect_output, self.rng)
        self.before = (self.add("r", prompt, output, 0, cached, "none"),)
        self.reflect.round = len(self.reflections)
        self.reflections.append(output)


def build(p: Parameters, rng: Rng, delays: Rng) -> tuple[Call, ...]:
    """Return the calls of one search."""
    search = _Search(p, rng, delays)
    success = p.success.draw(rng)
    for _ in range(p.max_iterations):
        end = search.iterate()
        if float(rng.random()) < success or not search.root.is_open:
            break
        if len(search.reflections) < p.max_reflections:
            search.learn(end)
    return tuple(search.calls)
