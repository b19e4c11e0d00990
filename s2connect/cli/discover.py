"""Discovery of the local network for ``discover`` and ``pair``: tables for people, objects for programs, limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from s2connect.cli.show import ROLES, node_title
from s2connect.cli.terminal import console, put, tell
from s2connect.discovery.browse import Browser, Event
from s2connect.discovery.txt import FoundEndpoint
from s2connect.endpoint.config import bracketed
from s2connect.endpoint.settings import read_config
from s2connect.errors import S2ConnectError
from s2connect.https.own_addresses import links, own_addresses
from s2connect.model.common import NodeDescription, Role
from s2connect.model.text import for_display
from s2connect.model.url import PAIRING_PATH, BaseUrl
from s2connect.service.commands import Nodes
from s2connect.service.objects import rfc3339, to_value
from s2connect.service.reach import reach_nothing
from s2connect.service.sidecar import Service
from s2connect.store.home import Home

LISTEN_SECONDS = 5.0  # seconds to listen; endpoints answer within two or three
REFRESH_SECONDS = 0.25  # seconds between two redraws
MAX_SHOWN_ADDRESSES = 4  # most addresses of one endpoint in a table for people; programs get all
ANSWER_SECONDS = 4.0  # seconds in which an endpoint tells what it hosts
ASKED_AT_ONCE = 8  # endpoints that are asked at the same time
MAX_ASKED = 100  # most endpoints that are asked
MAX_SHOWN_NODES = 10  # most nodes of one endpoint in a list for people; programs get all
ASK_SECONDS = 20.0  # seconds for all of these answers
MAX_LIVE = 30  # most endpoints that are drawn while it listens
MAX_LISTED = 50  # most endpoints that are listed for people, those of one address in turn with others; programs get all

NOTHING_FOUND = (
    "Nothing was found. Is the other side on, and in the same network (no guest Wi-Fi, no other VLAN)? "
    "This machine is checked by: s2connect doctor. A typed URL always works: s2connect pair URL"
)

Progress = Callable[[RenderableType], None]
Hosted = Mapping[str, Sequence[NodeDescription]]  # what endpoints host, by their instance


def own_pairing_url(path: Path) -> str | None:
    """Return the pairing URL of the endpoint of a state directory; None if none can be read. Blocks."""
    try:
        config = read_config(Home.open(path))
    except S2ConnectError:
        return None
    return f"https://{bracketed(config.host)}:{config.port}{PAIRING_PATH}" if config.server else None


def found_object(found: FoundEndpoint, own_url: str | None) -> dict[str, Any]:
    """Return an endpoint for programs, in the words of the TXT record; clean its texts before display."""
    return {
        **to_value(found),
        "title": found.title,
        "roles": sorted(found.roles),
        "this_endpoint": _is_own(found, own_url),
    }


def limits(browser: Browser, found: int = 0) -> list[str]:
    """Return sentences about reasons why an endpoint may not be listed, where so many were found."""
    notes = []
    if (more := found - MAX_LISTED) > 0:
        notes.append(f"And {more} more, which are in: s2connect discover --json")
    if all(own.interface.ip.is_loopback for own in own_addresses()):
        notes.append("This machine has no network address but that of itself: nothing else can be seen.")
    elif not _has_link():
        notes.append("No cable or WLAN of this machine is connected: nothing else can be seen. See: s2connect doctor")
    if browser.refused:
        number = "One service is" if browser.refused == 1 else f"{browser.refused} services are"
        notes.append(f"{number} left out: the TXT record is not as the standard says. For the reasons: --verbose")
    if browser.overflow:
        notes.append("There are more services in this network than can be real: not all of them are listed.")
    return notes


def _has_link() -> bool:
    """Return whether an interface with an address, other than loopback, carries anything."""
    names, down = dict(socket.if_nameindex()), links().down
    return any(not own.interface.ip.is_loopback and names.get(own.index, "") not in down for own in own_addresses())


def endpoints_block(
    found: Sequence[FoundEndpoint], *, hosted: Hosted | None = None, own_url: str | None = None, numbered: bool = False
) -> Text:
    """Return endpoints as lines: brand, model and name of what they host, where that is known, URL, and addresses."""
    blocks = []
    for number, one in enumerate(found, 1):
        roles, url, *rest = _facts(one, own_url)
        nodes = (hosted or {}).get(one.instance) or []
        head = Text(f"{number}  " if numbered else "", style="bold")
        if len(nodes) == 1:
            head.append_text(node_title(nodes[0]))
            if one.name and not nodes[0].user_defined_name:
                head.append(f" at {one.title}", style="not bold")
        else:
            head.append(one.title).append(f" ({roles})", style="not bold")
            for node in nodes[:MAX_SHOWN_NODES]:
                head.append("\n     ", style="not bold").append_text(node_title(node))
            if len(nodes) > MAX_SHOWN_NODES:
                head.append(f"\n     and {len(nodes) - MAX_SHOWN_NODES} more", style="not bold")
        blocks.append(head.append("".join(f"\n     {text}" for text in (url, *rest) if text), style="not bold"))
    return Text("\n").join(blocks)


async def ask_what_they_host(found: Sequence[FoundEndpoint]) -> Hosted:
    """Ask endpoints in the local network what they host; return what those that answered within some seconds said."""
    hosted: dict[str, list[NodeDescription]] = {}
    asked = [(one, one.pairing_url) for one in found[:MAX_ASKED] if one.pairing_url is not None and one.addresses]
    if not asked:
        return hosted
    turns = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(service: Service, one: FoundEndpoint, url: BaseUrl) -> None:
        # At an address that was seen here, whatever the record says: it may name any server.
        command = Nodes(url=str(url), connect_to=one.addresses[0])
        with contextlib.suppress(S2ConnectError, TimeoutError):
            async with turns, asyncio.timeout(ANSWER_SECONDS):
                hosted[one.instance] = (await service.ask(command)).nodes

    async with reach_nothing() as service:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_SECONDS):
                await asyncio.gather(*(ask(service, one, url) for one, url in asked))
    return hosted


def so_far(found: Sequence[FoundEndpoint], *, own_url: str | None = None, numbered: bool = False) -> RenderableType:
    """Return the first endpoints, for a block that is redrawn."""
    more = len(found) - MAX_LIVE
    block = endpoints_block(found[:MAX_LIVE], own_url=own_url, numbered=numbered)
    return Group(block, Text(f"… and {more} more")) if more > 0 else block


def _objects(nodes: Sequence[NodeDescription] | None) -> list[Any] | None:
    return None if nodes is None else [to_value(node) for node in nodes]


def _facts(one: FoundEndpoint, own_url: str | None) -> tuple[str, str, str, str]:
    """Return roles, URL, addresses and remarks of an endpoint, fit for a terminal."""
    addresses = [for_display(address, 60) for address in one.addresses[:MAX_SHOWN_ADDRESSES]]
    if more := len(one.addresses) - len(addresses):
        addresses.append(f"and {more} more")
    remarks = ["this endpoint"] if _is_own(one, own_url) else []
    if one.longpolling_url:
        remarks.append("devices can wait here")
    roles = ", ".join(ROLES[role] for role in sorted(one.roles)) or "role not told"
    return roles, for_display(one.pairing_url or "", 300), ", ".join(addresses), ", ".join(remarks)


def _is_own(one: FoundEndpoint, own_url: str | None) -> bool:
    return one.pairing_url is not None and one.pairing_url == own_url


@contextlib.contextmanager
def progress(*, wanted: bool = True) -> Iterator[Progress]:
    """Open a block of the terminal that is redrawn, and removed in the end; yield the function that draws it."""
    out = console(error=True)
    if not wanted or not out.is_terminal:
        yield lambda _: None
        return
    with Live(console=out, transient=True, auto_refresh=False) as live:
        yield lambda block: live.update(block, refresh=True)


async def listen(seconds: float, block: Callable[[float], RenderableType], *, wanted: bool = True) -> None:
    """Draw the block for the seconds that are left, again and again, until none are."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    with progress(wanted=wanted) as draw:
        while (left := until - loop.time()) > 0:
            draw(block(left))
            await asyncio.sleep(min(left, REFRESH_SECONDS))


