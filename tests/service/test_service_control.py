"""Commands to the service of a state directory over its control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from s2connect.endpoint.instances import INSTANCE_VARIABLE, machine_name
from s2connect.service.commands import Status
from s2connect.service.control import SOCKET, connect, control_socket
from s2connect.service.events import Result
from s2connect.service.failures import Failure
from s2connect.store.home import Home


@pytest.mark.parametrize(("of_bridge", "start"), [(False, "s2connect serve"), (True, "s2connect bridge run FILE")])
async def test_a_service_that_ends_meanwhile_is_named_with_what_starts_it(
    tmp_path: Path, of_bridge: bool, start: str
) -> None:
    home = Home.create(tmp_path / "home")
    if of_bridge:
        home.write_private(Home.BRIDGE_FILE, b"{}")

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    async with await asyncio.start_unix_server(end, home.path / SOCKET), connect(home) as control:
        assert control is not None
        with pytest.raises(Failure, match="ended before it answered") as failure:
            await control.ask(Status())
    assert failure.value.hint == f"Start the service: {start}"


@contextlib.asynccontextmanager
async def _instances(home: Home, *names: str) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for number, name in enumerate(names):
            await stack.enter_async_context(control_socket(home, partial(_status, number), name))
        yield


async def _status(number: int, line: bytes | None) -> Result:
    assert line is not None
    return _Status(id=json.loads(line)["id"], number=number)


class _Status(Result, name="result"):
    number: int

    def _members(self) -> dict[str, Any]:
        return {"id": self.id, "ok": False, "error": {"kind": "usage", "what": f"number {self.number}"}}


async def _asked(home: Home, instance: str = "") -> str:
    async with connect(home, instance) as control:
        if control is None:
            return "nobody"
        with pytest.raises(Failure) as answered:
            await control.ask(Status())
        return answered.value.what


@pytest.mark.parametrize("long", [False, True])
async def test_instances_of_one_home_have_a_socket_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    home = Home.create(tmp_path / ("home" + "x" * 100 * long))
    monkeypatch.delenv(INSTANCE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    async with _instances(home, "one"):
        assert await _asked(home) == "number 0"
        async with _instances(home, "two", "three"):
            for number, name in enumerate(["two", "three"]):
                monkeypatch.setenv(INSTANCE_VARIABLE, name)
                assert await _asked(home) == f"number {number}"
            monkeypatch.setenv(INSTANCE_VARIABLE, "four")
            assert await _asked(home) == "nobody"
            monkeypatch.delenv(INSTANCE_VARIABLE)
            with pytest.raises(Failure) as refused:
                await _asked(home)
            assert refused.value.what == "Several instances of this endpoint run here: one, three, two."
            assert refused.value.hint == "Say which one: S2CONNECT_INSTANCE=one s2connect …"
            async with _instances(home, machine_name()):
                assert await _asked(home) == "number 0"
        assert await _asked(home) == "number 0"
    assert await _asked(home) == "nobody"
    assert not list(home.path.iterdir())


async def test_of_several_instances_the_one_that_a_file_names_answers_unless_the_environment_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.create(tmp_path / "home")
    monkeypatch.delenv(INSTANCE_VARIABLE, raising=False)
    async with _instances(home, "one", "two", machine_name()):
        assert await _asked(home, "two") == "number 1"
        assert await _asked(home) == "number 2"
        with pytest.raises(Failure, match="Several instances"):
            await _asked(home, "three")
        monkeypatch.setenv(INSTANCE_VARIABLE, "one")
        assert await _asked(home, "two") == "number 0"


async def test_the_socket_of_an_instance_that_was_killed_is_in_nobodys_way(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(home.path / "control-old.sock"))
    async with _instances(home, "new"):
        assert await _asked(home) == "number 0"
    async with _instances(home, "old"):
        assert await _asked(home) == "number 0"
    assert not list(home.path.iterdir())
