"""Blocks of code in documents, with what their marks say about running them.

A mark is a comment in the line above a block, ``<!-- test: MARK; MARK -->``:

- ``not run: REASON``: nothing here can run it; a reader may, so the reason is said.
- ``not output: REASON``: a block of text that shows no output of the command above it; all others are compared with it.
- ``output``: a block in another language that is compared with the output of the command above it, too.
- ``again``: the last command is repeated until it writes this text.
- ``until TEXT``: the last command keeps running; it, or another one, then writes TEXT. It is ended with the page.
- ``code typed``: the code that was shown last is typed into the last command.
- ``instead``: the command that was started last is ended before.
- ``exit N``: the last command ends with this code.
- ``continues``: a block of Python goes on with the names of those before it.
- ``excerpt FILE``: the block is in this file, line by line.
- ``file NAME``: the commands after it find the block under this name.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SHELL, PYTHON, TOML, JSON, TEXT = "sh", "python", "toml", "json", "text"
LANGUAGES = {SHELL, PYTHON, TOML, JSON, TEXT, "yaml", "ini", "js", "go", "asciidoc"}

_FENCE = re.compile(
    r"^(?P<indent> *)(?:<!-- test: (?P<marks>[^\n]*?) -->\n+ *)?```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code of a document."""

    document: Path
    line: int
    language: str
    code: str
    marks: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def runs(self) -> bool:
        return "not run" not in self.marks

    @property
    def is_output(self) -> bool:
        return "output" in self.marks or (self.language == TEXT and not {"not output", "file"} & self.marks.keys())

    @property
    def is_performed(self) -> bool:
        """Return True if a :class:`~tests.documents.page.Page` writes, runs or compares it."""
        return self.is_output or "file" in self.marks or (self.language == SHELL and self.runs)


def documents() -> list[Path]:
    """Return the documents whose blocks run: all that the site has."""
    return [*sorted(ROOT.glob("*.md")), ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(document: Path) -> Iterator[Block]:
    """Return the fenced blocks of a document, in their order."""
    text = document.read_text("utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        yield Block(document, line, found["language"], textwrap.dedent(found["code"]), _marks(found["marks"] or ""))


def of_language(*languages: str) -> list[Block]:
    """Return all blocks of these languages."""
    return [block for document in documents() for block in blocks(document) if block.language in languages]


def _marks(text: str) -> dict[str, str]:
    for name in ("not run", "not output"):
        if text.startswith(f"{name}: "):
            return {name: text.removeprefix(f"{name}: ")}
    marks = {}
    for mark in filter(None, (part.strip() for part in text.split(";"))):
        for name in ("until", "code typed", "instead", "continues", "exit", "excerpt", "file", "again", "output"):
            if mark == name or mark.startswith(f"{name} "):
                marks[name] = mark.removeprefix(name).strip()
                break
        else:
            raise AssertionError(f"no mark: {mark}")
    return marks


def indented(document: Path) -> Iterator[tuple[int, str]]:
    """Return the beginnings of blocks that are indented and not fenced, which no test would see."""
    fenced, before = False, ""
    in_list = False
    for number, line in enumerate(document.read_text("utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and line.strip():
            if not line.startswith(" "):
                in_list = bool(re.match(r"([-*]|\d+\.) |!!! |\?\?\? |=== |<", line))
            elif line.startswith("    ") and not in_list and not before.startswith("    "):
                yield number, line.strip()
            before = line
