"""Translation between 0.0.2-beta and v1.0.0: the present demand rate, and the answers to what was made of a message."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.errors import UsageError
from s2connect.messages.catalogue import BETA, V1, parse
from s2connect.messages.envelope import read_message
from s2connect.messages.versions import MAX_REMEMBERED, Translation, Translator, Untranslatable
from s2connect.model.common import Role

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RATE = {"start_of_range": 1.5, "end_of_range": 2.0}
MORE = {"start_of_range": 3.0, "end_of_range": 4.0}


def description(identifier: str, valid_from: str = "2026-01-01T00:00:00Z", **more: Any) -> str:
    mode = {
        "Id": "mode",
        "power_ranges": [{"start_of_range": 0, "end_of_range": 1, "commodity_quantity": "HEAT.THERMAL_POWER"}],
        "supply_range": {"start_of_range": 0, "end_of_range": 1},
        "abnormal_condition_only": False,
    }
    actuator = {
        "id": "boiler",
        "diagnostic_label": "Kessel für später",
        "supported_commodites": ["HEAT"],
        "operation_modes": [mode],
        "transitions": [],
        "timers": [],
    }
    value = {
        "message_type": "DDBC.SystemDescription",
        "message_id": identifier,
        "valid_from": valid_from,
        "actuators": [actuator],
        "provides_average_demand_rate_forecast": False,
        **more,
    }
    return json.dumps(value, ensure_ascii=False)


def demand(identifier: str, rate: dict[str, float] = RATE) -> str:
    value = {"message_type": "DDBC.PresentDemandStatus", "message_id": identifier, "present_demand_rate": rate}
    return json.dumps(value)


def status(subject: str, value: str = "OK", **more: Any) -> str:
    return json.dumps({"message_type": "ReceptionStatus", "subject_message_id": subject, "status": value, **more})


def revoke(identifier: str, object_id: str, object_type: str = "DDBC.SystemDescription") -> str:
    value = {"message_type": "RevokeObject", "message_id": identifier, "object_id": object_id}
    return json.dumps({**value, "object_type": object_type})


class Between:
    """A translator between a device and an energy manager."""

    def __init__(self, rm: str, cem: str) -> None:
        ids = (f"new-{number}" for number in itertools.count(1))
        self.translator = Translator(rm, cem, new_id=lambda: next(ids))

    def rm(self, text: str, now: datetime = NOW) -> tuple[list[Any], list[Any]]:
        return self._values(self.translator.translate(Role.RM, read_message(text), now=now))

    def cem(self, text: str) -> tuple[list[Any], list[Any]]:
        return self._values(self.translator.translate(Role.CEM, read_message(text), now=NOW))

    def told(self, subject: str, value: str = "OK", **more: Any) -> list[tuple[str, str]]:
        """Return what the RM receives when the CEM answers."""
        onward, back = self.cem(status(subject, value, **more))
        assert back == []
        return [(one["subject_message_id"], one["status"]) for one in onward]

    @staticmethod
    def _values(translation: Translation) -> tuple[list[Any], list[Any]]:
        return [json.loads(text) for text in translation.onward], [json.loads(text) for text in translation.back]


def beta_device() -> Between:
    return Between("0.0.2-beta", "1.0.0")


def beta_manager() -> Between:
    return Between("v1.0.0", "v0.0.2-beta")


def acknowledged(identifier: str) -> list[dict[str, str]]:
    return [{"message_type": "ReceptionStatus", "subject_message_id": identifier, "status": "OK"}]


# A device that speaks beta


def test_a_beta_description_becomes_a_description_and_a_present_demand() -> None:
    between = beta_device()
    onward, back = between.rm(description("m1", present_demand_rate=RATE))
    assert back == []
    assert onward == [json.loads(description("m1")), json.loads(demand("new-1"))]
    for made in onward:
        parse(json.dumps(made), V1)
    assert between.translator.owns("new-1")
    assert not between.translator.owns("m1")


@pytest.mark.rule("MSG-03")
@pytest.mark.parametrize("order", list(itertools.permutations(["m1", "new-1"])))
def test_the_device_hears_ok_once_when_both_are_taken(order: tuple[str, str]) -> None:
    between = beta_device()
    between.rm(description("m1", present_demand_rate=RATE))
    assert between.told(order[0]) == []
    assert between.told(order[1]) == [("m1", "OK")]


@pytest.mark.rule("MSG-03")
@pytest.mark.parametrize("refused", ["m1", "new-1"])
@pytest.mark.parametrize("first", [True, False])
def test_the_device_hears_the_refusal_once_if_either_is_refused(refused: str, *, first: bool) -> None:
    between = beta_device()
    between.rm(description("m1", present_demand_rate=RATE))
    taken = "new-1" if refused == "m1" else "m1"
    said = []
    for subject in (refused, taken) if first else (taken, refused):
        value = "INVALID_CONTENT" if subject == refused else "OK"
        onward, _ = between.cem(status(subject, value, diagnostic_label="DDBC-01: ü"))
        said += onward
    assert said == [json.loads(status("m1", "INVALID_CONTENT", diagnostic_label="DDBC-01: ü"))]
    assert between.told("new-1", "INVALID_CONTENT") == [], "not even if it is said again"


def test_a_device_that_speaks_beta_cannot_use_a_message_of_v1() -> None:
    with pytest.raises(Untranslatable, match=r"0\.0\.2-beta has no DDBC\.PresentDemandStatus"):
        beta_device().rm(demand("p1"))


@pytest.mark.parametrize(
    ("between", "text"),
    [
        (beta_device(), description("m1")),
        (beta_device(), description("m1", present_demand_rate={})),
        (beta_manager(), description("m1", present_demand_rate=RATE)),
        (beta_manager(), demand("p1", {"start_of_range": 1})),
        (beta_manager(), revoke("r1", "m1", "nothing")),
        (beta_manager(), '{"message_type":"DDBC.PresentDemandStatus","message_id":"p1","message_id":"p2"}'),
    ],
)
def test_what_is_not_of_its_version_is_refused_with_a_reason(between: Between, text: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        between.rm(text)
    assert caught.value.reason.startswith("not of S2 JSON ")


# An energy manager that speaks beta


def test_a_description_waits_for_a_present_demand_and_its_device_does_not() -> None:
    between = beta_manager()
    assert between.rm(description("m1")) == ([], acknowledged("m1"))
    onward, back = between.rm(demand("p1"))
    assert back == []
    assert onward == [json.loads(description("m1", present_demand_rate=RATE))]
    parse(json.dumps(onward[0]), BETA)
    assert between.told("m1") == [("p1", "OK")]


def test_a_refused_description_that_was_kept_is_a_refused_demand() -> None:
    between = beta_manager()
    between.rm(description("m1"))
    between.rm(demand("p1"))
    assert between.told("m1", "INVALID_CONTENT") == [("p1", "INVALID_CONTENT")]


def test_a_present_demand_waits_for_a_description() -> None:
    between = beta_manager()
    assert between.rm(demand("p1")) == ([], acknowledged("p1"))
    assert between.rm(demand("p2", MORE)) == ([], acknowledged("p2"))
    onward, back = between.rm(description("m1"))
    assert (onward, back) == ([json.loads(description("m1", present_demand_rate=MORE))], [])
    assert between.told("m1", "TEMPORARY_ERROR") == [("m1", "TEMPORARY_ERROR")]
    assert between.rm(demand("p3")) == ([], acknowledged("p3")), "the refused description is none"


def test_a_new_demand_sends_the_description_again() -> None:
    between = beta_manager()
    between.rm(description("m1"))
    between.rm(demand("p1"))
    between.told("m1")
    onward, back = between.rm(demand("p2", MORE))
    assert (onward, back) == ([json.loads(description("new-1", present_demand_rate=MORE))], [])
    assert between.told("new-1") == [("p2", "OK")]
    assert between.told("new-1") == [], "an answer that comes twice is no one's"


def test_a_new_demand_concerns_the_description_that_is_valid_and_the_one_to_come() -> None:
    between = beta_manager()
    between.rm(demand("p0"))
    for identifier, hour in (("m1", 8), ("m2", 10), ("m3", 20), ("m4", 22)):
        between.rm(description(identifier, f"2026-01-01T{hour:02}:00:00Z"))
        between.told(identifier)
    onward, _ = between.rm(demand("p1", MORE))
    assert [(one["message_id"], one["valid_from"][11:13]) for one in onward] == [("new-1", "10"), ("new-2", "22")]
    assert between.told("new-2") == []
    assert between.told("new-1") == [("p1", "OK")]
    onward, _ = between.rm(demand("p2"), now=datetime(2026, 1, 2, tzinfo=UTC))
    assert [one["valid_from"][11:13] for one in onward] == ["22"]


def test_the_device_revokes_a_description_by_the_id_that_it_knows() -> None:
    between = beta_manager()
    between.rm(description("m1"))
    for number in range(3):
        between.rm(demand(f"p{number}"))
    assert between.rm(revoke("r1", "m1")) == ([json.loads(revoke("r1", "new-2"))], [])
    assert between.rm(demand("p9")) == ([], acknowledged("p9"))


def test_a_description_that_never_went_out_is_revoked_here() -> None:
    between = beta_manager()
    between.rm(description("m1"))
    assert between.rm(revoke("r1", "m1")) == ([], acknowledged("r1"))


@pytest.mark.parametrize("text", [revoke("r1", "m1"), revoke("r1", "m2"), revoke("r1", "i1", "DDBC.Instruction")])
def test_other_revocations_go_on_as_they_are(text: str) -> None:
    between = beta_manager()
    between.rm(demand("p1"))
    between.rm(description("m1"))
    assert between.rm(text) == ([json.loads(text)], [])


@pytest.mark.parametrize(("value", "forgotten"), [("OK", True), ("INVALID_CONTENT", False)])
@pytest.mark.parametrize("control_type", ["NO_SELECTION", "DEMAND_DRIVEN_BASED_CONTROL"])
def test_leaving_the_control_type_forgets_its_descriptions(value: str, control_type: str, *, forgotten: bool) -> None:
    between = beta_manager()
    between.rm(demand("p1"))
    between.rm(description("m1"))
    select = {"message_type": "SelectControlType", "message_id": "s1", "control_type": control_type}
    assert between.cem(json.dumps(select)) == ([select], [])
    assert between.rm(status("s1", value)) == ([json.loads(status("s1", value))], [])
    onward, _ = between.rm(demand("p2"))
    assert (onward == []) is (forgotten and control_type == "NO_SELECTION")


# Both


@pytest.mark.rule("MSG-06")
@given(
    version=st.sampled_from([(V1, BETA), (BETA, V1)]),
    sender=st.sampled_from(Role),
    kind=st.sampled_from(["PowerMeasurement", "DDBC.Instruction", "FRBC.SystemDescription", "ReceptionStatus", "Odd"]),
    number=st.text(alphabet="0123456789", min_size=1),
)
def test_everything_else_goes_on_byte_for_byte(version: tuple[str, str], sender: Role, kind: str, number: str) -> None:
    identifier = '"subject_message_id":"m1","status":"ODD"' if kind == "ReceptionStatus" else '"message_id":"m1"'
    text = f' {{"message_type" : "{kind}",\n{identifier}, "ü":"\\u00fc", "n":1.{number}0}}'
    translation = Translator(*version).translate(sender, read_message(text), now=NOW)
    assert translation == ((text,), ())


@pytest.mark.rule("MSG-06", "VER-06")
@pytest.mark.parametrize("versions", [("v1.0.0", "1.0.0"), ("0.0.2-beta", "v0.0.2-beta")])
def test_between_two_of_one_version_nothing_is_translated(versions: tuple[str, str]) -> None:
    between = Between(*versions)
    for text in (description("m1"), description("m2", present_demand_rate=RATE), demand("p1")):
        assert between.rm(text) == ([json.loads(text)], [])


@pytest.mark.rule("VER-06")
def test_a_version_that_is_unknown_is_no_version() -> None:
    with pytest.raises(UsageError):
        Translator("v1.0.0", "v2.0.0")


def test_what_is_remembered_is_bounded() -> None:
    between = beta_device()
    for number in range(MAX_REMEMBERED + 1):
        between.rm(description(f"m{number}", present_demand_rate=RATE))
    assert not between.translator.owns("new-1")
    assert between.translator.owns(f"new-{MAX_REMEMBERED + 1}")
    assert between.told(f"m{MAX_REMEMBERED}") == []
