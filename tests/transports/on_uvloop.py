"""Plugin of pytest: run asynchronous tests on uvloop."""

from __future__ import annotations

import asyncio

import uvloop

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
