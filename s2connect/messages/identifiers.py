"""Identifiers in whole messages (MSG-05): collected from the typed message, and matched at once.

Decoders would take half a microsecond for each match, more than for all else in a message, although most identifiers
occur several times in it and come again in later ones. So they are left to this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

from s2connect.messages import ddbc, frbc, ombc, pebc, ppbc
from s2connect.messages.base import IdentifiedMessage, S2Message, id_members
from s2connect.messages.id_pattern import are_whole_ids, is_whole_id

MAX_GOOD_IDS: Final = 1000
"""Good identifiers that are remembered; beyond it they are matched again."""

_good: Final[set[str | None]] = {None}
"""Identifiers other than those of messages that matched as a whole: most come again."""

_PART: Final = 256
"""Identifiers that are matched together."""

_Names = Iterable[str | None]


def odd_ids(message: S2Message) -> list[str]:
    """Return the identifiers in a message that are none as the standard has them (COM-01), its own first."""
    own, further = _PLANS.get(type(message)) or _plan(type(message))
    name = own(message)
    odd = [] if is_whole_id(name) else [name]
    if further is not None and not _good.issuperset(names := further(message)):
        odd += _match(names)
    return odd


def _match(names: _Names) -> list[str]:
    """Return the odd ones of identifiers, and remember the others."""
    unknown = [name for name in set(names) if name not in _good and name is not None]
    parts = (unknown[begin : begin + _PART] for begin in range(0, len(unknown), _PART))
    odd = [name for part in parts if not are_whole_ids(part) for name in part if not is_whole_id(name)]
    if len(_good) + len(unknown) > MAX_GOOD_IDS:
        _good.clear()
        _good.add(None)
    if not odd:
        _good.update(unknown[:MAX_GOOD_IDS])
    return odd


def _of_machine(machine: Any) -> list[str | None]:
    names: list[str | None] = [mode.id for mode in machine.operation_modes]
    names += [timer.id for timer in machine.timers]
    for transition in machine.transitions:
        names += (transition.id, transition.from_, transition.to)
        names += transition.start_timers
        names += transition.blocking_timers
    return names


def _of_actuators(message: frbc.SystemDescription | ddbc.SystemDescription) -> _Names:
    names: list[str | None] = []
    for actuator in message.actuators:
        names.append(actuator.id)
        names += _of_machine(actuator)
    return names


def _of_profile(message: ppbc.PowerProfileDefinition) -> _Names:
    names: list[str | None] = [message.id]
    for container in message.power_sequences_containers:
        names.append(container.id)
        names += [sequence.id for sequence in container.power_sequences]
    return names


def _of_profile_status(message: ppbc.PowerProfileStatus) -> _Names:
    names: list[str | None] = []
    for status in message.sequence_container_status:
        names += (status.power_profile_id, status.sequence_container_id, status.selected_sequence_id)
    return names


def _of_envelopes(message: pebc.Instruction) -> _Names:
    return [message.id, message.power_constraints_id, *[envelope.id for envelope in message.power_envelopes]]


_NESTED: Final[Mapping[type[S2Message], Callable[[Any], _Names]]] = {
    ombc.SystemDescription: _of_machine,
    frbc.SystemDescription: _of_actuators,
    ddbc.SystemDescription: _of_actuators,
    ddbc.BetaSystemDescription: _of_actuators,
    ppbc.PowerProfileDefinition: _of_profile,
    ppbc.PowerProfileStatus: _of_profile_status,
    pebc.Instruction: _of_envelopes,
}
"""By class of messages whose objects have identifiers: returns all but that of the message."""

_PLANS: Final[dict[type[S2Message], tuple[Callable[[Any], str], Callable[[Any], _Names] | None]]] = {}
"""By class: what returns the identifier of a message, and what the further ones, if there are any."""


def _plan(kind: type[S2Message]) -> tuple[Callable[[Any], str], Callable[[Any], _Names] | None]:
    own = "message_id" if issubclass(kind, IdentifiedMessage) else "subject_message_id"
    names = [name for name in id_members(kind) if name != own]
    several = attrgetter(*names, names[0]) if names else None  # of a single name it returns no tuple
    plan = _PLANS[kind] = attrgetter(own), _NESTED.get(kind, several)
    return plan
