"""Whatever comes is a message or an invalid message with the answer of MSG-03, and soon; another reader agrees."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from s2connect.messages.catalogue import BETA, MESSAGES, V1, parse
from s2connect.messages.conversation import Conversation
from s2connect.messages.envelope import MAX_LABEL_CHARACTERS, MAX_VALUES, InvalidMessage, read_message, reception_status
from s2connect.model.common import Role
from s2connect.transports.base import MAX_MESSAGE_BYTES
from tests.messages import message_schemas

NIL = "00000000-0000-0000-0000-000000000000"
VERSIONS = (V1, BETA)
MOMENTS = tuple(moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime(2026, 1, 1), datetime.max))
MOST_SECONDS = 0.25
"""Of a processor for one message of the largest size; it takes a tenth of that on a machine of 2020."""

FUZZED = settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))


class Answer(NamedTuple):
    """Content of the ReceptionStatus; ``answerable`` is False where there must be none."""

    status: str
    subject: str | None = None
    answerable: bool = True


INVALID_DATA = Answer("INVALID_DATA", NIL)
BROKEN_STATUS = Answer("INVALID_MESSAGE", NIL, answerable=False)


# The other reading


class NotStrict(ValueError):
    pass


def strictly(data: bytes) -> Any:
    """JSON by Python's own reader, with every rule of SEC-04 checked on what it gives."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise NotStrict
        return dict(pairs)

    def constant(_: str) -> None:
        raise NotStrict

    def deep(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(deep, inner), default=0)

    def sound(value: Any) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            raise NotStrict
        if isinstance(value, str):
            value.encode("utf-8")
        for inner in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
            sound(inner)

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=members, parse_constant=constant)
        sound(value)
        if deep(value) > 64:
            raise NotStrict
    except (ValueError, RecursionError):
        raise NotStrict from None
    return value


