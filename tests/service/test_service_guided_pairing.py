"""Steps of a pairing between which a person is asked, with two real homes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from s2connect.errors import NotReachable, UsageError
from s2connect.model.common import Role
from s2connect.model.url import BaseUrl
from s2connect.service import guided_pairing
from s2connect.service.guided_pairing import GuidedPairing
from s2connect.service.reach import reach
from tests.command import Running


@pytest.mark.rule("LAN-05")
async def test_the_other_side_shows_its_code_until_the_pairing_fails(
    cem: Path, rm: Path, start: Callable[..., Running]
) -> None:
    manager = start(cem)
    typed, code = await asyncio.to_thread(manager.ready)
    url = BaseUrl(typed)
    async with reach(rm) as reached:
        steps = GuidedPairing(reached)
        assert (await steps.own_node()).role is Role.RM
        nodes = await steps.nodes(url)
        assert nodes is not None
        (peer,) = nodes

        async def announce_and_fail() -> None:
            async with steps.announced(peer, url) as announced:
                assert announced
                await asyncio.to_thread(manager.event, "prepare_pairing")
                raise UsageError("No code.")

        with pytest.raises(UsageError, match="No code"):
            await announce_and_fail()
        await asyncio.to_thread(manager.event, "cancel_prepare_pairing")
        pairing = await steps.pair(url, code, peer)
        assert (pairing.peer.id, pairing.confirmed) == (peer.id, True)


async def test_nodes_and_devices_that_do_not_exist_are_named(cem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided_pairing, "DEVICE_TIMEOUT", 0.1)
    waits: list[float] = []
    async with reach(cem) as reached:
        with pytest.raises(UsageError, match="There is no node none here"):
            await GuidedPairing(reached, node="none").own_node()
        steps = GuidedPairing(reached)
        with pytest.raises(NotReachable, match="No device boiler waits here; devices that do: none"):
            await steps.find_device("boiler", waits.append)
        assert waits
        with pytest.raises(NotReachable, match="cannot be reached"):
            await steps.nodes(BaseUrl("https://127.0.0.1:1/pairing/"))
