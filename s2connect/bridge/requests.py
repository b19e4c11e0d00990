"""Requests of the two peers of a link for a session, each of which waits for its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from s2connect import Role
from s2connect.bridge.sides import NOT_NOW
from s2connect.session import LedTo

REQUEST_TIMEOUT: Final = 25.0
"""Seconds until a peer's request for a session is answered; our own clients wait 30."""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    answer: asyncio.Future[str | LedTo | None]
    may_lead: bool


class Requests:
    """Open requests: one of each peer at most, because a later one replaces it.

    Args:
        changed: Called when there is another one.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._of: dict[Role, _Request] = {}

    async def ask(self, role: Role, *, may_lead: bool) -> str | LedTo | None:
        """Wait for the answer: None, a refusal, or the instance to go to, where the peer ``may_lead``. Cancel-safe."""
        request = _Request(asyncio.get_running_loop().create_future(), may_lead)
        self._answer(role, NOT_NOW)
        self._of[role] = request
        self._changed()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                return await request.answer
        except TimeoutError:
            return NOT_NOW
        finally:
            if self._of.get(role) is request:
                del self._of[role]

    def roles(self) -> list[Role]:
        """Return the roles of the peers that wait."""
        return [role for role, request in self._of.items() if not request.answer.done()]

    def may_lead(self, role: Role) -> bool:
        """Return whether the peer of this role waits, and can be led to another instance."""
        return role in self.roles() and self._of[role].may_lead

    def answer_all(self, answer: str | None) -> None:
        """Answer both peers, as far as they wait."""
        for role in self.roles():
            self._answer(role, answer)

    def lead(self, role: Role, instance: str) -> None:
        """Lead the peer to another instance, if it still waits and can be led."""
        if self.may_lead(role):
            self._answer(role, LedTo(instance))

    def _answer(self, role: Role, answer: str | LedTo | None) -> None:
        if role in self.roles():
            self._of[role].answer.set_result(answer)
