"""Lines in and out."""

from __future__ import annotations

import asyncio
import os

from hypothesis import given
from hypothesis import strategies as st

from s2connect.service.lines import MAX_WAITING_BYTES, LineSplitter, LineWriter, chunks_of, converse
from s2connect.supervisor import process_failures
from tests.waits import until_still, within


@given(st.lists(st.binary(max_size=12)), st.lists(st.integers(0, 40)))
def test_lines_come_whole_however_they_are_cut(lines: list[bytes], cuts: list[int]) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    stream = b"".join(line + b"\n" for line in lines)
    splitter = LineSplitter(limit=8)
    got: list[bytes | None] = []
    while stream:
        size = cuts.pop() if cuts else len(stream)
        got += splitter.feed(stream[:size])
        stream = stream[size:]
    assert got == [line if len(line) <= 8 else None for line in lines]
    assert splitter.end() == []


def test_the_last_line_needs_no_end() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"a\nb") == [b"a"]
    assert splitter.end() == [b"b"]
    assert splitter.end() == []


async def test_lines_are_handled_at_the_same_time_and_begun_in_order() -> None:
    begun: list[bytes | None] = []
    done: list[bytes | None] = []
    release = asyncio.Event()

    async def handle(line: bytes | None) -> None:
        begun.append(line)
        if line == b"slow":
            await release.wait()
        done.append(line)
        if len(done) == 2:
            release.set()

    reading, writing = os.pipe()
    os.write(writing, b"slow\none\n\ntwo")
    os.close(writing)
    await converse(chunks_of(reading), handle, name="t", grace=5)
    os.close(reading)
    assert begun == [b"slow", b"one", b"two"]
    assert done == [b"one", b"two", b"slow"]


async def test_an_error_with_one_line_costs_no_other() -> None:
    done: list[bytes | None] = []

    async def handle(line: bytes | None) -> None:
        if line == b"bad":
            raise RuntimeError("of this test")
        done.append(line)

    reading, writing = os.pipe()
    os.write(writing, b"one\nbad\ntwo\n")
    os.close(writing)
    before = process_failures.counts["command"]
    await converse(chunks_of(reading), handle, name="t", grace=5)
    os.close(reading)
    assert done == [b"one", b"two"]
    assert process_failures.counts["command"] == before + 1


async def test_a_closed_descriptor_is_the_end_of_input() -> None:
    assert [chunk async for chunk in chunks_of(-1)] == []


async def test_who_writes_waits_for_a_slow_reader() -> None:
    reading, writing = os.pipe()
    line = b"x" * (MAX_WAITING_BYTES // 4)
    async with LineWriter(writing, lambda: None) as writer:
        written = 0

        async def write() -> None:
            nonlocal written
            while True:
                await writer.put(line)
                written += 1

        filling = asyncio.create_task(write())
        await until_still(lambda: written)
        assert 4 <= written <= 6
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
        put = asyncio.create_task(writer.put(b"last"))
        got = bytearray()
        while len(got) < written * len(line + b"\n") + len(b"last\n"):
            got += await asyncio.to_thread(os.read, reading, 1_000_000)
        await put
        assert got.endswith(b"x\nlast\n")
    os.close(writing)
    os.close(reading)


async def test_a_reader_that_goes_away_is_noticed_once() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    broken = asyncio.Event()
    async with LineWriter(writing, broken.set) as writer:
        await writer.put(b"x")
        async with within(5):
            await broken.wait()
        await writer.put(b"y" * 10_000_000)
        await writer.put(b"z")
    os.close(writing)
