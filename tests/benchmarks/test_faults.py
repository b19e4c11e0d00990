"""A short run of injected faults, with real instances and a real database; what reports and connections do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from benchmarks import faults, faults_connections, faults_report, faults_site
from benchmarks.balancer import DOWN, UP, Balancer, Plan
from benchmarks.faults_report import Report
from s2connect.https.server import free_port
from tests.postgresql import need_postgresql
from tests.waits import until, within


def report(count: int = 100) -> Report:
    made = Report(7, 2, 3, kinds=["reset"], messages=1234, found={"lost": 2}, examples=["lost: message 5 of device 1"])
    made.faults = [
        {
            "number": n,
            "kind": "reset",
            "at": float(n),
            "lasted": 0.0,
            "healed": float(n),
            "device": n % 3,
            "beside": n >= count // 2,
        }
        for n in range(count)
    ]
    return made


def test_a_report_says_what_was_found_and_how_long_it_took() -> None:
    made = report()
    made.faults.append({"number": 101, "kind": "database crashed", "at": 0.0, "lasted": 1.0, "healed": 7.0})
    text = "\n".join(made.lines())
    assert "101 faults, seed 7; 1,234 messages of 3 devices and 2 instances" in text
    assert "2 lost, 0 duplicated, 0 reordered" in text
    assert "| one connection | 100 | 50.0 s | 99.0 s | 99.0 s |" in text
    assert "| the database or its standby | 1 | 7.0 s | 7.0 s | 7.0 s |" in text
    assert "| reset | 100 | 50.0 s | 99.0 s | 99.0 s |" in text
    assert "| database crashed | 1 | 7.0 s | 7.0 s | 7.0 s |" in text
    assert "lost: message 5 of device 1" in text


def test_an_example_names_the_faults_of_its_device_and_of_the_site_at_that_time() -> None:
    made = Report(7, 2, 3, examples=["reordered: message 5 of device 1 at 103.250, after 6"])
    for kind, at, more in (
        ("late arrival", 100.0, {"device": 1, "beside": True}),
        ("silent cut", 100.0, {"device": 2, "beside": True}),
        ("database silent", 99.0, {}),
        ("instance killed", 50.0, {}),
    ):
        made.faults.append({"number": 1, "kind": kind, "at": at, "lasted": 1.0, "healed": 1.0, **more})
    assert made.lines()[-1].endswith("after 6 (meanwhile: late arrival, database silent)")


def test_a_report_is_read_as_it_was_written_and_goes_on_behind_its_last_fault(tmp_path: Path) -> None:
    made = report(4)
    assert Report(1, 2, 3).next_number == 0
    del made.faults[1]  # under way when the run ended
    made.write(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json") == made
    assert made.next_number == 4
    Report(1, 2, 3).write(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json").faults == []


def test_the_table_of_a_report_is_printed_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report().write(tmp_path / "report.json")
    assert faults.main(["--table", str(tmp_path / "report.json")]) == 0
    assert "| all | 100 |" in capsys.readouterr().out


def test_no_kind_has_two_meanings() -> None:
    assert len(set(faults.KINDS)) == len(faults_connections.KINDS) + len(faults_site.KINDS)
    assert faults_site.KINDS.keys() >= faults_site.OF_BROKERS
    groups = [word for words in faults_report.GROUPS.values() for word in words]
    assert {kind.split()[0] for kind in faults_site.KINDS} == set(groups)


class Echo:
    """A device with a connection through a balancer to a program that repeats what it gets."""

    def __init__(self) -> None:
        self.came: list[asyncio.StreamWriter] = []
        self.heard = bytearray()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                self.heard += data
                writer.write(data)
        writer.close()


DEVICE, OTHER, INSTANCE = "127.0.1.1", "127.0.1.2", "127.0.0.2"


async def test_what_is_lost_in_one_direction_is_lost_for_one_device_and_nobody_is_told() -> None:
    port, echo = free_port(), Echo()
    async with (
        within(20),
        await asyncio.start_server(echo.serve, INSTANCE, port),
        Balancer.running(port, [DEVICE, OTHER]) as balancer,
    ):
        balancer.addresses.append(INSTANCE)
        reader, writer = await asyncio.open_connection(DEVICE, port)
        other_reader, other = await asyncio.open_connection(OTHER, port)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        assert {one.get_extra_info("peername")[0] for one in echo.came} == {DEVICE, OTHER}
        (way,) = balancer.of(DEVICE)
        way.lose(DOWN)
        writer.write(b"b")
        await until(lambda: echo.heard == b"ab")
        way.lose(UP)
        writer.write(b"c")
        writer.close()
        other.write(b"d")
        assert await other_reader.readexactly(1) == b"d"
        assert echo.heard == b"abd"
        assert balancer.of(DEVICE) == [way], "its end does not arrive, either"
        other.close()


async def test_what_is_held_back_arrives_later_and_a_planned_cut_comes_when_its_bytes_are_over() -> None:
    port, echo = free_port(), Echo()
    async with (
        within(20),
        await asyncio.start_server(echo.serve, INSTANCE, port),
        Balancer.running(port, [DEVICE]) as balancer,
    ):
        balancer.addresses.append(INSTANCE)
        reader, writer = await asyncio.open_connection(DEVICE, port)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        (way,) = balancer.of(DEVICE)
        way.hold()
        writer.write(b"b")
        await until(lambda: way.held[UP])
        way.end_at(DOWN)
        with pytest.raises(ConnectionError):
            await reader.read()
        assert echo.heard == b"a"
        writer.close()
        way.release()
        await until(lambda: echo.heard == b"ab")
        plan = balancer.plans[DEVICE] = Plan(skip=0, left=3, vanishes=False)
        reader, writer = await asyncio.open_connection(DEVICE, port)
        writer.write(b"c")
        assert await reader.readexactly(1) == b"c"
        writer.write(b"de")
        with pytest.raises(ConnectionError):
            await reader.read()
        assert plan.cut.is_set()
        assert not balancer.plans
        writer.close()


@pytest.mark.long
@pytest.mark.timeout(400)
def test_faults_lose_double_and_reorder_nothing_and_the_run_goes_on_where_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need_postgresql()
    file = tmp_path / "report.json"
    arguments = ["--seed", "3", "--devices", "6", "--report", str(file)]
    assert faults.main([*arguments, "--faults", "10"]) == 0
    assert faults.main([*arguments, "--faults", "14"]) == 0
    made = Report(**json.loads(file.read_text("utf-8")))
    assert len(made.faults) == 14
    assert [run["first"] for run in made.runs] == [0, max(fault["number"] for fault in made.faults[:10]) + 1]
    assert {"device" in fault for fault in made.faults} == {True, False}
    assert made.messages > 100
    assert made.found == {}
    assert "0 lost, 0 duplicated, 0 reordered, 0 two sessions, 0 locked out, 0 late" in capsys.readouterr().out
