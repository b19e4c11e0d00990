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
        assert block.runs or len(block.marks["not run"].split()) > 2, f"{block}: why?"
    assert not list(indented(document)), "fence it with ```, and say its language"


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


PAGES = [page for page in documents() if any(b.language == SHELL and b.runs for b in blocks(page))]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
async def test_the_commands_of_a_page_run_in_their_order(document: Path, tmp_path: Path) -> None:
    require_netns()
    page = Page(tmp_path)
    try:
        for block in blocks(document):
            if block.runs and (block.language == SHELL or "file" in block.marks):
                await asyncio.to_thread(page.perform, block)
    finally:
        await asyncio.to_thread(page.end)
