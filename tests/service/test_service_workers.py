"""Workers and what they report together, without a database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from s2connect.service import events
from s2connect.service.events import Sink
from s2connect.service.failures import Failure
from s2connect.service.merging import merged_pairings, merged_status
from s2connect.service.serve import Process
from s2connect.service.signals import Stop
from s2connect.service.workers import Worker, Workers
from s2connect.supervisor import Supervisor
from tests.waits import until, within


class _Kept(Sink):
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def put(self, event: events.Event) -> None:
        self.events.append(event.to_object())


def _program(*lines: str, code: int = 0) -> list[str]:
    return [sys.executable, "-c", f"for line in {lines!r}: print(line)\nraise SystemExit({code})"]


class _Machine:
    """The workers of a machine, whose pauses before another start are noted, and take no time."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.kept, self.stop = _Kept(), Stop()
        self.supervisor = Supervisor("test", sleep=self._sleep, chance=lambda: 1.0)
        self.workers = Workers(Process(self.stop, self.kept, None), self.supervisor)  # type: ignore[arg-type]  # its part

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0 if len(self.pauses) < 4 else 3600)

    def begin(self, *words: list[str]) -> None:
        self.workers.begin([Worker(f"box-{n + 1}", one, {}, self.workers.report) for n, one in enumerate(words)])


READY = json.dumps({"event": "ready", "metrics": None})
ERROR = json.dumps({"error": {"kind": "storage_unavailable", "what": "The database is away."}})


@contextlib.asynccontextmanager
async def _with_workers(*programs: list[str]) -> AsyncIterator[_Machine]:
    one = _Machine()
    async with within(30), one.supervisor:
        one.begin(*programs)
        yield one


def _deaf() -> list[str]:
    """A worker that answers nothing."""
    return [sys.executable, "-c", f"print({READY!r}, flush=True)\nimport sys\nsys.stdin.read()"]


@contextlib.asynccontextmanager
async def _with_deaf_worker() -> AsyncIterator[Worker]:
    """Run a worker that answers nothing."""
    async with _with_workers(_deaf()) as one:
        await until(one.workers.first.is_set)
        (worker,) = one.workers.workers
        yield worker
        await one.workers.close()


async def _asking(worker: Worker) -> asyncio.Task[Any]:
    """Ask a worker, and return once it has the question."""
    asking = asyncio.create_task(worker.ask({"command": "status"}))
    await until(lambda: bool(worker._waiting))
    return asking


async def test_a_worker_that_ends_again_and_again_is_started_ever_later_and_the_service_goes_on() -> None:
    async with _with_workers(_program(READY, ERROR, code=7)) as one:
        await until(lambda: len(one.pauses) == 4)
        assert one.pauses == [1.0, 2.0, 4.0, 8.0]
        ended = [event for event in one.kept.events if event.get("state") == "ended"]
        assert {event["text"] for event in ended} == {"The worker box-1 ended with the code 7: The database is away."}
        assert one.workers._facts()[0]["restarts"] == 3
        assert one.stop.error is None


async def test_a_first_worker_that_says_why_it_cannot_run_ends_the_service_with_its_error() -> None:
    async with _with_workers(_program(ERROR, code=7)) as one:
        await one.stop.wait()
        assert str(one.stop.error) == "The database is away."
        assert not one.pauses


async def test_a_first_worker_that_says_nothing_is_started_again() -> None:
    async with _with_workers(_program(code=1)) as one:
        await until(lambda: len(one.pauses) == 4)
        assert one.stop.error is None


def _status(*pairings: tuple[str, bool, str | None]) -> dict[str, Any]:
    return {
        "pairings": [
            {
                "node": "n",
                "peer": {"id": peer},
                "since": f"2026-01-01T00:00:00.000Z {peer}",
                "connected": connected,
                "state_since": None,
                "instance": instance,
            }
            for peer, connected, instance in pairings
        ],
        "sessions": [],
    }


