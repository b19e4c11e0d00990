"""The ends of a link leave nothing of the bridge to the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from s2connect.bridge.link_state import LinkState
from s2connect.bridge.recording import ObservedConnection
from s2connect.bridge.sides import Initiator
from s2connect.model.common import Role
from tests.bridge.link_fixtures import message
from tests.bridge.test_bridge_link import LinkSetup, play


@pytest.fixture
def kept_garbage() -> Iterator[None]:
    """No collection, and what the next one finds is kept."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.usefixtures("kept_garbage")
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("ending", Role)
def test_both_sides_of_a_link_that_has_ended_are_freed_at_once(ending: Role, recorded: bool) -> None:
    async def scene(setup: LinkSetup) -> None:
        if recorded:
            setup.link._record = lambda _link, _side, _role, connection: ObservedConnection(
                connection, lambda *_: None, lambda _: None
            )
        for number in range(5):
            await setup.until(LinkState.UP, within=600)
            for role in Role:
                await setup.peer(role).send(message(f"{role}{number}"))
                await setup.peer(role.other).recv()
            await setup.peer(ending).close()
            await setup.until(LinkState.WAITING, LinkState.REACHING, LinkState.FAILED, within=60)
            for side in setup.sides.values():
                side.near.clear()
        gc.collect()
        left = {type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith("s2connect.bridge")}
        assert not left

    play(scene, Initiator.BRIDGE, Initiator.BRIDGE)
