"""Output on terminals, narrow and wide, and in pipes: URLs stay whole, codes are in groups for people only."""

from __future__ import annotations

import io
import re
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from rich.console import Console
from rich.text import Text

from s2connect import NodeDescription, NodeId, Role
from s2connect.cli import codes, discover, main, show, terminal
from s2connect.cli.terminal import PIPE, put
from s2connect.discovery.txt import FoundEndpoint
from s2connect.model.alphabet import ALPHABET
from s2connect.model.common import EndpointDescription
from s2connect.model.roles import CommunicationRole
from s2connect.model.url import BaseUrl
from s2connect.service import events
from s2connect.service.objects import NodeEntry, OwnNode, PairingEntry
from tests.command import in_terminal, make_home, run

HOST = "a-rather-long-name-of-a-battery-in-the-cellar-of-a-house-cd12.local"
URL = f"https://{HOST}:8443/pairing/"
GROUPED = rf"[{ALPHABET}]{{4}} [{ALPHABET}]{{4}} [{ALPHABET}]{{4}}"


def node(role: Role = Role.RM, name: str | None = "Kitchen", number: int = 1) -> NodeDescription:
    return NodeDescription(
        id=NodeId(UUID(int=number)), role=role, brand="Acme", type="t", model_name="B2", user_defined_name=name
    )


def found(name: str = "") -> FoundEndpoint:
    return FoundEndpoint(
        name=name,
        logo_url=None,
        pairing_url=BaseUrl(URL),
        longpolling_url=None,
        instance=HOST.partition(".")[0],
        roles=frozenset({Role.RM}),
        host=HOST,
        addresses=("192.0.2.7",),
    )


def printed(block: object, columns: int, *, terminal: bool = True) -> str:
    out = io.StringIO()
    put(Console(file=out, width=columns, force_terminal=terminal, color_system=None, markup=False), block)  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize("columns", [60, 120])
def test_brand_model_and_name_stand_before_the_host_name_and_the_url_is_whole(columns: int) -> None:
    one = found("House")
    hosted = {one.instance: [node()]}
    text = printed(discover.endpoints_block([one], hosted=hosted, numbered=True), columns)
    assert text.splitlines()[0] == "1  Acme B2, Kitchen (device)"
    assert f"     {URL}" in text.splitlines()
    nameless = printed(discover.endpoints_block([one], hosted={one.instance: [node(name=None)]}), columns)
    assert nameless.splitlines()[0] == "Acme B2 (device) at House"
    several = [node(), node(Role.CEM, "Shed", 2)]
    text = printed(discover.endpoints_block([one], hosted={one.instance: several}), columns)
    assert text.splitlines()[:3] == [
        "House (device)",
        "     Acme B2, Kitchen (device)",
        "     Acme B2, Shed (energy manager)",
    ]
    assert printed(discover.endpoints_block([found()]), columns).startswith(HOST.partition(".")[0])


def test_a_crowd_of_nodes_is_listed_in_part() -> None:
    one = found("House")
    text = printed(discover.endpoints_block([one], hosted={one.instance: [node()] * 100}), 80)
    assert text.count("Kitchen") == discover.MAX_SHOWN_NODES
    assert "and 90 more" in text


def test_facts_are_not_broken_within_a_word_and_have_no_padding_in_a_pipe() -> None:
    facts = show.Facts()
    facts.add("Pairing URL", URL)
    facts.add("Server", "none: it waits at the energy managers in the network until one of them pairs it with its code")
    facts.add("", str(UUID(int=1)))
    narrow = printed(facts.block(40), 40)
    assert URL in narrow
    assert str(UUID(int=1)) in narrow
    assert all(len(line) <= 40 or URL in line or str(UUID(int=1)) in line for line in narrow.splitlines())
    piped = printed(facts.block(PIPE), 40, terminal=False).splitlines()
    assert piped[0] == f"Pairing URL: {URL}"
    assert len(piped) == 3


def test_lines_of_registries_and_nodes_have_whole_urls_and_ids() -> None:
    record = {"name": "Cloud", "cem": True, "rm": False, "regions": ["NL"], "pairing_url": URL, "description": "d"}
    for columns in (60, 120):
        assert f"     {URL}" in printed(show.records_block([record], columns), columns).splitlines()
        own = OwnNode(**dict(node()), alias="2")
        assert str(own.id) in printed(show.own_nodes_block([own], {}, columns), columns)


