"""A name to listen at: a mistake where it is unknown, and tried again while no name server answers."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import pytest_asyncio

from s2connect.errors import ConfigurationError, NotReachable
from s2connect.https import acceptor
from s2connect.https.server import HttpsServer, check_bind


@pytest_asyncio.fixture
async def name_server(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Errors of the next look-ups of a name; after them it is known."""
    errors: list[int] = []
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def look_up(host: str | None, *args: Any, **keywords: Any) -> Any:
        if host != "gateway.example":
            return await real(host, *args, **keywords)
        if errors:
            raise socket.gaierror(errors.pop(0), "no")
        return await real("127.0.0.1", *args, **keywords)

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    monkeypatch.setattr(acceptor, "FIRST_LOOK_UP", 0.01)
    return errors


async def test_a_name_is_looked_up_again_until_the_name_server_is_there(
    name_server: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    name_server.extend([socket.EAI_AGAIN] * 3)
    server = HttpsServer(None, host="gateway.example", port=0)
    await server.start()
    await server.close()
    assert [record.message for record in caplog.records if "cannot be looked up yet" in record.message] != []
    assert not name_server


async def test_a_service_whose_name_server_does_not_come_ends_with_what_a_restart_may_mend(
    name_server: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "LOOK_UP_TIMEOUT", 0.02)
    name_server.extend([socket.EAI_AGAIN] * 9)
    with pytest.raises(NotReachable, match=r"Cannot listen at gateway\.example now: no name server answers"):
        await HttpsServer(None, host="gateway.example", port=0).start()


async def test_a_name_that_is_unknown_is_a_mistake_at_once(name_server: list[int]) -> None:
    name_server.append(socket.EAI_NONAME)
    with pytest.raises(ConfigurationError, match="that is no address of this machine"):
        await HttpsServer(None, host="gateway.example", port=0).start()


@pytest.mark.parametrize(
    ("address", "error", "taken"),
    [
        ("gateway.example", socket.EAI_AGAIN, True),
        ("gateway.example", socket.EAI_NONAME, False),
        ("127.0.0.1", socket.EAI_AGAIN, True),
        ("no such", socket.EAI_AGAIN, False),
        ("nonsense/1", socket.EAI_AGAIN, False),
        ("", socket.EAI_AGAIN, False),
    ],
)
def test_a_setting_is_no_mistake_because_the_network_is_down(
    address: str, error: int, *, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(error, "no")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    if taken:
        check_bind(address)
        return
    with pytest.raises(ConfigurationError, match="that is no address"):
        check_bind(address)
