"""Pattern of identifiers (MSG-05): matched by the schema anywhere in a text, by the standard as a whole."""

from __future__ import annotations

import re
import string
from collections.abc import Collection
from typing import Annotated, Final

from msgspec import Meta, inspect

ID_PATTERN: Final = r"[a-zA-Z0-9\-_:]{2,64}"
"""As in the schema, which does not anchor it: a text that holds such a part is representable (MSG-05, S2C-21)."""

Id = Annotated[str, Meta(extra={"pattern": ID_PATTERN})]
"""An identifier. Constructors take a UUID, too. Decoders take any text: see messages.identifiers."""

_LENGTHS: Final = frozenset(range(2, 65))
_BYTES: Final = (string.ascii_letters + string.digits + "-_:").encode()

is_whole_id: Final = re.compile(ID_PATTERN).fullmatch
"""Match an identifier as the standard has them (COM-01)."""

has_id: Final = re.compile(ID_PATTERN).search
"""Match an identifier as the schema has them."""


def is_id(kind: inspect.Type) -> bool:
    """Return whether a type is that of an identifier."""
    return isinstance(kind, inspect.Metadata)


def are_whole_ids(names: Collection[str]) -> bool:
    """Return whether all texts are identifiers as the standard has them. Takes a tenth of the time of matching each."""
    text = "".join(names)
    return _LENGTHS.issuperset(map(len, names)) and text.isascii() and not text.encode().translate(None, _BYTES)
