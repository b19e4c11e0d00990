"""URLs that cannot be wrong ones (VER-03, VER-05)."""

from __future__ import annotations

import contextlib
import copy
import pickle
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.errors import InvalidUrl
from s2connect.model.url import MAX_URL_CHARACTERS, BaseUrl, WebSocketUrl, host_as_ascii
from tests import strategies


@pytest.mark.rule("VER-03", "VER-04")
@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("https://ems.local/", "ems.local", 443),
        ("https://ems.local:8443/pairing/", "ems.local", 8443),
        ("https://EMS.Local:8443/Pairing/", "ems.local", 8443),
        ("https://ems.local.:8443/", "ems.local", 8443),
        ("https://192.168.1.7:8443/", "192.168.1.7", 8443),
        ("https://[::1]:8443/", "::1", 8443),
        ("https://[FE80::1]/pairing/", "fe80::1", 443),
        ("https://bücher.example/", "xn--bcher-kva.example", 443),
        ("https://BÜCHER.example/", "xn--bcher-kva.example", 443),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443),
        ("https://faß.example/", "xn--fa-hia.example", 443),
        ("https://ems.local/v1beta/", "ems.local", 443),
        ("https://ems.local/env1/", "ems.local", 443),
        ("https://ems.local/a%20b/", "ems.local", 443),
    ],
)
def test_good_base_urls(text: str, host: str, port: int) -> None:
    url = BaseUrl(text)
    assert url == text
    assert (url.host, url.port) == (host, port)


@pytest.mark.rule("VER-03")
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("https://ems.local", "https://ems.local/"),
        ("https://ems.local:8443", "https://ems.local:8443/"),
        ("https://ems.local/session", "https://ems.local/session/"),
        ("https://[fe80::1]:8443/s2/session", "https://[fe80::1]:8443/s2/session/"),
    ],
)
def test_the_slash_at_the_end_is_added(text: str, meant: str) -> None:
    assert BaseUrl(text) == BaseUrl(meant) == meant
    assert BaseUrl(text).operation("v1", "x") == f"{meant}v1/x"


@pytest.mark.rule("VER-03", "VER-05")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "ems.local",
        "ems.local/",
        "//ems.local/",
        "http://ems.local/",
        "ftp://ems.local/",
        "wss://ems.local/",
        "javascript://ems.local/",
        "https:ems.local/",
        "https:/ems.local/",
        "https://",
        "https:///",
        "https:///pairing/",
        "https://:8443/",
        "https://./",
        "https://...:8443/",
        "https://ems.local/pairing/?a=b",
        "https://ems.local/pairing/?",
        "https://ems.local/?/",
        "https://ems.local/#/",
        "https://ems.local/#",
        "https://user@ems.local/",
        "https://user:word@ems.local/",
        "https://:@ems.local/",
        "https://@ems.local/",
        "https://ems.local:0/",
        "https://ems.local:65536/",
        "https://ems.local:-1/",
        "https://ems.local:https/",
        "https://ems.local:\uff18443/",
        "https://[::1/",
        "https://[::1]x/",
        "https://[nonsense]/",
        "https://ems .local/",
        "https://ems.local/a b/",
        "https://ems.local/\n/",
        "https://ems.local/\r\nHost: x/",
        "https://ems.local/\x00/",
        "https://ems.local/\x7f/",
        "https://ems.local/\x85/",
        "https://ems.local/\xa0/",
        "https://ems.local\\@evil.example/",
        "https://ems.local/<script>/",
        'https://ems.local/"/',
        "https://ems.local/`id`/",
        "https://ems.local/{x}/",
        "https://ems.local/|/",
        "https://ems℀evil.example/",
        "https://\u200d.example/",
        "https://" + "ä" * 70 + ".example/",
        " https://ems.local/",
        "https://ems.local/ ",
    ],
)
def test_bad_base_urls(text: str) -> None:
    with pytest.raises(InvalidUrl) as caught:
        BaseUrl(text)
    assert len(str(caught.value)) < 300


@pytest.mark.rule("VER-03")
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("https://ems.local/v1/", "https://ems.local/"),
        ("https://ems.local:8443/pairing/v1", "https://ems.local:8443/pairing/"),
        ("https://ems.local/pairing/v12/", "https://ems.local/pairing/"),
        ("https://v1/", "https://v1/"),
        ("https://v1/v1/", "https://v1/"),
    ],
)
def test_a_version_at_the_end_is_left_out_with_a_warning(
    text: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = BaseUrl(text)
    assert url == meant
    assert url.host in ("ems.local", "v1")
    assert (f"which is left out: {meant}" in caplog.text) == (text != meant)


def test_a_password_in_a_url_that_is_refused_is_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidUrl):
        BaseUrl("https://user:word@ems.local/v1/")
    assert caplog.text == ""


