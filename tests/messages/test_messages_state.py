"""The table of the standard, against a copy made by hand, and when a selection counts."""

from __future__ import annotations

from collections import deque
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from s2connect.messages.catalogue import MESSAGES, V1
from s2connect.messages.envelope import HANDSHAKES
from s2connect.messages.general import ControlType
from s2connect.messages.state import MAX_PENDING, TABLE, SessionState
from s2connect.model.common import Role

CEM, RM = Role.CEM, Role.RM

STANDARD: Final = """
WebSocket Connected
SelectControlType SessionRequest ReceptionStatus
ResourceManagerDetails PowerMeasurement PowerForecast SessionRequest ReceptionStatus

POWER_ENVELOPE_BASED_CONTROL
PEBC.Instruction SelectControlType SessionRequest ReceptionStatus
PEBC.EnergyConstraint PEBC.PowerConstraint RevokeObject InstructionStatusUpdate ResourceManagerDetails PowerMeasurement PowerForecast SessionRequest ReceptionStatus

POWER_PROFILE_BASED_CONTROL
PPBC.EndInterruptionInstruction PPBC.ScheduleInstruction PPBC.StartInterruptionInstruction SelectControlType SessionRequest ReceptionStatus
PPBC.PowerProfileDefinition PPBC.PowerPorfileStatus RevokeObject InstructionStatusUpdate ResourceManagerDetails PowerMeasurement PowerForecast SessionRequest ReceptionStatus

OPERATION_MODE_BASED_CONTROL
OMBC.Instruction SelectControlType SessionRequest ReceptionStatus
OMBC.Status OMBC.SystemDescription OMBC.TimerStatus RevokeObject InstructionStatusUpdate ResourceManagerDetails PowerMeasurement PowerForecast SessionRequest ReceptionStatus

FILL_RATE_BASED_CONTROL
FRBC.Instruction SelectControlType SessionRequest ReceptionStatus
FRBC.ActuatorStatus FRBC.FillLevelTargetProfile FRBC.LeakageBehaviour FRBC.StorageStatus FRBC.SystemDescription FRBC.UsageForecast FRBC.TimerStatus RevokeObject InstructionStatusUpdate ResourceManagerDetails PowerMeasurement PowerForecast SessionRequest ReceptionStatus

DEMAND_DRIVEN_BASED_CONTROL
DDBC.Instruction SelectControlType SessionRequest ReceptionStatus
DDBC.ActuatorStatus DDBC.AverageDemandRateForecast DDBC.SystemDescription DDBC.TimerStatus RevokeObject InstructionStatusUpdate ResourceManagerDetails PowerMeasurement PowerForecast SessionRequest ReceptionStatus
"""  # noqa: E501 - rows of a table
"""By state: what the CEM sends, what the RM sends; in the words of the standard, with its misprints."""

MISPRINTS: Final = {
    "PEBC.PowerConstraint": "PEBC.PowerConstraints",
    "PPBC.PowerPorfileStatus": "PPBC.PowerProfileStatus",
}


def standard() -> dict[str, dict[Role, set[str]]]:
    """The table with the misprints mended and what MSG-02 adds to it."""
    rows = {}
    for block in STANDARD.strip().split("\n\n"):
        state, *cells = block.split("\n")
        cem, rm = ({MISPRINTS.get(word, word) for word in cell.split()} for cell in cells)
        rows[state] = {CEM: cem, RM: rm}
    for state, row in rows.items():
        if state != "WebSocket Connected":
            row[CEM].add("RevokeObject")
    rows["DEMAND_DRIVEN_BASED_CONTROL"][RM].add("DDBC.PresentDemandStatus")
    return rows


TYPES: Final = sorted(set(MESSAGES[V1]) - HANDSHAKES)


def selected(control_type: ControlType) -> SessionState:
    state = SessionState()
    state.selecting("s1", control_type)
    state.selected("s1")
    return state


def allowed(state: SessionState, sender: Role) -> set[str]:
    return {kind for kind in TYPES if state.problem(sender, kind) is None}


@pytest.mark.rule("MSG-02")
@pytest.mark.parametrize("sender", [CEM, RM])
@pytest.mark.parametrize("control_type", [None, *ControlType])
def test_what_may_be_sent_is_the_table_of_the_standard(control_type: ControlType | None, sender: Role) -> None:
    state = SessionState() if control_type is None else selected(control_type)
    row = standard().get(str(control_type), standard()["WebSocket Connected"])
    assert allowed(state, sender) == row[sender]


def test_every_message_but_the_handshakes_can_be_sent_by_somebody() -> None:
    assert {kind for row in TABLE.values() for kinds in row.values() for kind in kinds} == set(TYPES)


