"""The commands ``discover`` and ``nodes``: who is in the local network. They need no set-up."""

from __future__ import annotations

from typing import Annotated

import typer

from s2connect.cli.terminal import ConnectOption, OnlyRoleOption, Options, as_role, run_work, with_options


@with_options("s2connect discover", "s2connect discover --role cem --watch")
def discover(
    options: Options,
    role: OnlyRoleOption = None,
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


@with_options("s2connect nodes https://ems.local:8443/pairing/", home=False)
def nodes(
    options: Options,
    url: Annotated[str, typer.Argument(metavar="URL", help="Pairing URL of an endpoint in the local network.")],
    connect_to: ConnectOption = None,
) -> None:
    """Show which energy managers and devices an endpoint in the local network hosts. Needs no set-up."""
    from s2connect.cli.show import nodes_blocks
    from s2connect.service.commands import Nodes
    from s2connect.service.reach import reach_nothing

    result = options.ask(Nodes(url=url, connect_to=connect_to), reach_nothing())
    options.show(result, lambda width: nodes_blocks(result, width))
