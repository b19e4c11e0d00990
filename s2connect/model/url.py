"""URLs of S2 Connect as types that cannot hold a wrong one (VER-03)."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import idna
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from s2connect.errors import InvalidUrl
from s2connect.model.alphabet import with_plain_dashes
from s2connect.model.text import for_display

_log = logging.getLogger(__name__)

MAX_URL_CHARACTERS = 2048
"""Longest URL that is read from anywhere."""

PAIRING_PATH = "/pairing/"
"""Path of the pairing API of our servers, and of a pairing URL that a person typed without one."""

PAIRING_PORT = 8443
"""Port of our servers, and of a pairing URL that a person typed without one."""

_CODE_IN_GROUPS = re.compile(r"(?=.*\d)(?:\w{1,8}[- ])?[0-9a-z]{4}(?:[- ]?[0-9a-z]{4}){1,4}", re.ASCII | re.IGNORECASE)
_CODE_IN_CAPITALS = re.compile(r"(?=.{6})[0-9A-Z]+(?:[- ][0-9A-Z]{4,})*", re.ASCII)
_VERSION_SEGMENT = re.compile(r"(?<!/)/v\d+/?$")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\<>\"{}|^`]")
_AFTER_BRACKET = re.compile(r"\][^:]")


@lru_cache(256)
def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address in place of a host name, without its zone; None for a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


def is_public_address(text: str) -> bool:
    """Return whether an IP address is one of the internet.

    Private, shared, link-local, loopback, multicast, reserved and unspecified addresses are not, nor are IPv6 addresses
    that lead to such an IPv4 address (mapped, 6to4, NAT64). What is no address is not public.
    """
    if (address := address_of(text)) is None:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None:
            return address in _GLOBAL_UNICAST and address.is_global and address.teredo is None
        address = inner
    return address.is_global and not address.is_multicast


_LOCAL = [
    ipaddress.ip_network(each)
    for each in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
] + [ipaddress.ip_network(each) for each in ("::1/128", "fe80::/10", "fc00::/7")]


def is_local_address(text: str) -> bool:
    """Return whether an IP address is one that only a local network has.

    Others are neither public nor local: Teredo and 6to4, for instance, come from the internet.
    """
    address = address_of(text)
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return address is not None and any(address in network for network in _LOCAL)


def _is_local(host: str) -> bool:
    """Return whether a host is in the local network: by its name, or an address that is not of the internet."""
    if address_of(host) is not None:
        return not is_public_address(host)
    return host.endswith(".local") or "." not in host


def host_as_ascii(host: str) -> str:
    """Return a host name in lower case and, where it is international, as IDNA A-label (HMAC-02).

    Raises:
        InvalidUrl: It is no possible host name.
    """
    lowered = host.rstrip(".").lower()
    if lowered and lowered.isascii():
        return lowered
    try:
        return idna.encode(lowered, uts46=True).decode("ascii")
    except idna.IDNAError:
        raise InvalidUrl("The host name of the URL is empty or cannot be written in ASCII.") from None


def looks_like_code(text: str) -> bool:
    """Return whether a person typed a pairing code rather than a URL: groups of four, or capitals, without a dot."""
    text = with_plain_dashes(text.strip())
    return bool(_CODE_IN_GROUPS.fullmatch(text) or _CODE_IN_CAPITALS.fullmatch(text))


def looks_like_url(text: str) -> bool:
    """Return whether a person typed a URL rather than a pairing code, in which no such characters are."""
    return bool(re.search(r"[/:.\[\]]", text))


class _Url(str):
    """A checked absolute URL of one of a few schemes.

    Attributes:
        host: Host name in lower case as IDNA A-label, or an address without brackets.
        port: TCP port; where the URL names none, that of its scheme.
    """

    __slots__ = ("host", "port")
    ports: ClassVar[Mapping[str, int]] = {}
    """The schemes, each with the port where the URL names none."""
    takes_query: ClassVar[bool] = True
    host: str
    port: int

    def __new__(cls, text: str) -> Self:
        text = cls._mended(text)
        if len(text) > MAX_URL_CHARACTERS:
            raise InvalidUrl(f"The URL is longer than {MAX_URL_CHARACTERS} characters.")
        if _FORBIDDEN.search(text):
            raise InvalidUrl("The URL contains a character that no URL has.")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise InvalidUrl("This is not a URL.") from None
        if parts.scheme not in cls.ports:
            raise InvalidUrl(f"The URL does not start with {' or '.join(f'{scheme}://' for scheme in cls.ports)}.")
        if not host or _AFTER_BRACKET.search(parts.netloc):
            raise InvalidUrl("The URL names no host.")
        if parts.username is not None or parts.password is not None:
            raise InvalidUrl("The URL must not contain a user name or password.")
        if "?" in text and not cls.takes_query:
            raise InvalidUrl("The URL must not contain a query ('?').")
        if "#" in text:
            raise InvalidUrl("The URL must not contain a fragment ('#').")
        if port == 0:
            raise InvalidUrl("Port 0 is no address.")
        self = super().__new__(cls, text)
        self.host = host_as_ascii(host)
        self.port = port or cls.ports[parts.scheme]
        return self

    @classmethod
    def _mended(cls, text: str) -> str:
        """Add parts that only this kind of URL may lack."""
        return text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> _Url:
            if isinstance(value, str):
                try:
                    return cls(value)
                except InvalidUrl as error:
                    raise PydanticCustomError(
                        "url", "{what}", {"what": f"cannot be used: {error.what.rstrip('.')}"}
                    ) from None
            raise PydanticCustomError("url", "{what}", {"what": "is not a text"})

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


class BaseUrl(_Url):
    """Base URL of an API: ``https://``, a slash at the end, no version segment, no query (VER-03).

    The slash is added where it is missing: the standard demands it of the pairing URL only. A version at the end is
    left out, with a warning in the log (S2C-41).
    """

    __slots__ = ()
    ports: ClassVar[Mapping[str, int]] = {"https": 443}
    takes_query = False

    def __new__(cls, text: str) -> Self:
        """Read a URL. Raises InvalidUrl with what is wrong with it."""
        self = super().__new__(cls, text)
        if len(self) < len(text):
            _log.warning("A URL names a version of the API at its end, which is left out: %s", for_display(self, 200))
        return self

    @classmethod
    def _mended(cls, text: str) -> str:
        if "?" in text or "#" in text:
            return text
        text = _VERSION_SEGMENT.sub("/", text)
        return text if text.endswith("/") else f"{text}/"

    @classmethod
    def from_user(cls, text: str) -> Self:
        """Read what a person typed or pasted: white space, a missing ``https://`` or slash and a version are mended.

        Raises:
            InvalidUrl: It cannot be understood, or asks for plain HTTP.
        """
        text = text.strip()
        if "://" not in text:
            text = f"https://{text}"
        if text.lower().startswith("http://"):
            raise InvalidUrl("S2 Connect never uses plain http.", hint="Type the URL with https:// in front.")
        return cls(_VERSION_SEGMENT.sub("/", text))

    @classmethod
    def of_pairing(cls, text: str) -> Self:
        """Read a pairing URL that a person typed or pasted. What :meth:`from_user` mends is mended, and more is added.

        Without a path it is that of our servers, as is the port then. A host in the local network without ``https://``
        gets that port, too. All else is as the other side shows it.

        Raises:
            InvalidUrl: It cannot be understood, asks for plain HTTP, or is a pairing code.
        """
        text = text.strip()
        if looks_like_code(text):
            raise InvalidUrl(
                "That looks like a pairing code, and the pairing URL is needed first.",
                hint="The other side shows it beside the code; it looks like https://name.local:8443/pairing/.",
            )
        if isinstance(address_of(text), ipaddress.IPv6Address):
            text = f"[{text}]"
        url = cls.from_user(text)
        if "://" in text and urlsplit(text).path:
            return url  # whole: a base URL may have no path but its slash
        parts = urlsplit(url)
        authority, path = parts.netloc.rstrip(":"), parts.path
        typed_bare = "://" not in text and _is_local(url.host)
        if parts.port is None and (path == "/" or typed_bare):
            authority = f"{authority}:{PAIRING_PORT}"
        return cls(f"https://{authority}{PAIRING_PATH if path == '/' else path}")

    def operation(self, version: str, name: str) -> str:
        """URL of one operation, e.g. ``…/pairing/v1/requestPairing``."""
        return f"{self}{version}/{name}"


class WebSocketUrl(_Url):
    """URL of a WebSocket, ``wss://`` only (WS-01)."""

    __slots__ = ()
    ports: ClassVar[Mapping[str, int]] = {"wss": 443}


class MqttUrl(_Url):
    """URL of a broker, ``mqtts://`` for MQTT over TLS or ``wss://`` for MQTT over WebSocket (MQ-02)."""

    __slots__ = ()
    ports: ClassVar[Mapping[str, int]] = {"mqtts": 8883, "wss": 443}

    @property
    def is_websocket(self) -> bool:
        """True if MQTT travels in a WebSocket."""
        return self[:6].lower() == "wss://"


class UnencryptedWebSocketUrl(_Url):
    """URL of a WebSocket without TLS, ``ws://``: plain S2 only, S2 Connect has no such thing (WS-01)."""

    __slots__ = ()
    ports: ClassVar[Mapping[str, int]] = {"ws": 80}
