"""Break the simulator's rules one by one and say which test notices. Not a test: run it by hand, it takes a while.

Each mutation is applied to a copy of the package, which the tests then import in place of the real one.
Usage: python tests/mutations.py [NUMBER ...]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

SUITES = {
    "oracle": ["tests/oracle/test_engine_matches_reference.py"],
    "invariants": ["tests/invariants"],
    "golden": ["tests/golden"],
    "unit": ["tests/sim", "tests/policies", "tests/latency", "tests/docs"],
}


class Mutation(NamedTuple):
    """A rule, and the text whose replacement breaks it."""

    rule: str
    file: str
    old: str
    new: str


MUTATIONS = [
    Mutation(
        "prefill KV is held until the transfer ends, not until the batch does (section 3)",
        "sim/engine.py",
        "            call.state = call.view.state = _ADMISSION\n",
        "            call.state = call.view.state = _ADMISSION\n"
        "            p.release(call)\n"
        "            call.prompt_blocks = 0\n",
    ),
    Mutation(
        "batch forming stops at the first prompt whose KV does not fit (section 3)",
        "sim/prefill.py",
        "if call.prompt_blocks > free or (batch",
        "if (batch",
    ),
    Mutation(
        "a batch's new tokens stay within max_batch_tokens (section 3)",
        "sim/prefill.py",
        "tokens + n > self.max_batch_tokens",
        "tokens > self.max_batch_tokens",
    ),
    Mutation(
        "admission reserves prompt and output (section 4)",
        "sim/engine.py",
        "kv_blocks = blocks(prompt + output)",
        "kv_blocks = blocks(prompt)",
    ),
    Mutation(
        "strict admission stops at the first call that does not fit (section 4)",
        "sim/queues.py",
        "if strict or not self.items",
        "if not self.items",
    ),
    Mutation(
        "a transfer occupies both ends (section 4)",
        "sim/network.py",
        "start = max(now_us, self._prefill_free[p], self._decode_free[d])",
        "start = max(now_us, self._prefill_free[p])",
    ),
    Mutation(
        "a call joins at the first boundary at or after its transfer's end (section 5)",
        "sim/decode.py",
        "self._context, span - 1) + 1",
        "self._context, span) + 1",
    ),
    Mutation(
        "a joining call brings its prompt and its first token (section 5)",
        "sim/decode.py",
        "self._context += call.prompt_tokens + 1",
        "self._context += call.prompt_tokens",
    ),
    Mutation(
        "at most max_batch calls run (section 5)",
        "sim/decode.py",
        "while self.joiners.items and self.batch < self.max_batch:",
        "while self.joiners.items:",
    ),
    Mutation(
        "an unchanged batch is not interrupted: boundaries count from the segment's start (section 5)",
        "latency/curves.py",
        "return math.ceil(1000 * (iterations * h_ms + b2_ms * inner))",
        "return iterations * math.ceil(1000 * h_ms) + math.ceil(1000 * b2_ms * inner)",
    ),
    Mutation(
        "ties in a queue go by ready time, then workflow, then call (section 6)",
        "sim/live.py",
        "(self.priority, self.ready_us, self.workflow.index, self.index, self)",
        "(self.priority, self.ready_us, -self.workflow.index, self.index, self)",
    ),
    Mutation(
        "one plan is in flight at most (section 6)",
        "sim/engine.py",
        "if self._triggers and self._in_flight is None:",
        "if self._triggers:",
    ),
    Mutation(
        "a landing decision is dropped once the prefill has started elsewhere (section 6)",
        "sim/engine.py",
        "if call is not None and not self._rules.overtaken(call, decision):",
        "if call is not None:",
    ),
    Mutation(
        "a call under dispatch binding is not re-bound after its prefill has started (section 4)",
        "sim/plans.py",
        "not (self._handoff and state <= CallState.ADMISSION)",
        "not (state <= CallState.ADMISSION)",
    ),
    Mutation(
        "a call waits for its last parent, not its first (section 2)",
        "sim/engine.py",
        "            waiting[child] -= 1\n            if waiting[child] == 0:",
        "            waiting[child] -= 1\n            if waiting[child] >= 0 and child not in workflow.views:",
    ),
    Mutation(
        "policies see predicted output lengths only (section 2)",
        "sim/engine.py",
        "predicted = self._predictor.predict(wi, ci)\n",
        "predicted = self._predictor.predict(wi, ci) * 0 + output\n",
    ),
    Mutation(
        "predictions are made after all completions of the instant (section 6)",
        "sim/predictors.py",
        "self._seen[truth.app] = (tokens + truth.calls[call].output_tokens, calls + 1)",
        "self._seen[truth.app] = (tokens + truth.calls[call].output_tokens, calls + 2)",
    ),
    Mutation(
        "earliest-finish counts tokens produced so far (section 7)",
        "policies/projection.py",
        "tokens.append(d.decoding_tokens + produced)",
        "tokens.append(d.decoding_tokens)",
    ),
]


def main(numbers: list[int]) -> int:
    """Apply the mutations with these numbers, from 1 (none: all of them), and print who notices."""
    missed = 0
    for number, mutation in enumerate(MUTATIONS, start=1):
        if numbers and number not in numbers:
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "src"
            shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            file = copy / "hexopt" / mutation.file
            text = file.read_text()
            if text.count(mutation.old) != 1:
                print(f"{number}. {mutation.rule}: its text occurs {text.count(mutation.old)} times, mend this script")
                return 2
            file.write_text(text.replace(mutation.old, mutation.new))
            print(f"{number}. {mutation.rule}", flush=True)
            noticed = 0
            for suite, paths in SUITES.items():
                who = _first_failure(copy, [p for p in paths if (ROOT / p).exists()])
                noticed += bool(who)
                print(f"   {suite:11} {who or '-'}", flush=True)
            missed += not noticed
    print(f"{missed} mutations went unnoticed")
    return 1 if missed else 0


def _first_failure(source: Path, paths: list[str]) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2", "-m", "not slow", "-p", "no:cacheprovider", *paths],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.M)
    return found.group(1) if found else ("" if run.returncode == 0 else f"pytest ended with {run.returncode}")


if __name__ == "__main__":
    sys.exit(main([int(a) for a in sys.argv[1:]]))
