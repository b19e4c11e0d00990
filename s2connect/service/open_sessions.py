"""Open sessions of a service: reports their messages, and sends and answers for the program that reads the events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from s2connect import LATER, Node, Session
from s2connect.errors import ConnectionClosed
from s2connect.messages.enums import Check
from s2connect.messages.envelope import Message, write_message
from s2connect.model.log_context import current_peer
from s2connect.service import commands, events
from s2connect.service.events import Sink
from s2connect.service.first_message import FirstMessage
from s2connect.service.objects import ABSENT, SessionEntry
from s2connect.service.record import Recorder
from s2connect.session.answers import ANSWER_WITHIN, Later
from s2connect.supervisor import Supervisor

ALL_TYPES = "all"  # stands for every type of message


@dataclass(slots=True)
class _OpenSession:
    name: str
    node: Node
    session: Session
    first: FirstMessage
    messages: int = 0

    def facts(self) -> dict[str, Any]:
        """Return what its events and its entry in the status have in common."""
        info = self.session.info
        who = {"session": self.name, "node": self.node.id, "peer": self.session.peer}
        return {**who, "protocol": info.protocol, "s2_version": info.s2_version}


class OpenSessions:
    """The open sessions of a service, by name.

    Messages of the types ``kept``, or :data:`ALL_TYPES`, are answered by the command ``answer``. ``drive`` is a program
    in this process that takes a session until it ends, in place of whoever reads the events.
    """

    def __init__(
        self,
        sink: Sink,
        supervisor: Supervisor,
        *,
        check: Check,
        recorder: Recorder | None,
        kept: frozenset[str],
        drive: Callable[[Session], Awaitable[None]] | None,
    ) -> None:
        self._sink = sink
        self._supervisor = supervisor
        self._check = check
        self._recorder = recorder
        self._kept_types = kept
        self._drive = drive
        self._sessions: dict[str, _OpenSession] = {}
        self._named = 0

    def entries(self) -> list[SessionEntry]:
        """Return the entries of the sessions in the status."""
        return [
            SessionEntry(
                **opened.facts(),
                since=opened.session.info.since,
                messages=opened.messages,
                first_message=opened.first.found,
            )
            for opened in self._sessions.values()
        ]

    async def take(self, node: Node) -> None:
        """Take the sessions of a node until it is cancelled."""
        answer = self._answer_for if self._kept_types else None
        async for session in node.sessions(check=self._check, answer=answer):
            self._named += 1
            name = f"s{self._named}"
            try:
                recorded = None
                if self._recorder is not None:
                    about = (name, node.id, session.role, session.peer)
                    recorded = self._recorder.opened(*about, session.info.s2_version)
                opened = _OpenSession(name, node, session, FirstMessage(recorded))
                session.observe(opened.first)  # before the session runs for the first time
            except Exception:
                await session.close()  # no program would read it
                raise
            self._sessions[name] = opened
            self._supervisor.spawn(self._receive(opened), "session", name)

    async def _receive(self, opened: _OpenSession) -> None:
        name, node, session = opened.name, opened.node.id, opened.session
        current_peer.set(session.peer.id)  # of this task
        failure: Exception | None = None
        try:
            async with session:
                await self._sink.put(events.SessionOpened(**opened.facts()))
                if self._drive is not None:
                    await self._drive(session)
                async for message in session:  # of a session that was driven there is none left
                    opened.messages += 1
                    within = ANSWER_WITHIN if self._kept(message) else ABSENT
                    # A slow reader of our output slows the session down here.
                    await self._sink.put(
                        events.MessagePassed(
                            session=name, direction="received", message=message.body, answer_within=within
                        )
                    )
                await session.wait_closed()
        except Exception as error:
            failure = error  # it ends this session, and no other
        finally:
            del self._sessions[name]
            if self._recorder is not None:
                self._recorder.closed(name, node, session.role, session.peer, session.end_reason)
        reason = str(session.end_reason)
        await self._sink.put(
            events.SessionClosed(session=name, reason=reason, node=node, peer=session.peer, messages=opened.messages)
        )
        if failure is not None:
            raise failure

    async def send(self, command: commands.Send) -> commands.SentMessage:
        """Send a message, and report it where it leaves."""
        opened = self._session(command.session)
        text, _ = write_message(command.message)

        def report(message: Message) -> None:
            sent = events.MessagePassed(session=opened.name, direction="sent", message=message.body)
            self._sink.put_nowait(sent)

        return commands.SentMessage(message_id=await opened.session.send(text, retries=command.retries, leaving=report))

    async def answer(self, command: commands.Answer) -> None:
        """Answer a message of one of the types that are kept for this."""
        session = self._session(command.session).session
        session.answer(command.message_id, command.status or "OK", command.label or "")

    def _kept(self, message: Message) -> bool:
        """Return whether the program that reads the events has to answer a message."""
        return message.type in self._kept_types or ALL_TYPES in self._kept_types

    def _answer_for(self, session: Session, message: Message) -> Later | None:
        return LATER if self._kept(message) else None

    async def close(self, command: commands.Close) -> None:
        """Close a session."""
        await self._session(command.session).session.close()

    def _session(self, name: str) -> _OpenSession:
        if name not in self._sessions:
            raise ConnectionClosed(reason="there is no such session")
        return self._sessions[name]
