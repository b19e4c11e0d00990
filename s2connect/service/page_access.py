"""Commands about the access to the page of a service: its state, one-time links, its password."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from s2connect.errors import UsageError
from s2connect.service.commands import PageLinkIssued, PageStatus
from s2connect.service.failures import no_service
from s2connect.service.setup import start_command
from s2connect.store.home import Home
from s2connect.web.access import LINK_LIFETIME
from s2connect.web.password import read_password, store_password

if TYPE_CHECKING:
    from s2connect.web.server import PageServer


async def show(page: PageServer | None, home: Path) -> PageStatus:
    """Return the state of the page of a service, which may have none."""
    if page is not None:
        return PageStatus(url=page.url, has_password=page.has_password, certificate_sha256=page.fingerprint)
    password = await asyncio.to_thread(lambda: read_password(Home.open(home)))
    return PageStatus(url=None, has_password=password is not None)


async def issue_link(page: PageServer | None, home: Path, *, running: bool) -> PageLinkIssued:
    """Issue a one-time link; a failure says what is missing."""
    if page is None and not running:
        raise no_service("A link to the page needs the running service.", start_command(Home(home)))
    if page is None:
        raise UsageError("The service runs without its page.", hint="Start it with --page.")
    expires = datetime.now(UTC) + timedelta(seconds=LINK_LIFETIME)
    return PageLinkIssued(url=page.issue_link(), expires_at=expires)


async def set_password(page: PageServer | None, home: Path, password: str | None) -> None:
    """Set or remove the password, of the page of a service or in the home alone."""
    if page is not None:
        await page.set_password(password)
    else:
        await asyncio.to_thread(lambda: store_password(Home.open(home), password))
