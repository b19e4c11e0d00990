"""URL of a PostgreSQL database: what it may be, and how it is shown. Needs no psycopg."""

from __future__ import annotations

import importlib.util
import os
from urllib.parse import unquote, urlsplit

from s2connect.errors import ConfigurationError, UsageError

STORE_VARIABLE = "S2CONNECT_STORE"
"""Environment variable with the URL of the database, which comes before the settings and may have a password."""

SCHEMES = ("postgresql://", "postgres://")

MAX_PORT = 65535

_EXAMPLE = "A database is named like postgresql://user@host:5432/name?sslmode=verify-full."
_ESCAPES = "In a password, @ is written %40, / %2F, : %3A, # %23, ? %3F and % %25."


def is_postgresql(text: str) -> bool:
    """Return whether a setting names a PostgreSQL database."""
    return text.startswith(SCHEMES)


def check_url(text: str) -> str:
    """Return the URL of a database as it is. Raises ConfigurationError, whose text never has the URL's password."""
    what = _fault_of(text)
    if what is not None:
        hint = f"{_EXAMPLE} {_ESCAPES}" if "@" in text else _EXAMPLE
        raise ConfigurationError(what, hint=hint)
    return text


def _fault_of(text: str) -> str | None:
    """Return what is wrong with a URL, without anything of it; None where nothing is."""
    nonsense = "This is no URL of a PostgreSQL database."
    if not is_postgresql(text) or any(character.isspace() or not character.isprintable() for character in text):
        return nonsense
    try:
        parts = urlsplit(text)
        for part in (parts.netloc, parts.path, parts.query):
            unquote(part, errors="strict")
    except ValueError:
        return nonsense
    if parts.fragment:
        return nonsense
    if not parts.path.strip("/"):
        return "The URL names no database: it ends with the name of one, such as /s2."
    if parts.netloc.count("@") > 1 or "@" in parts.path:
        # A password that ends too early would be taken for a host or a name, and be shown.
        return "The URL of the database has an @ where none can be; is it or a / in the password?"
    ports = (host.rpartition("]")[2].partition(":")[2] for host in parts.netloc.rpartition("@")[2].split(","))
    if not all(port == "" or (port.isascii() and port.isdecimal() and 0 < int(port) <= MAX_PORT) for port in ports):
        return "The port in the URL of the database is no number from 1 to 65535."
    return None


def shown(url: str) -> str:
    """Return the URL for people: user, hosts and database, without password and parameters."""
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return f"postgresql://{name + '@' if name else ''}{hosts}{parts.path}"


def has_password(url: str) -> bool:
    """Return whether the URL holds a password, of the user or of a key file."""
    parts = urlsplit(url)
    return ":" in parts.netloc.rpartition("@")[0] or any(map(_is_secret, parts.query.split("&")))


def without_password(url: str) -> str:
    """Return the URL without passwords, and otherwise as it is."""
    if not has_password(url):
        return url
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    query = "&".join(one for one in parts.query.split("&") if not _is_secret(one))
    authority = f"{user.partition(':')[0]}{at}{hosts}"
    # Not by urlunsplit, which leaves the slashes out where there is no host.
    return f"{parts.scheme}://{authority}{parts.path}{'?' if query else ''}{query}"


def _is_secret(parameter: str) -> bool:
    return unquote(parameter.partition("=")[0]).lower() in ("password", "sslpassword")


def given_url(text: str) -> str:
    """Return the URL of an argument, with the password that the environment has for it.

    Raises:
        ConfigurationError: It is no URL of a database.
        UsageError: It holds a password, which every user of the machine could see.
    """
    if has_password(check_url(text)):
        raise UsageError(
            "A password in an argument shows to every user of this machine.",
            hint=f"Give the URL with its password in {STORE_VARIABLE}, or the password in PGPASSWORD.",
        )
    kept = os.environ.get(STORE_VARIABLE, "")
    return kept if without_password(kept) == text else text


def require_extra() -> None:
    """Raise ConfigurationError where the extra ``postgresql`` is not installed."""
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigurationError(
            "A store in PostgreSQL needs a package that is not installed.",
            hint="Install it with: pip install 's2connect[postgresql]'",
        )
