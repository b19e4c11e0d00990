"""The pairing token, the alias and the code that a person carries from one device to the other (TOK)."""

from __future__ import annotations

import math
import re
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Literal
from uuid import UUID

from s2connect.errors import InvalidPairingCode
from s2connect.model.alphabet import ALPHABET, MAX_ALIAS_CHARACTERS, in_our_alphabet, with_plain_dashes
from s2connect.model.common import NodeId
from s2connect.model.secret import Secret
from s2connect.model.url import looks_like_url

MIN_DYNAMIC_CHARACTERS = 4
"""TOK-01."""
MIN_STATIC_CHARACTERS = 6
"""TOK-01."""
MAX_TOKEN_CHARACTERS = 128
"""Longest token that is read; the standard has no bound."""
DYNAMIC_LIFETIME = 300.0
"""TOK-02: seconds until a dynamic token expires."""
MAX_FAILED_ATTEMPTS = 5
"""TOK-05: failed attempts after which a short dynamic token is withdrawn; for other tokens the user is notified."""
STRONG_BITS = 60.0
"""TOK-05: bits from which failures do not withdraw a token; otherwise any stranger could prevent all pairing."""

TOKEN_CHARACTERS = 12
"""TOK-05: 12 of 32 characters are 60 bits. With the longest alias and its dash that is 16 characters to type."""
GROUP = 4
"""Characters of our tokens that are shown together."""

VERSION: Final = 1
"""Version of :meth:`TokenTable.dump`."""

_CLASSES = (string.digits, string.ascii_lowercase, string.ascii_uppercase)

_CODE = re.compile(r"(?:([0-9a-zA-Z]+)-)?([0-9a-zA-Z]{4,})", re.ASCII)
_TOKEN = re.compile(r"[0-9a-zA-Z]{4,128}", re.ASCII)
_DRAWN = f"[{ALPHABET}]{{{GROUP}}}"
_OURS = re.compile(
    rf"(?:([0-9A-Z]{{1,{MAX_ALIAS_CHARACTERS}}})-)?({'-?'.join([_DRAWN] * (TOKEN_CHARACTERS // GROUP))})"
)
_OURS_WITH_BLANK = re.compile(rf"([0-9A-Z]{{1,{MAX_ALIAS_CHARACTERS}}}) ([{ALPHABET} -]+)")
"""The same where a blank stands in place of the dash after the alias."""
_MAX_TYPED = 4 * MAX_TOKEN_CHARACTERS
"""Longest text that is looked at, with its blanks."""


_NO_CODE = "This is not a pairing code."


class PairingToken(Secret):
    """The secret part of a pairing code. It never travels and is never logged (TOK-06)."""

    __slots__ = ("_drawn",)
    min_characters = MIN_DYNAMIC_CHARACTERS

    def __init__(self, value: str) -> None:
        """Take over a token.

        Raises:
            ValueError: It breaks TOK-01; the text does not repeat it.
        """
        if not _TOKEN.fullmatch(value):
            raise ValueError("not a valid pairing token")
        super().__init__(value)
        self._drawn = False

    @classmethod
    def generate(cls) -> PairingToken:
        """Draw a token from the operating system's random numbers (TOK-01, TOK-05)."""
        token = cls("".join(secrets.choice(ALPHABET) for _ in range(TOKEN_CHARACTERS)))
        token._drawn = True
        return token

    @property
    def strong(self) -> bool:
        """True if the token has :data:`STRONG_BITS` bits (TOK-05); estimated for tokens that were not drawn here.

        The estimate is low on purpose: different characters, times the bits of one of the kinds of characters used.
        """
        if self._drawn:
            return True
        used = set(self.reveal())
        kinds = sum(len(kind) for kind in _CLASSES if used & set(kind))
        return len(used) * math.log2(kinds) >= STRONG_BITS


