"""Access to the page: password, one-time links, sessions, and the limits of log-ins. No I/O; times are seconds."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from s2connect.errors import StorageUnavailable, UsageError

# Password

MIN_PASSWORD: Final = 8
"""Characters of a password at least."""

MAX_PASSWORD: Final = 256
"""Characters of a password at most."""

SALT_BYTES: Final = 16
SCRYPT: Final = (2**15, 8, 1)
"""N, r and p of new hashes: 32 MiB of memory and about a tenth of a second."""

_MAX_MEMORY: Final = 256 * 1024 * 1024  # for hashes that a later version made with more
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True, repr=False)
class PasswordHash:
    """A password as it is kept: its scrypt hash, with salt and parameters."""

    n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, password: str, salt: bytes) -> Self:
        """Hash a new password; UsageError if it is too short or too long. Takes a tenth of a second."""
        if not MIN_PASSWORD <= len(_normal(password)) <= MAX_PASSWORD:
            raise UsageError(f"A password of the page has {MIN_PASSWORD} to {MAX_PASSWORD} characters.")
        return cls(*SCRYPT, salt, _scrypt(password, salt, *SCRYPT))

    def matches(self, password: str) -> bool:
        """Return whether this is the password. Takes as long as making the hash did, whatever the result."""
        if len(password) > 4 * MAX_PASSWORD:  # before it is normalised
            password = ""
        return hmac.compare_digest(_scrypt(password, self.salt, self.n, self.r, self.p), self.digest)

    def to_json(self) -> bytes:
        """Return it as the content of a file."""
        salt, digest = (base64.b64encode(value).decode() for value in (self.salt, self.digest))
        found = {"scheme": "scrypt", "n": self.n, "r": self.r, "p": self.p, "salt": salt, "hash": digest}
        return json.dumps(found).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read the content of a file; StorageUnavailable if it is none of ours."""
        try:
            found = json.loads(content)
            if found["scheme"] != "scrypt":
                raise ValueError("another scheme")
            n, r, p = (int(found[name]) for name in ("n", "r", "p"))
            salt, digest = (base64.b64decode(found[name], validate=True) for name in ("salt", "hash"))
            if not (n > 1 and n & (n - 1) == 0 and r >= 1 and 1 <= p <= 16 and 128 * n * r <= _MAX_MEMORY // 2):
                raise ValueError("parameters out of bounds")
            if len(digest) != _DIGEST_BYTES or len(salt) < SALT_BYTES:
                raise ValueError("wrong lengths")
        except (ValueError, KeyError, TypeError):
            raise StorageUnavailable(
                "The file of the page's password is damaged.", hint="s2connect page password sets a new one."
            ) from None
        return cls(n, r, p, salt, digest)


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)  # keyboards write the same character in several ways


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    text = _normal(password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=n, r=r, p=p, maxmem=_MAX_MEMORY, dklen=_DIGEST_BYTES)


# One-time links

TOKEN_BYTES: Final = 32
"""Random bytes of the token of a link, of a session and of its forms."""

LINK_LIFETIME: Final = 600.0
"""Seconds for which a one-time link is valid."""

MAX_LINKS: Final = 16
"""Links that are valid at a time; a further one takes the place of the oldest."""


def _text(token: bytes) -> str:
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


class OneTimeLinks:
    """One-time links: the digests of their tokens, until they are used or expire."""

    def __init__(self) -> None:
        self._valid: OrderedDict[bytes, float] = OrderedDict()

    def issue(self, random: bytes, *, now: float) -> str:
        """Return the token of a new link, made of ``TOKEN_BYTES`` random bytes."""
        self._forget(now)
        while len(self._valid) >= MAX_LINKS:
            self._valid.popitem(last=False)
        token = _text(random)
        self._valid[_digest(token)] = now + LINK_LIFETIME
        return token

    def take(self, token: str, *, now: float) -> bool:
        """Use a link up; False if it is unknown, used or expired."""
        self._forget(now)
        return self._valid.pop(_digest(token), None) is not None

    def clear(self) -> None:
        """Make all links invalid."""
        self._valid.clear()

    def _forget(self, now: float) -> None:
        while self._valid and next(iter(self._valid.values())) <= now:
            self._valid.popitem(last=False)


# Sessions

IDLE_LIFETIME: Final = 12 * 3600.0
"""Seconds without a request after which a session ends. An open stream counts as a request."""

LIFETIME: Final = 7 * 86_400.0
"""Seconds after which a session ends in any case."""

MAX_SESSIONS: Final = 64
"""Sessions at a time; a further one takes the place of the one that was unused for longest."""


