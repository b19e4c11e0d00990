"""The event loop of a service: uvloop where it is installed, otherwise asyncio's."""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from s2connect.service.failures import Failure
from s2connect.transports.slices import new_event_loop as new_asyncio_loop

_log = logging.getLogger(__name__)

LoopChoice = Literal["auto", "asyncio", "uvloop"]
"""Event loop: ``auto`` is uvloop where it can be used, and asyncio's otherwise."""


def new_event_loop(choice: LoopChoice) -> asyncio.AbstractEventLoop:
    """Make the event loop of a service. Raises ``Failure`` if it shall be uvloop, which cannot be used."""
    if choice != "asyncio":
        try:
            import uvloop

            return uvloop.new_event_loop()
        except Exception as error:  # also what a build for another Python or processor raises
            if choice == "uvloop":
                raise Failure(
                    "configuration",
                    f"uvloop cannot be used: {error}.",
                    "Install s2connect with its extra uvloop: pip install 's2connect[uvloop]'; or use --loop asyncio.",
                ) from None
            if not isinstance(error, ModuleNotFoundError):
                _log.warning("uvloop is installed but cannot be used, asyncio's loop takes its place: %s", error)
    return new_asyncio_loop()
