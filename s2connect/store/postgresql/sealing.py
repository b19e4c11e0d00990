"""Sealing of secrets that are kept in a database: AES-256-GCM under keys that are not in it.

A sealed value is its format (1 byte), the id of its key (8 bytes), a random nonce (12 bytes), and the ciphertext with
its tag. Every name has a key of its own, derived from the store's key, so random nonces do not run out; the name is
authenticated, so a sealed value is of no use in another row.

Keys are rotated by giving several: the first seals, all open. The old one can go once everything is sealed anew.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from s2connect.errors import ConfigurationError, StorageUnavailable
from s2connect.store.files import read_private

__all__ = ["KEY_VARIABLE", "Sealer", "add_key", "new_key", "read_keys"]

KEY_VARIABLE = "S2CONNECT_STORE_KEY"
"""Environment variable with the keys, where no file is named."""

KEY_BYTES = 32
_MAX_KEY_FILE = 16_384
_FORMAT = b"\x01"
_ID_BYTES = 8
_NONCE_BYTES = 12

_HINT = "A key is made with: s2connect store key FILE"


class Sealer:
    """Seals and opens secrets by name. Its keys show in no text."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Take the keys, of 32 bytes each; the first seals. At least one."""
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError("keys have 32 bytes, and there is at least one")
        self._keys = {_key_id(key): key for key in keys}
        self._first = _key_id(keys[0])

    def seal(self, name: str, secret: bytes) -> bytes:
        """Return the secret sealed for this name with the first key."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        head = _FORMAT + self._first
        return head + nonce + _cipher(self._keys[self._first], name).encrypt(nonce, secret, head + name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """Return the secret that was sealed for this name. Raises StorageUnavailable where no key opens it."""
        head, rest = sealed[: 1 + _ID_BYTES], sealed[1 + _ID_BYTES :]
        key = self._keys.get(head[1:])
        if head[:1] != _FORMAT or len(head) != 1 + _ID_BYTES or len(rest) < _NONCE_BYTES:
            raise StorageUnavailable(f"The sealed secret {name} is damaged.", hint="Restore the database.")
        if key is None:
            raise StorageUnavailable(
                f"The secret {name} is sealed with the key {head[1:].hex()}, which was not given.",
                hint="Add that key as a further line of the key file (store_key_file).",
            )
        try:
            return _cipher(key, name).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], head + name.encode())
        except InvalidTag:
            raise StorageUnavailable(f"The sealed secret {name} is damaged.", hint="Restore the database.") from None

    def is_current(self, sealed: bytes) -> bool:
        """Return whether a value is sealed with the first key."""
        return sealed[: 1 + _ID_BYTES] == _FORMAT + self._first


def _key_id(key: bytes) -> bytes:
    return hmac.digest(key, b"s2connect store key id", hashlib.sha256)[:_ID_BYTES]


def _cipher(key: bytes, name: str) -> AESGCM:
    return AESGCM(hmac.digest(key, b"s2connect store secret 1\0" + name.encode(), hashlib.sha256))


def new_key() -> str:
    """Return a new random key as it stands in a key file."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode("ascii")


def add_key(file: Path) -> bytes:
    """Return the content of a key file with a new key before those in it. Raises as :func:`read_keys`."""
    read_keys(file)
    return new_key().encode("ascii") + b"\n" + (read_private(file, _MAX_KEY_FILE) or b"")


def read_keys(file: Path | None) -> list[bytes]:
    """Return the keys of a file, one a line, or of :data:`KEY_VARIABLE`, separated by blanks. The first seals.

    Raises:
        ConfigurationError: There is none, or what is there is no key. The text has nothing of it.
        InsecurePermissions: Others may read the file.
        StorageUnavailable: The file cannot be read.
    """
    if file is not None:
        content = read_private(file, _MAX_KEY_FILE)
        if content is None:
            raise ConfigurationError(f"The key file {file} does not exist.", hint=_HINT)
        where, text = str(file), content.decode("utf-8", "replace")
    else:
        where, text = f"the environment variable {KEY_VARIABLE}", os.environ.get(KEY_VARIABLE, "")
    words = [word for line in text.splitlines() if not line.lstrip().startswith("#") for word in line.split()]
    if not words:
        raise ConfigurationError(
            "The secrets in the database need a key, and none is given.",
            hint="Name its file by the setting store_key_file or the option --store-key-file, or put the key into "
            f"{KEY_VARIABLE}. {_HINT}",
        )
    try:
        keys = [base64.b64decode(word, validate=True) for word in words]
        if any(len(key) != KEY_BYTES for key in keys):
            raise ValueError
    except (ValueError, binascii.Error):
        raise ConfigurationError(f"What is in {where} is no key: 32 bytes in Base64.", hint=_HINT) from None
    return keys
