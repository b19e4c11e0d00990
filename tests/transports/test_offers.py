"""Tokens of a communication server: one connection, at most 30 seconds."""

from __future__ import annotations

import base64
from uuid import UUID

import pytest

from s2connect.errors import SessionRefused
from s2connect.model.common import NodeId
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.offers import TOKEN_BYTES, OfferTable

INFO = ConnectionInfo("WebSocket", NodeId(UUID(int=1)), NodeId(UUID(int=2)), "v1.0.0")


def random(number: int) -> bytes:
    return bytes([number]) * TOKEN_BYTES


@pytest.mark.rule("SES-04", "WS-02")
def test_a_token_has_32_bytes_and_opens_once() -> None:
    table = OfferTable()
    token, key, _ = table.open(INFO, now=100, random=random(1))
    assert len(base64.b64decode(token.reveal())) == 32
    assert table.valid(token.reveal(), now=101)
    assert table.enter(token.reveal(), now=101) == (key, INFO)
    assert table.enter(token.reveal(), now=101) is None
    assert not table.valid(token.reveal(), now=101)


@pytest.mark.rule("SES-04", "WS-02")
def test_a_token_is_void_after_30_seconds() -> None:
    table = OfferTable()
    early, _, _ = table.open(INFO, now=0, random=random(1))
    late, _, shut = table.open(INFO, now=0, random=random(2))
    assert shut == 30
    assert table.enter(early.reveal(), now=29.9) is not None
    assert not table.valid(late.reveal(), now=30)
    assert table.enter(late.reveal(), now=30) is None


@pytest.mark.rule("WS-02")
@pytest.mark.parametrize("presented", ["", "x", "\udce4", base64.b64encode(random(9)).decode()])
def test_a_wrong_token_opens_nothing(presented: str) -> None:
    table = OfferTable()
    table.open(INFO, now=0, random=random(1))
    assert table.enter(presented, now=0) is None
    assert len(table) == 1


@pytest.mark.rule("SEC-03")
def test_open_doors_are_bounded_and_expired_ones_make_room() -> None:
    table = OfferTable(limit=2)
    table.open(INFO, now=0, random=random(1))
    table.open(INFO, now=0, random=random(2))
    with pytest.raises(SessionRefused):
        table.open(INFO, now=29, random=random(3))
    table.open(INFO, now=30, random=random(3))
    assert len(table) == 1


def test_a_withdrawn_door_is_shut() -> None:
    table = OfferTable()
    token, key, _ = table.open(INFO, now=0, random=random(1))
    table.withdraw(key)
    table.withdraw(key)
    assert table.enter(token.reveal(), now=0) is None


@pytest.mark.rule("SEC-01")
def test_the_table_does_not_keep_the_token_itself() -> None:
    table = OfferTable()
    token, _, _ = table.open(INFO, now=0, random=random(1))
    assert token.reveal() not in repr(vars(table))
    assert random(1) not in table._doors
