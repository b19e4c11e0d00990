"""What people read about a bridge."""

from __future__ import annotations

from typing import Final

from rich.console import RenderableType
from rich.text import Text

from s2connect.cli.service import Object
from s2connect.cli.show import ServiceText, clock, name_of, plain_table
from s2connect.model.text import for_display

FATES: Final = ("forwarded", "acknowledged", "refused", "unanswered", "late")
"""What becomes of messages, in the order of the table's columns."""

_STYLES: Final = {"up": "green", "failed": "red", "refused": "red", "unpaired": "yellow"}

LEGEND: Final = "messages: forwarded / acknowledged / refused / unanswered / late"


class BridgeText(ServiceText):
    """Events of a bridge as text on standard output."""

    def __call__(self, event: Object) -> str | None:
        """The event as text, or None where people need not know it."""
        match event["event"]:
            case "bridge_ready":
                routes = [
                    f"  {r['name']}: {r['devices']['type']} -> {r['manager']['type']}, {len(r['links'])} links"
                    for r in event["routes"]
                ]
                return "\n".join(["The bridge is running. Stop it with Ctrl-C.", *routes])
            case "link":
                why = f" ({for_display(event['reason'], 300)})" if event["reason"] else ""
                return f"{clock(event['time'])}  {for_display(event['link'], 120)}: {event['state']}{why}"
            case "prepare_pairing" if "code" not in event:
                who = name_of(event["peer"]) if event["peer"] is not None else "An energy manager"
                return f"{clock(event['time'])}  {who} wants to pair; the code is shown by: s2connect bridge pair FILE"
            case "reloaded":
                return f"{clock(event['time'])}  {reload_sentence(event)}"
            case "reload_failed":
                lines = [f"  line {p['line']}: {for_display(p['what'], 500)}" for p in event["problems"] if p["fatal"]]
                head = f"{clock(event['time'])}  The file was not taken over; everything stays as it was."
                return "\n".join([head, *(lines or [f"  {for_display(event['error']['what'], 500)}"])])
        return super().__call__(event)


def reload_sentence(done: Object) -> str:
    """What a reload did."""
    parts = [
        f"{', '.join(names)} {word}"
        for names, word in (
            (done["begun"], "begun"),
            (done["ended"], "ended"),
            ([f"{one['route']} ({one['devices']} devices)" for one in done["updated"]], "updated"),
            (done["kept"], "untouched"),
            ([f"{one['route']} ({one['reason']})" for one in done["failed"]], "FAILED"),
        )
        if names
    ]
    if done["restart_needed"]:
        parts.append(f"a restart is needed for [{'], ['.join(done['restart_needed'])}]")
    return for_display(f"Read the file again: {'; '.join(parts) or 'nothing to do'}.", 2000)


def span(seconds: float) -> str:
    """A length of time, roughly."""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def bridge_blocks(bridge: Object, width: int) -> list[RenderableType]:
    """The status of a bridge."""
    blocks: list[RenderableType] = []
    for route in bridge["routes"]:
        links = route["links"]
        up = sum(link["state"] == "up" for link in links)
        head = Text(for_display(route["name"], 60), style="bold")
        head.append(f"  {route['devices']['type']} -> {route['manager']['type']}, {up} of {len(links)} up", "not bold")
        blocks.append(head)
        blocks.append(_links(links, width) if links else Text(f"  {_no_links(route)}"))
        blocks.append(Text())
    blocks += [
        Text(f"{for_display(failed['name'], 60)} does not run: {for_display(failed['reason'], 400)}")
        for failed in bridge["failed"]
    ]
    if any(route["links"] for route in bridge["routes"]):
        blocks.append(Text(LEGEND, style="dim"))
    return blocks


def _no_links(route: Object) -> str:
    if route["devices"]["type"] == "s2-connect":
        return "No device is paired yet: s2connect bridge pair FILE"
    return "There is no device."


def _links(links: list[Object], width: int) -> RenderableType:
    if width < 100:
        return Text("\n").join(_narrow(link) for link in links)
    table = plain_table("link", "state", "device", "energy manager", "from device", "from manager", "retry")
    for link in links:
        table.add_row(
            for_display(link["name"].partition("/")[2], 60),
            _state(link),
            _side(link["sides"]["rm"]),
            _side(link["sides"]["cem"]),
            _counts(link["messages"]["rm"]),
            _counts(link["messages"]["cem"]),
            _retry(link),
        )
    return table


def _narrow(link: Object) -> Text:
    text = Text(f"  {for_display(link['name'].partition('/')[2], 60)}: ").append(_state(link))
    text.append(f" {_retry(link)}\n    device {_side(link['sides']['rm'])}, {_counts(link['messages']['rm'])}")
    return text.append(f"\n    energy manager {_side(link['sides']['cem'])}, {_counts(link['messages']['cem'])}")


def _state(link: Object) -> Text:
    text = Text(link["state"], style=_STYLES.get(link["state"], ""))
    text.append(f" {span(link['for_seconds'])}", "dim")
    if link["reason"] and link["state"] != "up":
        text.append(f"\n{for_display(link['reason'], 200)}", "dim")
    return text


def _side(side: Object) -> str:
    if not side["connected"]:
        return "-"
    return f"{for_display(side['protocol'], 20)} {for_display(side['s2_version'], 20)}"


def _counts(counts: Object) -> str:
    return "/".join(str(counts.get(fate, 0)) for fate in FATES)


def _retry(link: Object) -> str:
    return f"in {span(link['retry_in'])}" if link["retry_in"] is not None and link["state"] != "up" else ""
