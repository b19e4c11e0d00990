"""The page without scripts: what it says, its forms, and texts of strangers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import aiohttp
import pytest

from s2connect import Role
from s2connect.errors import GIVE_ADDRESS
from s2connect.web import observation
from s2connect.web.access import Session
from s2connect.web.drawing import amount, drawings
from s2connect.web.facts import Curve, Point
from s2connect.web.observation import Observation
from s2connect.web.page import IDS, MAX_FOUND, PARTS, Page, Query
from s2connect.web.server import PageServer
from s2connect.web.templates import STATIC, environment, render, static_file
from tests.waits import until, within
from tests.web.pages import Site, serving, site
from tests.web.shown import OWN, Shown, no_command, shown

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202eevil\x1b[31m\x00\u2066"

NAMES = [HOSTILE, "\u202e" * 50 + "x" * 10_000, "\x00\x1b]0;x\x07y", "&lt;b&gt;{{ 7 * 7 }}"]


class Seen(HTMLParser):
    """Elements of a page with their attributes, and its forms by action."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self.elements.append((tag, of))
        if tag == "form":
            self.forms.append((of["action"] or "", {}))
        elif tag == "input" and of.get("name"):
            self.forms[-1][1][of["name"] or ""] = of.get("value") or ""

    def form(self, action: str) -> dict[str, str]:
        return next(members for found, members in self.forms if found == action)


class Visitor:
    """A browser without scripts."""

    def __init__(self, server: PageServer, http: aiohttp.ClientSession) -> None:
        self._base = server.url
        self._http = http

    async def get(self, path: str = "", status: int = 200) -> str:
        async with self._http.get(self._base + path) as response:
            assert response.status == status
            return await response.text()

    async def post(self, path: str, **form: str) -> tuple[int, str]:
        """Send a form; return the status and the page after redirections."""
        async with self._http.post(self._base + path, data=form) as response:
            return response.status, await response.text()


@asynccontextmanager
async def visitor(of: Site) -> AsyncIterator[Visitor]:
    async with aiohttp.ClientSession() as http:
        yield Visitor(of.server, http)


@pytest.mark.long
async def test_two_endpoints_are_paired_and_unpaired_by_forms(tmp_path: Path) -> None:
    async with (
        site(tmp_path / "cem", Role.CEM) as cem,
        site(tmp_path / "rm", Role.RM, user_defined_name="Cellar") as rm,
        visitor(cem) as person,
        visitor(rm) as other,
        within(40),
    ):
        text = await person.get()
        assert "Nothing is paired yet" in text
        await person.post("code", **Seen(text).form("/code"))
        text = await person.get()
        shown = re.search(r'the-code">([^<]+)<', text)
        assert shown is not None
        form = Seen(await other.get("pair")).form("/pair")
        status, text = await other.post("pair", **{**form, "url": cem.pairing_url, "code": "AAAA2222BBBB3"})
        assert status == 422
        assert "wrong" in text.lower() or "code" in text
        assert Seen(text).form("/pair")["url"] == cem.pairing_url, "what was typed is kept"
        status, text = await other.post("pair", **{**form, "url": cem.pairing_url, "code": shown[1]})
        assert (status, "Paired." in text) == (200, True)
        await until(lambda: cem.endpoint.connected() and rm.endpoint.connected())
        text = await person.get()
        assert "1 of 1 connected" in text
        assert "Cellar" in text
        peer, node = rm.endpoint.node().id, cem.endpoint.node().id
        text = await person.get(f"unpair?node={node}&peer={peer}")
        assert "Unpair Cellar?" in text
        assert await cem.endpoint.pairings(), "a question changes nothing"
        status, text = await person.post("unpair", **Seen(text).form("/unpair"))
        assert (status, "Unpaired." in text) == (200, True)
        assert not await cem.endpoint.pairings()
        await person.get(f"unpair?node={node}&peer={peer}", status=404)


