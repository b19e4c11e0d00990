"""Names that lead nowhere: neither the server nor its certificate is blamed for them."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from s2connect.certs import connect
from s2connect.certs.chain import capture_chain
from s2connect.errors import NotReachable


@pytest.mark.parametrize(
    ("host", "what"),
    [
        ("ems.local", "The name ems.local is not known in this network."),
        ("ems.example", "The name ems.example could not be looked up: no name server answers."),
    ],
)
async def test_a_name_that_nobody_knows_in_time_is_not_a_server_that_does_not_answer(
    host: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a name server that drops requests: the system waits for it longer than we for the server."""

    async def slow(*_: Any, **__: Any) -> list[Any]:
        await asyncio.sleep(60)
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", slow, raising=False)
    monkeypatch.setattr(connect, "LOOK_UP_TIMEOUT", 0.05)
    with pytest.raises(NotReachable) as raised:
        await capture_chain(host, 8443, timeout=10)
    assert raised.value.what == what
    assert "--connect-to" in raised.value.hint


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), "The name a.example is not known in this network."),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "The name a.example could not be looked up: no name server answers."),
        (TimeoutError(110, "x"), "a.example:8443 cannot be reached (connection timed out)."),
        (ConnectionRefusedError(111, "x"), "a.example:8443 cannot be reached (connection refused)."),
    ],
)
def test_a_failed_connection_says_whether_name_or_server_is_the_cause(error: OSError, what: str) -> None:
    assert NotReachable.because("a.example", 8443, error).what == what


def test_the_name_has_less_time_than_the_callers_have_for_the_server() -> None:
    from s2connect.https.client import REQUEST_TIMEOUT
    from s2connect.pairing.http_client import DEFAULT_TIMINGS
    from s2connect.session.http_client import CONFIRM_TIMEOUT, CONNECT_TIMEOUT

    assert min(REQUEST_TIMEOUT, DEFAULT_TIMINGS.connect, DEFAULT_TIMINGS.finalize, CONNECT_TIMEOUT, CONFIRM_TIMEOUT) > (
        connect.LOOK_UP_TIMEOUT
    )