def test_a_worker_that_answers_knows_its_sessions_better_than_the_database() -> None:
    first = _status(("a", True, None), ("b", True, "box-2"), ("c", True, "box-2"), ("d", True, "other"))
    second = _status(("a", True, "box-1"), ("b", True, None), ("c", False, None), ("d", True, "other"))
    merged = merged_status([("box-1", first), ("box-2", second)], [])
    assert {one["peer"]["id"]: (one["connected"], one["instance"]) for one in merged["pairings"]} == {
        "a": (True, None),
        "b": (True, None),
        "c": (False, None),
        "d": (True, "other"),
    }


def test_a_page_of_pairings_has_what_each_worker_knows_the_oldest_first_and_goes_on_behind_all_of_it() -> None:
    trouble = {"reason": "token_unknown", "since": "2026-01-02T00:00:00.000Z", "text": "t"}
    first = _status(("b", False, None), ("c", True, "box-2")) | {"total": 9, "before": 7}
    second = _status(("a", True, None), ("b", False, None), ("c", True, None)) | {"total": 9, "before": 6}
    second["pairings"][1]["trouble"] = trouble
    merged = merged_pairings([("box-1", first), ("box-2", second)])
    assert [one["peer"]["id"] for one in merged["pairings"]] == ["a", "b", "c"]
    assert [(one["connected"], one.get("trouble")) for one in merged["pairings"]] == [
        (True, None),
        (False, trouble),
        (True, None),
    ]
    assert (merged["total"], merged["before"]) == (9, 6)
    second["before"] = None
    assert merged_pairings([("box-1", first), ("box-2", second)])["before"] is None


def _answering(page: dict[str, Any]) -> list[str]:
    """A worker that answers with a page of pairings, and refuses to where a node is asked for."""
    answered = {"event": "result", "ok": True, **page}
    refused = {"event": "result", "ok": False, "error": {"kind": "usage", "what": "There is no node X here."}}
    program = (
        f"import json, sys\nprint({READY!r}, flush=True)\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        f"    answer = {refused!r} if asked.get('node') else {answered!r}\n"
        "    print(json.dumps(answer | {'id': asked['id']}), flush=True)\n"
    )
    return [sys.executable, "-c", program]


async def test_workers_answer_for_pairings_together_and_say_why_they_do_not() -> None:
    pages = [_status(("p", connected, None)) | {"total": 1, "before": None} for connected in (False, True)]
    async with _with_workers(*map(_answering, pages)) as one:
        await until(lambda: one.workers.started)
        done = await one.workers.answer(b'{"command": "pairings", "id": 1}')
        assert [entry["connected"] for entry in done.to_object()["pairings"]] == [True]
        done = await one.workers.answer(b'{"command": "pairings", "node": "X", "id": 2}')
        assert "There is no node X" in str(done.to_object())
        await one.workers.close()


async def test_whoever_asks_a_worker_and_is_cancelled_ends_at_once() -> None:
    async with _with_deaf_worker() as worker:
        asking = await _asking(worker)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()


async def test_a_worker_that_ends_before_it_answers_is_named() -> None:
    async with _with_deaf_worker() as worker:
        asking = await _asking(worker)
        assert worker.process is not None
        worker.process.kill()
        with pytest.raises(Failure, match="box-1 ended before it answered"):
            await asking


async def test_a_worker_whose_input_is_closed_counts_as_ended() -> None:
    async with _with_deaf_worker() as worker:
        process = worker.process
        assert process is not None
        assert process.stdin is not None

        async def drain() -> None:
            raise ConnectionResetError("Connection lost")

        process.stdin.drain = drain  # type: ignore[method-assign]  # it has ended, and this process does not know yet
        with pytest.raises(Failure, match="box-1 ended before it answered"):
            await worker.ask({"command": "status"})


async def test_a_worker_that_is_being_started_is_ended_too() -> None:
    one = _Machine()
    worker = Worker("box-1", _deaf(), {}, one.workers.report)
    async with within(30), one.supervisor:
        running = one.supervisor.spawn(worker.run(), "worker")
        await asyncio.sleep(0)
        await worker.end(drain=False)
        assert worker.process is not None
        assert worker.process.returncode == 0
        await running
