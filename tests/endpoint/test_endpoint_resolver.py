"""A WAN endpoint does not connect into its own network, whoever names the place: a user, or a peer (ROLE-03 a)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from s2connect import CommunicationRole, Endpoint, Role
from s2connect.endpoint.resolver import Resolver
from s2connect.errors import NotPublic, NotReachable
from s2connect.model.common import MQTT, NodeId
from s2connect.model.proxy import Proxies, Proxy
from s2connect.model.url import BaseUrl, WebSocketUrl, is_public_address
from s2connect.store.base import PairKey
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.mqtt.parameters import MqttCommunicationDetails
from s2connect.transports.mqtt.transport import MqttTransport
from tests.endpoint.conftest import OpenEndpoint, Wan
from tests.store.store_examples import pairing, token
from tests.waits import within

PUBLIC = ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
NOT_PUBLIC = [
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "2002:7f00:1::1",
    "2001:0:7f00:1::",
    "fe80::1%1",
    "fd00::1",
    "ff02::1",
    "2001:db8::1",
    "localhost",
    "",
]


@pytest.mark.rule("ROLE-03")
def test_which_addresses_are_on_the_internet() -> None:
    assert [text for text in PUBLIC if not is_public_address(text)] == []
    assert [text for text in NOT_PUBLIC if is_public_address(text)] == []


class Trap:
    """A port of this machine that counts who connects."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Trap]:
        def taken(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            writer.close()

        server = await asyncio.start_server(taken, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    async with Trap().running() as one:
        yield one
        assert one.connections == 0, "it was connected to"


@pytest.fixture
async def cloud(wan: Wan, open_endpoint: OpenEndpoint) -> Endpoint:
    return await open_endpoint(
        wan.config(Role.RM, "cloud.example.com", allow_private_addresses=False),
        addresses={"inner.example.com": "127.0.0.1"},
    )


@pytest.mark.rule("ROLE-03", "TRUST-03")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "inner.example.com", "[::1]", "[::ffff:127.0.0.1]"])
async def test_a_url_that_somebody_types_leads_nowhere_into_the_own_network(
    cloud: Endpoint, trap: Trap, host: str
) -> None:
    url = f"https://{host}:{trap.port}/pairing/"
    with pytest.raises(NotPublic):
        await cloud.node().pair(url, "5hK7Zz")
    with pytest.raises(NotPublic):
        await cloud.node().pair(url, "5hK7Zz", address="127.0.0.1")
    with pytest.raises(NotPublic):
        await cloud.look_at(BaseUrl.from_user(url), address="127.0.0.1")


@pytest.mark.rule("ROLE-03", "TRUST-03")
async def test_a_self_signed_server_is_refused_and_paired_with_where_that_is_allowed(
    wan: Wan, cloud: Endpoint, cem: Endpoint, open_endpoint: OpenEndpoint
) -> None:
    cem._pairing.server.delay = 0.0
    code = cem.node().issue_pairing_code()
    with pytest.raises(NotPublic):
        await cloud.node().pair(cem.pairing_url, code)
    assert await cem.pairings() == []
    open_one = await open_endpoint(wan.config(Role.RM, "other.example.com"))
    await open_one.node().pair(cem.pairing_url, code)


@pytest.mark.rule("ROLE-03")
async def test_a_session_url_of_a_peer_leads_nowhere_into_the_own_network(cloud: Endpoint, trap: Trap) -> None:
    made = pairing(1)
    url = BaseUrl(f"https://inner.example.com:{trap.port}/session/")
    here = replace(made, key=PairKey(cloud.node().id, made.key.remote), initiate_session_url=url, pin=None)
    await cloud._state.store.save_pairing(here, token("a"))
    with pytest.raises(NotPublic):
        await cloud.node().open(made.key.remote)
    with pytest.raises(NotPublic):
        await cloud.node().unpair(made.key.remote)


@pytest.mark.rule("ROLE-03")
async def test_a_websocket_url_of_a_peer_is_looked_up_and_checked_as_well(
    wan: Wan, open_endpoint: OpenEndpoint, trap: Trap
) -> None:
    known = {"cem.example.com": "127.0.0.1"}
    cem = await open_endpoint(wan.config(Role.CEM, "cem.example.com"))
    rm = await open_endpoint(wan.config(Role.RM, "rm.example.com"), addresses=known)
    cem._pairing.server.delay = 0.0
    made = await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    assert made.communication_role is CommunicationRole.CLIENT

    async def only_the_cem(host: str) -> list[str]:
        if host not in known:
            raise NotPublic(f"{host} is not on the internet.")
        return [known[host]]

    rm._client._addresses_of = only_the_cem
    cem._websocket._url = WebSocketUrl(f"wss://inner.example.com:{trap.port}/websocket")
    sessions = asyncio.create_task(anext(cem.node().connections()), name="sessions")
    try:
        await asyncio.sleep(0)
        with pytest.raises(NotPublic):
            await rm.node().open(made.key.remote)
    finally:
        sessions.cancel()


@pytest.mark.rule("ROLE-03", "MQ-18")
async def test_a_broker_that_a_peer_names_is_checked_as_well(trap: Trap) -> None:
    async def nowhere(host: str) -> list[str]:
        raise NotPublic(f"{host} is not on the internet.")

    transport = MqttTransport(None, role_of=lambda _: Role.RM, addresses_of=nowhere)
    details = MqttCommunicationDetails.from_value(
        {
            "communicationProtocol": MQTT,
            "mqttUrl": f"mqtts://inner.example.com:{trap.port}",
            "topicPrefix": "s2",
            "sessionId": "0123456789abcdef",
            "sessionToken": token("a").reveal(),
            "protection": "sealed",
        }
    )
    info = ConnectionInfo(MQTT, NodeId(pairing(1).key.local), NodeId(pairing(1).key.remote), "v1.0.0")
    try:
        async with within(20):
            with pytest.raises(NotPublic):
                await transport.connect(info, details, None)
    finally:
        await transport.close()


@pytest.mark.rule("ROLE-03")
async def test_what_was_checked_is_what_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"both.example.com": ["10.0.0.1", "8.8.8.8", "::1"], "inner.example.com": ["10.0.0.1"]}

    async def getaddrinfo(host: str, *_: object, **__: object) -> list[object]:
        if host not in answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 0)) for address in answers[host]]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    proxies = Proxies(Proxy.parse("http://proxy.example.com:8080"), (*answers, "nowhere.example.com"))
    addresses = Resolver({}, None, public_only=True, proxies=proxies)
    assert await addresses.resolve("both.example.com") == ["8.8.8.8"], "never a name, which may change meanwhile"
    with pytest.raises(NotPublic):
        await addresses.resolve("inner.example.com")
    with pytest.raises(NotReachable):
        await addresses.resolve("nowhere.example.com")
    assert await addresses.resolve("proxied.example.com") == [], "the proxy decides"


@pytest.mark.rule("TRUST-04")
async def test_a_lan_endpoint_may_connect_to_every_address(rm: Endpoint, cem: Endpoint) -> None:
    assert await rm._state.resolver.resolve("8.8.8.8") == []
    cem._pairing.server.delay = 0.0
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
