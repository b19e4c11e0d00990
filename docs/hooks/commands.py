"""Page of every command with its options, made from the command itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

_OPTION = re.compile(r"(?P<name>(?:-[\w-]+(?:, ?| / )?)+)(?: (?P<value>.*))?")
"""An option as its help has it: names, and the kind of its value."""

_KINDS = {
    "str": "text", "text": "text", "bool": "", "int": "number", "int range": "number", "integer range": "number",
    "float": "number", "float range": "number", "path": "file",
}  # fmt: skip

HEAD = """# Every command and option

Made from the command itself: the same as `s2connect COMMAND --help`. [The command](../command.md) explains what they do
together, what they print, and the exit codes.
"""


def page() -> str:
    """Return the page."""
    from s2connect.cli.app import app

    group = typer.main.get_command(app)
    parts = [HEAD]
    for name, command, context in _commands(group, "s2connect", None):
        parts.append(_section(name, command, context))
    return "\n".join(parts)


def _commands(group: Any, name: str, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    context = group.context_class(group, info_name=name.rpartition(" ")[2], parent=parent)
    for each, command in group.commands.items():
        if command.hidden:
            continue
        if getattr(command, "commands", None):
            yield from _commands(command, f"{name} {each}", context)
        else:
            yield f"{name} {each}", command, command.context_class(command, info_name=each, parent=context)


def _section(name: str, command: Any, context: Any) -> str:
    usage = re.sub(r"\s+", " ", command.get_usage(context)).removeprefix("Usage: ")
    lines = [f"## {name}", "", *_text(command.help or ""), "", f"`{usage}`", ""]
    rows = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    lines += ["| option | value | meaning |", "| --- | --- | --- |"]
    lines += [
        f"| `{name}` | {value} | {_cell(meaning)} |" for option, meaning in rows for name, value in [_parts(option)]
    ]
    if command.epilog:
        lines += ["", *_text(command.epilog)]
    return "\n".join([*lines, ""])


def _parts(option: str) -> tuple[str, str]:
    """Return the name of an option, and its kind of value in words."""
    found = _OPTION.fullmatch(" ".join(option.split()))
    name, value = (found["name"], found["value"] or "") if found is not None else (option, "")
    kind = value.partition(" [")[0].strip("<>")
    return name.strip().replace("|", "\\|"), _KINDS.get(
        kind, ", ".join(f"`{each}`" for each in kind.split("|") if each)
    )


def _text(text: str) -> list[str]:
    """Return a help text as lines of Markdown, without what is for the terminal."""
    return text.partition("\f")[0].replace("\b\n", "").strip().splitlines()


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", str(text)).strip().replace("|", "\\|")
