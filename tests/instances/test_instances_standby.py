"""A primary that loses its synchronous standby, as devices, balancers and operators see it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")

from s2connect.https.server import free_port
from tests.command import Running, run, start
from tests.endpoint.conftest import Wan, wan
from tests.instances.cloud import Device, begin, cloud_home, devices, reserved_port
from tests.instances.test_instances_faults import check, going_on, paired
from tests.postgresql import Cluster
from tests.waits import until, within
from tests.web.test_web_metrics import answers

__all__ = ["start", "wan"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

Start = Callable[..., Running]

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


async def status(url: str) -> Any:
    done = await asyncio.to_thread(run, "cluster", "status", "--store", url, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def about_standby(found: Any) -> list[str]:
    """Sentences of the status about the database."""
    return [one for one in found["troubles"] if "ommit" in one or "tandby" in one]


def reasons(instance: Running) -> list[str]:
    """Return what an instance has reported of the database."""
    told = [json.loads(line) for line in instance.so_far()]
    found = [event["reason"] for event in told if event["event"] == "warning"]
    return [reason for reason in found if reason.startswith("store_")]


async def test_a_primary_without_its_standby_takes_nothing_new_and_loses_nothing(
    wan: Wan, durable: Cluster, tmp_path: Path, start: Start
) -> None:
    """Frozen first, which the primary does not notice for a minute, and then gone; and back."""
    url, metrics = durable.new_database(), [free_port(), free_port()]
    standby = await asyncio.to_thread(durable.standby)

    async def ready(number: int) -> str | None:
        """Return what the database lacks as ``/readyz`` says; None where it does not answer 503 for that alone."""
        code, body = await answers(f"http://127.0.0.1:{metrics[number]}", "/readyz")
        lacking = {part["name"]: part["sentence"] for part in body["parts"] if not part["ready"] and part["needed"]}
        assert (code, lacking.keys() | {"database"}) in ((200, {"database"}), (503, {"database"})), body
        return lacking.get("database")

    async def until_ready(wanted: str | None) -> None:
        """Wait until both instances say it, whether they write anything or not."""
        for number in (0, 1):
            while (found := await ready(number)) != wanted and (wanted is None or wanted not in (found or "")):
                await asyncio.sleep(0.1)

    async def begin_anew(one: Device) -> None:
        for key, live in one.endpoint.connected().items():
            if key.local == one.node.id:
                await live.connection.close()

    def is_refused(one: Device) -> bool:
        return any(
            known.error == "peer_busy" for key, known in one.endpoint.history().items() if key.local == one.node.id
        )

    try:
        with reserved_port() as port:
            home = cloud_home(wan, tmp_path / "cloud", url, port)
            instances = [
                begin(start, home, name, port, "--metrics-port", str(own))
                for name, own in zip(("one", "two"), metrics, strict=True)
            ]
            async with within(150), devices(wan, 2) as fleet:
                await asyncio.to_thread(instances[1].event, "pairing_code")  # the one that counts at both
                await paired(instances[0], fleet)
                found = await status(url)
                assert found["replication"]["synchronous"] is True
                assert about_standby(found) == []
                assert await ready(0) is await ready(1) is None
                staying, moving = fleet[:1], fleet[1:]

                async def until_told(reason: str, times: int) -> None:
                    """Wait until both instances have reported it so often: they look every few seconds."""
                    await until(lambda: all(reasons(one).count(reason) == times for one in instances), seconds=30)

                for times, silent in enumerate((True, False), 1):
                    if silent:
                        standby.signal(signal.SIGSTOP)
                    else:
                        await asyncio.to_thread(standby.stop)
                    await until_ready("does not confirm")
                    await until_told("store_unconfirmed", times)
                    for one in moving:
                        await begin_anew(one)
                    await until(lambda: all(map(is_refused, moving)), seconds=30)
                    await going_on(staying)  # sessions that are there go on
                    assert durable.sql(WAITING)[0][0] <= 2 * 9
                    while "A commit has been waiting for a standby" not in "".join(about_standby(await status(url))):
                        await asyncio.sleep(0.5)  # instances try again and again, with pauses
                    found = await status(url)
                    if not silent:
                        assert found["replication"]["synchronous"] is False
                        assert "No synchronous standby is connected" in "".join(about_standby(found))
                    numbers = (await answers(f"http://127.0.0.1:{metrics[0]}", "/metrics"))[1]
                    assert "\ns2connect_database_confirms 0.0" in numbers
                    if silent:
                        standby.signal(signal.SIGCONT)
                    else:
                        await asyncio.to_thread(standby.start)
                    await until_ready(None)
                    await until_told("store_back", times)
                    await going_on(fleet, seconds=60)

                assert not [one for device in fleet for one in device.endpoint.history().values() if one.trouble]
                assert durable.sql(WAITING) == [(0,)]
                assert about_standby(await status(url)) == []
                for instance in instances:
                    assert (
                        reasons(instance)
                        == [
                            "store_unconfirmed",
                            "store_back",
                        ]
                        * 2
                    )
            await check(fleet, instances)
    finally:
        standby.signal(signal.SIGCONT)
        await asyncio.to_thread(standby.close)
