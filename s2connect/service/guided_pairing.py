"""Steps of a pairing between which a program asks a person: the nodes of the other side, its code, waiting devices."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from s2connect.errors import NotReachable, S2ConnectError, UsageError
from s2connect.model.common import NodeDescription
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl
from s2connect.service.commands import Announce, Command, FullStatus, Nodes, Pair, Status
from s2connect.service.objects import OwnNode, PairingEntry, fitting, name_of, own_node
from s2connect.service.reach import Reached

_Result = TypeVar("_Result")

DEVICE_TIMEOUT = 20.0  # seconds for which a waiting device is looked for: it asks anew within that time
OPTIONAL_TIMEOUT = 6.0  # seconds for what pairing works without: to list the nodes, to announce the pairing
CANCEL_TIMEOUT = 3.0  # seconds to withdraw an announcement; the other side forgets it by itself, too


@dataclass(frozen=True, slots=True)
class GuidedPairing:
    """Steps of a pairing at an endpoint, running or not. All raise ``S2ConnectError`` if the endpoint refuses.

    ``node`` is the id or alias of the node to pair, None if there is only one; ``connect_to`` an address in place of
    the name in a URL. With ``force`` it pairs also without a common version.
    """

    reached: Reached
    node: str | None = None
    connect_to: str | None = None
    force: bool = False

    async def status(self) -> FullStatus:
        """Return the state of the endpoint."""
        return await self.reached.ask(Status())

    async def own_node(self) -> OwnNode:
        """Return the node to pair; raise ``UsageError`` if there are several, or none fits."""
        return own_node((await self.status()).nodes, self.node)

    async def nodes(self, url: BaseUrl) -> list[NodeDescription] | None:
        """Return the nodes of another endpoint; None if it does not list them, e.g. outside the LAN.

        Raises:
            NotReachable: It cannot be reached at all, so that nobody has to look for its code.
        """
        try:
            async with asyncio.timeout(OPTIONAL_TIMEOUT):
                return (await self.reached.ask(Nodes(url=str(url), connect_to=self.connect_to))).nodes
        except (S2ConnectError, TimeoutError) as error:
            if isinstance(error, S2ConnectError) and error.kind == NotReachable.kind:  # as a service reports it, too
                raise
            return None

    @contextlib.asynccontextmanager
    async def announced(self, peer: NodeDescription, url: BaseUrl | None = None) -> AsyncIterator[bool]:
        """Ask the other side to show its code; withdraw that if the block fails or is cancelled (LAN-05).

        Yields True if the other side was asked. Without a URL it is a device that waits here (LP-04).
        """
        typed, address = (None, None) if url is None else (str(url), self.connect_to)
        command = Announce(peer=peer.id, node=self.node, url=typed, connect_to=address)
        announced = True  # also if it is cancelled on its way
        try:
            announced = bool(await self._optional(command, OPTIONAL_TIMEOUT))
            yield announced
        except BaseException:
            if announced:
                await self._optional(replace(command, cancel=True), CANCEL_TIMEOUT)
            raise

    async def pair(self, url: BaseUrl | None, code: str, peer: NodeDescription | None = None) -> PairingEntry:
        """Pair with an endpoint, or with the node ``peer`` of it; without a URL with a device that waits here."""
        command = Pair(code=code, node=self.node, connect_to=self.connect_to, force=self.force)
        whom = peer.id if peer is not None else None
        command = replace(command, peer=whom) if url is None else replace(command, url=str(url), server_node=whom)
        return await self.reached.ask(command)

    async def find_device(self, wanted: str, on_wait: Callable[[float], None]) -> NodeDescription:
        """Return the device that waits here with an id, the beginning of one, or a name.

        While none has come, ``on_wait`` is called again and again with the seconds that are left; then
        ``NotReachable`` is raised. ``UsageError`` says that several fit.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + DEVICE_TIMEOUT
        while True:
            devices = (await self.status()).waiting
            found = fitting(devices, wanted)
            if len(found) > 1:
                raise UsageError(f"Several devices that wait here fit {for_display(wanted)}.", hint="Name the id.")
            if found:
                return found[0]
            left = until - loop.time()
            if left <= 0:
                break
            on_wait(left)
            await asyncio.sleep(min(left, 0.5))
        others = ", ".join(f"{name_of(one)} ({str(one.id)[:8]})" for one in devices[:20]) or "none"
        raise NotReachable(
            f"No device {for_display(wanted)} waits here; devices that do: {others}.",
            hint="Is it on, and in this network? It comes within a minute of finding this energy manager.",
        )

    async def _optional(self, command: Command[_Result], timeout: float) -> list[_Result]:
        """Execute a command; return its result as the only item, or no item if it fails."""
        try:
            async with asyncio.timeout(timeout):
                return [await self.reached.ask(command)]
        except (S2ConnectError, TimeoutError):
            return []