@pytest.mark.rule("SEC-03")
def test_the_length_of_a_url_is_bounded() -> None:
    longest = "https://ems.local/" + "a" * (MAX_URL_CHARACTERS - 19) + "/"
    assert len(BaseUrl(longest)) == MAX_URL_CHARACTERS
    with pytest.raises(InvalidUrl, match="longer than"):
        BaseUrl(longest + "/")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ems.local", "https://ems.local/"),
        ("  ems.local:8443/pairing \n", "https://ems.local:8443/pairing/"),
        ("https://ems.local/pairing", "https://ems.local/pairing/"),
        ("https://ems.local/pairing/", "https://ems.local/pairing/"),
        ("https://ems.local/pairing/v1", "https://ems.local/pairing/"),
        ("https://ems.local/pairing/v1/", "https://ems.local/pairing/"),
        ("ems.local/v2/", "https://ems.local/"),
        ("[fe80::1]:8443/pairing", "https://[fe80::1]:8443/pairing/"),
        ("192.168.1.7", "https://192.168.1.7/"),
        ("bücher.example", "https://bücher.example/"),
    ],
)
def test_what_people_type_is_mended(typed: str, meant: str) -> None:
    assert BaseUrl.from_user(typed) == meant


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ems.local", "https://ems.local:8443/pairing/"),
        ("ems.local/", "https://ems.local:8443/pairing/"),
        ("https://ems.local", "https://ems.local:8443/pairing/"),
        ("ems.local:9000", "https://ems.local:9000/pairing/"),
        ("ems.local/pairing", "https://ems.local:8443/pairing/"),
        ("localhost:443", "https://localhost:443/pairing/"),
        ("ems.fritz.box", "https://ems.fritz.box:8443/pairing/"),
        ("192.168.1.7", "https://192.168.1.7:8443/pairing/"),
        ("192.168.1.7/s2/pairing", "https://192.168.1.7:8443/s2/pairing/"),
        ("fe80::1", "https://[fe80::1]:8443/pairing/"),
        ("[fe80::1]:9000", "https://[fe80::1]:9000/pairing/"),
        # As it stands there: the standard's own port, and another maker's path.
        ("https://ems.local/pairing/", "https://ems.local/pairing/"),
        ("https://ems.local:9000/s2/", "https://ems.local:9000/s2/"),
        ("https://ems.local:9000/", "https://ems.local:9000/"),
        ("https://ems.local:9000/v1/", "https://ems.local:9000/"),
        ("cloud.example/pairing/v1", "https://cloud.example/pairing/"),
        ("server", "https://server:8443/pairing/"),
        ("gateway-2", "https://gateway-2:8443/pairing/"),
    ],
)
def test_what_a_pairing_url_lacks_is_added(typed: str, meant: str) -> None:
    assert BaseUrl.of_pairing(typed) == meant


@pytest.mark.parametrize(
    "typed",
    [
        "7K4M-9QRT-2XYZ",
        "7k4m 9qrt 2xyz",
        "7k4m9qrt2xyz",
        "A-7K4M-9QRT",
        "ABCDEFGH",
        "ABCD-EFGH-JKMN",
        "BZBV 8ECT T173",
        "ABCD EFGH JKMN",
        " 7K4M9QRT\n",
    ],
)
def test_a_code_in_place_of_the_url_is_recognised(typed: str) -> None:
    with pytest.raises(InvalidUrl, match="looks like a pairing code"):
        BaseUrl.of_pairing(typed)


@given(st.text(max_size=60))
def test_any_text_is_a_pairing_url_or_an_invalid_url(text: str) -> None:
    try:
        url = BaseUrl.of_pairing(text)
    except InvalidUrl:
        return
    assert BaseUrl.of_pairing(str(url)) == url
    assert urlsplit(url).path not in ("", "/") or "://" in text


@pytest.mark.rule("VER-05")
@pytest.mark.parametrize("typed", ["http://ems.local/pairing/", "HTTP://ems.local", " http://ems.local"])
def test_plain_http_is_refused_with_a_word_on_what_to_do(typed: str) -> None:
    with pytest.raises(InvalidUrl, match="https://") as caught:
        BaseUrl.from_user(typed)
    assert "plain http" in caught.value.what


