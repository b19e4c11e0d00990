"""``s2connect registry``: asking a registry of WAN endpoints, and running a small one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from s2connect.cli.terminal import (
    ConnectOption,
    OnlyRoleOption,
    Options,
    as_role,
    counted,
    examples,
    print_json,
    register,
    run_work,
    say,
    with_options,
)
from s2connect.service.failures import ExitCode

RegionOption = Annotated[
    str, typer.Option(metavar="NL,BE", help="Only endpoints that are active in one of these countries.")
]
AnchorsOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="PEM file with CAs to trust beside those of the system.")
]

app = typer.Typer(
    help="Registries of endpoints on the internet: ask one, or run one.",
    no_args_is_help=True,
    epilog=examples("s2connect registry list https://registry.example/v1/ --role cem"),
)


@with_options(
    "s2connect registry list https://registry.example/v1/",
    "s2connect registry list https://registry.example/v1/ --region NL,BE",
    name="list",
    home=False,
)
def list_endpoints(
    options: Options,
    url: Annotated[str, typer.Argument(metavar="URL", help="Base URL of the registry.")],
    region: RegionOption = "",
    role: OnlyRoleOption = None,
    status: Annotated[
        Literal["public", "testing"],
        typer.Option(help="public: for everybody; testing: those that are meant for tests."),
    ] = "public",
    trust_anchors: AnchorsOption = None,
    connect_to: ConnectOption = None,
) -> None:
    """List the endpoints of a registry."""
    from s2connect.cli.registry import show_registry

    show_registry(
        options,
        url,
        region=region,
        role=as_role(role),
        status=status,
        trust_anchors=trust_anchors,
        connect_to=connect_to,
    )


@with_options(
    "s2connect registry serve endpoints.json",
    "s2connect registry serve endpoints.json --ca-dir registry-ca",
    "s2connect registry serve endpoints.json --host reg.example --bind 192.0.2.5",
    home=False,
    level=logging.WARNING,
    service=True,
)
def serve(
    options: Options,
    file: Annotated[Path, typer.Argument(help="JSON file: an array of records as the standard has them.")],
    host: Annotated[
        str, typer.Option(help="Name or address of this machine, in the URL and in the certificate.")
    ] = "127.0.0.1",
    bind: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on, e.g. 0.0.0.0 for every IPv4 address. Without it: the address of --host, or "
            "everywhere for a name.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 picks a free one.")] = 8444,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, the certificate and its chain.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="PEM file with the key of the certificate.")] = None,
    ca_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Without --certificate: keep this registry's own CA here, so that it is the same the next time.",
        ),
    ] = None,
) -> ExitCode:
    """Run a registry from a file, for private use and for tests, until Ctrl-C.

    Without a certificate it has a CA of its own, which its clients have to trust.
    """
    from s2connect.service.registry import run_registry

    def ready(url: str, endpoints: int, ca_file: str | None) -> None:
        if options.as_json:
            print_json({"url": url, "endpoints": endpoints, "ca_file": ca_file})
            return
        say(f"Registry with {counted(endpoints, 'endpoint')}, for private use and tests. Stop it with Ctrl-C.")
        print(f"  {url}", flush=True)
        if ca_file is not None:
            say("Its certificate is of a CA of its own, which its clients have to trust:")
            print(f"  s2connect registry list {url} --trust-anchors {ca_file}", flush=True)

    work = run_registry(
        file, ready, host=host, bind=bind, port=port, certificate=certificate, private_key=private_key, ca_dir=ca_dir
    )
    return run_work(work)


register(app, list_endpoints, serve)
