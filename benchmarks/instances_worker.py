"""Processes of several instances: an instance in the WAN on PostgreSQL or SQLite, and endpoints of devices."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from benchmarks.endpoint_worker import (
    CODE,
    KINDS,
    Answer,
    client_pairing,
    devices,
    main,
    managers,
    server_pairing,
    take_sessions,
    token,
)
from benchmarks.harness import Task, cpu_seconds, memory, percentile
from benchmarks.pace import as_fast_as_possible
from benchmarks.samples import SMALL
from s2connect.endpoint.config import EndpointConfig, NodeConfig
from s2connect.endpoint.endpoint import Endpoint
from s2connect.endpoint.offline import create_home
from s2connect.model.common import Deployment
from s2connect.session.session import Session
from s2connect.store.base import Pairing
from s2connect.store.restoring import DATABASE, SECRETS
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import open_vault

HOST: Final = "localhost"

TRIPS: Final = Counter[str]()
"""Round trips to PostgreSQL of this process, by their statement, or as several that go together."""


def settings(directory: Path, nodes: list[NodeConfig], **more: Any) -> EndpointConfig:
    """Settings of an endpoint in the WAN with the certificate of :func:`benchmarks.harness.workspace`."""
    return EndpointConfig(
        deployment=Deployment.WAN,
        host=HOST,
        certificate=directory / "chain.pem",
        private_key=directory / "key.pem",
        trust_anchors=directory / "ca.pem",
        allow_private_addresses=True,
        vault="files",
        nodes=tuple(nodes),
        **more,
    )


def count_round_trips() -> None:
    """Count what goes to PostgreSQL and is waited for, in :data:`TRIPS`."""
    from psycopg.pq import PipelineStatus

    from s2connect.store.postgresql.pool import Connection

    execute, pipeline = Connection.execute, Connection.pipeline

    def counted(self: Any, query: Any, *arguments: Any, **more: Any) -> Any:
        if self.pgconn.pipeline_status == PipelineStatus.OFF:
            TRIPS[query.decode() if isinstance(query, bytes) else str(query)] += 1
        return execute(self, query, *arguments, **more)

    def together(self: Any) -> Any:
        TRIPS["several statements"] += 1
        return pipeline(self)

    Connection.execute = counted  # type: ignore[method-assign]
    Connection.pipeline = together  # type: ignore[method-assign]


async def seed(task: Task, pairings: Iterator[Pairing]) -> None:
    """Write pairings into the store of a task: a database, or a home."""
    if task.get("store"):
        from s2connect.store.postgresql.sealing import read_keys
        from s2connect.store.postgresql.store import PostgresqlStore

        store = await PostgresqlStore.open(task["store"], read_keys(None))
        async with store.database.transaction():
            for number, pairing in enumerate(pairings, task.get("first", 0)):
                await store.save_pairing(pairing, token(number))
        await store.close()
        return
    vault, _ = await asyncio.to_thread(open_vault, "files", Path(task["home"]) / SECRETS)
    files = await SqliteStore.open(Path(task["home"]) / DATABASE, vault)
    for number, pairing in enumerate(pairings, task.get("first", 0)):
        await files.save_pairing(pairing, token(number))
    await files.close()


async def instance(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """An instance of a cloud with ``nodes`` energy managers, whose first one is paired with ``paired`` devices."""
    directory, home, store = Path(task["directory"]), Path(task["home"]), task.get("store")
    more = {"store": store, "instance": task["name"]} if store else {}
    config = settings(directory, managers(task["nodes"]), port=task["port"], bind=task["address"], **more)
    create_home(home, config)
    if store:
        count_round_trips()
    await seed(task, (server_pairing(number) for number in range(task["paired"])))
    endpoint = await stack.enter_async_context(Endpoint.open(home))
    if task["nodes"] > 1:
        for node in endpoint.nodes.values():
            await node.set_static_code(CODE)
    for node in endpoint.nodes.values():
        taking = asyncio.create_task(take_sessions(node), name="benchmark-sessions")
        stack.callback(taking.cancel)

    async def answer(question: Task) -> Task:
        if (count := question.get("until_connected")) is not None:
            until = time.monotonic() + question["seconds"]
            while len(endpoint.connected()) < count and time.monotonic() < until:
                await asyncio.sleep(0.02)
        files = len(os.listdir("/proc/self/fd"))
        seen: Task = {"connected": len(endpoint.connected()), "cpu": cpu_seconds([os.getpid()]), "trips": TRIPS.total()}
        if question.get("statements"):
            seen["statements"] = dict(TRIPS)
        return seen | {"files": files} | ({"bytes": memory()} if question.get("memory") else {})

    urls = {"pairing_url": str(endpoint.pairing_url), "session_url": str(endpoint.session_url)}
    return {**urls, "ca": str(directory / "ca.pem")}, answer


async def _open_devices(task: Task, stack: AsyncExitStack, *, paired: bool) -> Endpoint:
    directory, first, count = Path(task["directory"]), task["first"], task["count"]
    create_home(Path(task["home"]), settings(directory, devices(first, count)))
    if paired:
        server = task["server"]
        made = (
            client_pairing(number, server["session_url"], Path(server["ca"])) for number in range(first, first + count)
        )
        await seed({"home": task["home"], "first": first}, made)
    opened = Endpoint.open(Path(task["home"]), serve=False, addresses={HOST: task["address"]})
    return await stack.enter_async_context(opened)


async def hold(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """Devices with sessions at one instance, which send as fast as that answers."""
    endpoint = await _open_devices(task, stack, paired=True)
    sessions: list[Session] = []

    async def measured(session: Session) -> None:
        await session.send(SMALL)

    async def answer(question: Task) -> Task:
        return await as_fast_as_possible([partial(measured, session) for session in sessions], question)

    for node in endpoint.nodes.values():
        taking = asyncio.create_task(take_sessions(node, sessions.append), name="benchmark-sessions")
        stack.callback(taking.cancel)
    while len(endpoint.connected()) < task["count"]:
        await asyncio.sleep(0.05)
    return {}, answer


async def pair(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """Devices that pair at one instance, each with a node of its own, over and over again."""
    endpoint = await _open_devices(task, stack, paired=False)
    nodes = list(endpoint.nodes.values())

    async def answer(question: Task) -> Task:
        began = time.perf_counter()
        until, finished = began + question["seconds"], 0

        async def go_on(number: int) -> None:
            nonlocal finished
            await asyncio.sleep(number / len(nodes))  # a start of its own for each
            while time.perf_counter() < until:
                await nodes[number].pair(task["server"]["pairing_url"], f"C{task['first'] + number}-{CODE}")
                finished += 1

        await asyncio.gather(*(go_on(number) for number in range(len(nodes))))
        return {"count": finished, "rate": finished / (time.perf_counter() - began)}

    return {}, answer


async def update(task: Task, stack: AsyncExitStack) -> tuple[Task, Answer]:
    """Activate tokens in a store, as ``confirmAccessToken`` does: one durable UPDATE each."""
    count = task["count"]
    create_home(Path(task["home"]), settings(Path(task["directory"]), managers(1)))
    store: Any
    if task.get("store"):
        from s2connect.store.postgresql.sealing import read_keys
        from s2connect.store.postgresql.store import PostgresqlStore

        store = await PostgresqlStore.open(task["store"], read_keys(None))
    else:
        await seed(task, (server_pairing(number) for number in range(count)))
        vault, _ = await asyncio.to_thread(open_vault, "files", Path(task["home"]) / SECRETS)
        store = await SqliteStore.open(Path(task["home"]) / DATABASE, vault)
    stack.push_async_callback(store.close)
    pairings = (await store.pairings())[:count]

    async def answer(question: Task) -> Task:
        turns, spans = cycle(pairings), list[float]()
        until = time.perf_counter() + question["seconds"]

        async def go_on() -> None:
            while (began := time.perf_counter()) < until:
                assert await store.activate_token(next(turns), os.urandom(32), time.time())
                spans.append(time.perf_counter() - began)

        await asyncio.gather(*(go_on() for _ in range(question["at_a_time"])))
        return {"rate": len(spans) / question["seconds"], "p50": percentile(spans, 0.5)}

    return {}, answer


MINE = {**KINDS, "instance": instance, "hold": hold, "pair": pair, "update": update}


if __name__ == "__main__":
    main(MINE)
