"""An endpoint with many pairings: what is read and written for its list, in counts, and in which thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.growth import fill
from s2connect import Endpoint, NodeId, PairKey
from s2connect.cli.show import MAX_TABLE_ROWS, pairings_block, status_blocks
from s2connect.cli.terminal import PlainText
from s2connect.errors import UsageError
from s2connect.model import common
from s2connect.service import control, pairing_list
from s2connect.service.commands import FindPairing, Pairings, Status
from s2connect.service.objects import PairingEntry, to_value
from s2connect.service.sidecar import Service
from s2connect.store.columns import read_endpoint
from s2connect.store.home import Home
from s2connect.store.vault import FileVault
from tests.command import make_home
from tests.store.store_examples import SERVER, pairing, token
from tests.waits import within

MANY = MAX_TABLE_ROWS + 100


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """Home of an energy manager with many pairings."""
    path = make_home(tmp_path / "many", "cem")
    async with Endpoint.open(path, serve=False) as endpoint:
        node = endpoint.node().id
    await fill(path / "state.sqlite", FileVault(path / "secrets"), node, MANY)
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the objects of the store that are parsed, by class."""
    counted: Counter[str] = Counter()
    parse = common.Wire.from_own_json.__func__  # type: ignore[attr-defined]

    def count(cls: type[common.Wire], data: bytes) -> Any:
        counted[cls.__name__] += 1
        return parse(cls, data)

    monkeypatch.setattr(common.Wire, "from_own_json", classmethod(count))
    read_endpoint.cache_clear()
    return counted


async def test_opening_an_endpoint_reads_no_pairings_and_its_status_reads_each_once(
    home: Path, read: Counter[str]
) -> None:
    async with Endpoint.open(home, serve=False) as endpoint:
        assert not read
        status = await Service(endpoint, home).ask(Status())
    assert len(status.pairings) == MANY
    assert read == {"NodeDescription": MANY, "EndpointDescription": 1}
    assert len(repr(status)) < 100


async def test_a_long_list_is_made_and_written_outside_of_the_loop(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, set[threading.Thread]] = {"made": set(), "written": set()}

    def noted(what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            threads[what].add(threading.current_thread())
            return work(*arguments)

        return note

    monkeypatch.setattr(PairingEntry, "of", noted("made", PairingEntry.of))
    async with Endpoint.open(home, serve=False) as endpoint:
        service = Service(endpoint, home, stop=lambda: None)
        async with control.control_socket(Home.open(home), service.answer), control.connect(Home.open(home)) as reached:
            assert reached is not None
            # The service writes its answer with to_value; the command that is sent has none.
            monkeypatch.setattr(control, "to_value", noted("written", to_value))
            status = await reached.ask(Status())
    assert len(status.pairings) == MANY
    assert threads["made"]
    assert threads["written"]
    assert threading.main_thread() not in threads["made"] | threads["written"]


async def test_a_long_list_is_shown_in_full_and_is_not_wrapped(home: Path) -> None:
    async with Endpoint.open(home, serve=False) as endpoint:
        status = await Service(endpoint, home).ask(Status())
    for width, lines in ((80, 3 * MANY), (160, MANY + 1)):
        block = pairings_block(status.pairings, width)
        assert isinstance(block, PlainText)
        assert len(block.splitlines()) == lines
        assert all(str(one.peer.id)[:8] in block for one in status.pairings)
        assert block in status_blocks(status, width)
    assert not isinstance(pairings_block(status.pairings[:MAX_TABLE_ROWS], 160), PlainText)
    written = json.loads(json.dumps(status, default=to_value))["pairings"]
    assert written[0]["peer"]["id"] == str(status.pairings[0].peer.id)
    known = Status().read_result(json.loads(json.dumps(status, default=to_value))).pairings
    assert [one.peer for one in known] == [one.peer for one in status.pairings]


async def test_of_very_many_the_newest_are_listed_and_the_others_page_by_page(home: Path) -> None:
    async with Endpoint.open(home, serve=False) as endpoint:
        service = Service(endpoint, home)
        every = [one.key.remote for one in await endpoint.pairings()]
        status = await service.ask(Status(newest=50))
        assert [one.peer.id for one in status.pairings] == every[-50:]
        assert (status.pairings_total, list(status.pairings_of_nodes.values())) == (MANY, [MANY])
        read, before = [one.peer.id for one in status.pairings], status.pairings_before
        while before is not None:
            page = await service.ask(Pairings(newest=120, before=before))
            read, before = [*(one.peer.id for one in page.pairings), *read], page.before
            assert page.total == MANY
        assert read == every


async def test_pages_have_each_once_also_one_that_is_connected_and_the_status_has_it_beside_the_newest(
    tmp_path: Path,
) -> None:
    path = make_home(tmp_path / "cem", "cem")
    async with Endpoint.open(path) as cem, Endpoint.open(make_home(tmp_path / "rm", "rm")) as rm:
        await rm.node().pair(cem.pairing_url, await cem.node().new_pairing_code())
        for number in range(30):
            other = pairing(number, SERVER)
            other = replace(other, key=PairKey(cem.node().id, other.key.remote))
            await cem._state.store.save_pairing(other, token(str(number)))
    async with within(30), Endpoint.open(path) as cem, Endpoint.open(tmp_path / "rm") as rm:
        sessions = [asyncio.ensure_future(anext(end.node().sessions())) for end in (cem, rm)]
        await asyncio.gather(*sessions)
        service, every = Service(cem, path), [one.key.remote for one in await cem.pairings()]
        assert every[0] == rm.node().id
        for older in (
            [one.peer.id for one in (await service.ask(Status(newest=10))).pairings],
            [one.peer.id for one in (await service.ask(Pairings(newest=10, others=True))).pairings],
        ):
            assert older == [every[0], *every[-10:]]
        read: list[NodeId] = []
        before: int | None = None
        while True:
            page = await service.ask(Pairings(newest=10, before=before))
            read, before = [*(one.peer.id for one in page.pairings), *read], page.before
            if before is None:
                break
        assert read == every


@pytest.mark.parametrize(("place", "listed"), [(0, 0), (2**63, 3), (10**30, 3)])
async def test_before_a_place_that_no_store_knows_is_what_is_there(home: Path, place: int, listed: int) -> None:
    async with Endpoint.open(home, serve=False) as endpoint:
        page = await Service(endpoint, home).ask(Pairings(newest=3, before=place))
        assert (len(page.pairings), page.total) == (listed, MANY)


async def test_a_pairing_is_found_by_its_id_where_names_are_not_looked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Endpoint.open(home, serve=False) as endpoint:
        service, wanted = Service(endpoint, home), (await endpoint.pairings())[7]
        name = wanted.peer.title
        assert (await service.ask(FindPairing(peer=str(wanted.key.remote)))).peer == wanted.peer
        assert (
            await service.ask(FindPairing(peer=str(wanted.key.remote), node=str(wanted.key.local)))
        ).peer.title == name
        monkeypatch.setattr(pairing_list, "NAMES_SEARCHED", MANY - 1)
        assert (await service.ask(FindPairing(peer=str(wanted.key.remote)))).peer == wanted.peer
        with pytest.raises(UsageError, match="too many to look for a name"):
            await service.ask(FindPairing(peer=name))
