"""An instance that answers one request and is killed at a given point: ``URL POINT PATH BODY BEARER``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from s2connect.store.postgresql.database import Database
from tests.instances.instances import instances


def _die(*_: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, point: str, path: str, body: str, bearer: str) -> None:
    """Answer it. Points: ``stored`` in the transaction, ``commit`` right before, ``committed`` right after COMMIT."""
    async with instances(url) as (one,):
        if point == "stored":
            for where, name in ((one.store, "save_pairing"), (one.pairings.shared, "activate")):
                setattr(where, name, _then(getattr(where, name), _die))
        commit = Database._commit
        if point == "commit":
            Database._commit = _die  # type: ignore[assignment,method-assign]
        if point == "committed":
            Database._commit = _then(commit, _die)  # type: ignore[method-assign]
        await one.ask(path, body.encode(), bearer)


def _then(work: Callable[..., Any], after: Callable[[], Any]) -> Any:
    async def both(*arguments: Any, **more: Any) -> Any:
        result = await work(*arguments, **more)
        after()
        return result

    return both


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
