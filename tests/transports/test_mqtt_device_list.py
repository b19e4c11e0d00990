"""The retained list of a gateway's devices: read by whoever has the secret, made by nobody else."""

from __future__ import annotations

import base64
import hmac
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from s2connect.errors import ConfigurationError
from s2connect.model.common import NodeId, Role
from s2connect.transports.mqtt.device_list import (
    MAX_LISTED,
    MAX_TEXT_CHARACTERS,
    DeviceList,
    ListedDevice,
    read_list,
    write_list,
)
from s2connect.transports.mqtt.frames import PLAIN_CONTROL, InvalidFrame, Packet
from s2connect.transports.mqtt.gateways import Gateways, _Followed, _take
from s2connect.transports.mqtt.parameters import Protection, StaticGateway
from tests.transports.mqtt_sessions import MC, OTHER_TOKEN, SALT, SERVER, TOKEN

if TYPE_CHECKING:
    from s2connect.transports.mqtt.broker import BrokerConnection

pytestmark = pytest.mark.rule("MQ-19")

GATEWAY = StaticGateway(
    topic_prefix="acme", server=SERVER, mc=MC, client_role=Role.RM, versions=("v1.0.0",), secret=TOKEN
)
PLAIN = replace(GATEWAY, protection=Protection.PLAIN, secret=None)
BATTERY = ListedDevice(id=NodeId(UUID(int=1)), name="Cellar battery", brand="Acme", type="Battery", model_name="B1")
PUMP = ListedDevice(id=NodeId(UUID(int=2)), name="Wärmepumpe")


@pytest.mark.parametrize("gateway", [GATEWAY, PLAIN])
@pytest.mark.parametrize("devices", [[], [BATTERY], [BATTERY, PUMP]])
def test_a_list_comes_as_it_was_written(gateway: StaticGateway, devices: list[ListedDevice]) -> None:
    packet = write_list(gateway, devices, at=5, salt=SALT)
    assert (packet.topic, packet.retain) == (f"acme/s2/0/{SERVER}/{MC}/devices", True)
    assert read_list(gateway, packet) == DeviceList(tuple(devices), 5)
    assert (b"Cellar" in packet.payload) is (gateway is PLAIN and BATTERY in devices)


def test_a_sealed_list_is_what_the_document_says() -> None:
    packet = write_list(GATEWAY, [PUMP], at=5, salt=SALT)
    assert packet.user_properties == (("s2-frame", "devices"), ("s2-salt", base64.b64encode(SALT).decode()))
    extracted = hmac.digest(SALT, bytes(range(32)), "sha256")
    key = hmac.digest(extracted, f"s2-over-mqtt/0|devices|{MC}".encode() + b"\x01", "sha256")
    topic, number = packet.topic.encode(), (1).to_bytes(8, "big")
    place = len(topic).to_bytes(2, "big") + topic + b"\x07devices" + number
    opened = AESGCM(key).decrypt(bytes(4) + number, packet.payload, place)
    assert json.loads(opened) == {"devices": [{"id": str(PUMP.id), "name": "Wärmepumpe"}], "at": 5}


@given(st.data())
def test_a_list_that_was_changed_or_is_of_another_gateway_is_not_taken(data: st.DataObject) -> None:
    packet = write_list(GATEWAY, [BATTERY, PUMP], at=5, salt=SALT)
    at, bit = data.draw(st.integers(0, len(packet.payload) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(packet.payload)
    flipped[at] ^= 1 << bit
    other_salt = (("s2-frame", "devices"), ("s2-salt", base64.b64encode(bytes(32)).decode()))
    for wrong, reader in (
        (_with(packet, payload=bytes(flipped)), GATEWAY),
        (_with(packet, user_properties=other_salt), GATEWAY),
        (_with(packet, user_properties=packet.user_properties[:1]), GATEWAY),
        (_with(packet, content_type=PLAIN_CONTROL), GATEWAY),
        (packet, replace(GATEWAY, secret=OTHER_TOKEN)),
        (packet, replace(GATEWAY, mc="gateway-8")),
        (packet, replace(GATEWAY, server=NodeId(UUID(int=9)))),
        (packet, PLAIN),
        (write_list(PLAIN, [BATTERY], at=5, salt=SALT), GATEWAY),
        (_with(packet, payload=b""), GATEWAY),
    ):
        with pytest.raises(InvalidFrame):
            read_list(reader, wrong)


def _with(packet: Packet, **changes: Any) -> Packet:
    values = {name: getattr(packet, name) for name in packet.__struct_fields__}
    return Packet(**{**values, **changes})


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        {"devices": 1},
        {"devices": [{"name": "x"}]},
        {"devices": [{"id": "x"}]},
        {"devices": [{"id": str(BATTERY.id).upper().replace("0", "A")}]},
        {"devices": [{"id": str(BATTERY.id), "name": 1}]},
        {"devices": [{"id": str(BATTERY.id)}] * 2},
        {"devices": [{"id": str(SERVER)}]},
        {"devices": [{"id": str(uuid4())} for _ in range(MAX_LISTED + 1)]},
        b'{"devices": [], "devices": []}',
        {"devices": [], "at": -1},
        {"devices": [], "at": 1.5},
        {"devices": [], "at": 2**53},
    ],
)
def test_what_is_no_list_is_refused(value: Any) -> None:
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    packet = _with(write_list(PLAIN, [], at=5, salt=SALT), payload=payload)
    with pytest.raises(InvalidFrame):
        read_list(PLAIN, packet)


