"""Two instances of one endpoint on one database, behind what gives each connection to the other one in turn."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest

pytest.importorskip("psycopg")

from s2connect import Deployment, Endpoint, EndpointConfig, NodeConfig, Role
from s2connect.endpoint.settings import SharedNodes
from s2connect.errors import ConfigurationError, StorageUnavailable, UsageError, WrongPairingCode
from s2connect.events import Paired
from s2connect.store.postgresql.database import Database
from s2connect.store.postgresql.nodes import NodeRows
from s2connect.store.postgresql.resealing import reseal
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from tests.endpoint.conftest import MEASUREMENT, Wan
from tests.postgresql import STORE_KEYS
from tests.waits import until, within


@contextlib.asynccontextmanager
async def spread(ports: Sequence[int]) -> AsyncIterator[int]:
    """Pass TCP connections on to these ports in turn; yields the port of it."""
    turns = itertools.cycle(ports)
    piping: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", next(turns))
        for one in (pipe(reader, back), pipe(there, writer)):
            piping.add(task := asyncio.create_task(one))
            task.add_done_callback(piping.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in piping:
            task.cancel()
        await asyncio.gather(*piping, return_exceptions=True)
        await server.wait_closed()


@pytest.fixture
async def two(wan: Wan, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Endpoint]]:
    """Two instances, which name the port of what spreads connections over them."""
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    made = wan.config(Role.CEM, "localhost", store=postgresql)
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for name in ("one", "two"):
            config = EndpointConfig.model_validate(made.model_dump() | {"instance": name})
            found.append(await stack.enter_async_context(Endpoint.open(config=config)))
        port = await stack.enter_async_context(spread([one._state.port for one in found]))
        for one in found:
            one._state.port = port
        yield found


async def take(endpoint: Endpoint, messages: list[str]) -> None:
    async for session in endpoint.node().sessions():
        messages += [message.type async for message in session]


async def test_a_device_pairs_and_has_sessions_whichever_instance_its_connections_come_to(
    two: list[Endpoint], wan: Wan
) -> None:
    one, other = two
    news = [endpoint.events() for endpoint in two]
    async with within(30), Endpoint.open(config=wan.config(Role.RM, "localhost")) as rm:
        await other.node().new_pairing_code()
        with pytest.raises(WrongPairingCode):
            await rm.node().pair(one.pairing_url, "222222222222")
        code = await one.node().new_pairing_code()
        assert str(await other.node().current_pairing_code()) == str(code)
        await rm.node().pair(other.pairing_url, code)
        assert await one.pairings() == await other.pairings() != []
        assert (await one.node().code_status()).state == (await other.node().code_status()).state == "used"
        messages: list[str] = []
        tasks = [asyncio.create_task(take(endpoint, messages)) for endpoint in two]
        sessions = rm.node().sessions()
        for _ in range(3):
            session = await anext(sessions)
            await session.send(MEASUREMENT)
            await session.close("again")
        await until(lambda: messages.count("PowerMeasurement") == 3)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    paired = 0
    for stream in news:
        stream.close()
        paired += len([event async for event in stream if isinstance(event, Paired)])
    assert paired == 1, "it is published where it was made"


async def test_calls_that_do_not_wait_name_those_that_do(two: list[Endpoint]) -> None:
    node = two[0].node()
    for call, instead in (
        (node.issue_pairing_code, r"await node.new_pairing_code\(\)"),
        (node.valid_pairing_code, r"await node.current_pairing_code\(\)"),
        (node.withdraw_pairing_code, r"await node.withdraw_code\(\)"),
        (lambda: node.code_state, r"await node.code_status\(\)"),
        (lambda: node.has_static_code, r"await node.code_status\(\)"),
    ):
        with pytest.raises(UsageError, match="shares with other instances") as refused:
            call()
        assert refused.match(instead) or instead.replace("\\", "") in str(refused.value.hint)


async def test_a_code_that_is_shown_is_the_same_at_each_instance_and_followed_by_the_next(
    two: list[Endpoint], wan: Wan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2connect.endpoint.pairing.LOOK_EVERY", 0.1)
    shown: list[list[str]] = [[], []]
    for codes, endpoint in zip(shown, two, strict=True):
        endpoint.node().show_codes(lambda code, codes=codes: codes.append(str(code)), always=True)  # type: ignore[misc]
        await until(lambda codes=codes: codes)  # type: ignore[misc]
    assert shown[0] == shown[1]
    async with within(20), Endpoint.open(config=wan.config(Role.RM, "localhost")) as rm:
        await rm.node().pair(two[0].pairing_url, shown[0][0])
        await until(lambda: len(shown[0]) == len(shown[1]) == 2)
    assert shown[0] == shown[1]


async def test_a_node_that_a_later_version_has_written_is_said_as_that(postgresql: str) -> None:
    database = await Database.open(postgresql)
    nodes, node = SharedNodes(NodeRows(database)), NodeConfig(role=Role.CEM)
    config = await nodes.read(EndpointConfig(deployment=Deployment.WAN, nodes=(node,)))
    later = NodeConfig(role=Role.CEM, alias="L")
    written = later.model_dump_json(exclude_none=True).replace("{", '{"later_setting": 1, ', 1).encode()
    await NodeRows(database).change(lambda known: {**known, later.id: written})
    for read in (nodes.read, nodes.reread):
        with pytest.raises(StorageUnavailable, match=r"later_setting.*Update s2connect"):
            await read(config)
    await database.close()


@pytest.mark.rule("HMAC-02")
async def test_an_instance_with_another_host_is_reported(
    wan: Wan, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    configs = [wan.config(Role.CEM, host, store=postgresql, instance=host) for host in ("localhost", "127.0.0.1")]
    async with Endpoint.open(config=configs[0]), Endpoint.open(config=configs[1]) as other:
        found = await other.cluster()
        assert found is not None
        (trouble,) = [one for one in found.troubles if "host" in one]
        assert "127.0.0.1, localhost" in trouble


async def test_an_instance_with_a_key_of_its_own_is_refused(
    wan: Wan, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would seal what no other one can open, and take what others have sealed for lost."""
    key, other = (base64.b64encode(one).decode() for one in (STORE_KEYS[0], bytes(32)))
    config = wan.config(Role.CEM, "localhost", store=postgresql)
    monkeypatch.setenv(KEY_VARIABLE, key)
    async with Endpoint.open(config=config):
        monkeypatch.setenv(KEY_VARIABLE, other)
        with pytest.raises(ConfigurationError, match="not that with which"):
            async with Endpoint.open(config=config.model_copy(update={"instance": "two"})):
                pass
    with pytest.raises(ConfigurationError, match="not that with which"):
        await reseal(postgresql, [bytes(32)])
    await reseal(postgresql, [bytes(32), STORE_KEYS[0]])
    async with Endpoint.open(config=config):
        pass
