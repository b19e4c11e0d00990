"""Decisions of a set-up: what is kept, what contradicts what is there, and which message is the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2connect.errors import UsageError
from s2connect.messages.envelope import read_message
from s2connect.model.common import Role
from s2connect.service.first_message import MAX_PENDING, FirstMessage
from s2connect.service.guided_setup import prepare
from s2connect.service.objects import ExchangedMessage

LOCAL = {"host": "127.0.0.1", "bind": "127.0.0.1", "vault": "files"}


def node(role: Role | None = None, **about: str | None) -> dict[str, object]:
    return {"role": role, "brand": None, "type": None, "model_name": None, "user_defined_name": None, **about}


def test_a_directory_is_set_up_once_and_kept_after_that(tmp_path: Path) -> None:
    home = tmp_path / "home"
    made = prepare(home, node(Role.RM, user_defined_name="Battery"), LOCAL)
    assert (made.made, made.role, made.config.host) == (True, Role.RM, "127.0.0.1")
    before = (home / "config.json").read_bytes()
    again = prepare(home, node(), {})
    assert (again.made, again.config) == (False, made.config)
    assert prepare(home, node(Role.RM, user_defined_name="Battery"), LOCAL | {"port": made.config.port}).made is False
    assert (home / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "what", "helps"),
    [
        ((node(Role.CEM), {}), "role RM and not CEM", "--home"),
        ((node(user_defined_name="Charger"), {}), "name Battery and not Charger", "s2connect config set name Charger"),
        ((node(model_name="B 2"), {}), "model s2connect and not B 2", "s2connect config set model 'B 2'"),
        ((node(), {"port": 9}), "and not 9", "s2connect config set port 9"),
        ((node(), {"host": "b.local"}), "host 127.0.0.1 and not b.local", "s2connect config set host b.local"),
    ],
)
def test_what_contradicts_a_directory_is_named_with_the_command_that_changes_it(
    tmp_path: Path, asked: tuple[dict[str, object], dict[str, object]], what: str, helps: str
) -> None:
    prepare(tmp_path / "home", node(Role.RM, user_defined_name="Battery"), LOCAL)
    with pytest.raises(UsageError, match=what) as refused:
        prepare(tmp_path / "home", *asked)
    assert helps in refused.value.hint


def test_the_directory_of_a_bridge_is_not_taken(tmp_path: Path) -> None:
    prepare(tmp_path / "home", node(Role.RM), LOCAL)
    (tmp_path / "home" / "bridge.json").write_text("{}")
    with pytest.raises(UsageError, match="state directory of a bridge") as refused:
        prepare(tmp_path / "home", node(), {})
    assert "s2connect bridge pair" in refused.value.hint


def test_a_role_is_needed_where_nothing_is_set_up(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="device or an energy manager"):
        prepare(tmp_path / "home", node(), {})
    assert not (tmp_path / "home").exists()


def message(kind: str, identifier: str) -> str:
    return f'{{"message_type": "{kind}", "message_id": "{identifier}"}}'


def status(subject: str, value: str) -> str:
    return f'{{"message_type": "ReceptionStatus", "subject_message_id": "{subject}", "status": "{value}"}}'


def test_the_first_message_is_the_first_that_its_receiver_has_accepted() -> None:
    seen: list[str] = []
    first = FirstMessage(lambda direction, _: seen.append(direction))
    first("sent", read_message(message("Refused", "m-1")))
    first("received", read_message(message("PowerMeasurement", "m-1")))
    first("received", read_message(status("m-1", "INVALID_CONTENT")))
    assert first.found is None
    first("received", read_message(status("m-1", "OK")))
    assert first.found is None, "nothing of ours waits for it"
    first("sent", read_message(status("m-1", "OK")))
    found = ExchangedMessage(direction="received", type="PowerMeasurement")
    assert first.found == found
    first("sent", read_message(message("Later", "m-2")))
    first("received", read_message(status("m-2", "OK")))
    assert first.found == found
    assert len(seen) == 7


def test_a_peer_that_never_acknowledges_does_not_use_up_memory() -> None:
    first = FirstMessage()
    for number in range(2 * MAX_PENDING):
        first("sent", read_message(message("PowerMeasurement", f"m-{number}")))
    assert len(first._pending) == MAX_PENDING