@pytest.mark.parametrize(
    "typed", ["", "   ", "wss://ems.local", "ems.local?x=1", "ems.local#top", "a b", "me@ems.local"]
)
def test_what_cannot_be_mended_is_refused(typed: str) -> None:
    with pytest.raises(InvalidUrl):
        BaseUrl.from_user(typed)


@given(st.text(max_size=60))
def test_any_text_a_person_types_is_a_url_or_an_invalid_url(text: str) -> None:
    try:
        url = BaseUrl.from_user(text)
    except InvalidUrl:
        return
    assert BaseUrl(str(url)) == url


@given(
    st.text("htps:/.@[]?#%v1ä\\-_~ 0local", max_size=30).map("https://{}".format)
    | st.text(max_size=40).map("https://{}/".format)
)
def test_any_text_is_a_base_url_or_an_invalid_url(text: str) -> None:
    try:
        url = BaseUrl(text)
    except InvalidUrl:
        return
    parts = urlsplit(url)
    assert parts.scheme == "https"
    assert url.host
    assert url.host.isascii()
    assert 0 < url.port < 65536
    assert url.endswith("/")
    assert not parts.query
    assert not parts.username
    assert not parts.fragment


@given(strategies.base_urls())
def test_well_formed_base_urls_are_taken_as_they_are(text: str) -> None:
    url = BaseUrl(text)
    assert str(url) == text
    assert url.operation("v1", "requestPairing") == f"{text}v1/requestPairing"
    assert BaseUrl.from_user(text) == url


@pytest.mark.rule("WS-01")
@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("wss://ems.local/ws", "ems.local", 443),
        ("wss://ems.local:8443/v1/ws?node=7", "ems.local", 8443),
        ("wss://[::1]:8443", "::1", 8443),
        ("wss://ems.local", "ems.local", 443),
    ],
)
def test_good_websocket_urls(text: str, host: str, port: int) -> None:
    url = WebSocketUrl(text)
    assert (url, url.host, url.port) == (text, host, port)


@pytest.mark.rule("WS-01", "VER-05")
@pytest.mark.parametrize(
    "text",
    [
        "ws://ems.local/",
        "https://ems.local/",
        "ems.local",
        "wss://",
        "wss://u@ems.local/",
        "wss://ems.local/#x",
        "wss://a b/",
    ],
)
def test_bad_websocket_urls(text: str) -> None:
    with pytest.raises(InvalidUrl):
        WebSocketUrl(text)


@pytest.mark.rule("HMAC-02")
@pytest.mark.parametrize(
    ("host", "ascii_host"),
    [
        ("EMS.example", "ems.example"),
        ("ems.example.", "ems.example"),
        ("Bücher.Example", "xn--bcher-kva.example"),
        ("食べ物.example", "xn--59j689q5dya.example"),
        ("bücher。example", "xn--bcher-kva.example"),
    ],
)
def test_hosts_are_written_in_ascii(host: str, ascii_host: str) -> None:
    assert host_as_ascii(host) == ascii_host


@pytest.mark.parametrize("host", ["", ".", "ä" * 64, "a\u200db.ä", "a..\u2603"])
def test_what_is_no_host_is_an_invalid_url(host: str) -> None:
    with pytest.raises(InvalidUrl):
        host_as_ascii(host)


@given(st.text(max_size=30))
def test_any_text_is_an_ascii_host_or_an_invalid_url(host: str) -> None:
    with contextlib.suppress(InvalidUrl):
        assert host_as_ascii(host).isascii()


def test_urls_are_copied_whole() -> None:
    url = BaseUrl("https://ems.local:8443/")
    for again in (copy.copy(url), copy.deepcopy(url), pickle.loads(pickle.dumps(url))):
        assert (again, again.host, again.port) == (url, "ems.local", 8443)


@pytest.mark.parametrize("code", ["4KX7 9M2P QRST", "4kx7\u20139m2p\u2013qrst", "2-4KX7 9M2P QRST", "4KX79M2PQRST"])
def test_a_code_typed_in_place_of_a_url_is_recognised_however_it_is_typed(code: str) -> None:
    with pytest.raises(InvalidUrl, match="looks like a pairing code"):
        BaseUrl.of_pairing(code)
