"""Rules about Power Profile Based Control."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from s2connect.messages import ppbc
from s2connect.messages.base import S2Message
from s2connect.messages.rules.base import Findings, error, warning
from s2connect.messages.rules.common import Checker, ids, lasts, unique
from s2connect.messages.rules.general import power_values

PROFILE_TIME: Final = error("PPBC-01", "PPBC.PowerProfileDefinition", "A power profile ends after it can start.")
ROOM: Final = warning(
    "PPBC-02",
    "PPBC.PowerProfileDefinition",
    "The shortest power sequences of all containers fit between the start and the end of the profile.",
)
PROGRESS: Final = warning(
    "PPBC-03",
    "PPBC.PowerProfileStatus",
    "The progress is told from the start of the selected power sequence on, and not before.",
)
SELECTED: Final = warning(
    "PPBC-04", "PPBC.PowerProfileStatus", "The selected power sequence is told where one is scheduled, and only there."
)
ONE_STATUS: Final = warning("PPBC-05", "PPBC.PowerProfileStatus", "A sequence container has one status.")

_MILLISECOND: Final = timedelta(milliseconds=1)
_RUNNING: Final = frozenset({ppbc.PowerSequenceStatus.EXECUTING, ppbc.PowerSequenceStatus.INTERRUPTED})
_WAITING: Final = frozenset({ppbc.PowerSequenceStatus.NOT_SCHEDULED, ppbc.PowerSequenceStatus.SCHEDULED})


def _definition(message: ppbc.PowerProfileDefinition, found: Findings) -> None:
    containers = message.power_sequences_containers
    unique(containers, found, "power_sequences_containers")
    shortest = 0
    for index, container in enumerate(containers):
        shortest += _container(container, found, f"power_sequences_containers[{index}]")
    if message.end_time <= message.start_time:
        found.add(PROFILE_TIME, "end_time", "not after start_time")
    elif shortest > (message.end_time - message.start_time) / _MILLISECOND:
        found.add(ROOM, "end_time", "even the shortest power sequences would end later")


def _container(container: ppbc.PowerSequenceContainer, found: Findings, path: str) -> int:
    """Look at a container, and return how long its shortest sequence takes, in milliseconds."""
    ids(container, found, f"{path}.")
    unique(container.power_sequences, found, f"{path}.power_sequences")
    shortest = []
    for index, sequence in enumerate(container.power_sequences):
        place = f"{path}.power_sequences[{index}]"
        ids(sequence, found, f"{place}.")
        for number, element in enumerate(sequence.elements):
            where = f"{place}.elements[{number}]"
            lasts(element.duration, found, where)
            power_values(element.power_values, found, f"{where}.power_values")
        shortest.append(sum(element.duration for element in sequence.elements))
    return min(shortest)


def _status(message: ppbc.PowerProfileStatus, found: Findings) -> None:
    seen: set[tuple[str, str]] = set()
    for index, status in enumerate(message.sequence_container_status):
        place = f"sequence_container_status[{index}]"
        ids(status, found, f"{place}.")
        key = (status.power_profile_id, status.sequence_container_id)
        if key in seen:
            found.add(ONE_STATUS, place, "the container has a status in this message already")
        seen.add(key)
        unscheduled = status.status is ppbc.PowerSequenceStatus.NOT_SCHEDULED
        if unscheduled and status.selected_sequence_id is not None:
            found.add(SELECTED, f"{place}.selected_sequence_id", "there, although no power sequence is scheduled")
        elif not unscheduled and status.selected_sequence_id is None:
            found.add(SELECTED, f"{place}.selected_sequence_id", "missing, although the status is about one")
        if status.status in _RUNNING and status.progress is None:
            found.add(PROGRESS, f"{place}.progress", "missing, although the power sequence has started")
        elif status.status in _WAITING and status.progress:
            found.add(PROGRESS, f"{place}.progress", "there, although no power sequence has started")


CHECKS: Final[Mapping[type[S2Message], Checker]] = {
    ppbc.PowerProfileDefinition: _definition,
    ppbc.PowerProfileStatus: _status,
}
