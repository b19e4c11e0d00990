"""HTTP server that knows the users of this machine: none of them keeps it from answering the others."""

from __future__ import annotations

import asyncio
import ssl
import weakref
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import hdrs, web

from s2connect.https.rate import STRANGER_COST, AddressLimiter
from s2connect.https.server import HttpsServer, is_loopback
from s2connect.web.local_user import user_of

_FORWARDED: Final = (hdrs.FORWARDED, hdrs.X_FORWARDED_FOR, hdrs.X_FORWARDED_HOST, hdrs.VIA)


class LocalServer(HttpsServer):
    """Server with a budget for each user of this machine, for when the one of their common address is used up.

    On systems that do not tell to whom a connection belongs, there is only the common one. The arguments are as of
    :class:`~s2connect.https.server.HttpsServer`.
    """

    def __init__(self, context: ssl.SSLContext | None, *, host: str | Sequence[str] | None, port: int) -> None:
        super().__init__(context, host=host, port=port)
        self._users: weakref.WeakKeyDictionary[asyncio.BaseTransport, int | None] = weakref.WeakKeyDictionary()
        self._user_limiter = AddressLimiter()

    async def user(self, request: web.Request) -> int | None:
        """Return the user of this machine who sent a request over loopback, None if that is not known."""
        transport = request.transport
        if transport is None or not is_of_this_machine(request):
            return None
        if transport not in self._users:
            peer, here = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            self._users[transport] = await asyncio.to_thread(user_of, peer, here)
        return self._users.get(transport)

    async def _in_turn(self, request: web.Request, current: Any) -> bool:
        if await super()._in_turn(request, current):
            return True
        user = await self.user(request)
        if user is None:
            return False
        now, payer = asyncio.get_running_loop().time(), f"user {user}"
        if not self._user_limiter.allows(payer, now=now):
            return False
        self._user_limiter.charge(payer, STRANGER_COST, now=now)
        return True


def is_of_this_machine(request: web.Request) -> bool:
    """Return whether a request comes over loopback, and no proxy has passed it on."""
    return is_loopback(request.remote or "") and not any(name in request.headers for name in _FORWARDED)