@pytest.mark.parametrize("nothing", [ControlType.NOT_CONTROLLABLE, ControlType.NO_SELECTION])
@pytest.mark.rule("MSG-02")
def test_selecting_nothing_ends_a_control_type(nothing: ControlType) -> None:
    state = selected(ControlType.FILL_RATE_BASED_CONTROL)
    state.selecting("s2", nothing)
    state.selected("s2")
    assert state.control_type is None
    assert allowed(state, RM) == set(TABLE[None][RM])


@pytest.mark.rule("MSG-02")
def test_a_selection_counts_when_it_is_accepted_and_a_refused_one_never() -> None:
    state = selected(ControlType.FILL_RATE_BASED_CONTROL)
    state.selecting("s2", ControlType.OPERATION_MODE_BASED_CONTROL)
    assert state.control_type is ControlType.FILL_RATE_BASED_CONTROL
    assert state.problem(CEM, "FRBC.Instruction") is None
    assert state.problem(CEM, "OMBC.Instruction")
    state.refused("s2")
    assert state.control_type is ControlType.FILL_RATE_BASED_CONTROL
    assert state.problem(RM, "OMBC.Status")


@pytest.mark.rule("MSG-02")
def test_while_a_selection_waits_for_its_answer_the_device_may_be_in_either_state() -> None:
    state = selected(ControlType.FILL_RATE_BASED_CONTROL)
    state.selecting("s2", ControlType.OPERATION_MODE_BASED_CONTROL)
    assert state.problem(RM, "FRBC.StorageStatus") is None, "sent before it saw the selection"
    assert state.problem(RM, "OMBC.SystemDescription") is None, "sent before its OK"
    assert state.problem(RM, "DDBC.SystemDescription")
    state.selected("s2")
    assert state.problem(RM, "FRBC.StorageStatus")
    assert state.problem(RM, "OMBC.SystemDescription") is None


@pytest.mark.rule("MSG-02")
def test_of_two_selections_the_one_that_was_sent_last_counts_however_the_answers_come() -> None:
    state = SessionState()
    state.selecting("s1", ControlType.FILL_RATE_BASED_CONTROL)
    state.selecting("s2", ControlType.OPERATION_MODE_BASED_CONTROL)
    state.selected("s2")
    state.selected("s1")
    assert state.control_type is ControlType.OPERATION_MODE_BASED_CONTROL
    assert state.problem(RM, "FRBC.StorageStatus"), "the first selection is over with the second one"


def test_selections_that_nobody_answers_are_forgotten_in_the_end() -> None:
    state = SessionState()
    state.selecting("s0", ControlType.FILL_RATE_BASED_CONTROL)
    for number in range(MAX_PENDING):
        state.selecting(f"t{number}", ControlType.NO_SELECTION)
    assert state.problem(RM, "FRBC.StorageStatus")
    state.selected("s0")
    assert state.control_type is None


@pytest.mark.parametrize(
    ("state", "sender", "kind", "sentence"),
    [
        (
            SessionState(),
            CEM,
            "FRBC.Instruction",
            "FRBC.Instruction is not sent by the CEM while no control type is selected",
        ),
        (
            selected(ControlType.OPERATION_MODE_BASED_CONTROL),
            RM,
            "FRBC.StorageStatus",
            "FRBC.StorageStatus is not sent by the RM while OPERATION_MODE_BASED_CONTROL is selected",
        ),
        (SessionState(), RM, "SelectControlType", "SelectControlType is never sent by the RM"),
    ],
)
def test_a_problem_names_the_rule_the_message_and_the_state(
    state: SessionState, sender: Role, kind: str, sentence: str
) -> None:
    assert state.problem(sender, kind) == f"MSG-02: {sentence}"


