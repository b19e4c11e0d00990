"""Events and what the log says of them."""

from __future__ import annotations

import pytest

from s2connect.events import FAILED_LINES_PERIOD, MAX_FAILED_LINES, EventHub, PairingFailed
from tests.store.store_examples import pairing


@pytest.mark.rule("SEC-03")
def test_attempts_that_fail_do_not_fill_the_log_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    hub, made = EventHub(clock=lambda: now), pairing(1)
    news = hub.follow()
    failed = PairingFailed(node=made.key.local, peer=made.peer, reason="wrong_code")
    for _ in range(500):
        hub.publish(failed)
    assert len(caplog.messages) == MAX_FAILED_LINES
    assert caplog.messages[-1].endswith(": wrong_code")
    assert len(news._waiting) == 500, "an application hears of each"
    now += FAILED_LINES_PERIOD
    hub.publish(failed)
    assert caplog.messages[-1].endswith(f"wrong_code; {500 - MAX_FAILED_LINES} such attempts before were not logged")
    hub.publish(failed)
    assert caplog.messages[-1].endswith(": wrong_code")
