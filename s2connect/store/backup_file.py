"""File of a backup: the state of one endpoint, encrypted and authenticated as a whole with a passphrase. No I/O.

Layout: a header of 80 bytes, then the contents as MessagePack, sealed with AES-256-GCM, whose tag is last.

========  ==========================================================================================
bytes     header
========  ==========================================================================================
0-15      ``s2connect-backup``
16        version of the format, 1
17-19     cost of scrypt: log2 of N, r, p
20-35     salt
36-47     nonce of AES-GCM
48-79     HMAC-SHA256 of bytes 0 to 47: tells a wrong passphrase from a damaged file
========  ==========================================================================================

scrypt makes 64 bytes of the passphrase: the key of AES-256-GCM, whose associated data is the header, then that of the
HMAC. Nothing of the contents is interpreted before all of it has been authenticated.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from typing import Annotated, Final

import msgspec

from s2connect.errors import BackupRefused
from s2connect.model.secret import Secret
from s2connect.store.base import MAX_VAULT_BYTES

MAGIC: Final = b"s2connect-backup"
VERSION: Final = 1

MIN_PASSPHRASE: Final = 12
"""Shortest passphrase, in characters: whoever has the file may guess without end."""

MAX_PASSPHRASE: Final = 1024

MAX_BACKUP_BYTES: Final = 256 * 1024 * 1024
"""Longest file; an endpoint with 20,000 pairings has some 40 MB."""

COST: Final = (16, 8, 2)
"""log2 of N, r and p of scrypt: 64 MiB of memory, and half a second on a slow machine."""

MAX_MEMORY: Final = 256 * 1024 * 1024
"""Most memory that the header of a file may ask for, in bytes."""

SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
ENTROPY_BYTES: Final = SALT_BYTES + NONCE_BYTES
"""Random bytes that :func:`seal` needs."""

FILE_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
"""Name of a file of a state directory, as far as backups have it: no dot at the beginning, no directory."""

MAX_FILES: Final = 1000
MAX_SECRETS: Final = 200_000

_HEADER_BYTES = 80
_SIGNED_BYTES = 48
_TAG_BYTES = 16
_SECRET_NAME = r"^[a-z0-9-][a-z0-9.-]{0,99}\Z"


class Passphrase(Secret):
    """Passphrase of a backup: 12 to 1024 characters of any script, however a system encodes them."""

    __slots__ = ()
    described = f"a text of {MIN_PASSPHRASE} to {MAX_PASSPHRASE} characters"

    def __init__(self, value: str) -> None:
        text = unicodedata.normalize("NFC", value)
        if not MIN_PASSPHRASE <= len(text) <= MAX_PASSPHRASE or not text.isprintable():
            raise ValueError(f"not a valid {type(self).__name__}")
        self._value = text


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """State of an endpoint. Holds secrets: its repr shows sizes only.

    Attributes:
        made_at: Wall-clock seconds since the epoch.
        moved: Whether the home was sealed with it, so that its tokens are still the valid ones.
        files: Files of the state directory.
        secrets: Entries of the vault.
        database: The database of pairings; empty where there was none.
    """

    made_at: float
    moved: bool
    files: Annotated[
        dict[Annotated[str, msgspec.Meta(pattern=rf"^{FILE_NAME.pattern}\Z")], bytes],
        msgspec.Meta(max_length=MAX_FILES),
    ]
    secrets: Annotated[
        dict[
            Annotated[str, msgspec.Meta(pattern=_SECRET_NAME)],
            Annotated[bytes, msgspec.Meta(max_length=MAX_VAULT_BYTES)],
        ],
        msgspec.Meta(max_length=MAX_SECRETS),
    ]
    database: bytes

    def __repr__(self) -> str:
        return f"Contents({len(self.files)} files, {len(self.secrets)} secrets, database of {len(self.database)} bytes)"


def seal(contents: Contents, passphrase: Passphrase, *, entropy: bytes, cost: tuple[int, int, int] = COST) -> bytes:
    """Return the file of a backup. Takes half a second and 64 MiB: call it in a thread.

    Args:
        contents: What is in it.
        passphrase: Opens it again.
        entropy: :data:`ENTROPY_BYTES` random bytes, never the same twice.
        cost: log2 of N, r and p of scrypt.

    Raises:
        BackupRefused: The state is larger than a backup can be.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = entropy[:SALT_BYTES], entropy[SALT_BYTES:ENTROPY_BYTES]
    key, check_key = _keys(passphrase, salt, cost)
    signed = MAGIC + bytes([VERSION, *cost]) + salt + nonce
    header = signed + hmac.digest(check_key, signed, hashlib.sha256)
    plain = msgspec.msgpack.encode(contents)
    if len(header) + len(plain) + _TAG_BYTES > MAX_BACKUP_BYTES:
        raise BackupRefused(f"The state has more than {MAX_BACKUP_BYTES} bytes.", reason="too_large")
    return header + AESGCM(key).encrypt(nonce, plain, header)


