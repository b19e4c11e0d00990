"""File of a backup: what was sealed comes back; everything else is refused by the name of what is wrong."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.errors import BackupRefused
from s2connect.store import backup_file
from s2connect.store.backup_file import Contents, Passphrase, check_header, seal, unseal

CHEAP = (14, 1, 1)
ENTROPY = bytes(range(28))
PHRASE = Passphrase("correct horse battery")
CONTENTS = Contents(
    made_at=1e9, moved=False, files={"config.json": b"{}"}, secrets={"ca-key": b"secret of the CA"}, database=b"db"
)
FILE = seal(CONTENTS, PHRASE, entropy=ENTROPY, cost=CHEAP)


def refused(data: bytes, phrase: Passphrase = PHRASE) -> str:
    with pytest.raises(BackupRefused) as caught:
        unseal(data, phrase)
    assert "secret of the CA" not in str(caught.value)
    return caught.value.reason


def test_what_was_sealed_comes_back_and_stands_nowhere_in_the_clear() -> None:
    assert unseal(FILE, PHRASE) == CONTENTS
    for text in (b"config.json", b"secret of the CA", b"correct horse"):
        assert text not in FILE
    assert "secret of the CA" not in repr(CONTENTS)
    assert "horse" not in repr(PHRASE)


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        Contents,
        made_at=st.floats(0, 1e10),
        moved=st.booleans(),
        files=st.dictionaries(
            st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True), st.binary(), max_size=4
        ),
        secrets=st.dictionaries(st.from_regex(r"[a-z0-9-][a-z0-9.-]{0,20}", fullmatch=True), st.binary(), max_size=4),
        database=st.binary(),
    )
)
def test_any_state_comes_back(contents: Contents) -> None:
    assert unseal(seal(contents, PHRASE, entropy=ENTROPY, cost=CHEAP), PHRASE) == contents


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(place: int, change: int) -> None:
    if place in (17, 18, 19) and change > 1:
        return  # cost: see below
    altered = bytearray(FILE)
    altered[place] ^= change
    assert refused(bytes(altered)) in ("no_backup", "version", "cost", "passphrase", "damaged")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(FILE) - 1))
def test_a_file_that_is_cut_off_is_refused(length: int) -> None:
    assert refused(FILE[:length]) in ("no_backup", "damaged")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_other_files_are_refused_before_any_memory_is_taken(data: bytes) -> None:
    assert refused(data) == ("damaged" if data.startswith(b"s2connect-backup") else "no_backup")


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [(16, 2, "version"), (17, 13, "cost"), (17, 30, "cost"), (18, 255, "cost"), (19, 0, "cost"), (19, 200, "cost")],
)
def test_a_header_of_another_version_or_cost_is_refused_before_any_memory_is_taken(
    place: int, value: int, reason: str
) -> None:
    altered = bytearray(FILE)
    altered[place] = value
    with pytest.raises(BackupRefused) as caught:
        check_header(bytes(altered))
    assert caught.value.reason == reason


def test_a_wrong_passphrase_is_told_from_a_damaged_file() -> None:
    assert refused(FILE, Passphrase("another horse battery")) == "passphrase"
    assert refused(FILE[:-1]) == "damaged"
    assert refused(FILE + b"x") == "damaged"


def test_a_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_file, "MAX_BACKUP_BYTES", len(FILE) - 1)
    assert refused(FILE) == "too_large"
    with pytest.raises(BackupRefused, match="more than"):
        seal(CONTENTS, PHRASE, entropy=ENTROPY, cost=CHEAP)


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"made_at": 1}),
        msgspec.msgpack.encode(msgspec.to_builtins(CONTENTS) | {"files": {"../x": b""}}),
        msgspec.msgpack.encode(msgspec.to_builtins(CONTENTS) | {"files": {".x": b""}}),
        msgspec.msgpack.encode(msgspec.to_builtins(CONTENTS) | {"files": {"a\n": b""}}),
        msgspec.msgpack.encode(msgspec.to_builtins(CONTENTS) | {"secrets": {"a/b": b""}}),
        msgspec.msgpack.encode(msgspec.to_builtins(CONTENTS) | {"secrets": {"a": bytes(100_000)}}),
        msgspec.msgpack.encode(msgspec.to_builtins(CONTENTS) | {"more": 1}),
    ],
)
def test_contents_that_are_no_state_are_refused_even_with_the_right_passphrase(
    plain: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(msgspec.msgpack, "encode", lambda _: plain)
    data = seal(CONTENTS, PHRASE, entropy=ENTROPY, cost=CHEAP)
    assert refused(data) == "contents"


@pytest.mark.parametrize("text", ["", "short", "x" * 1025, "with a\nline break", "a" * 11])
def test_passphrases_that_can_be_guessed_or_not_be_typed_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid Passphrase"):
        Passphrase(text)


def test_a_passphrase_is_the_same_however_its_letters_are_encoded() -> None:
    composed, decomposed = Passphrase("Gr\u00fcne W\u00e4rmepumpe"), Passphrase("Gru\u0308ne Wa\u0308rmepumpe")
    assert composed == decomposed
