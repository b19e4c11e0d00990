"""What pairing needs of whoever keeps pairings: the endpoint."""

from __future__ import annotations

from typing import Protocol

from s2connect.model.secret import AccessToken
from s2connect.store.base import Pairing


class OtherWayRound(Exception):
    """The node is finishing a pairing with the same peer of which it is the client; a moment later it is ready."""


class PairingKeeper(Protocol):
    """Makes pairings durable and gives them their effects (ROLE-05, ROLE-06).

    Each method is durable when it returns and raises :class:`~s2connect.errors.StorageUnavailable` when it cannot be.
    """

    async def commit(self, pairing: Pairing, token: AccessToken) -> None:
        """As pairing server: the pairing stands (PAIR-10).

        Raises:
            OtherWayRound: Not now; nothing was changed.
        """

    async def hold(self, pairing: Pairing, token: AccessToken) -> None:
        """As pairing client: store it as unconfirmed, before the last request (PAIRC-06).

        From here on until one of the three other methods is called, the attempt is under way: a second one of the same
        pair waits for its end, and no session is opened with its token.
        """

    async def confirm(self, pairing: Pairing) -> None:
        """As pairing client: the last request was answered, the pairing stands.

        Raises:
            PairingReplaced: Another pairing of the node, or its user, has removed it meanwhile; the server is told.
        """

    def gives_way(self, pairing: Pairing) -> bool:
        """As pairing client: whether to give up, rather than to repeat a last request for which the server was busy."""

    async def drop(self, pairing: Pairing) -> None:
        """As pairing client: the server refused the last request; forget the unconfirmed pairing."""

    def leave(self, pairing: Pairing) -> None:
        """As pairing client: whether the server has the pairing is not known; its first session settles it."""
