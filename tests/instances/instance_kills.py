"""Instances that are killed at each commit of a pairing and a session: before it, or once it is done.

A device pairs, begins a session and comes with its connection, all at one instance, which is killed. It repeats its
last request at another one, and goes on there with what it was told. Prints a line for each: the commit, whether it was
done, how many answers the device had, and what was wrong then. Argument: the URL of a database, which is emptied before
each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import PipelineStatus, TransactionStatus

from s2connect.pairing import server_core as pairing_core
from s2connect.pairing.code import PairingToken
from s2connect.session import server_core as session_core
from s2connect.session.ownership import Claim, Standing, standing
from s2connect.shared.clock import DatabaseClock
from s2connect.shared.ownership import PostgresqlOwners
from s2connect.store.postgresql import database, transaction
from s2connect.store.postgresql.store import PostgresqlStore
from s2connect.store.postgresql.transaction import BEGIN, COMMIT
from tests.instances.instances import NODES, TOKEN, Instance, b64, instances, pairing_request, proof_of, session_request
from tests.killed import killed_at_each_step

EMPTIED = (
    *("pairing", "tombstone", "link", "pairing_node", "pairing_turn", "pairing_source", "pairing_attempt"),
    *("pairing_proof", "pending_token", "offer"),
)
CHALLENGE = b64(bytes(range(32)))


class Device:
    """Device that pairs, and begins a session, by the answers that it was given.

    Args:
        told: The answers.
        on_answer: Called with each further one.

    Attributes:
        claim: Claim of the instance to the session, once the device has connected.
    """

    def __init__(self, told: list[Any], on_answer: Callable[[Any], object]) -> None:
        self.told = told
        self.claim: Claim | None = None
        self._on_answer = on_answer

    async def go_on(self, instance: Instance) -> None:
        """Do what is left of a pairing and a session, at one instance. Raises AssertionError where it cannot."""
        for step in (self._begin, self._exchange, self._finalize, self._initiate, self._confirm, self._come)[
            len(self.told) :
        ]:
            answer = await step(instance)
            self.told.append(answer)
            self._on_answer(answer)

    async def _ask(self, instance: Instance, path: str, body: bytes = b"", bearer: str | None = None) -> Any:
        answered = await instance.ask(path, body, bearer)
        assert answered.status in (200, 204), f"{path}: {answered}"
        return answered.body

    async def _begin(self, instance: Instance) -> Any:
        return await self._ask(instance, "pairing/requestPairing", pairing_request(1, CHALLENGE))

    async def _exchange(self, instance: Instance) -> Any:
        proof = json.dumps({"serverHmacChallengeResponse": proof_of(self.told[0]["serverHmacChallenge"])}).encode()
        return await self._ask(instance, "pairing/requestConnectionDetails", proof, self.told[0]["pairingAttemptId"])

    async def _finalize(self, instance: Instance) -> Any:
        attempt = self.told[0]["pairingAttemptId"]
        return await self._ask(instance, "pairing/finalizePairing", b'{"success": true}', attempt)

    async def _initiate(self, instance: Instance) -> Any:
        return await self._ask(instance, "session/initiateSession", session_request(1), self.told[1]["accessToken"])

    async def _confirm(self, instance: Instance) -> Any:
        return await self._ask(instance, "session/confirmAccessToken", b"", self.told[3]["accessToken"])

    async def _come(self, instance: Instance) -> Any:
        assert instance.pairings.offers is not None
        taken = await instance.pairings.offers.take(self.told[4]["websocketToken"])
        assert taken is not None, "the connection is not taken"
        assert taken.claim is not None
        self.claim = taken.claim
        return taken.info.s2_version

    async def begin_session_anew(self, instance: Instance) -> None:
        """Begin another session with one of the tokens that it has, the oldest first, and connect."""
        tokens = [self.told[1]["accessToken"], *(told["accessToken"] for told in self.told[3:4])]
        answers = [await instance.ask("session/initiateSession", session_request(1), token) for token in tokens]
        (accepted,) = [one for one in answers if one.status == 200]
        confirmed = await self._ask(instance, "session/confirmAccessToken", b"", accepted.body["accessToken"])
        self.told[4:] = [confirmed]
        await self._come(instance)


def commits(connection: AsyncConnection[Any], statements: Sequence[str]) -> bool:
    """Return whether statements commit: COMMIT itself, or writes outside of a transaction.

    To wait for a turn is none: how often that is done depends on time.
    """
    is_outside = connection.info.transaction_status is TransactionStatus.IDLE and BEGIN not in statements
    reads = ("SELECT", "UPDATE pairing_turn SET seen")
    writes = any(not statement.lstrip().startswith(reads) for statement in statements)
    return COMMIT in statements or (is_outside and writes)


async def live(url: str, kill_at: int, after: bool, told: int) -> None:
    """Serve a device; the commit number ``kill_at`` is the last of this process."""
    async with instances(url) as (one,):
        count, execute, together = 0, AsyncConnection.execute, transaction.together

        @contextlib.contextmanager
        def dying(connection: Any, statements: Sequence[str]) -> Iterator[None]:
            nonlocal count
            count += commits(connection, statements)
            dies = count == kill_at and commits(connection, statements)
            if dies and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)

        async def one_by_one(connection: Any, statement: str | bytes, *arguments: Any, **more: Any) -> Any:
            if connection.pgconn.pipeline_status != PipelineStatus.OFF:  # the answer comes later: see below
                return await execute(connection, statement, *arguments, **more)
            with dying(connection, [statement if isinstance(statement, str) else statement.decode()]):
                return await execute(connection, statement, *arguments, **more)

        async def in_a_pipeline(connection: Any, statements: Sequence[transaction.Statement]) -> Any:
            if len(statements) == 1:
                return await together(connection, statements)
            with dying(connection, [statement for statement, _ in statements]):
                return await together(connection, statements)

        setattr(AsyncConnection, "execute", one_by_one)  # noqa: B010 - with fewer types
        for module in (transaction, database):
            setattr(module, "together", in_a_pipeline)  # noqa: B010
        await Device([], lambda answer: os.write(told, json.dumps(answer).encode() + b"\n")).go_on(one)
        setattr(AsyncConnection, "execute", execute)  # noqa: B010


async def prepare(url: str) -> None:
    """Empty the database, and issue a code."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        for table in EMPTIED:
            await connection.execute(f"DELETE FROM {table}".encode())
    async with instances(url) as (one,):
        await one.pairing.new_code(one.state.local.nodes[NODES[0]], PairingToken(TOKEN), 300.0)


