"""s2-python over S2 Connect: an application written for it runs on our sessions as it is. Extra ``s2python``.

::

    async for connection, _ in node.connections():
        async with S2ConnectMedium(connection, role=node.role) as medium:
            application = S2AsyncConnection(medium)
            handler.register_handlers(application)
            await application.run()

What the session carries is what ``NodeConfig.s2_versions`` offered and the peer agreed to. s2-python speaks one data
model only; on a session of the other one the medium translates. The models of DDBC that s2-python has are of neither;
the medium puts that right as well.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self
from uuid import uuid4

from s2connect import Connection, InvalidMessage, Message, Role, for_display
from s2connect.errors import ConfigurationError, ConnectionClosed
from s2connect.messages import (
    BETA,
    HANDSHAKES,
    NIL_ID,
    SYSTEM_DESCRIPTION,
    ReceptionStatusValue,
    Translator,
    Untranslatable,
    parse_message,
    read_message,
    reception_status,
    spelled_by_peer,
)
from s2connect.transports import GOING_AWAY, NORMAL_CLOSURE

__all__ = ["S2ConnectMedium"]


class S2ConnectMedium:
    """Medium of s2-python's ``S2AsyncConnection`` on one of our connections.

    S2 Connect agrees on versions before the session, which has no handshake (MSG-01), while an s2-python application
    starts with one. So the medium plays the peer's part of it towards the application: its ``Handshake``, its
    ReceptionStatus and, towards an RM, its ``HandshakeResponse``. None of it reaches the session. An application that
    has no handler for handshakes loses nothing.

    Everything else is the application's own business, acknowledgements (MSG-03) and ``SessionRequest`` included.
    At most one task iterates over :meth:`messages`; any number may :meth:`send`. An application may be stopped and
    another one run on the same medium: nothing that was received is lost.

    Args:
        connection: As :meth:`Node.connections <s2connect.endpoint.node.Node.connections>` yields it. The medium
            closes it where it is used as an asynchronous context manager; otherwise it stays its owner's to close.
        role: Our role, which is the application's.

    Raises:
        ConfigurationError: s2-python is not installed.
        UsageError: The data model of the session or of s2-python is unknown here.
    """

    def __init__(self, connection: Connection, *, role: Role) -> None:
        try:
            from s2python.connection.async_.medium import s2_medium
            from s2python.ddbc import DDBCOperationMode
            from s2python.version import S2_VERSION
        except ImportError as error:
            raise ConfigurationError(
                "The medium for s2-python needs s2-python, which is not installed.",
                hint="Install it with: pip install 's2connect[s2python]'",
            ) from error
        s2_medium.S2AsyncMediumConnection.register(S2ConnectMedium)
        self._closed_error: type[Exception] = s2_medium.MediumClosedConnectionError
        self._connection = connection
        self._role = role
        agreed = connection.info.s2_version
        self._translator = Translator(*((S2_VERSION, agreed) if role is Role.RM else (agreed, S2_VERSION)))
        self._own_ddbc = "id" in DDBCOperationMode.model_fields
        self._other_half = _OtherHalf(role, S2_VERSION)
        self._inbox: deque[str] = deque()
        self._due: deque[str] = deque()  # answers to the peer
        self._news: asyncio.Future[None] | None = None
        self._reading = self._paused = False
        self._sending = asyncio.Lock()
        self._connected = True
        self._ended: ConnectionClosed | None = None  # nothing more is to be received

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; idempotent and bounded to a few seconds."""
        await self._connection.close()

    # The interface of a medium

    async def is_connected(self) -> bool:
        """True until sending or receiving has shown that the connection has ended."""
        return self._connected

    async def messages(self) -> AsyncGenerator[str, None]:
        """Yield what the application receives, until either side has closed the connection normally. Cancel-safe.

        Raises:
            MediumClosedConnectionError: Of s2-python: the connection was lost or closed for a fault.
        """
        self._inbox.appendleft(self._other_half.opening())
        if not self._reading:
            self._reading = True
            self._connection.receive_into(self)
        while True:
            while self._inbox:
                yield self._inbox.popleft()
            if self._due:
                with suppress(self._closed_error):  # there may be more to receive all the same
                    await self._transmit(self._due.popleft())
            elif self._ended is None:
                await self._wait_for_more()
            elif self._ended.code in (NORMAL_CLOSURE, GOING_AWAY):
                return
            else:
                raise self._lost(self._ended)

    async def send(self, message: str) -> None:
        """Send what the application sends; returns when there is room for more.

        Cancelled, nothing is sent in part, but of a message that was translated into two perhaps only the first.

        Raises:
            MediumClosedConnectionError: Of s2-python: the connection is gone.
        """
        try:
            read = read_message(message)
            if self._own_ddbc and read.type == SYSTEM_DESCRIPTION:
                read = read_message(_ddbc_of_the_standard(message))
        except InvalidMessage:
            await self._transmit(message)  # for the peer to answer
            return
        if read.type in HANDSHAKES:
            self._answer(*self._other_half.answers(read))
        elif not self._other_half.is_acknowledged_by(read):
            onward, back = self._translated(self._role, read)
            self._answer(*back)
            for text in onward:
                await self._transmit(text)

    # Inside

    def _answer(self, *texts: str) -> None:
        """Answer the application."""
        self._inbox.extend(texts)
        self._note_news()

    def _note_news(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _translated(self, sender: Role, message: Message) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Texts for the other side, and texts for the sender."""
        try:
            return self._translator.translate(sender, message, now=datetime.now(UTC))
        except Untranslatable as error:
            refusal = reception_status(message.id or NIL_ID, ReceptionStatusValue.INVALID_MESSAGE, error.reason)
            return (), (refusal,) if message.id else ()

    async def _transmit(self, text: str) -> None:
        async with self._sending:
            try:
                await self._connection.send(text)
            except ConnectionClosed as error:
                self._connected = False
                raise self._lost(error) from error

    async def _wait_for_more(self) -> None:
        """Return when something came, from the peer or from the other half, or the connection has ended."""
        if self._paused:
            self._paused = False
            self._connection.resume_reading()
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    def text_received(self, text: str) -> None:
        """Take a text of the peer: called by the connection."""
        if not self._paused:  # until the application has taken this
            self._paused = True
            self._connection.pause_reading()
        self._note_news()
        try:
            read = read_message(text)
        except InvalidMessage:
            self._inbox.append(text)  # for the application to answer
            return
        if read.type in HANDSHAKES:
            label = "not in S2 Connect sessions"
            back: tuple[str, ...] = (reception_status(read.id or NIL_ID, ReceptionStatusValue.INVALID_CONTENT, label),)
        else:
            onward, back = self._translated(self._role.other, read)
            self._inbox.extend(map(_ddbc_of_s2python, onward) if self._own_ddbc else onward)
        self._due.extend(back)

    def connection_ended(self, error: ConnectionClosed) -> None:
        """Take note of the end: called by the connection."""
        self._connected = False
        self._ended = ConnectionClosed(error.code, error.reason)
        self._note_news()

    def _lost(self, error: ConnectionClosed) -> Exception:
        return self._closed_error(for_display(str(error), 200))


class _OtherHalf:
    """The peer's part of the handshake, played towards an application of ``role`` that speaks ``version``."""

    def __init__(self, role: Role, version: str) -> None:
        self._role = role
        self._version = version
        self._unacknowledged: set[str] = set()

    def opening(self) -> str:
        """Return the peer's Handshake."""
        return self._write("Handshake", role=self._role.other.value, supported_protocol_versions=[self._version])

    def answers(self, message: Message) -> list[str]:
        """Return the answer to a handshake message of the application, in place of the peer."""
        identifier = message.id or NIL_ID
        try:
            chosen = self._chosen(message)
        except InvalidMessage as error:
            return [reception_status(error.subject_id, error.status, error.label)]
        if chosen is None:
            label = f"the application was to speak {self._version}"
            return [reception_status(identifier, ReceptionStatusValue.INVALID_CONTENT, label)]
        answers = [reception_status(identifier, ReceptionStatusValue.OK)]
        if message.type == "Handshake" and self._role is Role.RM:
            answers.append(self._write("HandshakeResponse", selected_protocol_version=chosen))
        return answers

    def is_acknowledged_by(self, message: Message) -> bool:
        """Return whether this is the ReceptionStatus to a message of ours; each has one."""
        if message.subject_id not in self._unacknowledged:
            return False
        self._unacknowledged.remove(message.subject_id)
        return True

    def _chosen(self, message: Message) -> str | None:
        """Return the version of s2-python's models as the application spells it (VER-06); None if another."""
        if message.type == "HandshakeResponse":
            versions = [message.body.get("selected_protocol_version")]
        else:
            versions = message.body.get("supported_protocol_versions") or [self._version]
        return spelled_by_peer([v for v in versions if isinstance(v, str)], self._version)

    def _write(self, message_type: str, **members: object) -> str:
        identifier = str(uuid4())
        self._unacknowledged.add(identifier)
        return json.dumps({"message_type": message_type, "message_id": identifier, **members}, separators=(",", ":"))


# A DDBC.OperationMode of s2-python 0.11 needs its ``Id`` a second time as ``id``, and a list around its supply range.


def _ddbc_of_the_standard(text: str) -> str:
    """Return a description of s2-python as the schema has it."""
    value = json.loads(text)
    for actuator in value["actuators"]:
        for mode in actuator["operation_modes"]:
            mode.pop("id", None)
            if isinstance(mode["supply_range"], list) and len(mode["supply_range"]) == 1:
                mode["supply_range"] = mode["supply_range"][0]
    return json.dumps(value, separators=(",", ":"))


def _ddbc_of_s2python(text: str) -> str:
    """Return a message as s2-python reads it; what is no valid description of the beta stays as it is."""
    try:
        message = read_message(text)
        if message.type != SYSTEM_DESCRIPTION:
            return text
        value = parse_message(message, BETA).to_value()
    except InvalidMessage:
        return text
    for actuator in value["actuators"]:
        for mode in actuator["operation_modes"]:
            mode.update(id=mode["Id"], supply_range=[mode["supply_range"]])
    return json.dumps(value, separators=(",", ":"))
