"""Probes of ``doctor``: names, TCP, TLS and the version index of a server, each in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from s2connect.discovery.resolve import is_local_name, resolve
from s2connect.errors import NotReachable, PeerTimeout, S2ConnectError
from s2connect.https.client import Destination, HttpsClient
from s2connect.model.url import BaseUrl, address_of

T = TypeVar("T")

ASK_TIMEOUT = 4.0
"""Seconds for one request to a server, or for one name of the DNS."""


async def run_in_thread(work: Callable[[], T], timeout: float) -> T:
    """Run a blocking function in a daemon thread, which does not delay the end of the program.

    If it takes longer, it goes on, its result is dropped, and TimeoutError is raised.
    """
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, name="s2connect-doctor", daemon=True).start()
    async with asyncio.timeout(timeout):
        return await asyncio.wrap_future(done)


async def addresses_of(host: str) -> list[str]:
    """Resolve a host; return its addresses, best first. Raises S2ConnectError if it is unknown."""
    if address_of(host) is not None:
        return [host]
    if is_local_name(host):
        return await resolve(host)
    try:
        found = await run_in_thread(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM), ASK_TIMEOUT)
    except TimeoutError:
        raise NotReachable.not_looked_up(host, TimeoutError()) from None
    except OSError as error:
        raise NotReachable.because(host, 0, error) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def connect(host: str, port: int, *, timeout: float) -> float:
    """Connect with TCP, and hang up; return the seconds that it took. Raises NetworkError."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError as error:
        raise PeerTimeout(f"{host}:{port} did not answer in time.") from error
    except OSError as error:
        raise NotReachable.because(host, port, error) from error
    seconds = time.monotonic() - begun
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return seconds


async def fetch_version(url: BaseUrl, destination: Destination, *, timeout: float) -> str | None:
    """Return the version of S2 Connect that a server speaks; None if it has no version index (VER-08)."""
    try:
        async with HttpsClient(destination) as http, asyncio.timeout(timeout):
            version = await http.api_version(url)
    except TimeoutError as error:
        raise error if isinstance(error, S2ConnectError) else PeerTimeout("It did not answer in time.") from error
    return None if http.without_index else version