@dataclass(eq=False, slots=True, repr=False)
class Session:
    """A browser that is logged in.

    Attributes:
        csrf: Token that every form and action of the session carries (against cross-site requests).
        user: Number of the user of this machine to whom it is bound; None over the network, or if it is not known.
        can_log_out: False for that of the user of the service, who is known without a log-in.
        ended: True from its end on; every function in ``on_end`` is called then.
    """

    csrf: str
    user: int | None
    begun: float
    used: float
    can_log_out: bool = True
    ended: bool = False
    on_end: set[Callable[[], None]] = field(default_factory=set)

    def ends_at(self) -> float:
        """Return the time at which it ends if it is not used."""
        return min(self.begun + LIFETIME, self.used + IDLE_LIFETIME)

    def has_csrf(self, token: str) -> bool:
        """Return whether this is the token of its forms."""
        return hmac.compare_digest(_digest(token), _digest(self.csrf))

    def end(self) -> None:
        """End it. Idempotent."""
        self.ended = True
        while self.on_end:
            self.on_end.pop()()


class Sessions:
    """Sessions by the digest of their cookie, in the order of their last use."""

    def __init__(self) -> None:
        self._open: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, random: bytes, *, user: int | None, now: float) -> tuple[str, Session]:
        """Begin a session with ``2 * TOKEN_BYTES`` random bytes. Returns the value of its cookie, too."""
        self.expire(now)
        while len(self._open) >= MAX_SESSIONS:
            self._open.popitem(last=False)[1].end()
        cookie = _text(random[:TOKEN_BYTES])
        session = Session(_text(random[TOKEN_BYTES:]), user, now, now)
        self._open[_digest(cookie)] = session
        return cookie, session

    def find(self, cookie: str, *, user: int | None, now: float) -> Session | None:
        """Return the session of a cookie that this user of the machine may use, and note that it is used."""
        self.expire(now)
        key = _digest(cookie)
        session = self._open.get(key)
        if session is None or session.user != user:
            return None
        session.used = now
        self._open.move_to_end(key)
        return session

    def end(self, session: Session) -> None:
        """End a session; one that has ended stays so."""
        self._open = OrderedDict((key, one) for key, one in self._open.items() if one is not session)
        session.end()

    def end_all(self) -> None:
        """End all sessions."""
        while self._open:
            self._open.popitem()[1].end()

    def expire(self, now: float) -> None:
        """End the sessions whose time is over."""
        for key in [key for key, session in self._open.items() if session.ends_at() <= now]:
            self._open.pop(key).end()


# Log-ins by password

FREE_TRIES: Final = 5
"""Wrong passwords of a network without a wait."""

FIRST_WAIT: Final = 2.0
"""Seconds after the next wrong one; doubled with each that follows."""

LONGEST_WAIT: Final = 900.0
"""Seconds of such a wait at most."""

FORGIVEN_AFTER: Final = 3600.0
"""Seconds without a wrong password after which those of a network are forgotten, and after which all are."""

MAX_NETWORKS: Final = 1024
"""Networks whose wrong passwords are counted; the one that was wrong longest ago is forgotten first."""

MAX_TRUSTED: Final = 64
"""Addresses that are remembered for a right password."""

CROWD: Final = 30
"""Wrong passwords of all networks together beyond which one is checked every ``CROWD_PACE`` seconds."""

CROWD_PACE: Final = 1.0
"""Seconds between two checks while many are wrong. Addresses that were right before do not wait."""

MAX_WAITING: Final = 16
"""Log-ins that wait for their check."""


@dataclass(eq=False, slots=True)
class LogIn:
    """An attempt to log in by password. ``network`` is what its wrong passwords are counted for."""

    network: str
    number: int
    address: str


@dataclass(slots=True)
class _Wrong:
    count: int = 0
    last: float = 0.0

    def wait_until(self) -> float:
        """Return the time from which the network may try again."""
        over = self.count - FREE_TRIES
        return self.last + min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(over - 1, 20)) if over > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Entered:
    """Result of entering a log-in: it waits for its check, or is refused.

    Attributes:
        log_in: It, where it waits for its check; otherwise None.
        retry_after: Seconds after which it may be tried again, where it is refused.
        displaced: Another log-in, which lost its place to this one and is refused.
    """

    log_in: LogIn | None
    retry_after: float = 0.0
    displaced: LogIn | None = None


