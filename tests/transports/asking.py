"""A peer that is asked for a sign of life, over any transport that can ask."""

from __future__ import annotations

from s2connect.errors import ConnectionClosed
from s2connect.transports.base import Connection
from tests.waits import until, within


class Noting:
    """Receiver that notes what comes, and the end."""

    def __init__(self) -> None:
        self.happened: list[str] = []

    def text_received(self, text: str) -> None:
        self.happened.append(text)

    def connection_ended(self, error: ConnectionClosed) -> None:
        self.happened.append("end")


async def check_asking(ours: Connection, theirs: Connection) -> None:
    """Check that the peer answers behind what it has sent, the last question alone, and none after the end."""
    noting, theirs_noting = Noting(), Noting()
    happened = noting.happened
    ours.receive_into(noting)
    theirs.receive_into(theirs_noting)
    async with within(10):
        for number in range(3):
            happened.clear()
            await theirs.send("a")
            assert ours.ask(lambda: happened.append("replaced"))
            await theirs.send("b")
            assert ours.ask(lambda number=number: happened.append(f"answered {number}"))  # type: ignore[misc]
            await until(lambda number=number: f"answered {number}" in happened)  # type: ignore[misc]
            assert happened == ["a", "b", f"answered {number}"]
        happened.clear()
        theirs.pause_reading()  # a peer that does not take what comes is still there
        assert ours.ask(lambda: happened.append("answered"))
        await until(lambda: "answered" in happened)
        theirs.resume_reading()
        await theirs.close()
        await until(lambda: "end" in happened)
        assert ours.ask(lambda: happened.append("never"))
        await ours.close()
    assert happened == ["answered", "end"]
