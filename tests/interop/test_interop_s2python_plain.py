"""s2-python as device and as energy manager, as client and as server, with our side on plain S2 over WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.tls import ServerContext
from s2connect.cli import main
from s2connect.endpoint.plain_server import PlainServer
from s2connect.errors import SessionRefused
from s2connect.model.common import Role
from s2connect.model.secret import Secret
from s2connect.session.session import SessionEnd
from s2connect.transports.plain import PlainAcceptor, connect_plain, plain_node_id
from tests.interop.peer_processes import HERE
from tests.interop.plain_fixtures import (
    CONTROL_TYPES,
    FRBC_PATH,
    OURS,
    Peer,
    be_device,
    manage,
    next_of,
    peer_process,
    session,
)

TOKEN = Secret("a-token-of-s2-python")


def s2python(
    role: str, kind: str, *, environment: dict[str, str] | None = None, **task: Any
) -> contextlib.AbstractAsyncContextManager[Peer]:
    """Run s2-python as device or energy manager."""
    script = HERE / "s2python_plain.py"
    return peer_process("s2python", script, {"role": role, "kind": kind, "rounds": 1} | task, environment)


@contextlib.asynccontextmanager
async def our_server(role: Role, **options: Any) -> AsyncIterator[PlainServer]:
    acceptor = PlainAcceptor(role=role, local=OURS, tokens={"peer": TOKEN})
    async with PlainServer(acceptor, path="/s2", **options) as server:
        yield server


MANAGER_SAW = {
    "FRBC": ["handshake", "details", "description", "status", "status", "update", "update", "status", "stopped"],
    "PEBC": ["handshake", "details", "description", "update", "update", "status", "stopped"],
}


# s2-python as device


@pytest.mark.rule("MSG-02", "MSG-03")
@pytest.mark.parametrize("kind", ["FRBC", "PEBC"])
async def test_their_device_is_controlled_by_our_server(kind: str) -> None:
    async with our_server(Role.CEM) as server:
        url = f"ws://127.0.0.1:{server.port}/s2"
        async with s2python("RM", kind, url=url, token=TOKEN.reveal()) as peer:
            connection = await anext(server)
            assert (connection.info.s2_version, connection.info.remote) == ("0.0.2-beta", plain_node_id("peer"))
            async with session(connection, Role.CEM) as ours:
                assert await manage(ours, kind) == ["ACCEPTED", "SUCCEEDED"]
                await peer.until("stopped")
            assert peer.all("activated", "control_type") == [kind]


@pytest.mark.parametrize("kind", ["FRBC", "PEBC"])
async def test_their_device_as_server_is_controlled_by_our_client(kind: str) -> None:
    async with s2python("RM", kind, rounds=2) as peer:
        url = f"ws://127.0.0.1:{(await peer.until('listening'))['port']}/"
        for _ in range(2):
            connection = await connect_plain(url, role=Role.CEM, local=OURS, token=TOKEN)
            assert connection.info.remote == plain_node_id(url)
            async with session(connection, Role.CEM) as ours:
                assert await manage(ours, kind) == ["ACCEPTED", "SUCCEEDED"]
                await peer.until("stopped")
        assert peer.all("connected", "token") == [f"Bearer {TOKEN.reveal()}"] * 2


@pytest.mark.rule("REC-01")
async def test_their_device_comes_back_after_the_wire_was_cut() -> None:
    async with our_server(Role.CEM) as server:
        url = f"ws://127.0.0.1:{server.port}/s2"
        async with s2python("RM", "FRBC", url=url, token=TOKEN.reveal(), rounds=2) as peer:
            first = await anext(server)
            async with session(first, Role.CEM) as ours:
                await next_of(ours, "ResourceManagerDetails")
                await ours.send({"message_type": "SelectControlType", "control_type": CONTROL_TYPES["FRBC"]})
                await next_of(ours, *FRBC_PATH)
                first._websocket._transport.abort()
                await ours.wait_closed()
                assert ours.end_reason is SessionEnd.LOST
            await peer.until("stopped")
            second = await anext(server)
            assert second.info.remote == first.info.remote
            async with session(second, Role.CEM) as ours:
                assert await manage(ours, "FRBC") == ["ACCEPTED", "SUCCEEDED"]
                await peer.until("stopped")


async def test_their_device_comes_in_over_tls_with_its_certificate_checked(tmp_path: Path) -> None:
    authority = CertificateAuthority.create("CA of a test", now=datetime.now(UTC))
    tls = await asyncio.to_thread(ServerContext, authority.issue(["127.0.0.1"], now=datetime.now(UTC)))
    (tmp_path / "ca.pem").write_bytes(authority.to_pem())
    environment = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    async with our_server(Role.CEM, tls=tls.context) as server:
        url = f"wss://127.0.0.1:{server.port}/s2"
        async with (
            s2python("RM", "PEBC", url=url, token=TOKEN.reveal(), environment=environment) as peer,
            session(await anext(server), Role.CEM) as ours,
        ):
            assert await manage(ours, "PEBC") == ["ACCEPTED", "SUCCEEDED"]
            await peer.until("stopped")


# s2-python as energy manager


@pytest.mark.rule("MSG-02", "MSG-03")
@pytest.mark.parametrize("kind", ["FRBC", "PEBC"])
async def test_our_server_as_device_is_controlled_by_their_manager(kind: str) -> None:
    async with our_server(Role.RM) as server:
        url = f"ws://127.0.0.1:{server.port}/s2"
        async with s2python("CEM", kind, url=url, token=TOKEN.reveal()) as peer:
            async with session(await anext(server), Role.RM) as ours:
                await be_device(ours, kind)
                await peer.until("stopped")
            assert [said["event"] for said in peer.events[1:]] == MANAGER_SAW[kind]
            assert peer.all("update", "status") == ["ACCEPTED", "SUCCEEDED"]


@pytest.mark.parametrize("handshake", ["first", "late", "none"])
@pytest.mark.parametrize("kind", ["FRBC", "PEBC"])
async def test_our_client_as_device_is_controlled_however_their_manager_shakes_hands(kind: str, handshake: str) -> None:
    async with s2python("CEM", kind, rounds=2, handshake=handshake) as peer:
        url = f"ws://127.0.0.1:{(await peer.until('listening'))['port']}/"
        for _ in range(2):
            connection = await connect_plain(url, role=Role.RM, local=OURS)
            async with session(connection, Role.RM) as ours:
                await be_device(ours, kind)
                await peer.until("stopped")
        assert peer.all("handshake", "versions") == [["0.0.2-beta"]] * 2


# Refused


async def test_their_device_is_told_that_there_is_no_common_version() -> None:
    async with s2python("RM", "FRBC") as peer:
        url = f"ws://127.0.0.1:{(await peer.until('listening'))['port']}/"
        with pytest.raises(SessionRefused) as caught:
            await connect_plain(url, role=Role.CEM, local=OURS, versions=["v1.0.0"])
        assert caught.value.reason == "IncompatibleS2MessageVersions"
        assert "0.0.2-beta" in caught.value.what
        assert "INVALID_CONTENT" in (await peer.until("refused"))["text"]


# Its log


@pytest.mark.parametrize(
    "form", ["%(levelname)s:%(name)s:%(message)s", "%(asctime)s %(name)s %(message)s", "%(message)s"]
)
async def test_the_log_of_either_side_is_a_conversation_for_replay(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As people have it: everything at DEBUG, so what comes in stands there three times, once cut in the middle."""
    logs = tmp_path / "rm.log", tmp_path / "cem.log"
    async with s2python("RM", "FRBC", log=str(logs[0]), log_format=form) as device:
        url = f"ws://127.0.0.1:{(await device.until('listening'))['port']}/"
        async with s2python("CEM", "FRBC", url=url, log=str(logs[1]), log_format=form) as manager:
            await manager.until("stopped")
            await device.until("stopped")
    capsys.readouterr()
    for log in logs:
        assert main(["validate", str(log), "--json"]) == 0
        validated = json.loads(capsys.readouterr().out)["summary"]
        assert main(["replay", str(log), "--json"]) == 0
        replayed = json.loads(capsys.readouterr().out)["summary"]
        assert (replayed["sessions"], replayed["messages"]) == (1, validated["messages"])
        assert replayed["answers"] == replayed["messages"] / 2
        assert replayed["unanswered"] == replayed["left_out"] == 0
