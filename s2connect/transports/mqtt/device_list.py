"""Retained list of the devices behind a gateway, in static mode (MQ-19). No I/O."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from s2connect.errors import ConfigurationError
from s2connect.model.common import NodeId
from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.model.text import for_display
from s2connect.transports.mqtt.frames import PLAIN_CONTROL, SEALED, InvalidFrame, Packet, read_bytes, write_control
from s2connect.transports.mqtt.parameters import Protection, StaticGateway
from s2connect.transports.mqtt.sealing import SALT_BYTES, NotAuthentic, Sealer
from s2connect.transports.mqtt.topics import InvalidTopic, read_node_id

MAX_LISTED: Final = 1000
"""Devices in one list."""

MAX_LIST_BYTES: Final = 256 * 1024
"""Longest payload of a list, sealed or not."""

MAX_TEXT_CHARACTERS: Final = 200
"""Characters of a text in a list that are kept."""

MAX_AT: Final = 2**53 - 1
"""Latest time of a list: whatever reads JSON holds it exactly."""

_KIND: Final = "devices"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDevice:
    """A device behind a gateway. Its texts come from the device and the network: clean them before display.

    Attributes:
        id: Id of the node that the gateway has for it: the client of its sessions.
        name: Its name for people.
        brand: Its brand, empty where it is unknown; so are the others.
        type: Its type.
        model_name: Its model.
    """

    id: NodeId
    name: str = ""
    brand: str = ""
    type: str = ""
    model_name: str = ""


@dataclass(frozen=True, slots=True)
class DeviceList:
    """Content of a list of devices.

    Attributes:
        devices: The devices.
        at: Its time: milliseconds since 1970, more in every list of a gateway than in the one before; 0 without one.
    """

    devices: tuple[ListedDevice, ...]
    at: int = 0


class _Entry(msgspec.Struct):
    """Entry of a list; members of other names are ignored."""

    id: str
    name: str = ""
    brand: str = ""
    type: str = ""
    model_name: str = ""


class _List(msgspec.Struct):
    devices: list[_Entry]
    at: Annotated[int, msgspec.Meta(ge=0, le=MAX_AT)] = 0


def write_list(gateway: StaticGateway, devices: Iterable[ListedDevice], *, at: int, salt: bytes) -> Packet:
    """Return the retained message with the list; ``salt`` is 32 fresh random bytes, used where it is sealed.

    ``at`` is its time in milliseconds since 1970, more than that of the list before.

    Raises:
        ConfigurationError: There are more than :data:`MAX_LISTED`, or their texts are too long together.
    """
    entries = [
        {"id": str(device.id)}
        | {
            name: for_display(text, MAX_TEXT_CHARACTERS)
            for name in ("name", "brand", "type", "model_name")
            if (text := getattr(device, name))
        }
        for device in devices
    ]
    payload = write_control({"devices": entries, "at": at})
    if len(entries) > MAX_LISTED or len(payload) > MAX_LIST_BYTES - 16:
        raise ConfigurationError(f"The list of {len(entries)} devices is too long for one message.")
    properties: tuple[tuple[str, str], ...] = (("s2-frame", _KIND),)
    if gateway.protection is Protection.PLAIN:
        return Packet(gateway.list_topic, payload, PLAIN_CONTROL, properties, retain=True)
    properties += (("s2-salt", base64.b64encode(salt).decode("ascii")),)
    sealed = _sealer(gateway, salt).seal(_KIND, 1, payload)
    return Packet(gateway.list_topic, sealed, SEALED, properties, retain=True)


def read_list(gateway: StaticGateway, packet: Packet) -> DeviceList:
    """Read the message with the list. An older one than was read before is for the caller to drop.

    Raises:
        InvalidFrame: It is none, or not of this gateway. The text never repeats what was received.
    """
    properties = dict(packet.user_properties)
    if properties.get("s2-frame") != _KIND or len(packet.payload) > MAX_LIST_BYTES:
        raise InvalidFrame("no list of devices")
    payload = packet.payload
    sealed = gateway.protection is Protection.SEALED
    if packet.content_type != (SEALED if sealed else PLAIN_CONTROL):
        raise InvalidFrame("wrong Content-Type")
    if sealed:
        salt = read_bytes(properties.get("s2-salt", ""))
        if len(salt) != SALT_BYTES:
            raise InvalidFrame("s2-salt is not 32 bytes in Base64")
        try:
            payload = _sealer(gateway, salt).unseal(_KIND, 1, payload)
        except NotAuthentic:
            raise InvalidFrame("the list is not of this gateway") from None
    try:
        read = msgspec.convert(read_json(payload), _List)
        entries = read.devices
        found = {each.id: each for each in (_device(entry) for entry in entries[: MAX_LISTED + 1])}
    except (MalformedJson, msgspec.ValidationError, InvalidTopic):
        raise InvalidFrame("no list of devices") from None
    if len(entries) > MAX_LISTED or len(found) != len(entries) or gateway.server in found:
        raise InvalidFrame("too many devices, one twice, or the server")
    return DeviceList(tuple(found.values()), read.at)


def _device(entry: _Entry) -> ListedDevice:
    texts = {name: getattr(entry, name)[:MAX_TEXT_CHARACTERS] for name in ("name", "brand", "type", "model_name")}
    return ListedDevice(id=read_node_id(entry.id), **texts)


def _sealer(gateway: StaticGateway, salt: bytes) -> Sealer:
    """Return what seals one list: every salt gives another key, so that the sequence number is always 1."""
    assert gateway.secret is not None, "a sealed session has one"
    key = HKDF(SHA256(), 32, salt, f"s2-over-mqtt/0|{_KIND}|{gateway.mc}".encode("ascii")).derive(gateway.secret.raw)
    return Sealer(key, gateway.list_topic)
