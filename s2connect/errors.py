"""Exceptions of s2connect, in one tree.

Each says what happened, to what, and (in ``hint``) what to do about it. Texts are for people; programs use the class,
its attributes and the stable ``kind``. No exception ever carries a secret (SEC-01), and none of these texts is sent to
a peer: peers get the enumerated reasons of the standard.

::

    S2ConnectError
    ├── UsageError                    the caller's own input: mend it and call again
    │   ├── InvalidUrl
    │   ├── InvalidPairingCode
    │   └── ConfigurationError
    │       └── NameConflict
    ├── NetworkError                  it may work later
    │   ├── NotReachable
    │   ├── PeerTimeout               (also a TimeoutError)
    │   └── PeerBusy
    ├── TrustError                    the peer's certificate
    │   ├── CertificateRefused
    │   ├── CertificateChanged
    │   └── NotPublic
    ├── PeerError                     the peer breaks the protocol, or speaks another version
    │   ├── ProtocolViolation
    │   └── IncompatibleApiVersion
    ├── PairingError                  pairing did not come about
    │   ├── WrongPairingCode
    │   ├── PairingRefused
    │   ├── PairingExpired
    │   ├── PairingReplaced
    │   └── PairingUnconfirmed
    ├── SessionError                  a session did not come about, or ended
    │   ├── NotPaired
    │   ├── NoLongerPaired
    │   ├── AccessRefused
    │   ├── SessionRefused
    │   ├── ConnectionClosed
    │   ├── MessageRefused
    │   └── AcknowledgementTimeout    (also a TimeoutError)
    └── StorageError                  the state on this machine
        ├── StorageUnavailable
        │   └── PairingsLost
        ├── InsecurePermissions
        ├── HomeInUse
        ├── InstanceRuns
        ├── HomeMoved
        ├── BackupRefused
        └── NotInitialised
"""

from __future__ import annotations

import os
import re
import socket
from typing import ClassVar, Final


class S2ConnectError(Exception):
    """Base of all errors of this package.

    Attributes:
        kind: Stable name of the error for programs, logs and metrics: that of its class, as ``not_reachable``.
        what: What happened, to what: one sentence for a person, without a secret.
        hint: What to do about it, or an empty string where nothing can be done.
    """

    kind: ClassVar[str] = "error"
    default_hint: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        if "kind" not in vars(cls):
            cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Error")).lower()

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = self.default_hint if hint is None else hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".rstrip()


class UsageError(S2ConnectError, ValueError):
    """The caller's own input cannot be used as it is."""


class InvalidUrl(UsageError):
    """A URL breaks VER-03: it must be ``https://…/`` without a version."""

    default_hint = "A pairing URL looks like https://name.local:8443/pairing/."


class InvalidPairingCode(UsageError):
    """A pairing code breaks TOK-04. The code itself is not part of the message."""

    default_hint = "A code has at least four letters or digits, with an optional name and a dash before it."


class ConfigurationError(UsageError):
    """A setting cannot be used; the message names the setting."""


class NameConflict(ConfigurationError):
    """Another device in the network has the name that this endpoint advertises (DISC-07).

    Attributes:
        address: Its address, as far as that is known; otherwise empty: it may be another process of this machine.
        port: Its TCP port, where that is not ours; otherwise None.
    """

    address = ""
    port: int | None = None
    default_hint = (
        "Give one of the two another name: s2connect config set host NAME; until then this endpoint is reached by its "
        "URL only."
    )


class NetworkError(S2ConnectError):
    """The peer could not be reached now; a retry may succeed."""


GIVE_ADDRESS: Final = "give the device's address with --connect-to"
"""Advice where a name is not known; the page has another one in its place."""


