"""Pairing codes that a service shows: those of one instance, and of several that start at once."""

from __future__ import annotations

import asyncio
import base64
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from s2connect import Endpoint, EndpointConfig, Node, Role
from s2connect.events import PairingAnnounced
from s2connect.service import events, sidecar
from s2connect.service.sidecar import Service
from tests.command import make_home
from tests.endpoint.conftest import Wan, wan
from tests.postgresql import STORE_KEYS
from tests.waits import until, within

__all__ = ["wan"]


class Shown(events.Sink):
    """Codes that were shown at the start, and those with announced pairings."""

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.announced: list[object] = []

    async def put(self, event: events.Event) -> None:
        if isinstance(event, events.CodeIssued):
            self.codes.append(event.code)
        if isinstance(event, events.PairingAnnounced):
            self.announced.append(event.code)


async def test_instances_that_start_at_once_show_the_same_code_which_is_the_one_that_counts(
    postgresql: str, wan: Wan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2CONNECT_STORE_KEY", base64.b64encode(STORE_KEYS[0]).decode())
    made = wan.config(Role.CEM, "localhost", store=postgresql)
    shown = [Shown() for _ in range(3)]
    async with within(30), AsyncExitStack() as stack:
        nodes: list[Node] = []
        services = []
        for number, sink in enumerate(shown):
            config = EndpointConfig.model_validate(made.model_dump() | {"instance": f"number-{number}"})
            endpoint = await stack.enter_async_context(Endpoint.open(config=config))
            nodes.append(endpoint.node())
            services.append(Service(endpoint, tmp_path, sink))
        for _ in range(3):
            await asyncio.gather(*(service.issue_codes() for service in services))
            counts = {str(await node.current_pairing_code()) for node in nodes}
            assert [set(sink.codes) for sink in shown] == [counts] * len(shown)
            for sink in shown:
                sink.codes.clear()
            await nodes[0].withdraw_code()


async def test_a_code_of_which_too_little_is_left_is_followed_by_another_and_a_static_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Shown()
    async with Endpoint.open(make_home(tmp_path / "home", "cem"), serve=False) as endpoint:
        service, node = Service(endpoint, tmp_path, sink), endpoint.node()
        await service.issue_codes()
        await service.issue_codes()
        first, again = sink.codes
        assert first == again == str(await node.current_pairing_code())
        monkeypatch.setattr(sidecar, "ENOUGH_LEFT", 301.0)
        await service.issue_codes()
        assert sink.codes[2] != first
        static = await node.set_static_code()
        await service.issue_codes()
        assert await node.current_pairing_code() == static
        assert len(sink.codes) == 3


async def test_an_announced_pairing_shows_the_code_that_counts(tmp_path: Path) -> None:
    sink = Shown()
    async with within(20), Endpoint.open(make_home(tmp_path / "home", "cem"), serve=False) as endpoint:
        service, node = Service(endpoint, tmp_path, sink, show_codes=True), endpoint.node()
        service.follow(sessions=False)

        async def announce(times: int) -> None:
            endpoint._state.events.publish(PairingAnnounced(node=node.id, peer=None, peer_endpoint=None))
            await until(lambda: len(sink.announced) == times)

        await announce(1)
        await announce(2)
        code = str(await node.current_pairing_code())
        await node.set_static_code()
        await announce(3)
        assert sink.announced == [code, code, None]
        other = await node.new_pairing_code()
        await announce(4)
        assert sink.announced[3] == str(other)
    await service.finish(5)
