"""HTTP proxies towards the internet: which one, and for which hosts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from s2connect.errors import ConfigurationError
from s2connect.model.secret import Secret
from s2connect.model.url import address_of

DEFAULT_PORT = 80


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that lets connections through (CONNECT); what goes through it is encrypted end to end."""

    host: str
    port: int
    credentials: Secret | None = None
    """``user:password``, percent-encoded as in a URL."""

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Read ``http://[user:password@]host[:port]``; the scheme may be left out.

        Raises:
            ConfigurationError: It is something else; the text does not repeat it, for it may hold a password.
        """
        try:
            parts = urlsplit(url.strip() if "://" in url else f"http://{url.strip()}")
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError:
            parts, host, port = urlsplit(""), None, 0
        if parts.scheme != "http" or not host or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ConfigurationError(
                "The URL of the proxy cannot be used.", hint="It looks like http://proxy.example:3128."
            )
        credentials = parts.netloc.rpartition("@")[0]
        return cls(host, port, Secret(credentials) if credentials else None)

    @property
    def address(self) -> str:
        """Address of the proxy, for people."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def reveal_url(self) -> str:
        """Return the URL with the credentials, for libraries."""
        user = f"{self.credentials.reveal()}@" if self.credentials is not None else ""
        return f"http://{user}{self.address}"

    def reveal_authorization(self) -> str | None:
        """Return the value of ``Proxy-Authorization``; None without credentials."""
        if self.credentials is None:
            return None
        return "Basic " + base64.b64encode(unquote(self.credentials.reveal()).encode("utf-8")).decode("ascii")


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxy of an endpoint, and the hosts that are reached without it.

    Attributes:
        proxy: The proxy, None for none.
        exceptions: Hosts; and domains, with or without a dot in front, whose hosts are excepted, too. ``*`` is all.
    """

    proxy: Proxy | None = None
    exceptions: tuple[str, ...] = ()

    @classmethod
    def of(cls, url: str | None, exceptions: Iterable[str], environment: Mapping[str, str]) -> Proxies:
        """As configured, otherwise as the environment has it (``HTTPS_PROXY``, ``NO_PROXY``, in either case).

        Raises:
            ConfigurationError: The URL cannot be used.
        """
        if url:
            return cls(Proxy.parse(url), tuple(exceptions))
        named = environment.get("https_proxy") or environment.get("HTTPS_PROXY")
        if not named:
            return cls()
        excepted = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
        return cls(Proxy.parse(named), (*exceptions, *(part.strip() for part in excepted.split(",") if part.strip())))

    def towards(self, host: str) -> Proxy | None:
        """Return the proxy for a host; None for what is in a local network, or is excepted."""
        name = host.lower().strip("[]").rstrip(".")
        if self.proxy is None or _is_local(name) or any(_is_of(name, one) for one in self.exceptions):
            return None
        return self.proxy


def _is_of(name: str, exception: str) -> bool:
    domain = exception.lower().strip("[]").removeprefix("*").lstrip(".").partition(":")[0]
    return exception == "*" or (bool(domain) and (name == domain or name.endswith(f".{domain}")))


def _is_local(name: str) -> bool:
    if (address := address_of(name)) is None:
        return "." not in name or name.endswith(".local")
    return not address.is_global
