"""Events, commands and results as JSON lines: a promise to programs, byte for byte."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from s2connect import NodeDescription, NodeId, Role, events
from s2connect.endpoint.certificate import Certificates
from s2connect.errors import UsageError
from s2connect.model.common import EndpointDescription
from s2connect.model.roles import CommunicationRole
from s2connect.model.url import BaseUrl
from s2connect.service import commands
from s2connect.service import events as lines
from s2connect.service.control import as_line
from s2connect.service.objects import NodeEntry, OwnNode, PairingEntry, SessionEntry
from s2connect.service.serve import json_form

AT = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
NODE, OTHER = NodeId(UUID(int=1)), NodeId(UUID(int=2))
PEER = NodeDescription(id=OTHER, brand="B", type="T", model_name="M", role=Role.RM)
NODE_TEXT, PEER_ID = f'"node":"{NODE}"', f'"peer":{{"id":"{OTHER}"}}'
PEER_TEXT = f'"peer":{{"id":"{OTHER}","brand":"B","type":"T","model_name":"M","role":"RM"}}'
CLIENT = CommunicationRole.CLIENT


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            events.Paired(at=AT, node=NODE, peer=PEER, communication_role=CLIENT),
            f'"paired",{NODE_TEXT},{PEER_TEXT},"communication_role":"client"',
        ),
        (
            events.PairingFailed(at=AT, node=NODE, peer=PEER, reason="expired"),
            f'"pairing_failed","reason":"expired",{NODE_TEXT},{PEER_TEXT}',
        ),
        (
            events.Unpaired(at=AT, node=NODE, peer=PEER, by=events.UnpairedBy.US),
            f'"unpaired","by":"us",{NODE_TEXT},{PEER_TEXT}',
        ),
        (
            events.PairingAnnounced(at=AT, node=NODE, peer=PEER, peer_endpoint=None),
            f'"prepare_pairing",{NODE_TEXT},{PEER_TEXT}',
        ),
        (
            events.PairingAnnounced(at=AT, node=NODE, peer=None, peer_endpoint=None, url=BaseUrl("https://x/")),
            f'"prepare_pairing",{NODE_TEXT},"peer":null,"url":"https://x/"',
        ),
        (
            events.PairingAnnouncementCancelled(at=AT, node=NODE, peer=OTHER),
            f'"cancel_prepare_pairing",{NODE_TEXT},{PEER_ID}',
        ),
        (
            events.PairingAnnouncementCancelled(at=AT, node=NODE, peer=None),
            f'"cancel_prepare_pairing",{NODE_TEXT},"peer":null',
        ),
        (events.DeviceWaits(at=AT, peer=PEER), f'"device_waiting",{PEER_TEXT}'),
        (events.DeviceGone(at=AT, peer=OTHER), f'"device_gone",{PEER_ID}'),
        (events.CodeMissingAtDevice(at=AT, peer=OTHER), f'"warning","reason":"code_missing_at_device",{PEER_ID}'),
        (events.CodeWithdrawn(at=AT, node=NODE), f'"warning","reason":"code_withdrawn",{NODE_TEXT}'),
        (
            events.SessionFailed(at=AT, node=NODE, peer=PEER, kind="k", sentence="S.", retry_in=None),
            f'"warning","reason":"k",{NODE_TEXT},{PEER_TEXT},"text":"S.","retry_in":null',
        ),
        (events.Notice(at=AT, kind="k", sentence="S."), '"warning","reason":"k","text":"S."'),
        (
            events.TaskFailed(at=AT, task="advertise", error="OSError", retry_in=1.5, count=1),
            '"warning","reason":"task_failed","text":"A background task (advertise) failed with OSError. '
            'The log has the details.","retry_in":1.5,"task":"advertise","error":"OSError"',
        ),
        (events.Advertised(at=AT, name="x"), None),
    ],
)
def test_events_of_an_endpoint_are_lines(event: events.Event, text: str | None) -> None:
    reported = lines.from_endpoint(event)
    if text is None:
        assert reported is None
        return
    assert reported is not None
    name, comma, members = text.partition(",")
    assert json_form(reported) == f'{{"event":{name},"time":"2026-01-02T03:04:05.678Z"{comma}{members}}}'


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            lines.Ready(
                time=AT, deployment="LAN", pairing_url=None, session_url="u", nodes=[NodeEntry(NODE, Role.CEM, None)]
            ),
            f'"ready","deployment":"LAN","pairing_url":null,"session_url":"u","nodes":[{{"id":"{NODE}","role":"CEM",'
            '"alias":null}],"page":null,"metrics":null',
        ),
        (
            lines.CodeIssued(time=AT, node=NODE, code="C", expires_at=AT),
            f'"pairing_code",{NODE_TEXT},"code":"C","expires_at":"2026-01-02T03:04:05.678Z"',
        ),
        (
            lines.PairingAnnounced(time=AT, node=NODE, peer=None, url="u", code=None, expires_at=None),
            f'"prepare_pairing",{NODE_TEXT},"peer":null,"url":"u","code":null,"expires_at":null',
        ),
        (lines.PairingFailed(time=AT, node=NODE, reason="r"), f'"pairing_failed",{NODE_TEXT},"reason":"r"'),
        (
            lines.SessionOpened(time=AT, session="s1", node=NODE, peer=PEER, protocol="WebSocket", s2_version="v"),
            f'"session_opened","session":"s1",{NODE_TEXT},{PEER_TEXT},"protocol":"WebSocket","s2_version":"v"',
        ),
        (
            lines.MessagePassed(time=AT, session="s1", direction="received", message={"a": [1.0, "é"]}),
            '"message","session":"s1","direction":"received","message":{"a":[1.0,"\\u00e9"]}',
        ),
        (
            lines.MessagePassed(time=AT, session="s1", direction="received", message={}, answer_within=3.0),
            '"message","session":"s1","direction":"received","message":{},"answer_within":3.0',
        ),
        (
            lines.MessagePassed(time=AT, session="s1", direction="received", message={"a": float("inf")}),
            '"warning","reason":"not_writable","session":"s1"',
        ),
        (
            lines.SessionClosed(time=AT, session="s1", reason="lost", node=NODE, peer=PEER, messages=3),
            f'"session_closed","session":"s1","reason":"lost",{NODE_TEXT},{PEER_TEXT},"messages":3',
        ),
        (lines.Result(time=AT, id=[2]), '"result","id":[2],"ok":true'),
        (lines.Result(time=AT, id=1, error={"kind": "k"}), '"result","id":1,"ok":false,"error":{"kind":"k"}'),
        (
            lines.LinkChanged(time=AT, route="r", link="l", state="up", reason="", retry_in=None),
            '"link","route":"r","link":"l","state":"up","reason":"","retry_in":null',
        ),
    ],
)
def test_events_of_the_service_are_lines(event: lines.Event, text: str) -> None:
    name, comma, members = text.partition(",")
    assert json_form(event) == f'{{"event":{name},"time":"2026-01-02T03:04:05.678Z"{comma}{members}}}'


STATUS = commands.FullStatus(
    service=commands.ServiceStatus(running=True, pid=3),
    endpoint=commands.EndpointStatus(
        name=None,
        deployment="LAN",
        host="h",
        pairing_url=None,
        session_url=None,
        advertised=None,
        not_found=None,
        certificate=Certificates(own_ca=True, ca=None, leaf=None),
    ),
    nodes=[OwnNode(**dict(PEER), alias=None)],
    pairings=[
        PairingEntry(
            node=NODE,
            peer=PEER,
            peer_endpoint=EndpointDescription(name="E"),
            communication_role=CLIENT,
            since=datetime(2026, 1, 1, tzinfo=UTC),
            confirmed=True,
            connected=False,
        )
    ],
    sessions=[
        SessionEntry(
            session="s1",
            node=NODE,
            peer=PEER,
            protocol="MQTT",
            s2_version="v",
            since=datetime(2026, 1, 1, tzinfo=UTC),
            messages=0,
        )
    ],
    waiting=[PEER],
)


def test_a_status_is_written_with_null_members_and_read_again() -> None:
    text = as_line(lines.Result(time=AT, id=1, returned=STATUS).to_object()).decode()
    peer = PEER_TEXT.removeprefix('"peer":')
    since = '"since":"2026-01-01T00:00:00.000Z"'
    assert text == (
        '{"event":"result","time":"2026-01-02T03:04:05.678Z","id":1,"ok":true,"service":{"running":true,"pid":3},'
        '"endpoint":{"name":null,"deployment":"LAN","host":"h","pairing_url":null,"session_url":null,'
        '"advertised":null,"not_found":null,"certificate":{"own_ca":true,"ca":null,"leaf":null},"broker":null,"page":null},'
        f'"nodes":[{peer[:-1]},"code_state":"none","static_code":false,"alias":null}}],"pairings":[{{{NODE_TEXT},{PEER_TEXT},"peer_endpoint":{{"name":"E"}},'
        f'"communication_role":"client",{since},"confirmed":true,"connected":false,"trouble":null,"state_since":null,"instance":null}}],'
        f'"sessions":[{{"session":"s1",{NODE_TEXT},{PEER_TEXT},"protocol":"MQTT","s2_version":"v",{since},'
        f'"messages":0,"first_message":null}}],"waiting":[{peer}],"ended":[],'
        '"pairings_total":null,"pairings_before":null,"pairings_of_nodes":{}}'
    )
    assert commands.Status().read_result(json.loads(text)) == STATUS


@pytest.mark.parametrize(
    ("kind", "value", "fault"),
    [
        (commands.Pair, {"url": "u"}, "needs code, which is a text"),
        (commands.Pair, {"code": ""}, "needs code, which is a text"),
        (commands.Pair, {"code": "c", "peer": "x"}, "peer is not the id of a node"),
        (commands.Pair, {"code": "c", "server_node": 3}, "needs server_node, which is a text"),
        (commands.Send, {"session": "s", "message": "text"}, "no message, which is a JSON object"),
        (commands.Send, {"session": "s", "message": {}, "retries": True}, "retries are a number from 0 to 10"),
        (commands.Answer, {"session": "s", "message_id": "m", "label": ""}, "needs label, which is a text"),
    ],
)
def test_a_command_with_a_wrong_member_is_refused(
    kind: type[commands.Command[Any]], value: dict[str, Any], fault: str
) -> None:
    with pytest.raises(UsageError, match=fault):
        commands.read(kind, value)


def test_members_that_are_null_or_unknown_do_not_count() -> None:
    assert commands.read(commands.Code, {"command": "code", "id": 1, "node": None, "static": 1}) == commands.Code()
