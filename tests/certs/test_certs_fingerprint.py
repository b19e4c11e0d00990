"""``certificateFingerprint`` is written as the standard has it, and read in every spelling (TRUST-07)."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.certs.fingerprint import fingerprint_map, parse_fingerprint_map

DIGEST = hashlib.sha256(b"").digest()
HEX = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
COLONS = ":".join(HEX[i : i + 2] for i in range(0, 64, 2))
URL_SAFE = str.maketrans("+/", "-_")
BASE64 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


@pytest.mark.rule("TRUST-07")
def test_a_fingerprint_is_written_as_the_standard_shows_it() -> None:
    assert fingerprint_map(DIGEST) == {"SHA256": COLONS.upper(), "SHA265": COLONS.upper()}
    with pytest.raises(ValueError, match="32 bytes"):
        fingerprint_map(DIGEST[:20])


@pytest.mark.rule("TRUST-07")
@pytest.mark.parametrize("key", ["SHA256", "sha256", "Sha256", "SHA-256", "sha_256", "SHA265", "sha-265"])
@pytest.mark.parametrize(
    "value",
    [HEX, HEX.upper(), COLONS, COLONS.upper(), f"{HEX}\n", BASE64, BASE64.rstrip("="), BASE64.translate(URL_SAFE)],
)
def test_fingerprints_are_read_in_all_spellings(key: str, value: str) -> None:
    assert parse_fingerprint_map({"SHA1": "00", key: value}) == DIGEST
    assert parse_fingerprint_map({"sha256": HEX, key: value}) == DIGEST


@pytest.mark.rule("TRUST-07")
def test_no_fingerprint_is_none() -> None:
    for nothing in (None, {}, {"SHA512": HEX * 2}):
        assert parse_fingerprint_map(nothing) is None


@pytest.mark.rule("TRUST-07")
@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        HEX[:-2],
        HEX[:-1],
        HEX + "00",
        BASE64[:-2] + "==",
        BASE64[4:],
        BASE64 + "AAAA",
        BASE64.replace("+", "*", 1),
        HEX[:-1] + "g",
        HEX[:2] + " " + HEX[2:],
        HEX[:2] + ":" + HEX[2:],
        ":" + COLONS,
        COLONS + ":",
        COLONS.replace(":", "::", 1),
        "é" * 64,
        "\u0663" * 64,
    ],
)
def test_what_is_no_sha256_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        parse_fingerprint_map({"SHA256": value})


@pytest.mark.rule("TRUST-07")
def test_two_fingerprints_must_agree() -> None:
    with pytest.raises(ValueError, match="two different"):
        parse_fingerprint_map({"SHA256": HEX, "SHA265": "00" * 32})


@given(st.binary(min_size=32, max_size=32))
def test_what_is_written_can_be_read(digest: bytes) -> None:
    assert parse_fingerprint_map(fingerprint_map(digest)) == digest
