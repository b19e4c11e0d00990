"""What pairing needs of whoever keeps pairings: the endpoint."""

from __future__ import annotations

from typing import Protocol

from s2connect.model.secret import AccessToken
from s2connect.store.base import Pairing


class PairingKeeper(Protocol):
    """Makes pairings durable and gives them their effects (ROLE-05, ROLE-06).

    Each method is durable when it returns and raises :class:`~s2connect.errors.StorageUnavailable` when it cannot be.
    """

    async def commit(self, pairing: Pairing, token: AccessToken) -> None:
        """As pairing server: the pairing stands (PAIR-10)."""

    async def hold(self, pairing: Pairing, token: AccessToken) -> None:
        """As pairing client: store it as unconfirmed, before the last request (PAIRC-06)."""

    async def confirm(self, pairing: Pairing) -> None:
        """As pairing client: the last request was answered, the pairing stands."""

    async def drop(self, pairing: Pairing) -> None:
        """As pairing client: the server refused the last request; forget the unconfirmed pairing."""
