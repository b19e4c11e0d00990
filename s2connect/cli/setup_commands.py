"""The commands ``setup`` and ``init``: from nothing to the first message, and a state directory alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from s2connect.cli.terminal import (
    BrandOption,
    ConnectOption,
    KindOption,
    ModelOption,
    NameOption,
    NodeOption,
    Options,
    RoleChoice,
    RoleOption,
    description,
    print_json,
    run_work,
    with_options,
)
from s2connect.errors import UsageError

RARE = "Rarely needed"
_BindOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Listen on this address only.", rich_help_panel=RARE)
]


@with_options(
    "s2connect init --role rm --brand Acme --type Battery --name Cellar",
    "s2connect init --role cem --host ems.local --port 8443",
    "s2connect init --role rm --no-server",
)
def init(
    options: Options,
    role: RoleOption,
    brand: BrandOption = None,
    kind: KindOption = None,
    model: ModelOption = None,
    name: NameOption = None,
    deployment: Annotated[
        Literal["lan", "wan"],
        typer.Option(
            case_sensitive=False, help="lan: runs in the building; wan: on the internet.", rich_help_panel=RARE
        ),
    ] = "lan",
    host: Annotated[str | None, typer.Option(help="Name under which others reach this machine.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 picks a free one now and keeps it.")] = 8443,
    bind: _BindOption = None,
    certificate: Annotated[
        Path | None, typer.Option(help="WAN: PEM file, the certificate and its chain.", rich_help_panel=RARE)
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(help="WAN: PEM file with the key of the certificate.", rich_help_panel=RARE)
    ] = None,
    trust_anchors: Annotated[
        Path | None, typer.Option(help="PEM file with more CAs to trust.", rich_help_panel=RARE)
    ] = None,
    vault: Annotated[
        Literal["auto", "keyring", "files"], typer.Option(help="Where secrets are kept.", rich_help_panel=RARE)
    ] = "auto",
    no_server: Annotated[
        bool,
        typer.Option(
            "--no-server",
            help="A device that only connects: energy managers pair it with its own code.",
            rich_help_panel=RARE,
        ),
    ] = False,
    wan_pairing_server: Annotated[
        bool,
        typer.Option(
            "--wan-pairing-server",
            help="A vendor's server on the internet that pairs for its devices in houses; needs --certificate.",
            rich_help_panel=RARE,
        ),
    ] = False,
    node_id: Annotated[
        str | None,
        typer.Option("--id", metavar="UUID", help="Id of the node, where it is known already.", rich_help_panel=RARE),
    ] = None,
    allow_private_addresses: Annotated[
        bool,
        typer.Option(
            "--allow-private-addresses",
            help="A WAN endpoint that may connect into its own network. UNSAFE where strangers type URLs; for tests.",
            rich_help_panel=RARE,
        ),
    ] = False,
    no_advertise: Annotated[
        bool,
        typer.Option(
            "--no-advertise", help="Do not be found by others in the network; a typed URL works.", rich_help_panel=RARE
        ),
    ] = False,
) -> None:
    """Set up this machine as an energy manager or a device. Asks nothing; everything but the role has a default."""
    from s2connect.model.common import Deployment
    from s2connect.service import setup

    config = setup.make(
        options.path,
        {"id": node_id, **description(role, brand, kind, model, name)},
        {
            "deployment": Deployment(deployment.upper()),
            "host": host,
            "port": port,
            "bind": bind,
            "name": name,
            "certificate": certificate,
            "private_key": private_key,
            "trust_anchors": trust_anchors,
            "vault": vault,
            "advertise": not no_advertise,
            "allow_private_addresses": allow_private_addresses,
            "wan_pairing_server": wan_pairing_server,
            "server": not no_server,
        },
    )
    if options.as_json:
        node, stored = config.nodes[0], config.model_dump(mode="json", exclude_none=True)
        print_json({"home": str(options.path), "node": {"id": node.id, "role": node.role}, "settings": stored})
        return
    print(f"Set up {'an energy manager (CEM)' if role == 'cem' else 'a device (RM)'} in {options.path}.")
    if no_server:
        print("It has no server: it waits at the energy managers in this network until one of them pairs it.")
        print(f"Next: {options.command_line('code --static')}  (the code for its sticker)")
        print(f"Then: {options.command_line('serve')}")
        return
    print(f"Others reach it as {config.host}, port {config.port}.")
    print(f"Next: {options.command_line('serve')}")


@with_options(
    "s2connect setup",
    "s2connect setup --role rm --url https://ems.local:8443/pairing/",
    "s2connect setup --role cem --show-code",
    "s2connect setup --role rm --trial",
)
def setup(
    options: Options,
    role: Annotated[
        RoleChoice | None, typer.Option("--role", case_sensitive=False, help="rm: a device; cem: an energy manager.")
    ] = None,
    name: NameOption = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Pairing URL that the other side shows; its code is asked for, or read from stdin."
        ),
    ] = None,
    show_code: Annotated[
        bool, typer.Option("--show-code", help="Show a code here, to be typed at the other side, and wait for it.")
    ] = False,
    waiting: Annotated[
        str | None,
        typer.Option("--waiting", metavar="DEVICE", help="Energy manager: pair the device without a server, by name."),
    ] = None,
    trial: Annotated[
        bool, typer.Option("--trial", help="Try it with a simulated other side on this machine; nothing of it stays.")
    ] = False,
    simulate: Annotated[
        Literal["battery", "ev-charger", "pv", "heat-pump", "water-heater", "energy-manager", "nothing"] | None,
        typer.Option(help="What this node simulates meanwhile, where no program of its own runs."),
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, max=86400, help="How long to wait for the session and a message.")
    ] = 60.0,
    brand: Annotated[str | None, typer.Option(help="Brand.", rich_help_panel=RARE)] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Kind of device.", rich_help_panel=RARE)] = None,
    model: Annotated[str | None, typer.Option(help="Model.", rich_help_panel=RARE)] = None,
    host: Annotated[
        str | None, typer.Option(help="Name under which others reach this machine.", rich_help_panel=RARE)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="TCP port; 8443, or another if that is taken.", rich_help_panel=RARE),
    ] = None,
    bind: _BindOption = None,
    vault: Annotated[
        Literal["auto", "keyring", "files"] | None, typer.Option(help="Where secrets are kept.", rich_help_panel=RARE)
    ] = None,
    node: NodeOption = None,
    connect_to: ConnectOption = None,
) -> None:
    """Lead from nothing to the first message: set up, pair, wait for the session, say what to do next.

    Asks for what no option says; safe to run again. It works with a running service, and without one.
    """
    from s2connect.cli.guided_setup import Answers, Reporter, lead
    from s2connect.model.url import BaseUrl

    ways = [url is not None, show_code, waiting is not None, trial]
    if sum(ways) > 1:
        raise UsageError("One way to pair at a time: --url, --show-code, --waiting or --trial.")
    answers = Answers(
        node=description(role, brand, kind, model, name),
        settings={"host": host, "port": port, "bind": bind, "vault": vault},
        url=None if url is None else BaseUrl.of_pairing(url),
        waiting=waiting,
        show_code=show_code,
        trial=trial,
        simulate=simulate,
        alias=node,
        connect_to=connect_to,
        wait=wait,
    )
    run_work(lead(options.path, answers, Reporter(options)))
