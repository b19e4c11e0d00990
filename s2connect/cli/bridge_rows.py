"""Display of a bridge's links, made from its status, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from s2connect.bridge.link_state import LinkState
from s2connect.model.text import for_display, span, until

FATES: Final = ("forwarded", "acknowledged", "refused", "unanswered", "late")
"""Fates of messages, in the order of display."""

LEGEND: Final = f"messages: {' / '.join(FATES)}"

COLUMNS: Final = ("link", "state", "device", "energy manager", "from device", "from manager", "retry")

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """Display row of a link, its texts cleaned: the :data:`COLUMNS`, empty where they do not apply.

    Attributes:
        refused: A sentence on the last refused message of each side that had one.
    """

    link: str
    state: str
    since: str
    reason: str
    device: str
    manager: str
    from_device: str
    from_manager: str
    retry: str
    refused: tuple[str, ...] = ()

    @classmethod
    def of(cls, link: Object) -> Self:
        """Return the row of a link of :meth:`s2connect.bridge.bridge.Bridge.status`."""
        up = link["state"] == LinkState.UP
        sides, messages = link["sides"], link["messages"]
        return cls(
            link=for_display(link["name"].partition("/")[2], 60),
            state=link["state"],
            since=span(link["for_seconds"]),
            reason="" if up else for_display(_reason(link), 400),
            device=_side(sides["rm"]),
            manager=_side(sides["cem"]),
            from_device=_counts(messages["rm"]),
            from_manager=_counts(messages["cem"]),
            retry="" if up or link["retry_in"] is None else until(link["retry_in"]),
            refused=(*_troubles(link), *_refused(link.get("refusals", {}))),
        )


def sides_of(route: Object) -> str:
    """Return the types of a route's two sides, and the number of its links that are up, here or elsewhere."""
    links = route["links"]
    up, elsewhere = (sum(link["state"] == state for link in links) for state in (LinkState.UP, LinkState.ELSEWHERE))
    others = f", {elsewhere} at other instances" if elsewhere else ""
    return f"{route['devices']['type']} -> {route['manager']['type']}, {up} of {len(links)} up{others}"


def no_links(route: Object) -> str:
    """Return the reason for which a route has no links."""
    if route["devices"]["type"] == "s2-connect":
        return "No device is paired yet: s2connect bridge pair FILE"
    return "There is no device."


def failed_sentence(failed: Object) -> str:
    """Return the reason for which a route of the file does not run."""
    return f"{for_display(failed['name'], 60)} does not run: {for_display(failed['reason'], 400)}"


def ended_sentence(ended: Object) -> str:
    """Return what happened to a pairing that has ended, and the next step."""
    again = "If that was not meant, pair again" if ended["by"] == "peer" else "To pair again"
    head = f"{for_display(ended['name'], 60)}, {ended['since'][:16].replace('T', ' ')} UTC"
    return f"{head}: {ended['text']} {again}: s2connect bridge pair FILE"


def _side(side: Object) -> str:
    if not side["connected"]:
        return "-"
    return f"{for_display(side['protocol'], 20)} {for_display(side['s2_version'], 20)}"


def _troubles(link: Object) -> Iterator[str]:
    for trouble in link.get("trouble", {}).values():
        if trouble is not None:
            yield f"{for_display(trouble['text'], 500)} To pair again: s2connect bridge pair FILE"


def _refused(refusals: Object) -> Iterator[str]:
    names = {"rm": "the device", "cem": "the energy manager"}
    for role, other in (("rm", "cem"), ("cem", "rm")):
        if (last := refusals.get(role, {}).get("last")) is None:
            continue
        who = names[other] if last["by"] == "peer" else "the bridge"
        why = f" ({for_display(last['label'], 200)})" if last["label"] else ""
        what = f"{for_display(last['type'], 60) or 'a message'} of {names[role]}"
        yield f"{span(last['seconds_ago'])} ago {who} refused {what}: {for_display(last['status'], 40)}{why}"


def _counts(counts: Mapping[str, int]) -> str:
    return "/".join(str(counts.get(fate, 0)) for fate in FATES)


def _reason(link: Mapping[str, Any]) -> str:
    """Return the reason of a link's state; while it tries again, why it did not work before."""
    last = link.get("last_failure")
    return f"last attempt: {last}" if last else str(link["reason"])