async def test_forms_without_their_token_do_nothing(tmp_path: Path) -> None:
    async with site(tmp_path / "cem", Role.CEM) as cem, visitor(cem) as person, within(20):
        for path in ("code", "pair", "pick", "cancel", "unpair", "try"):
            status, _ = await person.post(path, node=str(cem.endpoint.node().id))
            assert status == 403, path
        assert cem.endpoint.node().valid_pairing_code() is None
        assert json.loads(await person.get("status.json"))["service"]["kind"] == "serve"


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_more_than_text_at_any_place_of_the_page(name: str) -> None:
    session = Session("token", None, 0.0, 0.0)
    harmless = Seen(_written(shown("Text"), session))
    page = _written(shown(name), session)
    check(page, harmless)
    assert len(page) < 200_000


def _written(observation: Observation, session: Session) -> str:
    values = Page(observation, no_command)._values(Query(), session)
    return render("page.html", said="", **values)


def check(page: str, harmless: Seen) -> None:
    """No element or attribute is there that is not there with harmless texts, and no character that is not seen."""
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]", page)
    found = Seen(page)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in harmless.elements]
    assert [of.keys() for _, of in found.elements] == [of.keys() for _, of in harmless.elements]


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
async def test_names_of_peers_are_nothing_but_text(tmp_path: Path, name: str) -> None:
    name = name[:190]  # longer ones are refused where they are set
    async with (
        site(tmp_path / "cem", Role.CEM) as cem,
        site(tmp_path / "rm", Role.RM, user_defined_name=name, brand=name, model_name=name, type=name) as rm,
        visitor(cem) as person,
        within(40),
    ):
        await rm.endpoint.node().pair(cem.pairing_url, cem.code())
        await until(cem.endpoint.connected)
        peer, node = rm.endpoint.node().id, cem.endpoint.node().id
        for text in (await person.get(), await person.get(f"unpair?node={node}&peer={peer}")):
            assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]", text)
            assert not any(key.startswith("on") for _, of in Seen(text).elements for key in of)
            assert "<img" not in text
            assert len(text) < 60_000


@pytest.mark.long
async def test_the_stream_sends_the_parts_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "QUIET", 1000.0)  # nothing comes only because time passes
    async with (
        site(tmp_path / "cem", Role.CEM) as cem,
        site(tmp_path / "rm", Role.RM, user_defined_name="Cellar") as rm,
        aiohttp.ClientSession() as http,
        within(40),
        http.get(f"{cem.server.url}live") as stream,
    ):

        async def event() -> dict[str, Any]:
            while True:
                block = (await stream.content.readuntil(b"\n\n")).decode()
                if block.startswith("event: parts\ndata: "):
                    found: dict[str, Any] = json.loads(block.removeprefix("event: parts\ndata: "))
                    return found

        first = await event()
        assert first["title"] == "Nothing is paired yet"
        assert set(first["parts"]) >= {"summary-part", "peers", "code", "found", "curves", "messages"}
        other = Visitor(cem.server, http)
        await other.post("code", **Seen(await other.get()).form("/code"))
        assert "the-code" in (await event())["parts"]["code"], "of another viewer"
        code = cem.endpoint.node().valid_pairing_code()
        assert code is not None
        await rm.endpoint.node().pair(cem.pairing_url, code)
        while (then := await event())["title"] != "1 of 1 connected":
            pass
        assert "Cellar" in then["parts"]["peers"]
        assert "curves" not in then["parts"]


def test_every_part_has_the_element_that_is_replaced() -> None:
    for name in PARTS:
        source, _, _ = environment().loader.get_source(environment(), f"part_{name}.html")  # type: ignore[union-attr]
        assert f'id="{IDS.get(name, name)}"' in source.partition(">")[0], name


def test_nothing_comes_from_elsewhere_and_no_script_is_inline() -> None:
    folder = Path(environment.__wrapped__.__code__.co_filename).parent / "templates"
    for file in folder.glob("*.html"):
        text = file.read_text("utf-8")
        assert not re.search(r"(src|href|action)=\"(https?:)?//", text), file
        assert not re.search(r"<script(?! src=\"/static/)|<style|\son\w+=|style=", text), file
    for name in STATIC:
        content = static_file(name).decode("utf-8")
        assert not re.search(r"url\(|@import|https?://", content), name


def test_a_problem_of_the_log_in_is_escaped() -> None:
    text = render("login.html", has_password=True, problem=HOSTILE, retry_after=0)
    assert "<img" not in text
    assert "\u202e" not in text


# Drawings


