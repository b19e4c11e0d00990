from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.transports.mqtt.sealing import (
    TAG_BYTES,
    NotAuthentic,
    Sealer,
    _place,
    open_proof,
    proves,
    session_key,
)
from s2connect.transports.mqtt.topics import Direction
from tests.transports.mqtt_sessions import OTHER_TOKEN, SID, TOKEN

KINDS = ("data", "accept", "close", "ping", "pong")
TOPIC = "acme/s2/0/x/rm2cem"
kinds = st.sampled_from(KINDS)
places = st.tuples(st.text("ab/é", max_size=6), kinds, st.integers(0, 2**32 - 1))


@pytest.mark.rule("MQ-07")
@given(st.binary(max_size=64), kinds, st.integers(1, 2**32 - 1), st.data())
def test_only_what_was_sealed_for_this_place_is_opened(
    payload: bytes, kind: str, seq: int, data: st.DataObject
) -> None:
    key = session_key(TOKEN, Direction.RM2CEM, SID)
    sealer = Sealer(key, TOPIC)
    sealed = sealer.seal(kind, seq, payload)
    assert len(sealed) == len(payload) + TAG_BYTES
    assert sealer.unseal(kind, seq, sealed) == payload
    at, bit = data.draw(st.integers(0, len(sealed) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(sealed)
    flipped[at] ^= 1 << bit
    other_kind = data.draw(st.sampled_from([other for other in KINDS if other != kind]))
    other_key = session_key(TOKEN, Direction.CEM2RM, SID)
    for attempt in (
        lambda: sealer.unseal(kind, seq, bytes(flipped)),
        lambda: sealer.unseal(kind, seq, sealed[:-1]),
        lambda: sealer.unseal(kind, seq, sealed + b"\0"),
        lambda: sealer.unseal(kind, seq + 1, sealed),
        lambda: sealer.unseal(other_kind, seq, sealed),
        lambda: Sealer(key, TOPIC + "x").unseal(kind, seq, sealed),
        lambda: Sealer(other_key, TOPIC).unseal(kind, seq, sealed),
    ):
        with pytest.raises(NotAuthentic):
            attempt()


@pytest.mark.rule("MQ-07")
@given(places, places)
def test_no_two_places_have_the_same_associated_data(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    data = [_place(topic, kind) + seq.to_bytes(8) for topic, kind, seq in (one, other)]
    assert (data[0] == data[1]) is (one == other)


@pytest.mark.rule("MQ-07")
def test_each_direction_session_token_and_salt_has_a_key_of_its_own() -> None:
    keys = [
        session_key(TOKEN, Direction.RM2CEM, SID),
        session_key(TOKEN, Direction.CEM2RM, SID),
        session_key(TOKEN, Direction.RM2CEM, SID[::-1]),
        session_key(OTHER_TOKEN, Direction.RM2CEM, SID),
        session_key(TOKEN, Direction.RM2CEM, SID, salt=b"1" * 32),
        session_key(TOKEN, Direction.RM2CEM, SID, salt=b"2" * 32),
    ]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {32}


@given(st.binary(max_size=40), st.text(max_size=8))
def test_what_nobody_sealed_gives_the_documented_error(payload: bytes, kind: str) -> None:
    with pytest.raises(NotAuthentic):
        Sealer(bytes(32), TOPIC).unseal(kind, 1, payload)


@pytest.mark.rule("MQ-11")
def test_a_proof_holds_for_its_token_session_client_boot_and_versions_only() -> None:
    parts = [
        open_proof(TOKEN, SID, "mc", "bootboot"),
        open_proof(OTHER_TOKEN, SID, "mc", "bootboot"),
        open_proof(TOKEN, SID[::-1], "mc", "bootboot"),
        open_proof(TOKEN, SID, "mc2", "bootboot"),
        open_proof(TOKEN, SID, "mc", "bootboo2"),
        open_proof(TOKEN, SID, "mc", "bootboot", ["1", "2"]),
        open_proof(TOKEN, SID, "mc", "bootboot", ["2", "1"]),
        open_proof(TOKEN, SID, "mc", "bootboot", ["1"]),
    ]
    assert len(set(parts)) == len(parts)
    assert proves(parts[0], bytes(parts[0]))
    assert not proves(parts[1], parts[0])
    assert not proves(b"", parts[0])


@pytest.mark.rule("SEC-01")
def test_a_sealer_shows_no_key() -> None:
    key = session_key(TOKEN, Direction.RM2CEM, SID)
    assert repr(key) not in repr(Sealer(key, TOPIC))
    assert not hasattr(Sealer(key, TOPIC), "__dict__")
