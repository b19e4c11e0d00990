"""Reads the messages of ``samples.READ`` in every way there is here."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from benchmarks.harness import Task, answer_questions
from benchmarks.samples import READ
from s2connect.messages.catalogue import parse
from s2connect.messages.envelope import read_message
from s2connect.messages.rules import check


class Header(msgspec.Struct):
    message_type: str
    message_id: str


class PowerValue(msgspec.Struct):
    commodity_quantity: str
    value: float


class PowerMeasurement(msgspec.Struct):
    message_type: str
    message_id: str
    measurement_timestamp: str
    values: list[PowerValue]


class NumberRange(msgspec.Struct):
    start_of_range: float
    end_of_range: float


class PowerRange(msgspec.Struct):
    start_of_range: float
    end_of_range: float
    commodity_quantity: str


class Element(msgspec.Struct):
    fill_level_range: NumberRange
    fill_rate: NumberRange
    power_ranges: list[PowerRange]
    running_costs: NumberRange | None = None


class Mode(msgspec.Struct):
    id: str
    elements: list[Element]
    abnormal_condition_only: bool
    diagnostic_label: str | None = None


class Transition(msgspec.Struct, rename={"from_": "from"}):
    id: str
    from_: str
    to: str
    start_timers: list[str]
    blocking_timers: list[str]
    abnormal_condition_only: bool
    transition_costs: float | None = None
    transition_duration: int | None = None


class Timer(msgspec.Struct):
    id: str
    duration: int
    diagnostic_label: str | None = None


class Actuator(msgspec.Struct):
    id: str
    supported_commodities: list[str]
    operation_modes: list[Mode]
    transitions: list[Transition]
    timers: list[Timer]
    diagnostic_label: str | None = None


class Storage(msgspec.Struct):
    provides_leakage_behaviour: bool
    provides_fill_level_target_profile: bool
    provides_usage_forecast: bool
    fill_level_range: NumberRange
    diagnostic_label: str | None = None
    fill_level_label: str | None = None


class SystemDescription(msgspec.Struct):
    message_type: str
    message_id: str
    valid_from: str
    actuators: list[Actuator]
    storage: Storage


def ways(sample: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Functions that read one message."""
    text = json.dumps(sample, separators=(",", ":"))
    header = msgspec.json.Decoder(Header).decode
    kind = PowerMeasurement if sample["message_type"] == "PowerMeasurement" else SystemDescription
    typed = msgspec.json.Decoder(kind).decode
    return {
        "envelope": lambda: read_message(text),
        "parse": lambda: parse(text),
        "both": lambda: check(parse(text)),
        "msgspec header": lambda: header(text),
        "msgspec typed": lambda: typed(text),
        "orjson": lambda: orjson.loads(text),
    }


def seconds_each(read: Callable[[], object], count: int) -> float:
    """Time of one call in the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            read()
        best = min(best, (time.perf_counter() - began) / count)
    return best


async def main() -> None:
    every = {name: ways(sample) for name, sample in READ.items()}

    async def answer(question: Task) -> Task:
        found = every[question["sample"]]
        return {name: seconds_each(read, question["count"]) for name, read in found.items()}

    await answer_questions({}, answer)


if __name__ == "__main__":
    asyncio.run(main())
