"""Translation between a device and an energy manager with different versions of S2 JSON.

The two data models differ in one thing: where the present demand rate of demand driven control is. In 0.0.2-beta it is
part of ``DDBC.SystemDescription``, in v1.0.0 it is a message of its own, ``DDBC.PresentDemandStatus``.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from s2connect.messages.base import new_id
from s2connect.messages.catalogue import BETA, MESSAGES, V1, data_model, parse_message
from s2connect.messages.envelope import (
    NIL_ID,
    RECEPTION_STATUS,
    InvalidMessage,
    Message,
    ReceptionStatusValue,
    read_message,
    reception_status,
)
from s2connect.messages.general import ControlType
from s2connect.messages.schema import SchemaReading
from s2connect.model.common import Role

SYSTEM_DESCRIPTION: Final = "DDBC.SystemDescription"
"""Type of DDBC's system description, whose form differs between the versions."""

PRESENT_DEMAND: Final = "DDBC.PresentDemandStatus"

MAX_REMEMBERED: Final = 1000
"""Ids of messages that were written here, and of those whose answer is to be translated; the oldest are forgotten."""

MAX_DESCRIPTIONS: Final = 8
"""System descriptions that a device may have announced, the oldest are forgotten."""


class Untranslatable(ValueError):
    """A message has no counterpart in the other version.

    Attributes:
        reason: Why, fit for a ``diagnostic_label``; holds no value of the message.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Translation(NamedTuple):
    """Result of translating a message.

    Attributes:
        onward: Texts for the other side, in this order.
        back: Texts for its sender: the ReceptionStatus about a message that is kept here.
    """

    onward: tuple[str, ...] = ()
    back: tuple[str, ...] = ()


@dataclass
class _Awaited:
    """Pending answers to the translations of one message; the first refusal counts, or the last ``OK``."""

    source: str
    open: set[str]
    told: bool = False


@dataclass
class _Description:
    """A description by the device, and under which id the energy manager had it last."""

    source: str
    body: dict[str, Any]
    valid_from: datetime
    known_as: str | None = None


class Translator:
    """Translates one session between an RM and a CEM, and carries everything else as it is, byte for byte.

    - *RM in beta, CEM in v1*: a description becomes two messages, the description and a ``DDBC.PresentDemandStatus``
      with an id of its own. The RM gets one answer: ``OK`` when the CEM took both, otherwise the first refusal.
    - *RM in v1, CEM in beta*: a description is kept until there is a present demand rate, and a rate until there is a
      description. What is kept is answered ``OK`` from here, because its sender may wait for that before it sends the
      other one; should the CEM refuse the description later, this is the answer to the rate (errata S2C-24). With every
      later rate the description that is valid, and one that is to come, is sent again under a new id, and a revocation
      names that.

    Args:
        rm_version: S2 JSON version of the RM, in any spelling (VER-06).
        cem_version: That of the CEM.
        new_id: Makes the ``message_id`` of a message that only exists here.

    Raises:
        UsageError: A version is unknown.
    """

    def __init__(self, rm_version: str, cem_version: str, *, new_id: Callable[[], str] = new_id) -> None:
        self._versions = {Role.RM: data_model(rm_version), Role.CEM: data_model(cem_version)}
        self._new_id = new_id
        self._own: OrderedDict[str, None] = OrderedDict()
        self._awaited: OrderedDict[str, _Awaited] = OrderedDict()
        self._descriptions: list[_Description] = []
        self._rate: Any = None
        self._leaving: str | None = None

    def owns(self, message_id: str) -> bool:
        """Return whether a message was written by the translator itself and not by its sender."""
        return message_id in self._own

    def conforming(self, sender: Role, message: Message) -> Message:
        """Return a message in the form of the other side's version: a v1.0.0 peer gets no null (MSG-08)."""
        kind = MESSAGES[self._versions[sender]].get(message.type)
        if self._versions[sender] != BETA or self._versions[sender.other] == BETA or kind is None:
            return message
        if "null" not in message.text:
            return message
        reading = SchemaReading(message.body, kind, nulls=True)
        return read_message(_text(reading.value)) if reading.tolerated else message

    def translate(self, sender: Role, message: Message, *, now: datetime) -> Translation:
        """Translate the next message of one side, ReceptionStatuses included.

        Args:
            sender: Whose message it is.
            message: The message.
            now: Wall clock, with its time zone; decides which of several descriptions is valid.

        The message is passed on as it is, so take what :meth:`conforming` makes of it.

        Raises:
            Untranslatable: The message is not of the version of its sender, or has no counterpart in the other one.
                Nothing was changed; refuse it with the reason.
        """
        own, other = self._versions[sender], self._versions[sender.other]
        if own == other:
            return Translation((message.text,))
        if message.type == RECEPTION_STATUS:
            return self._answered(sender, message)
        if message.type not in MESSAGES[own] and message.type in MESSAGES[other]:
            raise Untranslatable(f"S2 JSON {own} has no {message.type}")
        if sender is Role.CEM:
            return self._from_cem(message)
        if message.type == SYSTEM_DESCRIPTION:
            return self._described_in_beta(message) if own == BETA else self._described(message)
        if own == V1 and message.type == PRESENT_DEMAND:
            return self._rated(message, now)
        if own == V1 and message.type == "RevokeObject":
            return self._revoked(message)
        return Translation((message.text,))

    # The device speaks beta

    def _described_in_beta(self, message: Message) -> Translation:
        identifier = self._typed(Role.RM, message).message_id
        body = dict(message.body)
        rate = {
            "message_type": PRESENT_DEMAND,
            "message_id": self._made(),
            "present_demand_rate": body.pop("present_demand_rate"),
        }
        self._await(identifier, [identifier, rate["message_id"]])
        return Translation((_text(body), _text(rate)))

    # The device speaks v1.0.0

    def _described(self, message: Message) -> Translation:
        typed = self._typed(Role.RM, message)
        description = _Description(typed.message_id, dict(message.body), typed.valid_from)
        self._descriptions = [*self._descriptions, description][-MAX_DESCRIPTIONS:]
        if self._rate is None:
            return _kept(typed.message_id)
        description.known_as = typed.message_id
        return Translation((self._with_rate(description),))

    def _rated(self, message: Message, now: datetime) -> Translation:
        identifier = self._typed(Role.RM, message).message_id
        self._rate = message.body["present_demand_rate"]
        if not self._descriptions:
            return _kept(identifier)
        valid = self._valid(now)
        for description in valid:
            description.known_as = self._made() if description.known_as else description.source
        self._await(identifier, [d.known_as for d in valid if d.known_as])
        return Translation(tuple(self._with_rate(description) for description in valid))

    def _valid(self, now: datetime) -> list[_Description]:
        """Return the latest description that is valid already, and the latest after it that will be."""
        begun = [d for d in self._descriptions if d.valid_from <= now][-1:]
        after = self._descriptions.index(begun[0]) + 1 if begun else 0
        return begun + self._descriptions[after:][-1:]

    def _revoked(self, message: Message) -> Translation:
        revoked = self._typed(Role.RM, message)
        found = next((d for d in self._descriptions if d.source == revoked.object_id), None)
        if found is None or revoked.object_type != SYSTEM_DESCRIPTION:
            return Translation((message.text,))
        self._descriptions.remove(found)
        if found.known_as is None:
            return _kept(revoked.message_id)
        if found.known_as == found.source:
            return Translation((message.text,))
        return Translation((_text({**message.body, "object_id": found.known_as}),))

    def _with_rate(self, description: _Description) -> str:
        return _text({**description.body, "message_id": description.known_as, "present_demand_rate": self._rate})

    # Both

    def _from_cem(self, message: Message) -> Translation:
        if message.type == "SelectControlType":
            stays = self._typed(Role.CEM, message).control_type is ControlType.DEMAND_DRIVEN_BASED_CONTROL
            self._leaving = None if stays else message.id
        return Translation((message.text,))

    def _answered(self, sender: Role, status: Message) -> Translation:
        subject = status.subject_id or NIL_ID
        accepted = status.status == ReceptionStatusValue.OK
        if sender is Role.RM:
            if subject == self._leaving and accepted:
                self._descriptions, self._rate, self._leaving = [], None, None
            return Translation((status.text,))
        awaited = self._awaited.pop(subject, None)
        if awaited is None:
            if self.owns(subject):
                return Translation()
            if not accepted:
                self._descriptions = [d for d in self._descriptions if d.source != subject]
            return Translation((status.text,))
        awaited.open.discard(subject)
        if awaited.told or (accepted and awaited.open):
            return Translation()
        awaited.told = True
        if subject == awaited.source:
            return Translation((status.text,))
        told = {"message_type": status.type, "subject_message_id": awaited.source, "status": status.status}
        return Translation((_text(told | ({"diagnostic_label": status.label} if status.label else {})),))

    def _typed(self, sender: Role, message: Message) -> Any:
        version = self._versions[sender]
        try:
            return parse_message(message, version)
        except InvalidMessage as error:
            raise Untranslatable(f"not of S2 JSON {version}: {error.label}") from None

    def _made(self) -> str:
        identifier = self._new_id()
        self._own[identifier] = None
        if len(self._own) > MAX_REMEMBERED:
            self._own.popitem(last=False)
        return identifier

    def _await(self, source: str, made: Iterable[str]) -> None:
        awaited = _Awaited(source, set(made))
        for identifier in awaited.open:
            self._awaited[identifier] = awaited
        while len(self._awaited) > MAX_REMEMBERED:
            self._awaited.popitem(last=False)


def _kept(message_id: str) -> Translation:
    return Translation(back=(reception_status(message_id, ReceptionStatusValue.OK),))


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
