"""The example of docs/embedding.md, executed as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"

TAIL = """
import json, sys
print(json.dumps({"sent": sent, "modules": sorted(sys.modules)}))
"""


def test_the_page_runs_and_carries_no_simulator() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", code + TAIL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    ((call, prefill, decode, priority),) = told["sent"]
    # On the idle cluster the first call goes to the fastest pair, which the first H200 of each role belongs to.
    assert call == 0
    assert "h200" in prefill
    assert "h200" in decode
    assert priority == 5_000.0
    heavy = {"hexopt.sim", "hexopt.traces", "hexopt.api", "pandas", "matplotlib", "typer", "rich", "joblib"}
    assert sorted(heavy & set(told["modules"])) == []
