"""Server of the page: who may see it, its headers, its streams. On this machine by default, elsewhere over TLS only."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import ipaddress
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import hdrs, web

from s2connect.certs.tls import ServerContext
from s2connect.errors import ConfigurationError
from s2connect.https.own_addresses import own_addresses
from s2connect.https.rate import network_of
from s2connect.https.server import Handler, bearer_proved, is_loopback, read_body
from s2connect.model.log_limiter import LogLimiter
from s2connect.model.url import is_local_address
from s2connect.store.home import Home
from s2connect.supervisor import Supervisor
from s2connect.web.access import (
    LIFETIME,
    TOKEN_BYTES,
    LogIn,
    LogInLimiter,
    OneTimeLinks,
    PasswordHash,
    Session,
    Sessions,
    is_of_this_page,
    may_read,
)
from s2connect.web.local_server import LocalServer, is_of_this_machine
from s2connect.web.local_user import own_user
from s2connect.web.password import monitoring_token, read_password, store_password
from s2connect.web.templates import STATIC, render, static_file

_log = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8480

MAX_STREAMS: Final = 32
"""Streams at a time; a further one gets 503."""

MAX_STREAMS_OF_SESSION: Final = 8
"""Streams of one session at a time."""

STREAM_ALIVE: Final = 15.0
"""Seconds after which a stream without news sends a comment, by which either side sees that the other is gone."""

STREAM_STALLED: Final = 30.0
"""Seconds in which a browser has to read what a stream has written."""

LOG_IN: Final = "/login"
LOG_OUT: Final = "/logout"

FORM_TOKEN: Final = "csrf"
"""Member of a form, or of a JSON object, that holds the token of the session."""

FORM_TOKEN_HEADER: Final = "X-CSRF-Token"
"""Header that may hold it instead."""

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not no-referrer, with which browsers send "Origin: null" with forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response: nothing is loaded from elsewhere, no other page embeds or reads it."""

_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(?::\d{1,5})?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """An event of a stream: its name, and data that :func:`json.dumps` can write."""

    event: str
    data: Any


PageHandler = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]
"""Answers a GET of somebody who is logged in."""

ActionHandler = Callable[[web.Request, Session, Mapping[str, Any]], Awaitable[web.StreamResponse]]
"""Executes a POST of somebody who is logged in, from our own page, with the members of its form or JSON object."""

StreamSource = Callable[[web.Request, Session], AsyncIterator[ServerEvent]]
"""Yields the events of a stream until its reader is gone."""


