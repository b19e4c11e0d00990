"""Challenge and response (HMAC), against what the openssl command computes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.errors import InvalidUrl
from s2connect.model.secret import HmacChallenge, HmacChallengeResponse
from s2connect.pairing.challenge import lan_binding, matches, respond, wan_binding
from s2connect.pairing.code import PairingToken
from tests import strategies

# printf '%s' "5hK7Zz" | cat - <(xxd -r -p <<< $F) | openssl dgst -sha256 -mac HMAC -macopt hexkey:$C -binary | base64
# with C = 00 01 … 1f, F = 20 21 … 3f; and with the text "ems.example" in place of F.
C = bytes(range(32))
F = bytes(range(32, 64))
LAN_RESPONSE = "w/pI/KWv27DdwlbGHfcnX9LNMSR9fQbdVBfcxaj0M4c="
WAN_RESPONSE = "gYIfKwu1g0yq4CFEKXh4OMmR5BF5aALozb72Lz5VESM="


def _challenge(raw: bytes = C) -> HmacChallenge:
    return HmacChallenge.from_bytes(raw)


@pytest.mark.rule("HMAC-02", "HMAC-03")
def test_the_response_in_the_lan_is_bound_to_the_leaf_certificate() -> None:
    assert respond(_challenge(), PairingToken("5hK7Zz"), lan_binding(F)).reveal() == LAN_RESPONSE


@pytest.mark.rule("HMAC-02", "HMAC-03")
@pytest.mark.parametrize("host", ["ems.example", "EMS.Example", "ems.example."])
def test_the_response_in_the_wan_is_bound_to_the_host_name(host: str) -> None:
    assert respond(_challenge(), PairingToken("5hK7Zz"), wan_binding(host)).reveal() == WAN_RESPONSE


@pytest.mark.rule("HMAC-02")
def test_an_international_host_name_is_bound_as_a_label() -> None:
    assert wan_binding("Bücher.Example") == b"xn--bcher-kva.example"
    with pytest.raises(InvalidUrl):
        wan_binding("ä" * 70)


@pytest.mark.rule("HMAC-02")
@pytest.mark.parametrize("length", [0, 20, 31, 33, 64])
def test_only_a_sha256_fingerprint_binds(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        lan_binding(bytes(length))


@pytest.mark.rule("HMAC-02")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("in_wan", [False, True])
def test_responses_are_those_of_openssl(seed: int, in_wan: bool) -> None:
    key = hashlib.shake_256(b"key%d" % seed).digest(32 + 17 * seed)  # the longest is longer than a block
    token = "".join(strategies.ALPHANUMERIC[b % 62] for b in hashlib.sha256(b"token%d" % seed).digest()[: 4 + seed * 7])
    host = f"ems-{seed}.example"
    fingerprint = hashlib.sha256(b"leaf%d" % seed).digest()
    message = token.encode() + (host.encode() if in_wan else fingerprint)
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-binary"]
    expected = subprocess.run(command, input=message, capture_output=True, check=True).stdout
    binding = wan_binding(host) if in_wan else lan_binding(fingerprint)
    assert respond(_challenge(key), PairingToken(token), binding).raw == expected


@given(strategies.tokens, strategies.tokens, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=40))
def test_another_token_or_certificate_gives_another_response(one: str, two: str, leaf: bytes, key: bytes) -> None:
    mine = respond(_challenge(key), PairingToken(one), lan_binding(leaf))
    assert matches(mine, respond(_challenge(key), PairingToken(one), lan_binding(leaf)))
    assert matches(mine, respond(_challenge(key), PairingToken(two), lan_binding(leaf))) == (one == two)
    other = bytes([leaf[0] ^ 1]) + leaf[1:]
    assert not matches(mine, respond(_challenge(key), PairingToken(one), lan_binding(other)))


@pytest.mark.rule("HMAC-04", "TOK-06")
def test_responses_are_compared_by_the_function_that_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(one: bytes, two: bytes) -> bool:
        seen.append((one, two))
        return real(one, two)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    mine, theirs = HmacChallengeResponse.from_bytes(C), HmacChallengeResponse.from_bytes(F)
    assert matches(mine, mine)
    assert not matches(mine, theirs)
    assert seen == [(C, C), (C, F)]


@pytest.mark.rule("HMAC-04")
@pytest.mark.parametrize("length", [1, 31, 33, 64])
def test_a_response_of_another_length_does_not_match(length: int) -> None:
    assert not matches(
        HmacChallengeResponse.from_bytes(C), HmacChallengeResponse.from_bytes(C[:length].ljust(length, b"x"))
    )


def test_the_padding_of_base64_does_not_matter_for_equal_bytes() -> None:
    text = base64.b64encode(C).decode()
    assert matches(HmacChallengeResponse(text), HmacChallengeResponse(f" {text}\n"))