@pytest.mark.parametrize("columns", [60, pytest.param(120, marks=pytest.mark.long)])
def test_a_status_on_a_real_terminal_has_whole_urls(tmp_path: Path, columns: int) -> None:
    home = make_home(tmp_path / "rm", "rm", "--host", HOST)
    shown = in_terminal(columns, "status", "--home", str(home))
    assert re.search(rf"^Pairing URL +https://{HOST}:\d+/pairing/$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("For a new code: s2connect code", "For a new code: s2connect code --home {}"),
        ("`s2connect pairings` lists it.", "`s2connect pairings --home {}` lists it."),
        ("Change it: s2connect config set host NAME; or", "Change it: s2connect config set --home {} host NAME; or"),
        (
            "Run s2connect setup, or name another with --home.",
            "Run s2connect setup --home {}, or name another with --home.",
        ),
        ("Next: s2connect serve --home /a", "Next: s2connect serve --home /a"),
        ("More: s2connect explain usage", "More: s2connect explain usage"),
        ("There: s2connect restore FILE", "There: s2connect restore FILE"),
        ("Run it: s2connect bridge run FILE", "Run it: s2connect bridge run FILE"),
    ],
)
def test_commands_in_sentences_work_on_thenamed_home(
    text: str, made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert terminal.with_home(text) == text, "where no home was named"
    home = tmp_path / "a home"
    assert main(["node", "list", "--home", str(home)]) == 7
    assert f"`s2connect setup --home '{home}'`" in capsys.readouterr().err
    named = copy_context()
    named.run(terminal.named_home.set, home)
    assert named.run(terminal.with_home, text) == made.format(f"'{home}'")
    assert named.run(printed, Text(text, "yellow"), 60) == made.format(f"'{home}'") + "\n"


def test_a_command_in_a_sentence_is_never_broken_in_two(tmp_path: Path) -> None:
    home = tmp_path / "home"
    shown = in_terminal(60, "init", "--role", "rm", "--home", str(home), "--port", "0", "--bind", "127.0.0.1")
    assert f"Next: s2connect serve --home {home}\n" in shown
    shown = in_terminal(60, "status", "--home", str(home))
    assert f"show a code with s2connect code --home {home}, or type that of another" in shown


def test_a_code_is_in_groups_on_a_terminal_and_whole_in_a_pipe(tmp_path: Path) -> None:
    home = make_home(tmp_path / "rm", "rm", "--host", HOST)
    shown = in_terminal(60, "code", "--static", "--home", str(home))
    assert re.search(rf"^  Pairing URL   https://{HOST}:\d+/pairing/$", shown, re.MULTILINE)
    assert re.search(rf"^  Pairing code  {GROUPED}  \(stays valid\)$", shown, re.MULTILINE)
    assert shown.count("\u2588") > 100, "the QR code of the URL"
    piped = run("code", "--static", "--yes", "--home", str(home))
    assert re.fullmatch(rf"[{ALPHABET}]{{12}}\n", piped.stdout)
    assert HOST in piped.stderr
    assert "\u2588" not in piped.stdout + piped.stderr
    lines = run("status", "--home", str(home)).stdout.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert any(line.startswith("Pairing URL: https://") for line in lines)


def ready(page: str | None, *aliases: str) -> events.Ready:
    nodes = [NodeEntry(NodeId(UUID(int=n)), Role.RM, alias) for n, alias in enumerate(aliases, 1)]
    return events.Ready(deployment="LAN", pairing_url=URL, session_url=URL, nodes=nodes, page=page)


@pytest.mark.parametrize(
    ("page", "linked"),
    [
        (None, URL),
        ("http://127.0.0.1:8480/", URL),
        (f"https://{HOST}:8480/", f"https://{HOST}:8480/"),
    ],
)
def test_the_qr_code_is_a_link_to_the_page_where_a_phone_can_reach_it(
    page: str | None, linked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = show.ServiceText()
    text._qr, drawn = True, []
    monkeypatch.setattr(codes, "qr_code", lambda url, _: drawn.append(url))
    text(ready(page))
    shown = text(events.CodeIssued(node=NodeId(UUID(int=1)), code="4KX79M2PQRST", expires_at=datetime.now(UTC)))
    assert drawn == [linked]
    assert shown is not None
    assert URL in shown
    assert linked in shown


def test_a_warning_keeps_a_url_whole_and_is_shown_once_if_it_comes_twice_at_once() -> None:
    text = show.ServiceText()
    text._tty, text._width = True, 60
    url = "https://the-energy-manager-of-the-house-in-the-back-yard.local:8443/pairing/"
    warned = events.Warned(reason="not_reachable", text=f"No answer from the other side at {url} so far.")
    shown = text(warned)
    assert shown is not None
    assert url in shown
    assert text(replace(warned, time=warned.time + timedelta(seconds=1), retry_in=9.0)) is None
    assert text(replace(warned, time=warned.time + timedelta(minutes=1))) is not None


def test_a_service_of_several_nodes_says_whose_code_it_shows() -> None:
    text = show.ServiceText()
    text(ready(None, "1", "2"))
    issued = events.CodeIssued(node=NodeId(UUID(int=2)), code="2-4KX79M2PQRST", expires_at=None)
    assert "To pair device 2, type these two" in str(text(issued))
    assert "Nodes here now: 1 (device)." in str(
        text(events.NodesChanged(nodes=[NodeEntry(NodeId(UUID(int=2)), Role.RM, "1")]))
    )
    assert "To pair, type these two" in str(text(issued))


def test_a_pairing_stands_in_lines_of_an_ordinary_terminal() -> None:
    since = datetime(2026, 11, 29, 3, 1, tzinfo=UTC)
    pairing = PairingEntry(
        node=NodeId(UUID(int=9)),
        peer=node(),
        peer_endpoint=EndpointDescription(name="Cellar", logo_url=None, deployment=None),
        communication_role=CommunicationRole.SERVER,
        since=since,
        confirmed=True,
        connected=False,
        state_since=since,
    )
    out = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    put(out, show.pairings_block([pairing], 80))
    written = out.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "not connected since" in written
    assert all(line.startswith(("  ", "Kitchen")) for line in written.splitlines()), "a line was broken"


@pytest.mark.parametrize(("number", "said"), [(1, "after 1 message from it"), (2, "after 2 messages from it")])
def test_the_messages_of_a_session_are_counted_in_words(number: int, said: str) -> None:
    closed = events.SessionClosed(session="s1", reason="closed", node=NodeId(UUID(int=9)), peer=node(), messages=number)
    assert said in str(show.sentence(closed))
