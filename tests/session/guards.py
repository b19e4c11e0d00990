"""Guard of a session or a link whose doubts are those of the test."""

from __future__ import annotations

from collections.abc import Callable


class Guard:
    """A guard.

    Attributes:
        may: Whether the session is known to be this process's.
        certain: Whether this process would know if another had it.
        calls: To be made when it is known; ``uncertain``: when it would be.
    """

    def __init__(self, *, may: bool = True, certain: bool = True) -> None:
        self.may, self.certain = may, certain
        self.calls: list[Callable[[], None]] = []
        self.uncertain: list[Callable[[], None]] = []

    def may_deliver(self) -> bool:
        return self.may

    def when_it_may(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def is_certain(self) -> bool:
        return self.certain

    def when_certain(self, call: Callable[[], None]) -> None:
        self.uncertain.append(call)

    def settle(self) -> None:
        """Let it be known, or not to be found out."""
        self.may = True
        calls, self.calls = self.calls, []
        for call in calls:
            call()

    def hear(self) -> None:
        """Let this process hear of takeovers again."""
        self.certain = True
        calls, self.uncertain = self.uncertain, []
        for call in calls:
            call()
