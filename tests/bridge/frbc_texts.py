"""A whole conversation under fill rate based control, in spellings that only a relay keeps that changes nothing."""

from __future__ import annotations

import asyncio

from s2connect import Session

L1 = '"ELECTRIC.POWER.L1"'
FROM_RM_FIRST = (
    '{ "message_type":"ResourceManagerDetails","message_id":"rm:1" ,"resource_id":"b-1","name":"Batterie \\u00fcber'
    ' dem K\u00fchlschrank \U0001f50b","roles":[{"role":"ENERGY_STORAGE","commodity":"ELECTRICITY"}],"manufacturer":'
    '"\\/ACME\\/","instruction_processing_delay":1e2,"available_control_types":["FILL_RATE_BASED_CONTROL"],"provides_forecast":'
    'true\t,"provides_power_measurement_types":[' + L1 + "]}"
)
FROM_CEM_FIRST = (
    '{"control_type":"FILL_RATE_BASED_CONTROL",\r\n"message_id":"cem:1","message_type":"SelectControlType"}'
)

_ELEMENT = (
    '{"fill_level_range":{"start_of_range":0,"end_of_range":1.00e2},"fill_rate":{"start_of_range":-0.0,"end_of_range":'
    '0.0138888888888888888888},"power_ranges":[{"start_of_range":0.0,"end_of_range":5000.000,"commodity_quantity":'
    + L1
    + "}]}"
)
FROM_RM = (
    '{"message_type":"FRBC.SystemDescription","message_id":"rm:2","valid_from":"2026-01-01T00:00:00.000+00:00","actuators":'
    '[{"id":"inverter","diagnostic_label":"\u6c34","supported_commodities":["ELECTRICITY"],"operation_modes":[{"id":"mode",'
    '"elements":[' + _ELEMENT + '],"abnormal_condition_only":false}],"transitions":[],"timers":[]}],"storage":{'
    '"provides_leakage_behaviour":true,"provides_fill_level_target_profile":true,"provides_usage_forecast":true,'
    '"fill_level_range":{"start_of_range":0,"end_of_range":100}}}',
    '{"message_type":"FRBC.StorageStatus","message_id":"rm:3","present_fill_level":4.0E1 }',
    '{"message_type":"FRBC.ActuatorStatus","message_id":"rm:4","actuator_id":"inverter","active_operation_mode_id":"mode",'
    '"operation_mode_factor":0.50}',
    '{"message_type":"FRBC.LeakageBehaviour","message_id":"rm:5","valid_from":"2026-01-01T01:00:00+01:00","elements":[{'
    '"fill_level_range":{"start_of_range":0,"end_of_range":100},"leakage_rate":0.0001}]}',
    '{"message_type":"FRBC.UsageForecast","message_id":"rm:6","start_time":"2026-01-01T00:00:00Z","elements":[{"duration":'
    '3600000,"usage_rate_expected":0.001}]}',
    '{"message_type":"FRBC.FillLevelTargetProfile","message_id":"rm:7","start_time":"2026-01-01T00:00:00Z","elements":[{'
    '"duration":3600000,"fill_level_range":{"start_of_range":20,"end_of_range":80}}]}',
    '{"message_type":"PowerForecast","message_id":"rm:8","start_time":"2026-01-01T00:00:00Z","elements":[{"duration":1000,'
    '"power_values":[{"value_expected":1.0,"commodity_quantity":' + L1 + "}]}]}",
    *(
        f'{{"message_type":"PowerMeasurement" , "message_id":"rm:m{n}",'
        f'"measurement_timestamp":"2026-01-01T00:00:{n:02}.5Z",'
        f'"values":[{{"commodity_quantity":{L1},"value":{n}.0{"0" * n}}}]}}'
        for n in range(20)
    ),
    '{"message_type":"InstructionStatusUpdate","message_id":"rm:9","instruction_id":"i-0","status_type":"SUCCEEDED",'
    '"timestamp":"2026-01-01T00:01:00Z"}',
)
FROM_CEM = tuple(
    f'{{"message_type":"FRBC.Instruction","message_id":"cem:i{n}","id":"i-{n}",'
    f'"actuator_id":"inverter","operation_mode":"mode",'
    f'"operation_mode_factor":0.{n % 10}5,"execution_time":"2026-01-01T00:00:{n:02}+00:00",'
    '\n"abnormal_condition":false}'
    for n in range(20)
)
LAST_FROM_CEM = (
    '{"message_type":"RevokeObject","message_id":"cem:r","object_type":"FRBC.Instruction","object_id":"i-19"}'
)


async def converse(rm: Session, cem: Session) -> None:
    """The whole conversation, both sides at once where they may; every message is accepted by the other side."""
    await rm.send(FROM_RM_FIRST)
    await cem.send(FROM_CEM_FIRST)
    assert (await rm.receive()).type == "SelectControlType"
    await rm.send(FROM_RM[0])

    async def rest_of_rm() -> None:
        for text in FROM_RM[1:-1]:
            await rm.send(text)

    async def rest_of_cem() -> None:
        for text in FROM_CEM:
            await cem.send(text)

    async def take(session: Session, count: int) -> None:
        for _ in range(count):
            await session.receive()

    await asyncio.gather(rest_of_rm(), rest_of_cem(), take(rm, len(FROM_CEM)), take(cem, 1 + len(FROM_RM) - 1))
    await asyncio.gather(rm.send(FROM_RM[-1]), cem.send(LAST_FROM_CEM), take(rm, 1), take(cem, 1))


ALL_FROM_RM = (FROM_RM_FIRST, *FROM_RM)
ALL_FROM_CEM = (FROM_CEM_FIRST, *FROM_CEM, LAST_FROM_CEM)
