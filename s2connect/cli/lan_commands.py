"""The commands for the local network and for pairing, as ``app`` registers them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from s2connect.cli.terminal import (
    ConnectOption,
    NodeOption,
    Options,
    RoleChoice,
    as_role,
    line_from_stdin,
    print_json,
    run_work,
    say,
    with_options,
)
from s2connect.errors import UsageError
from s2connect.store.home import Home


@with_options()
def discover(
    options: Options,
    role: Annotated[
        RoleChoice | None,
        typer.Option("--role", case_sensitive=False, help="Only energy managers (cem) or only devices (rm)."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on and show what comes and goes, until Ctrl-C.")] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, max=86400, help="How long to listen; 5 if not given, --watch: for ever.")
    ] = None,
) -> None:
    """List the energy managers and devices in the local network. Needs no set-up."""
    from s2connect.cli import discover as listening

    own = listening.own_pairing_url(options.path)
    if watch:
        run_work(listening.watch(as_role(role), seconds, own, as_json=options.as_json))
    else:
        run_work(listening.once(as_role(role), seconds or listening.LISTEN_SECONDS, own, as_json=options.as_json))


@with_options(home=False)
def nodes(
    options: Options,
    url: Annotated[str, typer.Argument(metavar="URL", help="Pairing URL of an endpoint in the local network.")],
    connect_to: ConnectOption = None,
) -> None:
    """Show which energy managers and devices an endpoint in the local network hosts. Needs no set-up."""
    from s2connect.cli.show import nodes_blocks
    from s2connect.service.commands import Nodes, RemoteNodes
    from s2connect.service.reach import reach_nothing

    async def work() -> RemoteNodes:
        async with reach_nothing() as reached:
            return await reached.ask(Nodes(url=url, connect_to=connect_to))

    result = run_work(work())
    options.show(result, lambda width: nodes_blocks(result, width))


@with_options()
def pair(
    options: Options,
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]", help="Pairing URL that the other side shows. Without it you pick from what is found."
        ),
    ] = None,
    pairing_code: Annotated[
        str | None,
        typer.Argument(
            metavar="[CODE]",
            help="Pairing code that the other side shows; '-' reads it from standard input. Other users of this "
            "machine can see it here while the command runs: leave it out to be asked for it.",
        ),
    ] = None,
    waiting: Annotated[
        str | None,
        typer.Option(
            "--waiting",
            metavar="PEER",
            help="Pair the device without a server that waits here: its id or name. Then CODE comes without a URL.",
        ),
    ] = None,
    node: NodeOption = None,
    connect_to: ConnectOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Pair even if the two have no common version now, e.g. before an update.")
    ] = False,
) -> None:
    """Pair with a device or energy manager: pick it, or type the URL and code that it shows."""
    from s2connect.cli.pairing import pair as pair_as_requested
    from s2connect.cli.show import kind_of
    from s2connect.model.url import BaseUrl
    from s2connect.service.objects import name_of

    as_json = options.as_json
    interactive = sys.stdin.isatty() and not as_json
    if waiting is not None:
        if pairing_code is not None:
            raise UsageError("--waiting goes with a code and without a URL.")
        url, pairing_code = None, url
    elif url is None and not interactive:
        raise UsageError(
            "A pairing URL is needed here, because nobody can be asked to pick.",
            hint="It is what the other side shows; s2connect discover lists what is in the network.",
        )
    elif url is not None and pairing_code is None and len(url.split()) > 1:
        url, pairing_code = url.split(maxsplit=1)  # as the QR code of serve has it
    target = BaseUrl.from_user(url) if url is not None else None
    Home.open(options.path)  # before the person types a code
    if pairing_code == "-" or (pairing_code is None and not interactive):
        pairing_code = line_from_stdin("the pairing code")
    work = pair_as_requested(
        options.path,
        target,
        pairing_code,
        waiting=waiting,
        node=node,
        connect_to=connect_to,
        force=force,
        interactive=not as_json,
    )
    result, running = run_work(work)
    if as_json:
        print_json(result)
        return
    client = result.communication_role == "client"
    how = "This side connects to it." if client else "It connects to this side."
    say(f"Paired with {name_of(result.peer)} ({kind_of(result.peer)}). {how}")
    if running:
        say(f"Next: the two connect by themselves within seconds; see it with {options.command_line('status')}")
    else:
        say(f"Next: start the service, so that the two connect: {options.command_line('serve')}")
