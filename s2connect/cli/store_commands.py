"""``s2connect store``: the database in which several instances keep their state."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2connect.cli.terminal import (
    Options,
    YesOption,
    confirm,
    counted,
    examples,
    register,
    run_work,
    tell,
    with_options,
)
from s2connect.errors import UsageError
from s2connect.store.home import Home
from s2connect.store.postgresql.address import STORE_VARIABLE, given_url, require_extra, shown

if TYPE_CHECKING:
    from s2connect.store.postgresql.migrating import Tables

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="postgresql://user@host:5432/name. Without it: S2CONNECT_STORE, or the setting store of the home.",
        show_default=False,
    ),
]

app = typer.Typer(
    help="The state in PostgreSQL, for several instances: its tables, its key, and the way there and back.",
    no_args_is_help=True,
    epilog=examples("s2connect store key store.key", "s2connect store migrate --store postgresql://s2@db/s2"),
)


def database_url(options: Options, given: str | None) -> str:
    """Return the URL of the database that is meant."""
    from s2connect.endpoint.settings import read_config
    from s2connect.endpoint.storage import store_url

    require_extra()
    url = given_url(given) if given else os.environ.get(STORE_VARIABLE) or None
    if url is None and (options.path / "config.json").exists():
        url = store_url(read_config(Home.open(options.path)))
    if url is None:
        raise UsageError(
            "No database is named.",
            hint=f"Name it with --store postgresql://user@host/name, or in {STORE_VARIABLE} where it has a password.",
        )
    return url


@with_options("s2connect store key store.key", "s2connect store key store.key --rotate", home=False)
def key(
    options: Options,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File for the key; only its owner can read it.")],
    rotate: Annotated[
        bool,
        typer.Option("--rotate", help="Put a new key before those in the file, which still open what they sealed."),
    ] = False,
) -> None:
    """Make the key that seals the secrets in the database. Every instance needs this file; keep a copy elsewhere."""
    from s2connect.store.files import write_private
    from s2connect.store.postgresql.sealing import add_key, new_key

    exists = file.exists()
    if exists and not rotate:
        raise UsageError(
            f"{file} exists already, and what it has sealed cannot be opened without it.",
            hint="Name another file, or add a new key before the one in it with --rotate.",
        )
    if rotate and not exists:
        raise UsageError(
            f"There is no key file {file}.", hint=f"Make one with: s2connect store key {shlex.quote(str(file))}"
        )
    if not file.absolute().parent.is_dir():
        raise UsageError(f"There is no directory {file.absolute().parent}.", hint="Make it, or name another file.")
    write_private(file.absolute(), add_key(file) if rotate else new_key().encode("ascii") + b"\n")
    options.report(
        {"file": str(file), "rotated": rotate},
        f"{'There is a new first key in' if rotate else 'The key is in'} {file}. Every instance needs the same file.",
        "Then, once every instance was restarted with it: s2connect store reseal"
        if rotate
        else "Next: s2connect store migrate --store postgresql://user@host/name",
    )


@with_options(
    "s2connect store migrate --store postgresql://s2@db.example/s2",
    "s2connect store migrate --contract",
)
def migrate(
    options: Options,
    store: UrlOption = None,
    contract: Annotated[
        bool,
        typer.Option(
            "--contract",
            help="After an upgrade of every instance: remove what only those of earlier versions needed.",
        ),
    ] = False,
) -> None:
    """Make the tables, or bring them to this version. Instances of the version before may go on meanwhile.

    Order of an upgrade: migrate, then one instance after the other, then migrate --contract.
    """
    from s2connect.store.postgresql import migrating

    url = database_url(options, store)
    before, after = run_work(migrating.contract(url) if contract else migrating.expand(url))
    options.report(
        {
            "store": shown(url),
            "expanded": after.expanded,
            "contracted": after.contracted,
            "changed": before != after,
        },
        _migrated(shown(url), before, after),
    )


def _migrated(url: str, before: Tables, after: Tables) -> str:
    if before == after:
        return f"The tables in {url} are those of this version already ({after.expanded})."
    if before.expanded != after.expanded:
        return f"The tables in {url} are those of this version now ({after.expanded})."
    return f"What only earlier versions needed is removed from {url}."


KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Key file; default: that of the environment or of the settings, or the key in S2CONNECT_STORE_KEY.",
        show_default=False,
    ),
]


@with_options(
    "s2connect store copy --to postgresql://db.example/s2 --home cloud",
    "s2connect store copy --from postgresql://s2@db.example/s2 --home cloud",
)
def copy(
    options: Options,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="URL", help="Move the home into this database, which has tables and no pairings."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="Move the state of this database, whose instances have stopped, into the home.",
        ),
    ] = None,
    store_key_file: KeyFileOption = None,
    yes: YesOption = False,
) -> None:
    """Move the state of a home into a database, or back. The side that is left is sealed: two never go on.

    Nothing has to be paired again. The service must not run. What was cut off is finished by the same command.
    """
    from s2connect.endpoint.copying import copy_to_database, copy_to_home

    require_extra()
    url = to or source
    if url is None or (to and source):
        raise UsageError("Name the database: with --to URL, where the home goes to it, or --from URL for the way back.")
    url = given_url(url)
    warning = (
        f"{options.path} does not start by itself any more; it goes on in {shown(url)}."
        if to
        else f"No instance starts on {shown(url)} any more; it goes on in {options.path}."
    )
    if not yes:
        if options.as_json or not sys.stdin.isatty():
            raise UsageError(warning, hint="Add --yes if that is what you want.")
        tell(warning)
        confirm("Move it?")
    keys = _keys(options, store_key_file)
    file = None if store_key_file is None else store_key_file.absolute()
    number = run_work(copy_to_database(options.path, url, keys, file) if to else copy_to_home(options.path, url, keys))
    options.report(
        {"home": str(options.path), "store": shown(url), "pairings": number},
        f"Moved the state with {counted(number, 'pairing')} into {shown(url) if to else options.path}.",
        _next(options, shown(url) if to else None),
    )


def _next(options: Options, store: str | None) -> str:
    """Return the next step after a move, into the database or back."""
    if not Home.open(options.path).is_of_bridge:
        return f"Next: {options.command_line('serve')}"
    line = "take store out of [endpoint]" if store is None else f'add to [endpoint]: store = "{store}"'
    return f"Next: in the file of the bridge {line}. Then: s2connect bridge run FILE"


@with_options("s2connect store reseal --store-key-file store.key")
def reseal(
    options: Options,
    store: UrlOption = None,
    store_key_file: KeyFileOption = None,
) -> None:
    """Seal every secret in the database with the first key. The other keys can go then."""
    from s2connect.store.postgresql.resealing import reseal as reseal_all

    url = database_url(options, store)
    number = run_work(reseal_all(url, _keys(options, store_key_file)))
    options.report(
        {"store": shown(url), "resealed": number},
        f"Sealed with the first key now: {number}. Keys after the first are not needed any more.",
    )


def _keys(options: Options, file: Path | None) -> list[bytes]:
    from s2connect.endpoint.settings import read_config
    from s2connect.endpoint.storage import KEY_FILE_VARIABLE, key_file
    from s2connect.store.postgresql.sealing import read_keys

    if file is None and (options.path / "config.json").exists():
        file = key_file(read_config(Home.open(options.path)))
    elif file is None and (named := os.environ.get(KEY_FILE_VARIABLE)):
        file = Path(named)
    return read_keys(file)


register(app, key, migrate, copy, reseal)
