"""Events and status of several workers as those of one service, and names of sessions that say at which one."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from s2connect.service import events
from s2connect.service.failures import Failure


def as_event(value: dict[str, Any]) -> events.Event | None:
    """Return an event of a worker as the object that it was made of; None where that is not possible."""
    for kind in _kinds(events.Event):
        if kind.event == value.get("event"):
            with contextlib.suppress(ValidationError):
                event: events.Event = _adapter(kind).validate_python(value)  # type: ignore[arg-type]  # it can be hashed
                return event
    return None


def _kinds(kind: type[events.Event]) -> Iterator[type[events.Event]]:
    for further in kind.__subclasses__():
        yield further
        yield from _kinds(further)


@cache
def _adapter(kind: type[events.Event]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def named_session(instance: str, session: str) -> str:
    """Return the name of a worker's session among those of all."""
    return f"{instance}:{session}"


def own_session(name: object) -> tuple[str, str]:
    """Return the instance, and the name that the session has there."""
    instance, colon, session = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    if not colon:
        raise Failure("usage", "The command needs session, which is the name of an open one.")
    return instance, session


def merged_status(answers: Sequence[tuple[str, dict[str, Any]]], workers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the status of a service from those of its workers that have answered.

    Pairings are in the database, and so the same everywhere; a pair is connected where one worker has its session.
    """
    if not answers:
        raise Failure("service_not_running", "No worker has answered.", "Try again in a moment.")
    _, first = answers[0]
    sessions: list[dict[str, Any]] = []
    ended: dict[tuple[str, ...], dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for instance, status in answers:
        counts[instance] = len(status["sessions"])
        sessions += [one | {"session": named_session(instance, one["session"])} for one in status["sessions"]]
        ended |= {(*_pair(one), one["since"]): one for one in status.get("ended", ())}
    named = [one | {"sessions": counts.get(one["instance"])} for one in workers]
    return {
        **first,
        "service": {"running": True, "pid": os.getpid(), "workers": named},
        "pairings": _merged_entries(answers),
        "sessions": sessions,
        "ended": list(ended.values()),
    }


def merged_pairings(answers: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return a page of the pairings of a service from those of its workers that have answered, of one at least."""
    places = [page["before"] for _, page in answers]  # they differ where a pairing was made or ended in between
    before = None if None in places else min(places)
    return {**answers[0][1], "pairings": _merged_entries(answers), "before": before}


def _merged_entries(answers: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the pairings of workers' answers, each from the worker that knows the latest of it, the oldest first."""
    answered = {instance for instance, _ in answers}
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for _, found in answers:
        for one in found["pairings"]:
            if one.get("instance") in answered:  # whose own answer is newer than the row in the database
                one |= {"connected": False, "instance": None}
            known = merged.get(_pair(one))
            if known is None or _latest(one) > _latest(known):
                merged[_pair(one)] = one
    of_first = {_pair(one) for one in answers[0][1]["pairings"]}
    beside = sorted((one for pair, one in merged.items() if pair not in of_first), key=lambda one: str(one["since"]))
    return [*beside, *(one for pair, one in merged.items() if pair in of_first)]


def _latest(entry: dict[str, Any]) -> tuple[bool, str]:
    """Return whether a pair is connected at a worker, and when that has last seen anything of it."""
    return entry["connected"], max(entry["state_since"] or "", (entry.get("trouble") or {}).get("since", ""))


_BEST: Final = {
    state: place
    for place, state in enumerate(
        ("up", "admitting", "reaching", "parting", "refused", "failed", "waiting", "unpaired", "stopped", "elsewhere")
    )
}
"""States of links, those first of which an instance says the most."""


def merged_bridge(answers: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the status of a bridge from those of its workers that have answered.

    A link is as at the worker that has it, whose ``instance`` it names; its messages are those of all.
    """
    if not answers:
        raise Failure("service_not_running", "No worker has answered.", "Try again in a moment.")
    bridges = [(instance, found["bridge"]) for instance, found in answers]
    first = bridges[0][1]
    ended: dict[tuple[str, ...], dict[str, Any]] = {}
    failed: dict[str, dict[str, Any]] = {}
    links: dict[tuple[str, str], dict[str, Any]] = {}
    for instance, status in bridges:
        ended |= {(one["node"], one["peer"], one["since"]): one for one in status["ended"]}
        failed |= {one["name"]: one for one in status["failed"]}
        for route in status["routes"]:
            for link in route["links"]:
                _merge(links, (route["name"], link["key"]), {**link, "instance": instance})
    routes = [
        {**route, "links": sorted((x for (name, _), x in links.items() if name == route["name"]), key=_name)}
        for route in first["routes"]
    ]
    return {**first, "routes": routes, "failed": list(failed.values()), "ended": list(ended.values())}


def _merge(links: dict[tuple[str, str], dict[str, Any]], key: tuple[str, str], link: dict[str, Any]) -> None:
    known = links.get(key)
    if known is None:
        links[key] = link
        return
    best = min(known, link, key=lambda one: _BEST.get(one["state"], len(_BEST)))
    counts = {
        role: dict(Counter(known["messages"][role]) + Counter(link["messages"][role])) for role in best["messages"]
    }
    links[key] = {**best, "messages": counts, "times_up": known["times_up"] + link["times_up"]}


def _name(link: dict[str, Any]) -> str:
    return str(link["name"])


def _pair(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["node"], entry["peer"]["id"]
