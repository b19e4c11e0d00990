"""Rules that need what was said before, and that memory is bounded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.messages.base import S2Message
from s2connect.messages.catalogue import V1, parse
from s2connect.messages.rules import Finding, check
from s2connect.messages.rules.base import MAX_LABEL_LENGTH
from s2connect.messages.rules.history import History
from s2connect.messages.rules.history_facts import MAX_DESCRIPTIONS, MAX_OBJECTS, MAX_REMEMBERED, Remembered
from s2connect.model.common import Role
from tests.messages.message_schemas import documents, names
from tests.messages.rule_examples import MISSING, NIGHT, NOON, ONE, Changes, broken, build, numbers

CEM, RM = Role.CEM, Role.RM
AT_NOON = datetime(2026, 5, 4, 12, 1, tzinfo=UTC)

BY_CEM = ("SelectControlType", "Instruction")

Said = str | tuple[str, Changes] | tuple[str, Changes, Role]
"""A type of message; with changes; from whom, if not from who usually sends it."""


def sender_of(message_type: str, changes: Changes) -> Role:
    if message_type == "RevokeObject":
        kind = changes.get("object_type", "FRBC.Instruction")
        return CEM if kind.endswith("Instruction") else RM
    return CEM if message_type.endswith(BY_CEM) else RM


def spoken(said: Said) -> tuple[Role, S2Message]:
    message_type, changes, *rest = (said, {}) if isinstance(said, str) else said
    return (rest[0] if rest else sender_of(message_type, changes)), build(message_type, changes)


def told(before: Sequence[Said], now: datetime | None = None) -> History:
    """A history in which these were taken."""
    history = History()
    for said in before:
        history.accept(*spoken(said), now)
    return history


def validate(before: Sequence[Said], last: Said, now: datetime | None = None) -> list[Finding]:
    """Return the findings about a message after others, which need not be valid."""
    return told(before, now).check(*spoken(last), now)


def select(control_type: str) -> Said:
    return ("SelectControlType", {"control_type": control_type})


DETAILS = "ResourceManagerDetails"
FRBC: list[Said] = [DETAILS, select("FILL_RATE_BASED_CONTROL"), "FRBC.SystemDescription"]
OMBC: list[Said] = [DETAILS, select("OPERATION_MODE_BASED_CONTROL"), "OMBC.SystemDescription"]
DDBC: list[Said] = [DETAILS, select("DEMAND_DRIVEN_BASED_CONTROL"), "DDBC.SystemDescription"]
PEBC: list[Said] = [DETAILS, select("POWER_ENVELOPE_BASED_CONTROL"), "PEBC.PowerConstraints"]
PPBC: list[Said] = [DETAILS, select("POWER_PROFILE_BASED_CONTROL"), "PPBC.PowerProfileDefinition"]

ROOF_LIMIT = "power_envelopes.0.power_envelope_elements.0"
COSTS = {"start_of_range": 0, "end_of_range": 0.01}
NO_COSTS = {"start_of_range": 0, "end_of_range": 0}
REVOKE_ROOF: Said = ("RevokeObject", {"object_type": "PEBC.PowerConstraints", "object_id": "roof-1"})
REVOKE_LAUNDRY: Said = ("RevokeObject", {"object_type": "PPBC.PowerProfileDefinition", "object_id": "laundry"})


def order(kind: str, **changes: Any) -> Said:
    return (f"{kind}.Instruction", changes)


def progress(status: str, instruction: str = "order-1") -> Said:
    return ("InstructionStatusUpdate", {"status_type": status, "instruction_id": instruction})


AT_OFF: Said = ("FRBC.ActuatorStatus", {"active_operation_mode_id": "off"})


class Case(NamedTuple):
    """A message that breaks a rule after others, and one near it that breaks none."""

    rule: str
    before: Sequence[Said]
    breaks: Said
    near: Said
    path: str
    now: datetime | None = None


CASES = [
    Case(
        "HIST-01",
        [DETAILS, ("PowerMeasurement", {"message_id": "again"})],
        ("PowerMeasurement", {"message_id": "again"}),
        ("SelectControlType", {"message_id": "again"}),
        "message_id",
    ),
    Case("HIST-02", [], "SelectControlType", DETAILS, ""),
    Case(
        "HIST-03",
        [(DETAILS, {"available_control_types": ["OPERATION_MODE_BASED_CONTROL"]})],
        select("FILL_RATE_BASED_CONTROL"),
        select("OPERATION_MODE_BASED_CONTROL"),
        "control_type",
    ),
    Case("HIST-03", [DETAILS], select("NOT_CONTROLABLE"), select("NO_SELECTION"), "control_type"),
    Case("HIST-04", [*FRBC, order("FRBC")], order("FRBC"), order("FRBC", id="order-2"), "id"),
    Case("HIST-04", [*PEBC, order("PEBC")], order("PEBC"), order("PEBC", id="order-2"), "id"),
    Case("HIST-05", PEBC, "PEBC.PowerConstraints", ("PEBC.PowerConstraints", {"id": "roof-2"}), "id"),
    Case(
        "HIST-05",
        [*PEBC, "PEBC.EnergyConstraint"],
        ("PEBC.PowerConstraints", {"id": "need-1"}),
        ("PEBC.EnergyConstraint", {"id": "need-2"}),
        "id",
    ),
    Case("HIST-05", PPBC, "PPBC.PowerProfileDefinition", ("PPBC.PowerProfileDefinition", {"id": "dishes"}), "id"),
    Case("HIST-06", FRBC, order("FRBC", actuator_id="heater"), order("FRBC"), "actuator_id"),
    Case("HIST-06", FRBC, order("FRBC", operation_mode="sing"), order("FRBC", operation_mode="off"), "operation_mode"),
    Case(
        "HIST-06",
        OMBC,
        order("OMBC", operation_mode_id="sing"),
        order("OMBC", operation_mode_id="off"),
        "operation_mode_id",
    ),
    Case("HIST-06", DDBC, order("DDBC", actuator_id="charger"), order("DDBC"), "actuator_id"),
    Case("HIST-07", FRBC[:2], "FRBC.ActuatorStatus", "FRBC.SystemDescription", ""),
    Case("HIST-07", OMBC[:2], "OMBC.TimerStatus", "OMBC.SystemDescription", ""),
    Case("HIST-07", DDBC[:2], "DDBC.AverageDemandRateForecast", "DDBC.PresentDemandStatus", ""),
    Case("HIST-07", FRBC[:2], "FRBC.StorageStatus", "PowerMeasurement", ""),
    Case(
        "HIST-08",
        FRBC,
        ("FRBC.ActuatorStatus", {"actuator_id": "heater"}),
        "FRBC.ActuatorStatus",
        "actuator_id",
    ),
    Case(
        "HIST-08",
        OMBC,
        ("OMBC.Status", {"active_operation_mode_id": "sing"}),
        ("OMBC.Status", {"previous_operation_mode_id": "sing"}),
        "active_operation_mode_id",
    ),
    Case("HIST-08", DDBC, ("DDBC.TimerStatus", {"timer_id": "egg"}), "DDBC.TimerStatus", "timer_id"),
    Case("HIST-08", FRBC, ("FRBC.TimerStatus", {"actuator_id": "egg"}), "FRBC.TimerStatus", "actuator_id"),
    Case(
        "HIST-28",
        PPBC,
        ("PPBC.PowerProfileStatus", {"sequence_container_status.0.power_profile_id": "dishes"}),
        "PPBC.PowerProfileStatus",
        "sequence_container_status[0].power_profile_id",
    ),
    Case(
        "HIST-08",
        PPBC,
        ("PPBC.PowerProfileStatus", {"sequence_container_status.1.sequence_container_id": "dry"}),
        "PPBC.PowerProfileStatus",
        "sequence_container_status[1].sequence_container_id",
    ),
    Case(
        "HIST-08",
        PPBC,
        ("PPBC.PowerProfileStatus", {"sequence_container_status.0.selected_sequence_id": "hot"}),
        ("PPBC.PowerProfileStatus", {"sequence_container_status.0.selected_sequence_id": "cold"}),
        "sequence_container_status[0].selected_sequence_id",
    ),
    Case(
        "HIST-09",
        FRBC,
        order("FRBC", operation_mode="boost"),
        order("FRBC", operation_mode="boost", abnormal_condition=True),
        "operation_mode",
    ),
    Case(
        "HIST-09",
        PPBC,
        ("PPBC.ScheduleInstruction", {"power_sequence_id": "cold"}),
        ("PPBC.ScheduleInstruction", {"power_sequence_id": "cold", "abnormal_condition": True}),
        "power_sequence_id",
    ),
    Case(
        "HIST-09",
        [*FRBC, ("FRBC.SystemDescription", {"actuators.0.transitions.0.abnormal_condition_only": True}), AT_OFF],
        order("FRBC", operation_mode="on"),
        order("FRBC", operation_mode="on", abnormal_condition=True),
        "operation_mode",
    ),
    Case(
        "HIST-10",
        [*OMBC, ("OMBC.Status", {"active_operation_mode_id": "off"})],
        order("OMBC", operation_mode_id="boost", abnormal_condition=True),
        order("OMBC", operation_mode_id="on"),
        "operation_mode_id",
    ),
    Case(
        "HIST-11",
        [*FRBC, ("FRBC.ActuatorStatus", {"active_operation_mode_id": "on"}), "FRBC.TimerStatus"],
        order("FRBC", operation_mode="off"),
        order("FRBC", operation_mode="off", execution_time=NIGHT),
        "operation_mode",
    ),
    Case(
        "HIST-12",
        PEBC,
        order("PEBC", power_constraints_id="wall-1"),
        order("PEBC"),
        "power_constraints_id",
    ),
    Case(
        "HIST-13",
        PEBC,
        ("PEBC.Instruction", {f"{ROOF_LIMIT}.lower_limit": -5001}),
        ("PEBC.Instruction", {f"{ROOF_LIMIT}.lower_limit": -5000}),
        "power_envelopes[0].power_envelope_elements[0].lower_limit",
    ),
    Case(
        "HIST-13",
        PEBC,
        ("PEBC.Instruction", {f"{ROOF_LIMIT}.lower_limit": -10}),
        ("PEBC.Instruction", {f"{ROOF_LIMIT}.lower_limit": -10, "abnormal_condition": True}),
        "power_envelopes[0].power_envelope_elements[0].lower_limit",
    ),
    Case(
        "HIST-13",
        PEBC,
        ("PEBC.Instruction", {"power_envelopes.0.commodity_quantity": "ELECTRIC.POWER.L2"}),
        "PEBC.Instruction",
        "power_envelopes[0]",
    ),
    Case("HIST-14", PEBC, order("PEBC", execution_time=NIGHT), order("PEBC", execution_time=ONE), "execution_time"),
    Case(
        "HIST-14",
        [*PEBC[:2], ("PEBC.PowerConstraints", {"valid_from": ONE})],
        order("PEBC", execution_time=NOON),
        order("PEBC", execution_time=ONE),
        "execution_time",
        AT_NOON,
    ),
    Case(
        "HIST-15",
        PPBC,
        ("PPBC.ScheduleInstruction", {"power_profile_id": "dishes"}),
        "PPBC.ScheduleInstruction",
        "power_profile_id",
    ),
    Case(
        "HIST-15",
        PPBC,
        ("PPBC.StartInterruptionInstruction", {"sequence_container_id": "dry"}),
        "PPBC.StartInterruptionInstruction",
        "sequence_container_id",
    ),
    Case(
        "HIST-15",
        PPBC,
        ("PPBC.EndInterruptionInstruction", {"power_sequence_id": "hot"}),
        "PPBC.EndInterruptionInstruction",
        "power_sequence_id",
    ),
    Case(
        "HIST-16",
        PPBC,
        ("PPBC.StartInterruptionInstruction", {"power_sequence_id": "quick"}),
        ("PPBC.ScheduleInstruction", {"power_sequence_id": "quick"}),
        "power_sequence_id",
    ),
    Case(
        "HIST-17",
        PPBC,
        ("PPBC.ScheduleInstruction", {"execution_time": "2026-05-04T20:00:01Z"}),
        ("PPBC.ScheduleInstruction", {"execution_time": "2026-05-04T20:00:00Z"}),
        "execution_time",
    ),
    Case(
        "HIST-29",
        [*FRBC, order("FRBC"), select("NO_SELECTION")],
        progress("ABORTED"),
        ("PowerMeasurement", {"values.0.value": 1}),
        "",
    ),
    Case("HIST-29", [*PEBC, select("NO_SELECTION")], REVOKE_ROOF, "PowerMeasurement", ""),
    Case("HIST-18", [*FRBC, order("FRBC")], progress("NEW", "order-9"), progress("NEW"), "instruction_id"),
    Case(
        "HIST-19",
        [*FRBC, order("FRBC", message_id="envelope-1")],
        progress("NEW", "envelope-1"),
        progress("NEW", "order-1"),
        "instruction_id",
    ),
    Case(
        "HIST-19",
        [*FRBC, order("FRBC", message_id="envelope-1")],
        ("RevokeObject", {"object_id": "envelope-1"}),
        ("RevokeObject", {"object_id": "order-1"}),
        "object_id",
    ),
    Case(
        "HIST-20",
        [*FRBC, order("FRBC"), progress("STARTED")],
        progress("ACCEPTED"),
        progress("SUCCEEDED"),
        "status_type",
    ),
    Case(
        "HIST-20",
        [*FRBC, order("FRBC", message_id="envelope-1"), progress("REVOKED", "envelope-1")],
        progress("SUCCEEDED"),
        progress("REVOKED"),
        "status_type",
    ),
    Case(
        "HIST-21",
        [*FRBC, order("FRBC"), ("RevokeObject", {"object_id": "order-1", "message_id": "revoke-1"})],
        ("RevokeObject", {"object_id": "order-1"}),
        progress("REVOKED"),
        "object_id",
    ),
    Case("HIST-21", [*PEBC, REVOKE_ROOF], REVOKE_ROOF, "PowerMeasurement", "object_id"),
    Case("HIST-21", PPBC[:2], REVOKE_LAUNDRY, "PowerMeasurement", "object_id"),
    Case(
        "HIST-21",
        [*PEBC, "PEBC.EnergyConstraint"],
        ("RevokeObject", {"object_type": "PEBC.EnergyConstraint", "object_id": "roof-1"}),
        ("RevokeObject", {"object_type": "PEBC.EnergyConstraint", "object_id": "need-1"}),
        "object_id",
    ),
    Case(
        "HIST-21",
        [*FRBC, order("FRBC")],
        ("RevokeObject", {"object_id": "order-2"}),
        ("RevokeObject", {"object_id": "order-1"}),
        "object_id",
    ),
    Case(
        "HIST-22",
        [*FRBC[:2], ("FRBC.SystemDescription", {"message_id": "plan-1"})],
        ("RevokeObject", {"object_type": "FRBC.SystemDescription", "object_id": "charger"}),
        ("RevokeObject", {"object_type": "FRBC.SystemDescription", "object_id": "plan-1"}),
        "object_id",
    ),
    Case(
        "HIST-23",
        [*FRBC, order("FRBC")],
        ("RevokeObject", {}, RM),
        ("RevokeObject", {}, CEM),
        "object_type",
    ),
    Case(
        "HIST-24",
        [(DETAILS, {"currency": MISSING})],
        ("OMBC.SystemDescription", {"operation_modes.0.running_costs": COSTS}),
        ("OMBC.SystemDescription", {"operation_modes.0.running_costs": NO_COSTS}),
        "",
    ),
    Case(
        "HIST-24",
        [(DETAILS, {"currency": MISSING})],
        ("FRBC.SystemDescription", {"actuators.0.operation_modes.0.elements.1.running_costs": COSTS}),
        ("FRBC.SystemDescription", {"actuators.0.transitions.0.transition_costs": 0}),
        "",
    ),
    Case(
        "HIST-24",
        [(DETAILS, {"currency": MISSING})],
        ("DDBC.SystemDescription", {"actuators.0.transitions.0.transition_costs": 1}),
        "DDBC.SystemDescription",
        "",
    ),
    Case(
        "HIST-25",
        [DETAILS],
        ("PowerMeasurement", {"values.0.commodity_quantity": "HEAT.THERMAL_POWER"}),
        "PowerMeasurement",
        "values[0]",
    ),
    Case("HIST-26", [(DETAILS, {"provides_forecast": False})], "PowerForecast", "PowerMeasurement", ""),
    Case(
        "HIST-26",
        [*FRBC[:2], ("FRBC.SystemDescription", {"storage.provides_usage_forecast": False})],
        "FRBC.UsageForecast",
        "FRBC.LeakageBehaviour",
        "",
    ),
    Case(
        "HIST-26",
        [*FRBC[:2], ("FRBC.SystemDescription", {"storage.provides_leakage_behaviour": False})],
        "FRBC.LeakageBehaviour",
        "FRBC.FillLevelTargetProfile",
        "",
    ),
    Case(
        "HIST-26",
        [*DDBC[:2], ("DDBC.SystemDescription", {"provides_average_demand_rate_forecast": False})],
        "DDBC.AverageDemandRateForecast",
        "DDBC.PresentDemandStatus",
        "",
    ),
    Case(
        "HIST-27",
        FRBC,
        ("FRBC.StorageStatus", {"present_fill_level": 100.1}),
        ("FRBC.StorageStatus", {"present_fill_level": 100}),
        "present_fill_level",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.path}")
def test_a_message_breaks_the_rule_and_one_near_it_breaks_none(case: Case) -> None:
    found = validate(case.before, case.breaks, case.now)
    assert [(one.rule.id, one.path) for one in found] == [(case.rule, case.path)]
    assert validate(case.before, case.near, case.now) == []


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == numbers("HIST")


@pytest.mark.parametrize("now", [None, AT_NOON])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.path}")
def test_checking_changes_nothing_and_takes_what_is_broken(case: Case, now: datetime | None) -> None:
    history = told(case.before, now)
    sender, message = spoken(case.breaks)
    first = history.check(sender, message, now)
    assert history.check(sender, message, now) == first
    history.accept(sender, message, now)


@pytest.mark.parametrize("kind", ["OMBC", "FRBC", "DDBC"])
def test_without_a_description_nothing_can_be_instructed(kind: str) -> None:
    (found,) = validate([DETAILS], order(kind))
    assert (found.rule.id, found.path) == ("HIST-06", "")


def test_an_instruction_that_comes_again_with_its_message_is_no_second_one() -> None:
    again = order("FRBC", message_id="again")
    assert broken(validate([*FRBC, again], again)) == {"HIST-01"}


def test_the_same_mode_with_another_factor_needs_no_transition() -> None:
    assert validate([*OMBC, "OMBC.Status"], order("OMBC", operation_mode_factor=0.1)) == []


def test_a_plan_of_instructions_goes_from_mode_to_mode() -> None:
    active: Said = ("OMBC.Status", {"active_operation_mode_id": "off"})
    plan = order("OMBC", operation_mode_id="on")
    after = order("OMBC", id="order-2", operation_mode_id="boost", abnormal_condition=True, execution_time=NIGHT)
    assert validate([*OMBC, active, plan], after) == []


def test_an_instruction_of_the_past_is_executed_now_when_timers_are_looked_at() -> None:
    before = [*FRBC, ("FRBC.ActuatorStatus", {"active_operation_mode_id": "on"}), "FRBC.TimerStatus"]
    now = datetime(2026, 5, 4, 22, 0, tzinfo=UTC)
    assert validate(before, order("FRBC", operation_mode="off", execution_time=NOON), now) == []


def test_what_was_revoked_can_be_named_no_more() -> None:
    assert broken(validate([*PEBC, REVOKE_ROOF], order("PEBC"))) == {"HIST-12"}
    assert broken(validate([*PPBC, REVOKE_LAUNDRY], "PPBC.ScheduleInstruction")) == {"HIST-15"}
    plan: Said = ("FRBC.SystemDescription", {"message_id": "plan-1"})
    revoke: Said = ("RevokeObject", {"object_type": "FRBC.SystemDescription", "object_id": "plan-1"})
    assert broken(validate([*FRBC[:2], plan, revoke], order("FRBC"))) == {"HIST-06"}


def test_a_revoked_instruction_is_still_reported_about() -> None:
    assert validate([*FRBC, order("FRBC"), "RevokeObject"], progress("REVOKED")) == []


def test_a_descending_range_for_a_limit_is_read_from_its_lower_end() -> None:
    descending = {"allowed_limit_ranges.1.range_boundary": {"start_of_range": -1000, "end_of_range": -5000}}
    before = [*PEBC[:2], ("PEBC.PowerConstraints", descending)]
    assert validate(before, order("PEBC")) == []
    assert broken(validate(before, ("PEBC.Instruction", {f"{ROOF_LIMIT}.lower_limit": -5001}))) == {"HIST-13"}


# Which description is in force

PLAN_B: Said = ("FRBC.SystemDescription", {"valid_from": NIGHT, "actuators.0.id": "other", "message_id": "plan-b"})
OTHER = order("FRBC", actuator_id="other", id="order-2")
BEFORE = AT_NOON
AFTER = AT_NOON + timedelta(hours=12)


def test_a_description_to_come_leaves_the_one_before_in_force_until_then() -> None:
    history = told([*FRBC, PLAN_B], BEFORE)
    old: set[str]
    new: set[str]
    for now, old, new in ((BEFORE, set(), set()), (AFTER, {"HIST-06"}, set())):
        assert broken(history.check(*spoken(order("FRBC")), now)) == old
        assert broken(history.check(*spoken(OTHER), now)) == new


def test_a_description_that_is_valid_at_once_replaces_the_one_before() -> None:
    assert broken(validate([*FRBC, PLAN_B], order("FRBC"), AFTER)) == {"HIST-06"}


@pytest.mark.rule("MSG-08")
def test_several_descriptions_to_come_are_remembered() -> None:
    plan_c: Said = ("FRBC.SystemDescription", {"valid_from": ONE, "actuators.0.id": "third"})
    history = told([*FRBC, PLAN_B, plan_c], BEFORE)
    third = order("FRBC", actuator_id="third", id="order-3")
    old: set[str]
    second: set[str]
    last: set[str]
    for now, old, second, last in (
        (BEFORE, set(), set(), set()),
        (BEFORE + timedelta(hours=2), {"HIST-06"}, set(), set()),
        (AFTER, {"HIST-06"}, set(), {"HIST-06"}),
    ):
        assert broken(history.check(*spoken(order("FRBC")), now)) == old
        assert broken(history.check(*spoken(OTHER), now)) == second
        assert broken(history.check(*spoken(third), now)) == last
    later = told([*FRBC, PLAN_B], BEFORE)
    later.accept(*spoken(plan_c), AFTER)
    assert broken(later.check(*spoken(OTHER), AFTER)) == {"HIST-06"}


def test_without_a_clock_every_description_that_is_remembered_may_be_in_force() -> None:
    history = told([*FRBC, PLAN_B])
    assert history.check(*spoken(order("FRBC"))) == []
    assert history.check(*spoken(OTHER)) == []
    assert broken(history.check(*spoken(order("FRBC", actuator_id="none")))) == {"HIST-06"}


@pytest.mark.rule("SEC-03")
def test_descriptions_are_bounded_and_one_that_was_forgotten_is_never_missed() -> None:
    many: list[Said] = [("FRBC.SystemDescription", {"actuators.0.id": f"charger-{n}"}) for n in range(MAX_DESCRIPTIONS)]
    history = told([*FRBC, *many])
    assert len(history._machines["FRBC"].descriptions) == MAX_DESCRIPTIONS
    assert history.check(*spoken(order("FRBC"))) == []
    assert history.check(*spoken(order("FRBC", actuator_id="charger-0"))) == []


@pytest.mark.parametrize("revoked", ["plan-a", "plan-b"])
def test_revoking_one_description_leaves_the_other(revoked: str) -> None:
    plan_a: Said = ("FRBC.SystemDescription", {"message_id": "plan-a"})
    revoke: Said = ("RevokeObject", {"object_type": "FRBC.SystemDescription", "object_id": revoked})
    history = told([*FRBC[:2], plan_a, PLAN_B, revoke])
    of_a, of_b = (broken(history.check(*spoken(one))) for one in (order("FRBC"), OTHER))
    assert (of_a, of_b) == (({"HIST-06"}, set()) if revoked == "plan-a" else (set(), {"HIST-06"}))


# Control types and sessions


def test_another_control_type_forgets_what_belonged_to_the_last() -> None:
    for before, last, rule in (
        (FRBC, order("FRBC"), "HIST-06"),
        (PEBC, order("PEBC"), "HIST-12"),
        (PPBC, "PPBC.ScheduleInstruction", "HIST-15"),
    ):
        assert validate(before, last) == []
        assert broken(validate([*before, select("NO_SELECTION")], last)) == {rule}
        assert validate([*before, before[1]], last) == [], "the same one selected again"


def test_what_overtakes_the_answer_to_its_selection_is_kept() -> None:
    assert validate([DETAILS, "FRBC.SystemDescription", FRBC[1]], order("FRBC")) == []


def test_instructions_outlive_the_control_type() -> None:
    assert broken(validate([*FRBC, order("FRBC"), select("NO_SELECTION")], progress("ABORTED"))) == {"HIST-29"}


# Memory


@pytest.mark.parametrize("said", [FRBC, OMBC, PEBC, PPBC], ids=["FRBC", "OMBC", "PEBC", "PPBC"])
def test_a_copy_goes_on_by_itself(said: list[Said]) -> None:
    kind = ("PPBC.ScheduleInstruction", {}) if said is PPBC else order(str(said[2])[:4])
    history = told([DETAILS])
    other = history.fork()
    for one in said[1:]:
        other.accept(*spoken(one))
    assert other.check(*spoken(kind)) == []
    assert history.check(*spoken(kind)) != []
    third = other.fork()
    third.accept(*spoken(kind))
    third.accept(*spoken(select("NO_SELECTION")))
    assert broken(third.check(*spoken(kind))) & {"HIST-04"}
    assert other.check(*spoken(kind)) == []


def test_what_was_forgotten_is_never_missed() -> None:
    history = told(FRBC)
    for number in range(MAX_REMEMBERED + 1):
        history.accept(*spoken(order("FRBC", id=f"order-{number}")))
    assert history.check(*spoken(progress("NEW", "order-0"))) == []
    assert history.check(*spoken(progress("NEW", "never-sent"))) == []
    assert history.check(*spoken(("RevokeObject", {"object_id": "order-0"}))) == []


def test_constraints_and_profiles_that_were_forgotten_are_never_missed() -> None:
    history = told([*PEBC[:1]])
    for number in range(MAX_OBJECTS + 1):
        history.accept(*spoken(("PEBC.PowerConstraints", {"id": f"roof-{number}"})))
        history.accept(*spoken(("PPBC.PowerProfileDefinition", {"id": f"laundry-{number}"})))
    assert history.check(*spoken(order("PEBC", power_constraints_id="roof-0"))) == []
    assert history.check(*spoken(("PPBC.ScheduleInstruction", {"power_profile_id": "laundry-0"}))) == []
    assert history.check(*spoken(("PPBC.PowerProfileStatus", {}))) == []
    known = order("PEBC", power_constraints_id=f"roof-{MAX_OBJECTS}", execution_time=NIGHT)
    assert broken(history.check(*spoken(known))) == {"HIST-14"}


def test_memory_is_bounded_also_for_long_identifiers() -> None:
    remembered: Remembered[str, None] = Remembered(3)
    for key in ("a", "b", "c", "a", "d"):
        remembered.put(key, None)
    assert len(remembered) == 3
    assert "b" not in remembered
    assert "a" in remembered
    assert not remembered.never_had("b")
    longest: Remembered[str, None] = Remembered()
    longest.put("x" * 65, None)
    assert len(longest) == 0
    assert not longest.never_had("x" * 65)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_conversation_of_representable_messages_raises(data: st.DataObject) -> None:
    history = History()
    moments = st.none() | st.datetimes(timezones=st.just(UTC))
    for _ in range(data.draw(st.integers(1, 8))):
        message_type = data.draw(st.sampled_from(names(V1, "messages")))
        message = parse(json.dumps(data.draw(documents(V1, message_type))), V1)
        sender, now = data.draw(st.sampled_from(Role)), data.draw(moments)
        for found in [*check(message), *history.check(sender, message, now)]:
            assert len(found.label) <= MAX_LABEL_LENGTH
        history.accept(sender, message, now)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_conversation_about_known_things_raises(data: st.DataObject) -> None:
    said = [case.breaks for case in CASES] + [one for case in CASES for one in case.before] + [c.near for c in CASES]
    history = History()
    for one in data.draw(st.lists(st.sampled_from(said), max_size=12)):
        sender, message = spoken(one)
        now = data.draw(st.sampled_from([None, BEFORE, AFTER]))
        history.check(sender, message, now)
        history.accept(sender, message, now)
