"""Interface of the pairing protocols to the endpoint: durable pairings, and events of the pairing server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from s2connect.model.common import NodeDescription, NodeId
from s2connect.model.secret import AccessToken
from s2connect.pairing.code import AfterFailure, TokenState
from s2connect.store.base import Pairing


class OtherWayRound(Exception):
    """The node is finishing a pairing with the same peer as the client; a retry soon after can succeed."""


class DurablePairings(Protocol):
    """Makes pairings durable and gives them their effects (ROLE-05, ROLE-06).

    Each method is durable when it returns and raises :class:`~s2connect.errors.StorageUnavailable` when it cannot be.
    """

    async def commit(self, pairing: Pairing, token: AccessToken) -> None:
        """As pairing server: store the pairing as confirmed (PAIR-10).

        Raises:
            OtherWayRound: Not now; nothing was changed.
        """

    async def hold(self, pairing: Pairing, token: AccessToken) -> None:
        """As pairing client: store it as unconfirmed, before the last request (PAIRC-06).

        From here on until one of the three other methods is called, the attempt is under way: a second one of the same
        pair waits for its end, and no session is opened with its token.
        """

    async def confirm(self, pairing: Pairing) -> None:
        """As pairing client: confirm the pairing after a response to the last request.

        Raises:
            PairingReplaced: Another pairing of the node, or its user, has removed it meanwhile; the server is notified.
        """

    def gives_way(self, pairing: Pairing) -> bool:
        """As pairing client: return whether to give up instead of repeating the last request to a busy server."""

    async def drop(self, pairing: Pairing) -> None:
        """As pairing client: forget the unconfirmed pairing, because the server refused the last request."""

    def leave(self, pairing: Pairing) -> None:
        """As pairing client: end an attempt with unknown outcome; its first session settles it."""


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """A pairing attempt on one of our nodes failed.

    ``reason`` is ``wrong_code``, ``refused_by_client``, ``expired``, ``out_of_order``, ``malformed``, or
    ``not_stored``: the fault is ours, e.g. the disk is full, and no code suffers from it. ``code_after`` says what
    becomes of the node's code (TOK-05).
    """

    node: NodeId
    peer: NodeDescription
    address: str
    reason: str
    code_after: AfterFailure


@dataclass(frozen=True, slots=True)
class ReflectionRefused:
    """A client at ``address`` reflected a challenge of ours to have it answered (HMAC-05), which is always an attack.

    ``count`` were refused since the last such event, the last one at ``node``; there is at most one event a minute.
    """

    node: NodeId
    address: str
    count: int


@dataclass(frozen=True, slots=True)
class NoValidCode:
    """Somebody wanted to pair with a node that has no valid code, whose ``state`` says why.

    At most one event a minute for each node, with the number of requests since the last one.
    """

    node: NodeId
    state: TokenState
    count: int


PairingServerEvent = AttemptFailed | NoValidCode | ReflectionRefused
