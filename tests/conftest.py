"""Fixtures of every test: leaks fail."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Generator, Iterator

import hypothesis
import pytest

from s2connect.model.log_limiter import process_lines
from tests import waits
from tests.postgresql import durable, postgresql, postgresql_cluster

__all__ = ["durable", "postgresql", "postgresql_cluster"]  # fixtures

# No deadline for examples: their time depends on the load of the machine. The cost of input has tests of its own.
hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machine")
# For tests that have passed and run once more on another loop, Python or versions: --hypothesis-profile=again
hypothesis.settings.register_profile("again", hypothesis.settings.get_profile("busy machine"), max_examples=20)

# A shell without job control starts what is in the background with SIGINT ignored, and every child inherits that. Tests
# of Ctrl-C need it as a person at a terminal has it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of processes are started, each in half the time if it finds compiled modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Neither the keyring of whoever runs the tests nor a backend that a test defines is for the endpoints of other tests.
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--uvloop", action="store_true", help="run the tests on uvloop, as services do by default")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the event loop. Measure the machine once, before there are workers, which inherit the result."""
    if config.getoption("--uvloop"):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if waits.VARIABLE not in os.environ:
        os.environ[waits.VARIABLE] = f"{waits.measure(config.getoption('numprocesses', None) or 1):.1f}"


def pytest_report_header() -> str:
    return f"{waits.slowness()} times as slow as a quiet machine: tests wait {waits.patience(1):.0f} times as long"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have the garbage collector pass over the tests themselves: a million objects, of which none becomes garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A slow machine has more time for a whole test, too."""
    usual = float(config.getini("timeout"))
    for item in items:
        if config.getoption("--uvloop") and item.get_closest_marker("asyncio_only"):
            item.add_marker(pytest.mark.skip(reason="about asyncio's own event loop"))
        marker = item.get_closest_marker("timeout")
        item.add_marker(pytest.mark.timeout(waits.patience(marker.args[0] if marker else usual)), append=False)


EXECUTORS = ("asyncio", "uvloop")
"""Beginnings of the names of threads that an event loop ends by itself."""


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves threads or tasks behind; take back the log levels that a command in this process has set.

    One fixture for all of this, and an event loop only for tests that have one: most of the thousands of tests take
    less time than their fixtures.
    """
    process_lines._kinds.clear()
    loggers = [logging.getLogger(name) for name in (None, "s2connect", "zeroconf")]
    levels = [logger.level for logger in loggers]
    before = set(threading.enumerate())
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("_no_leaked_tasks")
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    left = [t for t in threading.enumerate() if t not in before and not t.daemon and not t.name.startswith(EXECUTORS)]
    for thread in left:
        thread.join(waits.patience(2))
    assert not [t for t in left if t.is_alive()], "threads were left behind"


@pytest.fixture
async def _no_leaked_tasks() -> AsyncIterator[None]:
    yield
    left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task() and not t.done()]
    names = [t.get_name() for t in left]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    assert not names, f"tasks were left behind: {names}"
