"""Handlers: what an application does with the messages of its sessions, by message class and control type."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

from s2connect.errors import ConnectionClosed, S2ConnectError, UsageError
from s2connect.messages.base import S2Message
from s2connect.messages.envelope import RECEPTION_STATUS, SESSION_REQUEST, Message, ReceptionStatusValue
from s2connect.messages.general import (
    ControlType,
    InstructionStatus,
    InstructionStatusUpdate,
    ResourceManagerDetails,
    RevokeObject,
    SelectControlType,
)
from s2connect.model.common import Role
from s2connect.model.text import for_display
from s2connect.session.answers import RefuseMessage
from s2connect.session.session import Session, SessionEnd
from s2connect.supervisor import FailureLog, process_failures

_log = logging.getLogger(__name__)

MAX_INSTRUCTIONS: Final = 100
"""Instructions of one session that wait for their time or are carried out; those beyond it are rejected."""

MAX_UNHANDLED: Final = 100
"""Types of messages without a handler that are logged, each once."""

_LOOK_AT_CLOCK: Final = 60.0
"""Seconds after which the time of an instruction is compared with the clock again: clocks are set."""

_OURS: Final = frozenset({"SelectControlType", "ResourceManagerDetails", "RevokeObject"})
"""Types of messages that are handled here as well."""


class Instruction(Protocol):
    """Any instruction of S2."""

    @property
    def id(self) -> str: ...
    @property
    def execution_time(self) -> datetime: ...


Reply = S2Message | Iterable[S2Message] | None
"""Result of a handler: the messages that are sent to the peer, in that order."""

M = TypeVar("M", bound=S2Message)
Order = TypeVar("Order", bound=Instruction)
R = TypeVar("R", bound="Reply | Awaitable[Reply]")
N = TypeVar("N", bound="Awaitable[None] | None")

_Called = Callable[[Session, Any], Any]


class Handlers:
    """Functions that handle the messages of sessions; one object serves any number of sessions, also at once.

    ::

        battery = Handlers()

        @battery.on_open
        def details(session: Session) -> ResourceManagerDetails: ...

        @battery.while_selected(ControlType.FILL_RATE_BASED_CONTROL)
        async def report(session: Session) -> None: ...

        @battery.on_instruction(frbc.Instruction)
        async def follow(session: Session, instruction: frbc.Instruction) -> None: ...

        node.handle(battery)

    A plain function is called on receipt of a message, before it is answered: it must not block, and may refuse the
    message (:class:`RefuseMessage`). A coroutine function runs after the ``OK``, in the order of the messages; what
    takes long belongs into :meth:`on_instruction` or :meth:`while_selected`, which have tasks of their own. What a
    handler returns, a message or several, is sent to the peer.

    A failure of a handler is logged and counted as that of a background task. A message whose plain function fails is
    answered ``TEMPORARY_ERROR``; an instruction that fails is reported as ``ABORTED``. If what :meth:`on_open` or
    :meth:`while_selected` has registered fails, the session ends with the request to reconnect, and all begins anew.
    Of messages without a handler the first of each type is logged. A session of ``Check.ENVELOPE`` reads no classes,
    and cannot be handled in this way.

    Args:
        select: For an energy manager: the control types that it knows, the preferred one first. The first that a
            device offers in its ResourceManagerDetails is selected.
    """

    def __init__(self, *, select: Sequence[ControlType] = ()) -> None:
        self._select = tuple(select)
        self._by_type: dict[str, list[_Called]] = {}
        self._instructions: dict[str, _Called] = {}
        self._controls: dict[ControlType, Callable[[Session], Awaitable[None]]] = {}
        self._opening: list[Callable[[Session], Any]] = []
        self._closing: list[Callable[[Session], Any]] = []
        self._unhandled: set[str] = set()

    # Registration

    def on(self, *kinds: type[M]) -> Callable[[Callable[[Session, M], R]], Callable[[Session, M], R]]:
        """Register a handler for messages of these classes. Several for one class are called in their order.

        Raises:
            UsageError: Of ReceptionStatus and SessionRequest, which are the session's own business.
        """
        names = [_type_of(kind) for kind in kinds]

        def register(handler: Callable[[Session, M], R]) -> Callable[[Session, M], R]:
            for name in names:
                self._by_type.setdefault(name, []).append(handler)
            return handler

        return register

    def on_instruction(
        self, *kinds: type[Order]
    ) -> Callable[[Callable[[Session, Order], R]], Callable[[Session, Order], R]]:
        """Register the handler, plain or not, that carries out instructions of these classes at their execution time.

        Each has a task of its own, and the energy manager gets its status: ``ACCEPTED`` on receipt, ``STARTED`` when
        the handler is called, ``SUCCEEDED`` or ``ABORTED`` after it, ``REVOKED`` when the energy manager revokes it,
        ``REJECTED`` beyond :data:`MAX_INSTRUCTIONS`. They are cancelled when another control type is selected or the
        session ends. To refuse an instruction on receipt, register a plain function with :meth:`on`, too.
        """
        names = [_type_of(kind) for kind in kinds]

        def register(handler: Callable[[Session, Order], R]) -> Callable[[Session, Order], R]:
            self._instructions.update(dict.fromkeys(names, handler))
            return handler

        return register

    def while_selected(
        self, *control_types: ControlType
    ) -> Callable[[Callable[[Session], Coroutine[Any, Any, None]]], Callable[[Session], Coroutine[Any, Any, None]]]:
        """Register the coroutine function that runs while one of these control types is selected, for both roles.

        A device sends descriptions and reports there; an energy manager its instructions. It is cancelled when another
        one is selected or the session ends.
        """

        def register(
            handler: Callable[[Session], Coroutine[Any, Any, None]],
        ) -> Callable[[Session], Coroutine[Any, Any, None]]:
            self._controls.update(dict.fromkeys(control_types, handler))
            return handler

        return register

    def on_open(self, handler: Callable[[Session], R]) -> Callable[[Session], R]:
        """Register a handler for the beginning of a session; what it returns is sent first."""
        self._opening.append(handler)
        return handler

    def on_close(self, handler: Callable[[Session], N]) -> Callable[[Session], N]:
        """Register a handler for the end of a session, after its tasks have ended."""
        self._closing.append(handler)
        return handler

    # Sessions

    def run(self, session: Session, *, failures: FailureLog = process_failures) -> Coroutine[Any, Any, SessionEnd]:
        """Handle a session, just made or taken from the iteration, until its end; its ``answer`` is taken over.

        Cancel-safe: the session is closed. Nothing of a peer or of a handler raises an exception here.
        """
        return _Conversation(self, session, failures).run()

    def _log_unhandled(self, kind: str) -> None:
        if kind not in self._unhandled and len(self._unhandled) < MAX_UNHANDLED:
            self._unhandled.add(kind)
            _log.info("messages of the type %s come and have no handler", for_display(kind, 60))


class _Conversation:
    """One session and the tasks of its handlers."""

    def __init__(self, handlers: Handlers, session: Session, failures: FailureLog) -> None:
        self._handlers = handlers
        self._session = session
        self._failures = failures
        self._called: deque[tuple[Message, list[Any]]] = deque()  # messages in the inbox, and what their handlers said
        self._selection: Message | None = None  # the last one received
        self._control: asyncio.Task[None] | None = None
        self._instructions: dict[str, asyncio.Task[None]] = {}
        self._is_device = session.role is Role.RM
        session.answer_with(self._received)

    async def run(self) -> SessionEnd:
        session, handlers = self._session, self._handlers
        try:
            for handler in handlers._opening:
                await self._say(handler(session))
            async for message in session:
                await self._handle(message, self._results_of(message))
        except ConnectionClosed:
            pass
        except Exception as error:
            self._failed("the opening", error)
            await session.request_reconnect()
        finally:
            session.answer_with(None)  # which refers to this object
            try:
                await self._end()
            finally:
                await session.close()
        return session.end_reason

    async def _end(self) -> None:
        for _, results in self._called:
            _close(results)
        await self._stop()
        for handler in self._handlers._closing:
            try:
                if inspect.isawaitable(result := handler(self._session)):
                    await result
            except Exception as error:
                self._failed("the handler of the end", error)

    def _received(self, session: Session, message: Message) -> None:
        """Call the handlers of a message, before it is answered; the rest follows in :meth:`_handle`."""
        self._called.append((message, self._call(message)))

    def _call(self, message: Message) -> list[Any]:
        results: list[Any] = []
        try:
            for handler in self._handlers._by_type.get(message.type, ()):
                results.append(handler(self._session, message.parsed))  # noqa: PERF401 - what is there is closed below
        except Exception as error:
            _close(results)
            if isinstance(error, RefuseMessage):
                raise
            self._failed(f"the handler of {for_display(message.type, 60)}", error)
            raise RefuseMessage(ReceptionStatusValue.TEMPORARY_ERROR, "the application failed") from None
        if message.type == "SelectControlType" and self._is_device:
            self._selection = message
            self._cancel()  # at once: it could send what may not be sent any more
        return results

    def _results_of(self, message: Message) -> list[Any]:
        if self._called and self._called[0][0] is message:
            return self._called.popleft()[1]
        try:
            return self._call(message)  # it came before the handlers
        except RefuseMessage:
            return []

    async def _handle(self, message: Message, results: list[Any]) -> None:
        handlers, kind = self._handlers, message.type
        if kind not in handlers._by_type and kind not in handlers._instructions and kind not in _OURS:
            handlers._log_unhandled(kind)
            return
        try:
            for result in results:
                await self._say(result)
            if kind in handlers._instructions:
                self._instruct(message.parsed)
            elif kind in _OURS:
                await self._act(message)
        except ConnectionClosed:
            raise
        except Exception as error:
            _close(results)
            self._failed(f"the handler of {for_display(kind, 60)}", error)

    async def _act(self, message: Message) -> None:
        """Follow a selection or revocation, or select."""
        match message.parsed:
            case SelectControlType(control_type=selected) if self._is_device:
                await self._stop()
                if message is self._selection:
                    self._start(selected)
            case RevokeObject(object_id=identifier) if (task := self._instructions.get(identifier)) is not None:
                task.cancel()
                await asyncio.wait({task})
                await self._report(identifier, InstructionStatus.REVOKED)
            case ResourceManagerDetails(available_control_types=offered) if not self._is_device:
                await self._choose(offered)

    async def _say(self, result: Any) -> None:
        """Wait for the result of a handler, and send what it is."""
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, S2Message):
            await self._session.send(result)
        elif result is not None:
            for message in result:
                await self._session.send(message)

    def _failed(self, what: str, error: Exception) -> None:
        self._failures.failed("handler", error, name=f"{what} in the session with {self._session.peer.id}")

    # Control types

    async def _choose(self, offered: Sequence[ControlType]) -> None:
        chosen = next((each for each in self._handlers._select if each in offered), None)
        if chosen is not None and chosen is not self._session.control_type:
            await self._stop()
            await self._session.send(SelectControlType(control_type=chosen))
            self._start(chosen)

    def _start(self, selected: ControlType) -> None:
        if (handler := self._handlers._controls.get(selected)) is not None:
            name = f"s2connect-control-{self._session.peer.id}"
            self._control = asyncio.create_task(self._run_control(handler), name=name)

    async def _run_control(self, handler: Callable[[Session], Awaitable[None]]) -> None:
        try:
            await handler(self._session)
        except ConnectionClosed:
            pass
        except Exception as error:
            self._failed("what runs while a control type is selected", error)
            await self._session.request_reconnect()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [*self._instructions.values(), *([self._control] if self._control is not None else [])]

    def _cancel(self) -> None:
        for task in self._tasks():
            task.cancel()

    async def _stop(self) -> None:
        self._cancel()
        if tasks := self._tasks():
            await asyncio.wait(tasks)
        self._control = None

    # Instructions

    def _instruct(self, instruction: Any) -> None:
        name = f"s2connect-instruction-{self._session.peer.id}"
        key = instruction.id
        if key in self._instructions or len(self._instructions) >= MAX_INSTRUCTIONS:
            key = instruction.message_id  # it is only to be rejected
            work = self._report(instruction.id, InstructionStatus.REJECTED)
        else:
            work = self._carry_out(instruction)
        task = self._instructions[key] = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda _: self._instructions.pop(key, None))

    async def _carry_out(self, instruction: Any) -> None:
        identifier = instruction.id
        try:
            await self._report(identifier, InstructionStatus.ACCEPTED)
            while (left := (instruction.execution_time - datetime.now(UTC)).total_seconds()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(min(left, _LOOK_AT_CLOCK))
            await self._report(identifier, InstructionStatus.STARTED)
            await self._say(self._handlers._instructions[instruction.message_type](self._session, instruction))
        except ConnectionClosed:
            return
        except Exception as error:
            self._failed(f"the handler of {instruction.message_type}", error)
            await self._report(identifier, InstructionStatus.ABORTED)
        else:
            await self._report(identifier, InstructionStatus.SUCCEEDED)

    async def _report(self, instruction_id: str, status: InstructionStatus) -> None:
        try:
            await self._session.send(instruction_status(instruction_id, status))
        except ConnectionClosed:
            pass
        except S2ConnectError as error:  # the instruction goes on
            self._failed("the status of an instruction", error)


def instruction_status(instruction: Instruction | str, status: InstructionStatus) -> InstructionStatusUpdate:
    """Return the message that says how far an instruction, or that with this id, is now."""
    identifier = instruction if isinstance(instruction, str) else instruction.id
    return InstructionStatusUpdate(instruction_id=identifier, status_type=status, timestamp=datetime.now(UTC))


def _close(results: Iterable[Any]) -> None:
    for result in filter(inspect.iscoroutine, results):
        result.close()


def _type_of(kind: type[Any]) -> str:
    name = str(kind.__struct_config__.tag)
    if name in (RECEPTION_STATUS, SESSION_REQUEST):
        raise UsageError(f"{name} is the session's own business, and has no handler.")
    return name
