"""The page of `serve` and `bridge run`: what is shown, kept live, and what a person can do there.

It is HTML from templates and works without scripts. With them, a stream sends the parts that have changed, as HTML,
too: each part has one template and nothing is written twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import hdrs, web

from s2connect.errors import GIVE_ADDRESS, InvalidUrl, UsageError
from s2connect.model.common import NodeDescription, Role
from s2connect.model.url import BaseUrl
from s2connect.web.access import Session
from s2connect.web.drawing import drawings, qr
from s2connect.web.facts import (
    CodeState,
    FoundFacts,
    LinkFacts,
    NodeFacts,
    PeerFacts,
    PeerState,
    Seen,
    Snapshot,
)
from s2connect.web.metrics import status_of
from s2connect.web.observation import Observation
from s2connect.web.server import PageServer, ServerEvent
from s2connect.web.templates import own, render

MAX_SHOWN: Final = 50
"""Pairings and links that are shown, those that need a person first; the search finds the others."""

MAX_FOUND: Final = 30
"""Endpoints of the local network that are shown; the search finds the others."""

MAX_DRAWINGS: Final = 12
"""Power curves that are shown."""

MAX_MESSAGES: Final = 50
"""Messages that are shown."""

MAX_SEARCHED: Final = 1000
"""Messages among which those that fit are looked for."""

MAX_CODES: Final = 4
"""Nodes of ours that have a place for their code; with more of them, those whose code is valid, and a list."""

CROWD: Final = 8
"""Pairings, links or endpoints of the network from which there is a search."""

MAX_QUERY: Final = 100
"""Longest text that is searched for, in characters."""

MIN_PAUSE: Final = 0.5
"""Seconds between two events of a stream, at least."""

SHARE: Final = 0.006
"""Share of the time of the event loop that all streams together may take for facts and templates. With 500 sessions
that all have news, that is an event in some five seconds; with a few, two a second."""

PARTS: Final = ("summary", "warnings", "links", "code", "found", "peers", "curves", "messages")
"""Parts of the page that are kept live, each ``part_NAME.html`` with an element that has the id of :data:`IDS`."""

IDS: Final = {"summary": "summary-part"}
"""Ids of the elements of parts that are not called like them."""

SAID: Final = {
    "paired": "Paired. The first session follows by itself.",
    "unpaired": "Unpaired.",
    "tried": "It is tried now.",
    "cancelled": "Nothing was paired.",
}
"""Sentences after an action, by the name that its address has."""

SPENT: Final = {
    CodeState.USED: "A pairing was made with the last code. Each is valid once.",
    CodeState.EXPIRED: "The last code has expired.",
    CodeState.WITHDRAWN: "The last code was withdrawn: too many attempts failed.",
}
"""Sentences on codes that are not valid any more."""

OWN_ADDRESS: Final = {
    "what": "That is the address of this machine.",
    "hint": "Type the address that the other side shows.",
}

Execute = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Executes one command of the sidecar contract; returns the object of its event ``result``."""


@dataclass(frozen=True, slots=True)
class Query:
    """Search of a viewer.

    Attributes:
        find: Among pairings and links.
        filter: Among messages.
        all: Show acknowledgements, too; those that are not ``OK`` are always there.
    """

    find: str = ""
    filter: str = ""
    all: bool = False

    @classmethod
    def of(cls, request: web.Request) -> Query:
        """Read it from the address of a request."""
        find, wanted = (request.query.get(name, "")[:MAX_QUERY].strip() for name in ("find", "filter"))
        return cls(find, wanted, "all" in request.query)


@dataclass(frozen=True, slots=True)
class ShownCode:
    """Place of a node's pairing code on the page; ``text`` is empty where there is none.

    Attributes:
        wanted_by: Name of who is about to type it; empty for nobody, or where that is not known.
        wanted: Somebody is about to type it.
    """

    node: NodeFacts
    title: str
    wanted: bool = False
    wanted_by: str = ""
    text: str = ""
    url: str = ""
    expires: bool = False
    left: float = 0.0
    until: int = 0
    qr: Any = None


