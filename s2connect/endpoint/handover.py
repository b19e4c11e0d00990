"""Handover of a session, or of a link, from another instance."""

from __future__ import annotations

from collections.abc import Callable

from s2connect.session.withholding import DeliveryGuard


class Handover:
    """Guard of what another instance had: until that has ended it, or has had the time for it."""

    def __init__(self, owners: DeliveryGuard) -> None:
        self._owners = owners
        self._calls: list[Callable[[], None]] | None = []  # None when it is over

    def may_deliver(self) -> bool:
        """Return whether the other instance has ended it, and this one is known to have it."""
        return self._calls is None and self._owners.may_deliver()

    def when_it_may(self, call: Callable[[], None]) -> None:
        """Call ``call`` when that may have changed."""
        if self._calls is None:
            self._owners.when_it_may(call)
        else:
            self._calls.append(call)

    def is_certain(self) -> bool:
        return self._owners.is_certain()

    def when_certain(self, call: Callable[[], None]) -> None:
        self._owners.when_certain(call)

    def over(self) -> None:
        """End the wait. Idempotent."""
        calls, self._calls = self._calls or (), None
        for call in calls:
            call()
