"""Growth curves: the message path by what the history holds, and the store by how many pairings it holds."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from benchmarks.budgets import growth_figure
from benchmarks.harness import Effort, Task, Worker, answer_questions, my_task
from benchmarks.samples import DETAILS, FILL_LEVEL, READ, SELECTION, SMALL, instruction
from benchmarks.table import Row
from s2connect.messages.catalogue import V1
from s2connect.messages.conversation import Conversation
from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from s2connect.store.base import Pairing, PairKey, Vault, token_digest
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import FileVault, open_vault

HISTORY: Final = (1, 100, 10_000)
PAIRINGS: Final = (10, 1_000, 100_000)
NOON: Final = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
LATER: Final = "2026-01-01T13:00:00Z"
BATCH: Final = 20
"""Messages that are timed together."""


class Point(NamedTuple):
    """A point of a curve: the best time of an operation at a size.

    Attributes:
        subject: What grows: ``message path`` or ``store``.
        operation: What is timed; the points of a subject and an operation are a curve.
        size: Things in the history, or pairings in the store.
        seconds: Time of one operation.
        may_grow: True where the time may grow with the size, as that of reading all pairings.
    """

    subject: str
    operation: str
    size: int
    seconds: float
    may_grow: bool = False


def rows(*, quick: bool = False) -> list[Point]:
    """Measure both growth curves and return their points, all sizes of an operation one after the other.

    All sizes are measured in turns on random pairings, and each point is the best of its rounds. An operation is flat
    if its points are within 1.2 of each other. Takes about a minute, half of it with ``quick``, and 60 MB of the disk.
    """
    return [*_message_path(6 if quick else 20), *asyncio.run(_store(100 if quick else 300))]


CURVES: list[dict[str, Any]] = []
"""Points of the last measurement, for a plot."""


def measure(effort: Effort) -> Iterator[Row]:
    """The rows of this theme: of each curve that is to be flat the highest point beside the first."""
    with Worker.ours("growth", "points", quick=effort.kind != "whole") as worker:
        points = [Point(**point) for point in worker.ready["points"]]
    CURVES[:] = [point._asdict() for point in points]
    for subject, sizes in (("message path", HISTORY), ("store", PAIRINGS)):
        grown: list[tuple[float, str]] = []
        for operation in dict.fromkeys(point.operation for point in points if point.subject == subject):
            first, *others = (point for point in points if (point.subject, point.operation) == (subject, operation))
            what, last = f"{subject}, {others[-1].size:,}: {operation}", others[-1].seconds * 1e6
            yield Row(what, "µs", last, f"with {first.size:,}", first.seconds * 1e6)
            if not first.may_grow:
                grown.append((max(point.seconds for point in others) / first.seconds, operation))
        yield Row(growth_figure(subject, sizes), "times", max(grown)[0])


class _Best:
    """Best time by operation and size."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, int], float] = defaultdict(lambda: float("inf"))

    def add(self, operation: str, size: int, seconds: float) -> None:
        key = operation, size
        self.seconds[key] = min(self.seconds[key], seconds)

    def points(self, subject: str, may_grow: frozenset[str] = frozenset()) -> list[Point]:
        """Return the points in the order in which their operations were added first, by size."""
        operations = list(dict.fromkeys(operation for operation, _ in self.seconds))
        ordered = sorted(self.seconds.items(), key=lambda item: (operations.index(item[0][0]), item[0][1]))
        return [Point(subject, name, size, took, name in may_grow) for (name, size), took in ordered]


# The message path


def _text(message: dict[str, Any]) -> str:
    return json.dumps({**message, "message_id": str(uuid4())}, separators=(",", ":"))


def _update(instruction: str) -> dict[str, Any]:
    return {
        "message_type": "InstructionStatusUpdate",
        "instruction_id": instruction,
        "status_type": "ACCEPTED",
        "timestamp": "2026-01-01T12:30:00Z",
    }


def _take(conversation: Conversation, sender: Role, text: str) -> None:
    """Read, validate and accept a message, as a session does."""
    message = conversation.read(text)
    result = conversation.validate(sender, message, now=NOON)
    assert result.ok, result.label
    conversation.accepted(sender, message, now=NOON)


def _conversation(size: int) -> tuple[Conversation, list[str]]:
    """Return a conversation that has begun, with so many further things in its history, and ids of instructions."""
    conversation, instructions = Conversation(V1), []
    for sender, begin in ((Role.RM, DETAILS), (Role.CEM, SELECTION), (Role.RM, READ["medium"])):
        _take(conversation, sender, _text(begin))
    for number in range(size):
        if number % 2 == 0:
            instructions.append(str(uuid4()))
            _take(conversation, Role.CEM, _text(instruction(instructions[-1], LATER)))
        else:
            _take(conversation, Role.RM, _text(_update(instructions[-1])))
    return conversation, instructions


def _message_path(rounds: int) -> list[Point]:
    best = _Best()
    for _ in range(rounds):
        for size in HISTORY:
            conversation, instructions = _conversation(size)
            kinds: dict[str, tuple[Role, list[str]]] = {
                "measurement, 332 B": (Role.RM, [_text(SMALL) for _ in range(BATCH)]),
                "fill level": (Role.RM, [_text(FILL_LEVEL) for _ in range(BATCH)]),
                "system description, 2.8 KB": (Role.RM, [_text(READ["medium"]) for _ in range(BATCH)]),
                "instruction": (Role.CEM, [_text(instruction(str(uuid4()), LATER)) for _ in range(BATCH)]),
                "status of an instruction": (Role.RM, [_text(_update(instructions[-1])) for _ in range(BATCH)]),
            }
            for name, (sender, texts) in kinds.items():
                began = time.perf_counter()
                for text in texts:
                    _take(conversation, sender, text)
                best.add(name, size, (time.perf_counter() - began) / BATCH)
    return best.points("message path")


