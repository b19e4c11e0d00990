"""The supervisor of background tasks: what fails is seen and comes back, what is closed ends. Without waiting."""

from __future__ import annotations

import ast
import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from s2connect import supervisor
from s2connect.errors import NotReachable
from s2connect.supervisor import (
    FIRST_DELAY,
    LONGEST_DELAY,
    MAX_KNOWN,
    REPORT_EVERY,
    STABLE,
    TRACEBACK_EVERY,
    FailureLog,
    Supervisor,
    TaskFailure,
)

SECRET = "code 1234-5678"


class SupervisorSetup:
    """A supervisor whose sleeps pass at once on a clock of the test's, and everything it reports."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.published: list[TaskFailure] = []
        self.failures = FailureLog(self.published.append, clock=lambda: self.now)
        self.supervisor = Supervisor("test", self.failures, sleep=self._sleep, chance=lambda: 1.0)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def failing(times: int, then: Callable[[], Coroutine[Any, Any, None]] | None = None) -> Callable[[], Any]:
    """Work that fails so many times, and then does something else."""
    left = times

    async def work() -> None:
        nonlocal left
        if left:
            left -= 1
            raise RuntimeError(SECRET)
        if then is not None:
            await then()

    return work


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_task_that_is_kept_is_started_again_until_it_returns(caplog: pytest.LogCaptureFixture) -> None:
    setup = SupervisorSetup()
    async with setup.supervisor as supervisor:
        await supervisor.keep(failing(3), "connector", "one")
    assert setup.slept == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert setup.failures.counts == {"connector": 3}
    assert setup.published == [TaskFailure(task="connector", error="RuntimeError", retry_in=FIRST_DELAY, count=1)]
    (record,) = errors(caplog)
    assert "test-connector-one" in record.getMessage()
    assert record.exc_info


async def test_an_event_names_the_class_of_the_exception_and_never_its_text() -> None:
    setup = SupervisorSetup()
    async with setup.supervisor as supervisor:
        await supervisor.keep(failing(1), "connector")
    assert SECRET not in repr(setup.published)


async def test_the_delay_is_bounded_and_the_task_never_given_up() -> None:
    setup = SupervisorSetup()
    async with setup.supervisor as supervisor:
        await supervisor.keep(failing(100), "connector")
    assert max(setup.slept) == LONGEST_DELAY
    assert len(setup.slept) == 100


async def test_after_a_long_life_the_delays_begin_anew() -> None:
    setup = SupervisorSetup()

    async def lives() -> None:
        if len(setup.slept) == 6:
            return
        if len(setup.slept) == 4:
            setup.now += STABLE
        raise RuntimeError

    async with setup.supervisor as supervisor:
        await supervisor.keep(lives, "follower")
    assert setup.slept == [FIRST_DELAY * factor for factor in (1, 2, 4, 8, 1, 2)]


async def test_an_expected_error_of_a_kept_task_is_a_warning_without_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setup = SupervisorSetup()
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise NotReachable("Nobody is there.")

    async with setup.supervisor as supervisor:
        await supervisor.keep(work, "connector")
    (record,) = errors(caplog)
    assert record.levelno == logging.WARNING
    assert not record.exc_info
    assert [failure.error for failure in setup.published] == ["NotReachable"]


async def test_something_that_is_cancelled_under_a_kept_task_does_not_end_it() -> None:
    setup = SupervisorSetup()
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gone.cancel()

    async def work() -> None:
        if not setup.slept:
            await gone

    async with setup.supervisor as supervisor:
        task = supervisor.keep(work, "follower")
        await asyncio.wait({task})
    assert not task.cancelled()
    assert [failure.error for failure in setup.published] == ["CancelledError"]


async def test_what_is_done_once_is_reported_when_it_fails_and_not_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setup = SupervisorSetup()
    async with setup.supervisor as supervisor:
        task = supervisor.spawn(failing(1)(), "farewell", "one")
        await asyncio.wait({task})
        await asyncio.sleep(0)
    assert setup.published == [TaskFailure(task="farewell", error="RuntimeError", retry_in=None, count=1)]
    (record,) = errors(caplog)
    assert record.exc_info
    assert setup.slept == []


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO])
async def test_an_expected_error_of_what_is_done_once_is_only_logged(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    setup = SupervisorSetup()

    async def work() -> None:
        raise NotReachable("Nobody is there.")

    async with setup.supervisor as supervisor:
        await asyncio.wait({supervisor.spawn(work(), "farewell", expected=level)})
        await asyncio.sleep(0)
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (level, None)
    assert setup.published == []


async def test_a_task_done_once_that_ends_with_something_cancelled_is_reported() -> None:
    setup = SupervisorSetup()
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gone.cancel()

    async def work() -> None:
        await gone

    async with setup.supervisor as supervisor:
        await asyncio.wait({supervisor.spawn(work(), "offer")})
        await asyncio.sleep(0)
    assert [failure.error for failure in setup.published] == ["CancelledError"]


async def test_closing_cancels_and_awaits_all_and_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    setup = SupervisorSetup()
    ended = []

    async def long(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async with setup.supervisor as supervisor:
        supervisor.keep(lambda: long("kept"), "follower")
        supervisor.spawn(long("once"), "offer")
        await asyncio.sleep(0)
    assert sorted(ended) == ["kept", "once"]
    assert not errors(caplog)
    assert setup.published == []
    await setup.supervisor.close()


async def test_a_failure_while_it_is_closed_is_reported() -> None:
    setup = SupervisorSetup()

    async def clumsy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError(SECRET)

    async with setup.supervisor as supervisor:
        supervisor.spawn(clumsy(), "offer")
        await asyncio.sleep(0)
    assert setup.failures.counts == {"offer": 1}


async def test_a_kept_task_that_answers_its_cancellation_with_an_error_ends() -> None:
    setup = SupervisorSetup()
    begun = 0

    async def clumsy() -> None:
        nonlocal begun
        begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            if begun == 1:
                raise RuntimeError(SECRET)

    async with setup.supervisor as supervisor:
        task = supervisor.keep(clumsy, "follower")
        await asyncio.sleep(0)
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert task.done()
    assert begun == 1
    assert setup.failures.counts == {"follower": 1}


async def test_closing_while_a_task_waits_to_be_started_again_is_prompt() -> None:
    failures = FailureLog()
    async with Supervisor("test", failures) as supervisor:
        supervisor.keep(failing(1), "follower")
        while not failures.counts:
            await asyncio.sleep(0)
    # Otherwise this test takes a second.


async def test_what_the_end_of_a_task_begins_ends_too() -> None:
    setup = SupervisorSetup()
    ended = []

    async def after() -> None:
        ended.append("begun")
        await asyncio.Event().wait()

    async def first() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            setup.supervisor.spawn(after(), "after")

    async with setup.supervisor as supervisor:
        supervisor.spawn(first(), "first")
        await asyncio.sleep(0)
    assert ended == [], "nothing is begun once it is closed"


async def test_what_does_not_end_is_named_and_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "CLOSE_TIMEOUT", 0.01)
    let_go = asyncio.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    setup = SupervisorSetup()
    task = setup.supervisor.spawn(stubborn(), "stubborn")
    await asyncio.sleep(0)
    await setup.supervisor.close()
    (record,) = errors(caplog)
    assert "test-stubborn was cancelled and does not end" in record.getMessage()
    let_go.set()
    await task


async def test_tasks_may_end_by_themselves_within_the_grace() -> None:
    setup = SupervisorSetup()
    done = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(True)

    setup.supervisor.spawn(work(), "events")
    await setup.supervisor.close(grace=10)
    assert done


async def test_a_task_may_close_its_own_supervisor() -> None:
    setup = SupervisorSetup()
    ended = []

    async def work() -> None:
        await setup.supervisor.close(grace=10)
        ended.append(True)

    await setup.supervisor.spawn(work(), "stop")
    assert ended


async def test_a_cancelled_close_is_prompt_and_what_it_cancelled_stays_cancelled() -> None:
    setup = SupervisorSetup()
    let_go = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await let_go.wait()

    task = setup.supervisor.spawn(slow(), "slow")
    await asyncio.sleep(0)
    closing = asyncio.create_task(setup.supervisor.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    let_go.set()
    await asyncio.wait({task})
    assert task.cancelled()


# The log of failures


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_the_same_failure_is_reported_once_a_minute_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    setup = SupervisorSetup()
    for second in range(int(2 * REPORT_EVERY) + 1):
        setup.now = float(second)
        setup.failures.failed("connector", raised(RuntimeError()), retry_in=1.0)
    assert [failure.count for failure in setup.published] == [1, REPORT_EVERY, REPORT_EVERY]
    assert [bool(record.exc_info) for record in errors(caplog)] == [True, False, False]
    assert setup.failures.counts["connector"] == 2 * REPORT_EVERY + 1


def test_the_traceback_comes_again_after_a_day(caplog: pytest.LogCaptureFixture) -> None:
    setup = SupervisorSetup()
    for setup.now in (0.0, TRACEBACK_EVERY / 2, TRACEBACK_EVERY):
        setup.failures.failed("connector", raised(RuntimeError()))
    assert [bool(record.exc_info) for record in errors(caplog)] == [True, False, True]


def test_failures_of_different_tasks_and_places_are_reported_each() -> None:
    setup = SupervisorSetup()
    setup.failures.failed("connector", raised(RuntimeError()))
    setup.failures.failed("advertiser", raised(RuntimeError()))
    try:
        raise RuntimeError
    except RuntimeError as error:
        setup.failures.failed("connector", error)
    assert len(setup.published) == 3


def test_what_is_remembered_is_bounded() -> None:
    setup = SupervisorSetup()
    for number in range(MAX_KNOWN + 5):
        setup.failures.failed(f"task {number}", raised(RuntimeError()))
    assert len(setup.failures._reports._kinds) == MAX_KNOWN


def test_a_publisher_that_stumbles_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    def stumble(failure: TaskFailure) -> None:
        raise ValueError

    FailureLog(stumble).failed("connector", raised(RuntimeError()))
    assert len(errors(caplog)) == 2


async def test_what_escapes_from_a_callback_of_the_loop_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    setup = SupervisorSetup()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(setup.failures.loop_exception)

    def stumble() -> None:
        raise RuntimeError(SECRET)

    loop.call_soon(stumble)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [(failure.task, failure.error) for failure in setup.published] == [("callback", "RuntimeError")]
    (record,) = errors(caplog)
    assert "stumble" in record.getMessage()
    loop.call_exception_handler({"message": "something without an exception"})
    assert "something without an exception" in caplog.text


# No other way

ROOT = Path(supervisor.__file__).parent

MAKERS = {
    "create_task",
    "ensure_future",
    "run_coroutine_threadsafe",
    "TaskGroup",
    "create_task_group",
}
"""What makes a task."""

ALLOWED = {
    "supervisor.py": {"spawn": "the one place"},
    "discovery/shared.py": {"_finish": "its function awaits it, also where it is cancelled"},
    "simulate/run.py": {
        "drive": "its function awaits it, or reads its result",
        "run": "a group: its errors are its function's",
    },
    "simulate/site.py": {"run_fleet": "a group: its errors are its function's"},
    "transports/base.py": {
        "__init__": "one a connection without callbacks of its own: it reports its own failure and ends the connection",
        "_resumed_or_closed": "its function awaits it",
        "at_close": "the same for its end",
    },
    "session/session.py": {
        "_write_later": "while something waits to be written: it reports its own failure and ends the session",
        "_close_soon": "the end, once a session, which waits for it: it reports its own failure",
    },
    "session/handlers.py": {
        "_start": "one a session, ended with it: it reports its own failure and ends the session",
        "_instruct": "the same for instructions, whose failure is reported to the energy manager, too",
    },
    "endpoint/pairings.py": {"_whole": "its caller awaits it; the supervisor sees how it ends where that is cancelled"},
    "https/acceptor.py": {
        "_arrive": "one a connection, ended with the acceptor: it reports its own failure",
        "_await_header": "likewise",
    },
    "bridge/link.py": {"_connect": "its function awaits it"},
    "bridge/outbox.py": {"put": "sends what waits: it reports its own failure, and the link ends it"},
    "service/signals.py": {"until_terminated": "its function awaits it"},
    "diagnostics/doctor.py": {"_run_all": "its function awaits it"},
    "web/server.py": {"_stream": "its function awaits them"},
    "cli/guided_setup.py": {"_pair": "its function awaits it, or reads its result"},
    "demo/program.py": {"__aenter__": "its object awaits it"},
}
"""Where a task may be made: file and function, and why that is no seventh way to lose an error."""


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The files of the product, parsed."""
    return {
        file.relative_to(ROOT).as_posix(): ast.parse(file.read_text("utf-8")) for file in sorted(ROOT.rglob("*.py"))
    }


