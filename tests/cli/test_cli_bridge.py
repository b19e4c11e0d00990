"""``s2connect bridge``: run, check, status, reload and pair, as processes with real peers."""

from __future__ import annotations

import asyncio
import io
import json
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console

from s2connect import NodeDescription, NodeId, PlainAcceptor, PlainServer, Role, connect_plain
from s2connect.bridge.problems import Problem
from s2connect.cli import main
from s2connect.cli.bridge_rows import sides_of
from s2connect.cli.bridge_show import BridgeText, bridge_blocks
from s2connect.cli.show import sentence, titled
from s2connect.https.server import free_port
from s2connect.messages.envelope import ReceptionStatusValue, reception_status
from s2connect.model.text import span, until
from s2connect.service import events
from tests.command import Running, make_home, run
from tests.waits import Deadline, patience, within

ROUTE = '[[route]]\nname = "{}"\n[route.devices]\ntype = "s2-connect"\n[route.manager]\ntype = "s2-connect"\n'


def run_bridge(file: Path, *options: str, env: dict[str, str] | None = None) -> Running:
    return Running(file.parent / "home", command=("bridge", "run", str(file), *options), env=env)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "bridge.toml"
    found.write_text(
        f'home = "home"\n[endpoint]\nhost = "127.0.0.1"\nbind = "127.0.0.1"\nport = {free_port()}\nvault = "files"\n'
        + ROUTE.format("house")
    )
    return found


@pytest.fixture
def bridges() -> Iterator[list[Running]]:
    running: list[Running] = []
    yield running
    for one in running:
        one.kill()


def test_check_says_that_a_file_is_good(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", "check", str(file)]) == 0
    assert "can be used. Routes: house (s2-connect -> s2-connect)." in capsys.readouterr().out
    assert not (file.parent / "home").exists(), "nothing is changed"


def test_check_names_every_mistake_with_its_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text().replace("port =", "prot =").replace('"house"', "5"))
    assert main(["bridge", "check", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{file}: line 5: prot is unknown; did you mean port?" in said
    assert "line 8: name: has to be a" in said
    assert "has 2 mistakes" in said
    assert main(["bridge", "check", str(file), "--json"]) == 2
    problems = json.loads(capsys.readouterr().out)["error"]["problems"]
    assert [problem["line"] for problem in problems] == [5, 8]


@pytest.mark.parametrize(
    ("home", "wrong"),
    [
        ("", "home is missing, the state directory"),
        ("home = 5", "home has to be the name of a directory"),
        ('home = ""', "home has to be the name of a directory"),
    ],
)
def test_check_tells_a_home_that_is_missing_from_one_that_is_wrong(
    file: Path, home: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text().replace('home = "home"', home))
    assert main(["bridge", "check", str(file)]) == 2
    assert f"{file}: line 1: {wrong}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ('bind = "127.0.0.1"', 'bind = "nonsense/1"', "line 4: bind: Cannot listen at nonsense/1: that is no address"),
        ('host = "127.0.0.1"', 'host = "a b"', "line 3: host: "),
        ("[[route]]", '[page]\nbind = "nonsense/1"\n[[route]]', "line 8: bind: Cannot listen at nonsense/1"),
    ],
)
def test_check_refuses_what_is_no_address(
    file: Path, old: str, new: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text().replace(old, new, 1))
    assert main(["bridge", "check", str(file)]) == 2
    assert wrong in capsys.readouterr().err


def test_a_bridge_that_cannot_listen_names_its_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text().replace('bind = "127.0.0.1"', 'bind = "192.0.2.1"'))
    assert main(["bridge", "run", str(file)]) != 0
    said = capsys.readouterr().err
    assert f'bind = "ADDRESS" in [endpoint] of {file}' in said
    assert "config set" not in said
    home = str(file.parent / "home")
    main(["doctor", "--home", home, "--json"])
    said = capsys.readouterr().out
    assert "192.0.2.1, which is no address" in said
    assert "[endpoint] of the file of the bridge" in said
    assert "config set" not in said
    for command in ("status", "pairings"):
        assert main([command, "--home", home]) == 0
        said = capsys.readouterr().out
        assert "To pair, run: s2connect bridge pair FILE" in said
        assert "s2connect code" not in said


