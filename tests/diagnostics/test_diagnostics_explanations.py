"""Explanations: every code that people and programs meet has one, and an error leads to its own."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import s2connect
from s2connect import errors
from s2connect.cli import main
from s2connect.diagnostics.explanations import GROUPS, explain, explanations, more_about, similar
from s2connect.errors import S2ConnectError
from s2connect.model.pairing import PairingErrorReason, WaitForPairingError
from s2connect.model.session_init import SessionErrorReason
from s2connect.session import SessionEnd

PACKAGE = Path(s2connect.__file__).parent
OF_CALLS = {"Failure": 0, "notice": 0, "Warned": "reason"}
"""Calls that name a code: as which argument."""


def codes_in_the_source() -> Iterator[tuple[str, str]]:
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                where = OF_CALLS.get(name)
                named = [k.value for k in node.keywords if k.arg == where] if isinstance(where, str) else node.args[:1]
                for value in named if where is not None else []:
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        yield value.value, file.name


def test_every_code_is_explained() -> None:
    kinds = {vars(errors)[name].kind for name in errors.__all__}
    reasons = {str(each) for kind in (PairingErrorReason, WaitForPairingError, SessionErrorReason) for each in kind}
    ends = {str(end) for end in SessionEnd} - {"open"}
    for code in kinds | reasons | ends:
        assert explain(code) is not None, f"s2connect/diagnostics/explanations.py has to explain {code}"
    for code, file in codes_in_the_source():
        assert explain(code) is not None, f"s2connect/diagnostics/explanations.py has to explain {code} of {file}"


def test_each_code_is_explained_once_and_says_what_helps() -> None:
    codes = [each.code.lower() for each in explanations()]
    assert len(set(codes)) == len(codes)
    assert all(each.meaning.endswith(".") and all(cure[-1] in ".`?" for cure in each.cures) for each in explanations())
    assert all(group.about.endswith(".") for group in GROUPS)


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("not_reachable", "not_reachable"),
        ("Not-Reachable ", "not_reachable"),
        ("other", "Other"),
        ("frbc-03", "FRBC-03"),
    ],
)
def test_a_code_is_found_however_it_is_typed(typed: str, code: str) -> None:
    found = explain(typed)
    assert found is not None
    assert found.code == code


def test_a_mistyped_code_leads_to_those_that_are_like_it() -> None:
    assert "not_reachable" in similar("not_reachabel")
    assert similar("x" * 5000) == []


def test_an_error_leads_to_its_reason_or_its_kind_or_nowhere() -> None:
    assert more_about("pairing_refused", "NodeNotFound") == "NodeNotFound"
    assert more_about("pairing_refused", "no such reason") == "pairing_refused"
    assert more_about("usage") == ""
    assert more_about(S2ConnectError.kind) == ""


def test_the_command_explains_a_code_and_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "home_in_use"]) == 0
    assert capsys.readouterr().out.startswith("home_in_use: Another process works with this home")
    assert main(["explain", "home_in_use", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cures"]
    assert main(["explain"]) == 0
    assert "NodeNotFound" in capsys.readouterr().out
    assert main(["explain", "home_in_used"]) == 2
    assert "Did you mean home_in_use" in capsys.readouterr().err


def test_the_last_line_of_an_error_names_the_command_that_explains_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--home", str(tmp_path / "none")]) == 7
    assert capsys.readouterr().err.splitlines()[-1] == "More: s2connect explain not_initialised"