class Selecting(RuleBasedStateMachine):
    """Selections, answered in any order, late, twice or never; beside it what each side believes by the standard."""

    on_the_way = Bundle("on_the_way")

    def __init__(self) -> None:
        super().__init__()
        self.state = SessionState()
        self.sent: list[tuple[str, ControlType]] = []
        self.open: list[str] = []
        self.believed: ControlType | None = None

    @rule(target=on_the_way, control_type=st.sampled_from(ControlType))
    def select(self, control_type: ControlType) -> str:
        identifier = f"s{len(self.sent)}"
        self.sent.append((identifier, control_type))
        self.open = [*self.open, identifier][-MAX_PENDING:]
        self.state.selecting(identifier, control_type)
        return identifier

    @rule(identifier=on_the_way)
    def accept(self, identifier: str) -> None:
        self.state.selected(identifier)
        if identifier in self.open:
            self.open = self.open[self.open.index(identifier) + 1 :]
            control_type = dict(self.sent)[identifier]
            self.believed = control_type if str(control_type) in standard() else None

    @rule(identifier=on_the_way)
    def refuse(self, identifier: str) -> None:
        self.state.refused(identifier)
        self.open = [one for one in self.open if one != identifier]

    @invariant()
    def the_table_holds_for_both(self) -> None:
        table = standard()
        here = table[str(self.believed) if self.believed else "WebSocket Connected"]
        assert self.state.control_type is self.believed
        assert allowed(self.state, CEM) == here[CEM]
        coming = (table.get(str(dict(self.sent)[one]), table["WebSocket Connected"])[RM] for one in self.open)
        assert allowed(self.state, RM) == here[RM].union(*coming)


Selecting.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
test_selections_in_any_order = pytest.mark.rule("MSG-02")(Selecting.TestCase)


Said = tuple[str, str, str]
"""What travels: ``message``, ``select``, ``ok`` or ``no``; the type, the control type or nothing; an id."""

SPEECH: Final = {
    ControlType.FILL_RATE_BASED_CONTROL: ("FRBC.Instruction", "FRBC.StorageStatus"),
    ControlType.OPERATION_MODE_BASED_CONTROL: ("OMBC.Instruction", "OMBC.Status"),
    ControlType.NO_SELECTION: ("SessionRequest", "PowerMeasurement"),
}
"""What the manager and the device say that the other states do not have, where there is such a thing."""


class TwoSides(RuleBasedStateMachine):
    """Both sides, each with its own state, and what is on its way between them.

    The device answers a selection at once or after some of its own messages, and accepts it or not. Whatever a device
    may send by its own state is allowed by that of the manager when it arrives. What a manager sends can be refused
    only where a selection was under way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.manager, self.device = SessionState(), SessionState()
        self.to_device: deque[tuple[Said, bool]] = deque()
        self.to_manager: deque[Said] = deque()
        self.unsaid: list[Said] = []
        self.unanswered: set[str] = set()
        self.count = 0

    @precondition(lambda self: len(self.unanswered) < MAX_PENDING)
    @rule(control_type=st.sampled_from([*SPEECH]))
    def manager_selects(self, control_type: ControlType) -> None:
        self.count += 1
        identifier = f"s{self.count}"
        self.manager.selecting(identifier, control_type)
        self.unanswered.add(identifier)
        self.to_device.append((("select", control_type, identifier), False))

    @rule()
    def manager_sends(self) -> None:
        kind, _ = SPEECH[self.manager.control_type or ControlType.NO_SELECTION]
        assert self.manager.problem(CEM, kind) is None
        self.to_device.append((("message", kind, ""), bool(self.unanswered)))

    @rule()
    def device_sends(self) -> None:
        _, kind = SPEECH[self.device.control_type or ControlType.NO_SELECTION]
        assert self.device.problem(RM, kind) is None
        self.to_manager.append(("message", kind, ""))

    @precondition(lambda self: self.to_device)
    @rule(accepts=st.booleans(), at_once=st.booleans())
    def device_receives(self, *, accepts: bool, at_once: bool) -> None:
        (what, kind, identifier), selection_under_way = self.to_device.popleft()
        if what == "message":
            assert selection_under_way or self.device.problem(CEM, kind) is None
            return
        assert self.device.problem(CEM, "SelectControlType") is None
        self.device.selecting(identifier, ControlType(kind))
        (self.device.selected if accepts else self.device.refused)(identifier)
        answer: Said = ("ok" if accepts else "no", "", identifier)
        if at_once:
            self.to_manager.append(answer)
        else:
            self.unsaid.append(answer)

    @precondition(lambda self: self.unsaid)
    @rule(data=st.data())
    def device_answers_late(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.unsaid) - 1))
        self.to_manager.append(self.unsaid.pop(index))

    @precondition(lambda self: self.to_manager)
    @rule()
    def manager_receives(self) -> None:
        what, kind, identifier = self.to_manager.popleft()
        if what == "message":
            assert self.manager.problem(RM, kind) is None
            return
        (self.manager.selected if what == "ok" else self.manager.refused)(identifier)
        self.unanswered.discard(identifier)

    @invariant()
    def both_agree_when_nothing_is_under_way(self) -> None:
        if not (self.to_device or self.to_manager or self.unsaid):
            assert self.manager.control_type is self.device.control_type


TwoSides.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_two_sides_that_keep_to_the_table_agree = pytest.mark.rule("MSG-02")(TwoSides.TestCase)
