"""HTTPS around the pairing server's core."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from aiohttp import web

from s2connect.errors import StorageError
from s2connect.https.server import Handler, HttpsServer, answer, bearer, bearer_proved, read_body
from s2connect.model.log_limiter import LogLimiter
from s2connect.model.pairing import PairingErrorReason
from s2connect.model.reply import BUSY, UNAUTHORIZED, Reply
from s2connect.model.secret import TOKEN_ENTROPY, PairingAttemptId
from s2connect.pairing.driver import Driver
from s2connect.pairing.interface import DurablePairings, OtherWayRound, PairingServerEvent
from s2connect.pairing.refusals import refusal
from s2connect.pairing.server_core import ANSWER_ENTROPY, ATTEMPT_LIFETIME, Asked, Commit, PairingServer, Queued
from s2connect.pairing.shared import SharedPairing
from s2connect.supervisor import Supervisor

_log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between checks whether the client of a queued request is still connected; otherwise it leaves the queue."""


class PairingService:
    """The pairing API of one endpoint."""

    def __init__(
        self,
        shared: SharedPairing,
        pairings: DurablePairings,
        supervisor: Supervisor,
        *,
        binding: Callable[[web.Request], bytes],
        ready: Callable[[], bool],
        on_failed: Callable[[PairingServerEvent], None],
        wall_time: Callable[[], float] = time.time,
    ) -> None:
        """Serve the attempts of ``shared``; ``binding`` gives F or D of HMAC-02 for the connection of a request.

        ``on_failed`` is called with attempts that ended without a pairing, and with attacks. ``wall_time`` gives the
        seconds since the epoch.
        """
        self._shared = shared
        self._core = core = shared.core
        self._pairings = pairings
        self._supervisor = supervisor
        self._binding = binding
        self._wall_time = wall_time
        self._ready = ready
        self._driver = Driver(core, on_failed, lambda now: core.expire(now=now))
        self._closing = asyncio.Event()
        self._failures = LogLimiter()
        # Repeats of one request must meet its result, and two pairings of one node must not finish at once (ROLE-05).
        self._locks: WeakValueDictionary[PairingAttemptId, asyncio.Lock] = WeakValueDictionary()

    def mount(self, server: HttpsServer, base_path: str) -> None:
        """Add the routes under a base path that ends with a slash (VER-03)."""
        server.add_index(base_path)
        server.add_operation(base_path, "requestPairing", self._request_pairing)
        server.add_operation(base_path, "requestConnectionDetails", self._of_attempt(self._request_connection_details))
        server.add_operation(base_path, "postConnectionDetails", self._of_attempt(self._post_connection_details))
        server.add_operation(base_path, "finalizePairing", self._of_attempt(self._finalize_pairing))

    def close(self) -> None:
        """Stop the expiry of attempts, and release queued requests."""
        self._closing.set()
        self._driver.close()

    async def _request_pairing(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        asked = self._core.check(
            body, binding=self._binding(request), address=request.remote or "", ready=self._ready(), now=_now()
        )
        if isinstance(asked, Reply):
            return self._finish(asked)
        return self._finish(await self._unless_storage_fails(self._in_turn(asked, request)))

    async def _in_turn(self, asked: Asked, request: web.Request) -> Reply:
        """Answer a checked request in its turn."""
        queued = await self._shared.queue(asked)
        if isinstance(queued, Reply):
            return queued
        try:
            refused = await self._turn(queued, request)
        except BaseException:
            self._shared.abandon(queued)
            raise
        if refused is not None:
            self._shared.abandon(queued)
            return refused
        async with self._shared.begin(queued) as (core, now):
            decision = core.answer(queued, now=now, entropy=os.urandom(ANSWER_ENTROPY))
            if isinstance(decision, Reply):
                return decision
            free = await core.proofs.claim(decision.sent, decision.expected, now=now, lifetime=ATTEMPT_LIFETIME)
            return core.claimed(decision, free=free, now=now)

    async def _turn(self, queued: Queued, request: web.Request) -> Reply | None:
        """Wait for the turn of a request. Returns a refusal if it gets none."""
        while not self._closing.is_set() and self._ready() and request.transport is not None:
            pause = await self._shared.wait(queued)
            if pause is None or isinstance(pause, Reply):
                return pause
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause, LOOK_EVERY)):
                    await self._closing.wait()
        return refusal(PairingErrorReason.OTHER, "This endpoint is stopping.")

    def _of_attempt(self, handle: Callable[[PairingAttemptId, bytes], Awaitable[Reply]]) -> Handler:
        """Return the handler of a later request."""

        async def served(request: web.Request) -> web.Response:
            body = await read_body(request)
            attempt_id = bearer(request, PairingAttemptId)
            reply = UNAUTHORIZED
            if attempt_id is not None:
                reply = await self._unless_storage_fails(handle(attempt_id, body))
            if reply.status < 300:  # so its attempt id was right
                bearer_proved()
            return self._finish(reply)

        return served

    async def _request_connection_details(self, attempt_id: PairingAttemptId, body: bytes) -> Reply:
        async with self._shared.attempt(attempt_id) as (core, now):
            return core.request_connection_details(attempt_id, body, now=now, entropy=os.urandom(TOKEN_ENTROPY))

    async def _post_connection_details(self, attempt_id: PairingAttemptId, body: bytes) -> Reply:
        async with self._shared.attempt(attempt_id) as (core, now):
            return core.post_connection_details(attempt_id, body, now=now)

    async def _finalize_pairing(self, attempt_id: PairingAttemptId, body: bytes) -> Reply:
        # Completed even if the client disconnects: its repeated request gets the result (PAIR-07).
        return await asyncio.shield(self._supervisor.spawn(self._finalize(attempt_id, body), "commit"))

    async def _finalize(self, attempt_id: PairingAttemptId, body: bytes) -> Reply:
        lock = self._locks.setdefault(attempt_id, asyncio.Lock())
        # The time is that of the arrival: the lock may take longer than the attempt has left.
        async with self._shared.attempt(attempt_id) as (core, now), lock:
            decision = core.finalize(attempt_id, body, now=now, wall_time=self._wall_time())
            return await self._commit(core, decision) if isinstance(decision, Commit) else decision

    async def _commit(self, core: PairingServer, commit: Commit) -> Reply:
        try:
            await self._pairings.commit(commit.pairing, commit.token)
        except OtherWayRound:
            return core.not_now(commit.attempt_id)
        except StorageError as error:
            _log.error("a pairing could not be stored: %s", error)  # the reason is enough for a full disk
            return core.commit_failed(commit.attempt_id)
        except BaseException:
            core.commit_failed(commit.attempt_id)
            raise
        return core.committed(commit.attempt_id)

    async def _unless_storage_fails(self, work: Awaitable[Reply]) -> Reply:
        try:
            return await work
        except StorageError as error:
            if (more := self._failures.due("storage", _now())) is not None:
                _log.error("a pairing request could not be answered: %s%s", error, more)
            return BUSY

    def _finish(self, reply: Reply) -> web.Response:
        self._driver.after()
        return answer(reply.status, reply.body)


def _now() -> float:
    return asyncio.get_running_loop().time()
