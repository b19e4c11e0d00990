"""Sentences and tables about a bridge."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from rich.console import RenderableType
from rich.text import Text

from s2connect.bridge.link_state import LinkState
from s2connect.cli.bridge_rows import COLUMNS, LEGEND, Row, ended_sentence, failed_sentence, no_links, sides_of
from s2connect.cli.show import ServiceText, listing
from s2connect.cli.terminal import clock, counted
from s2connect.model.text import for_display
from s2connect.service import events
from s2connect.service.objects import ABSENT, name_of

MAX_ENDED: Final = 10
"""Pairings that have ended that are shown, the last ones."""

SAME_FAILURE: Final = timedelta(hours=1)
"""Time after which a link that fails for the same reason again is said to do so again."""

_UNDER_WAY: Final = {LinkState.REACHING, LinkState.ADMITTING}

_STYLES: Final = {"up": "green", "failed": "red", "refused": "red", "unpaired": "yellow"}


class BridgeText(ServiceText):
    """Events of a bridge as text on standard output."""

    def __init__(self, *, qr: bool = False) -> None:
        super().__init__(qr=qr)
        self._failed: dict[str, tuple[str, datetime]] = {}

    def __call__(self, event: events.Event) -> str | None:
        """Return an event as text; None for one that is not shown to people."""
        match event:
            case events.BridgeReady():
                routes = [
                    f"  {r['name']}: {r['devices']['type']} -> {r['manager']['type']}, {_links_of(r)}"
                    for r in event.status["routes"]
                ]
                page = self.page_lines(event.page)
                return "\n".join(["The bridge is running. Stop it with Ctrl-C.", *routes, *page])
            case events.LinkChanged():
                if not self._is_news(event):
                    return None
                why = f" ({for_display(event.reason, 300)})" if event.reason else ""
                return f"{clock(event.time)}  {for_display(event.link, 120)}: {event.state}{why}"
            case events.PairingAnnounced(code=code) if code is ABSENT:
                who = name_of(event.peer) if event.peer is not None else "An energy manager"
                return f"{clock(event.time)}  {who} wants to pair; the code is shown by: s2connect bridge pair FILE"
            case events.ReloadFailed():
                lines = [f"  line {p.line}: {for_display(p.what, 500)}" for p in event.problems if p.fatal]
                head = f"{clock(event.time)}  The file was not taken over; everything stays as it was."
                return "\n".join([head, *(lines or [f"  {for_display(event.error['what'], 500)}"])])
        return super().__call__(event)

    def _is_news(self, event: events.LinkChanged) -> bool:
        """Return whether a change of a link is shown: attempts that fail again for the same reason are once an hour."""
        if event.state == LinkState.ELSEWHERE:
            return False
        known = self._failed.get(event.link)
        if event.state in _UNDER_WAY:
            return known is None
        if event.state != LinkState.FAILED:
            self._failed.pop(event.link, None)
            return True
        if known is not None and known[0] == event.reason and event.time - known[1] < SAME_FAILURE:
            return False
        self._failed[event.link] = (event.reason, event.time)
        return True


def bridge_blocks(bridge: dict[str, Any], width: int) -> list[RenderableType]:
    """Return the status of a bridge."""
    blocks: list[RenderableType] = []
    for route in bridge["routes"]:
        head = Text(for_display(route["name"], 60), style="bold")
        blocks.append(head.append(f"  {sides_of(route)}", "not bold"))
        rows = [Row.of(link) for link in route["links"]]
        blocks.append(_links(rows, width) if rows else Text(f"  {no_links(route)}"))
        blocks.append(Text())
    blocks += [Text(failed_sentence(failed)) for failed in bridge["failed"]]
    blocks += [Text(ended_sentence(ended), "yellow") for ended in bridge.get("ended", ())[:MAX_ENDED]]
    if any(route["links"] for route in bridge["routes"]):
        blocks.append(Text(LEGEND, style="dim"))
    return blocks


def _links(rows: list[Row], width: int) -> RenderableType:
    cells = [(r.link, _state(r), r.device, r.manager, r.from_device, r.from_manager, r.retry) for r in rows]
    return listing(COLUMNS, cells, [_narrow(row) for row in rows], width)


def _narrow(row: Row) -> Text:
    text = Text(f"  {row.link}: ").append(_state(row, indent="    "))
    text.append(f" {row.retry}\n    device {row.device}, {row.from_device}")
    return text.append(f"\n    energy manager {row.manager}, {row.from_manager}")


def _state(row: Row, *, indent: str = "") -> Text:
    text = Text(row.state, style=_STYLES.get(row.state, "")).append(f" {row.since}", "dim")
    for line in ([row.reason] if row.reason else []) + list(row.refused):
        text.append(f"\n{indent}{line}", "dim")
    return text


def _links_of(route: dict[str, Any]) -> str:
    return counted(len(route["links"]), "link")
