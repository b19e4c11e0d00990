"""Every message s2-python can build, through our models and back; and where s2-python departs from the standard.

A test of a difference fails on the day it is mended upstream: then the difference is to be taken off docs/interop.md.
"""

from __future__ import annotations

import json
import subprocess
from enum import Enum
from typing import Any
from uuid import uuid4

import pytest

from s2connect.messages import general, pebc, ppbc
from s2connect.messages.catalogue import BETA, MESSAGES, V1, parse
from s2connect.messages.envelope import InvalidMessage, ReceptionStatusValue
from tests.interop.peer_processes import HERE, peer_python
from tests.waits import patience

SEED = 20261020
DDBC = "DDBC.SystemDescription"
STATUS = "PPBC.PowerProfileStatus"


def say(*arguments: str, lines: str = "") -> list[Any]:
    output = subprocess.run(
        [peer_python("s2python"), HERE / "s2python_messages.py", *arguments],
        input=lines.encode(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=patience(50),
    ).stdout
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture(scope="module")
def built() -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for name, text in say("build", str(SEED)):
        texts.setdefault(name, []).append(text)
    return texts


def canonical(value: object) -> str:
    """Equal for equal JSON values only, in which 1 is not 1.0."""
    return json.dumps(value, sort_keys=True)


def comes_back(text: str, version: str) -> bool:
    return canonical(json.loads(parse(text, version).to_json())) == canonical(json.loads(text))


def refused(text: str, version: str) -> bool:
    with pytest.raises(InvalidMessage) as caught:
        parse(text, version)
    return caught.value.status is ReceptionStatusValue.INVALID_MESSAGE


def s2python_reads(*values: dict[str, Any]) -> list[bool]:
    return say("read", lines="".join(f"{json.dumps(value)}\n" for value in values))


def mended_ddbc(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    for actuator in value["actuators"]:
        for mode in actuator["operation_modes"]:
            del mode["id"]
            mode["supply_range"] = mode["supply_range"][0]
    return value


def has_progress(text: str) -> bool:
    return any("progress" in status for status in json.loads(text)["sequence_container_status"])


def mended_progress(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    for status in value["sequence_container_status"]:
        if "progress" in status:
            status["progress"] = 90_000
    return value


# The same


def test_it_builds_every_message_of_its_version(built: dict[str, list[str]]) -> None:
    assert set(built) == set(MESSAGES[BETA])


@pytest.mark.parametrize("name", sorted(set(MESSAGES[BETA]) - {DDBC, STATUS}))
@pytest.mark.rule("MSG-05")
def test_a_message_comes_back_as_it_was(built: dict[str, list[str]], name: str) -> None:
    for text in built[name]:
        assert comes_back(text, BETA), text
        assert comes_back(text, V1), text


def test_it_used_every_value_of_every_enumeration(built: dict[str, list[str]]) -> None:
    said: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, str):
            said.add(value)

    for texts in built.values():
        for text in texts:
            walk(json.loads(text))
    enums = [
        thing
        for module in (general, pebc, ppbc)
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Enum) and thing.__module__ == module.__name__
    ]
    assert len(enums) >= 12
    assert {value.value for one in enums for value in one} <= said


# The differences


def test_its_ddbc_modes_have_two_ids_and_a_list_of_supply_ranges(built: dict[str, list[str]]) -> None:
    """``Id`` and ``id`` are both required, and ``supply_range`` is a list: nothing but s2-python reads it."""
    assert all(refused(text, BETA) for text in built[DDBC])
    beta = [mended_ddbc(text) for text in built[DDBC]]
    assert all(comes_back(json.dumps(value), BETA) for value in beta), "nothing else is wrong with them"
    assert s2python_reads(*beta) == [False] * len(beta)


def test_it_has_the_ddbc_of_the_beta(built: dict[str, list[str]]) -> None:
    """The present demand rate stands in the description, and ``DDBC.PresentDemandStatus`` is unknown."""
    beta = mended_ddbc(built[DDBC][0])
    rate = beta["present_demand_rate"]
    assert refused(json.dumps(beta), V1)
    present = {"message_type": "DDBC.PresentDemandStatus", "message_id": str(uuid4()), "present_demand_rate": rate}
    description: dict[str, Any] = json.loads(built[DDBC][0])
    del description["present_demand_rate"]
    assert comes_back(json.dumps(present), V1)
    assert s2python_reads(json.loads(built[DDBC][0]), description, present) == [True, False, False]


def test_its_progress_of_a_power_sequence_is_a_uuid_and_not_a_duration(built: dict[str, list[str]]) -> None:
    with_progress = [text for text in built[STATUS] if has_progress(text)]
    without = [text for text in built[STATUS] if not has_progress(text)]
    assert with_progress
    assert without
    assert all(comes_back(text, V1) and comes_back(text, BETA) for text in without)
    assert all(refused(text, V1) and refused(text, BETA) for text in with_progress)
    mended = [mended_progress(text) for text in with_progress]
    assert all(comes_back(json.dumps(value), V1) for value in mended), "nothing else is wrong with them"
    assert s2python_reads(*mended) == [False] * len(mended)


@pytest.mark.rule("MSG-05")
def test_its_ids_have_to_be_uuids() -> None:
    status = {"message_type": "FRBC.StorageStatus", "message_id": str(uuid4()), "present_fill_level": 1.5}
    named = {**status, "message_id": "storage:status-1"}
    assert comes_back(json.dumps(named), V1)
    assert s2python_reads(status, named) == [True, False]


def test_it_lets_be_built_what_cannot_be_written_or_is_no_message() -> None:
    odd = dict(say("odd"))
    assert {name: text for name, text in odd.items() if text is None} == {
        "a required member left out of PEBC.Instruction": None,
        "a required member left out of PEBC.EnergyConstraint": None,
        "a required member left out of PEBC.AllowedLimitRange": None,
    }
    numbers = {name: text for name, text in odd.items() if text is not None}
    assert set(numbers) == {"nan in FRBC.StorageStatus", "inf in FRBC.StorageStatus"}
    for text in numbers.values():
        assert json.loads(text)["present_fill_level"] is None
        assert refused(text, V1)
