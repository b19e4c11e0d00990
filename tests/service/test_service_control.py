"""Commands to the service of a state directory over its control socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from s2connect.service.commands import Status
from s2connect.service.control import SOCKET, connect
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