class LogInLimiter:
    """Limits log-ins by password: one check at a time, and growing waits for networks that were wrong.

    A network is one IPv4 address, or one /64 of IPv6. Strangers do not lock others out: among the log-ins that wait,
    those of addresses that were right before come first, then those with the fewest wrong passwords; and with these a
    newcomer takes the place of others where no place is left. An address that was right before is counted by itself: in
    IPv6 all devices of a house are one network.
    """

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, _Wrong] = OrderedDict()
        self._trusted: OrderedDict[str, None] = OrderedDict()
        self._all = _Wrong()
        self._waiting: dict[str, LogIn] = {}
        self._checked: LogIn | None = None
        self._next_check = 0.0
        self._entered = 0

    def enter(self, network: str, *, now: float, address: str = "") -> Entered:
        """Let a log-in wait for its check, or refuse it. ``address`` is the one within the network."""
        self._forget(now)
        address = address or network
        if address in self._trusted:
            network = address
        wrong = self._wrong.get(network)
        if wrong is not None and (wait := wrong.wait_until() - now) > 0:
            return Entered(None, wait)
        if network in self._waiting or (self._checked is not None and self._checked.network == network):
            return Entered(None, 1.0)
        self._entered += 1
        log_in, displaced = LogIn(network, self._entered, address), None
        if len(self._waiting) >= MAX_WAITING:
            last = max(self._waiting.values(), key=self._rank)
            if self._rank(log_in)[:2] >= self._rank(last)[:2]:
                return Entered(None, 5.0)
            displaced = self._waiting.pop(last.network)
        self._waiting[network] = log_in
        return Entered(log_in, 0.0, displaced)

    def next(self, *, now: float) -> tuple[LogIn | None, float | None]:
        """Return the log-in whose password is to be checked now; or in how many seconds to ask again, None for never.

        After :meth:`finish`, and after each that has entered, it is to be asked again in any case.
        """
        if self._checked is not None or not self._waiting:
            return None, None
        log_in = min(self._waiting.values(), key=self._rank)
        if log_in.address not in self._trusted and (wait := self._next_check - now) > 0:
            return None, wait
        self._checked = self._waiting.pop(log_in.network)
        return log_in, None

    def finish(self, log_in: LogIn, right: bool | None, *, now: float) -> None:
        """Note how the check of a log-in ended; None: it was not made, or its client is gone."""
        if self._checked is log_in:
            self._checked = None
        if self._waiting.get(log_in.network) is log_in:
            del self._waiting[log_in.network]
        if right is None:
            return
        if right:
            self._wrong.pop(log_in.network, None)
            self._trusted[log_in.address] = None
            self._trusted.move_to_end(log_in.address)
            while len(self._trusted) > MAX_TRUSTED:
                self._trusted.popitem(last=False)
            return
        wrong = self._wrong.setdefault(log_in.network, _Wrong())
        self._wrong.move_to_end(log_in.network)
        while len(self._wrong) > MAX_NETWORKS:
            self._wrong.popitem(last=False)
        for one in (wrong, self._all):
            one.count += 1
            one.last = now
        if self._all.count > CROWD:
            self._next_check = now + CROWD_PACE

    def wrong(self, network: str) -> int:
        """Return the number of wrong passwords of a network that are remembered."""
        found = self._wrong.get(network)
        return found.count if found is not None else 0

    def __len__(self) -> int:
        """Return the number of networks that are remembered for wrong passwords."""
        return len(self._wrong)

    def _rank(self, log_in: LogIn) -> tuple[bool, int, int]:
        return log_in.address not in self._trusted, self.wrong(log_in.network), log_in.number

    def _forget(self, now: float) -> None:
        while self._wrong and next(iter(self._wrong.values())).last + FORGIVEN_AFTER <= now:
            self._wrong.popitem(last=False)
        if self._all.count and self._all.last + FORGIVEN_AFTER <= now:
            self._all = _Wrong()


# Requests of browsers


def is_of_this_page(origin: str | None, fetch_site: str | None, own_origin: str) -> bool:
    """Return whether a request that changes something comes from a page of ours, by ``Origin`` and ``Sec-Fetch-Site``.

    Programs that are no browsers send neither; where the session is known by a cookie, its form token decides then.
    """
    if fetch_site is not None and fetch_site != "same-origin":
        return False
    return origin is None or origin == own_origin


def may_read(fetch_site: str | None, fetch_dest: str | None) -> bool:
    """Return whether a request that only reads may be answered: pages of other sites may link here, not load or embed.

    The arguments are ``Sec-Fetch-Site`` and ``Sec-Fetch-Dest``.
    """
    return fetch_site in (None, "same-origin", "none") or fetch_dest == "document"
