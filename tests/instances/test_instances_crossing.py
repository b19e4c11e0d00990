"""Two nodes that pair with each other in both directions at once, each direction at another instance."""

from __future__ import annotations

import asyncio
import base64

import pytest

pytest.importorskip("psycopg")

from s2connect import Endpoint, EndpointConfig, Role
from s2connect.endpoint.pairings import Pairings
from s2connect.errors import PairingReplaced
from s2connect.model.secret import AccessToken
from s2connect.store.base import Pairing
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from tests.endpoint.conftest import Wan, wan
from tests.postgresql import STORE_KEYS
from tests.waits import until, within

__all__ = ["wan"]

NAMES = {"localhost": "127.0.0.1", "rm.example": "127.0.0.1"}


@pytest.mark.parametrize("several", [Role.CEM, Role.RM])
@pytest.mark.rule("ROLE-05", "ROLE-06")
async def test_the_pairing_that_the_device_has_begun_stands_and_the_other_gives_way_soon(
    postgresql: str, wan: Wan, monkeypatch: pytest.MonkeyPatch, several: Role
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    both, hold = asyncio.Barrier(2), Pairings.hold

    async def hold_together(pairings: Pairings, pairing: Pairing, token: AccessToken) -> None:
        await hold(pairings, pairing, token)
        await both.wait()

    monkeypatch.setattr(Pairings, "hold", hold_together)
    shared = wan.config(several, "localhost", store=postgresql)
    configs = [EndpointConfig.model_validate(shared.model_dump() | {"instance": name}) for name in ("one", "two")]
    single = wan.config(Role.RM if several is Role.CEM else Role.CEM, "rm.example")
    async with (
        within(60),
        Endpoint.open(config=configs[0], addresses=NAMES) as one,
        Endpoint.open(config=configs[1], addresses=NAMES) as two,
        Endpoint.open(config=single, addresses=NAMES) as other,
    ):
        code, code_of_other = await one.node().new_pairing_code(), await other.node().new_pairing_code()
        begun = asyncio.get_running_loop().time()
        ends = await asyncio.gather(
            other.node().pair(one.pairing_url, code),
            two.node().pair(other.pairing_url, code_of_other),
            return_exceptions=True,
        )
        of_device, of_manager = ends if several is Role.CEM else reversed(ends)
        assert isinstance(of_device, Pairing), of_device
        assert isinstance(of_manager, PairingReplaced), of_manager
        assert asyncio.get_running_loop().time() - begun < 10, "before its 15 s are over"
        for endpoint in (one, two, other):
            (pairing,) = await endpoint.pairings()
            assert pairing.confirmed
        waiting = [asyncio.ensure_future(anext(aiter(end.node().sessions()))) for end in (one, two, other)]
        await until(lambda: sum(task.done() for task in waiting) == 2)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