def test_run_does_not_start_with_mistakes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text() + "x = 1\n")
    assert main(["bridge", "run", str(file)]) == 2
    assert "x is unknown" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "reload", "pair"])
def test_what_needs_the_running_bridge_says_how_to_start_it(
    file: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bridge", command, str(file)]) == 8
    assert f"s2connect bridge run {file}" in capsys.readouterr().err


@pytest.mark.long
def test_a_bridge_runs_reloads_and_stops_tidily_and_systemd_knows(file: Path, bridges: list[Running]) -> None:
    """With readiness, reload, watchdog and the end, in this order."""
    address = str(file.parent / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        heard: queue.Queue[str] = queue.Queue()

        def listen() -> None:
            while text := systemd.recv(4096).decode():
                heard.put(text)

        threading.Thread(target=listen, daemon=True).start()

        def told(wanted: str) -> str:
            while not (text := heard.get(timeout=patience(10))).startswith(wanted):
                pass
            return text

        bridge = run_bridge(file, env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000"})
        bridges.append(bridge)
        bridge.event("bridge_ready")
        assert "STATUS=1 routes, 0 links, 0 up" in told("READY=1")
        told("WATCHDOG=1")
        told("WATCHDOG=1")

        good = file.read_text()
        file.write_text(good + ROUTE.format("second"))
        bridge.process.send_signal(signal.SIGHUP)
        done = bridge.event("reloaded")
        assert (done["kept"], done["begun"]) == (["house"], ["second"])
        assert "MONOTONIC_USEC=" in told("RELOADING=1")
        assert "STATUS=2 routes" in told("READY=1")

        file.write_text(good + "oops = 1\n")
        bridge.process.send_signal(signal.SIGHUP)
        failed = bridge.event("reload_failed")
        assert failed["problems"][0]["what"].startswith("oops is unknown")
        refused = run("bridge", "reload", str(file))
        assert refused.returncode == 2
        shown = run("bridge", "status", str(file), "--json")
        assert [route["name"] for route in json.loads(shown.stdout)["routes"]] == ["house", "second"]
        file.write_text(good)
        assert "second ended; house untouched" in run("bridge", "reload", str(file)).stdout

        busy = run("bridge", "run", str(file))
        assert busy.returncode == 8
        bridge.process.send_signal(signal.SIGTERM)
        told("STOPPING=1")
        assert bridge.ended() == 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", address)


@pytest.mark.parametrize(
    ("only", "recorded"), [((), {"one", "two"}), (("house/two",), {"two"}), (("house",), {"one", "two"})]
)
async def test_a_bridge_records_what_passes_in_the_format_that_replay_reads(
    tmp_path: Path, bridges: list[Running], only: tuple[str, ...], recorded: set[str]
) -> None:
    file, log, port = tmp_path / "bridge.toml", tmp_path / "log.jsonl", free_port()
    acceptor = PlainAcceptor(role=Role.CEM, local=NodeId(uuid4()), tokens=None)
    async with PlainServer(acceptor) as server, within(40):
        devices = "".join(f'[[route.devices.device]]\nname = "{name}"\n' for name in ("one", "two"))
        file.write_text(
            f'home = "home"\n[[route]]\nname = "house"\n[route.devices]\ntype = "plain-server"\nport = {port}\n'
            f'{devices}[route.manager]\ntype = "plain-client"\nurl = "ws://127.0.0.1:{server.port}/"\n'
        )
        options = [part for name in only for part in ("--record-only", name)]
        bridge = run_bridge(file, "--record", str(log), *options)
        bridges.append(bridge)
        await asyncio.to_thread(bridge.event, "bridge_ready")
        for name in ("one", "two"):
            device = await connect_plain(f"ws://127.0.0.1:{port}/{name}", role=Role.RM, local=NodeId(uuid4()))
            manager = await anext(server)
            text = (
                f'{{"message_type": "PowerMeasurement",\n "message_id": "m-{name}", "values": [{{"commodity_quantity":'
                ' "ELECTRIC.POWER.L1", "value": 1.50}], "measurement_timestamp": "2026-01-01T00:00:00Z"}'
            )
            await device.send(text)
            assert await manager.recv() == text
            await manager.send(reception_status(f"m-{name}", ReceptionStatusValue.INVALID_CONTENT, "no"))
            await device.recv()
            await device.close()
            await manager.close()
        bridge.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(bridge.ended) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["session"].split()[0].partition("/")[2] for line in lines} == recorded
    assert log.stat().st_mode & 0o077 == 0
    opened = [line for line in lines if line.get("event") == "session_opened"]
    closed = [line for line in lines if line.get("event") == "session_closed"]
    assert [(line["role"], line["peer"]["role"]) for line in opened[:2]] in (
        [("RM", "CEM"), ("CEM", "RM")],
        [("CEM", "RM"), ("RM", "CEM")],
    )
    assert len(opened) == len(closed) == 2 * len(recorded)
    said = [(line["role"], line["direction"], line["message"]) for line in lines if "message" in line]
    measured = [(role, way) for role, way, message in said if message["message_type"] == "PowerMeasurement"]
    assert measured == [("CEM", "received"), ("RM", "sent")] * len(recorded)
    replayed = run("replay", str(log), "--json")
    found = json.loads(replayed.stdout)
    assert found["summary"]["sessions"] == 2 * len(recorded)
    assert {remark["problem"] for remark in found["remarks"]} == {"not_ok"}
    assert replayed.returncode == 0


def test_a_record_of_a_route_that_is_not_in_the_file_is_a_mistake(file: Path) -> None:
    ended = run("bridge", "run", str(file), "--record", str(file.parent / "log"), "--record-only", "hose/battery")
    assert (ended.returncode, "hose" in ended.stderr, "(house)" in ended.stderr) == (2, True, True)
    assert run("bridge", "run", str(file), "--record-only", "house").returncode == 2


def test_a_bridge_runs_on_uvloop_where_its_operator_wishes_so(file: Path, bridges: list[Running]) -> None:
    pytest.importorskip("uvloop")
    bridge = run_bridge(file, "--uvloop")
    bridges.append(bridge)
    bridge.event("bridge_ready")
    bridge.process.send_signal(signal.SIGTERM)
    assert bridge.ended() == 0


@pytest.mark.long
def test_pair_leads_through_both_pairings_and_can_be_run_again(file: Path, bridges: list[Running]) -> None:
    """Two devices, one energy manager whose code is good for one of them: the second is asked for another code."""
    bridge = run_bridge(file)
    bridges.append(bridge)
    bridge.event("bridge_ready")
    homes = {
        name: make_home(file.parent / name, role, "--name", name)
        for name, role in (("battery", "rm"), ("boiler", "rm"), ("manager", "cem"))
    }
    bridges += [battery := Running(homes["battery"]), boiler := Running(homes["boiler"])]
    bridges += [manager := Running(homes["manager"])]
    manager_url, manager_code = manager.ready()
    device_url, device_code = boiler.ready()
    battery.ready()

    code = json.loads(run("code", "--home", str(file.parent / "home"), "--json").stdout)
    assert battery.command("pair", url=code["pairing_url"], code=code["code"])["ok"]
    assert code["code"] not in "".join(bridge.lines), "this output is usually kept"
    first = run("bridge", "pair", str(file), "--json", "--device-url", device_url, stdin=f"{device_code}\n")
    assert first.returncode != 0
    assert json.loads(first.stdout)["error"]["kind"] == "input_ended"
    assert "Paired with boiler." in first.stderr
    assert device_code not in first.stderr

    second = run("bridge", "pair", str(file), "--manager-url", manager_url, stdin=f"WRONG1\n{manager_code}\n")
    assert "Not with this code" in second.stderr
    assert second.returncode == 1, second.stderr
    assert "The energy manager knows" in second.stderr

    fresh = manager.command("code")["code"]
    typed = f"ABCD EFGH JKMN\nlocalhost:1\nABCD EFGH JKMN\n{manager_url} {fresh}\n"
    third = run("bridge", "pair", str(file), "--json", stdin=typed)
    assert "looks like a pairing code" in third.stderr, "typed at the question for the URL"
    assert "localhost:1 cannot be reached" in third.stderr
    assert third.returncode == 0, third.stderr
    (route,) = json.loads(third.stdout)["routes"]
    assert route["left"] == []
    assert len(route["representatives"]) == 2
    again = run("bridge", "pair", str(file))
    assert again.returncode == 0
    assert "Everything is paired" in again.stderr

    assert {manager.event("session_opened")["peer"]["user_defined_name"] for _ in range(2)} == {"battery", "boiler"}
    text = run("bridge", "status", "--home", str(file.parent / "home")).stdout
    assert "house  s2-connect -> s2-connect, 2 of 2 up" in text
    watched = subprocess.Popen(
        [sys.executable, "-m", "s2connect", "bridge", "status", str(file), "--watch", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watched.stdout is not None
    states = [json.loads(watched.stdout.readline())["routes"][0]["links"][0]["state"] for _ in range(2)]
    watched.send_signal(signal.SIGINT)
    assert watched.wait(10) == 130
    watched.stdout.close()
    assert states == ["up", "up"]


@pytest.mark.long
def test_pair_counts_pairings_of_an_older_copy_as_broken_and_repairs_them(file: Path, bridges: list[Running]) -> None:
    home, kept = str(file.parent / "home"), str(file.parent / "kept")
    manager = Running(make_home(file.parent / "manager", "cem", "--name", "manager"))
    battery = Running(make_home(file.parent / "battery", "rm", "--name", "battery"))
    bridges += [manager, battery]
    url, manager_code = manager.ready()
    battery.ready()

    def start() -> Running:
        bridges.append(bridge := run_bridge(file))
        bridge.event("bridge_ready")
        return bridge

    def pair_device() -> None:
        node = json.loads(run("bridge", "status", str(file), "--json").stdout)["routes"][0]["devices"]["node"]
        code = json.loads(run("code", "--node", node, "--home", home, "--json").stdout)
        assert battery.command("pair", url=code["pairing_url"], code=code["code"])["ok"]

    def until_trouble(side: str, reason: str) -> None:
        deadline = Deadline(30)
        while not deadline.passed():
            [link] = json.loads(run("bridge", "status", str(file), "--json").stdout)["routes"][0]["links"]
            if (link["trouble"][side] or {}).get("reason") == reason:
                return
        raise AssertionError(f"no trouble: {link}, {battery.lines}, {manager.lines}")

    bridge = start()
    pair_device()
    assert run("bridge", "pair", str(file), "--manager-url", url, stdin=f"{manager_code}\n").returncode == 0
    bridge.event("link", state="up")
    phrase = "correct horse battery\n"
    assert run("backup", kept, "--home", home, "--passphrase-stdin", stdin=phrase).returncode == 0
    bridge.kill()
    bridge = start()
    bridge.event("link", state="up")
    bridge.kill()
    assert run("restore", kept, "--home", home, "--yes", "--passphrase-stdin", stdin=phrase).returncode == 0
    start()
    until_trouble("rm", "token_unknown")
    first = run("bridge", "pair", str(file), "--json")
    assert first.returncode == 5
    assert json.loads(first.stdout)["routes"][0]["left"] == ["house/battery"]
    assert "older copy" in first.stderr
    pair_device()
    until_trouble("cem", "access_refused")
    assert "bridge pair FILE" in run("bridge", "status", str(file)).stdout
    fresh = manager.command("code")["code"]
    second = run("bridge", "pair", str(file), "--json", "--manager-url", url, stdin=f"{fresh}\n")
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["routes"][0]["left"] == []
    manager.event("session_opened")


LINK = {
    "name": "house/\x1b[31mBattery",
    "key": "k",
    "state": "failed",
    "for_seconds": 75.0,
    "reason": "not reachable",
    "retry_in": 3.0,
    "times_up": 1,
    "sides": {
        "rm": {"title": "t", "connected": True, "protocol": "WebSocket", "s2_version": "v1.0.0", "peer_address": ""},
        "cem": {"title": "t", "connected": False, "protocol": "", "s2_version": "", "peer_address": ""},
    },
    "messages": {"rm": {"forwarded": 3, "acknowledged": 2, "refused": 1, "unanswered": 0, "late": 4}, "cem": {}},
    "queued": {},
}
BRIDGE = {
    "routes": [
        {"name": "house", "devices": {"type": "s2-connect"}, "manager": {"type": "mqtt"}, "links": [LINK]},
        {"name": "empty", "devices": {"type": "s2-connect"}, "manager": {"type": "mqtt"}, "links": []},
    ],
    "failed": [{"name": "third", "reason": "Cannot listen"}],
}


@pytest.mark.parametrize("width", [70, 140])
def test_the_table_of_links_fits_the_terminal_and_is_clean(width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width, markup=False, highlight=False).print(*bridge_blocks(BRIDGE, width), sep="\n")
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert all(part in text for part in ("failed", "1 min", "3/2/1/0/4", "in 3 s", "WebSocket v1.0.0"))
    assert "No device is paired yet" in text
    assert "third does not run: Cannot listen" in text


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (60, "1 min"), (7200, "2 h"), (200_000, "2 d")])
def test_a_length_of_time_is_read_at_a_glance(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_try_that_is_due_is_now() -> None:
    assert (until(0.2), until(3.0), until(7200)) == ("now", "in 3 s", "in 2 h")
    warned = events.Warned(reason="link", text="It failed.", retry_in=0.0)
    assert sentence(warned) == "Warning: It failed. Next try now."


def test_a_peer_without_a_name_of_its_own_is_its_product_once() -> None:
    peer = NodeDescription(id=NodeId(uuid4()), brand="Acme", type="Battery", model_name="X1", role=Role.CEM)
    assert titled(peer, ", alias 1") == "Acme X1 (energy manager, alias 1)"
    assert titled(replace(peer, "Acme X1")) == "Acme X1 (energy manager)"
    assert titled(replace(peer, "House")) == "House (Acme X1, energy manager)"


def replace(peer: NodeDescription, name: str) -> NodeDescription:
    return peer.model_copy(update={"user_defined_name": name})


def test_events_of_a_bridge_are_sentences() -> None:
    form = BridgeText()
    link = events.LinkChanged(route="r", link="r/B", state="failed", reason="gone", retry_in=None)
    assert str(form(link)).endswith("r/B: failed (gone)")
    node = NodeId(uuid4())
    peer = NodeDescription(id=node, role=Role.RM, brand="A", type="t", model_name="B", user_defined_name="Heat\x1bpump")
    asked = str(form(events.PairingAnnounced(node=node, peer=peer)))
    assert "wants to pair; the code is shown by: s2connect bridge pair" in asked
    assert "\x1b" not in asked
    failed = events.ReloadFailed(problems=[Problem(3, "x is unknown")], error={"what": "no"})
    assert "line 3: x is unknown" in str(form(failed))


@pytest.mark.parametrize("command", ["reload", "status", "pair"])
def test_a_file_that_is_no_toml_is_named_with_line_and_cause(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text('home = "b"\n[[route]\n')
    assert main(["bridge", command, str(file)]) == 2
    said = capsys.readouterr().err
    assert "line 2: not TOML" in said
    assert "does not name a home" not in said


def test_a_link_that_fails_again_for_the_same_reason_is_said_once_an_hour() -> None:
    """A device that is off for a week does not fill the journal."""
    text, begun = BridgeText(), datetime(2026, 5, 1, tzinfo=UTC)

    def said(state: str, reason: str = "", *, after: float = 0.0, link: str = "r/B") -> bool:
        at = begun + timedelta(seconds=after)
        changed = events.LinkChanged(time=at, route="r", link=link, state=state, reason=reason, retry_in=None)
        return text(changed) is not None

    assert [said(state) for state in ("waiting", "reaching", "admitting")] == [True] * 3
    assert said("failed", "gone")
    for after in (15.0, 30.0, 3599.0):
        assert not said("reaching", after=after)
        assert not said("failed", "gone", after=after)
    assert said("failed", "gone", link="r/C"), "another link"
    assert said("failed", "refused", after=31.0), "another reason"
    assert said("failed", "refused", after=31.0 + 3600.0)
    assert said("up", after=4000.0)
    assert said("parting", "gone", after=4001.0)
    assert said("reaching", after=4002.0)
    assert said("failed", "refused", after=4003.0)


def test_the_head_of_a_route_counts_the_links_that_other_instances_have() -> None:
    route = {"devices": {"type": "s2-connect"}, "manager": {"type": "mqtt"}}
    links = [{"state": state} for state in ("up", "elsewhere", "elsewhere", "failed")]
    assert sides_of({**route, "links": links}) == "s2-connect -> mqtt, 1 of 4 up, 2 at other instances"
    assert sides_of({**route, "links": links[:1]}) == "s2-connect -> mqtt, 1 of 1 up"
