"""The event loop of services: what many sockets want at once is done in slices."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from functools import partial

import pytest

from s2connect.transports.slices import SLICE, SlicedSelector, in_slices, new_event_loop


def pairs(stack: ExitStack, number: int) -> list[tuple[socket.socket, socket.socket]]:
    made = [socket.socketpair() for _ in range(number)]
    for here, there in made:
        here.setblocking(False)
        stack.enter_context(here)
        stack.enter_context(there)
    return made


def test_many_sockets_that_are_ready_at_once_let_the_loop_turn_in_between() -> None:
    async def work() -> tuple[int, list[int]]:
        loop, handled, turns = asyncio.get_running_loop(), list[int](), 0
        with ExitStack() as stack:
            for number, (here, there) in enumerate(pairs(stack, 200)):

                def arrived(here: socket.socket = here, number: int = number) -> None:
                    loop.remove_reader(here)
                    handled.append(number)

                loop.add_reader(here, arrived)
                there.close()  # all are gone at the same moment
            while len(handled) < 200:
                before = len(handled)
                await asyncio.sleep(0)
                turns += 1
                assert len(handled) - before <= SLICE
        return turns, handled

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        turns, handled = runner.run(work())
    assert turns >= 200 / SLICE
    assert sorted(handled) == list(range(200))


def test_those_that_are_always_ready_starve_nobody() -> None:
    with ExitStack() as stack, SlicedSelector() as selector:
        for here, there in pairs(stack, 3 * SLICE):
            there.send(b"x")  # nobody reads it
            selector.register(here, 1)
        seen = [key.fd for _ in range(6) for key, _ in selector.select(0)]
        assert all(seen.count(fd) == 2 for fd in set(seen))
        assert len(set(seen)) == 3 * SLICE


def test_what_was_unregistered_or_changed_meanwhile_is_not_reported() -> None:
    with ExitStack() as stack, SlicedSelector() as selector:
        made = pairs(stack, SLICE + 2)
        for here, there in made:
            there.send(b"x")
            selector.register(here, 1)
        first = {key.fd for key, _ in selector.select(0)}
        gone, changed = (here for here, _ in made if here.fileno() not in first)
        selector.unregister(gone)
        selector.modify(changed, 2)
        assert selector.select(0) == []
        reported = {key.fd: events for key, events in [*selector.select(0), *selector.select(0)]}
        assert reported[changed.fileno()] == 2
        assert gone.fileno() not in reported


@pytest.mark.parametrize("uvloop", [False, True])
def test_thousands_of_ends_at_once_are_handled_in_slices_and_in_order(uvloop: bool) -> None:
    async def work() -> None:
        loop, done = asyncio.get_running_loop(), list[int]()

        def end(number: int) -> None:
            done.append(number)
            if number == 5:
                raise RuntimeError("one that fails")

        failed: list[object] = []
        loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))
        for number in range(1000):
            in_slices(loop, partial(end, number))
        assert not done
        while len(done) < 1000:
            before = len(done)
            await asyncio.sleep(0)
            assert len(done) - before <= SLICE
        in_slices(loop, partial(end, 1000))
        await asyncio.sleep(0.01)
        assert done == list(range(1001))
        assert [str(error) for error in failed] == ["one that fails"]

    factory = pytest.importorskip("uvloop").new_event_loop if uvloop else new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work())
