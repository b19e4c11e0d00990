"""Older and second copies of a home: both sides notice, say so, and the right state heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from s2connect import Endpoint, Role, create_home, events
from s2connect.endpoint.backup import back_up, restore
from s2connect.store.backup_file import Passphrase
from s2connect.transports import backoff
from tests.endpoint.conftest import lan_config
from tests.endpoint.test_endpoint_backup import _cheap  # noqa: F401 - scrypt costs little
from tests.waits import until, within

PHRASE = Passphrase("correct horse battery")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that are not known are reported soon."""
    monkeypatch.setattr("s2connect.endpoint.connections.UNKNOWN_TOKEN_GRACE", 0.3)


@contextlib.asynccontextmanager
async def running(home: Path) -> AsyncIterator[Endpoint]:
    """Run an endpoint whose application takes sessions and ignores what they bring."""

    async def take() -> None:
        sessions = []
        async for session in endpoint.node().sessions():
            sessions.append(session)
            await session.__aenter__()

    async with Endpoint.open(home) as endpoint:
        task = asyncio.create_task(take(), name="test-application")
        try:
            yield endpoint
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def paired_homes(path: Path) -> tuple[Path, Path]:
    """Make two homes, and pair them; there has been a session."""
    cem, rm = path / "cem", path / "rm"
    port = 0
    for home, role in ((cem, Role.CEM), (rm, Role.RM)):
        from s2connect.https.server import free_port

        port = free_port("127.0.0.1")
        await asyncio.to_thread(create_home, home, lan_config(role, vault="files", port=port))
    async with running(cem) as manager, running(rm) as device:
        manager._pairing.server.delay = 0.0
        await device.node().pair(manager.pairing_url, manager.node().issue_pairing_code())
        await until(lambda: manager.connected() and device.connected())
    return cem, rm


async def kept(home: Path) -> bytes:
    return (await back_up(home, PHRASE)).file


async def put_back(home: Path, file: bytes) -> None:
    await asyncio.to_thread(restore, home, file, PHRASE, replace=True)


async def event_of(stream: Any, kind: type[Any]) -> Any:
    async with within(10):
        async for event in stream:
            if isinstance(event, kind):
                return event
    raise AssertionError("the endpoint has closed")


def trouble(endpoint: Endpoint) -> tuple[str, str]:
    """Return reason and sentence of the trouble of the only pairing."""
    [history] = endpoint.history().values()
    assert history.trouble is not None
    return history.trouble[0], history.trouble[2]


async def connect_once(cem: Path, rm: Path) -> None:
    async with running(cem) as manager, running(rm) as device:
        await until(lambda: manager.connected() and device.connected())


@pytest.mark.rule("SESC-05", "REC-01")
async def test_an_older_copy_of_the_device_is_noticed_by_both_and_the_newest_put_back_heals(tmp_path: Path) -> None:
    cem, rm = await paired_homes(tmp_path)
    old = await kept(rm)
    await connect_once(cem, rm)  # the token is another one now
    new = await kept(rm)
    await put_back(rm, old)
    async with running(cem) as manager:
        seen = manager.events()
        async with running(rm) as device:
            ours = device.events()
            unknown = await event_of(seen, events.TokenUnknown)
            refused = await event_of(ours, events.SessionFailed)
            assert "this home may be an older copy" in unknown.sentence
            assert "This home may be an older copy" in refused.sentence
            assert refused.sentence.count(manager.node().description.title) == 1
            assert refused.retry_in >= 3600
            assert trouble(manager)[0] == "token_unknown"
            assert trouble(device)[0] == "access_refused"
        await put_back(rm, new)
        async with running(rm) as device:
            await until(lambda: manager.connected() and device.connected())
            for endpoint in (manager, device):
                assert all(history.trouble is None for history in endpoint.history().values())


@pytest.mark.rule("SESC-05")
async def test_an_older_copy_of_the_energy_manager_put_right_heals_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cem, rm = await paired_homes(tmp_path)
    old = await kept(cem)
    await connect_once(cem, rm)
    new = await kept(cem)
    await put_back(cem, old)
    monkeypatch.setattr(backoff, "REFUSED_DELAY", 0.3)
    async with running(rm) as device:
        refused = device.events()
        async with running(cem) as manager:
            await event_of(manager.events(), events.TokenUnknown)
            while (await event_of(refused, events.SessionFailed)).kind != "access_refused":
                pass
        await put_back(cem, new)
        async with running(cem) as manager:
            await until(lambda: manager.connected() and device.connected(), 20)
            assert all(history.trouble is None for history in device.history().values())


async def test_two_copies_of_a_device_are_noticed_by_all_three(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cem, rm = await paired_homes(tmp_path)
    copy = tmp_path / "copy"
    await put_back(copy, await kept(rm))
    async with running(cem) as manager, running(rm) as device:
        await until(lambda: manager.connected() and device.connected())
        said = manager.events()
        from s2connect.endpoint.settings import read_config
        from s2connect.store.home import Home

        settings = await asyncio.to_thread(lambda: read_config(Home.open(copy)))
        (copy / "config.json").write_bytes(settings.model_copy(update={"port": 0}).to_json())
        async with running(copy) as second:
            mine = second.events()
            unknown = await event_of(said, events.TokenUnknown)
            assert "a second copy of its state" in unknown.sentence
            assert (await event_of(mine, events.SessionFailed)).kind == "access_refused"
            assert device.connected(), "the right one goes on"
            second.try_now(next(iter(second.history())))
            await until(lambda: second.history() and manager.connected())
    assert sum("a second copy of its state" in text for text in caplog.messages) == 1, "once an hour"


async def test_pairing_again_ends_the_trouble(tmp_path: Path) -> None:
    cem, rm = await paired_homes(tmp_path)
    old = await kept(rm)
    await connect_once(cem, rm)
    await put_back(rm, old)
    async with running(cem) as manager, running(rm) as device:
        await event_of(manager.events(), events.TokenUnknown)
        manager._pairing.server.delay = 0.0
        await until(lambda: any(history.trouble for history in device.history().values()))
        await device.node().pair(manager.pairing_url, manager.node().issue_pairing_code())
        await until(lambda: manager.connected() and device.connected())
        for endpoint in (manager, device):
            assert all(history.trouble is None for history in endpoint.history().values())