def test_tasks_are_made_by_the_supervisor_or_with_a_reason() -> None:
    made: dict[str, set[str]] = {}
    for file, tree in trees().items():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
                if name in MAKERS:
                    made.setdefault(file, set()).add(function.name)
    assert made == {file: set(functions) for file, functions in ALLOWED.items()}
    assert all(reason for functions in ALLOWED.values() for reason in functions.values())


def test_no_cancellation_is_lost_in_a_wait_of_asyncio() -> None:
    """``asyncio.wait_for`` of Python 3.11 forgets it where the result comes at the same moment; a timeout does not."""
    used = []
    for file, tree in trees().items():
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=ast.Name("asyncio"), attr="wait_for"):
                    used.append(file)
                case ast.ImportFrom(module="asyncio", names=names) if "wait_for" in {one.name for one in names}:
                    used.append(file)
    assert used == []


def test_every_supervised_task_has_a_test_that_injects_an_error() -> None:
    """By the word that says what the task does."""
    tasks = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            match node.func, node.args:
                case ast.Attribute(attr="keep" | "spawn"), [_, ast.Constant(value=str() as task), *_]:
                    tasks.add(task)
                case ast.Attribute(attr="_later"), [_, ast.Constant(value=str() as task), *_]:
                    tasks.add(task)
                case ast.Attribute(attr="_begin"), [ast.Constant(value=str() as task), *_]:
                    tasks.add(task)
    assert len(tasks) > 20, "the search finds them"
    tested = "".join(file.read_text("utf-8") for file in sorted(Path(__file__).parent.rglob("*supervision*.py")))
    assert {task for task in tasks - ELSEWHERE.keys() if f'"{task}"' not in tested} == UNTESTED.keys()
    for task, place in ELSEWHERE.items():
        assert f'"{task}"' in (Path(__file__).parent / place).read_text("utf-8")


