"""Hints at a second client with our MQTT client id."""

from __future__ import annotations

import pytest

from s2connect.transports.mqtt.rivals import QUICK_LOSS, SUSPICIOUS_LOSSES, WINDOW, Rivals


def after(*losses: tuple[float, float]) -> Rivals:
    """Return the hints after connections of which each lasted so long, and ended then."""
    rivals = Rivals("broker:8883", "bridge")
    for lasted, now in losses:
        rivals.lost(lasted=lasted, now=now)
    return rivals


@pytest.mark.rule("MQ-16")
def test_several_quick_losses_hint_at_a_second_client_once() -> None:
    rivals = Rivals("broker:8883", "bridge")
    said = [rivals.lost(lasted=1.0, now=float(n)) for n in range(SUSPICIOUS_LOSSES + 3)]
    assert said == [n == SUSPICIOUS_LOSSES - 1 for n in range(len(said))]
    assert "second client" in rivals.suspicion
    assert "bridge" in rivals.suspicion


def test_losses_that_are_far_apart_or_late_hint_at_nothing() -> None:
    assert not after(*((1.0, n * WINDOW) for n in range(10))).suspicion
    assert not after(*((QUICK_LOSS, float(n)) for n in range(10))).suspicion


def test_a_connection_that_holds_ends_the_suspicion() -> None:
    rivals = after(*((1.0, float(n)) for n in range(SUSPICIOUS_LOSSES)))
    assert rivals.suspicion
    rivals.lost(lasted=QUICK_LOSS, now=500.0)
    assert not rivals.suspicion


def test_a_broker_that_says_so_is_believed_at_once() -> None:
    rivals = Rivals("broker:8883", "bridge")
    assert "Another client" in rivals.taken_over() == rivals.suspicion
