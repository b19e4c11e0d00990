"""Drain: an instance that is asked to end hands its sessions over, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from tests.command import Running, start
from tests.endpoint.conftest import Wan, wan
from tests.instances.cloud import begin, cloud_home, devices, reserved_port
from tests.waits import until, within

__all__ = ["start", "wan"]

Start = Callable[..., Running]


def readiness(metrics: str) -> int:
    try:
        with urllib.request.urlopen(metrics.replace("/metrics", "/readyz")) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def received(instance: Running) -> list[str]:
    """Ids of the messages that an instance has reported."""
    return [
        event["message"]["message_id"]
        for event in map(json.loads, instance.lines)
        if event["event"] == "message" and event["message"]["message_type"] == "PowerMeasurement"
    ]


@pytest.mark.long
@pytest.mark.timeout(90)
async def test_sessions_go_to_the_other_instance_and_no_acknowledged_message_is_lost(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    with reserved_port() as port:
        home = cloud_home(wan, tmp_path / "cloud", postgresql, port, drain_wait=0.5, drain_rate=20)
        first = begin(start, home, "one", port, "--metrics-port", "0")
        ready = await asyncio.to_thread(first.event, "ready")
        code = (await asyncio.to_thread(first.event, "pairing_code"))["code"]
        async with within(60), devices(wan, 4) as fleet:
            for device in fleet:
                await device.node.pair(ready["pairing_url"], code)
                code = (await asyncio.to_thread(first.command, "code"))["code"]
            await until(lambda: all(len(device.acknowledged) > 3 for device in fleet))
            assert [device.sessions for device in fleet] == [1, 1, 1, 1]
            second = begin(start, home, "two", port)
            await asyncio.to_thread(second.event, "ready")
            assert readiness(ready["metrics"]) == 200
            first.process.send_signal(signal.SIGTERM)
            await until(lambda: readiness(ready["metrics"]) == 503)
            assert first.process.poll() is None, "it still serves"
            assert await asyncio.to_thread(first.ended, 20) == 0
            before = [len(device.acknowledged) for device in fleet]
            went_on = lambda: all(len(one.acknowledged) > n for one, n in zip(fleet, before, strict=True))  # noqa: E731
            await until(went_on, 20)
            assert [device.sessions for device in fleet] == [2, 2, 2, 2]
            acknowledged = [device.acknowledged[:] for device in fleet]
        await asyncio.to_thread(second.command, "stop")
        await asyncio.to_thread(second.ended)
    for instance in (first, second):
        assert len(received(instance)) == len(set(received(instance)))
    assert not set(received(first)) & set(received(second)), "none twice"
    for ids in acknowledged:
        assert set(ids) <= {*received(first), *received(second)}


@pytest.mark.parametrize("way", ["second signal", "--no-drain"])
def test_a_second_signal_or_no_drain_ends_it_at_once(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start, way: str
) -> None:
    with reserved_port() as port:
        home = cloud_home(wan, tmp_path / "cloud", postgresql, port, drain_wait=3600)
        one = begin(start, home, "one", port, *([way] if way == "--no-drain" else []))
        one.ready()
        one.process.send_signal(signal.SIGTERM)
        if way != "--no-drain":
            with pytest.raises(Exception, match="timed out"):
                one.process.wait(1)
            one.process.send_signal(signal.SIGTERM)
        assert one.ended() == 0