ELSEWHERE = {
    "unknown-token": "endpoint/test_endpoint_shared_tokens.py",
    "worker": "instances/test_instances_workers.py",
    "announce": "instances/test_instances_tasks.py",
    "cluster": "endpoint/test_endpoint_postgresql.py",
    "presence": "endpoint/test_endpoint_postgresql.py",
    **dict.fromkeys(
        (
            f"instance-{what}"
            for what in ("hints", "review", "beat", "standstill", "resync", "nodes", "links", "leases", "probe")
        ),
        "instances/test_instances_ownership.py",
    ),
    "abandon-turn": "instances/test_instances_tasks.py",
    "shared-sweep": "instances/test_instances_tasks.py",
    "database-commit": "store/test_store_postgresql_database.py",
    "database-operation": "store/test_store_postgresql_database.py",
    "database-confirmation": "store/test_store_postgresql_standby.py",
    "log-in": "web/test_web_server.py",
    "observation": "service/test_service_page.py",
    "look-around": "web/test_web_observation.py",
    "collector": "test_collector.py",
    "link": "bridge/test_bridge_link.py",
    "device-list": "bridge/test_bridge_mqtt.py",
    "mqtt-lists": "bridge/test_bridge_mqtt.py",
    "mqtt-client": "transports/test_mqtt_client.py",
    "commit": "pairing/test_long_poll_client.py",
    "command": "service/test_service_lines.py",
}
"""Tasks whose test is in a file of another subject."""

UNTESTED = {
    "until-replaced": "it only reads events, and ends the service",
    "stop": "as first-worker",
    "first-worker": "done once, at the start of workers: it waits",
    "drain": "done once: the service ends, whatever comes of it",
    "address": "as end: the same work",
    "refuse": "as end: the same work",
    "describe": "done once, and again with the next connection",
    "too-late": "done once: it closes a connection",
    "listen": "done once, at the start of a port; it tells what it expects itself",
    "reload": "done once, for a signal",
    "mqtt-listen": "done once, and again with the next connection to the broker",
    "mqtt-accept": "done once: the client comes again",
    "mqtt-ask": "as mqtt-accept",
    "mqtt-part": "done once: it closes a connection",
    "input": "done once; it takes all errors, which end the service",
    "program": "done once a set-up; without it no message comes, which the set-up says",
    "setup-trial": "as program",
    "client": "done once a connection; its other end reports that it has gone",
}
"""Tasks without such a test, and why: of what is done once an injected error would show the supervisor alone."""
