"""Check of journals: what was acknowledged was delivered once, in order, and by one session of a device at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SETTLED: Final = 2.0
"""Seconds after which a line that is missing is missing: journals are read one after the other."""

Line = tuple[float, str, int, int, str]


def parse(text: str) -> Line:
    """Parse one line of a journal."""
    at, kind, device, number, session = text.split()
    return float(at), kind, int(device), int(number), session


class Tail:
    """Reader of the new whole lines of a growing file."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def lines(self) -> list[Line]:
        """Return what was written since the last time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        return [parse(line.decode()) for line in whole.splitlines()]


@dataclass
class Checker:
    """Check of the lines of all journals, as they come.

    Attributes:
        found: Numbers of lost, duplicated and reordered messages, and of messages of a session that another one of the
            same device had followed.
        examples: Some of them, in words.
        acknowledged: By device the time at which its last acknowledged message was sent.
        messages: Number of messages acknowledged.
    """

    found: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    acknowledged: dict[int, float] = field(default_factory=dict)
    messages: int = 0
    _waiting: list[Line] = field(default_factory=list)
    _sent: dict[tuple[int, int], float] = field(default_factory=dict)
    _delivered: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    _last: dict[int, int] = field(default_factory=dict)
    _session: dict[int, str] = field(default_factory=dict)
    _former: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    _unseen: dict[tuple[int, int], float] = field(default_factory=dict)

    def take(self, lines: Iterable[Line], now: float) -> None:
        """Take new lines; those of the last seconds wait for the other journals."""
        due = sorted([*self._waiting, *lines])
        self._waiting = [line for line in due if line[0] > now - SETTLED]
        for at, kind, device, number, _ in due:
            if kind == "acknowledged" and (device, number) in self._sent:
                self.acknowledged[device] = max(self._sent[device, number], self.acknowledged.get(device, 0.0))
            elif kind == "sent":
                self._sent[device, number] = at
        for line in due:
            if line[0] <= now - SETTLED:
                self._line(*line)
        for (device, number), at in list(self._unseen.items()):
            if at <= now - 2 * SETTLED:
                self._find("lost", f"message {number} of device {device}, acknowledged at {at:.3f}")
                del self._unseen[device, number]

    def _line(self, at: float, kind: str, device: int, number: int, session: str) -> None:
        match kind:
            case "acknowledged":
                self.messages += 1
                self._sent.pop((device, number), None)
                if number not in self._delivered[device]:
                    self._unseen[device, number] = at
            case "delivered":
                self._deliver(at, device, number, session)

    def _deliver(self, at: float, device: int, number: int, session: str) -> None:
        where = f"message {number} of device {device} at {at:.3f}"
        if number in self._delivered[device]:
            self._find("duplicated", where)
        elif number < self._last.get(device, 0):
            self._find("reordered", f"{where}, after {self._last[device]}")
        self._delivered[device].add(number)
        self._last[device] = max(number, self._last.get(device, 0))
        self._unseen.pop((device, number), None)
        if len(self._delivered[device]) > 10_000:
            self._delivered[device] = {one for one in self._delivered[device] if one > self._last[device] - 5_000}
        if session != (former := self._session.get(device, session)):
            self._former[device].add(former)
        if session in self._former[device]:
            self._find("two sessions", f"{where}, in a session that another one had followed")
        else:
            self._session[device] = session

    def _find(self, what: str, words: str) -> None:
        self.found[what] += 1
        if len(self.examples) < 100:
            self.examples.append(f"{what}: {words}")