def unseal(data: bytes, passphrase: Passphrase) -> Contents:
    """Return the contents of a file. Takes half a second and the memory that its header names: call it in a thread.

    Raises:
        BackupRefused: See :func:`check_header`; or the passphrase is wrong, or the file is damaged or was changed.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cost = check_header(data)
    signed, header = data[:_SIGNED_BYTES], data[:_HEADER_BYTES]
    salt, nonce = signed[20:36], signed[36:48]
    key, check_key = _keys(passphrase, salt, cost)
    if not hmac.compare_digest(hmac.digest(check_key, signed, hashlib.sha256), header[_SIGNED_BYTES:]):
        raise BackupRefused("The passphrase is not that of this file.", reason="passphrase")
    try:
        plain = AESGCM(key).decrypt(nonce, data[_HEADER_BYTES:], header)
    except InvalidTag:
        raise BackupRefused(
            "The file is damaged, cut off, or was changed by somebody.",
            reason="damaged",
            hint="Take another copy of it.",
        ) from None
    try:
        return msgspec.msgpack.decode(plain, type=Contents)
    except msgspec.ValidationError as error:
        raise BackupRefused(f"What is in the file is no state of an endpoint: {error}.", reason="contents") from None
    except msgspec.DecodeError:
        raise BackupRefused("What is in the file is no state of an endpoint.", reason="contents") from None


def check_header(data: bytes) -> tuple[int, int, int]:
    """Check the beginning of a file, and its length; return the cost of scrypt.

    Raises:
        BackupRefused: It is no backup, cut off, too large, of a later version, or asks for more memory than is given.
    """
    if not data.startswith(MAGIC):
        raise BackupRefused("This is no backup of s2connect.", reason="no_backup")
    if len(data) < _HEADER_BYTES + _TAG_BYTES:
        raise BackupRefused("The file is cut off.", reason="damaged", hint="Take another copy of it.")
    if len(data) > MAX_BACKUP_BYTES:
        raise BackupRefused(f"The file has more than {MAX_BACKUP_BYTES} bytes.", reason="too_large")
    version, log_n, r, p = data[16:20]
    if version != VERSION:
        raise BackupRefused(
            f"The file has version {version} of the format, and this s2connect reads version {VERSION}.",
            reason="version",
            hint="Update s2connect on this machine.",
        )
    if not 14 <= log_n <= 24 or not 1 <= r <= 32 or not 1 <= p <= 16 or (128 * r << log_n) > MAX_MEMORY:
        raise BackupRefused(
            "The file asks for more memory or time than any backup of s2connect needs.",
            reason="cost",
            hint="It was not made by s2connect, or is damaged.",
        )
    return log_n, r, p


def _keys(passphrase: Passphrase, salt: bytes, cost: tuple[int, int, int]) -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    log_n, r, p = cost
    made = Scrypt(salt=salt, length=64, n=1 << log_n, r=r, p=p).derive(passphrase.reveal().encode("utf-8"))
    return made[:32], made[32:]
