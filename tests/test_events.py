"""Events and what the log says of them."""

from __future__ import annotations

import pytest

from s2connect.events import EventHub, PairingFailed
from s2connect.model.log_limiter import PERIOD
from tests.store.store_examples import pairing


@pytest.mark.rule("SEC-03")
def test_attempts_that_fail_do_not_fill_the_log_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    hub, made = EventHub(clock=lambda: now), pairing(1)
    news = hub.follow()
    failed = PairingFailed(node=made.key.local, peer=made.peer, reason="wrong_code")
    for _ in range(500):
        hub.publish(failed)
    assert [line.endswith(": wrong_code") for line in caplog.messages] == [True]
    assert len(news._waiting) == 500, "an application hears of each"
    now += PERIOD
    hub.publish(failed)
    assert caplog.messages[-1].endswith("wrong_code (499 more such lines were not logged)")
