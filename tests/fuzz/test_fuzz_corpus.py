"""Whatever a stranger sends is answered as documented, and no input of up to its limit costs more than 50 ms."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.fuzz_targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
"""Inputs that reached new code while fuzzing, a folder a target; kept small."""

MAX_SECONDS = 0.05
"""CPU time that one input may cost."""

REPEATS = 3
"""The quickest of so many runs counts: the others were disturbed by whatever else the machine does."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def _cost(target: Target, data: bytes) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        begun = time.thread_time()
        target.run(data)
        best = min(best, time.thread_time() - begun)
        if best <= MAX_SECONDS:
            break
    return best


def _filled(size: int, start: bytes, piece: bytes, end: bytes = b"") -> bytes:
    return start + piece * ((size - len(start) - len(end)) // len(piece)) + end


def worst_inputs(size: int) -> Iterator[tuple[str, bytes]]:
    """Inputs of the greatest length that are dear to readers of JSON, to expressions and to decoders."""
    yield "brackets", b"[" * size
    yield "closed brackets", b"[" * (size // 2) + b"]" * (size // 2)
    yield "objects", _filled(size, b"", b'{"a":')
    yield "escapes", _filled(size, b'"', b"\\u0041", b'"')
    yield "backslashes", _filled(size, b'"', b"\\", b"")
    yield "quotes", b'"' * size
    yield "members", b"{" + b",".join(b'"%d":0' % n for n in range(size // 12)) + b"}"
    yield "equal members", _filled(size, b'{"a":0', b',"a":0', b"}")
    yield "elements", _filled(size, b"[0", b",0", b"]")
    yield "empty objects", _filled(size, b"[{}", b",{}", b"]")
    yield "digits", b"9" * size
    yield "fraction", b"0." + b"9" * (size - 2)
    yield "exponents", _filled(size, b"[1e308", b",1e308", b"]")
    yield "blanks", b" " * size
    yield "text", _filled(size, b'{"message_id":"', b"a", b'"}')
    yield "dashes", b"-" * size
    yield "dots", _filled(size, b"https://", b"a.", b"/")
    yield "umlauts", _filled(size, b"https://", "ü".encode(), b"/")
    yield "zeros", bytes(size)
    yield "ones", b"\xff" * size


@pytest.mark.rule("SEC-04", "SEC-03")
@pytest.mark.parametrize("name", TARGETS)
def test_the_longest_inputs_are_cheap(name: str) -> None:
    target = TARGETS[name]
    target.run(b"{}")  # what is imported at the first use does not count
    costs = {
        (variant, what): _cost(target, variant + data)
        for what, data in worst_inputs(target.max_bytes)
        for variant in ([bytes((first,)) for first in target.variants] or [b""])
    }
    dear = {case: f"{cost * 1000:.0f} ms" for case, cost in costs.items() if cost > MAX_SECONDS}
    assert not dear


@pytest.mark.rule("SEC-04")
@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_found_is_answered_as_documented_and_cheap(name: str) -> None:
    target = TARGETS[name]
    inputs = {f"seed {number}": seed for number, seed in enumerate(target.seeds())}
    inputs |= {path.name: path.read_bytes() for path in sorted((CORPUS / name).glob("*"))}
    for data in inputs.values():
        target.run(data)  # what is imported at the first use does not count
    dear = {what: cost for what, data in inputs.items() if (cost := _cost(target, data)) > MAX_SECONDS}
    assert not dear