def curve(*points: tuple[float, float], quantity: str = "ELECTRIC.POWER.L1", key: str = "a") -> Curve:
    made = tuple(Point(at=at, low=value, high=value, last=value) for at, value in points)
    return Curve(key=key, title=key, quantity=quantity, unit="W", step=10.0, points=made)


def test_a_drawing_has_a_line_for_each_phase_and_says_the_same_in_words() -> None:
    now = 10_000.0
    (found,) = drawings([curve((8000, 1000.0), (9990, -250.0)), curve((9000, 5.0), quantity="ELECTRIC.POWER.L2")], now)
    assert [(line.label, line.now) for line in found.lines] == [("phase L1", "-250 W"), ("phase L2", "5 W")]
    assert found.sentence == "now phase L1 -250 W, phase L2 5 W; lowest -250 W, highest 1 kW"
    assert found.table[0] == ("60 min ago", ["", ""])
    assert found.table[-1] == ("now", ["-250 W", "5 W"])
    assert found.lines[0].path == "M266.7 0.0H598.3V120.0H600"
    assert drawings([curve()], now) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 W"), (-0.01, "0 W"), (12.34, "12.3 W"), (1500, "1.5 kW"), (2e6, "2 MW"), (-999.6, "-1000 W")],
)
def test_amounts_have_their_unit(value: float, text: str) -> None:
    assert amount(value, "W") == text


# Effects of the buttons


