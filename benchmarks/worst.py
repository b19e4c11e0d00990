"""Most expensive messages within the limits: of every type, valid and faulty."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from s2connect.bridge.relay import Policy, Relay
from s2connect.messages.base import S2Message
from s2connect.messages.catalogue import MESSAGES, V1
from s2connect.messages.enums import Check
from s2connect.messages.envelope import MAX_VALUES
from s2connect.model.common import Role
from s2connect.transports.base import MAX_MESSAGE_BYTES

HEAD = '{"message_type":"FRBC.StorageStatus","message_id":"m-1","present_fill_level":'
FORECAST = (
    '{"message_type":"PowerForecast","message_id":"m-1","start_time":"2026-01-01T00:00:00Z","elements":['
    '{"duration":1,"power_values":[{"commodity_quantity":"ELECTRIC.POWER.L1","value_expected":1}]},'
)


class _TooRich(Exception):
    pass


class _Builder:
    """Builds a message with given lengths of its lists by depth, as far as the schema allows."""

    def __init__(self, lengths: tuple[int, ...], *, whole: bool) -> None:
        self._lengths = lengths
        self._whole = whole
        self._values = 0

    def message(self, kind: type[S2Message]) -> str | None:
        """Return the text, or None if it exceeds the limits."""
        try:
            text = json.dumps(self._object(inspect.type_info(kind), 0), separators=(",", ":"))
        except _TooRich:
            return None
        return text if len(text) <= MAX_MESSAGE_BYTES else None

    def _object(self, kind: inspect.Type, depth: int) -> dict[str, Any]:
        assert isinstance(kind, inspect.StructType)
        members: dict[str, Any] = {kind.tag_field: kind.tag} if kind.tag_field else {}
        for field in kind.fields:
            if self._whole or field.required or field.name == "message_id":
                members[field.encode_name] = self._value(field.type, depth)
        return members

    def _value(self, kind: inspect.Type, depth: int) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise _TooRich
        match kind:
            case inspect.UnionType():
                return self._value(kind.types[0], depth)  # the other one is None
            case inspect.Metadata():
                return f"{self._values:02x}"  # an identifier
            case inspect.ListType():
                wanted = max(kind.min_length or 0, self._lengths[min(depth, len(self._lengths) - 1)])
                count = wanted if kind.max_length is None else min(kind.max_length, wanted)
                return [self._value(kind.item_type, depth + 1) for _ in range(count)]
            case inspect.StructType():
                return self._object(kind, depth)
            case inspect.EnumType():
                members = list(kind.cls)
                return members[self._values % len(members)].value
            case inspect.DateTimeType():
                return "2026-01-01T00:00:00Z"
            case inspect.BoolType():
                return True
            case inspect.StrType():
                return f"{self._values:02x}"
        return 1


SHAPES = ((1, 1, 1), (10, 10, 10), (1, 100, 1000), (300, 1, 1), (1, 300, 10))
LENGTHS = (1000, 500, 288, 150, 100, 50, 25, 10, 1)


def rich_messages(kind: type[S2Message]) -> Iterator[str]:
    """Return messages of a type: for several shapes of its lists, the longest within the limits."""
    seen = set()
    for whole, at, others in itertools.product((False, True), range(3), SHAPES):
        built = (_Builder((*others[:at], length, *others[at:]), whole=whole).message(kind) for length in LENGTHS)
        best = next((text for text in built if text is not None), None)
        if best is not None and best not in seen:
            seen.add(best)
            yield best


def with_escape(text: str) -> str:
    """Return a similar message with an escape, so that only a second parse can exclude duplicate keys."""
    return text.replace('"message_id": "', '"message_id": "\\u0041').replace('"message_id":"', '"message_id":"\\u0041')


def hostile_texts() -> Iterator[tuple[str, str]]:
    """Return invalid texts of the greatest length, each expensive in another way."""
    size = MAX_MESSAGE_BYTES
    half = (size - 200) // 2
    yield "opening brackets", "[" * size
    yield "opening braces", ('{"a":' * size)[:size]
    yield "few braces, many brackets", (HEAD + "{" + "[" * size)[:size]
    yield "deep and closed", HEAD + "[" * half + "]" * half + "}"
    pairs = "[" * (MAX_VALUES - 200) + "]" * (MAX_VALUES - 200)
    yield "as many brackets as may be", HEAD + pairs + "}"
    layers = "[" * 60 + "[]," * 10_000 + "[]" + "]" * 60
    yield "broad and 61 deep", HEAD + layers + "}"
    members = ",".join(f'"x{number}":1' for number in range(MAX_VALUES - 100))
    yield "unknown members", (HEAD + "1," + members + "}")[:size]
    yield "one member often", HEAD + "1," + ",".join(['"x":1'] * (MAX_VALUES - 100)) + "}"
    yield "more values than may be", (HEAD + "[" + "1," * size)[:size]
    yield "backslashes", HEAD + '"' + "\\" * (size - 100) + '"}'
    yield "escapes", HEAD + '"' + "\\u0041" * ((size - 100) // 6) + '"}'
    yield "strings", HEAD + "[" + ",".join(['""'] * (MAX_VALUES - 100)) + "]}"
    yield "long integers", HEAD + "[" + ",".join(["9" * 4000] * 64) + "]}"
    yield "a long fraction", HEAD + "0." + "1" * (size - 100) + "}"
    for name, element in (
        ("faulty elements", '{"duration":0,"power_values":[],"x":[]},'),
        ("elements with unknown members", '{"duration":0,"power_values":[],"a":1,"b":2,"c":3,"d":4},'),
        ("empty elements", "{},"),
    ):
        count = min((size - 400) // len(element), (MAX_VALUES - 100) // sum(map(element.count, ",[{")))
        yield name, FORECAST + (element * count)[:-1] + "]}"


def all_types() -> Iterator[tuple[str, type[S2Message]]]:
    """Return all types of message; of types in both data models the later one's."""
    yield from MESSAGES[V1].items()


def cost(text: str, rounds: int = 3) -> float:
    """Return the CPU seconds of a link with ``check = "rules"`` for a text, the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        relay = Relay({Role.RM: V1, Role.CEM: V1}, Policy(check=Check.RULES))
        begun = time.thread_time()
        relay.received(Role.RM, text, now=0.0)
        best = min(best, time.thread_time() - begun)
    return best


def costliest(most: int = 8) -> list[tuple[str, int, float]]:
    """Return kind, length and cost of the costliest texts, of one for every message type and every hostile kind."""
    texts = dict(hostile_texts())
    for name, kind in all_types():
        candidates = list(rich_messages(kind)) or [json.dumps({"message_type": name, "message_id": "m-1"})]
        texts[name] = max((*candidates, *map(with_escape, candidates)), key=lambda text: cost(text, rounds=1))
    dear = sorted(texts, key=lambda name: cost(texts[name]), reverse=True)[:most]
    return sorted(((name, len(texts[name]), cost(texts[name], rounds=9)) for name in dear), key=lambda each: -each[2])
