"""S2 over brokers of other makers than Mosquitto's: rumqttd, which the demonstration brings along, and mochi."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role
from s2connect.certs.authority import CertificateAuthority
from s2connect.demo.broker import Account, Broker
from s2connect.errors import ConnectionClosed, NotReachable
from s2connect.https.server import free_port
from s2connect.model.common import MQTT, NodeId
from s2connect.model.url import MqttUrl
from s2connect.transports.base import Connection
from s2connect.transports.mqtt.parameters import MqttPassword, SessionToken, StaticSession
from s2connect.transports.mqtt.settings import MqttSettings
from s2connect.transports.mqtt.transport import MqttTransport
from tests.interop.plain_fixtures import be_device, manage, now
from tests.waits import Deadline, patience, within

MOCHI = Path(__file__).parents[2] / ".peers" / "mochi" / "cmd"
CEM, RM = NodeId(uuid4()), NodeId(uuid4())
PASSWORDS = {"cem": "password-of-cem", "rm": "password-of-rm"}
SECRET = SessionToken.from_bytes(bytes(range(32)))

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Running:
    """A broker that runs."""

    url: str
    directory: Path

    def settings(self, user: str) -> MqttSettings:
        return MqttSettings(
            url=MqttUrl(self.url),
            client_id=user,
            username=user,
            ca_file=self.directory / "ca.pem",
        ).with_password(MqttPassword(PASSWORDS[user]))

    def config(self, role: Role, protocols: tuple[str, ...]) -> EndpointConfig:
        user = role.lower()
        password = self.directory / user
        password.touch(0o600)
        password.write_text(PASSWORDS[user])
        mqtt = self.settings(user).model_copy(update={"password_file": password})
        node = NodeConfig(role=role, communication_protocols=protocols)
        return EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=0, nodes=(node,), mqtt=mqtt)


@contextlib.asynccontextmanager
async def rumqttd(directory: Path) -> AsyncIterator[Running]:
    pytest.importorskip("iotcore", reason="iotcore is not installed; the extra demo brings it")
    today = datetime.now(UTC)
    ca = CertificateAuthority.create("CA of a test", now=today)
    (directory / "ca.pem").write_bytes(ca.to_pem())
    accounts = {user: Account(password) for user, password in PASSWORDS.items()}
    identity = ca.issue(["localhost"], now=today)
    async with Broker(directory, accounts, identity, directory / "log", embedded=True) as broker:
        yield Running(broker.url, directory)


@contextlib.asynccontextmanager
async def mochi(directory: Path) -> AsyncIterator[Running]:
    if not MOCHI.is_file():
        reason = "mochi is not installed; tests/peers.sh installs it where there is Go"
        pytest.skip(reason)
    today = datetime.now(UTC)
    ca = CertificateAuthority.create("CA of a test", now=today)
    identity = ca.issue(["localhost"], now=today)
    for name, content in (("ca", ca.to_pem()), ("chain", identity.chain_pem), ("key", identity.key_pem)):
        (directory / f"{name}.pem").write_bytes(content)
    port = free_port()
    arguments = [str(MOCHI), f"-tcp=127.0.0.1:{port}", "-ws=127.0.0.1:0", "-info=127.0.0.1:0"]
    files = [f"-tls-cert-file={directory / 'chain.pem'}", f"-tls-key-file={directory / 'key.pem'}"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*arguments, *files], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = Deadline(10)
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert process.poll() is None
                assert not deadline.passed()
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
        yield Running(f"mqtts://localhost:{port}", directory)
    finally:
        process.kill()  # after a flood it does not always end when asked
        process.wait(patience(10))


Start = Callable[[Path], contextlib.AbstractAsyncContextManager[Running]]
brokers = pytest.mark.parametrize("start", [rumqttd, mochi])


@contextlib.asynccontextmanager
async def static_pair(broker: Running) -> AsyncIterator[tuple[Connection, Connection]]:
    """Two connections of one session that both sides know by configuration."""
    cem = MqttTransport(broker.settings("cem"), role_of=lambda _: Role.CEM)
    rm = MqttTransport(broker.settings("rm"), role_of=lambda _: Role.RM)
    came: asyncio.Queue[Connection] = asyncio.Queue()
    session = StaticSession(
        topic_prefix="s2", server=CEM, client=RM, mc="rm", client_role=Role.RM, versions=("v1.0.0",), secret=SECRET
    )
    try:
        cem.start()
        rm.start()
        await cem.listen_static(session, came.put_nowait)
        yield await rm.connect_static(session), await came.get()
    finally:
        await asyncio.gather(cem.close(), rm.close())


@brokers
@pytest.mark.parametrize("kind", ["FRBC", "PEBC"])
async def test_a_device_pairs_and_is_controlled_over_the_broker(tmp_path: Path, start: Start, kind: str) -> None:
    async with (
        start(tmp_path) as broker,
        Endpoint.open(config=broker.config(Role.CEM, (MQTT, "WebSocket"))) as cem,
        Endpoint.open(config=broker.config(Role.RM, (MQTT,))) as rm,
    ):
        await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
        managing, being = cem.node().sessions(), rm.node().sessions()
        async with within(20):
            ours, theirs = await asyncio.gather(anext(managing), anext(being))
            assert ours.info.protocol == theirs.info.protocol == MQTT
            statuses, instruction = await asyncio.gather(manage(ours, kind, fill_level=10.0), be_device(theirs, kind))
            assert statuses == ["ACCEPTED", "SUCCEEDED"]
            assert instruction.type == f"{kind}.Instruction"
            await asyncio.gather(ours.close(), theirs.wait_closed())


def measurement(number: int, padding: int = 0) -> str:
    values = '[{"commodity_quantity":"ELECTRIC.POWER.L1","value":1.50e2}]'
    message = f'"message_type":"PowerMeasurement","message_id":"m{number}","measurement_timestamp":"{now()}"'
    return f'{{ {message} ,"values":{values}{" " * padding}}}'


@brokers
async def test_messages_of_any_size_arrive_unchanged_in_both_directions(tmp_path: Path, start: Start) -> None:
    async with within(30), start(tmp_path) as broker, static_pair(broker) as (rm, cem):
        for number, size in enumerate((0, 3, 20_000, 200_000)):
            text = measurement(number, size)
            for sender, receiver in ((rm, cem), (cem, rm)):
                await sender.send(text)
                assert await receiver.recv() == text
        await rm.close()
        await cem.wait_closed()


@brokers
async def test_a_flood_arrives_in_order_or_the_session_ends(tmp_path: Path, start: Start) -> None:
    """mochi gives up the order once more is on its way than the window holds; the session must not."""
    sent = [measurement(number) for number in range(400)]

    async def send(connection: Connection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for text in sent:
                await connection.send(text)

    async def receive(connection: Connection) -> list[str]:
        got: list[str] = []
        with contextlib.suppress(ConnectionClosed):
            while len(got) < len(sent):
                got.append(await connection.recv())
        return got

    async with within(30), start(tmp_path) as broker, static_pair(broker) as (rm, cem):
        _, _, at_rm, at_cem = await asyncio.gather(send(rm), send(cem), receive(rm), receive(cem))
        assert at_rm == sent[: len(at_rm)]
        assert at_cem == sent[: len(at_cem)]
        if start is rumqttd:
            assert len(at_rm) == len(at_cem) == len(sent)


async def test_nobody_comes_in_without_the_right_password(tmp_path: Path) -> None:
    async with rumqttd(tmp_path) as broker:
        wrong = MqttSettings(
            url=MqttUrl(broker.url),
            client_id="rm",
            username="rm",
            ca_file=tmp_path / "ca.pem",
        ).with_password(MqttPassword("another"))
        transport = MqttTransport(wrong, role_of=lambda _: Role.RM)
        try:
            transport.start()
            assert transport.client is not None
            with pytest.raises(NotReachable, match=r"instead of answering\..* a wrong user name, password"):
                async with within(10):
                    await transport.client.up()
        finally:
            await transport.close()
