"""Secrets as types: they do not show in a repr, a log line or an exception (SEC-01)."""

from __future__ import annotations

import base64
import contextlib
import hmac
import re
from typing import Any, ClassVar, NoReturn, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

TOKEN_BYTES = 32
"""PAIR-08, SES-02, SES-04: random bytes of the access tokens and WebSocket tokens that we issue."""

MIN_CHALLENGE_BYTES = 32
"""HMAC-01: a challenge has at least 32 bytes."""

MIN_ATTEMPT_ID_CHARACTERS = 32
"""PAIR-03: a pairing attempt id has at least 32 characters."""

MAX_SECRET_CHARACTERS = 4096
"""Longest secret read from a peer (SES-04); ten times what any implementation sends."""

_VISIBLE = re.compile(r"[!-~]+")


class Secret:
    """A string that shows in no repr, log line or exception. ``reveal()`` returns its value.

    Equality takes constant time. Pydantic reads it from a string and writes it as one.
    """

    __slots__ = ("_value",)
    min_characters: ClassVar[int] = 1
    described: ClassVar[str] = "a text"
    """Description of valid values, for error messages."""

    def __init__(self, value: str) -> None:
        """Take over the value.

        Raises:
            ValueError: Too short, too long or not ASCII; the text does not repeat the value.
        """
        if not self.min_characters <= len(value) <= MAX_SECRET_CHARACTERS or not value.isascii():
            raise ValueError(f"not a valid {type(self).__name__}")
        self._value = value

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Encode random bytes; they come from the caller, so that cores need no randomness of their own."""
        return cls(base64.b64encode(raw).decode("ascii"))

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode("utf-8"), other._value.encode("utf-8"))

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    __str__ = __repr__

    def __copy__(self, _memo: object = None) -> Self:
        return self

    __deepcopy__ = __copy__

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse to be pickled: a pickle holds the value in the clear."""
        raise TypeError(f"a {type(self).__name__} is not pickled")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> Secret:
            if isinstance(value, cls):
                return value
            if isinstance(value, str):
                try:
                    return cls(value)
                except ValueError:
                    pass
            raise PydanticCustomError("secret", "{what}", {"what": f"is not {cls.described}"})

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(cls.reveal)
        )


class Base64Secret(Secret):
    """Random bytes in standard Base64 with padding. White space in what a peer sends is dropped."""

    __slots__ = ("_raw",)
    min_bytes: ClassVar[int] = 1
    described = "Base64"

    def __init__(self, value: str) -> None:
        text = "".join(value.split())
        super().__init__(text)
        self._raw = b""
        with contextlib.suppress(ValueError):
            self._raw = base64.b64decode(text, validate=True)
        if len(self._raw) < self.min_bytes:
            raise ValueError(f"not a valid {type(self).__name__}")

    @property
    def raw(self) -> bytes:
        """The decoded bytes."""
        return self._raw


class BearerToken(Secret):
    """Bearer token of a request: visible ASCII, opaque to all but its issuer (SES-04).

    Line breaks in it, as some encoders of Base64 write them, and white space around its lines are dropped.
    """

    __slots__ = ()
    described = f"a text of 1 to {MAX_SECRET_CHARACTERS} visible ASCII characters"

    def __init__(self, value: str) -> None:
        text = "".join(line.strip() for line in value.splitlines())
        if not _VISIBLE.fullmatch(text):
            raise ValueError(f"not a valid {type(self).__name__}")
        super().__init__(text)


TOKEN_ENTROPY = 32
"""Random bytes for an access token (PAIR-08, SES-02)."""


class AccessToken(BearerToken):
    """One-time token of the communication client for the next session (PAIR-08)."""

    __slots__ = ()


class CommunicationToken(BearerToken):
    """Token for one WebSocket connection (SES-04)."""

    __slots__ = ()


class HmacChallenge(Base64Secret):
    """A nonce of one side of a pairing attempt (HMAC-01)."""

    __slots__ = ()
    min_bytes = MIN_CHALLENGE_BYTES
    described = f"Base64 of at least {MIN_CHALLENGE_BYTES} bytes"


class HmacChallengeResponse(Base64Secret):
    """The answer to a challenge (HMAC-02)."""

    __slots__ = ()


class PairingAttemptId(BearerToken):
    """Bearer of the later requests of one pairing attempt (PAIR-03). Opaque to the client."""

    __slots__ = ()
    min_characters = MIN_ATTEMPT_ID_CHARACTERS
    described = f"a text of {MIN_ATTEMPT_ID_CHARACTERS} to {MAX_SECRET_CHARACTERS} visible ASCII characters"
