"""Interface of the pairing protocols to the keeper of pairings (the endpoint)."""

from __future__ import annotations

from typing import Protocol

from s2connect.model.secret import AccessToken
from s2connect.store.base import Pairing


class OtherWayRound(Exception):
    """The node is finishing a pairing with the same peer as the client; a retry soon after can succeed."""


class PairingKeeper(Protocol):
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
            PairingReplaced: Another pairing of the node, or its user, has removed it meanwhile; the server is told.
        """

    def gives_way(self, pairing: Pairing) -> bool:
        """As pairing client: return whether to give up instead of repeating the last request to a busy server."""

    async def drop(self, pairing: Pairing) -> None:
        """As pairing client: forget the unconfirmed pairing, because the server refused the last request."""

    def leave(self, pairing: Pairing) -> None:
        """As pairing client: end an attempt with unknown outcome; its first session settles it."""
