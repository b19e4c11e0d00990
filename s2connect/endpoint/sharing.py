"""Links and documents that several instances of one endpoint share, for an application such as the bridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from s2connect.endpoint.holding import LinkHold
from s2connect.endpoint.instances import report_difference
from s2connect.endpoint.ownership import InstanceOwnership
from s2connect.endpoint.state import EndpointState
from s2connect.endpoint.storage import Storage
from s2connect.model.common import NodeId
from s2connect.store.base import PairKey

if TYPE_CHECKING:  # psycopg is an extra
    from s2connect.store.postgresql.documents import DocumentRows
    from s2connect.store.postgresql.instances import Presence


class Sharing:
    """Links of an application, and its documents, which the instances of one endpoint share in their database.

    Attributes:
        instance: Name of this instance.
    """

    def __init__(
        self, state: EndpointState, presence: Presence, ownership: InstanceOwnership, documents: DocumentRows
    ) -> None:
        self.instance = presence.name
        self._state = state
        self._presence = presence
        self._ownership = ownership
        self._documents = documents

    def link_hold(self, local: NodeId, remote: NodeId) -> LinkHold:
        """Return the hold of a link, which one instance has at a time. Two ids that have no pairing name it."""
        return self._ownership.app_links.add(PairKey(local, remote))

    def exchange_pairings(self) -> None:
        """Publish :class:`~s2connect.events.PairingsChanged` where another instance has made or ended pairings."""
        self._ownership.exchanges = True

    async def report_difference(self, sentence: str) -> None:
        """Log a difference to other instances, and publish a notice, if one lives. Raises StorageUnavailable."""
        if await self._presence.others():
            report_difference(self._state, sentence)

    async def change_document(self, name: str, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
        """Replace a document of all instances by what ``change`` makes of it, and return what is there then.

        One instance at a time does. ``change`` gets and may return None for no document; it may run several times. What
        it raises changes nothing.

        Raises:
            StorageUnavailable: The database is not there.
        """
        return await self._documents.change(name, change)


def sharing_of(state: EndpointState, storage: Storage, ownership: InstanceOwnership | None) -> Sharing | None:
    """Return the links and documents that instances share on the database of a storage; None without one."""
    if ownership is None or storage.presence is None or storage.documents is None:
        return None
    return Sharing(state, storage.presence, ownership, storage.documents)
