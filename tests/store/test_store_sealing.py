"""Sealing of secrets: what is sealed opens under its name and a known key, and nowhere else."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.errors import ConfigurationError, InsecurePermissions, StorageUnavailable
from s2connect.store.postgresql.sealing import KEY_VARIABLE, Sealer, add_key, new_key, read_keys

OLD, NEW, OTHER = (bytes([number]) * 32 for number in range(3))


@given(name=st.text(max_size=100), secret=st.binary(max_size=1000))
def test_what_is_sealed_opens_under_its_name(name: str, secret: bytes) -> None:
    sealer = Sealer([OLD])
    sealed = sealer.seal(name, secret)
    assert sealer.open(name, sealed) == secret
    assert sealer.seal(name, secret) != sealed, "each with a nonce of its own"
    assert len(secret) < 8 or secret not in sealed
    with pytest.raises(StorageUnavailable):
        sealer.open(f"{name}x", sealed)


@given(where=st.integers(0, 60), bit=st.integers(0, 7))
def test_a_single_wrong_bit_is_noticed(where: int, bit: int) -> None:
    sealed = bytearray(Sealer([OLD]).seal("name", b"x" * 24))
    sealed[where] ^= 1 << bit
    with pytest.raises(StorageUnavailable):
        Sealer([OLD]).open("name", bytes(sealed))


@given(st.binary(max_size=60))
def test_anything_else_is_refused_as_damaged(content: bytes) -> None:
    with pytest.raises(StorageUnavailable):
        Sealer([OLD]).open("name", content)


def test_keys_are_rotated_by_giving_both() -> None:
    sealed = Sealer([OLD]).seal("name", b"secret")
    both = Sealer([NEW, OLD])
    assert both.open("name", sealed) == b"secret"
    assert not both.is_current(sealed)
    assert both.is_current(both.seal("name", b"secret"))
    with pytest.raises(StorageUnavailable, match=r"sealed with the key [0-9a-f]{16}, which was not given"):
        Sealer([OTHER]).open("name", sealed)


def test_keys_come_from_a_private_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(f"# of the first day\n{new_key()}\n")
    (first,) = read_keys(file)
    file.write_bytes(add_key(file))
    assert read_keys(file)[1:] == [first]
    monkeypatch.setenv(KEY_VARIABLE, f"{base64.b64encode(NEW).decode()} {base64.b64encode(OLD).decode()}")
    assert read_keys(None) == [NEW, OLD]
    file.chmod(0o644)
    with pytest.raises(InsecurePermissions):
        read_keys(file)


@pytest.mark.parametrize("wrong", ["", "hunter2", base64.b64encode(b"short").decode(), "ü"])
def test_what_is_no_key_is_refused_and_not_repeated(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, wrong)
    with pytest.raises(ConfigurationError, match="s2connect store key") as refused:
        read_keys(None)
    assert not wrong or wrong not in str(refused.value)
