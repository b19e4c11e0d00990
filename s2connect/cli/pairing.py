"""``s2connect pair``: choosing the other side, having it show its code, asking for the code, pairing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from s2connect.cli.discover import (
    NOTHING_FOUND,
    endpoints_block,
    found_object,
    limits,
    listen,
    progress,
    so_far,
)
from s2connect.cli.show import ROLES, console, kind_of, say
from s2connect.cli.terminal import ask_person
from s2connect.discovery.browse import Browser
from s2connect.endpoint.endpoint import read_config
from s2connect.errors import InvalidUrl, NotReachable, UsageError
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl
from s2connect.pairing.code import PairingCode
from s2connect.service.commands import Announce, Command, FullStatus, Nodes, Pair, Status
from s2connect.service.failures import Failure
from s2connect.service.objects import OwnNode, PairingEntry, fitting, name_of
from s2connect.service.reach import Reached, reach, reaches_service
from s2connect.store.home import Home

_Result = TypeVar("_Result")
Object = dict[str, Any]

LOOK_SECONDS = 3.0
"""How long the network is listened to before the person is asked, who can have it done again."""

DEVICE_PATIENCE = 20.0
"""Seconds for which a waiting device is looked for: it asks anew within that time."""

ASIDE_TIMEOUT = 6.0
"""Seconds that asking for the other side's nodes, or telling it of the pairing, may take: pairing works without."""

CANCEL_TIMEOUT = 3.0
"""Seconds for taking an announcement back; the other side forgets it by itself, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the person asked for.

    Attributes:
        url: Pairing URL of the other side; None lets the person pick.
        code: Its code; None asks for it.
        waiting: Id or name of a device that waits here, instead of a URL.
        node: Which node of ours.
        connect_to: Address to connect to.
        force: Pair also without a common version.
        interactive: Whether a person is there to be asked.
    """

    url: BaseUrl | None
    code: str | None
    waiting: str | None
    node: str | None
    connect_to: str | None
    force: bool
    interactive: bool


async def pair(path: Path, wish: Wish) -> tuple[PairingEntry, bool]:
    """Pair as wished.

    Returns:
        The pairing, and whether the service runs.

    Raises:
        Failure, S2ConnectError: It did not come about; an announcement has been taken back.
    """
    config = await asyncio.to_thread(lambda: read_config(Home.open(path)))
    manages = any(node.role is Role.CEM for node in config.nodes)
    if wish.waiting is not None and not manages:
        raise UsageError("Devices wait at energy managers only, and this is none.")
    async with reach(path, serve=manages and wish.url is None) as reached:
        talk = _Talk(reached, wish)
        if wish.waiting is not None:
            made = await talk.pair_waiting(wish.waiting)
        elif wish.url is not None:
            made = await talk.pair_url(wish.url)
        else:
            made = await talk.pick()
        return made, reaches_service(reached)


