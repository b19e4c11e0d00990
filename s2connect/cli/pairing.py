"""Dialogue of ``s2connect pair``: lists what can be paired, asks for a choice and for the code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from s2connect.cli.discover import (
    MAX_LISTED,
    NOTHING_FOUND,
    ask_what_they_host,
    endpoints_block,
    limits,
    listen,
    progress,
    so_far,
)
from s2connect.cli.show import ROLES, node_title, titled
from s2connect.cli.terminal import ask_person, console, put, tell
from s2connect.discovery.browse import Browser
from s2connect.discovery.txt import FoundEndpoint
from s2connect.endpoint.settings import read_config
from s2connect.errors import InvalidPairingCode, InvalidUrl, NotReachable, S2ConnectError, UsageError, WrongPairingCode
from s2connect.model.common import NodeDescription, Role
from s2connect.model.text import for_display
from s2connect.model.url import BaseUrl, looks_like_code
from s2connect.pairing.code import PairingCode
from s2connect.service.control import Control
from s2connect.service.guided_pairing import GuidedPairing
from s2connect.service.objects import PairingEntry, name_of
from s2connect.service.reach import Reached, reach
from s2connect.store.home import Home

Candidate = FoundEndpoint | NodeDescription  # an endpoint in the network, or a device that waits here
LOOK_SECONDS = 3.0  # seconds to listen before the question, at which Enter repeats it


async def pair(
    path: Path,
    steps: Callable[[Reached], GuidedPairing],
    url: BaseUrl | None,
    code: str | None,
    waiting: str | None,
    *,
    interactive: bool,
) -> tuple[PairingEntry, bool]:
    """Pair with a URL, a device that waits here (its id or name), or what the user picks; ask for the code.

    Return the pairing, and whether the service runs. If it failed, an announcement has been withdrawn.
    """
    config = await asyncio.to_thread(lambda: read_config(Home.open(path)))
    manages = any(one.role is Role.CEM for one in config.nodes)
    if waiting is not None and not manages:
        raise UsageError("Devices wait at energy managers only, and this is none.")
    async with reach(path, serve=manages and url is None) as reached:
        dialogue = Dialogue(steps(reached), code, interactive=interactive)
        if waiting is not None:
            made = await dialogue.pair_waiting(waiting)
        elif url is not None:
            made = await dialogue.pair_url(url)
        else:
            picked = await dialogue.pick()
            assert isinstance(picked, PairingEntry), "no letter was offered"
            made = picked
        return made, isinstance(reached, Control)


class Dialogue:
    """Questions of a pairing. ``code`` is not asked for where it is known."""

    def __init__(self, steps: GuidedPairing, code: str | None, *, interactive: bool) -> None:
        self._steps = steps
        self._code = code
        self._given = code is not None
        self._interactive = interactive

    async def pair_url(self, url: BaseUrl) -> PairingEntry:
        """Pair with a typed URL; before the person is asked for the code, the other side is asked to show it."""
        peer = None
        if self._code is None:
            other = (await self._steps.own_node()).role.other
            nodes = [one for one in await self._steps.nodes(url) or [] if one.role is other]
            peer = nodes[0] if len(nodes) == 1 else None
        return await self._pair(url, peer)

    async def pair_waiting(self, wanted: str) -> PairingEntry:
        """Pair with a device that waits here, by id or name."""
        with progress(wanted=self._interactive) as draw:
            device = await self._steps.find_device(
                wanted, lambda left: draw(Text(f"Waiting for {for_display(wanted)} … {left:.0f} s", style="dim"))
            )
        return await self._pair(None, device)

    async def pick(self, others: Mapping[str, str] | None = None) -> PairingEntry | str:
        """Let the person pick an endpoint or a waiting device, type a URL, or choose one of the letters ``others``."""
        other = (await self._steps.own_node()).role.other
        own_url = (await self._steps.status()).endpoint.pairing_url
        while True:
            endpoints, devices = await self._look(other, own_url)
            for letter, meaning in (others or {}).items():
                tell(f"{letter}  {meaning}")
            chosen = await _choose([*endpoints, *devices], others or {})
            if isinstance(chosen, str):
                return chosen
            code = self._code
            try:
                if chosen is not None:
                    return await self._pair_chosen(chosen, other)
            except S2ConnectError as error:
                if not self._interactive or not _unreachable(error):
                    raise
                tell(str(error))  # mostly a name that was mistyped: ask again
                self._code = code

    async def _pair_chosen(self, chosen: Candidate | _Typed, other: Role) -> PairingEntry:
        if isinstance(chosen, _Typed):
            self._code = self._code or chosen.code
            return await self.pair_url(chosen.url)
        if isinstance(chosen, NodeDescription):
            return await self._pair(None, chosen)
        assert chosen.pairing_url is not None, "others are not offered"
        peer = await self._pick_node(chosen.pairing_url, chosen.title, other)
        return await self._pair(chosen.pairing_url, peer)

    async def _look(self, other: Role, own_url: str | None) -> tuple[list[FoundEndpoint], list[NodeDescription]]:
        """Listen for some seconds, and list what can be paired, with numbers."""
        out = console(error=True)
        endpoints: list[FoundEndpoint] = []
        try:
            async with Browser(other) as browser:

                def block(left: float) -> RenderableType:
                    endpoints[:] = [one for one in browser.found() if one.pairing_url not in (None, own_url)]
                    shown = so_far(endpoints, numbered=True)
                    what = f"Looking for a{'n' * (other is Role.CEM)} {ROLES[other]} … {left:.0f} s"
                    return Group(shown, Text(what, style="dim"))

                await listen(LOOK_SECONDS, block)
                block(0)
                notes = limits(browser, len(endpoints))
                del endpoints[MAX_LISTED:]
        except NotReachable as error:
            notes = [str(error)]
        devices = (await self._steps.status()).waiting if other is Role.RM else []
        if endpoints:
            put(out, endpoints_block(endpoints, hosted=await ask_what_they_host(endpoints), numbered=True))
        for line in _numbered_nodes(devices, len(endpoints) + 1, "waits here to be paired"):
            put(out, line)
        for sentence in notes if endpoints or devices else [*notes, NOTHING_FOUND]:
            tell(sentence)
        return endpoints, devices

    async def _pick_node(self, url: BaseUrl, title: str, other: Role) -> NodeDescription | None:
        nodes = await self._steps.nodes(url)
        if nodes is None:
            tell(f"{title} does not tell what it hosts; have it show its code.")
            return None
        fit = [node for node in nodes if node.role is other]
        if not fit:
            raise UsageError(f"{title} hosts no {ROLES[other]}.")
        if len(fit) == 1:
            return fit[0]
        console(error=True).print(*_numbered_nodes(fit, 1), sep="\n")
        while True:
            answer = await ask_person("Number: ")
            if answer.isdecimal() and 1 <= int(answer[:9]) <= len(fit):
                return fit[int(answer[:9]) - 1]

    async def _pair(self, url: BaseUrl | None, peer: NodeDescription | None) -> PairingEntry:
        """Ask for the code and pair; without a URL it is a device that waits here."""
        if url is None and peer is not None and self._interactive:
            tell(f"{titled(peer)} waits here. Its code is on its sticker or screen.")
        while True:
            code = self._code or await self._announce_and_ask(peer, url)
            if url is not None and self._interactive:
                tell(f"Pairing with {url} …")
            try:
                return await self._steps.pair(url, code, peer)
            except S2ConnectError as error:
                if not self._interactive or self._given or error.kind != WrongPairingCode.kind:
                    raise
                tell(str(error))  # mistyped: ask again
                self._code = None

    async def _announce_and_ask(self, peer: NodeDescription | None, url: BaseUrl | None) -> str:
        if peer is None:
            return await _ask_code()
        async with self._steps.announced(peer, url) as announced:
            if announced:
                tell(f"{name_of(peer)} was asked to show its code.")
            return await _ask_code()


def _unreachable(error: S2ConnectError) -> bool:
    """Return whether the other side was not reached, here or by the running service."""
    return error.kind == NotReachable.kind


class _Typed(NamedTuple):
    """A URL that a person typed, and the code behind it, if any."""

    url: BaseUrl
    code: str | None


async def _choose(offered: list[Candidate], letters: Container[str]) -> Candidate | _Typed | str | None:
    """Ask for one of what is offered, a URL or one of ``letters``; return None to look again."""
    what = "Number, letter, or a pairing URL" if letters else "Number, or a pairing URL"
    while answer := await ask_person(f"{what} (Enter looks again): "):
        if answer.lower() in letters:
            return answer.lower()
        try:
            return _chosen(answer, offered)
        except UsageError as error:
            tell(" ".join(text for text in (error.what, error.hint) if text))
    return None


def _chosen(answer: str, offered: list[Candidate]) -> Candidate | _Typed:
    if answer.isdecimal():
        number = int(answer[:9])
        if not 1 <= number <= len(offered):
            raise UsageError(f"There is no number {number}.")
        return offered[number - 1]
    url, *code = answer.split(maxsplit=1) if answer.startswith("https://") else [answer]
    try:
        return _Typed(BaseUrl.of_pairing(url), str(PairingCode.parse(code[0])) if code else None)
    except InvalidUrl as error:
        what = error.what if looks_like_code(answer) else "That is neither a number nor a URL."
        raise UsageError(what, hint=error.hint) from None


def _numbered_nodes(nodes: list[NodeDescription], first: int, remark: str = "") -> Iterator[RenderableType]:
    for number, node in enumerate(nodes, first):
        line = Text(f"{number}  ", style="bold").append_text(node_title(node))
        yield line.append(f" {remark}" if remark else f" id {str(node.id)[:8]}", style="not bold")


async def _ask_code() -> str:
    """Ask for the code until it is one; all of the text in the QR code of ``serve`` is allowed as well."""
    while True:
        typed = await ask_person("Pairing code: ")
        if typed.startswith("https://") and len(typed.split()) > 1:
            typed = typed.split(maxsplit=1)[1]
        try:
            PairingCode.parse(typed)
        except InvalidPairingCode as error:
            tell(str(error))
        else:
            return typed
