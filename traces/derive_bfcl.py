"""Derive ``samples/bfcl_multi_turn.jsonl`` from the PyPI package ``bfcl-eval``; the datasheet explains every choice.

It needs three packages that hexopt itself does not; in an environment that has hexopt::

    pip download --no-deps bfcl-eval==2026.3.23 -d wheels
    pip install bpe-openai==0.1.4 mpmath==1.3.0
    python traces/derive_bfcl.py wheels/bfcl_eval-2026.3.23-py3-none-any.whl traces/samples/bfcl_multi_turn.jsonl

The wheel is read as it is (its many dependencies are not needed) and refused if its checksum differs, because
its tool back ends are executed here. The same wheel and tokenizer give the same bytes.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import math
import os
import random
import statistics
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

WHEEL_SHA256 = "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"
SOURCE = "PyPI bfcl-eval 2026.3.23, multi-turn ground truth"
TOKENIZER = "cl100k_base (PyPI bpe-openai 0.1.4)"
CATEGORIES = ("base", "miss_func", "miss_param", "long_context")
TASKS = 200

SEED = 0
ARRIVALS = "poisson:10"
DELAYS = "start=zero;tool=fixed:0.01;user=zero"
CLOSING_MEDIAN, CLOSING_SIGMA, CLOSING_MAX = 32, 0.95, 400

# ChatML: <|im_start|> role newline ... <|im_end|> newline, each one token.
MESSAGE_HEAD, MESSAGE_END, NEWLINE = 3, 1, 1


@dataclass
class Step:
    """One LLM call of a conversation: what it adds to the context before it, and what it answers."""

    new_tokens: int
    output_tokens: int
    kind: str
    closing: bool


class Bfcl:
    """The parts of the package that are needed, read from the wheel."""

    def __init__(self, wheel: str) -> None:
        """Check the wheel and import its light modules."""
        with open(wheel, "rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
        if found != WHEEL_SHA256:
            sys.exit(f"{wheel}: sha256 {found} found, {WHEEL_SHA256} expected, download bfcl-eval==2026.3.23")
        sys.path.insert(0, wheel)
        self._zip = zipfile.ZipFile(wheel)
        self.prompts: Any = importlib.import_module("bfcl_eval.constants.default_prompts")
        self.backend: Any = importlib.import_module("bfcl_eval.constants.executable_backend_config")
        self.utils: Any = importlib.import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils")

    def rows(self, path: str) -> list[dict[str, Any]]:
        """Return the JSON lines of a file of the package."""
        return [json.loads(line) for line in self._zip.read(f"bfcl_eval/data/{path}").decode().splitlines() if line]

    def functions(self, classes: list[str]) -> list[dict[str, Any]]:
        """Return the documentation of all functions of some tool classes."""
        files = self.backend.MULTI_TURN_FUNC_DOC_FILE_MAPPING
        return [doc for name in classes for doc in self.rows(f"multi_turn_func_doc/{files[name]}")]

    def system_prompt(self, functions: list[dict[str, Any]]) -> str:
        """Return the package's default system prompt; its ``formulate_system_prompt`` needs all its dependencies."""
        style = self.prompts.PROMPT_STYLE_TEMPLATES["classic"]
        return str(
            self.prompts.PROMPT_TEMPLATE_MAPPING["plaintext"].format(
                persona=style["persona"],
                task=style["task"],
                tool_call_format=style["tool_call_no_tag"].format(
                    output_format=self.prompts.OUTPUT_FORMAT_MAPPING["python"],
                    param_types=self.prompts.PARAM_TYPE_MAPPING["python"],
                ),
                multiturn_behavior=style["multiturn_behavior"],
                available_tools=style["available_tools"].format(
                    format="json", functions=json.dumps(functions, indent=4)
                ),
            )
        )

    def execute(self, task: dict[str, Any], call: str) -> str:
        """Run one ground-truth call in the task's tool back ends, which keep their state, and return its result."""
        results, _ = self.utils.execute_multi_turn_func_call(
            [call],
            task["initial_config"],
            task["involved_classes"],
            "derive",
            task["id"],
            long_context="long_context" in task["id"],
        )
        return str(results[0])