class _Talk:
    def __init__(self, reached: Reached, wish: Wish) -> None:
        self._reached = reached
        self._wish = wish

    # With a URL

    async def pair_url(self, url: BaseUrl) -> PairingEntry:
        """Pair with a typed URL; where the person is asked for the code, the other side is told first (LAN-05)."""
        if self._wish.code is not None:
            return await self._pair(url, self._wish.code, None)
        node = self._own_node(await self._reached.ask(Status()))
        nodes = [one for one in await self._nodes_of(url) or [] if one.role is node.role.other]
        return await self._ask_and_pair(url, nodes[0] if len(nodes) == 1 else None)

    async def _ask_and_pair(self, url: BaseUrl, peer: NodeDescription | None) -> PairingEntry:
        async with self._announced(url, peer):
            code = self._wish.code or await _ask_code()
        return await self._pair(url, code, peer.id if peer is not None else None)

    async def _pair(self, url: BaseUrl, code: str, server_node: NodeId | None) -> PairingEntry:
        if self._wish.interactive:
            say(f"Pairing with {url} …", error=True)
        return await self._reached.ask(
            Pair(
                url=str(url),
                code=code,
                node=self._wish.node,
                server_node=server_node,
                connect_to=self._wish.connect_to,
                force=self._wish.force,
            )
        )

    async def _nodes_of(self, url: BaseUrl) -> list[NodeDescription] | None:
        """The nodes of the other side, or None where it does not tell, e.g. outside the LAN."""
        answer = await self._aside(Nodes(url=str(url), connect_to=self._wish.connect_to))
        return answer.nodes if answer is not None else None

    @contextlib.asynccontextmanager
    async def _announced(self, url: BaseUrl | None, peer: NodeDescription | None) -> AsyncIterator[None]:
        """Have the other side show its code; takes it back where the block fails or is cancelled (LAN-05).

        Without a URL it is a device that waits here (LP-04).
        """
        if peer is None:
            yield
            return
        typed, address = (None, None) if url is None else (str(url), self._wish.connect_to)
        command = Announce(peer=peer.id, node=self._wish.node, url=typed, connect_to=address)
        told = True
        try:
            told = await self._aside(command) is not None
            if told:
                say(f"{name_of(peer)} was asked to show its code.", error=True)
            yield
        except BaseException:
            if told:
                await self._aside(replace(command, cancel=True), timeout=CANCEL_TIMEOUT)
            raise

    async def _aside(self, command: Command[_Result], timeout: float = ASIDE_TIMEOUT) -> _Result | None:
        """Execute a command that may fail: pairing does not depend on it."""
        try:
            async with asyncio.timeout(timeout):
                return await self._reached.ask(command)
        except (Failure, TimeoutError):
            return None

    # Picking

    async def pick(self) -> PairingEntry:
        """Let the person pick an endpoint, a waiting device, or type a URL."""
        status = await self._reached.ask(Status())
        other = self._own_node(status).role.other
        while True:
            endpoints, devices = await self._look(other, status.endpoint.pairing_url)
            chosen = await _choose([*endpoints, *devices])
            if chosen is None:
                continue
            if isinstance(chosen, BaseUrl):
                return await self.pair_url(chosen)
            if isinstance(chosen, NodeDescription):
                return await self._pair_device(chosen)
            url = BaseUrl(chosen["pairing_url"])
            return await self._ask_and_pair(url, await self._pick_node(url, chosen["title"], other))

    async def _look(self, other: Role, own_url: str | None) -> tuple[list[Object], list[NodeDescription]]:
        """Listen a while, and show what can be paired with, numbered."""
        out = console(error=True)
        endpoints: list[Object] = []
        said: list[str] = []
        try:
            async with Browser(other) as browser:
                with progress() as draw:

                    def show(left: float) -> None:
                        found = [found_object(one, own_url) for one in browser.found()]
                        endpoints[:] = [one for one in found if one["pairing_url"] and not one["this_endpoint"]]
                        shown = so_far(endpoints, out.width, numbered=True)
                        what = f"Looking for a{'n' * (other is Role.CEM)} {ROLES[other]} … {left:.0f} s"
                        draw(Group(shown, Text(what, style="dim")))

                    await listen(LOOK_SECONDS, show)
                    show(0)
                said = limits(browser)
        except NotReachable as error:
            said = [str(error)]
        devices = (await self._reached.ask(Status())).waiting if other is Role.RM else []
        if endpoints:
            out.print(endpoints_block(endpoints, out.width, numbered=True))
        for line in _numbered_nodes(devices, len(endpoints) + 1, "waits here to be paired"):
            out.print(line)
        for sentence in said if endpoints or devices else [*said, NOTHING_FOUND]:
            say(sentence, error=True)
        return endpoints, devices

    async def _pick_node(self, url: BaseUrl, title: str, other: Role) -> NodeDescription | None:
        nodes = await self._nodes_of(url)
        if nodes is None:
            say(f"{title} does not tell what it hosts; have it show its code.", error=True)
            return None
        fit = [node for node in nodes if node.role is other]
        if not fit:
            raise UsageError(f"{title} hosts no {ROLES[other]}.")
        if len(fit) == 1:
            return fit[0]
        out = console(error=True)
        for line in _numbered_nodes(fit, 1):
            out.print(line)
        while True:
            answer = await ask_person("Number: ")
            if answer.isdecimal() and 1 <= int(answer[:9]) <= len(fit):
                return fit[int(answer[:9]) - 1]

    # Devices that wait here

    async def pair_waiting(self, wanted: str) -> PairingEntry:
        """Pair a device that waits here, by id or name."""
        return await self._pair_device(await self._find_device(wanted))

    async def _find_device(self, wanted: str) -> NodeDescription:
        loop = asyncio.get_running_loop()
        until = loop.time() + DEVICE_PATIENCE
        with progress(wanted=self._wish.interactive) as draw:
            while True:
                devices = (await self._reached.ask(Status())).waiting
                found = fitting(devices, wanted)
                if len(found) > 1:
                    raise UsageError(f"Several devices that wait here fit {for_display(wanted)}.", hint="Name the id.")
                if found:
                    return found[0]
                left = until - loop.time()
                if left <= 0:
                    break
                draw(Text(f"Waiting for {for_display(wanted)} … {left:.0f} s", style="dim"))
                await asyncio.sleep(min(left, 0.5))
        others = ", ".join(f"{name_of(one)} ({str(one.id)[:8]})" for one in devices[:20]) or "none"
        raise NotReachable(
            f"No device {for_display(wanted)} waits here; devices that do: {others}.",
            hint="Is it on, and in this network? It comes within a minute of finding this energy manager.",
        )

    async def _pair_device(self, device: NodeDescription) -> PairingEntry:
        if self._wish.interactive:
            say(f"{name_of(device)} ({kind_of(device)}) waits here. Its code is on its sticker or screen.", error=True)
        code = self._wish.code
        if code is None:
            async with self._announced(None, device):
                code = await _ask_code()
        return await self._reached.ask(Pair(peer=device.id, code=code, node=self._wish.node))

    def _own_node(self, status: FullStatus) -> OwnNode:
        wanted = self._wish.node
        nodes = [one for one in status.nodes if wanted is None or wanted in (str(one.id), one.alias)]
        if len(nodes) != 1:
            names = ", ".join(f"{one.alias or one.id} ({one.role})" for one in status.nodes)
            raise UsageError(f"Which node of this endpoint? There are: {names}.", hint="Name it with --node.")
        return nodes[0]


