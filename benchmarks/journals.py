"""Check of journals: what was acknowledged was delivered once, in order, and by one session of a device at a time."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

SETTLED: Final = 2.0
"""Seconds after which a line that is missing is missing: journals are read one after the other."""

KEPT: Final = 5_000
"""Numbers of delivered messages that are known of each device at least."""

Line = tuple[float, str, int, int, str]


def parse(text: str) -> Line:
    """Parse one line of a journal."""
    at, kind, device, number, session = text.split()
    return float(at), kind, int(device), int(number), session


class Tail:
    """Reader of the new whole lines of a growing file.

    Attributes:
        over_at: Time from which on nobody writes to it any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self.over_at = math.inf

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def lines(self) -> list[Line]:
        """Return what was written since the last time."""
        if self._file is None:
            if not self._path.exists():
                return []
            self._file = self._path.open("rb")
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [parse(line.decode()) for line in whole]


@dataclass(eq=False)
class Healing:
    """Wait for a device to have a message acknowledged that it sends after a moment.

    Attributes:
        since: That moment.
        at: Time of the acknowledgement; None before.
    """

    device: int
    since: float
    at: float | None = None


@dataclass
class Checker:
    """Check of the lines of all journals, as they come.

    Messages to a device are numbered by themselves: their lines have its number as ``~device``, which is negative.

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
    _healings: dict[int, list[Healing]] = field(default_factory=lambda: defaultdict(list))
    _waiting: list[Line] = field(default_factory=list)
    _sent: dict[tuple[int, int], float] = field(default_factory=dict)
    _delivered: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    _last: dict[int, int] = field(default_factory=dict)
    _session: dict[int, str] = field(default_factory=dict)
    _former: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    _unseen: dict[tuple[int, int], float] = field(default_factory=dict)

    def take(self, lines: Iterable[Line], now: float) -> None:
        """Take new lines; those of the last seconds wait for the other journals."""
        new = sorted(lines)
        for at, kind, device, number, _ in new:
            if kind == "acknowledged" and (device, number) in self._sent:
                self._acknowledge(device, self._sent.pop((device, number)), at)
            elif kind == "sent":
                self._sent[device, number] = at
        due = sorted([*self._waiting, *new])
        self._waiting = [line for line in due if line[0] > now - SETTLED]
        for line in due[: len(due) - len(self._waiting)]:
            self._line(*line)
        for (device, number), at in list(self._unseen.items()):
            if at <= now - 2 * SETTLED:
                self._find("lost", f"message {number} {_of(device)}, acknowledged at {at:.3f}")
                del self._unseen[device, number]

        if len(self._sent) > 2 * KEPT:  # what was sent and not acknowledged
            self._sent = dict(list(self._sent.items())[-KEPT:])

    def heal(self, device: int, since: float) -> Healing:
        """Return the healing of a device from a moment on, which is at most a few seconds ago."""
        healing = Healing(device, since)
        self._healings[device].append(healing)
        return healing

    def _acknowledge(self, device: int, sent: float, at: float) -> None:
        self.acknowledged[device] = max(sent, self.acknowledged.get(device, 0.0))
        for healing in self._healings[device]:
            if sent > healing.since:
                healing.at = at
        self._healings[device] = [one for one in self._healings[device] if one.at is None]

    def _line(self, at: float, kind: str, device: int, number: int, session: str) -> None:
        match kind:
            case "acknowledged":
                self.messages += 1
                if number not in self._delivered[device]:
                    self._unseen[device, number] = at
            case "delivered":
                self._deliver(at, device, number, session)

    def _deliver(self, at: float, device: int, number: int, session: str) -> None:
        where = f"message {number} {_of(device)} at {at:.3f}"
        if number in self._delivered[device]:
            self._find("duplicated", where)
        elif number < self._last.get(device, 0):
            self._find("reordered", f"{where}, after {self._last[device]}")
        self._delivered[device].add(number)
        self._last[device] = max(number, self._last.get(device, 0))
        self._unseen.pop((device, number), None)
        if len(self._delivered[device]) > 2 * KEPT:
            self._delivered[device] = set(sorted(self._delivered[device])[-KEPT:])
        if session in self._former[device]:
            self._find("two sessions", f"{where}, in a session that another one had followed")
            return
        if session != (former := self._session.get(device, session)):
            self._former[device].add(former)
        self._session[device] = session

    def _find(self, what: str, words: str) -> None:
        self.found[what] += 1
        if len(self.examples) < 100:
            self.examples.append(f"{what}: {words}")


def _of(device: int) -> str:
    return f"of device {device}" if device >= 0 else f"to device {~device}"