class NotReachable(NetworkError):
    """No connection to the peer: name not found, refused, or no route.

    Attributes:
        cut: Whether the peer took the connection and ended it before anything was said, as a server does that has too
            much to do.
    """

    cut = False
    default_hint = "Check that the other device is on, that both are in the same network, and the address."

    @classmethod
    def because(cls, host: str, port: int, error: BaseException) -> NotReachable:
        """Return the error for a failed connection to a host, whose name is cleaned for display already."""
        if isinstance(error, socket.gaierror | UnicodeError):
            return cls.not_looked_up(host, error)
        # asyncio puts sentences of its own into strerror, and joins several refusals in one error without a number.
        number = getattr(error, "errno", None)
        reason = os.strerror(number).lower() if isinstance(number, int) and number > 0 else ""
        made = cls(f"{host}:{port} cannot be reached{f' ({reason})' if reason else ''}.")
        made.cut = isinstance(error, ConnectionResetError)
        return made

    @classmethod
    def not_looked_up(cls, host: str, error: BaseException) -> NotReachable:
        """Return the error for a name, cleaned for display, for which no address was found, or none in time."""
        no_answer = isinstance(error, TimeoutError) or getattr(error, "errno", None) == socket.EAI_AGAIN
        if no_answer and not host.endswith(".local"):  # which this endpoint has looked for by itself
            return cls(
                f"The name {host} could not be looked up: no name server answers.",
                hint=f"Check the network and the DNS of this machine; or {GIVE_ADDRESS}.",
            )
        return cls(
            f"The name {host} is not known in this network.",
            hint=f"Check the spelling; or {GIVE_ADDRESS}.",
        )


class PeerTimeout(NetworkError, TimeoutError):
    """The peer did not answer in time."""

    default_hint = "Check that the other device still runs, then try again."