def test_texts_are_cut_and_members_of_later_versions_ignored() -> None:
    entry = {"id": str(PUMP.id), "name": "x" * 5000, "colour": "red"}
    packet = _with(write_list(PLAIN, [], at=5, salt=SALT), payload=json.dumps({"devices": [entry], "more": 1}).encode())
    (device,) = read_list(PLAIN, packet).devices
    assert device.name == "x" * MAX_TEXT_CHARACTERS
    hostile = ListedDevice(id=PUMP.id, name="\x1b[31m" + "y" * 5000)
    (device,) = read_list(PLAIN, write_list(PLAIN, [hostile], at=5, salt=SALT)).devices
    assert "\x1b" not in device.name


def test_a_list_that_is_too_long_is_an_error_of_its_maker() -> None:
    with pytest.raises(ConfigurationError, match="too long"):
        write_list(GATEWAY, [ListedDevice(id=NodeId(uuid4())) for _ in range(MAX_LISTED + 1)], at=5, salt=SALT)
    with pytest.raises(ConfigurationError, match="client id"):
        replace(GATEWAY, mc="open")


def test_what_changed_from_one_list_to_the_next_is_told_and_nothing_else() -> None:
    told: list[tuple[list[ListedDevice], list[ListedDevice]]] = []
    followed = _Followed(GATEWAY, lambda added, removed: told.append((added, removed)))
    for devices in ([BATTERY], [BATTERY, PUMP], [BATTERY, PUMP], [PUMP]):
        assert _take(followed, write_list(GATEWAY, devices, at=5, salt=SALT)) is None
    assert told == [([BATTERY], []), ([PUMP], []), ([], [BATTERY])]
    assert _take(followed, Packet("t", b"{}")) == "device_list"
    assert followed.known == {PUMP.id: PUMP}


@pytest.mark.parametrize("gateway", [GATEWAY, PLAIN])
def test_an_older_list_that_is_given_again_is_dropped_and_said_once(
    gateway: StaticGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker keeps what it was given: without its time a reader would go back to a list of yesterday."""
    stored: list[int] = []
    followed = _Followed(gateway, lambda *_: None, 6, stored.append)
    lists = {at: write_list(gateway, [BATTERY] if at < 8 else [PUMP], at=at, salt=SALT) for at in (0, 5, 6, 7, 8)}
    assert _take(followed, lists[5]) == "device_list_old", "older than what was stored in an earlier run"
    assert followed.known == {}
    assert [_take(followed, lists[at]) for at in (6, 7, 7, 8)] == [None] * 4
    assert [_take(followed, lists[at]) for at in (7, 5, 0)] == ["device_list_old"] * 3
    assert followed.known == {PUMP.id: PUMP}
    assert stored == [7, 8]
    assert [record.message.count("older than the one before") for record in caplog.records] == [1, 1]


class Published:
    """A broker that keeps what is published."""

    max_packet = None

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.connection = cast("BrokerConnection", self)

    async def publish(self, packet: Packet) -> int:
        self.packets.append(packet)
        return 0


async def test_the_lists_of_a_gateway_have_rising_times_also_where_its_clock_goes_back() -> None:
    times, broker = iter([0.009, 0.003, 0.012]), Published()
    gateways = Gateways(lambda: next(times))
    for _ in range(3):
        await gateways.publish(broker.connection, GATEWAY, "house", [PUMP])
    assert [read_list(GATEWAY, packet).at for packet in broker.packets] == [9, 10, 12]


@pytest.mark.parametrize("anew", [False, True])
async def test_a_list_without_a_part_stays_as_it_was_published_until_one_is_set_again(anew: bool) -> None:
    """A route that begins anew forgets its part for a while: its devices would lose their sessions."""
    gateways, broker = Gateways(), Published()
    await gateways.publish(broker.connection, GATEWAY, "route", [PUMP])
    await gateways.publish(broker.connection, GATEWAY, "route", None)
    await gateways.repeat(broker.connection, anew=anew)
    await gateways.greet(broker.connection)
    await gateways.publish(broker.connection, GATEWAY, "route begun anew", [PUMP, BATTERY])
    listed = [len(read_list(GATEWAY, packet).devices) for packet in broker.packets]
    assert 0 not in listed
    assert listed[-1] == 2
