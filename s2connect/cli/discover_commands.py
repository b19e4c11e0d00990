"""The commands ``discover`` and ``nodes``: who is in the local network. They need no set-up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2connect.cli.registry_commands import AnchorsOption, RegionOption
from s2connect.cli.terminal import ConnectOption, OnlyRoleOption, Options, as_role, run_work, with_options
from s2connect.errors import UsageError
from s2connect.store.home import Home

if TYPE_CHECKING:
    from s2connect.model.common import Role


@with_options(
    "s2connect discover",
    "s2connect discover --role cem --watch",
    "s2connect discover --registry https://registry.example/ --region NL",
)
def discover(
    options: Options,
    role: OnlyRoleOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on and show what comes and goes, until Ctrl-C.")] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, max=86400, help="How long to listen; 5 if not given, --watch: for ever.")
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(
            "--registry",
            metavar="URL",
            help="List the endpoints of this registry in the internet, and pick one to pair.",
        ),
    ] = None,
    region: RegionOption = "",
    trust_anchors: AnchorsOption = None,
) -> None:
    """List the energy managers and devices in the local network, or in a registry. Needs no set-up."""
    if registry is not None:
        if watch or seconds is not None:
            raise UsageError("--watch and --seconds are about the local network, and do not go with --registry.")
        _from_registry(options, registry, region, as_role(role), trust_anchors)
        return
    if region or trust_anchors is not None:
        raise UsageError("--region and --trust-anchors go with --registry URL.")
    from s2connect.cli import discover as listening

    own = listening.own_pairing_url(options.path)
    if watch:
        run_work(listening.watch(as_role(role), seconds, own, as_json=options.as_json))
    else:
        run_work(listening.once(as_role(role), seconds or listening.LISTEN_SECONDS, own, as_json=options.as_json))


def _from_registry(options: Options, url: str, region: str, role: Role | None, trust_anchors: Path | None) -> None:
    """List the endpoints of a registry; a person at a terminal may pick one, and pairs with it."""
    from s2connect.cli.pairing_commands import pair_and_report
    from s2connect.cli.registry import pick, show_registry

    asks = sys.stdin.isatty() and sys.stdout.isatty() and not options.as_json
    found = show_registry(options, url, region=region, role=role, trust_anchors=trust_anchors, numbered=asks)
    if not found or not asks or (picked := run_work(pick(found))) is None:
        return
    Home.open(options.path)  # before the person types a code
    pair_and_report(options, picked.pairing_url)


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