class Recorder:
    """Executes no command and remembers them."""

    def __init__(self, **answer: Any) -> None:
        self.commands: list[Mapping[str, Any]] = []
        self._answer = {"ok": True, **answer}

    async def execute(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        self.commands.append(command)
        return self._answer


@asynccontextmanager
async def buttons(recorder: Recorder, observation: Observation) -> AsyncIterator[Visitor]:
    async with serving(observation, execute=recorder.execute) as server, aiohttp.ClientSession() as http:
        yield Visitor(server, http)


DEVICE, FOUND = str(UUID(int=5)), "https://found.local:8443/pairing/"


async def test_a_waiting_device_is_asked_to_show_its_code_and_paired_without_an_address() -> None:
    recorder = Recorder()
    async with buttons(recorder, shown("Heat pump")) as person, within(20):
        form = next(one for action, one in Seen(await person.get()).forms if action == "/pick" and "waiting" in one)
        _, text = await person.post("pick", **form)
        assert "It was asked to show its code." in text
        _, text = await person.post("pair", **{**Seen(text).form("/pair"), "code": " K4ZA-1234 "})
        assert "Paired." in text
    own = str(OWN)
    assert recorder.commands == [
        {"command": "announce", "peer": DEVICE, "node": own},
        {"command": "pair", "code": "K4ZA-1234", "peer": DEVICE},
    ]


async def test_what_was_found_is_asked_and_taken_back() -> None:
    recorder = Recorder(nodes=[])
    async with buttons(recorder, shown("Heat pump")) as person, within(20):
        form = next(one for action, one in Seen(await person.get()).forms if action == "/pick" and "url" in one)
        _, text = await person.post("pick", **{**form, "peer": str(UUID(int=4))})
        assert "Pair with Heat pump" in text
        _, text = await person.post("cancel", **Seen(text).form("/cancel"))
        assert "Nothing was paired." in text
    asked = {"command": "announce", "peer": str(UUID(int=4)), "url": FOUND, "node": str(OWN)}
    assert recorder.commands == [asked, {**asked, "cancel": True}]


async def test_the_text_of_a_qr_code_is_taken_apart_and_strange_addresses_are_not_offered() -> None:
    recorder = Recorder(ok=False, error={"kind": "not_reachable", "what": "<b>", "hint": "Is it on?"})
    async with buttons(recorder, shown("Heat pump")) as person, within(20):
        text = await person.get("pair?url=https://evil.example/&peer=x&asked=1")
        assert "evil" not in text
        form = Seen(text).form("/pair")
        status, text = await person.post("pair", **{**form, "code": "https://a.local:1/pairing/ ABCD EFGH JKMN"})
        assert status == 422
        assert "&lt;b&gt;" in text
        assert "Is it on?" in text
        assert (Seen(text).form("/pair")["url"], Seen(text).form("/pair")["code"]) == (
            "https://a.local:1/pairing/",
            "ABCD EFGH JKMN",
        )
        await person.post("pair", **{**form, "url": "https://b.local:1/pairing/ ABCD", "code": "ABCD EFGH JKMN"})
    asked = {"command": "pair", "code": "ABCD EFGH JKMN"}
    assert recorder.commands == [
        asked | {"url": "https://a.local:1/pairing/"},
        asked | {"url": "https://b.local:1/pairing/"},
    ]


async def test_an_address_that_was_typed_may_be_corrected_and_is_advised_for_the_page() -> None:
    hint = f"Check the spelling; or {GIVE_ADDRESS}."
    recorder = Recorder(ok=False, error={"kind": "not_reachable", "what": "It is not known.", "hint": hint})
    observation = shown("Heat pump")
    async with buttons(recorder, observation) as person, within(20):
        form = Seen(await person.get("pair")).form("/pair")
        _, text = await person.post("pair", **{**form, "url": FOUND, "code": "ABCD EFGH JKMN"})
        assert 'id="url"' in text, "although it was found, too"
        assert "or have the code of this machine typed at the other side." in text
        picked = Seen(await person.get(f"pair?url={FOUND}")).form("/pair")
        _, text = await person.post("pair", **{**picked, "code": "ABCD EFGH JKMN"})
        assert 'id="url"' not in text
        own = observation.snapshot().service.pairing_url
        _, text = await person.post("pair", **{**form, "url": own.removeprefix("https://"), "code": "ABCD EFGH JKMN"})
        assert "That is the address of this machine." in text


def test_a_pairing_that_has_ended_is_shown_with_the_name_of_the_peer() -> None:
    page = _written(shown("Heat pump"), Session("token", None, 0.0, 0.0))
    assert "<strong>Heat pump</strong>: Heat pump" in page


@pytest.mark.parametrize(
    ("ended", "since", "said"),
    [(2, 2, "<time"), (None, 1, "not since the service began"), (None, 0, "not yet")],
)
def test_a_peer_that_is_not_connected_says_when_it_last_was(ended: int | None, since: int, said: str) -> None:
    made = Shown("Heat pump", kind="serve", peers=2)
    peer = next(one for one in made._snapshot.peers if one.connection is None)
    at = [peer.paired_since + timedelta(hours=hours) for hours in range(3)]
    peer = replace(peer, since=at[since], last_connected=None if ended is None else at[ended])
    made._snapshot = replace(made._snapshot, peers=(peer,))
    page = _written(cast("Observation", made), Session("token", None, 0.0, 0.0))
    written = re.search(r"<dt>Last connected</dt><dd>(.*?)</dd>", page)
    assert written is not None
    assert (at[since].astimezone().isoformat(timespec="seconds") in written[1]) == (since > 0)
    assert said in written[1]


def test_of_many_peers_those_that_fit_are_shown() -> None:
    session = Session("token", None, 0.0, 0.0)
    page = Page(shown("Heat pump", kind="serve", peers=60), no_command)
    all_of = render("page.html", said="", **page._values(Query(), session))
    assert all_of.count('id="peer-') == 50
    assert "and 10 more" in all_of
    assert 'name="find"' in all_of
    few = render("page.html", said="", **page._values(Query(find="REFUSED"), session))
    assert 0 < few.count('id="peer-') < 20
    assert "None fits" in render("page.html", said="", **page._values(Query(find="dishwasher"), session))


def test_of_many_endpoints_in_the_network_some_are_shown_the_others_counted_and_all_are_found() -> None:
    made = Shown("x", kind="serve", peers=0)
    one = made._snapshot.found[0]
    many = tuple(replace(one, name=f"x{number}", instance=f"x{number}", nodes=()) for number in range(99))
    found = (*many, replace(one, name="Battery"))
    made._snapshot = replace(made._snapshot, found=found, more_found=200, waiting=())
    page, session = Page(cast("Observation", made), no_command), Session("token", None, 0.0, 0.0)
    html = render("page.html", said="", **page._values(Query(), session))
    assert f"and {200 + 100 - MAX_FOUND} more; search" in html
    assert 'id="find"' in html
    assert "Battery" not in html
    assert "Battery" in render("part_found.html", **page._values(Query(find="battery"), session))
    assert "None fits" in render("part_found.html", **page._values(Query(find="dishwasher"), session))