def steps(
    bfcl: Bfcl, task: dict[str, Any], truth: list[list[str]], count: Any, closing: random.Random
) -> Iterator[Step]:
    """Yield the LLM calls of one task in the package's prompting protocol, the model being the ground truth."""
    functions = bfcl.functions(task["involved_classes"])
    held_out: dict[str, list[dict[str, Any]]] = {}
    for turn, names in task.get("missed_function", {}).items():
        held_out[turn] = [doc for doc in functions if doc["name"] in names]
        functions = [doc for doc in functions if doc["name"] not in names]

    def message(text: str) -> int:
        return MESSAGE_HEAD + int(count(text)) + MESSAGE_END + NEWLINE

    new = message(bfcl.system_prompt(functions))
    kind = "start"
    for turn, (messages, calls) in enumerate(zip(task["question"], truth, strict=True)):
        if str(turn) in held_out:
            template = bfcl.prompts.DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_PROMPTING
            messages = [{"content": template.format(functions=held_out[str(turn)])}]
        new += sum(message(item["content"]) for item in messages)
        for call in calls:
            yield Step(new + MESSAGE_HEAD, count(f"[{call}]") + MESSAGE_END, kind, closing=False)
            # The package hands results back in a user message, as the text of a Python list.
            result = bfcl.execute(task, call)
            new = NEWLINE + message(repr([{"role": "tool", "name": call, "content": result}]))
            kind = "tool"
        # A turn ends with an answer without a call. The package records none, so that its length is drawn.
        length = CLOSING_MEDIAN * math.exp(CLOSING_SIGMA * statistics.NormalDist().inv_cdf(closing.random()))
        yield Step(new + MESSAGE_HEAD, max(2, min(CLOSING_MAX, round(length))), kind, closing=True)
        new = NEWLINE
        kind = "user"


def derive(wheel: str, target: str) -> None:
    """Write the sample trace."""
    import bpe_openai

    from hexopt.core.workflow import Call, Trace, Workflow
    from hexopt.traces import apply_arrivals, apply_delays, write_trace

    encoding = bpe_openai.get_encoding("cl100k_base")

    def count(text: str) -> int:
        return len(encoding.encode(text))

    bfcl = Bfcl(wheel)
    tasks = {c: {row["id"]: row for row in bfcl.rows(f"BFCL_v4_multi_turn_{c}.json")} for c in CATEGORIES}
    truths = {
        c: {row["id"]: row["ground_truth"] for row in bfcl.rows(f"possible_answer/BFCL_v4_multi_turn_{c}.json")}
        for c in CATEGORIES
    }
    closing = random.Random(SEED)
    workflows = []
    for number in range(TASKS):
        # The four categories are variants of the same 200 tasks: every task once, the categories in turn.
        category = CATEGORIES[number % len(CATEGORIES)]
        name = f"multi_turn_{category}_{number}"
        calls: list[Call] = []
        context = 0
        for step in steps(bfcl, copy.deepcopy(tasks[category][name]), truths[category][name], count, closing):
            prompt = context + step.new_tokens
            calls.append(
                Call(
                    call_id=f"c{len(calls)}",
                    parents=(len(calls) - 1,) if calls else (),
                    prompt_tokens=prompt,
                    output_tokens=step.output_tokens,
                    tool_us=None,
                    cached_prefix_tokens=calls[-1].prompt_tokens if calls else 0,
                    delay_kind=step.kind,
                    extra={"closing": True} if step.closing else {},
                )
            )
            context = prompt + step.output_tokens
        extra = {
            "category": category,
            "tokenizer": TOKENIZER,
            "synthetic": f"arrival_s {ARRIVALS} seed {SEED}; tool_delay_s {DELAYS}; output_tokens of closing calls",
        }
        workflows.append(Workflow(f"bfcl-{name}", "bfcl", None, tuple(calls), SOURCE, "Apache-2.0", extra))
    trace = apply_delays(apply_arrivals(Trace(tuple(workflows)), ARRIVALS, SEED), DELAYS, SEED)
    write_trace(trace, target)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    if os.environ.get("PYTHONHASHSEED") != "0" or os.environ.get("TZ") != "UTC":
        # Some tool results list a set or a local time.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0", "TZ": "UTC"})
    time.tzset()
    derive(sys.argv[1], sys.argv[2])
