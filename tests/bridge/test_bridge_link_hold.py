"""A link of a bridge of several instances: who has it, and what becomes of its sessions at the others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest

from s2connect import LinkHold, LinkUser
from s2connect.bridge.link import RENDEZVOUS
from s2connect.bridge.link_state import LinkState
from s2connect.bridge.sides import NOT_NOW, Initiator
from s2connect.errors import ConnectionClosed, StorageUnavailable
from s2connect.model.common import Role
from s2connect.session import LedTo, Meeting
from tests.bridge.link_fixtures import NOBODY, PeerSide, farewell, message
from tests.bridge.test_bridge_link import ACCEPT, CEM, OPEN, RM, LinkSetup, running
from tests.bridge.virtual_time import run_virtual
from tests.session.guards import Guard


class FakeHold(LinkHold):
    """Hold of a link, given and taken by the test.

    Attributes:
        awaited: Party that the instance b awaits, once.
        on_take: Called when the link was taken.
        meetings: Those with which the link was asked for.
    """

    def __init__(self) -> None:
        self.user: LinkUser | None = None
        self.until = -math.inf
        self.where = ""
        self.taken = 0
        self.let_go_times = 0
        self.error: StorageUnavailable | None = None
        self.guard: Guard = Guard()
        self.awaited = "nobody"
        self.on_take: Callable[[], None] = lambda: None
        self.meetings: list[Meeting | None] = []

    @property
    def is_held(self) -> bool:
        return asyncio.get_running_loop().time() < self.until

    async def take(self, meeting: Meeting | None = None) -> bool:
        if self.error is not None:
            raise self.error
        self.meetings.append(meeting)
        if meeting is not None and meeting.party == self.awaited:
            self.awaited, self.where = "", "b"
            return False
        self.taken += 1
        self.until, self.where = math.inf, ""
        self.on_take()
        return True

    def let_go(self) -> None:
        self.until = -math.inf
        self.let_go_times += 1

    def close(self) -> None:
        self.let_go()

    # Steps of the test

    def grant(self, seconds: float = math.inf) -> None:
        self.until, self.where = asyncio.get_running_loop().time() + seconds, ""
        assert self.user is not None
        self.user.hold_changed()

    def lose(self, where: str) -> None:
        self.until, self.where = -math.inf, where
        assert self.user is not None
        self.user.hold_lost("another instance has the link")


Scene = Callable[[LinkSetup, FakeHold], Awaitable[None]]


def play(scene: Scene, rm: Initiator, cem: Initiator) -> None:
    async def run() -> None:
        hold = FakeHold()
        async with running(LinkSetup(rm, cem, hold=hold)) as setup:
            await scene(setup, hold)

    run_virtual(run())


def test_a_link_that_nobody_asks_for_is_up_only_where_its_lease_is() -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        await setup.until(LinkState.ELSEWHERE)
        assert setup.link.status().reason == "no instance has claimed it yet"
        await asyncio.sleep(600)
        assert not setup.standing(), "it does not connect without the lease"
        hold.grant()
        await setup.until(LinkState.UP)
        assert hold.taken == 0
        hold.lose("b")
        await setup.until(LinkState.ELSEWHERE)
        assert setup.link.status().reason == "the instance b has it"
        assert not setup.standing()
        hold.grant()
        await setup.until(LinkState.UP)

    play(scene, OPEN, OPEN)


def test_nothing_passes_once_the_lease_is_over() -> None:
    """Also where the process was stopped meanwhile, and messages had come before anybody looked at the lease."""

    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        hold.grant(30)
        await setup.until(LinkState.UP)
        await setup.peer(RM).send(message("in-time"))
        assert "in-time" in await setup.peer(CEM).recv()
        hold.until = asyncio.get_running_loop().time()
        await setup.peer(RM).send(message("late"))
        with pytest.raises(ConnectionClosed):
            await setup.peer(CEM).recv()
        with pytest.raises(ConnectionClosed):
            await setup.peer(RM).recv()
        await setup.until(LinkState.ELSEWHERE)

    play(scene, OPEN, OPEN)


def test_what_comes_after_a_standstill_waits_until_it_is_known_whose_the_link_is() -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        await setup.meet()
        hold.guard.may = False
        for number in range(5):
            await setup.peer(RM).send(message(f"m{number}"))
        await asyncio.sleep(3)
        assert setup.link.status().counts[RM].get("forwarded", 0) == 0
        hold.guard.settle()
        heard = [await setup.peer(CEM).recv() for _ in range(5)]
        assert [f'"m{number}"' in text for number, text in enumerate(heard)] == [True] * 5, "in order"
        hold.guard.may = False
        await setup.peer(RM).send(message("stale"))
        await asyncio.sleep(0.1)
        hold.lose("b")
        with pytest.raises(ConnectionClosed):
            await setup.peer(CEM).recv()
        hold.guard.settle()

    play(scene, ACCEPT, OPEN)


@pytest.mark.parametrize(("rm", "cem"), [(ACCEPT, OPEN), (OPEN, ACCEPT), (ACCEPT, ACCEPT)])
def test_the_instance_to_which_a_peer_comes_takes_the_link_and_the_former_one_ends_both_sides(
    rm: Initiator, cem: Initiator
) -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        await setup.meet()
        assert hold.taken == 1
        asked = [asyncio.create_task(setup.peer(role).recv()) for role in Role]
        hold.lose("b")
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(end, ConnectionClosed) for end in ends), "at once, and without asking to come again"
        await setup.until(LinkState.ELSEWHERE)
        await setup.meet()
        assert hold.taken == 2, "it comes back with its peer"

    play(scene, rm, cem)


def test_a_peer_is_led_to_the_instance_at_which_the_other_one_waits_and_takes_the_link_if_it_comes_again() -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        hold.awaited = "CEM"
        assert await setup.link.request_session(CEM, "v1.0.0", may_lead=True) == LedTo("b")
        await setup.until(LinkState.ELSEWHERE)
        assert setup.link.status().reason == "the instance b has it"
        assert hold.taken == 0
        assert not setup.link.is_used
        await setup.meet()
        assert hold.taken == 1
        assert hold.meetings[0] == Meeting("CEM", "RM", RENDEZVOUS)

    play(scene, ACCEPT, ACCEPT)


@pytest.mark.parametrize("role", Role)
def test_a_peer_that_cannot_be_led_takes_the_link_from_the_instance_at_which_it_is_awaited(role: Role) -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        hold.awaited = role.value
        asked = asyncio.create_task(setup.come(role))
        await setup.until(LinkState.ADMITTING)
        assert hold.meetings == [Meeting("", role.other.value, RENDEZVOUS)], "the other one can be led here"
        assert await setup.come(role.other) is None
        assert await asked is None

    play(scene, ACCEPT, ACCEPT)


@pytest.mark.parametrize(("rm", "cem"), [(ACCEPT, OPEN), (OPEN, ACCEPT), (ACCEPT, ACCEPT)])
def test_nobody_is_awaited_where_one_peer_comes_only_or_both_have_come(rm: Initiator, cem: Initiator) -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        await setup.meet()
        assert hold.meetings == [None]

    play(scene, rm, cem)


def test_a_link_that_is_taken_while_its_peer_is_awaited_admits_nobody_any_more() -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        assert await setup.link.request_session(RM, "v1.0.0") is None
        await setup.until(LinkState.ADMITTING)
        hold.lose("b")
        await setup.until(LinkState.ELSEWHERE)
        assert not setup.standing()
        assert not setup.link.hand_over(RM, PeerSide("late", ACCEPT).connect())

    play(scene, ACCEPT, OPEN)


@pytest.mark.parametrize(("rm", "cem"), [(ACCEPT, OPEN), (ACCEPT, ACCEPT)])
def test_a_peer_is_asked_to_come_again_where_another_instance_takes_the_link_at_the_same_moment(
    rm: Initiator, cem: Initiator
) -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        hold.on_take = lambda: hold.lose("b")
        assert await setup.link.request_session(RM, "v1.0.0") == NOT_NOW
        await setup.until(LinkState.ELSEWHERE)
        assert setup.link.status().reason == "the instance b has it"
        assert not setup.sides[CEM].far, "nobody connects to the other side here, which is connected with b"
        hold.on_take = lambda: None
        await setup.meet()

    play(scene, rm, cem)


def test_a_link_of_an_instance_that_is_about_to_end_is_not_begun_where_its_peer_has_just_come() -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        hold.on_take = lambda: setup.link.begin_none("this instance is about to end")
        assert await setup.link.request_session(RM, "v1.0.0") == NOT_NOW
        await asyncio.sleep(1)
        assert (setup.state, hold.is_held, setup.sides[CEM].far) == (LinkState.ELSEWHERE, False, [])

    play(scene, ACCEPT, OPEN)


def test_a_peer_is_asked_to_come_again_where_the_database_is_away() -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        hold.error = StorageUnavailable("The database is away.", hint="")
        assert await setup.link.request_session(RM, "v1.0.0") == NOT_NOW
        await setup.until(LinkState.FAILED)
        assert "database" in setup.link.status().reason
        hold.error = None
        await setup.meet()

    play(scene, ACCEPT, OPEN)


def test_a_peer_that_asks_every_instance_is_answered_by_the_holder_alone() -> None:
    class Broadcast(PeerSide):
        reaches_all = True

    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        await setup.until(LinkState.ELSEWHERE)
        assert await setup.link.request_session(RM, "v1.0.0") == NOT_NOW
        hold.grant()
        await setup.until(LinkState.WAITING)
        await setup.meet()
        assert hold.taken == 0

    async def run() -> None:
        hold, setup = FakeHold(), LinkSetup(ACCEPT, OPEN)
        setup.sides[RM] = Broadcast("the device", ACCEPT)
        setup.make(hold)
        async with running(setup):
            await scene(setup, hold)

    run_virtual(run())


def test_a_link_is_left_with_a_word_to_both_peers_and_given_up() -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        await setup.meet()
        setup.link.begin_none("this instance is about to end")
        await asyncio.sleep(10)
        assert setup.state is LinkState.UP, "what is up stays for now"
        ends = [asyncio.create_task(farewell(setup.peer(role))) for role in Role]
        setup.link.leave()
        assert all("SessionRequest" in types for types in await asyncio.gather(*ends))
        await setup.until(LinkState.ELSEWHERE)
        assert hold.let_go_times == 1
        assert await setup.link.request_session(RM, "v1.0.0") == NOT_NOW
        assert not setup.link.is_used

    play(scene, ACCEPT, OPEN)


def test_a_link_that_another_instance_is_to_have_is_left_with_a_word_let_go_and_may_come_back() -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        hold.grant()
        await setup.until(LinkState.UP)
        ends = [asyncio.create_task(farewell(setup.peer(role))) for role in Role]
        await setup.link.give_up("another instance has too few links")
        assert all("SessionRequest" in types for types in await asyncio.gather(*ends))
        assert (hold.let_go_times, hold.is_held, setup.link.is_used) == (1, False, False)
        await asyncio.sleep(60)
        assert (setup.state, setup.standing()) == (LinkState.ELSEWHERE, set())
        hold.grant()
        await setup.until(LinkState.UP)

    play(scene, OPEN, OPEN)


def test_a_link_that_is_just_being_connected_is_let_go_all_the_same() -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        hold.grant()
        await setup.until(LinkState.REACHING, LinkState.UP)
        await asyncio.wait_for(setup.link.give_up("another instance has too few links"), 10)
        assert (hold.is_held, setup.standing()) == (False, set())

    play(scene, OPEN, OPEN)


def test_a_link_that_is_given_up_at_the_moment_of_its_next_attempt_is_let_go_all_the_same() -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        loop = asyncio.get_running_loop()
        setup.sides[RM].refuse = NOBODY
        hold.grant()
        await setup.until(LinkState.FAILED)
        setup.sides[RM].refuse = None
        retry_in = setup.link.status().retry_in
        assert retry_in is not None
        turn: asyncio.Future[None] = loop.create_future()

        async def give_up() -> None:
            await turn
            await setup.link.give_up("another instance has too few links")

        # In the same turn of the loop as the timer of the link, whose task goes on after that of the test.
        loop.call_at(loop.time() + retry_in - 1e-10, turn.set_result, None)
        async with asyncio.timeout(retry_in + 10):
            await give_up()
        assert (hold.is_held, setup.standing()) == (False, set())

    play(scene, OPEN, OPEN)


def test_a_link_that_has_ended_with_its_route_is_not_waited_for() -> None:
    """Its hold is closed once all links of the route have ended, which takes some seconds."""

    async def run() -> None:
        hold = FakeHold()
        async with running(LinkSetup(OPEN, OPEN, hold=hold)) as setup:
            hold.grant()
            await setup.until(LinkState.UP)
        assert setup.state is LinkState.STOPPED
        async with asyncio.timeout(1):
            await setup.link.give_up("another instance has too few links")

    run_virtual(run())


def test_a_link_of_an_instance_that_is_about_to_end_begins_no_session_again() -> None:
    async def scene(setup: LinkSetup, hold: FakeHold) -> None:
        hold.grant()
        await setup.until(LinkState.UP)
        given = asyncio.create_task(setup.link.give_up("another instance has too few links"))
        await asyncio.sleep(0)
        setup.link.begin_none("this instance is about to end")
        await asyncio.gather(given, *(farewell(setup.peer(role)) for role in Role))
        await setup.link.give_up("another instance has too few links")
        hold.grant()
        await asyncio.sleep(60)
        assert (setup.state, setup.standing()) == (LinkState.ELSEWHERE, set())

    play(scene, OPEN, OPEN)