@dataclass(frozen=True, slots=True)
class PairingCode:
    """Code that a person reads on the responder and types at the initiator. ``str()`` shows it, ``repr()`` does not.

    Attributes:
        token: The secret part.
        alias: Which node of the endpoint is meant; not secret.
        expires_in: Seconds it lives from its issue; None for a static or a typed one.
        other_token: For a typed code that can be read in two ways, the token by the other one (errata S2C-46).
    """

    token: PairingToken
    alias: str | None = None
    expires_in: float | None = None
    other_token: PairingToken | None = None

    @classmethod
    def parse(cls, text: str) -> PairingCode:
        """Read a code that a person typed (TOK-04); white space is dropped, and any dash is one.

        One in the form of ours is read whatever its case and grouping, with O for 0, and I and L for 1. Others are case
        sensitive. Where a text may be either, :attr:`tokens` has both.

        Raises:
            InvalidPairingCode: It is none.
        """
        standard, ours = _as_standard(text), _as_ours(text)
        if ours is None:
            if standard is None:
                if looks_like_url(text):
                    raise InvalidPairingCode(
                        "That looks like a URL, and the pairing code is needed here.",
                        hint="The other side shows it beside the URL: letters and digits.",
                    )
                raise InvalidPairingCode(_NO_CODE)
            return cls(PairingToken(standard[1]), standard[0])
        token = PairingToken(ours[1])
        if standard is None:
            return cls(token, ours[0])
        if len(standard[1]) != TOKEN_CHARACTERS:
            # One dash in the middle of ours makes an alias and a token of another maker; a blank does not.
            return cls(PairingToken(standard[1]), standard[0]) if standard[0] else cls(token, ours[0])
        verbatim = PairingToken(standard[1])
        if verbatim == token:
            return cls(token, standard[0])
        if not standard[1].islower() and not standard[1].isupper():  # mixed case: nobody reads ours like that
            return cls(verbatim, standard[0], other_token=token)
        return cls(token, standard[0], other_token=verbatim)

    @classmethod
    def chosen(cls, text: str) -> PairingToken:
        """Return the token that a user has chosen, as it was typed; InvalidPairingCode if it is none."""
        standard = _as_standard(text)
        return cls.parse(text).token if standard is None else PairingToken(standard[1])

    @property
    def tokens(self) -> tuple[PairingToken, ...]:
        """The tokens that it may stand for, the likelier one first."""
        return (self.token,) if self.other_token is None else (self.token, self.other_token)

    @property
    def shown(self) -> str:
        """The code as it is shown to people: see :func:`in_groups`."""
        return in_groups(str(self))

    def __str__(self) -> str:
        return f"{self.alias}-{self.token.reveal()}" if self.alias else self.token.reveal()


def in_groups(code: str) -> str:
    """Return a code with a blank after every four characters of a token of our form; others as they are."""
    alias, dash, token = code.rpartition("-")
    if len(token) != TOKEN_CHARACTERS or not set(token) <= set(ALPHABET):
        return code
    groups = (token[at : at + GROUP] for at in range(0, TOKEN_CHARACTERS, GROUP))
    return f"{alias}{dash}{' '.join(groups)}"


def _as_standard(text: str) -> tuple[str | None, str] | None:
    """Return alias and token of a code of the standard (TOK-04), otherwise None."""
    if len(text) > _MAX_TYPED:
        return None
    found = _CODE.fullmatch("".join(with_plain_dashes(text).split()))
    return (found[1], found[2]) if found and max(map(len, found.groups(""))) <= MAX_TOKEN_CHARACTERS else None


def _as_ours(text: str) -> tuple[str | None, str] | None:
    """Return alias and token of a text in the form of our codes, otherwise None."""
    if len(text) > _MAX_TYPED:
        return None
    folded = in_our_alphabet(" ".join(with_plain_dashes(text).split()))
    found = _OURS.fullmatch(folded.replace(" ", "")) or _OURS_WITH_BLANK.fullmatch(folded)
    if found is None:
        return None
    token = found[2].replace("-", "").replace(" ", "")
    return (found[1], token) if len(token) == TOKEN_CHARACTERS else None


_NO_TOKEN = PairingToken("0000")
"""Token of what is void from the beginning."""


