"""The TXT record and the views of an endpoint: pure."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.discovery.txt import (
    MAX_ENTRY_BYTES,
    Advertisement,
    FoundEndpoint,
    Txt,
    TxtRefused,
    decode_txt,
    encode_txt,
)
from s2connect.errors import ConfigurationError
from s2connect.model.common import Role
from s2connect.model.url import BaseUrl
from tests.discovery.advertisements import advertisement

PAIRING = "https://evse.local:8443/pairing/"
POLLING = "https://ems.local/pairing/"


def record(*entries: bytes) -> bytes:
    return b"".join(bytes([len(entry)]) + entry for entry in entries)


@pytest.mark.rule("DISC-03")
def test_a_record_is_written_as_the_standard_says() -> None:
    txt = Txt(
        name="Home",
        logo_url="https://x.example/l.png",
        pairing_url=BaseUrl(PAIRING),
        longpolling_url=BaseUrl(POLLING),
    )
    assert encode_txt(txt) == record(
        b"txtver=1",
        b"e_name=Home",
        b"e_logoUrl=https://x.example/l.png",
        b"pairingUrl=https://evse.local:8443/pairing/",
        b"longpollingUrl=https://ems.local/pairing/",
        b"deployment=LAN",
    )


USABLE = {
    "the standard's": [b"txtver=1", b"pairingUrl=" + PAIRING.encode()],
    "a URL without its slash": [b"txtver=1", b"pairingUrl=" + PAIRING.encode().removesuffix(b"/")],
    "the version as Avahi's example spells it": [b"txtvers=1", b"pairingUrl=" + PAIRING.encode()],
    "keys in another case": [b"TXTVER=1", b"PairingURL=" + PAIRING.encode()],
    "unknown keys": [b"txtver=1", b"colour=red", b"pairingUrl=" + PAIRING.encode()],
    "no '='": [b"txtver=1", b"flag", b"", b"=", b"=x", b"pairingUrl=" + PAIRING.encode()],
    "the first of equal keys": [
        b"txtver=1",
        b"txtver=2",
        b"pairingUrl=" + PAIRING.encode(),
        b"pairingUrl=https://evil.local/",
    ],
    "a name that is no UTF-8": [b"txtver=1", b"e_name=\xff\xfe", b"pairingUrl=" + PAIRING.encode()],
    "another URL that is none": [b"txtver=1", b"longpollingUrl=http://x/", b"pairingUrl=" + PAIRING.encode()],
    "a logo that is no web address": [b"txtver=1", b"e_logoUrl=javascript:1", b"pairingUrl=" + PAIRING.encode()],
    "a logo that is no URL": [b"txtver=1", b"e_logoUrl=https://[", b"pairingUrl=" + PAIRING.encode()],
}


@pytest.mark.rule("DISC-03")
@pytest.mark.parametrize("entries", USABLE.values(), ids=USABLE)
def test_a_record_with_faults_is_read_as_far_as_it_goes(entries: list[bytes]) -> None:
    assert decode_txt(record(*entries)) == Txt(pairing_url=BaseUrl(PAIRING))


REFUSED = {
    "another version": (record(b"txtver=2", b"pairingUrl=" + PAIRING.encode()), "it is of version '2'"),
    "a version with control characters": (record(b"txtver=\x1b[31m", b"a=b"), "it is of version '[31m'"),
    "no version": (record(b"pairingUrl=" + PAIRING.encode()), "it does not name its version"),
    "nothing": (b"", "it does not name its version"),
    "no URL": (record(b"txtver=1", b"e_name=x"), "it has no usable URL"),
    "plain http": (record(b"txtver=1", b"pairingUrl=http://x.local/"), "it has no usable URL"),
    "an entry that is cut off": (b"\x08txtver=1\xffpairingUrl=" + PAIRING.encode(), "it has no usable URL"),
}


@pytest.mark.rule("DISC-03")
@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_record_that_tells_nothing_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(TxtRefused) as refusal:
        decode_txt(data)
    assert str(refusal.value) == reason


@pytest.mark.rule("DISC-03", "SEC-03")
@given(st.binary(max_size=2000) | st.lists(st.binary(max_size=255)).map(lambda entries: record(*entries)))
def test_any_bytes_give_a_record_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(TxtRefused):
        txt = decode_txt(data)
        assert txt.pairing_url or txt.longpolling_url


_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.rule("DISC-03")
@given(name=_names, logo=st.none() | st.just("https://x.example/l.png"))
def test_what_is_written_is_read_back(name: str, logo: str | None) -> None:
    txt = Txt(name=name, logo_url=logo, pairing_url=BaseUrl(PAIRING))
    assert decode_txt(encode_txt(txt)) == txt


@pytest.mark.rule("DISC-03")
@pytest.mark.parametrize(
    ("field", "key", "value"),
    [
        ("name", "e_name", "ä" * 124 + "b"),
        ("logo_url", "e_logoUrl", "https://x.example/" + "l" * 250),
        ("pairing_url", "pairingUrl", BaseUrl("https://x.local/" + "p" * 240 + "/")),
    ],
)
def test_an_entry_that_is_too_long_is_refused_by_its_key(field: str, key: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"of {key} is too long"):
        advertisement(**{field: value})


@pytest.mark.rule("DISC-03")
def test_an_entry_of_exactly_255_bytes_is_written() -> None:
    name = "n" * (MAX_ENTRY_BYTES - len("e_name="))
    assert b"\xffe_name=" + name.encode() in encode_txt(advertisement(name=name))


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "ems"},
        {"host": "ems.example.org"},
        {"host": "a.b.local"},
        {"host": "-ems.local"},
        {"host": "e" * 64 + ".local"},
        {"host": "ems\x1b.local"},
        {"port": 0},
        {"port": 70000},
        {"pairing_url": None},
        {"name": "\ud800"},
    ],
)
def test_what_cannot_be_advertised_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        dataclasses.replace(advertisement(), **changes)


@pytest.mark.rule("DISC-05")
def test_only_a_cem_advertises_long_polling() -> None:
    changes: dict[str, Any] = {"longpolling_url": BaseUrl(POLLING)}
    assert advertisement(**changes).longpolling_url == POLLING
    with pytest.raises(ConfigurationError, match="CEM"):
        advertisement(roles=frozenset([Role.RM]), **changes)


@pytest.mark.rule("DISC-01")
def test_the_instance_name_is_the_first_label_of_the_host_name() -> None:
    made: Advertisement = advertisement("Ems-1.local")
    assert made.instance == "Ems-1"
    assert made.service == "Ems-1._s2connect._tcp.local."


@pytest.mark.rule("SEC-03")
def test_the_title_of_an_endpoint_is_fit_for_a_terminal_and_the_name_stays_raw() -> None:
    found = FoundEndpoint(
        instance="x\x1b]0;t\x07",
        name="\x1b[2J\u202e" + "n" * 300,
        roles=frozenset(),
        pairing_url=None,
        longpolling_url=BaseUrl(POLLING),
        logo_url=None,
        host="",
        addresses=(),
    )
    assert found.name.startswith("\x1b")
    assert found.title.isprintable()
    assert len(found.title) <= 80
    assert dataclasses.replace(found, name="").title.isprintable()
