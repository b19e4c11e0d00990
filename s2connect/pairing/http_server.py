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
from s2connect.https.server import HttpsServer, answer, bearer, bearer_proved, read_body
from s2connect.model.pairing import PairingErrorReason
from s2connect.model.reply import Reply
from s2connect.model.secret import PairingAttemptId
from s2connect.pairing.interface import DurablePairings, OtherWayRound, PairingServerEvent
from s2connect.pairing.live_proofs import LiveProofs, MemoryLiveProofs
from s2connect.pairing.refusals import refusal
from s2connect.pairing.server_core import (
    ANSWER_ENTROPY,
    TOKEN_ENTROPY,
    Answer,
    Commit,
    PairingServer,
    Queued,
)
from s2connect.supervisor import Supervisor

_log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between checks whether the client of a queued request is still connected; otherwise it leaves the queue."""


class PairingService:
    """The pairing API of one endpoint."""

    def __init__(
        self,
        core: PairingServer,
        pairings: DurablePairings,
        supervisor: Supervisor,
        *,
        binding: Callable[[web.Request], bytes],
        ready: Callable[[], bool],
        on_failed: Callable[[PairingServerEvent], None],
        proofs: LiveProofs | None = None,
    ) -> None:
        """Serve a core.

        Args:
            core: Decides; its I/O is here.
            pairings: Makes pairings durable.
            supervisor: Owns the tasks that store pairings, and ends them.
            binding: F or D of HMAC-02 for the connection of a request.
            ready: Whether the endpoint is ready for pairing.
            on_failed: Called with attempts that ended without a pairing, and with attacks.
            proofs: Shared by all services of one identity; by default this one alone has it.
        """
        self._core = core
        self._pairings = pairings
        self._supervisor = supervisor
        self._binding = binding
        self._ready = ready
        self._on_failed = on_failed
        self._proofs = proofs if proofs is not None else MemoryLiveProofs()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = asyncio.Event()
        # Repeats of one request must meet its result, and two pairings of one node must not finish at once (ROLE-05).
        self._locks: WeakValueDictionary[PairingAttemptId, asyncio.Lock] = WeakValueDictionary()

    def mount(self, server: HttpsServer, base_path: str) -> None:
        """Add the routes under a base path that ends with a slash (VER-03)."""
        server.add_index(base_path)
        for operation, handler in (
            ("requestPairing", self._request_pairing),
            ("requestConnectionDetails", _of_an_attempt(self._request_connection_details)),
            ("postConnectionDetails", _of_an_attempt(self._post_connection_details)),
            ("finalizePairing", _of_an_attempt(self._finalize_pairing)),
        ):
            server.add_operation(base_path, operation, handler)

    def close(self) -> None:
        """Stop the expiry of attempts, and release queued requests."""
        self._closing.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _request_pairing(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        queued = self._core.request_pairing(
            body,
            binding=self._binding(request),
            address=request.remote or "",
            ready=self._ready(),
            now=_now(),
        )
        if isinstance(queued, Reply):
            return self._finish(queued)
        try:
            refused = await self._turn(queued, request)
        except BaseException:
            self._core.abandon(queued)
            raise
        if refused is not None:
            self._core.abandon(queued)
            return self._finish(refused)
        return self._finish(await self._answer(queued))

    async def _turn(self, queued: Queued, request: web.Request) -> Reply | None:
        """Wait for the turn of a request. Returns a refusal if it gets none."""
        while not self._closing.is_set() and self._ready() and request.transport is not None:
            at = self._core.wait(queued, now=_now())
            if at is None or isinstance(at, Reply):
                return at
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(at - _now(), LOOK_EVERY)):
                    await self._closing.wait()
        return refusal(PairingErrorReason.OTHER, "This endpoint is stopping.")

    async def _answer(self, queued: Queued) -> Reply:
        answer = self._core.answer(queued, now=_now(), entropy=os.urandom(ANSWER_ENTROPY))
        if not isinstance(answer, Answer):
            return answer
        try:
            free = await self._proofs.claim(answer.claim, now=_now())
        except StorageError as error:
            _log.error("a pairing request could not be answered: %s", error)
            return self._core.unclaimed(answer)
        except BaseException:
            self._core.unclaimed(answer)
            raise
        return self._core.claimed(answer, free=free, now=_now())

    async def _request_connection_details(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        now = _now()
        entropy = os.urandom(TOKEN_ENTROPY)
        return self._finish(self._core.request_connection_details(_attempt_id(request), body, now=now, entropy=entropy))

    async def _post_connection_details(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        now = _now()
        return self._finish(self._core.post_connection_details(_attempt_id(request), body, now=now))

    async def _finalize_pairing(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        arrived = _now()  # the lock may take longer than the attempt has left
        attempt_id = _attempt_id(request)
        if attempt_id is None:
            return self._finish(self._core.finalize(None, body, now=arrived, wall_time=time.time()))
        lock = self._locks.setdefault(attempt_id, asyncio.Lock())
        async with lock:
            decision = self._core.finalize(attempt_id, body, now=arrived, wall_time=time.time())
            if isinstance(decision, Commit):
                # Completed even if the client disconnects: its repeated request gets the result (PAIR-07).
                decision = await asyncio.shield(self._supervisor.spawn(self._commit(decision), "commit"))
        return self._finish(decision)

    async def _commit(self, commit: Commit) -> Reply:
        try:
            await self._pairings.commit(commit.pairing, commit.token)
        except OtherWayRound:
            return self._core.not_now(commit.attempt_id)
        except StorageError as error:
            _log.error("a pairing could not be stored: %s", error)  # the reason is enough for a full disk
            return self._core.commit_failed(commit.attempt_id)
        except BaseException:
            self._core.commit_failed(commit.attempt_id)
            raise
        return self._core.committed(commit.attempt_id)

    def _finish(self, reply: Reply | Commit) -> web.Response:
        assert isinstance(reply, Reply)
        self._tell()
        self._arm()
        return answer(reply.status, reply.body)

    def _tell(self) -> None:
        events, self._core.events = self._core.events, []
        for event in events:
            self._on_failed(event)

    def _arm(self) -> None:
        if self._timer is not None:
            return
        deadline = self._core.next_deadline()
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(max(deadline, _now() + 0.05), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._core.expire(now=_now())
        self._tell()
        self._arm()


def _of_an_attempt(
    handler: Callable[[web.Request], Awaitable[web.Response]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def served(request: web.Request) -> web.Response:
        response = await handler(request)
        if response.status < 300:  # so its attempt id was right
            bearer_proved()
        return response

    return served


def _attempt_id(request: web.Request) -> PairingAttemptId | None:
    text = bearer(request)
    try:
        return PairingAttemptId(text) if text else None
    except ValueError:
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
