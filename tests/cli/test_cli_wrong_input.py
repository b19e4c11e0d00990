"""Errors after wrong input say what happened, to what, and what helps, in words of a person."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from s2connect.cli import main

LIBRARY_WORDS = (
    "Input should", "Field required", "String should", "Extra inputs", "Value error", "Invalid JSON", "pydantic",
    "ValidationError", "_ssl.c", "Traceback", "Errno",
)  # fmt: skip
LOCAL = ["--host", "localhost", "--bind", "127.0.0.1", "--port", "0"]


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (["init", "--role", "rm", "--home", "NEW", "--name", ""], 2, ["name: is empty"]),
        (["init", "--role", "rm", "--home", "NEW", "--model", "x" * 300], 2, ["model: is too long"]),
        (["init", "--role", "rm", "--home", "NEW", "--certificate", "x"], 2, ["certificate and private_key belong"]),
        (
            ["init", "--role", "rm", "--home", "HOME"],
            2,
            ["is set up already", "config set --home", "NAME VALUE"],
        ),
        (["init", "--role", "house", "--home", "NEW"], 2, ["'house' is not one of"]),
        (["init", "--role", "rm", "--home", "NEW", "--bind", "no such"], 2, ["no address", "127.0.0.1"]),
        (["init", "--role", "rm", "--home", "NEW", "--bind", "203.0.113.1", "--port", "0"], 2, ["no address of this"]),
        (["setup", "--role", "rm", "--home", "NEW", "--trial", "--bind", "203.0.113.1"], 2, ["no address of this"]),
        (["backup"], 2, ["Missing argument 'FILE'", "s2connect backup --help"]),
        (["node", "alias"], 2, ["Missing argument 'NODE'", "s2connect node alias --help"]),
        (["registry", "serve"], 2, ["Missing argument 'FILE'"]),
        (["nods"], 2, ["See the help: s2connect --help"]),
        (["config", "set", "bind", "no such", "--home", "HOME"], 2, ["no address", "127.0.0.1"]),
        (["config", "set", "page.bind", "no such", "--home", "HOME"], 2, ["no address", "127.0.0.1"]),
        (["setup", "--home", "HOME", "--trial", "--name", ""], 2, ["name Battery and not none"]),
        (["simulate", "rm", "battery", "--name", "", *LOCAL], 2, ["is empty"]),
        (["simulate", "cem", "--name", "x" * 300, *LOCAL], 2, ["is too long"]),
        (["simulate", "cem", "--host", "a b"], 2, ["character that no URL has"]),
        (["pair", "http://ems.local", "ABCDEFGH", "--home", "HOME"], 2, ["never uses plain http"]),
        (["pair", "7K4M-9QRT-2XYZ", "--home", "HOME"], 2, ["looks like a pairing code", "URL is needed first"]),
        (["pair", "ems.local", "ems.local", "--home", "HOME"], 2, ["looks like a URL", "pairing code is needed"]),
        (["pair", "localhost:1", "!!", "--home", "HOME"], 2, ["not a pairing code"]),
        (
            ["pair", "localhost:1", "ABCDEFGH", "--home", "HOME"],
            3,
            ["localhost:1 cannot be reached"],
        ),
        (["unpair", "nobody", "--yes", "--home", "HOME"], 6, ["no pairing with nobody"]),
        (["status", "--home", "NEW"], 7, ["There is no state directory", "s2connect setup", "--home"]),
        (["status", "--home", "OTHERS"], 7, ["no state directory of s2connect", "--home"]),
        (["status", "--home", "FILE"], 7, ["is not a directory"]),
        (["config", "set", "trust-anchors", "FILE", "--home", "HOME"], 2, ["it holds no certificate"]),
        (["bridge", "check", "FILE"], 2, ["line 1: not TOML"]),
        (["bridge", "reload", "FILE"], 2, ["line 1: not TOML"]),
        (["serve", "--loop", "fast", "--home", "HOME"], 2, ["'fast' is not one of"]),
        (["serve", "--page-port", "80000"], 2, ["'--page-port': it has to be at most 65535"]),
        (["serve", "--page-port", "-1"], 2, ["'--page-port': it has to be at least 0"]),
        (["serve", "--page-port", "x"], 2, ["'--page-port': it has to be a whole number"]),
        (["serve", "--workers", "0"], 2, ["'--workers': it has to be at least 1"]),
        (["bridge", "pair", "FILE", "--wait", "0"], 2, ["'--wait': it has to be at least 1"]),
        (["discover", "--seconds", "0.01"], 2, ["'--seconds': it has to be at least 0.1"]),
        (["discover", "--seconds", "it's"], 2, ["'--seconds': it has to be a number"]),
        (["serve", "--prot", "1"], 2, ["No such option"]),
        (["stauts"], 2, ["No such command"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_wrong_input_is_named_with_what_helps(
    rm: Path,
    tmp_path: Path,
    typed: list[str],
    code: int,
    said: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    others, file = tmp_path / "others", tmp_path / "file"
    others.mkdir()
    others.chmod(0o755)
    (others / "passwd").write_text("theirs")
    file.write_text("this is\nnothing of ours\n")
    places = {"HOME": str(rm), "NEW": str(tmp_path / "new"), "OTHERS": str(others), "FILE": str(file)}
    capsys.readouterr()
    assert main([places.get(word, word) for word in typed]) == code
    captured = capsys.readouterr()
    text = " ".join((captured.out + captured.err).split())
    for part in said:
        assert part in text
    for word in LIBRARY_WORDS:
        assert word not in text
    assert "chmod" not in text, "others' directories are theirs"
    assert not (tmp_path / "new").exists()
    assert os.listdir(others) == ["passwd"]
