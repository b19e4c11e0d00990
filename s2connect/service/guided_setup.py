"""Guided set-up: from an empty state directory to the first message, in steps between which a program asks a person."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from s2connect import Endpoint, EndpointConfig, NodeDescription, NodeId, Role, Session
from s2connect.errors import HomeInUse, PairingExpired, PeerTimeout, UsageError
from s2connect.model.common import Deployment
from s2connect.model.text import for_display
from s2connect.service import setup
from s2connect.service.commands import FullStatus, Status
from s2connect.service.control import Control, connect, control_socket
from s2connect.service.events import Sink
from s2connect.service.objects import PairingEntry, SessionEntry, name_of
from s2connect.service.reach import Reached
from s2connect.service.setup import refuse_bridge
from s2connect.service.sidecar import Service
from s2connect.store.home import Home

_Found = TypeVar("_Found")

DEVICE_KINDS: Final = ("battery", "ev-charger", "pv", "heat-pump", "water-heater")
MANAGER_KIND: Final = "energy-manager"

Program = AbstractAsyncContextManager[Callable[[Session], Awaitable[None]]]
"""Runs while it is entered; the function that it yields takes a session until it ends."""

_OPTIONS: Final = {"model_name": "model", "user_defined_name": "name"}  # where it is not that of the member

LOOK_EVERY: Final = 0.3  # seconds between two looks at the state of the endpoint
LAST_EVENTS: Final = 2.0  # seconds in which the last events are reported after the endpoint has closed
LINGER: Final = 1.5  # seconds that the session stays after the first message, so that the other side sees it, too


@dataclass(frozen=True, slots=True)
class Prepared:
    """Settings of a state directory, and whether they were made just now."""

    config: EndpointConfig
    made: bool

    @property
    def role(self) -> Role:
        """Role of its first node: a set-up makes one."""
        return self.config.nodes[0].role


def prepare(path: Path, node: Mapping[str, object], settings: Mapping[str, Any]) -> Prepared:
    """Set up a state directory, or keep one that is set up. Blocks.

    Members that are None are not asked for. ``UsageError`` says that what is there contradicts what is asked for, and
    how to change it; or which setting cannot be used.
    """
    found = setup.existing(path)
    if found is not None:
        home = Home.open(path)
        refuse_bridge(home)
        if (moved := home.moved()) is not None:
            raise moved  # before anybody answers more questions
    if found is None:
        if node.get("role") is None:
            raise UsageError(
                "What is this machine, a device or an energy manager?", hint="Say it with --role rm or --role cem."
            )
        given = {name: value for name, value in settings.items() if value is not None}
        bind = given.get("bind")
        made = {"deployment": Deployment.LAN, "host": None, "bind": bind, "port": setup.usual_port(bind)} | given
        return Prepared(setup.make(path, node, made), True)
    if not found.nodes:
        raise UsageError(
            f"{path} is set up, and hosts no node: a program makes its nodes.",
            hint="Name another directory with --home.",
        )
    own = found.nodes[0]
    for member, value in {**node, **settings}.items():
        there = getattr(own if member in node else found, member)
        if value is None or there == value:
            continue
        name = _OPTIONS.get(member, member)
        asked = for_display(str(value), 60) or "none"
        what = f"{path} is set up already, with the {name} {there or 'unset'} and not {asked}."
        if name in ("role", "vault"):
            raise UsageError(what, hint="It stays what it is. For another one name another directory with --home.")
        raise UsageError(what, hint=f"To change it: s2connect config set {name} {shlex.quote(asked)}")
    return Prepared(found, False)


@dataclass(frozen=True, slots=True)
class GuidedSetup:
    """Steps at an endpoint, which runs as a service or was opened for the set-up.

    ``node`` is ours. ``looking`` is asked for the state, also while ``reached`` executes a command. ``behaves`` is true
    if a program of ours takes the sessions: a simulated one, or unknown ones of the running service.
    """

    reached: Reached
    looking: Reached
    node: NodeId
    behaves: bool

    @property
    def is_service(self) -> bool:
        """Return whether the service runs by itself."""
        return isinstance(self.reached, Control)

    async def status(self) -> FullStatus:
        """Return the state of the endpoint."""
        return await self.looking.ask(Status())

    async def pairings(self) -> list[PairingEntry]:
        """Return the pairings of our node."""
        return _of(self.node, await self.status())

    async def next_pairing(self, before: Collection[NodeId], timeout: float) -> PairingEntry:
        """Wait for a pairing with a peer that is not one of ``before``; ``PairingExpired`` if there is none in time."""

        def new(status: FullStatus) -> PairingEntry | None:
            return next((one for one in _of(self.node, status) if one.peer.id not in before), None)

        if (found := await self._until(new, timeout)) is None:
            raise PairingExpired(
                f"Nobody has paired within {timeout:.0f} seconds.", hint="Run the command again for a new code."
            )
        return found

    async def session(self, peer: NodeDescription, timeout: float) -> bool:
        """Wait until there is a session with a peer; ``PeerTimeout`` if none comes in time.

        Returns whether its messages can be seen from here.
        """

        def opened(status: FullStatus) -> bool | None:
            if self._session(status, peer) is not None:
                return True
            connected = any(one.connected for one in _of(self.node, status) if one.peer.id == peer.id)
            return False if connected and self.is_service else None  # another program has the session

        found = await self._until(opened, timeout)
        if found is None:
            raise PeerTimeout(
                f"The pairing stands, but no session with {name_of(peer)} came within {timeout:.0f} seconds.",
                hint="Is its service running? What is wrong on the way is said by: s2connect doctor",
            )
        return found

    async def first_message(self, peer: NodeDescription, timeout: float) -> SessionEntry | None:
        """Wait for the first acknowledged message of a session with a peer; None if none comes in time."""

        def exchanged(status: FullStatus) -> SessionEntry | None:
            one = self._session(status, peer)
            return one if one is not None and one.first_message is not None else None

        return await self._until(exchanged, timeout)

    def _session(self, status: FullStatus, peer: NodeDescription) -> SessionEntry | None:
        fitting = (one for one in status.sessions if (one.node, one.peer.id) == (self.node, peer.id))
        return next(fitting, None)

    async def _until(self, find: Callable[[FullStatus], _Found | None], timeout: float) -> _Found | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while (found := find(await self.status())) is None:
            if loop.time() >= until:
                return None
            await asyncio.sleep(LOOK_EVERY)
        return found


def _of(node: NodeId, status: FullStatus) -> list[PairingEntry]:
    return [one for one in status.pairings if one.node == node]


@contextlib.asynccontextmanager
async def reach_service(path: Path, node: NodeId) -> AsyncIterator[GuidedSetup | None]:
    """Reach the running service of a state directory; yields None if there is none."""
    home = await asyncio.to_thread(Home.open, path)
    async with connect(home) as control, connect(home) as looking:  # each takes one command at a time
        if control is None or looking is None:
            yield None
        else:
            yield GuidedSetup(control, looking, node, behaves=True)


@contextlib.asynccontextmanager
async def run_endpoint(path: Path, node: NodeId, program: Program | None, sink: Sink) -> AsyncIterator[GuidedSetup]:
    """Run the endpoint of a state directory for the while, as ``serve`` does; other commands reach it, too.

    ``program`` takes the sessions. Without one their messages are acknowledged, and none is sent.
    """
    async with contextlib.AsyncExitStack() as stack:
        drive = None if program is None else await stack.enter_async_context(program)
        try:
            endpoint = await stack.enter_async_context(Endpoint.open(path))
        except HomeInUse as error:
            hint = "It does not answer here. Stop it first, or wait until it has ended; then run this again."
            raise HomeInUse(error.what, hint=hint) from None
        service = Service(endpoint, path, sink, stop=_nothing, show_codes=True, drive=drive)
        home = await asyncio.to_thread(Home.open, path)
        await stack.enter_async_context(control_socket(home, service.answer))
        service.follow()
        try:
            yield GuidedSetup(service, service, node, behaves=drive is not None)
        finally:
            await stack.aclose()
            await service.finish(LAST_EVENTS)


def _nothing() -> None:
    """Do nothing for the command ``stop``: the set-up ends by itself."""
