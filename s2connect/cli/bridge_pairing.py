"""``s2connect bridge pair``: guided pairing of the devices and energy managers of a bridge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from s2connect.cli.terminal import Lines, counted, tell
from s2connect.errors import InvalidUrl, NotReachable
from s2connect.model.text import for_display, span
from s2connect.model.url import BaseUrl
from s2connect.pairing.code import in_groups
from s2connect.service.commands import Code, Pair, ShowBridge
from s2connect.service.control import Control
from s2connect.service.failures import Failure
from s2connect.service.objects import PairingEntry

Route = dict[str, Any]  # a route in the status of a bridge
Link = dict[str, Any]  # one of its links
LINK_TIMEOUT: Final = 10.0  # seconds in which the bridge updates its links after a pairing
CODE_LIFETIME: Final = 300.0  # seconds in which a code has to be typed
LOOK_AGAIN: Final = 0.5  # seconds between two queries for the device that was awaited
BUSY_PAUSE: Final = 1.0  # seconds between two attempts with an energy manager that pairs with one device at a time
BUSY_ATTEMPTS: Final = 10  # attempts with a busy energy manager

_ANOTHER_CODE: Final = ("wrong_pairing_code", "pairing_refused", "pairing_expired", "invalid_pairing_code")


async def lead(
    control: Control,
    lines: Lines,
    wanted: str | None,
    *,
    device_url: str | None,
    manager_url: str | None,
    another: bool,
    wait: float = CODE_LIFETIME,
) -> dict[str, Any]:
    """Do the pairings of a running bridge that are missing, and return what is paired and what is left of each route.

    ``wanted`` is the only route. Without a pairing URL of a device our own is shown, without one of the energy manager
    it is asked for. With ``another`` one more device is awaited although there are some. A device, and where nobody is
    at a terminal each line of the input, is awaited for ``wait`` seconds.
    """
    routes = await _routes(control)
    chosen = [route for route in routes if wanted in (None, route["name"])]
    if not chosen:
        names = ", ".join(route["name"] for route in routes) or "none"
        raise Failure("usage", f"There is no such route; there are: {names}.")
    needed = [r for r in chosen if "s2-connect" in (r["devices"]["type"], r["manager"]["type"])]
    if (device_url or manager_url) and len(needed) > 1:
        raise Failure("usage", "A URL is that of one route.", "Name the route with --route.")
    if not needed:
        tell("Nothing is to be paired: these routes have everything in the file.")
    leader = _Leader(control, lines, device_url, manager_url, another, wait)
    return {"routes": [await leader.route(route["name"]) for route in chosen]}


async def _routes(control: Control) -> list[Route]:
    found: list[Route] = (await control.ask(ShowBridge())).bridge["routes"]
    return found


@dataclass(frozen=True, slots=True)
class _Leader:
    control: Control
    lines: Lines
    device_url: str | None
    manager_url: str | None
    another: bool
    wait: float

    async def _ask(self, question: str) -> str:
        """Ask a person without end, and a program for a bounded time."""
        try:
            async with asyncio.timeout(None if self.lines.interactive else self.wait):
                return await self.lines.ask(question)
        except TimeoutError:
            what = f"Nothing was read from standard input within {self.wait:.0f} s: {question.strip().rstrip(':')}."
            raise Failure("peer_timeout", what, "Write it there, a line each; --wait changes the time.") from None

    async def _look(self, name: str) -> Route:
        for route in await _routes(self.control):
            if route["name"] == name:
                return route
        raise Failure("usage", "The route is gone: the bridge has read its file again.")

    async def route(self, name: str) -> dict[str, Any]:
        route = await self._look(name)
        before = {link["key"] for link in route["links"]}
        tell(f"Route {name}")
        if route["devices"]["type"] == "s2-connect":
            await self._devices(name, route)
        else:
            are = "is" if len(before) == 1 else "are"
            tell(f"  Its {counted(len(before), 'device')} {are} in the file: nothing is to be paired there.")
        route = await self._look(name)
        if route["manager"]["type"] == "s2-connect":
            await self._managers(name, route)
        else:
            tell("  Its energy manager is in the file: nothing is to be paired there.")
        route = await self._look(name)
        links = route["links"]
        devices = [{"name": link["name"], "key": link["key"], "new": link["key"] not in before} for link in links]
        left = [link["name"] for link in links if _trouble(link, "rm")]
        result: dict[str, Any] = {"name": name, "devices": devices, "left": left}
        result["without_device"] = route["devices"]["type"] == "s2-connect" and not links
        if route["manager"]["type"] == "s2-connect":
            result["representatives"] = [{"link": link["name"], **link["representative"]} for link in links]
            left += [link["name"] for link in links if not _is_known(link) and link["name"] not in left]
        return result

    # Devices

    async def _devices(self, name: str, route: Route) -> None:
        known = [link["name"] for link in route["links"]]
        if known:
            tell(f"  Paired with {counted(len(known), 'device')}: {_listed(known)}")
        broken = [link for link in route["links"] if _trouble(link, "rm")]
        for link in broken:
            tell(f"  {_listed([link['name']])}: {for_display(_trouble(link, 'rm'), 300)}")
        if broken and self.device_url is None:
            await self._await_again(name, route, [link["key"] for link in broken])
        if self.device_url is not None:
            await self._go_to_device(name, route["devices"]["node"], self.device_url)
        elif not known or self.another:
            await self._await_device(name, route)
        while self.lines.interactive and self.device_url is None:
            answer = await self._ask("  Pair another device? [y/N] ")
            if answer.lower() not in ("y", "yes"):
                return
            await self._await_device(name, await self._look(name))

    async def _await_device(self, name: str, route: Route) -> None:
        before = {link["key"] for link in route["links"]}
        code = await self.control.ask(Code(node=route["devices"]["node"]))
        tell("  Type these two at the device:")
        tell(f"    Pairing URL   {code.pairing_url}")
        tell(f"    Pairing code  {self._as_shown(code.code)}")
        tell(f"  Waiting for the device, for {span(self.wait)} at most …")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.wait
        while loop.time() < deadline:
            await asyncio.sleep(LOOK_AGAIN)
            found = [link for link in (await self._look(name))["links"] if link["key"] not in before]
            if found:
                tell(f"  Paired with {_listed([found[0]['name']])}.")
                return
        raise Failure("pairing_expired", f"No device has come within {self.wait:.0f} s.", "Run the command again.")

    async def _await_again(self, name: str, route: Route, keys: Sequence[str]) -> None:
        """Show a code for each device whose access is unknown, and wait until it was typed there; stop at the first."""
        for key in keys:
            code = await self.control.ask(Code(node=route["devices"]["node"]))
            shown = next(_listed([link["name"]]) for link in route["links"] if link["key"] == key)
            tell(f"  Type these two at {shown}, if it does not come by itself:")
            tell(f"    Pairing URL   {code.pairing_url}")
            tell(f"    Pairing code  {self._as_shown(code.code)}")
            if not self.lines.interactive:
                return  # a program looks at what is left
            await self._ask("  Press Enter when it was typed there, or to go on. ")
            route = await self._look(name)

    def _as_shown(self, code: str) -> str:
        """Return a code in groups for a person; whole for a program, which takes it as a word."""
        return in_groups(code) if self.lines.interactive else code

    async def _go_to_device(self, name: str, node: str, url: str) -> None:
        pairing = None
        while pairing is None:
            code = await self._ask("  Pairing code that the device shows: ")
            pairing = await self._try(node, url, code, again=self.lines.interactive)
        shown = for_display(pairing.peer.title, 60)
        tell(f"  Paired with {shown}.")
        # The bridge makes its link a moment later, and then it needs an energy manager.
        if await self._until(name, lambda link: bool(link["key"] == str(pairing.peer.id))) is None:
            raise Failure(
                "not_reachable",
                f"{shown} is paired, and the bridge has made no link for it within {LINK_TIMEOUT:.0f} s.",
                "See why with: s2connect bridge status; then run the command again.",
            )

    # Energy managers

    async def _managers(self, name: str, route: Route) -> None:
        links = route["links"]
        paired = [link for link in links if _is_known(link)]
        pending = [link for link in links if not _is_known(link)]
        if paired:
            tell(f"  Known to the energy manager: {_listed([link['name'] for link in paired])}")
        if not pending:
            tell(
                "  Everything is paired." if links else "  There is no device yet whose energy manager could be paired."
            )
            return
        for link in pending:
            if trouble := _trouble(link, "cem"):
                tell(f"  {_listed([link['name']])} has to be paired again: {for_display(trouble, 300)}")
        if new := [link["name"] for link in pending if not _trouble(link, "cem")]:
            tell(f"  Not yet known to the energy manager: {_listed(new)}")
        if self.manager_url is not None:
            url, _, code = self.manager_url.partition(" ")  # as the QR code of serve has it
        else:
            url, code = await self._ask_for_manager()
        for link in pending:
            shown = _listed([link["name"]])
            while True:
                if url:
                    code = code.strip() or await self._ask(f"  Pairing code that it shows, for {shown}: ")
                if not url or not code:
                    tell("  Stopped here; run the command again to go on.")
                    return
                try:
                    if await self._try(link["representative"]["node"], url, code, again=True):
                        break  # the same code is tried for the next one
                    code = ""
                except Failure as failure:
                    if failure.kind != NotReachable.kind or self.manager_url is not None:
                        raise
                    tell(f"  {for_display(str(failure), 300)}")
                    url, code = await self._ask_for_manager()
            key = link["key"]
            await self._until(name, lambda one, key=key: one["key"] == key and _is_known(one))  # type: ignore[misc]
            tell(f"  The energy manager knows {shown} now.")

    async def _ask_for_manager(self) -> tuple[str, str]:
        """Ask for the pairing URL of the manager until it is one; return it and a code behind it; empty: stop."""
        while answer := (await self._ask("  Pairing URL that the energy manager shows (Enter stops): ")).strip():
            url, _, code = answer.partition(" ") if answer.startswith("https://") else (answer, "", "")
            try:
                return str(BaseUrl.of_pairing(url)), code
            except InvalidUrl as error:
                tell(f"  {for_display(str(error), 300)}")
        return "", ""

    async def _until(self, name: str, fits: Callable[[Link], bool]) -> Link | None:
        """Wait until a link of a route fits; None if none does after :data:`LINK_TIMEOUT`.

        The bridge updates its links a moment after a pairing.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LINK_TIMEOUT
        while True:
            found = next(filter(fits, (await self._look(name))["links"]), None)
            if found is not None or loop.time() >= deadline:
                return found
            await asyncio.sleep(0.1)

    async def _try(self, node: str, url: str, code: str, *, again: bool) -> PairingEntry | None:
        """Pair, also with a busy energy manager; None where ``again`` allows another code, after printing why."""
        for attempts_left in reversed(range(BUSY_ATTEMPTS)):
            try:
                return await self.control.ask(Pair(node=node, url=url, code=code))
            except Failure as failure:
                if failure.kind == "peer_busy" and attempts_left:
                    await asyncio.sleep(BUSY_PAUSE)
                elif failure.kind in _ANOTHER_CODE and again:
                    tell(f"  Not with this code: {for_display(str(failure), 300)}")
                    return None
                else:
                    raise
        return None


def _is_known(link: Link) -> bool:
    """Return whether the energy manager of a link knows its device, and accepts its access."""
    return link["representative"]["paired_with"] is not None and not _trouble(link, "cem")


def _trouble(link: Link, side: str) -> str:
    """Return why the pairing of a link with its device (``rm``) or energy manager (``cem``) is broken; empty if not."""
    trouble = link.get("trouble", {}).get(side)
    return "" if trouble is None else str(trouble["text"])


def _listed(names: Sequence[str]) -> str:
    shown = [for_display(name.partition("/")[2] or name, 60) for name in names[:20]]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
