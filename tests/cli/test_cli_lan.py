"""The commands for the local network: in networks made for the test, on loopback, and what they print."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from rich.console import Console

from s2connect.cli import codes, discover, main, show
from s2connect.cli.pairing import Candidate, _chosen
from s2connect.discovery.browse import Browser
from s2connect.discovery.txt import FoundEndpoint
from s2connect.endpoint.certificate import Certificates
from s2connect.errors import UsageError
from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.url import BaseUrl
from s2connect.service import events
from s2connect.service.commands import EndpointStatus, RemoteNodes
from s2connect.service.objects import NotFound, PeerId
from tests.command import Running, make_home, run
from tests.netns import Host, Lan, Process, require_netns
from tests.terminal import Terminal, at_terminal
from tests.waits import patience

Start = Callable[..., Running]
Capture = pytest.CaptureFixture[str]
COMMAND = (sys.executable, "-m", "s2connect")
HOSTILE = "\x1b[31m[red]Evil\x07\n\u202eheat pump[/]"


# Between machines


def run_at(host: Host, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = host.run(*COMMAND, *arguments, check=False, timeout=patience(50))
    assert done.returncode == code, done.stdout + done.stderr
    return done


def json_at(host: Host, *arguments: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_at(host, *arguments, "--json", code=code).stdout)
    return found


def home_at(host: Host, path: Path, role: str, name: str, hostname: str, *settings: str) -> str:
    about = ["--role", role, "--name", name, "--host", hostname, "--vault", "files"]
    run_at(host, "init", "--home", str(path), *about, *settings)
    return str(path)


def serve_at(host: Host, home: str, *arguments: str) -> Process:
    return host.start(*COMMAND, "serve", "--home", home, *arguments)


def event_of(process: Process, name: str, **fields: object) -> dict[str, Any]:
    def fits(line: str) -> bool:
        found = json.loads(line) if line.startswith("{") else {}
        return found.get("event") == name and all(found.get(key) == value for key, value in fields.items())

    found: dict[str, Any] = json.loads(process.wait_for(fits))
    return found


@contextlib.contextmanager
def terminal(host: Host, *arguments: str) -> Iterator[Terminal]:
    with at_terminal("ip", "netns", "exec", host.name, "setsid", "--ctty", "--wait", *COMMAND, *arguments) as made:
        yield made


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.rule("DISC-04", "LAN-01", "LAN-03", "LAN-04", "LAN-05")
def test_an_installer_finds_looks_picks_and_pairs_without_typing_a_url(tmp_path: Path) -> None:
    require_netns()
    with Lan(2, ipv6=False) as lan:
        cellar, laptop = lan.hosts
        manager_home = home_at(cellar, tmp_path / "cem", "cem", "House [red]manager", "ems.local")
        battery_home = home_at(laptop, tmp_path / "rm", "rm", "Battery", "battery.local")
        manager = serve_at(cellar, manager_home)
        manager.wait_for("Pairing URL")

        found = json_at(laptop, "discover", "--seconds", "2")
        (listed,) = found["endpoints"]
        assert (listed["title"], listed["roles"], listed["addresses"]) == ("House [red]manager", ["CEM"], ["10.77.1.1"])
        assert listed["pairing_url"] == listed["longpolling_url"] == "https://ems.local:8443/pairing/"
        assert (listed["this_endpoint"], found["refused"], found["overflow"]) == (False, 0, 0)

        shown = json_at(laptop, "nodes", "ems.local:8443/pairing")
        assert shown["endpoint"]["deployment"] == "LAN"
        assert [node["role"] for node in shown["nodes"]] == ["CEM"]

        with terminal(laptop, "pair", "ems.local:8443/pairing", "--home", battery_home) as screen:
            screen.wait_for("House [red]manager was asked to show its code")
            screen.wait_for("Pairing code: ")
            manager.wait_for("Battery (s2connect, device) wants to pair")
            screen.type("\x03")
            manager.wait_for("The pairing that was announced will not come")
            assert screen.ended() == 130

        with terminal(laptop, "pair", "--home", battery_home) as screen:
            screen.wait_for("Number, or a pairing URL")
            assert "1  House [red]manager" in screen.text
            screen.type("7\n")
            screen.wait_for("There is no number 7")
            screen.wait_for("Number, or a pairing URL", timeout=2)
            screen.type("1\n")
            manager.wait_for("wants to pair")
            code = manager.wait_for("Pairing code").split()[2]
            screen.wait_for("Pairing code: ")
            screen.type(f"{code}\n")
            screen.wait_for("Paired with House [red]manager")
            assert screen.ended() == 0
        manager.wait_for("Paired with Battery")
        status = json_at(cellar, "status", "--home", manager_home)["endpoint"]
        assert (status["advertised"], status["not_found"]) == ("ems", None)


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.rule("LP-01", "LP-02", "LP-05", "ROLE-03", "ROLE-04")
def test_a_device_without_a_server_is_paired_by_its_name_and_the_code_of_its_sticker(tmp_path: Path) -> None:
    require_netns()
    with Lan(2, ipv6=False) as lan:
        cellar, shed = lan.hosts
        manager_home = home_at(cellar, tmp_path / "cem", "cem", "Manager", "ems.local")
        tiny_home = home_at(shed, tmp_path / "tiny", "rm", "Tiny heat pump", "tiny.local", "--no-server")
        sticker = json_at(shed, "code", "--static", "--home", tiny_home)
        assert (sticker["pairing_url"], sticker["expires_at"]) == (None, None)
        manager = serve_at(cellar, manager_home, "--json", "--no-code")
        event_of(manager, "ready")
        tiny = serve_at(shed, tiny_home)
        waits = event_of(manager, "device_waiting")["peer"]
        assert (waits["user_defined_name"], waits["role"]) == ("Tiny heat pump", "RM")
        (listed,) = json_at(cellar, "status", "--home", manager_home)["waiting"]
        assert listed == waits
        refused = json_at(cellar, "pair", "--waiting", waits["id"][:6], "WRONG4242", "--home", manager_home, code=5)
        assert refused["error"]["kind"] == "wrong_pairing_code"
        done = run_at(cellar, "pair", "--waiting", "tiny HEAT pump", sticker["code"], "--home", manager_home)
        assert "Paired with Tiny heat pump (s2connect, device)." in done.stdout
        event_of(manager, "session_opened")
        tiny.wait_for("Session with Manager opened")
        assert "none: it waits" in run_at(shed, "status", "--home", tiny_home).stdout
        assert sticker["code"] not in "\n".join(tiny.lines)


@pytest.mark.long
@pytest.mark.timeout(60)
def test_discover_says_what_it_cannot_see_and_follows_what_comes_and_goes(tmp_path: Path) -> None:
    require_netns()
    with Lan(2, ipv6=False) as lan:
        quiet = json_at(lan.hosts[0], "discover", "--seconds", "0.5")
        assert quiet["endpoints"] == []
        assert "same network" in quiet["notes"][-1]
        home = home_at(lan.hosts[1], tmp_path / "rm", "rm", "Battery", "battery.local")
        watching = lan.hosts[0].start(*COMMAND, "discover", "--watch", "--json", "--role", "rm")
        battery = serve_at(lan.hosts[1], home)
        assert event_of(watching, "appeared")["endpoint"]["title"] == "Battery"
        own = json_at(lan.hosts[1], "discover", "--seconds", "1.5", "--home", home)
        assert [one["this_endpoint"] for one in own["endpoints"]] == [True]
        battery.stop()
        assert event_of(watching, "vanished")["endpoint"]["title"] == "Battery"
        lan.hosts[0].ip("link", "set", "eth0", "down")
        alone = lan.hosts[0].run(*COMMAND, "discover", "--seconds", "0.5", check=False)
        assert alone.returncode in (0, 3)
        assert "network" in alone.stderr
        assert "Traceback" not in alone.stderr


# On this machine


@pytest.mark.rule("LAN-01", "LAN-03", "LAN-04")
def test_a_sidecar_looks_at_the_other_side_and_announces_a_pairing(cem: Path, rm: Path, start: Start) -> None:
    manager, battery = start(cem), start(rm)
    url, _ = manager.ready()
    own = battery.event("ready")["nodes"][0]["id"]
    (node,) = battery.command("nodes", url=url)["nodes"]
    assert (node["role"], node["user_defined_name"]) == ("CEM", "House manager")
    assert battery.command("announce", url=url, peer=node["id"])["ok"]
    announced = manager.event("prepare_pairing")
    assert (announced["node"], announced["peer"]["id"], announced["peer"]["brand"]) == (node["id"], own, "s2connect")
    assert "code" not in announced
    assert battery.command("announce", url=url, peer=node["id"], cancel=True)["ok"]
    assert manager.event("cancel_prepare_pairing")["peer"] == {"id": own}
    assert battery.command("announce", url=url, peer="nobody")["error"]["kind"] == "usage"
    assert battery.command("announce", url=url)["error"]["kind"] == "usage"
    gone = manager.command("pair", peer=own, code="ABCDEFGH")
    assert gone["error"]["kind"] == "not_reachable"


def test_pair_without_a_url_and_without_anybody_to_ask_is_wrong_usage(rm: Path) -> None:
    for more in ([], ["--json"]):
        done = run("pair", "--home", str(rm), *more)
        assert done.returncode == 2
        assert "URL is needed" in done.stderr + done.stdout
    done = run("pair", "--waiting", "x", "https://x.local/pairing/", "CODECODE", "--home", str(rm))
    assert done.returncode == 2


def test_url_and_code_as_the_qr_code_has_them_are_understood(
    cem: Path, rm: Path, start: Start, capsys: Capture
) -> None:
    url, code = start(cem).ready()
    assert main(["pair", f"{url} {code}", "--home", str(rm), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["peer"]["role"] == "CEM"


@pytest.mark.rule("VER-04")
def test_a_local_name_is_paired_at_an_address_without_looking_it_up(
    tmp_path: Path, rm: Path, start: Start, capsys: Capture
) -> None:
    url, code = start(make_home(tmp_path / "ems", "cem", "--host", "ems.local")).ready()
    assert url.startswith("https://ems.local:")
    assert main(["pair", url, code, "--connect-to", "127.0.0.1", "--home", str(rm), "--json"]) == 0
    assert main(["nodes", url, "--connect-to", "127.0.0.1"]) == 0
    assert "energy manager" in capsys.readouterr().out


def test_a_device_without_a_server_cannot_be_an_energy_manager(tmp_path: Path, capsys: Capture) -> None:
    home = ["--home", str(tmp_path / "home"), "--vault", "files"]
    assert main(["init", "--role", "cem", "--no-server", *home]) == 2
    assert "without a server" in capsys.readouterr().err
    assert main(["init", "--role", "rm", "--no-advertise", *home]) == 0
    settings = json.loads((tmp_path / "home" / "config.json").read_text())
    assert (settings["advertise"], settings["server"]) == (False, True)


# A registry


def record(number: int, **changes: Any) -> dict[str, Any]:
    pictures = {f"icon{size}": f"https://cloud.example/{size}.png" for size in (32, 128, 512)}
    return {
        "id": f"00000000-0000-4000-8000-00000000000{number}",
        "name": f"Cloud {number}",
        "description": "An energy manager in the cloud",
        **pictures,
        "pairingUrl": "https://cloud.example/pairing/",
        "regions": ["NL"],
        "status": "public",
        "cem": True,
        "rm": False,
        **changes,
    }


@pytest.mark.rule("REG-01", "REG-02", "REG-03")
def test_a_private_registry_is_served_and_asked(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "registry.json"
    file.write_text(json.dumps([record(1, name=HOSTILE), record(2, regions=["BE"], cem=False, rm=True)]))
    served = subprocess.Popen(
        [*COMMAND, "registry", "serve", str(file), "--port", "0", "--ca-dir", str(tmp_path / "ca"), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert served.stdout is not None
        told = json.loads(served.stdout.readline())
        assert told["endpoints"] == 2
        ask = ["registry", "list", told["url"], "--trust-anchors", told["ca_file"]]
        assert main([*ask, "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["endpoints"]) == 2
        assert main([*ask, "--region", "be,de", "--role", "rm", "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)["endpoints"]
        assert (found["name"], found["regions"], found["rm"]) == ("Cloud 2", ["BE"], True)
        assert main(ask) == 0
        text = capsys.readouterr().out
        assert "[red]Evil" in text
        assert "\x1b" not in text
        assert main([*ask, "--status", "testing"]) == 0
        assert "lists nothing" in capsys.readouterr().out
        assert main([*ask, "--region", "Holland"]) == 2
        assert main(["registry", "list", told["url"]]) == 4
        capsys.readouterr()
        served.send_signal(signal.SIGTERM)
        assert served.wait(10) == 0
    finally:
        served.kill()
        served.wait()
        if served.stdout is not None:
            served.stdout.close()
    assert (tmp_path / "ca" / "ca.key").stat().st_mode & 0o077 == 0


@contextlib.contextmanager
def registry(file: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """Serve a registry; yield what it says when it does."""
    command = [*COMMAND, "registry", "serve", str(file), "--port", "0", "--json", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        try:
            assert served.stdout is not None
            yield json.loads(served.stdout.readline())
        finally:
            served.terminate()


def test_records_of_a_registry_that_are_left_out_are_said(tmp_path: Path, capsys: Capture) -> None:
    """Of ours there are none: it refuses such a file, and names each of them."""
    file = tmp_path / "registry.json"
    file.write_text(json.dumps([record(1, regions=["nl"]), record(2), record(3, cem="yes"), record(2)]))
    assert main(["registry", "serve", str(file), "--port", "0"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "record 1 (Cloud 1): regions[0] has characters that it may not have | record 3 (Cloud 3): cem is neither"
        in said
    )
    assert "record 4 (Cloud 2): its id is that of record 2" in said
    assert main(["discover", "--watch", "--registry", "https://localhost/"]) == 2
    assert "do not go with --registry" in capsys.readouterr().err


@pytest.mark.long
def test_a_person_picks_an_endpoint_of_a_registry_and_pairs_with_it(tmp_path: Path) -> None:
    require_setsid()
    home = make_home(tmp_path / "device", "rm")
    system = Running(make_home(tmp_path / "system", "cem", "--name", "House"))
    terminal = None
    try:
        url, code = system.ready()
        file = tmp_path / "registry.json"
        file.write_text(json.dumps([record(1), record(2, name="House", pairingUrl=url)]))
        with registry(file, "--host", "localhost", "--bind", "127.0.0.1", "--ca-dir", str(tmp_path / "ca")) as told:
            assert told["url"].startswith("https://localhost:")
            choice = ["discover", "--registry", told["url"], "--trust-anchors", told["ca_file"], "--home", str(home)]
            listed = run(*choice, stdin="2\n")
            assert (listed.returncode, "House" in listed.stdout, "Number" in listed.stderr) == (0, True, False)
            terminal = Terminal("setsid", "--ctty", "--wait", *COMMAND, *choice)
            terminal.wait_for("2 House")
            terminal.wait_for("none): ")
            terminal.type("7\n")
            terminal.wait_for("from 1 to 2")
            terminal.wait_for("none): ")
            terminal.type("2\n")
            terminal.wait_for("Pairing code: ")
            terminal.type(f"{code}\n")
            terminal.wait_for("Paired with House")
            assert terminal.ended() == 0
    finally:
        if terminal is not None:
            terminal.close()
        system.kill()


def require_setsid() -> None:
    if shutil.which("setsid") is None:
        pytest.skip("there is no setsid to give the command a terminal")


def test_a_registry_file_that_cannot_be_used_is_named(tmp_path: Path, capsys: Capture) -> None:
    assert main(["registry", "serve", str(tmp_path / "none.json"), "--port", "0"]) == 2
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "registry.json").write_text("[]")
    assert main(["registry", "serve", str(tmp_path / "registry.json"), "--certificate", "x"]) == 2
    assert "belong together" in capsys.readouterr().err


# What is printed


def endpoint(name: str, **changes: Any) -> FoundEndpoint:
    facts: dict[str, Any] = {
        "instance": "ems",
        "name": name,
        "roles": frozenset({Role.CEM}),
        "pairing_url": BaseUrl("https://ems.local:8443/pairing/"),
        "longpolling_url": BaseUrl("https://ems.local:8443/pairing/"),
        "logo_url": None,
        "host": "ems.local.",
        "addresses": ("10.0.0.1",),
    }
    return FoundEndpoint(**{**facts, **changes})


def printed(block: Any, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, markup=False, highlight=False, emoji=False).print(block)
    return out.getvalue()


@pytest.mark.rule("SEC-03")
async def test_of_a_hundred_endpoints_people_see_fifty_and_programs_all(capsys: Capture) -> None:
    found = [endpoint(f"x{number}", instance=f"x{number}", addresses=()) for number in range(100)]
    browser = cast("Browser", SimpleNamespace(found=lambda: found, refused=0, overflow=0))
    await discover._result(browser, None, as_json=False)
    printed = capsys.readouterr()
    assert "x49 " in printed.out
    assert "x50 " not in printed.out
    assert "And 50 more, which are in: s2connect discover --json" in " ".join(printed.err.split())
    await discover._result(browser, None, as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert len(result["endpoints"]) == 100
    assert not any("more" in note for note in result["notes"])


@pytest.mark.parametrize("width", [40, 80, 120])
def test_what_strangers_call_themselves_is_clean_in_every_width(width: int) -> None:
    hostile = endpoint(
        HOSTILE,
        pairing_url=BaseUrl("https://ems.local/\u202epairing/"),
        addresses=tuple(f"10.0.0.{n}" for n in range(1, 20)),
    )
    own = endpoint("", longpolling_url=None, roles=frozenset())
    url = "https://ems.local:8443/pairing/"
    text = printed(discover.endpoints_block([hostile, own], own_url=url, numbered=True), width)
    assert all(character.isprintable() for line in text.splitlines() for character in line)
    assert "\u202e" not in text
    flat = " ".join(text.split())
    assert "[red]Evil heat" in flat
    assert "and 15 more" in flat
    assert "this endpoint" in flat
    assert "role not told" in flat
    assert "devices can wait here" in flat
    assert max(map(len, text.splitlines())) <= width


def hostile_node() -> NodeDescription:
    return NodeDescription(id=NodeId(UUID("1" * 32)), role=Role.RM, brand=HOSTILE, type=HOSTILE, model_name="x")


def test_nodes_and_waiting_devices_are_clean() -> None:
    endpoint = EndpointDescription(name=HOSTILE, deployment=Deployment.LAN)
    for width in (80, 120):
        blocks = show.nodes_blocks(RemoteNodes(endpoint=endpoint, nodes=[hostile_node()]), width)
        text = "".join(printed(block, width) for block in blocks)
        assert all(character.isprintable() for line in text.splitlines() for character in line)
    assert "Evil" in printed(show.waiting_block([hostile_node()]), 80)


def test_a_flood_of_endpoints_is_drawn_in_part_while_it_listens() -> None:
    found = [endpoint(f"Device {number}") for number in range(1000)]
    text = printed(discover.so_far(found), 80)
    assert "Device 29" in text
    assert "Device 30" not in text
    assert "and 970 more" in text
    assert printed(discover.so_far([]), 120).strip() == ""


def test_limits_of_what_can_be_seen_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discover, "own_addresses", frozenset)
    said = discover.limits(SimpleNamespace(refused=2, overflow=1))  # type: ignore[arg-type]  # only these are read
    assert ["no network" in said[0], "2 services" in said[1], "more services" in said[2]] == [True] * 3


def test_what_was_typed_at_the_list_is_a_number_or_a_url() -> None:
    offered: list[Candidate] = [endpoint("a"), endpoint("b")]
    assert _chosen("2", offered) is offered[1]
    url = "https://ems.local:8443/pairing/"
    assert _chosen("ems.local:8443", offered) == (url, None)
    assert _chosen(f"{url} 7K4M 9QRT 2XYZ", offered) == (url, "7K4M9QRT2XYZ"), "as the QR code has it"
    for wrong in ("0", "3", "9" * 5000, "http://ems.local/"):
        with pytest.raises(UsageError):
            _chosen(wrong, offered)


def test_an_announced_pairing_shows_who_and_the_code() -> None:
    text = show.ServiceText()
    peer, node = hostile_node(), NodeId(uuid4())
    shown = text(events.PairingAnnounced(node=node, peer=peer, code="SECRET42", expires_at=datetime.now(UTC)))
    assert shown is not None
    assert "[red]Evil" in shown
    assert "wants to pair" in shown
    assert "SECRET42" in shown
    assert "\x1b" not in shown
    sticker = text(events.PairingAnnounced(node=node, peer=None, code=None, expires_at=None))
    assert sticker is not None
    assert "An energy manager wants to pair" in sticker
    assert "sticker" in sticker
    for event in (events.DeviceGone(peer=peer), events.DeviceWaiting(peer=peer)):
        said = text(event)
        assert said is not None
        assert "\x1b" not in said
    unknown = text(events.DeviceGone(peer=PeerId(peer.id)))
    assert unknown is not None
    assert "11111111" in unknown


def test_the_qr_code_is_drawn_where_there_is_room_only() -> None:
    text = "https://battery-ab12.local:8443/pairing/"
    drawn = codes.qr_code(text, 80)
    assert drawn is not None
    assert {len(line) for line in drawn.splitlines()} == {33}
    assert codes.qr_code(text, 33) == drawn
    assert codes.qr_code(text, 32) is None
    assert codes.qr_lines(text, 32) == []


def test_a_service_that_is_no_terminal_draws_no_qr_code(cem: Path, start: Start) -> None:
    service = start(cem, as_json=False)
    service.line(lambda line: "Pairing code" in line)
    service.process.send_signal(signal.SIGTERM)
    assert service.ended() == 0
    assert not any("█" in line for line in service.lines)


def test_the_notice_of_a_name_conflict_stands_in_the_status() -> None:
    endpoint = EndpointStatus(
        name=None,
        deployment="LAN",
        host="x.local",
        pairing_url=None,
        session_url=None,
        advertised=None,
        not_found=NotFound("name_conflict", HOSTILE),
        certificate=Certificates(own_ca=True, ca=None, leaf=None),
    )
    assert "NOT FOUND by others: [31m[red]Evil" in show._seen_as(endpoint)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.rule("DISC-04", "LAN-03")
def test_two_installers_set_up_both_sides_by_picking_and_see_the_first_message(tmp_path: Path) -> None:
    require_netns()
    with Lan(2, ipv6=False) as lan:
        cellar, laptop = lan.hosts
        about = ["--vault", "files", "--role"]
        manager_home, battery_home = str(tmp_path / "cem"), str(tmp_path / "rm")
        with (
            terminal(
                cellar, "setup", "--home", manager_home, *about, "cem", "--name", "House", "--show-code"
            ) as manager,
            terminal(laptop, "setup", "--home", battery_home, *about, "rm", "--name", "Battery") as battery,
        ):
            manager.wait_for("Waiting for the other side")
            battery.wait_for("(Enter: battery)")
            battery.type("heat-pump\n")
            battery.wait_for("House")
            battery.wait_for("Enter looks again): ")
            battery.type("1\n")
            manager.wait_for("Battery wants to pair with this one. Type its code there:\r\n")
            code = manager.wait_for("\r\n").strip()
            battery.wait_for("Pairing code: ")
            battery.type(f"{code}\n")
            battery.wait_for("First message: ResourceManagerDetails, sent to House")
            manager.wait_for("First message: ResourceManagerDetails, from Battery")
            assert (battery.ended(), manager.ended()) == (0, 0)
        # Both homes go on as services, and a second set-up finds that all is there.
        serve_at(cellar, manager_home).wait_for("The service is running")
        again = run_at(laptop, "setup", "--home", battery_home, "--simulate", "heat-pump")
        assert "Paired already with: House." in again.stderr
        assert "First message: ResourceManagerDetails, sent to House" in again.stdout
