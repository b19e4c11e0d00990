"""Workers: several instances on one machine by one command, on one port, each started again when it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from s2connect.endpoint.instances import INSTANCE_VARIABLE
from tests.command import Object, Running, make_home, run, start
from tests.endpoint.conftest import Wan, wan
from tests.instances.cloud import ENVIRONMENT, begin, cloud_home, devices, reserved_port
from tests.postgresql import Cluster
from tests.waits import until, within

__all__ = ["start", "wan"]

Start = Callable[..., Running]


def states_on(page: str) -> Counter[str]:
    """The states of pairings that a page shows."""
    with urllib.request.urlopen(f"{page}status.json") as answer:
        return Counter(one["state"] for one in json.load(answer)["peers"])


def status(home: Path) -> Object:
    """The status as the control socket gives it."""
    done = run("status", "--home", str(home), "--json", env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    found: Object = json.loads(done.stdout)
    return found


def test_workers_need_a_database_and_the_sentence_names_the_way_there(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", "rm")
    done = run("serve", "--home", str(home), "--workers", "2")
    assert done.returncode == 2
    assert f"s2connect store copy --to postgresql://user@host/name --home {home}" in " ".join(done.stderr.split())


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_one_command_runs_several_instances(wan: Wan, postgresql: str, tmp_path: Path, start: Start) -> None:
    home = cloud_home(wan, tmp_path / "cloud", postgresql, 0, drain_wait=0.2, instance="box")
    options = ("--metrics-port", "0", "--page", "--page-port", "0", "--record", str(tmp_path / "log.jsonl"))
    crew = start(home, "--workers", "2", *options, env=ENVIRONMENT)
    ready = await asyncio.to_thread(crew.event, "ready")
    assert [one["instance"] for one in ready["workers"]] == ["box-1", "box-2"]
    assert len({one["metrics"] for one in ready["workers"]}) == 2
    code = (await asyncio.to_thread(crew.event, "pairing_code"))["code"]
    async with within(60), devices(wan, 4) as fleet:
        for device in fleet:
            await device.node.pair(ready["pairing_url"], code)
            code = (await asyncio.to_thread(crew.command, "code"))["code"]
        await until(lambda: all(len(device.acknowledged) > 3 for device in fleet))
        shown = await asyncio.to_thread(status, home)
        assert shown["service"]["pid"] == crew.process.pid
        workers = {one["instance"]: one for one in shown["service"]["workers"]}
        assert [one["ready"] for one in workers.values()] == [True, True]
        assert sum(one["sessions"] for one in workers.values()) == len(shown["sessions"]) == 4
        assert all(pairing["connected"] for pairing in shown["pairings"])
        assert shown["endpoint"]["page"] == ready["page"]
        assert (await asyncio.to_thread(crew.command, "page"))["url"] == ready["page"]
        here = workers["box-1"]["sessions"]
        while (states := await asyncio.to_thread(states_on, ready["page"])) != {
            "connected": here,
            "elsewhere": 4 - here,
        }:
            assert states["connected"] <= here
            await asyncio.sleep(0.2)
        opened = await asyncio.to_thread(crew.event, "session_opened")
        name = opened["session"].partition(":")[0]
        assert name == opened["instance"]
        sent = await asyncio.to_thread(
            crew.command,
            "send",
            session=shown["sessions"][0]["session"],
            message={"message_type": "SelectControlType", "control_type": "NO_SELECTION"},
        )
        assert sent["ok"], sent
        unknown = await asyncio.to_thread(crew.command, "send", session="nobody:s1", message={})
        assert unknown["error"]["kind"] == "connection_closed"

        crew.process.send_signal(signal.SIGHUP)
        assert {(await asyncio.to_thread(crew.event, "reloaded"))["instance"] for _ in range(2)} == set(workers)

        os.kill(workers["box-1"]["pid"], signal.SIGKILL)
        ended = await asyncio.to_thread(crew.event, "worker", state="ended")
        assert ended["instance"] == "box-1"
        assert "SIGKILL" in ended["text"]
        before = [len(device.acknowledged) for device in fleet]
        went_on = lambda: all(len(one.acknowledged) > n for one, n in zip(fleet, before, strict=True))  # noqa: E731
        await until(went_on, 20)

        def is_back() -> bool:
            workers = {one["instance"]: one for one in status(home)["service"]["workers"]}
            return workers["box-1"]["ready"] and workers["box-1"]["restarts"] == 1

        while not await asyncio.to_thread(is_back):
            await asyncio.sleep(0.1)
    crew.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(crew.ended, 30) == 0
    assert "box-1 ended with a signal (SIGKILL)" in crew.errors
    logs = [(tmp_path / f"log.box-{number}.jsonl").read_text("utf-8") for number in (1, 2)]
    recorded = [json.loads(line) for text in logs for line in text.splitlines()]
    ids = {one["message"].get("message_id") for one in recorded if "message" in one and one["direction"] == "received"}
    assert {one for device in fleet for one in device.acknowledged[:4]} <= ids


@pytest.mark.long
@pytest.mark.timeout(90)
def test_what_a_person_sees_of_workers_and_of_their_drain(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    home = cloud_home(wan, tmp_path / "cloud", postgresql, 0, drain_wait=0.2, instance="box")
    crew = start(home, "--workers", "2", "--no-page", as_json=False, env=ENVIRONMENT)
    crew.line(lambda line: "Pairing code" in line)
    said = [line[10:].rstrip() for line in crew.lines if "worker" in line]
    assert sorted(said) == ["The worker box-1 is ready.", "The worker box-2 is ready."]
    done = run("status", "--home", str(home), env=ENVIRONMENT)
    first = re.search(r"Worker: box-1: process (\d+), 0 sessions\n", done.stdout)
    assert first, done.stdout
    os.kill(int(first[1]), signal.SIGKILL)
    crew.line(lambda line: "The worker box-1 ended with a signal (SIGKILL)." in line)
    crew.line(lambda line: "The worker box-1 is ready." in line)
    assert "sessions, started again 1 time\n" in run("status", "--home", str(home), env=ENVIRONMENT).stdout
    crew.process.send_signal(signal.SIGTERM)
    assert crew.ended(30) == 0
    for name in ("box-1", "box-2"):
        assert f"the instance {name} drains" in crew.errors
        assert f"the instance {name} has drained; sessions that were asked to connect anew: 0" in crew.errors


@pytest.mark.parametrize("count", ["0", "65"])
def test_a_number_of_workers_that_cannot_be_is_refused(tmp_path: Path, wan: Wan, count: str) -> None:
    home = cloud_home(wan, tmp_path / "cloud", "postgresql:///nowhere", 0)
    done = run("serve", "--home", str(home), "--workers", count, env=ENVIRONMENT)
    assert done.returncode == 2
    assert ("has to be at least 1" if count == "0" else "There can be 1 to 64 workers") in done.stderr


@pytest.mark.long
def test_commands_reach_the_right_one_of_two_instances_on_one_home(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    home = cloud_home(wan, tmp_path / "cloud", postgresql, 0)
    one, two = (start(home, env={**ENVIRONMENT, INSTANCE_VARIABLE: name}) for name in ("one", "two"))
    one.ready(), two.ready()
    for instance, name in ((one, "one"), (two, "two")):
        done = run("status", "--home", str(home), "--json", env={**ENVIRONMENT, INSTANCE_VARIABLE: name})
        assert json.loads(done.stdout)["service"]["pid"] == instance.process.pid
    unnamed = run("status", "--home", str(home), env=ENVIRONMENT)
    assert unnamed.returncode == 2
    assert "run here: one, two" in " ".join(unnamed.stderr.split())
    assert two.command("stop")["ok"]
    two.ended()
    assert status(home)["service"]["pid"] == one.process.pid


@pytest.mark.long
def test_workers_end_with_their_parent(wan: Wan, postgresql: str, tmp_path: Path, start: Start) -> None:
    with reserved_port() as port:
        home = cloud_home(wan, tmp_path / "cloud", postgresql, port)
        crew = start(home, "--workers", "2", env=ENVIRONMENT)
        crew.event("ready")
        pids = [one["pid"] for one in crew.command("status")["service"]["workers"]]
        crew.process.kill()
        crew.process.wait()
        for pid in pids:
            while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
                os.sched_yield()


@pytest.mark.long
@pytest.mark.timeout(90)
def test_a_process_that_was_replaced_while_it_was_stopped_ends(
    wan: Wan, postgresql: str, postgresql_cluster: Cluster, tmp_path: Path, start: Start
) -> None:
    with reserved_port() as port:
        home = cloud_home(wan, tmp_path / "cloud", postgresql, port)
        first = begin(start, home, "one", port)
        first.ready()
        first.process.send_signal(signal.SIGSTOP)
        database = postgresql.partition("@/")[2].partition("?")[0]
        postgresql_cluster.sql("UPDATE instance SET seen = seen - interval '1 minute'", database)
        second = begin(start, home, "one", port)
        second.ready()
        third = begin(start, home, "one", port)
        assert third.ended(20) == 8
        assert "instance_runs" in "".join(third.lines)
        first.process.send_signal(signal.SIGCONT)
        assert first.ended(20) == 8
        assert second.command("status")["ok"]
