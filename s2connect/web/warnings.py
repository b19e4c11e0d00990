"""Warnings of a service, each kept once, with the number of times that it came. Sans-I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from s2connect.web.facts import Warned

MAX_WARNINGS: Final = 50
"""Warnings that are kept; beyond it the oldest is forgotten."""


class Warnings:
    """The last warnings."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Warned] = OrderedDict()

    def add(self, kind: str, sentence: str, at: datetime) -> None:
        """Add a warning."""
        before = self._known.pop((kind, sentence), None)
        count = 1 if before is None else before.count + 1
        self._known[kind, sentence] = Warned(at=at, kind=kind, sentence=sentence, count=count)
        if len(self._known) > MAX_WARNINGS:
            self._known.popitem(last=False)

    def remove(self, kind: str) -> None:
        """Forget the warnings of a kind: what they said is over."""
        for key in [key for key in self._known if key[0] == kind]:
            del self._known[key]

    def newest_first(self) -> Iterator[Warned]:
        """Iterate over the warnings."""
        return reversed(self._known.values())
