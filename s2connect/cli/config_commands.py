"""The commands ``config show``, ``set`` and ``unset``: the settings of a state directory, and where they come from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2connect.cli.terminal import (
    NodeOption,
    Options,
    YesOption,
    confirm_end_of_pairings,
    examples,
    register,
    run_work,
    with_options,
)
from s2connect.errors import UsageError
from s2connect.store.home import HOME_VARIABLE, Home

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from s2connect.service.settings import ChangedSettings, Setting

app = typer.Typer(
    help="The settings of this endpoint: show them with their source, change them, take them back.",
    epilog=examples("s2connect config show", "s2connect config set port 9443", "s2connect config unset proxy"),
    no_args_is_help=True,
)


@with_options("s2connect config show", "s2connect config show port --json")
def show(
    options: Options,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this one.")] = None,
) -> None:
    """Show every setting, and where its value comes from: the file, the environment, or the default."""
    from s2connect.service import settings

    wanted = settings.known_name(name) if name is not None else None
    found = settings.settings_of(settings.read_raw(Home.open(options.path)))
    if wanted is not None:
        found = [one for one in found if one.name == wanted]
        if not found:
            raise UsageError(f"{wanted} is not set, and has no default.")
    values = {one.name: {"value": one.value, "source": one.source} for one in found}
    options.show({"home": str(options.path), "settings": values}, lambda width: _blocks(options, found))


def _blocks(options: Options, found: list[Setting]) -> Iterable[RenderableType]:
    from rich.text import Text

    from s2connect.cli.show import plain_table
    from s2connect.model.text import for_display

    source = (
        "--home" if options.home is not None else f"${HOME_VARIABLE}" if os.environ.get(HOME_VARIABLE) else "default"
    )
    yield Text(f"{options.path} ({source})", overflow="fold")
    rows = [(one.name, for_display(_text(one.value), 300), one.source) for one in found]
    yield plain_table(("setting", "value", "from"), rows)


def _text(value: Any) -> str:
    """Return a value as it is typed."""
    match value:
        case None:
            return "-"
        case bool():
            return "on" if value else "off"
        case list():
            return ",".join(map(str, value)) or "-"
    return str(value)


@with_options(
    "s2connect config set name 'Battery in the cellar'",
    "s2connect config set host ems.local port 9443",
    "s2connect config set trust-anchors /etc/ssl/house-ca.pem",
    name="set",
)
def set_values(
    options: Options,
    pairs: Annotated[
        list[str], typer.Argument(metavar="NAME VALUE…", help="Name and value; more of them, where they go together.")
    ],
    node: NodeOption = None,
    yes: YesOption = False,
) -> None:
    """Change settings. Says whether a running service takes them over now, or when it starts again."""
    if len(pairs) % 2:
        raise UsageError("Each setting needs a name and a value.", hint="For example: s2connect config set port 9443")
    _change(options, dict(zip(pairs[::2], pairs[1::2], strict=True)), node, yes=yes)


@with_options("s2connect config unset proxy", "s2connect config unset bind", name="unset")
def unset(
    options: Options,
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Settings that get their default back.")],
    node: NodeOption = None,
    yes: YesOption = False,
) -> None:
    """Take settings back to their defaults."""
    _change(options, dict.fromkeys(names), node, yes=yes)


def _change(options: Options, changes: dict[str, str | None], node: str | None, *, yes: bool) -> None:
    from s2connect.service import settings
    from s2connect.service.setup import refuse_bridge
    from s2connect.service.status import unused_broker

    home = Home.open(options.path)
    refuse_bridge(home)
    before = settings.read_raw(home)
    after = settings.changed(before, changes, node)
    moved = [name for name in settings.ADDRESS if before.get(name) != after.get(name)]
    if moved and not yes:
        _ask_about_pairings(options)
    done, running = run_work(_write(home, changes, node))
    changed = sorted({*done.now, *done.at_restart})
    sentences = [f"Changed: {', '.join(changed)}."]
    if running and done.at_restart:
        sentences.append(
            f"The running service goes on with the old {', '.join(done.at_restart)} until it starts again."
        )
    elif running:
        sentences.append("The running service has taken it over; peers see it with their next session.")
    if any(name == "communication-protocols" or name.startswith("mqtt") for name in changed):
        sentences.extend(filter(None, [unused_broker(settings.checked_settings(settings.read_raw(home)))]))
    options.report({"changed": changed, "running": running, **vars(done)}, *sentences)


def _ask_about_pairings(options: Options) -> None:
    """Ask before a change after which peers that connect to this endpoint do not find it any more."""
    from s2connect.errors import S2ConnectError
    from s2connect.service.commands import Status

    try:
        found = options.ask(Status())
    except S2ConnectError:  # it may be that very setting which keeps the endpoint from starting
        return
    connecting = [one for one in found.pairings if one.communication_role == "server"]
    if connecting:
        more = "At least " if found.pairings_before is not None else ""
        number = f"{more}{len(connecting)} paired peer{'s connect' if len(connecting) > 1 else ' connects'}"
        warning = f"{number} to this endpoint under its old address, and will not find it: pair again after that."
        confirm_end_of_pairings(warning, "Change it?", yes=False, as_json=options.as_json)


async def _write(home: Home, changes: dict[str, str | None], node: str | None) -> tuple[ChangedSettings, bool]:
    """Change settings through the running service, or in the file; return what changed, and whether a service runs."""
    import asyncio

    from s2connect.service import settings
    from s2connect.service.commands import Configure
    from s2connect.service.control import connect

    async with connect(home) as control:
        if control is not None:
            return await control.ask(Configure(settings=changes, node=node)), True
    return await asyncio.to_thread(settings.write_changes, home, changes, node), False


register(app, show, set_values, unset)