class PeerBusy(NetworkError):
    """The peer answered that it is busy or has an internal error (429, 5xx).

    Attributes:
        status: The HTTP status.
        retry_after: Seconds after which the peer asks us to come again; 0 where it does not say.
    """

    default_hint = "Wait a little, then try again."

    def __init__(self, what: str, *, status: int, retry_after: float = 0.0, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.status = status
        self.retry_after = retry_after


class TrustError(S2ConnectError):
    """The peer's certificate is not what it has to be."""


class CertificateRefused(TrustError):
    """A certificate is expired, of another name, of another root, badly signed, or weak.

    Attributes:
        reason: ``expired``, ``not_yet_valid``, ``name``, ``untrusted``, ``pin``, ``signature``, ``algorithm``,
            ``chain`` or ``other``.
    """

    def __init__(self, what: str, *, reason: str, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.reason = reason


class CertificateChanged(TrustError):
    """The server showed another certificate in the middle of one pairing attempt (TRUST-05)."""

    default_hint = "Try again; if it happens once more, somebody may be between you and the device."


class NotPublic(TrustError):
    """The address is not on the internet, e.g. of the own network; WAN endpoints do not connect to it (ROLE-03)."""

    default_hint = (
        "A device in a local network is paired through the URL that its vendor runs on the internet. Where all of this "
        "is one private network, say so: s2connect config set allow-private-addresses on"
    )


class PeerError(S2ConnectError):
    """The peer breaks the protocol or speaks another version of it."""


class ProtocolViolation(PeerError):
    """The peer's answer breaks the standard."""

    default_hint = "The other device's software may be faulty or too old; look for an update of it."


class IncompatibleApiVersion(PeerError):
    """No common major version of an S2 Connect API (VER-02)."""

    default_hint = "One of the two devices needs a software update."


class PairingError(S2ConnectError):
    """Pairing did not come about; nothing was changed."""


class WrongPairingCode(PairingError):
    """The two sides do not have the same code, or somebody sits between them."""

    default_hint = "Read the code on the other device again and type it as it stands there, capitals included."


class PairingRefused(PairingError):
    """The pairing server refused.

    Attributes:
        reason: The ``errorMessage`` of the standard, e.g. ``NoValidPairingTokenOnPairingServer``.
        additional_info: What the peer added for a person; from the network, clean before display.
    """

    def __init__(self, what: str, *, reason: str, additional_info: str = "", hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.reason = reason
        self.additional_info = additional_info


class PairingExpired(PairingError, TimeoutError):
    """The attempt was not finished within its 15 seconds (PAIR-04, PAIRC-03)."""

    default_hint = "Try again; if it happens again, the connection between the devices is too slow."


class PairingReplaced(PairingError):
    """A newer pairing of the same node, or its user, ended this one before it was finished (ROLE-05).

    The pairing is not kept; unpairing at the other side is tried.
    """

    default_hint = "`s2connect pairings` lists what stands; pair again if it is not what you want."


class PairingUnconfirmed(PairingError):
    """The answer to the last request was lost: the peer may have stored the pairing or not (PAIRC-06)."""

    default_hint = "It is settled by the next session; if none comes about, pair again with a new code."


class SessionError(S2ConnectError):
    """A session did not come about, or ended."""


class NotPaired(SessionError):
    """There is no pairing with this peer on this side."""

    default_hint = "`s2connect pairings` lists what this endpoint is paired with."


class NoLongerPaired(SessionError):
    """The peer has removed the pairing (SESC-05)."""

    default_hint = "Pair the two again if they shall work together."


class AccessRefused(SessionError):
    """The peer accepts none of our access tokens (401, SESC-05)."""

    default_hint = (
        "The state of one of the two may be an older copy, or the pairing is too old. Put the newest state back, or "
        "pair the two again."
    )


class SessionRefused(SessionError):
    """The communication server refused to open a session now.

    Attributes:
        reason: The ``errorMessage`` of the standard.
        additional_info: What the peer added for a person; from the network, clean before display.
    """

    def __init__(self, what: str, *, reason: str, additional_info: str = "", hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.reason = reason
        self.additional_info = additional_info


class ConnectionClosed(SessionError):
    """The connection has ended; nothing more can be sent or received on it.

    Attributes:
        code: WebSocket close code, or the nearest to it on another transport.
        reason: Why, from the side that closed; from the network, clean before display.
    """

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(f"The connection was closed ({code}{': ' + reason if reason else ''}).")
        self.code = code
        self.reason = reason


class MessageRefused(SessionError):
    """The peer answered a message with a ReceptionStatus other than OK.

    Attributes:
        status: The ReceptionStatus value.
        label: The peer's ``diagnostic_label``; from the network, clean before display.
    """

    def __init__(self, what: str, *, status: str, label: str = "") -> None:
        super().__init__(what)
        self.status = status
        self.label = label


class AcknowledgementTimeout(SessionError, TimeoutError):
    """The peer did not acknowledge a message in time; the session goes on."""


class StorageError(S2ConnectError):
    """The state on this machine cannot be read or written."""


class StorageUnavailable(StorageError):
    """Reading or writing failed (disk full, read-only, database locked); nothing was half done."""

    default_hint = "Check free space and permissions of the state directory."


class PairingsLost(StorageUnavailable):
    """The database of pairings is empty or missing, although there were pairings."""

    default_hint = (
        "Restore it from a backup. Without one the pairings are lost: `s2connect unpair --all` begins anew, and every "
        "device has to be paired again."
    )


class InsecurePermissions(StorageError):
    """A file with secrets can be read by others (SEC-02)."""


class HomeInUse(StorageError):
    """Another process works with this state directory."""


class InstanceRuns(StorageError):
    """Another process is the instance of this name on the same database."""

    default_hint = "Give this one another name, with `--instance NAME`. `s2connect cluster status` shows who runs."


class HomeMoved(StorageError):
    """The state directory was sealed by `s2connect move`: the endpoint goes on elsewhere."""

    default_hint = "Is the file lost, and the endpoint running nowhere else? `s2connect move --undo` opens it again."


class BackupRefused(StorageError):
    """A file of a backup cannot be used, or not be made.

    Attributes:
        reason: ``no_backup``, ``version``, ``cost``, ``passphrase``, ``damaged``, ``contents`` or ``too_large``.
    """

    def __init__(self, what: str, *, reason: str, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.reason = reason


class NotInitialised(StorageError):
    """The state directory has not been set up."""

    default_hint = "Set one up with `s2connect setup`, or name another directory with `--home`."


__all__ = [name for name, value in globals().items() if isinstance(value, type) and not name.startswith("_")]


def stumbled_over_protocol(error: S2ConnectError) -> bool:
    """Return whether a request may have failed because the peer does not know a protocol name in it (MQ-01)."""
    match error:
        case PairingRefused() | SessionRefused():
            return error.reason in ("ParsingError", "IncompatibleCommunicationProtocols")
        case PeerBusy():
            return error.status >= 500 and error.status != 503
        case _:
            return isinstance(error, ProtocolViolation)
