"""Words of the glossary: what it says is not used stands in no document and in no name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import s2connect

REPOSITORY = Path(__file__).resolve().parents[1]
CODE = [Path(s2connect.__file__).resolve().parent, *(REPOSITORY / name for name in ("tests", "benchmarks", "examples"))]
DOCUMENTS = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), REPOSITORY / "benchmarks" / "README.md"]
GLOSSARY = REPOSITORY / "docs" / "glossary.md"

IN_DOCUMENTS = re.compile(
    r"\b(judg(e[sd]?|ing|e?ments?)|desks?|keepers?|doors?|gates?|switchboards?|uplinks?|wish(es)?|talks?|talked"
    r"|hears? of)\b",
    re.IGNORECASE,
)
"""Those of the words that have no ordinary use in our documents ("once" and "found" have)."""

IN_NAMES = {
    "judge", "judged", "judges", "judgement", "desk", "book", "keeper", "owner", "door", "doors", "gate", "gates",
    "switchboard", "uplink", "terms", "wish", "wishes", "talk",
}  # fmt: skip

ORDINARY = {"owner"}  # of a file
"""Names that have such a word in its ordinary sense."""


def _prose(document: Path) -> Iterator[tuple[int, str]]:
    """Lines of a document without its code."""
    text = document.read_text("utf-8")
    text = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->|`[^`]*`", "", text)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    yield from enumerate(text.splitlines(), 1)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_documents_use_the_words_of_the_glossary(document: Path) -> None:
    if document == GLOSSARY:
        return
    used = [f"line {number}: {found[0]}" for number, line in _prose(document) for found in IN_DOCUMENTS.finditer(line)]
    assert not used, "docs/glossary.md has the word to use"


def _defined_names() -> Iterator[str]:
    for file in (file for root in CODE for file in root.rglob("*.py")):
        yield file.stem
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            match node:
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    yield node.name
                case ast.arg():
                    yield node.arg
                case ast.Name(ctx=ast.Store()):
                    yield node.id
                case ast.Attribute(ctx=ast.Store()):
                    yield node.attr


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_names_use_the_words_of_the_glossary() -> None:
    names = {name for name in _defined_names() if not name.startswith("test_")}  # those are sentences
    used = {name for name in names if _words(name) & IN_NAMES}
    odd = sorted(used - ORDINARY)
    assert not odd, f"docs/glossary.md has the word to use in place of those in {odd}"


def _docstrings(file: Path) -> Iterator[str]:
    """Strings that stand as a statement: of modules, classes and functions, and those below a name."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text


HEADLESS = re.compile(r"(What|Whether|Who|Where|Which|How|Why)\b")


def test_docstrings_say_what_a_thing_is_or_does() -> None:
    roots = [CODE[0], *(REPOSITORY / name for name in ("benchmarks", "examples"))]
    files = [file for root in roots for file in root.rglob("*.py")]
    odd = [
        f"{file.name}: {text.splitlines()[0]}" for file in files for text in _docstrings(file) if HEADLESS.match(text)
    ]
    assert not odd, "a first line is a noun ('Result of ...') or a verb ('Return ...'), and no clause without a head"


def test_the_glossary_explains_each_word_once() -> None:
    tables = GLOSSARY.read_text("utf-8").partition("## Words that are not used")[0]
    cells = [
        cell for cell in re.findall(r"^\| ([^|]+) \| [^|]+ \|$", tables, re.MULTILINE) if cell not in ("word", "---")
    ]
    explained = [word for cell in cells for word in cell.split(", ")]
    assert len(explained) == len(set(explained)) > 50