async def go_on(url: str, told: list[Any]) -> str:
    """Go on at another instance; return what was wrong."""
    async with instances(url) as (one,):
        assert isinstance(one.store, PostgresqlStore)
        device = Device(told, lambda _: None)
        try:
            try:
                await device.go_on(one)
            except AssertionError:
                if len(device.told) < 4:  # no session has been begun
                    raise
                await device.begin_session_anew(one)
            (pairing,) = await one.store.pairings()
            if device.claim is not None:
                rows = await PostgresqlOwners(one.store.database, "i0", DatabaseClock()).rows([pairing.key])
                assert standing(device.claim, rows[pairing.key]) is Standing.VALID, "the session has another owner"
            (status,) = (await one.pairing.code_statuses([one.state.local.nodes[NODES[0]]])).values()
            assert not status.code, "the code is not spent"
        except (AssertionError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
    return ""


def main(url: str) -> None:
    pairing_core.ATTEMPT_LIFETIME = session_core.PENDING_LIFETIME = 300.0  # however busy the machine is
    for killed in killed_at_each_step(partial(prepare, url), partial(live, url)):
        told = [json.loads(line) for line in killed.done.splitlines()]
        answers = len(told)
        print(json.dumps([killed.step, killed.after, answers, asyncio.run(go_on(url, told))]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