def is_identifier(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 256 and re.search(r"[a-zA-Z0-9\-_:]{2,64}", value) is not None


def right_answers(data: bytes, version: str) -> set[Answer]:
    """Return the answers that MSG-03 allows; also silence for invalid JSON that may be a ReceptionStatus.

    What has too many values is refused as any of what it may be besides (SEC-03).
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        return {INVALID_DATA, BROKEN_STATUS, Answer("INVALID_MESSAGE", "m-1")}
    try:
        value = strictly(data)
    except NotStrict:
        return {INVALID_DATA, BROKEN_STATUS} if b"Status" in data or b"\\" in data else {INVALID_DATA}
    if not isinstance(value, dict):
        return {INVALID_DATA}
    name = value.get("message_type")
    known = isinstance(name, str) and name in message_schemas.names(version, "messages")
    if name == "ReceptionStatus":
        good = is_identifier(value.get("subject_message_id")) and message_schemas.validator(version, name)(value)
        return {Answer("OK") if good else BROKEN_STATUS}
    identifier = value.get("message_id")
    if not is_identifier(identifier):
        return {INVALID_DATA}
    if not known or not message_schemas.validator(version, name)(value):
        return {Answer("INVALID_MESSAGE", identifier)}
    return {Answer("OK")}


def our_answer(data: bytes, version: str) -> Answer:
    try:
        message = parse(data, version, strict=True)
    except InvalidMessage as error:
        refused = error
    else:
        assert parse(message.to_json(), version) == message
        return Answer("OK")
    written = reception_status(refused.subject_id, refused.status, refused.label)
    answer = json.loads(written)
    assert answer["status"] == refused.status
    assert 0 < len(answer["diagnostic_label"]) <= MAX_LABEL_CHARACTERS
    parse(written)
    return Answer(str(refused.status), refused.subject_id, refused.answerable)


def check(data: bytes) -> None:
    for version in VERSIONS:
        gc.disable()  # a collection of what other tests made is no cost of this message
        try:
            begun = time.thread_time()
            answer = our_answer(data, version)
            spent = time.thread_time() - begun
        finally:
            gc.enable()
        assert spent < MOST_SECONDS
        right = answer in right_answers(data, version)
        assert right, (answer, data[:1000])


# Garbage


def hostile() -> Iterator[tuple[str, bytes]]:
    """Inputs of the largest size that a transport lets through, each hard in its own way."""
    size = MAX_MESSAGE_BYTES
    head = b'{"message_type":"FRBC.StorageStatus","message_id":"m-1","present_fill_level":'
    yield "arrays", b"[" * size
    yield "objects", (b'{"a":' * size)[:size]
    yield "deep in a message", head + b"[" * (size - 100)
    yield "deep and closed", head + b"[" * 200_000 + b"]" * 200_000 + b"}"
    yield "64 levels", head + b"[" * 63 + b"]" * 63 + b"}"
    yield "65 levels", head + b"[" * 64 + b"]" * 64 + b"}"
    yield "quotation marks", b'"' * size
    yield "backslashes", head + b'"' + b"\\" * (size - 100) + b'"}'
    yield "digits", head + b"1" * (size - 100) + b"}"
    yield "digits behind the point", head + b"0." + b"1" * (size - 100) + b"}"
    yield "a large exponent", head + b"1e" + b"9" * 1000 + b"}"
    yield "a small exponent", head + b"1e-" + b"9" * 1000 + b"}"
    yield "a large integer", head + b"9" * 4000 + b"}"
    yield "one member often", head + b"1," + b",".join([b'"x":1'] * 150_000) + b"}"
    yield "many members", head + b"1," + b",".join(b'"x%d":1' % number for number in range(80_000)) + b"}"
    yield "a long name", head + b'1,"' + b"x" * (size - 200) + b'":1}'
    yield "a long type", b'{"message_id":"m-1","message_type":"' + b"x" * (size - 100) + b'"}'
    yield "a long identifier", b'{"message_type":"Handshake","message_id":"' + b"x" * (size - 100) + b'"}'
    yield "a lone surrogate", head + rb'"\ud800"}'
    yield "a surrogate as a name", head + rb'1,"\udfff":1}'
    yield "surrogates in UTF-8", head + b'"\xed\xa0\x80"}'
    yield "no UTF-8", b"\xff" * size
    yield "zeros", b"\x00" * size
    yield "spaces", b" " * size
    yield "a byte order mark", b"\xef\xbb\xbf" + head + b"1}"
    for number in (b"NaN", b"-Infinity", b"1e400", b"-", b"+1", b"01", b".5", b"0x1", b"1_000"):
        yield f"the number {number.decode()}", head + number + b"}"
    element = b'{"duration":0,"power_values":[],"x":[]},'
    forecast = b'{"message_type":"PowerForecast","message_id":"m-1","start_time":"2026-01-01T00:00:00Z","elements":['
    yield "a long fraction of a second", forecast.replace(b":00Z", b":00." + b"1" * 200_000) + b"]}"
    yield "a long fraction of a second, and Z", forecast.replace(b":00Z", b":00." + b"1" * 200_000 + b"Z") + b"]}"
    yield "many wrong elements", forecast + (element * 25_000)[:-1] + b"]}"
    transition = b'{"id":1,"from":1,"to":1,"start_timers":[' + b"1," * 900 + b'1],"blocking_timers":[]},'
    description = b'{"message_type":"OMBC.SystemDescription","message_id":"m-1","transitions":['
    yield "many wrong identifiers", description + (transition * 500)[:-1] + b"]}"
    moment = b"9999-12-31T23:59:59-23:59"
    yield "the end of time", forecast.replace(b"2026-01-01T00:00:00Z", moment) + b"]}"


@pytest.mark.rule("SEC-04", "MSG-03")
@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in hostile()])
def test_hostile_input_of_the_largest_size_is_answered_rightly_and_soon(data: bytes) -> None:
    check(data)


@pytest.mark.rule("SEC-04", "MSG-03")
@FUZZED
@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"")
@example(b"null")
@example(b'{"message_type":null,"message_id":"m-1","message_type":"Handshake"}')
def test_random_bytes_are_answered_rightly(data: bytes) -> None:
    check(data)


# Messages that something happened to

SNIPPETS = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"\x00", b"\x7f", b"\xc3", b"\xc3\xa9", b"null"),
    *(b"NaN", b"Infinity", b"1e400", b"-1", b"5.0", b"true", b"[]", b"{}", b'""', b'"x":1,', b'"id":"a-1",', b"0"),
    *(b'"message_id":"m-2",', b'"message_type":"Handshake",', b'"status":"OK",', b'"message_type":"ReceptionStatus",'),
    *(
        rb"\u0041",
        rb"\ud800",
        rb"\ud83d\ude00",
        b"[" * 70,
        b"9" * 400,
        b"9" * 4400,
        b"FRBC.",
        b"PT",
        b"2026-01-01T00:00:00Z",
    ),
)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes after one to three accidents."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        begin = chance.randrange(len(data) + 1)
        end = min(len(data), begin + chance.choice((0, 1, 1, 2, 5, 20, 200)))
        match chance.randrange(6):
            case 0:
                data = data[:begin] + data[end:]
            case 1:
                data = data[:begin] + chance.choice(SNIPPETS) + data[begin:]
            case 2:
                data = data[:begin] + chance.choice(SNIPPETS) + data[end:]
            case 3:
                data = data[:end] + data[begin:]
            case 4:
                data = data[:begin] + bytes([chance.randrange(256)]) + data[begin + 1 :]
            case 5:
                # A whole member once more, or in another place.
                found = list(re.finditer(rb'"[a-zA-Z_]+": ?("[^"]*"|[\d.]+|true|false),?', data))
                if found:
                    member = chance.choice(found)
                    place = chance.choice(found).start()
                    data = data[:place] + member[0].rstrip(b",") + b"," + data[place:]
    return data


def some_message(chance: random.Random) -> bytes:
    """A message of any type, as the schema files have it."""
    version = chance.choice(VERSIONS)
    rules = message_schemas.schema(version, "messages", chance.choice(list(MESSAGES[version])))
    return json.dumps(message_schemas.any_document(rules, chance), indent=chance.choice((None, None, 1))).encode()


@pytest.mark.rule("SEC-04", "MSG-03", "MSG-05")
@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_message_is_answered_rightly(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(250):
        check(damaged(some_message(chance), chance))


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.rule("SEC-04", "MSG-03", "MSG-05")
def test_damaged_messages_are_answered_rightly_for_two_minutes() -> None:
    seed = int(os.environ.get("FUZZ_SEED", "1"))  # another one looks elsewhere
    chance, until, checked = random.Random(seed), time.monotonic() + 110, 0
    while time.monotonic() < until:
        data = damaged(some_message(chance), chance)
        try:
            check(data)
        except Exception as error:
            raise AssertionError(f"seed {seed}, input {checked}: {data!r}") from error
        checked += 1
    assert checked > 5000


# Whole conversations


def converse(chance: random.Random, steps: int) -> None:
    """Both sides say anything in any order; whatever is said has a result, and validation changes nothing."""
    version = chance.choice(VERSIONS)
    conversation = Conversation(version)
    said: list[tuple[Role, str]] = []
    for _ in range(steps):
        sender = chance.choice((Role.CEM, Role.RM))
        data = some_message(chance)
        if chance.randrange(3) == 0:
            data = damaged(data, chance)
        try:
            message = read_message(data.decode("utf-8"))
        except (InvalidMessage, UnicodeDecodeError):
            continue
        now = chance.choice(
            (None, datetime.now(UTC), datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
        )
        verdict = conversation.validate(sender, message, now=now)
        again = conversation.validate(sender, message, now=now)
        assert (verdict.status, verdict.label, verdict.subject_id) == (again.status, again.label, again.subject_id)
        assert verdict.ok == (verdict.label is None)
        assert verdict.parsed is not None or not verdict.ok
        identifier = message.id or NIL
        match chance.randrange(5):
            case 0 | 1 if verdict.ok:
                conversation.accepted(sender, message, now=now)
            case 2:
                conversation.sent(sender, message)
                said.append((sender, identifier))
            case 3 if said:
                author, earlier = chance.choice(said)
                conversation.answered(author, earlier, ok=chance.random() < 0.8, now=now)
            case 4:
                conversation.answered(sender, identifier, ok=True)


@pytest.mark.rule("SEC-04", "MSG-02", "MSG-03")
@pytest.mark.parametrize("seed", range(4))
def test_whatever_two_sides_say_has_a_verdict(seed: int) -> None:
    converse(random.Random(seed), 200)


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.rule("SEC-04", "MSG-02", "MSG-03")
def test_whatever_two_sides_say_for_half_a_minute_has_a_verdict() -> None:
    seed = int(os.environ.get("FUZZ_SEED", "1"))  # another one looks elsewhere
    chance, until = random.Random(seed), time.monotonic() + 30
    while time.monotonic() < until:
        try:
            converse(chance, 300)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
