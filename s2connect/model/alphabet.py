"""Texts that a person reads and types: an alphabet without look-alikes, aliases, and names written in ASCII."""

from __future__ import annotations

import itertools
import string
import unicodedata
from collections.abc import Collection, Iterator
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's alphabet, of which our codes are made: without I, L, O and U."""

MAX_ALIAS_CHARACTERS: Final = 3
"""Longest alias that we give: a node has one of at most two characters, unless there are more than 550."""

_LETTERS: Final = "".join(letter for letter in ALPHABET if letter.isalpha())
_LOOK_ALIKES: Final = str.maketrans("OIL", "011")
_DASHES: Final = {"\u00ad", "\u2043", "\u2212"}  # soft hyphen, hyphen bullet, minus; beside the category of dashes

_SPELLED: Final = str.maketrans(
    {
        "ä": "ae",
        "ö": "oe",
        "ü": "ue",
        "ß": "ss",
        "æ": "ae",
        "œ": "oe",
        "ø": "oe",
        "å": "aa",
        "đ": "d",
        "ð": "d",
        "þ": "th",
        "ł": "l",
        "ħ": "h",
        "\u0131": "i",  # without a dot
        "ŋ": "ng",
        "ŧ": "t",
        "ĸ": "k",
    }
)
"""Letters that do not fall into a letter of ASCII and a mark, or are spelled otherwise without their mark."""


def in_our_alphabet(text: str) -> str:
    """Return a text in upper case, with the letters of our alphabet for those that look like them (O, I, L)."""
    return text.upper().translate(_LOOK_ALIKES) if text.isascii() else text


def with_plain_dashes(text: str) -> str:
    """Return a text with the dash of ASCII in place of every other one, as word processors and phones set them."""
    if text.isascii():
        return text
    return "".join("-" if c in _DASHES or unicodedata.category(c) == "Pd" else c for c in text)


def free_aliases(taken: Collection[str]) -> Iterator[str]:
    """Yield short aliases that nobody takes for one of those taken (TOK-03): 1, 2 … 99, AA, AB and so on."""
    known = {in_our_alphabet(alias) for alias in taken}
    return (alias for alias in _aliases() if alias not in known)


def _aliases() -> Iterator[str]:
    yield from map(str, range(1, 100))
    yield from map("".join, itertools.product(_LETTERS, repeat=2))
    yield from map("".join, itertools.product(ALPHABET, repeat=MAX_ALIAS_CHARACTERS))


def to_ascii(text: str) -> str:
    """Return a name spelled with the letters of ASCII alone: ``Wärmepumpe`` becomes ``Waermepumpe``.

    What has no such spelling is left out, so that the result may be empty: use a name of your own then.
    """
    if text.isascii():
        return text
    spelled = []
    for character in unicodedata.normalize("NFC", text):
        lower = character.lower()
        letters = lower.translate(_SPELLED)
        if letters == lower:
            letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode("ascii")
        elif character != lower:
            letters = letters.capitalize()
        spelled.append(letters)
    return "".join(spelled)


def as_label(text: str, *, longest: int = 40) -> str:
    """Return a name as label of a host name (letters and digits in lower case, dashes); empty if nothing is left."""
    allowed = string.ascii_lowercase + string.digits
    words = "".join(c if c in allowed else " " for c in to_ascii(text).lower()).split()
    return "-".join(words)[:longest].strip("-")
