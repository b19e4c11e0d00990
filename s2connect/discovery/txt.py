"""DNS-SD data of an endpoint: service names and the TXT record, as written and as read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from s2connect.errors import ConfigurationError, InvalidUrl
from s2connect.model.common import Deployment, Role
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl

SERVICE_TYPE = "_s2connect._tcp.local."
"""The service type (DISC-01)."""

SUBTYPES = {role: f"_{role.value.lower()}._sub.{SERVICE_TYPE}" for role in Role}
"""The subtype that says that an endpoint hosts a role (DISC-01)."""

TXT_VERSION = "1"
"""The one version of the TXT record (DISC-03)."""

MAX_ENTRY_BYTES = 255
"""Longest ``key=value`` of a TXT record (DISC-03)."""

_LOCAL_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)\.local", re.IGNORECASE)


class TxtRefused(ValueError):
    """A TXT record from the network is unusable. The text is clean enough for a log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Txt:
    """Content of the TXT record of an endpoint (DISC-03)."""

    name: str = ""
    logo_url: str | None = None
    pairing_url: BaseUrl | None = None
    longpolling_url: BaseUrl | None = None


def encode_txt(txt: Txt) -> bytes:
    """Write the record as it stands in DNS: each entry after one byte with its length.

    Raises:
        ConfigurationError: An entry is too long or no text, or both URLs are missing.
    """
    if txt.pairing_url is None and txt.longpolling_url is None:
        raise ConfigurationError("An advertisement needs a pairingUrl or a longpollingUrl.")
    values = {
        "txtver": TXT_VERSION,
        "e_name": txt.name,
        "e_logoUrl": txt.logo_url,
        "pairingUrl": txt.pairing_url,
        "longpollingUrl": txt.longpolling_url,
        "deployment": Deployment.LAN,  # an early implementation ignores records without it (errata S2C-33)
    }
    return b"".join(_entry(key, value) for key, value in values.items() if value)


def decode_txt(data: bytes) -> Txt:
    """Read a record from the network: whatever is malformed in it counts as absent.

    Keys count in any case, the first of equal ones wins, unknown ones are ignored, and ``txtvers`` is read where
    ``txtver`` is missing.

    Raises:
        TxtRefused: Another version or none, or no usable URL.
    """
    values: dict[bytes, str] = {}
    for key, value in _entries(data):
        with contextlib.suppress(UnicodeDecodeError):
            values.setdefault(key.lower(), value.decode("utf-8"))
    version = values.get(b"txtver", values.get(b"txtvers"))
    if version is None:
        raise TxtRefused("it does not name its version")
    if version != TXT_VERSION:
        raise TxtRefused(f"it is of version {for_display(version, 20)!r}")
    found = Txt(
        name=values.get(b"e_name", ""),
        logo_url=_web_url(values.get(b"e_logourl", "")),
        pairing_url=_base_url(values.get(b"pairingurl", "")),
        longpolling_url=_base_url(values.get(b"longpollingurl", "")),
    )
    if found.pairing_url is None and found.longpolling_url is None:
        raise TxtRefused("it has no usable URL")
    return found


def _entry(key: str, value: str) -> bytes:
    try:
        entry = f"{key}={value}".encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"The value of {key} is no text that can be advertised.") from None
    if len(entry) > MAX_ENTRY_BYTES:
        raise ConfigurationError(
            f"The value of {key} is too long to be advertised: "
            f"{len(entry)} bytes with its key, at most {MAX_ENTRY_BYTES}."
        )
    return bytes([len(entry)]) + entry


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position < len(data):
        end = position + 1 + data[position]
        key, separator, value = data[position + 1 : end].partition(b"=")
        if separator and key and end <= len(data):
            yield key, value
        position = end


def _base_url(text: str) -> BaseUrl | None:
    try:
        return BaseUrl(text)
    except InvalidUrl:
        return None


def _web_url(text: str) -> str | None:
    try:
        return text if urlsplit(text).scheme in ("https", "http") else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement(Txt):
    """Advertisement of this endpoint in the local network.

    Attributes:
        host: Its mDNS host name, one label and ``.local`` (VER-04); the first label is the instance name (DISC-01).
        port: TCP port of its server.
        roles: Roles of its nodes.
        name: Name for people.
        logo_url: Where a logo is.
        pairing_url: Base URL of the pairing API.
        longpolling_url: Base URL for endpoints without a server (DISC-05).

    Raises:
        ConfigurationError: The name or the port cannot be advertised, the TXT record is too long or without a URL, or
            there is a ``longpolling_url`` without a CEM (DISC-05).
    """

    host: str
    port: int
    roles: frozenset[Role]

    def __post_init__(self) -> None:
        if not _LOCAL_HOST.fullmatch(self.host):
            raise ConfigurationError(
                f"{for_display(self.host)!r} cannot be advertised as host name.",
                hint="Use letters, digits and dashes, followed by .local.",
            )
        if not 1 <= self.port <= 65535:
            raise ConfigurationError(f"{self.port} is no TCP port.")
        if self.longpolling_url is not None and Role.CEM not in self.roles:
            raise ConfigurationError("Only an endpoint with a CEM advertises a longpollingUrl.")
        encode_txt(self)

    @property
    def instance(self) -> str:
        """Instance name of the service (DISC-01)."""
        return self.host.partition(".")[0]

    @property
    def service(self) -> str:
        """Full name of the service in DNS."""
        return f"{self.instance}.{SERVICE_TYPE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundEndpoint(Txt):
    """An endpoint that was seen in the network. Its texts are hostile: show ``title``, compare the raw ones.

    The URL is where to reach it (DISC-04); host and addresses are only what DNS says about it besides.

    Attributes:
        instance: Instance name, unique in the network; equal for the same endpoint however often it is seen.
        name: ``e_name``, or an empty string.
        roles: From the subtypes it is published under.
        pairing_url: Base URL of its pairing API.
        longpolling_url: Base URL at which endpoints without a server wait.
        logo_url: Where a logo is.
        host: Host name of its SRV record, or an empty string while that is not known.
        addresses: Addresses of the host, link-local ones with their zone, best first.
    """

    instance: str
    roles: frozenset[Role]
    host: str
    addresses: tuple[str, ...]

    @property
    def title(self) -> str:
        """Name for a person, fit for a terminal."""
        return for_display(self.name) or for_display(self.instance)