class AfterFailure(Enum):
    """Effect of a failed attempt on its token (TOK-05)."""

    NOTHING = auto()
    WITHDRAWN = auto()  # it was short
    TELL = auto()  # it stays valid; the user is notified, once


@dataclass(slots=True)
class IssuedToken:
    """A token of one of our nodes, with the facts that decide about its validity.

    A dynamic token is reserved while a pairing with it is being stored: one token makes one pairing (TOK-05). It is
    void once it has been spent or withdrawn; that it expires or is replaced does not end what began with it (TOK-02).
    """

    token: PairingToken
    expires_at: float | None
    failed_attempts: int = 0
    reserved: bool = False
    void: bool = False
    serial: int = 0  # its name among the tokens of the node

    @property
    def static(self) -> bool:
        """Static tokens neither expire nor are they spent (TOK-02)."""
        return self.expires_at is None

    def lives(self, now: float) -> bool:
        return self.expires_at is None or now < self.expires_at


TokenState = Literal["none", "valid", "static", "used", "expired", "withdrawn"]
"""State of a node's own token: the dynamic one while it is valid, else the static one, else the end of the last one."""


class TokenTable:
    """The tokens of one node: at most one dynamic and one static of its own, and those typed here for other nodes."""

    def __init__(self) -> None:
        self._dynamic: IssuedToken | None = None
        self._static: IssuedToken | None = None
        self._last_end: Literal["", "used", "withdrawn"] = ""
        self._typed: dict[NodeId, IssuedToken] = {}
        self._last_serial = 0
        self._former: dict[int, tuple[IssuedToken, float | None]] = {}  # loaded, with the time until which it is kept

    def dump(self, *, now: float, keep: float) -> dict[str, Any]:
        """Return the table as a plain JSON value. It holds secrets.

        Tokens that do not count any more are kept for ``keep`` seconds, because attempts that began with them go on.
        A token whose pairing is being stored is written as free, because only that outlives the storing.
        """
        current = {each.serial: each for each in (self._dynamic, self._static, *self._typed.values()) if each}
        former = {
            serial: (each, now + keep if until is None else until)
            for serial, (each, until) in self._former.items()
            if serial not in current and (until is None or until > now)
        }
        tokens = {serial: (each, None) for serial, each in current.items()} | former
        return {
            "version": VERSION,
            "last_serial": self._last_serial,
            "last_end": self._last_end,
            "dynamic": self._dynamic and self._dynamic.serial,
            "static": self._static and self._static.serial,
            "typed": {str(client): typed.serial for client, typed in self._typed.items()},
            "tokens": [
                [
                    serial,
                    each.token.reveal(),
                    each.token._drawn,
                    each.expires_at,
                    each.failed_attempts,
                    each.void,
                    until,
                ]
                for serial, (each, until) in tokens.items()
            ],
        }

    @classmethod
    def load(cls, value: Mapping[str, Any]) -> TokenTable:
        """Return the table of :meth:`dump`.

        Raises:
            ValueError: It is of another version.
        """
        if value.get("version") != VERSION:
            raise ValueError("the codes of a node were written by another version")
        table = cls()
        table._last_serial, table._last_end = value["last_serial"], value["last_end"]
        for serial, text, drawn, expires_at, failed_attempts, void, until in value["tokens"]:
            token = PairingToken(text)
            token._drawn = drawn
            table._former[serial] = IssuedToken(token, expires_at, failed_attempts, void=void, serial=serial), until
        if value["dynamic"] is not None:
            table._dynamic = table.issued(value["dynamic"])
        if value["static"] is not None:
            table._static = table.issued(value["static"])
        table._typed = {NodeId(UUID(client)): table.issued(serial) for client, serial in value["typed"].items()}
        return table

    def issued(self, serial: int) -> IssuedToken:
        """Return a token of a loaded table by its serial number; a void one where it is not kept any more."""
        known = self._former.get(serial)
        return known[0] if known is not None else IssuedToken(_NO_TOKEN, None, void=True)

    def _numbered(self, issued: IssuedToken) -> IssuedToken:
        self._last_serial += 1
        issued.serial = self._last_serial
        return issued

    def issue(self, token: PairingToken, *, now: float, lifetime: float | None = DYNAMIC_LIFETIME) -> IssuedToken:
        """Issue a token; ``lifetime`` in seconds, None makes it static. It replaces an earlier one of its kind.

        What the user asked for last counts: a static token takes the place of the dynamic one (errata S2C-06). Attempts
        that began with one that is replaced go on (TOK-02).

        Raises:
            InvalidPairingCode: A static token shorter than six characters (TOK-01).
        """
        if lifetime is None:
            if len(token.reveal()) < MIN_STATIC_CHARACTERS:
                raise InvalidPairingCode(
                    "A static pairing code is too short.", hint=f"It needs {MIN_STATIC_CHARACTERS} characters."
                )
            self._static, self._dynamic = self._numbered(IssuedToken(token, None)), None
            return self._static
        self._dynamic, self._last_end = self._numbered(IssuedToken(token, now + lifetime)), ""
        return self._dynamic

    @property
    def has_static(self) -> bool:
        """True if there is a static token, also while a dynamic one counts instead."""
        return self._static is not None

    def state(self, *, now: float) -> TokenState:
        """Return the state of the node's own token."""
        if self._dynamic is not None and self._dynamic.lives(now):
            return "valid"
        if self._static is not None:
            return "static"
        return self._last_end or ("none" if self._dynamic is None else "expired")

    def expect(self, client: NodeId, token: PairingToken, *, now: float, lifetime: float = DYNAMIC_LIFETIME) -> None:
        """Accept a token that the user entered here, as the initiator, for one client node only (ROLE-03 b).

        It replaces an earlier one for that node. It expires, is spent by a pairing, and failures withdraw a short one.
        """
        self._typed = {node: typed for node, typed in self._typed.items() if typed.lives(now)}
        self._typed[client] = self._numbered(IssuedToken(token, now + lifetime))

    def expects(self, client: NodeId, *, now: float) -> bool:
        """Return whether a token typed for this client node counts now."""
        typed = self._typed.get(client)
        return typed is not None and typed.lives(now)

    def withdraw_expected(self, client: NodeId) -> None:
        """Withdraw what was typed for a client node."""
        typed = self._typed.pop(client, None)
        if typed is not None:
            typed.void = True

    def valid(self, *, now: float, client: NodeId | None = None) -> IssuedToken | None:
        """Return the token that counts at ``now``: typed for this client, else dynamic while it lives, else static.

        Only one can count, because the server has to answer the client's challenge before it knows what was typed.
        """
        typed = self._typed.get(client) if client is not None else None
        return next((each for each in (typed, self._dynamic) if each is not None and each.lives(now)), self._static)

    def spend(self, issued: IssuedToken) -> None:
        """Spend the token of a pairing: a dynamic one ends (TOK-05), and one typed for the client."""
        if not issued.static:
            self._end(issued, "used")

    def failed(self, issued: IssuedToken) -> AfterFailure:
        """Count a failed attempt, and return its effect on the node's own token (TOK-05)."""
        issued.failed_attempts += 1
        if issued.failed_attempts < MAX_FAILED_ATTEMPTS or issued.void:
            return AfterFailure.NOTHING
        if not issued.static and not issued.token.strong:
            own = issued is self._dynamic
            self._end(issued)
            return AfterFailure.WITHDRAWN if own else AfterFailure.NOTHING
        counts = any(issued is own for own in (self._dynamic, self._static, *self._typed.values()))
        tell = counts and issued.failed_attempts == MAX_FAILED_ATTEMPTS
        return AfterFailure.TELL if tell else AfterFailure.NOTHING

    def withdraw(self) -> None:
        """Withdraw the dynamic token."""
        if self._dynamic is not None:
            self._end(self._dynamic)

    def _end(self, issued: IssuedToken, why: Literal["used", "withdrawn"] = "withdrawn") -> None:
        issued.void = True
        if issued is self._dynamic:
            self._dynamic, self._last_end = None, why
        self._typed = {client: typed for client, typed in self._typed.items() if typed is not issued}