async def _choose(offered: list[Object | NodeDescription]) -> Object | NodeDescription | BaseUrl | None:
    """One of what is offered, or a typed URL; None to look again."""
    while answer := await ask_person("Number, or a pairing URL (Enter looks again): "):
        try:
            return _chosen(answer, offered)
        except UsageError as error:
            say(" ".join(text for text in (error.what, error.hint) if text), error=True)
    return None


def _chosen(answer: str, offered: list[Object | NodeDescription]) -> Object | NodeDescription | BaseUrl:
    if answer.isdecimal():
        number = int(answer[:9])
        if not 1 <= number <= len(offered):
            raise UsageError(f"There is no number {number}.")
        return offered[number - 1]
    try:
        return BaseUrl.from_user(answer)
    except InvalidUrl as error:
        raise UsageError("That is neither a number nor a URL.", hint=error.hint) from None


def _numbered_nodes(nodes: list[NodeDescription], first: int, remark: str = "") -> Iterator[RenderableType]:
    for number, node in enumerate(nodes, first):
        line = Text(f"{number}  ").append(name_of(node), style="bold").append(f" ({kind_of(node)})")
        yield line.append(f" {remark}" if remark else f" id {str(node.id)[:8]}")


async def _ask_code() -> str:
    """Ask for the code; whoever scanned the QR code of ``serve`` may paste all of it."""
    typed = await ask_person("Pairing code: ")
    if typed.startswith("https://"):
        typed = typed.partition(" ")[2]
    PairingCode.parse(typed)
    return typed