async def once(role: Role | None, seconds: float, own_url: str | None, *, as_json: bool) -> None:
    """Listen for some seconds and print the endpoints."""
    errors = console(error=True)
    if not as_json and not errors.is_terminal:
        errors.print(f"Listening for {seconds:g} seconds …")
    async with Browser(role) as browser:

        def block(left: float) -> RenderableType:
            found = so_far(browser.found(), own_url=own_url)
            return Group(found, Text(f"Listening … {left:.0f} s", style="dim"))

        await listen(seconds, block, wanted=not as_json)
        await _result(browser, own_url, as_json=as_json)


async def _result(browser: Browser, own_url: str | None, *, as_json: bool) -> None:
    found = browser.found()
    hosted = await ask_what_they_host(found if as_json else found[:MAX_LISTED])
    notes = limits(browser, 0 if as_json else len(found))
    if not found:
        notes.append(NOTHING_FOUND)
    if as_json:
        endpoints = [{**found_object(one, own_url), "nodes": _objects(hosted.get(one.instance))} for one in found]
        result = {"endpoints": endpoints, "refused": browser.refused, "overflow": browser.overflow, "notes": notes}
        print(json.dumps(result), flush=True)
        return
    out = console()
    if found:
        put(out, endpoints_block(found[:MAX_LISTED], hosted=hosted, own_url=own_url))
    for note in notes:
        tell(note)


async def watch(role: Role | None, seconds: float | None, own_url: str | None, *, as_json: bool) -> None:
    """Print endpoints that appear, change and vanish, until cancelled or for some seconds."""
    out = console()
    live = Live(console=out, transient=True, auto_refresh=False) if out.is_terminal and not as_json else None
    async with Browser(role) as browser:
        try:
            with live or contextlib.nullcontext(), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    if live is not None:
                        _draw(live, browser, own_url)
                    async for event in browser:
                        if live is not None:
                            _draw(live, browser, own_url)
                        else:
                            print(_line(event, own_url, as_json=as_json), flush=True)
        finally:
            if live is not None:
                await _result(browser, own_url, as_json=False)
            else:
                for note in limits(browser):
                    tell(note)


def _draw(live: Live, browser: Browser, own_url: str | None) -> None:
    found = browser.found()
    state = f"{len(found)} found at {datetime.now():%H:%M:%S}; watching until Ctrl-C …"
    live.update(Group(so_far(found, own_url=own_url), Text(state, style="dim")), refresh=True)


def _line(event: Event, own_url: str | None, *, as_json: bool) -> str:
    name = type(event).__name__.lower()
    if as_json:
        endpoint = found_object(event.endpoint, own_url)
        return json.dumps({"event": name, "time": rfc3339(datetime.now(UTC)), "endpoint": endpoint})
    facts = [text for text in _facts(event.endpoint, own_url) if text]
    return f"{datetime.now():%H:%M:%S}  {name:8}  {event.endpoint.title}  " + "  ".join(facts)
