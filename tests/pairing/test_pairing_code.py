"""Tokens, aliases and codes (TOK)."""

from __future__ import annotations

import math
import re
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.errors import InvalidPairingCode
from s2connect.model.alphabet import ALPHABET, MAX_ALIAS_CHARACTERS, free_aliases, in_our_alphabet, with_plain_dashes
from s2connect.pairing.code import (
    DYNAMIC_LIFETIME,
    MAX_FAILED_ATTEMPTS,
    MAX_TOKEN_CHARACTERS,
    TOKEN_CHARACTERS,
    AfterFailure,
    PairingCode,
    PairingToken,
    TokenTable,
    in_groups,
)
from tests import strategies

STANDARD = re.compile(r"^([0-9a-zA-Z]+-)?[0-9a-zA-Z]{4,}$", re.ASCII)
"""The expression of the standard (TOK-04)."""


@pytest.mark.rule("TOK-04")
@pytest.mark.parametrize(
    ("text", "alias", "token"),
    [
        ("5hK7", None, "5hK7"),
        ("A0-5hK7", "A0", "5hK7"),
        ("a-AAAA", "a", "AAAA"),
        ("1234-5678", "1234", "5678"),
        ("x" * 128, None, "x" * 128),
        (" 5h K7\n", None, "5hK7"),
        ("A0 - 5hK7\t", "A0", "5hK7"),
        ("5h\u00a0K7", None, "5hK7"),
    ],
)
def test_codes_are_split_at_the_dash(text: str, alias: str | None, token: str) -> None:
    code = PairingCode.parse(text)
    assert (code.alias, code.token.reveal(), code.expires_in) == (alias, token, None)


@pytest.mark.rule("TOK-04", "TOK-06")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "a-abc",
        "-abcd",
        "abcd-",
        "--abcd",
        "a-b-abcd",
        "A_0-5hK7",
        "5hK7!",
        "5hKä",
        "٣٣٣٣",
        "5hK7\x00",
        "a\u200bbcd",
        "x" * 129,
        "x" * 129 + "-abcd",
        "x" * 1000000,
    ],
    ids=lambda text: repr(text[:14]),
)
def test_what_is_no_code_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidPairingCode) as caught:
        PairingCode.parse(text)
    assert not text or text not in str(caught.value)


@pytest.mark.rule("TOK-04")
@given(st.text(strategies.ALPHANUMERIC + "-", max_size=20) | st.text(max_size=20))
def test_codes_are_those_of_the_expression_of_the_standard_and_ours_in_groups(text: str) -> None:
    plain = with_plain_dashes("".join(text.split()))
    try:
        code = PairingCode.parse(text)
    except InvalidPairingCode:
        assert not STANDARD.fullmatch(plain)
    else:
        assert STANDARD.fullmatch(str(code))
        if STANDARD.fullmatch(plain) and len(code.token.reveal()) != TOKEN_CHARACTERS:
            assert str(code) == plain


@pytest.mark.rule("TOK-04")
@pytest.mark.parametrize(
    ("text", "alias", "tokens"),
    [
        ("4KX7 9M2P QRST", None, ["4KX79M2PQRST"]),
        ("4KX79M2PQRST", None, ["4KX79M2PQRST"]),
        ("4KX7-9M2P-QRST", None, ["4KX79M2PQRST"]),
        ("4KX7\u20139M2P\u2014QRST", None, ["4KX79M2PQRST"]),  # en dash, em dash
        ("4kx7 - 9m2p - qrst", None, ["4KX79M2PQRST"]),
        ("4kx7\u00a09m2p\u202fqrst\n", None, ["4KX79M2PQRST", "4kx79m2pqrst"]),
        ("O1IL oi1l 0000", None, ["011101110000", "O1ILoi1l0000"][::-1]),
        ("1-4KX7 9M2P QRST", "1", ["4KX79M2PQRST"]),
        ("1 \u2212 4KX7 9M2P QRST", "1", ["4KX79M2PQRST"]),  # minus
        ("1 4KX7 9M2P QRST", "1", ["4KX79M2PQRST"]),
        ("ab-4kx7-9m2p-qrst", "AB", ["4KX79M2PQRST"]),
        ("ab-4kx79m2pqrst", "ab", ["4KX79M2PQRST", "4kx79m2pqrst"]),
        # Of others: as they are
        ("4kX7-9m2PqrsT", "4kX7", ["9m2PqrsT"]),
        ("4KX79M2P-QRST", "4KX79M2P", ["QRST"]),
        ("4kX79M2PqrST", None, ["4kX79M2PqrST", "4KX79M2PQRST"]),
        ("oil-OIL0", "oil", ["OIL0"]),
        ("UUUUUUUUUUUU", None, ["UUUUUUUUUUUU"]),
        ("a\u2010bCdE", "a", ["bCdE"]),
    ],
)
def test_codes_of_ours_are_read_as_people_type_them_and_those_of_others_as_they_are(
    text: str, alias: str | None, tokens: list[str]
) -> None:
    code = PairingCode.parse(text)
    assert (code.alias, [token.reveal() for token in code.tokens]) == (alias, tokens)