class PageServer(LocalServer):
    """Add pages, actions and streams, then :meth:`start`; :meth:`close` is idempotent.

    At a loopback address it listens without TLS. There the user of the machine who runs the service needs no log-in;
    every other one does. At any other address it listens over the endpoint's TLS, everybody has to log in, and only
    clients of local networks are answered.

    Args:
        bind: Address to listen on; ``*`` for all.
        port: TCP port, 0 for any free one.
        tls: TLS side of the endpoint's server, needed beyond loopback.
        host: Name of the endpoint, for the URL.
        home: State directory, where the password is kept; None keeps it in memory.
        supervisor: Owner of background tasks.
    """

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        bind: str = LOOPBACK,
        port: int = DEFAULT_PORT,
        tls: ServerContext | None = None,
        host: str = "localhost",
        home: Home | None = None,
    ) -> None:
        self.is_local = is_loopback(bind)
        if not self.is_local and tls is None:
            raise ConfigurationError(
                f"The page cannot be at {bind}: this endpoint has no server, and so no certificate for TLS.",
                hint="It can be at 127.0.0.1.",
            )
        self._tls = None if self.is_local else tls
        super().__init__(self._tls.context if self._tls is not None else None, host=_listen_at(bind), port=port)
        self._name = host
        self._bind = bind
        self._home = home
        self._tasks = supervisor
        self._links = OneTimeLinks()
        self._sessions = Sessions()
        self._log_ins = LogInLimiter()
        self._reports = LogLimiter()
        self._password: PasswordHash | None = None
        self._monitoring_token = ""
        self._verified: dict[LogIn, tuple[str, asyncio.Future[bool | None]]] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._own = Session(secrets.token_urlsafe(TOKEN_BYTES), own_user(), 0.0, 0.0, can_log_out=False)
        self._streams: dict[asyncio.Task[Any], Session] = {}
        self._near: tuple[float, frozenset[Any]] = (-1e9, frozenset())
        self._app.router.add_get(LOG_IN, self._open(self._show_log_in))
        for name, kind in STATIC.items():
            self.add_open(f"/static/{name}", functools.partial(_static, name, kind))
        self._app.router.add_post(LOG_IN, self._open(self._log_in))
        self.add_action(LOG_OUT, self._log_out)

    # Life

    async def start(self) -> None:
        await asyncio.to_thread(self._load)
        await super().start()

    def _load(self) -> None:
        if self._home is None:
            return
        self._password = read_password(self._home)
        if not self.is_local:
            self._monitoring_token = monitoring_token(self._home)

    async def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._sessions.end_all()
        self._own.end()
        for stream in list(self._streams):
            stream.cancel()
        for _, verified in self._verified.values():
            verified.cancel()
        await super().close()

    @property
    def url(self) -> str:
        """URL of the page."""
        if self.is_local:
            host = f"[{self._bind}]" if ":" in self._bind else self._bind
            return f"http://{host}:{self.port}/"
        host = f"[{self._name}]" if ":" in self._name else self._name
        return f"https://{host}:{self.port}/"

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the certificate, as browsers show it; None without TLS."""
        return self._tls.identity.leaf_fingerprint.hex(":").upper() if self._tls is not None else None

    @property
    def has_password(self) -> bool:
        """True if a password is set."""
        return self._password is not None

    def issue_link(self) -> str:
        """Return a one-time link, valid for :data:`~s2connect.web.access.LINK_LIFETIME`."""
        return f"{self.url}{LOG_IN[1:]}#{self._links.issue(secrets.token_bytes(TOKEN_BYTES), now=_now())}"

    async def set_password(self, password: str | None) -> None:
        """Set or remove the password. All sessions end, and links are void.

        Raises:
            UsageError: It is too short or too long.
            StorageError: It cannot be stored; nothing is changed.
        """
        self._password = await asyncio.to_thread(store_password, self._home, password)
        self._links.clear()
        self._sessions.end_all()

    # Pages, actions and streams that are served

    def add_page(self, path: str, handler: PageHandler) -> None:
        """Answer GET requests of a path, of those who are logged in; others are led to the log-in."""

        async def handle(request: web.Request) -> web.StreamResponse:
            session = await self._session(request)
            if session is None:
                return self._not_logged_in(request)
            return await handler(request, session)

        self._app.router.add_get(path, self._open(handle))

    def add_action(self, path: str, handler: ActionHandler) -> None:
        """Answer POST requests of a path, of those who are logged in, sent by a page of ours with its form token.

        The token is the member ``csrf`` of the form or JSON object, or in the header ``X-CSRF-Token``.
        """

        async def handle(request: web.Request) -> web.StreamResponse:
            session = await self._session(request)
            if session is None:
                return self._not_logged_in(request)
            members = await _members(request)
            token = request.headers.get(FORM_TOKEN_HEADER) or members.get(FORM_TOKEN)
            if not isinstance(token, str) or not session.has_csrf(token):
                return _outdated(request)
            return await handler(request, session, members)

        self._app.router.add_post(path, self._open(handle))

    def add_stream(self, path: str, source: StreamSource) -> None:
        """Serve events (SSE) to those who are logged in. At the end of their session the last event is ``leave``."""

        async def handle(request: web.Request) -> web.StreamResponse:
            await read_body(request)
            session = await self._session(request)
            if session is None:
                return web.Response(status=401)
            if request.method == hdrs.METH_HEAD:
                return web.Response(content_type="text/event-stream")
            if session.ended:  # our own, because the service ends: a page that leaves then has nowhere to go
                return web.Response(status=503)
            of_session = sum(one is session for one in self._streams.values())
            if len(self._streams) >= MAX_STREAMS or of_session >= MAX_STREAMS_OF_SESSION:
                return web.Response(status=503, headers={hdrs.RETRY_AFTER: "30"})
            return await self._stream(request, session, source(request, session))

        self._app.router.add_get(path, self._open(handle))

    def add_open(self, path: str, handler: Handler) -> None:
        """Answer GET requests of a path without a log-in: for what anybody may see, such as styles and ``/healthz``."""
        self._app.router.add_get(path, self._open(handler))

    def add_metrics(self, path: str, handler: Handler) -> None:
        """Answer GET requests of monitoring: from this machine anybody's, from elsewhere with the token of the home."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if self._may_monitor(request):
                bearer_proved()
            elif not is_of_this_machine(request) and await self._session(request) is None:
                return web.Response(status=401, headers={hdrs.WWW_AUTHENTICATE: "Bearer"})
            return await handler(request)

        self._app.router.add_get(path, self._open(handle))

    # Admission of requests

    def _open(self, handler: Handler) -> Handler:
        """Check what is asked of every request, whoever sends it."""

        @functools.wraps(handler)
        async def handle(request: web.Request) -> web.StreamResponse:
            if not self.is_local and not self.is_near(request.remote or ""):
                return web.Response(status=403)
            if not self._is_our_host(request.host):
                # A web page had its own name lead here (DNS rebinding).
                return web.Response(status=421, text=f"The page is at {self.url}\n")
            if not self._is_of_allowed_site(request):
                return web.Response(status=403, text="The request comes from another site.\n")
            return await handler(request)

        return handle

    def _is_of_allowed_site(self, request: web.Request) -> bool:
        site, dest = request.headers.get("Sec-Fetch-Site"), request.headers.get("Sec-Fetch-Dest")
        if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
            return may_read(site, dest)
        origin = f"{'http' if self.is_local else 'https'}://{request.host}"
        return is_of_this_page(request.headers.get(hdrs.ORIGIN), site, origin)

    def _is_charged(self, request: web.Request) -> bool:
        """Charge nothing for pages of other sites, which are refused at once: the browser of the viewer sends them."""
        return self._is_of_allowed_site(request)

    async def _in_turn(self, request: web.Request, current: Any) -> bool:
        """Serve those who are logged in also where strangers behind their address have used up what it has."""
        if await super()._in_turn(request, current):
            return True
        return hdrs.AUTHORIZATION not in request.headers and await self._session(request) is not None

    def _is_our_host(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower()
        if name == "localhost" or (not self.is_local and name == self._name.lower().rstrip(".")):
            return True
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(name)  # which cannot be rebound
            return address.is_loopback or not self.is_local
        return False

    def is_near(self, address: str) -> bool:
        """Return whether an address is of a local network: no forwarding of a port makes the page public."""
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if is_local_address(str(ip)):
            return True
        if ip.version == 4:
            return False
        now = _now()
        if now - self._near[0] > 30:
            self._near = now, frozenset(one.interface.network for one in own_addresses() if one.interface.version == 6)
        return any(ip in network for network in self._near[1] if network.prefixlen >= 64)

    async def _user(self, request: web.Request) -> int | None:
        """Return the user of this machine to whom a session is bound; None where the page is in the network."""
        return await self.user(request) if self.is_local else None

    async def _session(self, request: web.Request) -> Session | None:
        user = await self._user(request)
        if user is not None and user == own_user():
            return self._own
        cookie = request.cookies.get(self._cookie)
        return None if cookie is None else self._sessions.find(cookie, user=user, now=_now())

    def _may_monitor(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        known = self._monitoring_token
        return (
            bool(known) and scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), known.encode())
        )

    @property
    def _cookie(self) -> str:
        # Browsers send the cookies of a host to all its ports: the name keeps services of one machine apart.
        return f"s2connect-{self.port}" if self.is_local else f"__Host-s2connect-{self.port}"

    # Log-in

    def _not_logged_in(self, request: web.Request) -> web.Response:
        if _shows_pages(request):
            return web.Response(status=303, headers={hdrs.LOCATION: LOG_IN})
        return web.Response(status=401, text=f"Log in at {self.url}{LOG_IN[1:]}\n")

    async def _show_log_in(self, request: web.Request) -> web.Response:
        return self._log_in_response(200)

    def _log_in_response(self, status: int, problem: str = "", retry_after: float = 0.0) -> web.Response:
        seconds = max(1, round(retry_after + 0.5)) if retry_after else 0
        page = render("login.html", has_password=self.has_password, problem=problem, retry_after=seconds)
        headers = {hdrs.RETRY_AFTER: str(seconds)} if seconds else None
        return web.Response(status=status, text=page, content_type="text/html", headers=headers)

    async def _log_in(self, request: web.Request) -> web.Response:
        members = await _members(request)
        link, password = members.get("link"), members.get("password")
        if isinstance(link, str) and link:
            if not self._links.take(link.rpartition("#")[2].strip(), now=_now()):
                return self._log_in_response(403, "This link was used before, or is not valid any more.")
        elif isinstance(password, str):
            if self._password is None:
                return self._log_in_response(403, "No password is set: use a one-time link.")
            user = await self._user(request)
            address = request.remote or "" if user is None else f"user {user} of this machine"
            entered = self._log_ins.enter(network_of(address), now=_now(), address=address)
            right, wait = False, entered.retry_after
            if entered.displaced is not None:
                self._verified.pop(entered.displaced)[1].set_result(None)
            if entered.log_in is not None:
                verified = asyncio.get_running_loop().create_future()
                self._verified[entered.log_in] = password, verified
                self._verify_next()
                answer = await verified
                right, wait = answer is True, 5.0 if answer is None else 0.0
            if wait:
                return self._log_in_response(429, "Too many attempts to log in: wait a little.", wait)
            if not right:
                return self._log_in_response(403, "This is not the password.")
        else:
            return self._log_in_response(400, "A password or a one-time link is needed.")
        return await self._logged_in(request)

    async def _logged_in(self, request: web.Request) -> web.Response:
        user = await self._user(request)
        cookie, _ = self._sessions.begin(secrets.token_bytes(2 * TOKEN_BYTES), user=user, now=_now())
        response = web.Response(status=303, headers={hdrs.LOCATION: "/"})
        response.set_cookie(
            self._cookie, cookie, max_age=int(LIFETIME), secure=not self.is_local, httponly=True, samesite="Strict"
        )
        return response

    async def _log_out(self, request: web.Request, session: Session, members: Mapping[str, Any]) -> web.Response:
        self._sessions.end(session) if session is not self._own else None
        response = web.Response(status=303, headers={hdrs.LOCATION: LOG_IN})
        response.del_cookie(self._cookie, secure=not self.is_local, httponly=True, samesite="Strict")
        return response

    def _verify_next(self) -> None:
        log_in, wait = self._log_ins.next(now=_now())
        if log_in is not None:
            self._tasks.spawn(self._verify(log_in), "log-in")
        elif wait is not None and self._pause is None:
            self._pause = asyncio.get_running_loop().call_later(wait, self._pause_over)

    def _pause_over(self) -> None:
        self._pause = None
        self._verify_next()

    async def _verify(self, log_in: LogIn) -> None:
        password, verified = self._verified.pop(log_in)
        kept, right = self._password, None
        try:
            right = kept is not None and await asyncio.to_thread(kept.matches, password)
            right = right and kept is self._password  # it was not changed meanwhile
        finally:
            self._log_ins.finish(log_in, right, now=_now())
            if not verified.done():
                verified.set_result(right)
            self._verify_next()
        if not right and (count := self._reports.count("password", _now())):
            _log.warning("Wrong passwords of the page: %d; the last from %s", count, log_in.network)

    # Streams

    async def _stream(
        self, request: web.Request, session: Session, source: AsyncIterator[ServerEvent]
    ) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        ended = asyncio.Event()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        self._streams[task] = session
        session.on_end.add(ended.set)
        parts: set[asyncio.Future[Any]] = set()
        try:
            await response.prepare(request)
            over = asyncio.ensure_future(ended.wait())
            parts.add(over)
            news: asyncio.Future[ServerEvent] | None = None
            while not session.ended:
                if news is None:
                    news = asyncio.ensure_future(anext(source))
                    parts.add(news)
                await asyncio.wait(parts, timeout=STREAM_ALIVE, return_when=asyncio.FIRST_COMPLETED)
                if over.done() or await self._session(request) is not session:
                    break
                written = b":\n\n"
                if news.done():
                    parts.discard(news)
                    try:
                        written = _event(news.result())
                    except StopAsyncIteration:
                        break
                    news = None
                async with asyncio.timeout(STREAM_STALLED):
                    await response.write(written)
            if session.ended:
                await response.write(_event(ServerEvent("leave", None)))
            await response.write_eof()
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            session.on_end.discard(ended.set)
            del self._streams[task]
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()
        return response

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        await super()._prepare(request, response)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)


