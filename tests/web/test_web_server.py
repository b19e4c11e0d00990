"""Server of the page, with real sockets and TLS: who may see it, and what a stranger can do."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from s2connect.errors import ConfigurationError
from s2connect.https import connection as https_connection
from s2connect.https import rate
from s2connect.https import server as https_server
from s2connect.https.server import is_loopback
from s2connect.store.home import Home
from s2connect.web import access, local_server, local_user, server
from s2connect.web.access import FREE_TRIES, PasswordHash
from s2connect.web.password import monitoring_token
from s2connect.web.server import MAX_STREAMS_OF_SESSION, PageServer
from tests.waits import patience, until, within
from tests.web.another_user import another_user, as_another_user, linux
from tests.web.serving_page import PASSWORD, csrf_of, sees_the_page, serving

PATHS = ("/", "/login", "/news", "/metrics", "/healthz", "/static/page.css")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "SCRYPT", (16, 1, 1))


# This machine


@linux
async def test_the_user_of_the_service_needs_no_log_in_on_this_machine() -> None:
    async with within(20), serving() as served, served.browser() as http:
        token = await csrf_of(http)
        async with http.post("/act", json={"csrf": token, "x": 1}) as response:
            assert await response.json() == {"done": True}
        assert served.acted == [{"csrf": token, "x": 1}]
        async with http.get("/news") as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            assert await response.content.readuntil(b"\n\n") == b"event: number\ndata: 0\n\n"
        assert not list(http.cookie_jar), "no cookie that another port of this machine could get"


@linux
@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "Via"])
async def test_what_a_proxy_passes_on_needs_a_log_in(header: str) -> None:
    async with within(20), serving() as served, served.browser() as http:
        async with http.get("/", headers={header: "192.0.2.1"}) as response:
            assert response.status == 401
        async with http.post("/act", headers={header: "x"}, json={"csrf": await csrf_of(http)}) as response:
            assert response.status == 401


@linux
@another_user
async def test_another_user_of_this_machine_logs_in_and_the_cookie_is_of_no_use_to_others() -> None:
    async with within(30), serving() as served, served.browser() as http:
        assert await as_another_user(served.server.port, ("GET", "/", None, {}), ("GET", "/metrics", None, {})) == [
            ["401", ""],
            ["200", ""],
        ]
        await served.server.set_password(PASSWORD)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        ((status, cookie),) = await as_another_user(
            served.server.port, ("POST", "/login", "password=correct+horse", form)
        )
        assert status == "303"
        assert cookie.startswith(f"s2connect-{served.server.port}=")
        assert await as_another_user(served.server.port, ("GET", "/", None, {"Cookie": cookie})) == [["200", ""]]
        forwarded = {"Cookie": cookie, "Via": "1.1 proxy"}
        async with http.get("/", headers=forwarded) as response:
            assert response.status == 401, "it was stolen by a user of this machine who comes by a proxy"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "[", "127.0.0.1:x", "192.0.2.7", "::1:x", ""]
)
async def test_a_web_page_with_its_own_name_for_this_machine_reads_nothing(host: str) -> None:
    async with within(20), serving() as served, served.browser() as http:
        for path in PATHS:
            async with http.get(path, headers={"Host": host}) as response:
                assert response.status == 421
                assert "csrf" not in await response.text()
        async with http.post("/login", data={"password": "x"}, headers={"Host": host}) as response:
            assert response.status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "127.0.0.9:8480", "[::1]:80", "[::1]"])
async def test_names_of_this_machine_are_answered(host: str) -> None:
    async with within(20), serving() as served, served.browser() as http:
        response = await http.get("/healthz", headers={"Host": host})
        assert response.status == 200


# The network


async def test_beyond_loopback_there_is_no_page_without_tls() -> None:
    for bind in ("*", "0.0.0.0", "::", "192.0.2.1", "ems.local"):
        assert not is_loopback(bind)
        async with serving() as served:
            with pytest.raises(ConfigurationError, match="no certificate"):
                PageServer(supervisor=served.supervisor, bind=bind)


async def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"Cannot listen at 192\.0\.2\.1: that is no address of this machine"):
        async with serving(network=True, bind="192.0.2.1"):
            pass


async def test_in_the_network_everybody_logs_in_and_out_again() -> None:
    async with within(30), serving(network=True) as served, served.browser() as http:
        assert not await sees_the_page(http)
        async with http.get("/metrics", headers={"Via": "1.1 proxy"}) as response:
            assert response.status == 401
        async with http.get("/news") as response:
            assert response.status == 401
        async with http.post("/act", data={"csrf": "x"}, headers=served.origin) as response:
            assert response.status == 401
        assert await served.log_in(http) == 403, "no password is set"
        await served.server.set_password(PASSWORD)
        assert await served.log_in(http, "wrong horse") == 403
        assert not await sees_the_page(http)
        assert await served.log_in(http) == 303
        assert await sees_the_page(http)
        (cookie,) = http.cookie_jar
        assert cookie.key == f"__Host-s2connect-{served.server.port}"
        assert (cookie["secure"], cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (
            *(True, True, "Strict", "/"),
            "",
        ) or cookie["domain"] == "127.0.0.1"
        stolen = {"Cookie": f"{cookie.key}={cookie.value}"}
        async with served.browser("127.0.0.9") as thief:
            async with thief.get("/", headers=stolen) as response:
                assert response.status == 200
            form = {"csrf": await csrf_of(http)}
            async with http.post("/logout", data=form, headers=served.origin, allow_redirects=False) as response:
                assert response.headers["Location"] == "/login"
            async with thief.get("/", headers=stolen) as response:
                assert response.status == 401
        assert not await sees_the_page(http)


async def test_a_link_lets_one_browser_in_once() -> None:
    async with within(30), serving(network=True) as served, served.browser() as first, served.browser() as second:
        address, _, token = served.server.issue_link().partition("#")
        assert address == f"https://ems.local:{served.server.port}/login"
        for http, status in ((first, 303), (second, 403)):
            async with http.post(
                "/login", data={"link": token}, headers=served.origin, allow_redirects=False
            ) as response:
                assert response.status == status
        assert await sees_the_page(first)
        assert not await sees_the_page(second)


async def test_a_link_is_typed_where_no_script_uses_it() -> None:
    async with within(20), serving(network=True) as served, served.browser() as http:
        async with http.get("/login") as response:
            found = re.search(r"<noscript>(.*?)</noscript>", await response.text(), re.DOTALL)
            assert found is not None
            assert 'name="link"' in found[1]
        form = {"link": f" {served.server.issue_link()} "}
        async with http.post("/login", data=form, headers=served.origin, allow_redirects=False) as response:
            assert response.status == 303
        assert await sees_the_page(http)


async def test_a_link_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    async with within(30), serving(network=True) as served, served.browser() as http:
        monkeypatch.setattr(access, "LINK_LIFETIME", 0.0)
        token = served.server.issue_link().partition("#")[2]
        async with http.post("/login", data={"link": token}, headers=served.origin) as response:
            assert response.status == 403
            assert "not valid any more" in await response.text()


async def test_a_new_password_logs_everybody_out_and_ends_their_streams() -> None:
    async with within(30), serving(network=True) as served, served.browser() as http:
        await served.server.set_password(PASSWORD)
        assert await served.log_in(http) == 303
        link = served.server.issue_link().partition("#")[2]
        async with http.get("/news") as response:
            await response.content.readuntil(b"\n\n")
            await served.server.set_password("another horse")
            rest = await response.content.read()
        assert rest.endswith(b"event: leave\ndata: null\n\n")
        assert not await sees_the_page(http)
        async with http.post("/login", data={"link": link}, headers=served.origin) as response:
            assert response.status == 403
        assert await served.log_in(http) == 403
        assert await served.log_in(http, "another horse") == 303
        await until(lambda: served.streams == 0)


async def test_monitoring_asks_with_the_token_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home.create(tmp_path / "home")
    async with within(30), serving(network=True, home=home) as served, served.browser() as http:
        token = monitoring_token(home)
        async with http.get("/metrics") as response:
            assert response.status == 200, "it is of this machine"
        monkeypatch.setattr(local_server, "is_loopback", lambda *_: False)  # as from another one
        for given, status in ((token, 200), (f"{token}x", 401), ("", 401)):
            async with http.get("/metrics", headers={"Authorization": f"Bearer {given}"}) as response:
                assert response.status == status
        async with http.get("/", headers={"Authorization": f"Bearer {token}"}) as response:
            assert response.status == 401, "it is for the metrics only"
        async with http.get("/healthz") as response:
            assert response.status == 200
        assert (tmp_path / "home" / "page-token").stat().st_mode & 0o777 == 0o600


async def test_the_page_follows_the_certificate_of_the_endpoint() -> None:
    async with within(30), serving(network=True) as served:
        assert served.authority is not None
        assert served.tls is not None
        renewed = served.authority.issue(["ems.local", "127.0.0.1"], now=datetime.now(UTC))
        await asyncio.to_thread(served.tls.replace, renewed)
        seen = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", served.server.port))
        assert seen.encode() in renewed.chain_pem


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("127.0.0.1", True),
        ("192.168.1.5", True),
        ("10.0.0.1", True),
        ("169.254.1.1", True),
        ("100.100.1.1", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("::ffff:192.168.1.5", True),
        ("::ffff:8.8.8.8", False),
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("2001:0:808:808::1", False),
        ("2002:808:808::1", False),
        ("", False),
        ("x", False),
    ],
)
async def test_only_addresses_of_local_networks_are_answered(address: str, near: bool) -> None:
    async with serving(network=True) as served:
        assert served.server.is_near(address) is near


async def test_a_client_of_the_internet_is_refused_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    async with within(30), serving(network=True) as served, served.browser() as http:
        monkeypatch.setattr(PageServer, "is_near", lambda *_: False)
        for path in PATHS:
            async with http.get(path) as response:
                assert response.status == 403
                assert await response.text() == ""


async def test_names_in_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    async with within(30), serving(network=True) as served, served.browser() as http:
        for host, status in (("ems.local", 200), ("EMS.LOCAL:1", 200), ("192.168.1.7:8480", 200), ("[fe80::1]", 200)):
            async with http.get("/healthz", headers={"Host": host}) as response:
                assert response.status == status
        for host in ("evil.example", "ems.local.evil.example", "ems", "ems.local:x"):
            async with http.get("/healthz", headers={"Host": host}) as response:
                assert response.status == 421, host


# Other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
@linux
async def test_a_post_of_another_site_does_nothing(headers: dict[str, str]) -> None:
    """Not even with the right token, and without a log-in neither."""
    async with within(20), serving() as served, served.browser() as http:
        await served.server.set_password(PASSWORD)
        for path, form in (("/act", {"csrf": await csrf_of(http)}), ("/login", {"password": PASSWORD})):
            async with http.post(path, data=form, headers=headers, allow_redirects=False) as response:
                assert response.status == 403
                assert "Set-Cookie" not in response.headers
        assert served.acted == []


@linux
async def test_a_post_without_the_token_of_the_session_does_nothing() -> None:
    async with within(20), serving() as served, served.browser() as http:
        token = await csrf_of(http)
        for wrong in ({}, {"csrf": ""}, {"csrf": token[:-1]}, {"csrf": token + "x"}, {"csrf": [token]}, {"csrf": None}):
            async with http.post("/act", json=wrong, headers=served.origin) as response:
                assert response.status == 403
        for body, kind, status in (
            (f"csrf={token}".encode(), "text/plain", 415),
            (b"{", "application/json", 400),
            (b"[]", "application/json", 400),
            (b"[" * 60_000, "application/json", 400),
            (b"\xff=1", "application/x-www-form-urlencoded", 400),
            (b"&".join([b"a=1"] * 100), "application/x-www-form-urlencoded", 400),
        ):
            headers = {**served.origin, "Content-Type": kind, "X-CSRF-Token": token}
            async with http.post("/act", data=body, headers=headers) as response:
                assert response.status == status, body[:20]
        assert served.acted == []
        async with http.post("/act", headers={**served.origin, "X-CSRF-Token": token}, data={"x": "1"}) as response:
            assert response.status == 200


async def test_pages_of_other_sites_do_not_use_up_what_their_viewer_may_ask() -> None:
    async with within(30), serving() as served, served.browser() as http:
        served.server._limiter = rate.AddressLimiter(burst=20.0, refill=0.001)
        for _ in range(40):
            async with http.post("/act", data="x", headers={"Sec-Fetch-Site": "cross-site"}) as response:
                assert response.status == 403
        async with http.get("/metrics", headers={"Via": "x"}) as response:  # as somebody who is not logged in
            assert response.status == 401


@linux
async def test_who_is_logged_in_is_served_where_strangers_have_used_up_what_the_address_has() -> None:
    async with within(30), serving() as served, served.browser() as http:
        served.server._limiter = rate.AddressLimiter(burst=20.0, refill=0.001)
        for _ in range(40):
            async with http.get("/nowhere", headers={"Via": "x"}) as response:
                await response.read()
        assert response.status == 429
        async with http.post("/act", json={"csrf": await csrf_of(http)}) as response:
            assert response.status == 200


async def test_another_site_loads_nothing_and_may_link_here() -> None:
    async with within(20), serving() as served, served.browser() as http:
        for dest, status in (("image", 403), ("empty", 403), ("iframe", 403), ("document", 200)):
            headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": dest}
            async with http.get("/healthz", headers=headers) as response:
                assert response.status == status
                assert not [name for name in response.headers if name.startswith("Access-Control")]


@linux
async def test_headers_of_every_answer() -> None:
    async with within(20), serving() as served, served.browser() as http:
        for path in (*PATHS, "/nothing", "/act"):
            async with http.get(path) as response:
                headers = response.headers
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Referrer-Policy"] == "same-origin"
            assert headers["Cache-Control"] == "no-store"
            assert "Server" not in headers
        for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
            async with http.request(method, "/act") as response:
                assert response.status == 405


# Guessing and floods


async def test_guessing_locks_out_whoever_guesses_and_nobody_else() -> None:
    async with within(30), serving(network=True) as served:
        await served.server.set_password(PASSWORD)
        async with served.browser("127.0.0.2") as stranger, served.browser("127.0.0.3") as honest:
            seen = [await served.log_in(stranger, f"guess number {n}") for n in range(FREE_TRIES + 4)]
            assert seen == [403] * (FREE_TRIES + 1) + [429] * 3
            assert await served.log_in(stranger) == 429, "the right one, neither"
            async with stranger.post("/login", data={"password": PASSWORD}, headers=served.origin) as response:
                assert 0 < int(response.headers["Retry-After"]) <= 3
                assert "Wait" in await response.text()
            assert await served.log_in(honest) == 303
            token = served.server.issue_link().partition("#")[2]
            async with stranger.post(
                "/login", data={"link": token}, headers=served.origin, allow_redirects=False
            ) as response:
                assert response.status == 303, "a link does not wait"


async def test_a_flood_of_log_ins_is_checked_one_at_a_time_and_keeps_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checking, at_once, most = threading.Lock(), 0, 0
    real = PasswordHash.matches
    go_on = threading.Event()

    def matches(self: PasswordHash, password: str) -> bool:
        nonlocal at_once, most
        with checking:
            at_once += 1
            most = max(most, at_once)
        go_on.wait(20)
        with checking:
            at_once -= 1
        return real(self, password)

    monkeypatch.setattr(PasswordHash, "matches", matches)
    async with within(40), serving(network=True) as served:
        await served.server.set_password(PASSWORD)

        async def guess(number: int) -> int:
            async with served.browser(f"127.0.1.{number}") as http:
                return await served.log_in(http, f"guess number {number}")

        guesses = [asyncio.create_task(guess(number)) for number in range(1, 41)]
        await until(lambda: sum(one.done() for one in guesses) >= 23)
        async with served.browser() as http, http.get("/healthz") as response:
            assert response.status == 200, "the others are served meanwhile"
        go_on.set()
        answers = await asyncio.gather(*guesses)
        assert most == 1
        assert sorted(set(answers)) == [403, 429]
        assert answers.count(403) == 17, "one is checked, sixteen wait"


async def test_a_log_in_whose_check_fails_is_refused_and_the_next_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    async with within(20), serving(network=True) as served, served.browser() as http:
        await served.server.set_password(PASSWORD)
        with monkeypatch.context() as broken:
            broken.setattr(PasswordHash, "matches", lambda *_: 1 / 0)
            assert await served.log_in(http) == 429
        assert served.supervisor.failures.counts["log-in"] == 1
        assert await served.log_in(http) == 303


@linux
async def test_streams_are_bounded_and_end_with_their_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_STREAMS", MAX_STREAMS_OF_SESSION + 1)
    monkeypatch.setattr(server, "STREAM_ALIVE", 0.05)
    async with within(30), serving(network=True) as served, served.browser() as one, served.browser() as two:
        await served.server.set_password(PASSWORD)
        assert [await served.log_in(http) for http in (one, two)] == [303, 303]
        opened = [await one.get("/news") for _ in range(MAX_STREAMS_OF_SESSION)]
        assert [response.status for response in opened] == [200] * MAX_STREAMS_OF_SESSION
        async with one.get("/news") as response:
            assert response.status == 503
        other = await two.get("/news")
        assert other.status == 200
        async with two.get("/news") as response:
            assert response.status == 503, "in all"
        for response in opened:
            response.close()
        await until(lambda: served.streams == 1)
        async with one.get("/news") as response:
            assert response.status == 200
        other.close()
        async with one.head("/news") as response:
            assert response.status == 200


@linux
async def test_a_reader_that_stalls_loses_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STREAM_STALLED", 0.2)
    async with within(30), serving() as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.server.port, limit=1000)
        writer.write(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: served.streams == 1)
        await until(lambda: served.streams == 0)
        writer.close()


@linux
async def test_a_session_that_is_too_old_loses_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STREAM_ALIVE", 0.05)
    async with within(30), serving(network=True) as served, served.browser() as http:
        await served.server.set_password(PASSWORD)
        assert await served.log_in(http) == 303
        async with http.get("/news") as response:
            await response.content.readuntil(b"\n\n")
            monkeypatch.setattr(access, "LIFETIME", 0.0)
            assert (await response.content.read()).endswith(b"event: leave\ndata: null\n\n")
        await until(lambda: served.streams == 0)


@linux
async def test_a_stream_that_is_asked_for_while_the_service_ends_does_not_send_its_page_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, goes_on = threading.Event(), threading.Event()

    def user_of(*arguments: Any) -> int | None:
        asked.set()
        assert goes_on.wait(patience(20))
        return local_user.user_of(*arguments)

    monkeypatch.setattr(local_server, "user_of", user_of)
    async with within(30), serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        writer.write(b"GET /news HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(asked.is_set)
        closing = asyncio.create_task(served.server.close())
        await asyncio.sleep(0)
        goes_on.set()
        answered = await reader.read()
        await closing
        assert answered.startswith(b"HTTP/1.1 503"), answered
        writer.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https_server, "BODY_TIMEOUT", 0.3)
    monkeypatch.setattr(https_connection, "LINGER_TIMEOUT", 0.2)


async def test_a_body_that_dribbles_in_is_given_up(impatient: None) -> None:
    async with within(30), serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        writer.write(
            b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        )
        answered = asyncio.create_task(reader.readline())
        while not answered.done():
            writer.write(b"a")
            await asyncio.sleep(0.05)
        assert (await answered).split(b" ")[1] == b"408"
        writer.close()


@pytest.mark.parametrize("length", ["Content-Length: 100000000", "Transfer-Encoding: chunked"])
async def test_a_body_of_a_hundred_megabytes_is_not_read(impatient: None, length: str) -> None:
    chunk, sent = b"x" * 100_000, 0
    if "chunked" in length:
        chunk = b"%x\r\n%s\r\n" % (len(chunk), chunk)
    async with within(40), serving() as served:
        before = asyncio.all_tasks()
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        form = "Content-Type: application/x-www-form-urlencoded"
        writer.write(f"POST /login HTTP/1.1\r\nHost: localhost\r\n{form}\r\n{length}\r\n\r\n".encode())
        try:
            for _ in range(1000):
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
            answer = await reader.readline()
        except ConnectionError:
            answer = b""  # it was closed while we wrote
        writer.close()
        assert answer.split(b" ")[1:2] in ([], [b"413"])
        assert sent < 10_000_000, "buffers of the system included"
        await until(lambda: asyncio.all_tasks() <= before)  # it is done with what it had received
        async with served.browser() as http, http.get("/healthz") as response:
            assert response.status == 200
