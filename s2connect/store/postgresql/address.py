"""URL of a PostgreSQL database: what it may be, and how it is shown. Needs no psycopg."""

from __future__ import annotations

import importlib.util
from urllib.parse import parse_qsl, unquote, urlsplit

from s2connect.errors import ConfigurationError

STORE_VARIABLE = "S2CONNECT_STORE"
"""Environment variable with the URL of the database, which comes before the settings and may have a password."""

SCHEMES = ("postgresql://", "postgres://")

_EXAMPLE = "A database is named like postgresql://user@host:5432/name?sslmode=verify-full."


def is_postgresql(text: str) -> bool:
    """Return whether a setting names a PostgreSQL database."""
    return text.startswith(SCHEMES)


def check_url(text: str) -> str:
    """Return the URL of a database as it is. Raises ConfigurationError, whose text never has the URL's password."""
    try:
        if not is_postgresql(text) or any(character.isspace() or not character.isprintable() for character in text):
            raise ValueError
        parts = urlsplit(text)
        if parts.fragment or not parts.path.strip("/"):
            raise ValueError
        for part in (parts.netloc, parts.path, parts.query):
            unquote(part, errors="strict")
    except ValueError:
        raise ConfigurationError("This is no URL of a PostgreSQL database.", hint=_EXAMPLE) from None
    return text


def shown(url: str) -> str:
    """Return the URL for people: user, hosts and database, without password and parameters."""
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return f"postgresql://{name + '@' if name else ''}{hosts}{parts.path}"


def has_password(url: str) -> bool:
    """Return whether the URL holds a password, of the user or of a key file."""
    parts = urlsplit(url)
    return ":" in parts.netloc.rpartition("@")[0] or any(
        name.lower() in ("password", "sslpassword") for name, _ in parse_qsl(parts.query, keep_blank_values=True)
    )


def without_password(url: str) -> str:
    """Return the URL without passwords, and otherwise as it is."""
    if not has_password(url):
        return url
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    query = "&".join(
        one for one in parts.query.split("&") if one.partition("=")[0].lower() not in ("password", "sslpassword")
    )
    return parts._replace(netloc=f"{user.partition(':')[0]}{at}{hosts}", query=query).geturl()


def require_extra() -> None:
    """Raise ConfigurationError where the extra ``postgresql`` is not installed."""
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigurationError(
            "A store in PostgreSQL needs a package that is not installed.",
            hint="Install it with: pip install 's2connect[postgresql]'",
        )
