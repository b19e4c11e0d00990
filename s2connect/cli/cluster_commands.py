"""``s2connect cluster``: all instances on one database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from s2connect.cli.store_commands import UrlOption, database_url
from s2connect.cli.terminal import Options, examples, register, run_work, with_options
from s2connect.model.text import for_display
from s2connect.service.objects import rfc3339
from s2connect.store.postgresql.address import shown

if TYPE_CHECKING:
    from rich.console import RenderableType

    from s2connect.store.postgresql.cluster import Cluster

NARROW = 72  # columns below which an instance has a line for each fact

app = typer.Typer(
    help="All instances on one database.",
    no_args_is_help=True,
    epilog=examples("s2connect cluster status --store postgresql://s2@db/s2"),
)


@app.callback()
def _cluster() -> None:
    """Keep ``status`` a command of its own."""


@with_options("s2connect cluster status", "s2connect cluster status --store postgresql://s2@db.example/s2 --json")
def status(options: Options, store: UrlOption = None) -> None:
    """Show the instances, their sessions and links, what is orphaned, and whether a failover loses anything."""
    from s2connect.store.postgresql.cluster import cluster_of
    from s2connect.store.postgresql.database import Database

    url = database_url(options, store)

    async def work() -> Cluster:
        database = await Database.open(url)
        try:
            return await database.read("read", cluster_of)
        finally:
            await database.close()

    found = run_work(work())
    listed = [
        {**asdict(one), "started": rfc3339(one.started), "seen": rfc3339(one.seen), "age": round(one.age, 1)}
        for one in found.instances
    ]
    value = {"store": shown(url), **asdict(found), "instances": listed, "troubles": found.troubles}
    options.show(value, lambda width: _blocks(shown(url), found, width))


def _blocks(url: str, found: Cluster, width: int) -> Iterator[RenderableType]:
    from rich.text import Text

    from s2connect.cli.show import plain_table

    yield Text(url)
    yield Text(f"Instances: {len(found.instances)}, pairings: {found.pairings}")
    if found.instances:
        yield Text("")
    facts = [
        (
            for_display(one.name),
            "dead" if not one.alive else "draining" if one.draining else "alive",
            str(one.sessions if one.alive else 0),
            str(found.links.get(one.name, 0)),
            for_display(one.version),
            for_display(one.address),
        )
        for one in found.instances
    ]
    names = ("instance", "state", "sessions", "links", "version", "address")
    if 0 < width < NARROW:
        for row in facts:
            yield Text(row[0])
            yield Text("\n".join(f"  {name}: {value}" for name, value in zip(names[1:], row[1:], strict=True)))
    elif facts:
        yield plain_table(names, facts) if width else Text("\n".join("  ".join(row) for row in (names, *facts)))
    yield Text("")
    yield from (Text(line) for line in _database(found))
    if found.troubles:
        yield Text("")
        # A command is never broken in two: it gets a line of its own.
        yield from (Text(f"! {trouble}".replace(": s2connect ", ":\n  s2connect ")) for trouble in found.troubles)


def _database(found: Cluster) -> Iterator[str]:
    schema, replication = found.schema, found.replication
    yield f"Tables: version {schema['expanded']}, contracted to {schema['contracted']}, known here {schema['known']}"
    if replication is None:
        return
    answer = {True: "synchronous", False: "not synchronous", None: "not known to this role"}[replication.synchronous]
    yield f"Replication: {answer}"
    for one in replication.standbys:
        behind = "" if one.lag_seconds is None else f", {one.lag_seconds:.1f} s behind"
        size = "" if one.lag_bytes is None else f", {one.lag_bytes} bytes"
        yield f"Standby {for_display(one.name)}: {one.kind}, {one.state}{behind}{size}"


register(app, status)
