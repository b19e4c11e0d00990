"""Every block of code in the documents runs as it is there, or says why it cannot."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from s2connect.bridge import load
from tests.documents import picture
from tests.documents.blocks import (
    JSON,
    LANGUAGES,
    PYTHON,
    ROOT,
    SHELL,
    TOML,
    Block,
    blocks,
    documents,
    indented,
    of_language,
)
from tests.documents.output import lacking
from tests.documents.page import Page
from tests.netns import require_netns


def whole(block: Block) -> str:
    """Return the code of a block, after that of the blocks that it goes on with."""
    before = "".join(b.code for b in blocks(block.document) if b.line < block.line and b.language == PYTHON)
    return before + block.code if "continues" in block.marks else block.code


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_block_has_a_language_and_every_exception_a_reason(document: Path) -> None:
    for block in blocks(document):
        assert block.language in LANGUAGES, f"{block}: ```{block.language} is none of {sorted(LANGUAGES)}"
        for exception in block.marks.keys() & {"not run", "not output"}:
            assert len(block.marks[exception].split()) > 2, f"{block}: why?"
    assert not list(indented(document)), "fence it with ```, and say its language"


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_an_output_stands_below_a_command_that_runs_or_says_why_not(document: Path) -> None:
    above: Block | None = None
    for block in blocks(document):
        if block.is_output:
            assert above is not None, f"{block}: <!-- test: not output: REASON -->"
            assert above.language == SHELL, f"{block}: <!-- test: not output: REASON -->"
            assert above.runs, f"{block}: nothing compares it with {above}; say so, <!-- test: not output: REASON -->"
        above = block


@pytest.mark.parametrize("block", [b for b in of_language(PYTHON) if "excerpt" in b.marks], ids=str)
def test_an_excerpt_is_in_its_file(block: Block) -> None:
    lines = [line.strip() for line in (ROOT / block.marks["excerpt"]).read_text("utf-8").splitlines()]
    for line in filter(None, (line.partition("  # ")[0].strip() for line in block.code.splitlines())):
        assert any(each.startswith(line) for each in lines), line


RUN_HERE = [b for b in of_language(PYTHON) if b.runs and not {"excerpt", "file"} & b.marks.keys()]
"""The others are in a file of the repository, or are a program that a command of their page starts."""


@pytest.mark.parametrize("block", RUN_HERE, ids=str)
def test_a_block_of_python_runs(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("block")
    monkeypatch.setitem(sys.modules, "block", module)  # where dataclasses look for the names of annotations
    exec(compile(whole(block), str(block), "exec", dont_inherit=True), vars(module))


@pytest.mark.parametrize("block", [b for b in of_language(PYTHON) if not b.runs or "file" in b.marks], ids=str)
def test_a_block_of_python_that_does_not_run_here_is_python(block: Block) -> None:
    compile(block.code, str(block), "exec")


@pytest.mark.parametrize("block", [b for b in of_language(TOML) if b.runs], ids=str)
def test_a_block_of_toml_is_read(block: Block, tmp_path: Path) -> None:
    read = tomllib.loads(block.code)
    if "route" in read or "home" in read:
        file = tmp_path / "bridge.toml"
        whole = block.code if "home" in read else f'home = "bridge-home"\n{block.code}'
        file.write_text(whole)
        _, problems = load(file)
        assert not problems


@pytest.mark.parametrize("block", [b for b in of_language(JSON) if b.runs and "…" not in b.code], ids=str)
def test_a_block_of_json_is_read(block: Block) -> None:
    try:
        json.loads(block.code)
    except ValueError:
        for line in filter(None, block.code.splitlines()):
            json.loads(line)


def test_an_output_is_compared_line_by_line_without_what_differs_from_run_to_run() -> None:
    written = (
        "\x1b[1mReady\x1b[0m\r\n"
        "Pair at https://localhost:40123/pairing/ with the code 4KX7 9M2P QRST  (until 02:07:18)\r\n"
        "  connected since 2026-11-29 03:01, id 1da58c21\r\nup 12 s, 9/9/0/0/0\r\n"
    )
    shown = (
        "Pair at https://localhost:38117/pairing/ with the code RSFB 0C4J 3KGN  (until 12:00:00)\nup 3 s, 10/9/0/1/0\n"
    )
    assert lacking(shown, written) is None
    assert lacking("  connected …, id 00000000\n", written) is None
    assert lacking("Pair at https://localhost:8443/pairing/ with …\n", written)  # not the port of this run
    assert lacking("  connected since 2026-11-29 03:01\n", written)  # a whole line
    assert lacking("".join(reversed(shown.splitlines(keepends=True))), written)  # in their order
    assert lacking("ready\n", written)


PAGES = [page for page in documents() if any(b.language == SHELL and b.runs for b in blocks(page))]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
async def test_the_commands_of_a_page_run_in_their_order(document: Path, tmp_path: Path) -> None:
    require_netns()
    page = Page(tmp_path)
    try:
        for block in blocks(document):
            if block.is_performed:
                await asyncio.to_thread(page.perform, block)
        if document == picture.PAGE:
            shown = picture.lines_of(picture.PICTURE.read_text("utf-8"))
            assert "First message" in shown
            assert lacking(shown, page.written) is None, "draw it anew: python -m tests.documents.picture"
    finally:
        await asyncio.to_thread(page.end)