# The store

LOCAL: Final = NodeId(UUID(int=1 << 127))


def new_pairing(role: CommunicationRole = CommunicationRole.SERVER, peer: NodeId | None = None) -> Pairing:
    """Return a pairing with a peer of its own."""
    remote = peer or NodeId(uuid4())
    node = NodeDescription(id=remote, brand="Brand", type="Heat pump", model_name="Model 7", role=Role.RM)
    url = BaseUrl("https://ems.local:8443/session/") if role is CommunicationRole.CLIENT else None
    endpoint = EndpointDescription(name="ems.local", deployment=Deployment.LAN)
    return Pairing(PairKey(LOCAL, remote), role, node, endpoint, url)


def _token() -> AccessToken:
    return AccessToken.from_bytes(secrets.token_bytes(32))


async def fill(database: Path, vault: Vault, local: NodeId, count: int) -> None:
    """Fill a store that is closed with pairings of a node as communication server.

    The first is saved by the store, and the others are copies of its row, because each would take a commit.
    """
    first = replace(new_pairing(), key=PairKey(local, NodeId(uuid4())))
    first = replace(first, peer=first.peer.model_copy(update={"id": first.key.remote}))
    store = await SqliteStore.open(database, vault)
    await store.save_pairing(first, _token())
    await store.close()
    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    row = dict(connection.execute("SELECT * FROM pairing").fetchone())
    del row["sequence"]

    def copies() -> Iterator[dict[str, Any]]:
        for _ in range(count - 1):
            peer = uuid4()
            text = row["peer"].replace(str(first.key.remote).encode(), str(peer).encode())
            yield row | {"remote": peer.bytes, "peer": text, "active_digest": secrets.token_bytes(32)}

    with connection:
        places = f"({', '.join(row)}) VALUES (:{', :'.join(row)})"
        connection.executemany(f"INSERT INTO pairing {places}", copies())
    connection.close()


def _operations(store: SqliteStore, server: Pairing, client: Pairing) -> dict[str, Callable[[], Awaitable[object]]]:
    made = new_pairing()
    changed = server.peer.model_copy(update={"user_defined_name": str(uuid4())})
    return {
        "pairings of a pair": lambda: store.pairings_of(server.key),
        "session initiation, server: read the record": lambda: store.record(server.key),
        "session initiation, server: activate a token": lambda: store.activate_token(
            server, token_digest(_token()), time.time()
        ),
        "session initiation, server: update the description": lambda: store.update_descriptions(
            server.key, node=changed, endpoint=None
        ),
        "session initiation, client: read the tokens": lambda: store.candidate_tokens(client),
        "session initiation, client: add a token": lambda: store.add_pending_token(client, _token()),
        "session initiation, client: keep a token": lambda: store.keep_token(client, _token()),
        "insert a pairing": lambda: store.save_pairing(made, _token()),
        "remove a pairing": lambda: store.remove_pairing(made, tombstone=True),
    }


async def _store(rounds: int) -> list[Point]:
    best = _Best()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s2connect-growth-")))
        stores: dict[int, tuple[SqliteStore, list[Pairing], Pairing]] = {}
        for size in PAIRINGS:
            database, vault = directory / str(size), FileVault(directory / f"{size}.vault")
            await fill(database, vault, LOCAL, size)
            for _ in range(3):
                began = time.perf_counter()
                store = await SqliteStore.open(database, vault)
                best.add("open", size, time.perf_counter() - began)
                began = time.perf_counter()
                pairings = await store.pairings()
                best.add("read all pairings", size, time.perf_counter() - began)
                await store.close()
            store = await SqliteStore.open(database, vault)
            stack.push_async_callback(store.close)
            client = new_pairing(CommunicationRole.CLIENT)
            await store.save_pairing(client, _token())
            stores[size] = store, pairings, client
        for _ in range(rounds):
            for size, (store, pairings, client) in stores.items():
                steps = _operations(store, random.choice(pairings), client)
                for name, step in steps.items():
                    began = time.perf_counter()
                    await step()
                    best.add(name, size, time.perf_counter() - began)
    return best.points("store", frozenset({"open", "read all pairings"}))


async def main() -> None:
    """Return the points, or fill the home of an energy manager, in a process of its own."""
    task = my_task()
    if task["kind"] == "points":
        found = await asyncio.to_thread(rows, quick=task["quick"])
        await answer_questions({"points": [point._asdict() for point in found]}, _nothing)
    else:
        from benchmarks.endpoint_worker import make_home, managers
        from s2connect.store.restoring import DATABASE, SECRETS

        home, nodes = Path(task["home"]), managers(1)
        await asyncio.to_thread(make_home, home, nodes)
        await fill(home / DATABASE, open_vault("files", home / SECRETS)[0], nodes[0].id, task["count"])
        await answer_questions({}, _nothing)


async def _nothing(_: Task) -> Task:
    return {}


if __name__ == "__main__":
    asyncio.run(main())
