"""The log of a service: its forms, levels of parts, the peer of a line, and no secrets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from s2connect import Endpoint
from s2connect.cli import main
from s2connect.errors import ConnectionClosed, UsageError
from s2connect.messages.envelope import write_message
from s2connect.model.log_context import current_peer
from s2connect.model.secret import Secret
from s2connect.service import logs
from s2connect.service.logs import is_journal, latest_lines, read_levels
from tests.command import Running, make_home, pair, run


def log_to_stderr(verbose: bool, **options: Any) -> None:
    logging.getLogger().handlers.clear()  # pytest has some for each phase of a test
    logs.log_to_stderr(verbose, **options)


class Written:
    """Text written to standard error."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._captured.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """Standard error; logging is afterwards as it was before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    names = ["s2connect", "zeroconf", "aiohttp", "asyncio", "websockets"]
    levels = {name: logging.getLogger(name).level for name in names}
    logs._latest.cache_clear()
    yield Written(capsys)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in names:
        logging.getLogger(name).setLevel(levels[name])
    logs._latest.cache_clear()


def test_text_has_date_level_part_and_peer(stderr: Written) -> None:
    log_to_stderr(False, otherwise=logging.WARNING)
    logging.getLogger("s2connect.session").warning("slow \x1b[31mred", extra={"peer": "p-1"})
    assert stderr.getvalue()[:4].isdecimal()
    assert stderr.getvalue().endswith(" WARNING s2connect.session: slow [31mred [peer p-1]\n")
    assert latest_lines() == [stderr.getvalue().rstrip()]


def test_a_peer_that_the_line_names_is_not_named_twice(stderr: Written) -> None:
    log_to_stderr(False, otherwise=logging.WARNING)
    logging.getLogger("s2connect.session").warning("p-1 is slow", extra={"peer": "p-1"})
    assert "[peer" not in stderr.getvalue()


def test_json_has_one_object_a_line_also_with_a_traceback(stderr: Written) -> None:
    log_to_stderr(False, otherwise=logging.INFO, form="json")
    context = current_peer.set("p-2")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logging.getLogger("s2connect.session").exception("broke")
    finally:
        current_peer.reset(context)
    logging.getLogger("s2connect.bridge").info("up", extra={"link": "house/pump"})
    first, second = map(json.loads, stderr.getvalue().splitlines())
    assert (first["level"], first["part"], first["message"]) == ("error", "s2connect.session", "broke")
    assert first["peer"] == "p-2"
    assert "ZeroDivisionError" in first["traceback"]
    assert first["time"].endswith("+00:00")
    assert second["link"] == "house/pump"
    assert "peer" not in second


def test_each_line_for_the_journal_has_its_priority(stderr: Written) -> None:
    log_to_stderr(True, otherwise=logging.INFO, form="journal")
    log = logging.getLogger("s2connect.session")
    try:
        raise OSError("gone")
    except OSError:
        log.exception("broke")
    log.debug("detail")
    log.warning("slow")
    *trace, detail, slow = stderr.getvalue().splitlines()
    assert len(trace) > 2
    assert all(line.startswith("<3>") for line in trace)
    assert (detail, slow) == ("<7>s2connect.session: detail", "<4>s2connect.session: slow")


def test_the_journal_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stream").open("w") as file:
        monkeypatch.setattr("sys.stderr", file)
        found = os.fstat(file.fileno())
        assert is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})  # of a parent process
        assert not is_journal({})


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("", {}),
        ("INFO", {"": logging.INFO}),
        ("info, transports=debug", {"": logging.INFO, "s2connect.transports": logging.DEBUG}),
        ("s2connect.transports.mqtt=error", {"s2connect.transports.mqtt": logging.ERROR}),
        ("mqtt=debug,zeroconf=warning", {"s2connect.transports.mqtt": logging.DEBUG, "zeroconf": logging.WARNING}),
    ],
)
def test_levels_of_parts(text: str, levels: dict[str, int]) -> None:
    assert read_levels(text) == levels


@pytest.mark.parametrize("text", ["loud", "info,transports", "heating=debug", "=loud", "s2connect.heating=debug"])
def test_unknown_levels_and_parts_are_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_levels(text)
    assert refused.value.hint


def test_a_wrong_level_is_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    home = make_home(tmp_path / "rm", "rm")
    done = run("serve", "--home", str(home), "--log-level", "heating=debug")
    assert done.returncode == 2
    assert "no part heating" in done.stderr
    assert "transports" in done.stderr


def test_levels_come_from_the_environment_too(stderr: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S2CONNECT_LOG_LEVEL", "loud")
    assert main(["serve", "--home", str(tmp_path)]) == 2


@pytest.mark.rule("SEC-01")
async def test_no_secret_of_a_pairing_and_session_is_in_the_log(
    tmp_path: Path, stderr: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All loggers at debug, those of the libraries, too; the secrets are those that either side has made or read."""
    homes = [make_home(tmp_path / role, role) for role in ("cem", "rm")]
    log_to_stderr(True, otherwise=logging.DEBUG, levels="debug,aiohttp=debug,asyncio=debug,websockets=debug")
    secrets: set[str] = set()
    for kind in (Secret, *_subclasses(Secret)):
        for name in ("__init__", "__post_init__"):
            if name in vars(kind):
                monkeypatch.setattr(kind, name, _noting(vars(kind)[name], secrets))
    async with Endpoint.open(homes[0]) as cem, Endpoint.open(homes[1]) as rm:
        code = str(cem.node().issue_pairing_code())
        opened = asyncio.ensure_future(anext(aiter(cem.node().sessions())))
        here = rm.node().sessions()
        paired = asyncio.ensure_future(anext(aiter(here)))
        await rm.node().pair(str(cem.pairing_url), code)
        async with await opened as manager, await paired:
            text, _ = write_message(
                {"message_type": "SessionRequest", "message_id": str(uuid4()), "request": "TERMINATE"}
            )
            with contextlib.suppress(ConnectionClosed):
                await manager.send(text)
    written = stderr.getvalue()
    secrets.add(code)
    kept = {each.read_text("ascii", "replace").strip() for home in homes for each in home.glob("secrets/*")}
    assert len(kept) >= 4, "keys of CA and leaf of both"
    assert len(secrets) > 8, secrets
    assert "is connected with" in written
    for secret in secrets | kept:
        assert secret not in written


def _subclasses(kind: type) -> list[type]:
    direct: list[type] = kind.__subclasses__()
    return [*direct, *(each for one in direct for each in _subclasses(one))]


def _noting(method: Callable[..., None], secrets: set[str]) -> Callable[..., None]:
    def noting(self: Secret, *arguments: object, **options: object) -> None:
        method(self, *arguments, **options)
        secrets.add(self.reveal())

    return noting


@pytest.mark.long
def test_a_session_at_debug_as_json_names_the_peer(cem: Path, rm: Path, start: Callable[..., Running]) -> None:
    manager, device = start(cem, "--log-format", "json", "--log-level", "debug"), start(rm)
    _, session = pair(manager, device)
    lines = manager.command("log")["lines"]
    assert any("is connected with" in line for line in lines)
    device.command("close", session=session)
    manager.event("session_closed")
    manager.end_input()
    assert manager.ended() == 0
    objects = [json.loads(line) for line in manager.errors.splitlines()]
    [peer] = {one["peer"] for one in objects if "peer" in one}
    assert any(peer == one.get("peer") for one in objects if "no longer connected" in one["message"])
