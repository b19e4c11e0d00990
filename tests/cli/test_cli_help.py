"""Help texts, the version and shell completion: what a person reads before anything is set up."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from s2connect import __version__
from s2connect.cli import main
from s2connect.cli.app import app
from tests.command import run

ROOT: Any = typer.main.get_command(app)  # of click, which newer versions of typer bring along


def _commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from _commands(command, *path, name)


def _examples(command: Any) -> list[str]:
    """Return the command lines at the end of a help text."""
    return [line.removeprefix("- `").rstrip("`") for line in (command.epilog or "").splitlines() if "`" in line]


ALL = [((), ROOT), *_commands(ROOT)]


@pytest.mark.parametrize(
    ("path", "command"), ALL, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_help_text_ends_with_examples_that_the_command_accepts(path: tuple[str, ...], command: Any) -> None:
    lines = _examples(command)
    assert lines, "give it examples: with_options(…), or epilog of a group"
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "s2connect"
        assert tuple(words[: len(path)]) == path
        assert len(line) <= 75, "80 columns would break it in two"
        context, found = ROOT.make_context(program, list(words)), ROOT
        while hasattr(found, "commands") and (words or not found.invoke_without_command):
            name, found, words = found.resolve_command(context, words)
            context = found.make_context(name, list(words), parent=context)  # raises for what it does not know


def test_the_version_is_printed() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"s2connect {__version__}\n", "")


def test_the_shell_completes_commands_and_their_options() -> None:
    script = run("--show-completion", "bash", env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert script.returncode == 0
    assert "_S2CONNECT_COMPLETE=complete_bash" in script.stdout

    def completed(words: str) -> list[str]:
        """Return the words that bash would be offered after these, by a process as the completion script starts it."""
        program = "import sys; sys.argv[0] = 's2connect'; from s2connect.cli import main; main([])"
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=50,
            env={
                **os.environ,
                "_S2CONNECT_COMPLETE": "complete_bash",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split(" ")) - 1),
            },
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert "pairings" in completed("s2connect pair")
    assert "--static" in completed("s2connect code --s")
    assert "run" in completed("s2connect bridge ")


def test_rare_options_of_init_stand_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--help"]) == 0
    first, rare = capsys.readouterr().out.split("Rarely needed")
    assert "--role" in first
    assert "--bind" not in first
    assert "--bind" in rare
