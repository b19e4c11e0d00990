"""Even numbers of links at the instances of one endpoint: those that have too many give some up, a few a second."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from s2connect.endpoint.state import EndpointState, SharedOwners
from s2connect.session.ownership import LinkCounts, Shares
from s2connect.store.base import PairKey

_log = logging.getLogger(__name__)

GIVEN_UP_A_SECOND: Final = 20
"""Links that are given up to other instances in a second, at most."""


class EvenLinks:
    """Shares of the links of one kind, with the task that gives links up. See :class:`Shares`.

    Args:
        state: Has the supervisor.
        shared: Has the name of this instance.
        held: Returns the links that this instance holds.
        give_up: Ends the session of a link, which its peer is told before, and gives the link up.
    """

    def __init__(
        self,
        state: EndpointState,
        shared: SharedOwners,
        held: Callable[[], list[PairKey]],
        give_up: Callable[[PairKey], Awaitable[None]],
    ) -> None:
        self._state = state
        self._shared = shared
        self._held = held
        self._give_up = give_up
        self._now = asyncio.get_running_loop().time
        self._shares = Shares()
        self._giving_up: asyncio.Task[None] | None = None

    def look_again(self) -> None:
        """Have the links counted again: there are others now."""
        self._shares.look_again()

    def freed(self) -> None:
        """Note that an instance has given links up."""
        self._shares.freed(now=self._now())

    async def may_take(self, count: Callable[[], Awaitable[LinkCounts]], more: int = 0) -> int:
        """Return how many links this instance may take, ``more`` than those that it holds already.

        Now and then it counts them first, and begins to give some up where others have too few. Raises StorageError.
        """
        if self._shares.is_stale(now=self._now()):
            self._even_out(await count())
        return self._shares.may_take(len(self._held()) + more, now=self._now())

    def took(self, number: int) -> None:
        """Note that so many links were taken, which are held now."""
        self._shares.took(number, len(self._held()))

    def _even_out(self, counts: LinkCounts) -> None:
        held = self._held()
        number = self._shares.read(counts, len(held), me=self._shared.instance, now=self._now())
        if number and (self._giving_up is None or self._giving_up.done()):
            keys = random.sample(held, min(number, len(held)))
            self._giving_up = self._state.supervisor.spawn(self._give_all_up(keys), "link", "hand-over")

    async def _give_all_up(self, keys: Collection[PairKey]) -> None:
        _log.info("links that go to other instances, which have too few: %d", len(keys))
        for key in keys:
            await self._give_up(key)
            await asyncio.sleep(1 / GIVEN_UP_A_SECOND)