class Page:
    """The page of one service.

    Args:
        observation: What it shows.
        execute: Executes the commands behind its buttons.
    """

    def __init__(self, observation: Observation, execute: Execute) -> None:
        self._observation = observation
        self._execute = execute
        self._viewers = 0

    def install(self, server: PageServer) -> None:
        """Add its pages, actions and stream to a server."""
        server.add_page("/", self._show)
        server.add_page("/pair", self._show_pair)
        server.add_page("/unpair", self._show_unpair)
        server.add_page("/status.json", self._status)
        server.add_stream("/live", self._live)
        server.add_action("/code", self._code)
        server.add_action("/pick", self._pick)
        server.add_action("/pair", self._pair)
        server.add_action("/cancel", self._cancel)
        server.add_action("/unpair", self._unpair)
        server.add_action("/try", self._try)

    # Pages

    async def _show(self, request: web.Request, session: Session) -> web.Response:
        said = SAID.get(request.query.get("said", ""), "")
        await self._observation.read_codes()
        values = self._values(Query.of(request), session)
        text = await asyncio.to_thread(render, "page.html", said=said, **values)
        return web.Response(text=text, content_type="text/html")

    async def _status(self, request: web.Request, session: Session) -> web.Response:
        return web.Response(text=await status_of(self._observation), content_type="application/json")

    async def _live(self, request: web.Request, session: Session) -> AsyncIterator[ServerEvent]:
        """Yield the parts that changed, again and again."""
        query, shown = Query.of(request), dict[str, str]()
        self._viewers += 1
        try:
            while True:
                mark = self._observation.mark()
                await self._observation.read_codes()
                begun = time.thread_time()
                values = self._values(query, session)
                took = time.thread_time() - begun
                parts, more = await asyncio.to_thread(_parts, values)
                news = {name: html for name, html in parts.items() if shown.get(name) != html}
                shown |= news
                if news:
                    yield ServerEvent("parts", {"now": time.time(), "title": values["summary"], "parts": news})
                await asyncio.sleep(max(MIN_PAUSE, (took + more) * self._viewers / SHARE))
                await self._observation.changed(mark)
        finally:
            self._viewers -= 1

    def _values(self, query: Query, session: Session) -> dict[str, Any]:
        """Return what the templates of the page show."""
        facts = self._observation.snapshot()
        peers = [one for one in facts.peers if _fits(query.find, *_texts_of_peer(one))]
        links = [one for one in facts.links if _fits(query.find, *_texts_of_link(one))]
        found = [one for one in facts.found if not one.ours and _fits(query.find, *_texts_of_found(one))]
        drawn = drawings(self._observation.curves(), facts.at.timestamp())
        drawn = [one for one in drawn if _fits(query.find, one.title)]
        self._observation.look_at(one.key for one in drawn[:MAX_DRAWINGS])
        codes = [self._shown_code(one, facts) for one in facts.nodes]
        few = len(codes) <= MAX_CODES
        return {
            "facts": facts,
            "now": facts.at,
            "bridge": facts.service.kind == "bridge",
            "kind": "Bridge" if facts.service.kind == "bridge" else "Endpoint",
            "own": {one.id: one for one in facts.nodes},
            "name": facts.service.name or _only_title(facts) or facts.service.host,
            "summary": summary(facts),
            "query": query,
            "csrf": session.csrf,
            "peers": peers[:MAX_SHOWN],
            "more_peers": facts.more_peers + max(0, len(peers) - MAX_SHOWN),
            "links": links[:MAX_SHOWN],
            "more_links": facts.more_links + max(0, len(links) - MAX_SHOWN),
            "crowd": max(len(facts.peers), len(facts.links), len(facts.found)) > CROWD,
            "found": found[:MAX_FOUND],
            "more_found": facts.more_found + max(0, len(found) - MAX_FOUND),
            "codes": [one for one in codes if few or one.text or one.wanted][:MAX_SHOWN],
            "spent": SPENT,
            "more_codes": [] if few else facts.nodes,
            "drawings": drawn[:MAX_DRAWINGS],
            "more_drawings": max(0, len(drawn) - MAX_DRAWINGS),
            "seen": self._seen(query),
            "leaves_out": self._observation.leaves_out,
            "logout": session.can_log_out,
        }

    def _seen(self, query: Query) -> list[Seen]:
        """Return the last messages that fit, newest first."""
        fitting = (
            one
            for one in reversed(self._observation.messages(limit=MAX_SEARCHED if query.filter else 4 * MAX_MESSAGES))
            if (query.all or one.status != "OK") and _fits(query.filter, one.type, one.title, one.text)
        )
        return list(islice(fitting, MAX_MESSAGES))

    def _shown_code(self, node: NodeFacts, facts: Snapshot) -> ShownCode:
        title = own(node, facts)
        known = self._observation.codes.get(node.id)
        code = known.code if known is not None else None
        announced = self._observation.announced.get(node.id)
        wanted = announced is not None
        by = announced.peer.title if announced is not None and announced.peer is not None else ""
        if code is None:
            return ShownCode(node, title, wanted, by)
        url, text = facts.service.pairing_url, code.shown
        drawn = qr(f"{url} {text}", "QR code of address and pairing code") if url else None
        left = code.expires_in or 0.0
        until = int(facts.at.timestamp() + left)
        return ShownCode(node, title, wanted, by, text, url, code.expires_in is not None, left, until, drawn)

    # Pairing

    async def _code(self, request: web.Request, session: Session, form: Mapping[str, Any]) -> web.Response:
        await self._ask({"command": "code", "node": _text(form, "node")})
        self._observation.note_change()  # other viewers see the old one
        return _see("/#code")

    async def _show_pair(self, request: web.Request, session: Session) -> web.Response:
        asked = {name: request.query.get(name, "")[:2000] for name in ("url", "peer", "node", "waiting", "asked")}
        if asked["url"] and not self._found(asked["url"]):
            asked |= {"url": "", "peer": "", "asked": ""}  # what was not found is not offered as if it were
        return self._pair_page(session, {**asked, "picked": asked["url"]})

    def _found(self, url: str) -> FoundFacts | None:
        return next((one for one in self._observation.snapshot().found if one.pairing_url == url), None)

    def _pair_page(
        self,
        session: Session,
        form: Mapping[str, Any],
        problem: Mapping[str, Any] | None = None,
        peers: Sequence[NodeDescription] = (),
    ) -> web.Response:
        facts = self._observation.snapshot()
        url, waiting = _text(form, "url"), _text(form, "waiting")
        found = self._found(url) if url and _text(form, "picked") else None  # what was typed may be corrected
        title = found.name or found.instance if found else ""
        device = next((one for one in facts.waiting if str(one.id) == waiting), None)
        if found is not None and not peers:
            peers = found.nodes
        role = device.role if device else next((one.role for one in peers if str(one.id) == _text(form, "peer")), None)
        nodes = [one for one in facts.nodes if role is None or one.role is role.other][:1000]
        return _html(
            "pair.html",
            status=200 if problem is None else 422,
            facts=facts,
            bridge=facts.service.kind == "bridge",
            csrf=session.csrf,
            title=device.title if device else title,
            picked=found is not None,
            url=url,
            waiting=waiting if device else "",
            peer=_text(form, "peer"),
            peers=peers,
            node=_text(form, "node") or _unpaired(nodes, facts),
            nodes=nodes,
            code=_text(form, "code"),
            asked=_text(form, "asked") == "1",
            problem=problem,
            offer_force=problem is not None and problem.get("kind") == "pairing_refused",
        )

    async def _pick(self, request: web.Request, session: Session, form: Mapping[str, Any]) -> web.Response:
        """Have the other side show its code, if it can; then ask for the code."""
        url, waiting, peer = _text(form, "url"), _text(form, "waiting"), _text(form, "peer")
        command: dict[str, Any] = {"command": "announce"}
        if waiting:
            command |= {"peer": waiting}
        else:
            if not peer:
                nodes = await self._nodes(url)
                peer = str(nodes[0].id) if len(nodes) == 1 else ""
            command |= {"peer": peer, "url": url}
        asked = ""
        if command["peer"]:
            node = self._own_node(command["peer"], url)
            answer = await self._ask(command | ({"node": node} if node else {}))
            asked = "1" if answer.get("ok") else ""
        return _see(f"/pair?{urlencode({'url': url, 'waiting': waiting, 'peer': peer, 'asked': asked})}")

    async def _nodes(self, url: str) -> list[NodeDescription]:
        """Return the nodes of another endpoint that one of ours may pair with; none if it does not tell."""
        answer = await self._ask({"command": "nodes", "url": url})
        ours = {one.role.other for one in self._observation.snapshot().nodes}
        try:
            nodes = [NodeDescription.model_validate(one, by_name=True) for one in answer.get("nodes", ())]
        except ValueError:
            return []
        return [one for one in nodes if one.role in ours]

    def _own_node(self, peer: str, url: str) -> str:
        """Return our only node that may pair with a peer; empty if there are several or none."""
        facts = self._observation.snapshot()
        found = self._found(url) if url else None
        known = [*facts.waiting, *(found.nodes if found else ())]
        role = next((one.role for one in known if str(one.id) == peer), None)
        fit = [one for one in facts.nodes if role is None or one.role is role.other]
        return str(fit[0].id) if len(fit) == 1 else ""

    async def _pair(self, request: web.Request, session: Session, form: Mapping[str, Any]) -> web.Response:
        url, waiting, code = _text(form, "url").strip(), _text(form, "waiting"), _text(form, "code").strip()
        peer = _text(form, "peer")
        if code.startswith("https://") and " " in code:  # the text of a QR code
            url, _, code = code.partition(" ")
            form, peer = {**form, "url": url, "code": code.strip(), "picked": "", "peer": ""}, ""
        url = url.split(maxsplit=1)[0] if url.startswith("https://") else url
        command: dict[str, Any] = {"command": "pair", "code": code.strip()}
        if waiting:
            command["peer"] = waiting
        else:
            command["url"] = url
            if peer:
                command["server_node"] = peer
        if node := _text(form, "node"):
            command["node"] = node
        if _text(form, "force"):
            command["force"] = True
        answer = await self._ask(command)
        if answer.get("ok"):
            with_node, with_peer = answer.get("node"), (answer.get("peer") or {}).get("id")
            await self._settled(lambda: self._is_paired(str(with_node), str(with_peer)))
            return _see("/?said=paired")
        problem = _problem(answer)
        if not waiting and self._is_own(url):
            problem = {**problem, **OWN_ADDRESS, "added": ""}
        return self._pair_page(session, {**form, "asked": ""}, problem)

    def _is_own(self, url: str) -> bool:
        with contextlib.suppress(InvalidUrl):
            return str(BaseUrl.of_pairing(url)) == self._observation.snapshot().service.pairing_url
        return False

    async def _cancel(self, request: web.Request, session: Session, form: Mapping[str, Any]) -> web.Response:
        peer = _text(form, "waiting") or _text(form, "peer")
        if peer:
            command: dict[str, Any] = {"command": "announce", "peer": peer, "cancel": True}
            if url := _text(form, "url"):
                command["url"] = url
            if node := _text(form, "node") or self._own_node(peer, url):
                command["node"] = node
            await self._ask(command)
        return _see("/?said=cancelled")

    # Pairings and tries

    async def _show_unpair(self, request: web.Request, session: Session) -> web.Response:
        return self._unpair_page(session, request.query)

    def _unpair_page(
        self, session: Session, form: Mapping[str, Any], problem: Mapping[str, Any] | None = None
    ) -> web.Response:
        node, peer = _text(form, "node"), _text(form, "peer")
        known = self._observation.snapshot().peers
        found = next((one for one in known if str(one.node) == node and str(one.peer.id) == peer), None)
        if found is None:
            return _html(
                "notice.html", status=404, title="Not paired", text="There is no such pairing any more.", hint=""
            )
        return _html(
            "unpair.html",
            status=200 if problem is None else 422,
            csrf=session.csrf,
            title=found.peer.title,
            node=node,
            peer=peer,
            problem=problem,
        )

    async def _unpair(self, request: web.Request, session: Session, form: Mapping[str, Any]) -> web.Response:
        command = {"command": "unpair", "peer": _text(form, "peer"), "node": _text(form, "node")}
        answer = await self._ask(command | ({"forget": True} if _text(form, "forget") else {}))
        if not answer.get("ok"):
            return self._unpair_page(session, form, _problem(answer))
        await self._settled(lambda: not self._is_paired(command["node"], command["peer"]))
        return _see("/?said=unpaired#peers")

    def _is_paired(self, node: str, peer: str) -> bool:
        return any((str(one.node), str(one.peer.id)) == (node, peer) for one in self._observation.snapshot().peers)

    async def _settled(self, shown: Callable[[], bool]) -> None:
        """Wait for a moment until the observation shows what was done, so that the next page does."""
        for _ in range(20):
            if shown():
                return
            await asyncio.sleep(0.1)

    async def _try(self, request: web.Request, session: Session, form: Mapping[str, Any]) -> web.Response:
        try:
            self._observation.try_now(_text(form, "key"))
        except UsageError as error:
            return _html("notice.html", status=422, title="Not tried", text=error.what, hint=error.hint)
        return _see("/?said=tried")

    async def _ask(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._execute(command)


def _parts(values: Mapping[str, Any]) -> tuple[dict[str, str], float]:
    """Return the HTML of the parts by id, and the processor time of making it. Runs in a thread."""
    begun = time.thread_time()
    names = [name for name in PARTS if name != "links" or values["bridge"]]
    parts = {IDS.get(name, name): render(f"part_{name}.html", **values) for name in names}
    return parts, time.thread_time() - begun


def summary(facts: Snapshot) -> str:
    """Return the state of a service in some words."""
    if facts.service.kind == "bridge":
        up, all_of = sum(one.up for one in facts.routes), sum(one.links for one in facts.routes)
        return f"{up} of {all_of} links up" if all_of else "No links yet"
    connected = sum(one.state is PeerState.CONNECTED for one in facts.peers)
    if not facts.peers:
        return "Nothing is paired yet"
    return f"{connected} of {len(facts.peers) + facts.more_peers} connected"


def _only_title(facts: Snapshot) -> str:
    return facts.nodes[0].description.title if len(facts.nodes) == 1 else ""


def _unpaired(nodes: Sequence[NodeFacts], facts: Snapshot) -> str:
    """Return the first node that may have one pairing only and has none; empty for none."""
    paired = {one.node for one in facts.peers}
    return next((str(one.id) for one in nodes if one.role is Role.RM and one.id not in paired), "")


def _texts_of_peer(one: PeerFacts) -> Iterable[str]:
    peer = one.peer
    return one.state, peer.title, peer.brand, peer.model_name, peer.type, one.endpoint_name, str(peer.id)


def _texts_of_link(one: LinkFacts) -> Iterable[str]:
    return one.state, one.name, one.device.title, one.manager.title


def _texts_of_found(one: FoundFacts) -> Iterable[str]:
    titles = (node.title for node in one.nodes)
    return one.name, one.instance, one.pairing_url, *titles, *one.addresses


def _fits(wanted: str, *texts: str) -> bool:
    return not wanted or any(wanted.casefold() in text.casefold() for text in texts)


def _text(form: Mapping[str, Any], name: str) -> str:
    """Return a member of a form as text; empty for none, or for one that is none."""
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def _problem(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return why a command failed, for a template."""
    error = answer.get("error") or {}
    added = error.get("additional_info") or error.get("label") or ""
    hint = error.get("hint", "").replace(GIVE_ADDRESS, "have the code of this machine typed at the other side")
    return {"kind": "", "what": "It failed.", **error, "hint": hint, "added": added}


def _html(name: str, /, *, status: int = 200, **values: Any) -> web.Response:
    return web.Response(status=status, text=render(name, **values), content_type="text/html")


def _see(address: str) -> web.Response:
    return web.Response(status=303, headers={hdrs.LOCATION: address})
