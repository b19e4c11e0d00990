"""The code in docs/messages.md runs as it stands there, and what documents link to is there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s2connect import RefuseMessage
from s2connect.errors import S2ConnectError
from s2connect.messages.envelope import read_message
from s2connect.pairing.code import in_groups
from s2connect.service.failures import exit_code

DOCUMENT = Path(__file__).parents[1] / "docs" / "messages.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def test_the_code_about_messages_prints_what_it_says_and_the_rest_can_be_imported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed, validated, answered, plain = blocks()
    names: dict[str, Any] = {}
    exec(typed, names)
    written, refused = capsys.readouterr().out.splitlines()
    assert written.startswith("StorageStatus(")
    assert refused in typed
    assert read_message(names["text"]).type == "FRBC.StorageStatus"

    exec(validated, names)
    status, _, why = capsys.readouterr().out.strip().partition(" ")
    assert status == "INVALID_CONTENT"
    assert why.startswith("MSG-02")

    exec(answered, names)
    names["heater"] = SimpleNamespace(is_locked=True)
    instruction = read_message('{"message_type": "FRBC.Instruction", "message_id": "m-1"}')
    with pytest.raises(RefuseMessage) as refusal:
        names["answer"](None, instruction)
    assert refusal.value.status == "TEMPORARY_ERROR"

    exec(plain, names)


def leaves(of: type[S2ConnectError]) -> Iterator[type[S2ConnectError]]:
    """Iterate over the errors of the library that have no further kinds below them."""
    below = [one for one in of.__subclasses__() if one.__module__ == S2ConnectError.__module__]
    for one in below:
        yield from leaves(one)
    if not below:
        yield of


@pytest.mark.parametrize("error", list(leaves(S2ConnectError)), ids=lambda error: str(error.__name__))
def test_the_table_of_exit_codes_has_every_error(error: type[S2ConnectError]) -> None:
    table = (DOCUMENT.parent / "command.md").read_text("utf-8").partition("## Exit codes")[2].partition("## ")[0]
    (row,) = (line for line in table.splitlines() if line.startswith(f"| {exit_code(error):d} |"))
    assert f"`{error.kind}`" in row


def test_the_table_of_environment_variables_has_all_of_ours() -> None:
    root = DOCUMENT.parents[1]
    known = set()
    for file in (root / "s2connect").rglob("*.py"):
        known |= set(re.findall(r'"(S2CONNECT_[A-Z_]+)"', file.read_text("utf-8")))
    known.discard("S2CONNECT_SHARED_PORT")  # of `serve --workers` for its own processes
    page = (
        (DOCUMENT.parent / "command.md").read_text("utf-8").partition("## Environment variables")[2].partition("## ")[0]
    )
    assert known == set(re.findall(r"S2CONNECT_[A-Z_]+", page))


def on_the_site() -> set[str]:
    """Return the pages that mkdocs.yml names."""
    return set(
        re.findall(r"[\w./-]+\.md", (DOCUMENT.parents[1] / "mkdocs.yml").read_text("utf-8").partition("nav:")[2])
    )


def test_links_between_documents_lead_somewhere() -> None:
    root = DOCUMENT.parents[1]
    made = {root / "docs" / page for page in on_the_site() if page.startswith("reference/")}  # from the code
    for document in [*root.glob("*.md"), *(root / "docs").rglob("*.md"), root / "benchmarks" / "README.md"]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text("utf-8")):
            target = (document.parent / link).resolve()
            assert target.exists() or target in made, f"{document.relative_to(root)} links to {link}"


def test_every_document_has_its_place_on_the_site() -> None:
    root = DOCUMENT.parents[1]
    documents = {document.relative_to(root / "docs").as_posix() for document in (root / "docs").rglob("*.md")}
    assert documents <= on_the_site(), "add it to `nav` of mkdocs.yml"


def test_the_page_on_architecture_names_files_that_are_there() -> None:
    root = DOCUMENT.parents[1]
    for path in re.findall(r"`([\w/]+\.py)`", (DOCUMENT.parent / "architecture.md").read_text("utf-8")):
        places = [root, root / "s2connect"]
        assert "/" not in path or any((place / path).is_file() for place in places), path


def test_pairing_codes_in_the_documents_have_the_form_of_ours() -> None:
    root = DOCUMENT.parents[1]
    found = []
    for document in [root / "README.md", *(root / "docs").rglob("*.md")]:
        for block in re.findall(r"```text\n(.*?)```", document.read_text("utf-8"), re.DOTALL):
            found += re.findall(r"[Cc]ode\b[^\n]{0,40}? ((?=[A-Z]*[0-9])[0-9A-Z]{4}[0-9A-Z ]{7,}[0-9A-Z])\b", block)
    assert found
    odd = [code for code in found if in_groups(code.replace(" ", "")).count(" ") != 2]
    assert not odd


def test_the_badges_of_the_readme_say_what_the_package_says() -> None:
    root = DOCUMENT.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    versions = [kind.rpartition(" ")[2] for kind in project["classifiers"] if "Python :: 3." in kind]
    badges = {"licence": project["license"], "python": " | ".join(versions)}
    for name, text in badges.items():
        assert f">{text}</text>" in (root / "docs" / "images" / f"{name}.svg").read_text("utf-8")
        assert f"(docs/images/{name}.svg)" in (root / "README.md").read_text("utf-8")
