"""Every command's --help has an example, and the examples work."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from hexopt.cli import run

ROOT = Path(__file__).parents[2]
COMMANDS = [
    [],
    ["simulate"],
    ["bound"],
    ["plot"],
    ["report"],
    ["policies"],
    ["trace"],
    ["trace", "info"],
    ["trace", "check"],
    ["trace", "generate"],
    ["cluster"],
    ["cluster", "list"],
    ["cluster", "show"],
    ["cluster", "check"],
    ["run"],
    ["window"],
    ["window", "show"],
    ["window", "check"],
    ["window", "cut"],
    ["window", "list"],
    ["window", "formulations"],
    ["window", "add"],
    ["window", "submit"],
    ["window", "verify"],
    ["solve"],
    ["forecast"],
    ["forecast", "evaluate"],
]


def example(text: str) -> list[str]:
    """Return the arguments of the command that stands under ``Example:`` in a help text."""
    lines = [line.strip() for line in text.split("Example:", 1)[1].splitlines()]
    command = ""
    for line in lines:
        if command or line.startswith("hexopt "):
            command += " " + line.removesuffix("\\")
            if not line.endswith("\\"):
                break
    return shlex.split(command)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a checkout from inside, where results may be written."""
    for name in ("traces", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "experiments").mkdir()
    shutil.copytree(ROOT / "formulations", tmp_path / "formulations")
    whole = (ROOT / "experiments" / "quickstart.toml").read_text()
    # The experiment itself is run by `make run`; here a few of its workflows show that the command works.
    cut = re.sub(r"^seeds = .*$", "seeds = 1\nworkflows = 4", whole, flags=re.MULTILINE)
    (tmp_path / "experiments" / "quickstart.toml").write_text(cut)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_examples_work(checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in COMMANDS:
        assert run([*command, "--help"]) == 0
        shown = capsys.readouterr().out
        program, *args = example(shown)
        assert program == "hexopt"
        assert args[: len(command)] == command
        assert run(args) == 0, capsys.readouterr().err
        assert capsys.readouterr().out


def test_the_list_of_commands_is_complete() -> None:
    from hexopt.cli.app import app

    known = {" ".join(command) for command in COMMANDS}
    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    for prefix, group in groups:
        assert group is not None
        for command in group.registered_commands:
            assert f"{prefix}{command.name}" in known