_TYPOS = {"0": "0Oo", "1": "1IiLl"}


@st.composite
def _typed(draw: st.DrawFn) -> tuple[str, str, str]:
    """Draw a code of ours, and how a person types it: any case, blanks anywhere, any dash, look-alikes."""
    token = draw(st.text(ALPHABET, min_size=TOKEN_CHARACTERS, max_size=TOKEN_CHARACTERS))
    alias = draw(st.sampled_from(["", *list(free_aliases(()))[:600]]))
    dash = st.sampled_from(["", " ", "\t", "\u00a0", "-", "\u2010", "\u2013", " \u2014 ", "\u2212"])
    between = draw(st.sampled_from([[draw(dash)] * 2, ["", ""]]))
    typed = draw(dash.filter(str.strip)) if alias else ""
    for at, character in enumerate(token):
        typed += between[at // 4 - 1] if at in (4, 8) else draw(st.sampled_from(["", "", "", " "]))
        typed += draw(st.sampled_from(_TYPOS.get(character, character + character.lower())))
    return alias, token, "".join(draw(st.sampled_from([c, c.lower()])) for c in alias) + typed


@pytest.mark.rule("TOK-04")
@given(_typed())
def test_a_code_of_ours_is_understood_however_it_is_typed(typed: tuple[str, str, str]) -> None:
    alias, token, text = typed
    code = PairingCode.parse(text)
    assert in_our_alphabet(code.alias or "") == in_our_alphabet(alias)
    assert token in [one.reveal() for one in code.tokens]
    plain = with_plain_dashes("".join(text.split()))
    if STANDARD.fullmatch(plain):  # what another maker may have meant by it
        assert plain.rpartition("-")[2] in [one.reveal() for one in code.tokens]


@pytest.mark.rule("TOK-04")
@given(st.from_regex(r"\A([0-9a-zA-Z]{1,8}-)?[0-9a-zA-Z]{4,16}\Z"))
def test_a_code_of_another_maker_is_tried_as_it_is(text: str) -> None:
    code = PairingCode.parse(text)
    assert (code.alias or "", text.rpartition("-")[2]) in [(code.alias or "", one.reveal()) for one in code.tokens]
    assert (code.alias or "") == text.rpartition("-")[0]


@pytest.mark.rule("TOK-01", "TOK-05")
def test_codes_are_shown_in_groups_of_four_and_have_16_characters_to_type_at_most() -> None:
    token = PairingToken.generate()
    shown = PairingCode(token).shown
    assert re.fullmatch(rf"[{ALPHABET}]{{4}} [{ALPHABET}]{{4}} [{ALPHABET}]{{4}}", shown)
    assert len(shown) == 14
    assert len(PairingCode(token, "9").shown) == 16
    assert MAX_ALIAS_CHARACTERS + len("-") + TOKEN_CHARACTERS == 16
    assert PairingCode.parse(PairingCode(token, "AB").shown) == PairingCode(token, "AB")


@pytest.mark.parametrize("code", ["5hK7", "1-5hK7", "abcdefghjkmn", "ABCDEFGHIJKL", "sticker-OFOURS2026"])
def test_codes_in_another_form_are_shown_as_they_are(code: str) -> None:
    assert in_groups(code) == code


def test_a_token_that_a_user_has_chosen_stays_as_it_is() -> None:
    assert PairingCode.chosen("abcdefghjkmn").reveal() == "abcdefghjkmn"
    assert PairingCode.chosen("4kx7-9m2p-qrst").reveal() == "4KX79M2PQRST"
    with pytest.raises(InvalidPairingCode):
        PairingCode.chosen("no_code")


@pytest.mark.parametrize("text", ["https://ems.local:8443/pairing/", "ems.local", "localhost:8443", "192.168.1.7"])
def test_a_url_in_place_of_the_code_is_recognised(text: str) -> None:
    with pytest.raises(InvalidPairingCode, match="looks like a URL"):
        PairingCode.parse(text)


@pytest.mark.rule("TOK-01")
@pytest.mark.parametrize("text", ["", "abc", "ab-d", "abcd ", "äbcd", "abc\n", "x" * (MAX_TOKEN_CHARACTERS + 1)])
def test_tokens_are_at_least_four_letters_or_digits(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid pairing token"):
        PairingToken(text)


@pytest.mark.rule("TOK-01", "TOK-05")
def test_tokens_we_draw_come_from_the_operating_system_and_have_60_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(ALPHABET)) == len(ALPHABET)
    assert TOKEN_CHARACTERS * math.log2(len(ALPHABET)) >= 60
    assert not set("OILU") & set(ALPHABET)
    drawn: list[str] = []
    real = secrets.choice

    def choice(characters: str) -> str:
        drawn.append(real(characters))
        return drawn[-1]

    monkeypatch.setattr(secrets, "choice", choice)
    tokens = [PairingToken.generate().reveal() for _ in range(200)]
    assert "".join(tokens) == "".join(drawn)
    assert len(set(tokens)) == 200
    assert all(len(token) == TOKEN_CHARACTERS and set(token) <= set(ALPHABET) for token in tokens)


def _token(text: str = "abcd") -> PairingToken:
    return PairingToken(text)


@pytest.mark.rule("TOK-02")
def test_a_dynamic_token_counts_for_five_minutes() -> None:
    assert DYNAMIC_LIFETIME == 300
    table = TokenTable()
    issued = table.issue(_token(), now=100, lifetime=DYNAMIC_LIFETIME)
    assert table.valid(now=100) is issued
    assert table.valid(now=399.999) is issued
    assert table.valid(now=400) is None
    assert not issued.void, "expiry is checked in requestPairing only"


@pytest.mark.rule("TOK-01", "TOK-02")
def test_a_static_token_has_six_characters_and_does_not_expire() -> None:
    table = TokenTable()
    with pytest.raises(InvalidPairingCode, match="too short"):
        table.issue(_token("abcde"), now=0, lifetime=None)
    assert table.valid(now=0) is None
    issued = table.issue(_token("abcdef"), now=0, lifetime=None)
    assert issued.static
    assert table.valid(now=1e9) is issued
    table.spend(issued)
    assert table.valid(now=1e9) is issued
    after = [table.failed(issued) for _ in range(MAX_FAILED_ATTEMPTS * 2)]
    assert after == [AfterFailure.NOTHING] * 4 + [AfterFailure.TELL] + [AfterFailure.NOTHING] * 5
    assert table.valid(now=1e9) is issued


@pytest.mark.rule("TOK-02")
def test_the_dynamic_token_counts_before_the_static_one_while_it_lives() -> None:
    table = TokenTable()
    static = table.issue(_token("static6"), now=0, lifetime=None)
    dynamic = table.issue(_token(), now=0, lifetime=10)
    assert table.valid(now=9.9) is dynamic
    assert table.valid(now=10) is static
    table.withdraw()
    assert table.valid(now=1) is static
    assert dynamic.void


@pytest.mark.rule("TOK-05")
def test_a_dynamic_token_is_spent_once_used() -> None:
    table = TokenTable()
    issued = table.issue(_token(), now=0, lifetime=10)
    table.spend(issued)
    assert table.valid(now=0) is None
    assert issued.void


@pytest.mark.rule("TOK-02", "TOK-05")
def test_a_token_that_is_replaced_is_not_void_and_can_be_spent_once() -> None:
    table = TokenTable()
    old = table.issue(_token(), now=0, lifetime=10)
    new = table.issue(_token("efgh"), now=0, lifetime=10)
    assert (old.void, new.void) == (False, False)
    assert table.valid(now=0) is new
    table.spend(old)
    assert (old.void, new.void) == (True, False)
    assert table.valid(now=0) is new
    static = table.issue(_token("static6"), now=0, lifetime=None)
    assert (new.void, table.valid(now=0)) == (False, static)
    assert [table.failed(new) for _ in range(6)] == [AfterFailure.NOTHING] * 6, "nobody sees that code any more"
    assert new.void


@pytest.mark.rule("TOK-05")
def test_a_short_dynamic_token_is_withdrawn_after_five_failures() -> None:
    assert MAX_FAILED_ATTEMPTS == 5
    table = TokenTable()
    issued = table.issue(_token(), now=0, lifetime=10)
    assert [table.failed(issued) for _ in range(5)] == [AfterFailure.NOTHING] * 4 + [AfterFailure.WITHDRAWN]
    assert table.valid(now=0) is None
    assert table.failed(issued) is AfterFailure.NOTHING, "it is withdrawn once"


@pytest.mark.rule("TOK-05", "ROLE-07")
@pytest.mark.parametrize("text", [None, "abcdefGHIJ12", "k3J9xQ2mZ7tB4w"])
def test_a_token_of_60_bits_is_not_withdrawn_by_failures_and_the_user_is_told_once(text: str | None) -> None:
    table = TokenTable()
    token = PairingToken.generate() if text is None else _token(text)
    issued = table.issue(token, now=0, lifetime=10)
    after = [table.failed(issued) for _ in range(100)]
    assert [n for n, each in enumerate(after, 1) if each is not AfterFailure.NOTHING] == [5]
    assert after[4] is AfterFailure.TELL
    assert table.valid(now=0) is issued


@pytest.mark.rule("TOK-05")
@pytest.mark.parametrize(
    ("text", "strong"),
    [
        ("abcd", False),
        ("123456789012345678901234567890", False),
        ("A" * 128, False),
        ("0123456789", False),
        ("abcdefghijkl", False),
        ("abcdefghijklm", True),
        ("abcdefgHIJ", False),
        ("abcdefGHIJ2", True),
        ("ABCDEF23456", False),
        ("ABCDEFG23456", True),
    ],
)
def test_the_bits_of_a_token_that_somebody_chose_are_estimated_low(text: str, strong: bool) -> None:
    assert _token(text).strong is strong


@pytest.mark.rule("TOK-05")
def test_every_token_we_draw_is_strong_whatever_characters_it_happens_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "choice", lambda _: "A")
    assert PairingToken.generate().strong