def _listen_at(bind: str) -> str | None:
    return {"*": None, "localhost": LOOPBACK}.get(bind, bind)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _event(event: ServerEvent) -> bytes:
    return f"event: {event.event}\ndata: {json.dumps(event.data, separators=(',', ':'))}\n\n".encode("ascii")


async def _static(name: str, kind: str, request: web.Request) -> web.Response:
    return web.Response(body=static_file(name), content_type=kind, charset="utf-8")


def _outdated(request: web.Request) -> web.Response:
    """Refuse a form that has not the token of its session: as a page, where a browser of a person sent it."""
    what = "This form is not of this session: the service was started anew, or you have logged in again."
    if not _shows_pages(request):
        return web.Response(status=403, text=f"{what}\n")
    text = render("notice.html", title="Nothing was done", text=what, hint="Load the page again and repeat it.")
    return web.Response(status=403, text=text, content_type="text/html")


def _shows_pages(request: web.Request) -> bool:
    return "text/html" in request.headers.get(hdrs.ACCEPT, "")


async def _members(request: web.Request) -> Mapping[str, Any]:
    """Return the members of a form or JSON object; 400 or 415 where it is none."""
    body = await read_body(request)
    try:
        if request.content_type == "application/json":
            found = json.loads(body)
            if not isinstance(found, dict):
                raise ValueError("no object")
            return found
        if request.content_type == "application/x-www-form-urlencoded":
            return dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=64))
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest from None
    raise web.HTTPUnsupportedMediaType
