"""Messages as other software writes them, known from its sources, and what becomes of each here: from raw JSON.

The messages are our own; what they have in common with those of others is their form, which ``docs/interop.md`` tells.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from s2connect.messages.catalogue import BETA
from s2connect.messages.conversation import Conversation
from s2connect.messages.envelope import InvalidMessage, read_message
from s2connect.model.common import Role

CEM, RM = Role.CEM, Role.RM
NOW = datetime(2026, 5, 4, 12, 1, tzinfo=UTC)

SELECTED = '{"message_type": "SelectControlType", "message_id": "s-1", "control_type": "%s"}'
OMBC, PEBC, FRBC = (
    "OPERATION_MODE_BASED_CONTROL",
    "POWER_ENVELOPE_BASED_CONTROL",
    "FILL_RATE_BASED_CONTROL",
)


class Known(NamedTuple):
    """A message of a peer, and its verdict."""

    peer: str
    what: str
    sender: Role
    text: str
    status: str = "OK"
    rules: frozenset[str] = frozenset()
    label: str = ""
    selected: str | None = None


def rules(*numbers: str) -> frozenset[str]:
    return frozenset(numbers)


KNOWN = [
    Known(
        "Victron",
        "power constraints without an end have valid_until: null",
        RM,
        """{"message_type":"PEBC.PowerConstraints","message_id":"0d2ffb7a-5ad7-4e2b-8f04-9bb8a0a06c56",
        "id":"5f2e3a50-95f2-4d5b-8a5f-0d6d64d0a6c5","valid_from":"2026-05-04T12:00:00.000Z","valid_until":null,
        "consequence_type":"DEFER","allowed_limit_ranges":[{"commodity_quantity":"ELECTRIC.POWER.L1","limit_type":
        "LOWER_LIMIT","range_boundary":{"start_of_range":-3680,"end_of_range":3680},"abnormal_condition_only":false},
        {"commodity_quantity":"ELECTRIC.POWER.L1","limit_type":"UPPER_LIMIT","range_boundary":{"start_of_range":-3680,
        "end_of_range":3680},"abnormal_condition_only":false}]}""",
        rules=rules("READ-01"),
        selected=PEBC,
    ),
    Known(
        "Victron",
        "details with empty texts",
        RM,
        """{"message_type":"ResourceManagerDetails","message_id":"0d2ffb7a-5ad7-4e2b-8f04-9bb8a0a06c56",
        "resource_id":"boiler-1","name":"Boiler","roles":[{"role":"ENERGY_CONSUMER","commodity":"ELECTRICITY"}],
        "manufacturer":"","model":"","serial_number":"","firmware_version":"","available_control_types":[
        "OPERATION_MODE_BASED_CONTROL"],"provides_forecast":false,"provides_power_measurement_types":[
        "ELECTRIC.POWER.L1"],"instruction_processing_delay":0}""",
    ),
    Known(
        "Victron",
        "details of a device without a meter: an empty list, where the schema wants an entry",
        RM,
        """{"message_type":"ResourceManagerDetails","message_id":"0d2ffb7a-5ad7-4e2b-8f04-9bb8a0a06c56",
        "resource_id":"boiler-1","name":"Boiler","roles":[{"role":"ENERGY_CONSUMER","commodity":"ELECTRICITY"}],
        "manufacturer":"","model":"","serial_number":"","firmware_version":"","available_control_types":[
        "OPERATION_MODE_BASED_CONTROL"],"provides_forecast":false,"provides_power_measurement_types":[],
        "instruction_processing_delay":0}""",
        "INVALID_MESSAGE",
        label="provides_power_measurement_types: has 0 entries; needed: at least 1",
    ),
    Known(
        "Victron",
        "a status of its operation modes before one is selected",
        RM,
        """{"message_type":"OMBC.Status","message_id":"0d2ffb7a-5ad7-4e2b-8f04-9bb8a0a06c56",
        "active_operation_mode_id":"off","operation_mode_factor":1}""",
        "INVALID_CONTENT",
        label="MSG-02: OMBC.Status is not sent by the RM while no control type is selected",
    ),
    Known(
        "Victron",
        "the answer to an instruction of the session before",
        RM,
        """{"message_type":"InstructionStatusUpdate","message_id":"0d2ffb7a-5ad7-4e2b-8f04-9bb8a0a06c56",
        "instruction_id":"5f2e3a50-95f2-4d5b-8a5f-0d6d64d0a6c5","status_type":"ABORTED",
        "timestamp":"2026-05-04T12:00:00.000Z"}""",
        rules=rules("HIST-18", "HIST-29"),
    ),
    Known(
        "Stekker",
        "a ReceptionStatus has diagnostic_label: null",
        CEM,
        '{"diagnostic_label":null,"message_type":"ReceptionStatus","status":"OK","subject_message_id":"m-1"}',
        rules=rules("READ-01"),
    ),
    Known(
        "Stekker",
        "details have null for every member that is missing",
        RM,
        """{"available_control_types":["FILL_RATE_BASED_CONTROL"],"currency":null,"firmware_version":null,
        "instruction_processing_delay":0,"manufacturer":null,"message_id":"0d2ffb7a-5ad7-4e2b-8f04-9bb8a0a06c56",
        "message_type":"ResourceManagerDetails","model":null,"name":null,"provides_forecast":false,
        "provides_power_measurement_types":["ELECTRIC.POWER.L1"],"resource_id":"ev-1","roles":[{"commodity":
        "ELECTRICITY","role":"ENERGY_STORAGE"}],"serial_number":null}""",
        rules=rules("READ-01"),
    ),
    Known(
        "Stekker",
        "an actuator's status has null for what was before",
        RM,
        """{"active_operation_mode_id":"on","actuator_id":"ev","message_id":"m-1","message_type":"FRBC.ActuatorStatus",
        "operation_mode_factor":0.5,"previous_operation_mode_id":null,"transition_timestamp":null}""",
        rules=rules("READ-01", "HIST-07"),
        selected=FRBC,
    ),
    Known(
        "FlexMeasures",
        "a ReceptionStatus has diagnostic_label: null, and TEMPORARY_ERROR for a type without a handler",
        CEM,
        '{"message_type":"ReceptionStatus","subject_message_id":"0d2ffb7a-5ad7-4e2b-8f04-9bb8a0a06c56",'
        '"status":"TEMPORARY_ERROR","diagnostic_label":null}',
        rules=rules("READ-01"),
    ),
    Known(
        "FlexMeasures",
        "its example of a device sends a text in a text",
        RM,
        json.dumps('{"message_type":"FRBC.StorageStatus","message_id":"m-1","present_fill_level":0.4}'),
        "INVALID_DATA",
        label="not a JSON object",
    ),
    Known(
        "FlexMeasures",
        "a status that names the message, and not the instruction in it, of a session before",
        RM,
        """{"message_type":"InstructionStatusUpdate","message_id":"m-1","instruction_id":"m-0","status_type":"NEW",
        "timestamp":"2026-05-04T14:00:00+02:00"}""",
        rules=rules("HIST-18"),
        selected=FRBC,
    ),
    Known(
        "s2-rust",
        "times with nine digits of a second",
        RM,
        """{"message_type":"PowerMeasurement","measurement_timestamp":"2026-05-04T12:00:00.123456789Z",
        "message_id":"0d2ffb7a-5ad7-4e2b-8f04-9bb8a0a06c56","values":[{"commodity_quantity":"ELECTRIC.POWER.L1",
        "value":1e3}]}""",
    ),
    Known(
        "s2-rust",
        "a leap second",
        RM,
        """{"message_type":"PowerMeasurement","measurement_timestamp":"2016-12-31T23:59:60.5Z",
        "message_id":"0d2ffb7a-5ad7-4e2b-8f04-9bb8a0a06c56","values":[{"commodity_quantity":"ELECTRIC.POWER.L1",
        "value":1000.0}]}""",
        rules=rules("READ-02"),
    ),
    Known(
        "s2-rust",
        "the answer to what it cannot read, about the nil UUID",
        RM,
        '{"message_type":"ReceptionStatus","diagnostic_label":"unknown variant","status":"INVALID_DATA",'
        '"subject_message_id":"00000000-0000-0000-0000-000000000000"}',
    ),
]


@pytest.mark.rule("MSG-08")
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known.peer}: {known.what}")
def test_a_message_of_others_has_this_verdict(known: Known) -> None:
    conversation = Conversation(BETA)
    if known.selected is not None:
        conversation.accepted(CEM, read_message(SELECTED % known.selected))
    if known.status == "INVALID_DATA":
        with pytest.raises(InvalidMessage) as caught:
            read_message(known.text)
        assert (caught.value.status, caught.value.label) == (known.status, known.label)
        return
    verdict = conversation.validate(known.sender, read_message(known.text), now=NOW)
    assert (verdict.status, {one.rule.id for one in verdict.warnings}) == (known.status, known.rules), verdict.label
    assert (verdict.label or "") == known.label