@pytest.mark.rule("TOK-05")
def test_failures_of_a_replaced_token_do_not_count_against_the_new_one() -> None:
    table = TokenTable()
    old = table.issue(_token(), now=0, lifetime=10)
    new = table.issue(_token("efgh"), now=1, lifetime=10)
    for _ in range(10):
        assert table.failed(old) is AfterFailure.NOTHING
    table.spend(old)
    assert table.valid(now=1) is new
    assert new.failed_attempts == 0


@pytest.mark.rule("TOK-02")
def test_what_was_asked_for_last_counts() -> None:
    """Errata S2C-06: a static code set while a dynamic one lives is the one that works."""
    table = TokenTable()
    table.issue(PairingToken("DYNAMIC"), now=0, lifetime=300)
    static = table.issue(PairingToken("STICKER"), now=1, lifetime=None)
    assert table.valid(now=2) is static
    dynamic = table.issue(PairingToken("DYNAMIC"), now=3, lifetime=300)
    assert table.valid(now=4) is dynamic
    assert table.valid(now=303) is static


def test_the_state_of_a_code_says_how_the_last_one_ended() -> None:
    table, token = TokenTable(), PairingToken("A" * 12)
    assert table.state(now=0.0) == "none"
    issued = table.issue(token, now=0.0, lifetime=10.0)
    assert table.state(now=9.9) == "valid"
    assert table.state(now=10.0) == "expired"
    table.spend(issued)
    assert table.state(now=5.0) == table.state(now=99.0) == "used"
    table.issue(token, now=100.0, lifetime=10.0)
    assert table.state(now=100.0) == "valid", "of the last one"
    table.withdraw()
    assert table.state(now=100.0) == "withdrawn"
    short = table.issue(PairingToken("ABCD"), now=100.0, lifetime=10.0)
    for _ in range(MAX_FAILED_ATTEMPTS):
        table.failed(short)
    assert table.state(now=100.0) == "withdrawn"
    table.issue(token, now=100.0, lifetime=None)
    assert table.state(now=1e9) == "static"
    table.spend(table.issue(token, now=200.0, lifetime=10.0))
    assert table.state(now=200.0) == "static", "which counts again"
