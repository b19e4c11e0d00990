"""The commands ``serve``, ``status`` and ``certificate``: the service, and the state of the endpoint."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from s2connect.cli.terminal import LoopOption, Options, YesOption, confirm_end_of_pairings, run_work, with_options
from s2connect.errors import UsageError
from s2connect.messages.enums import Check
from s2connect.service.failures import ExitCode
from s2connect.store.home import Home
from s2connect.store.postgresql.address import STORE_VARIABLE, given_url

_ServeJson = Annotated[
    bool,
    typer.Option("--json", help="Sidecar of other software: events on standard output, commands on standard input."),
]


@with_options(
    "s2connect serve",
    "s2connect serve --json --home cem",
    "s2connect serve --record messages.jsonl",
    json_option=_ServeJson,
    level=logging.WARNING,
    service=True,
)
def serve(
    options: Options,
    code: Annotated[bool, typer.Option("--code/--no-code", help="Issue a pairing code at the start.")] = True,
    qr: Annotated[bool, typer.Option("--qr/--no-qr", help="Show URL and code as QR code, too, on a terminal.")] = True,
    check: Annotated[
        Check, typer.Option(help="Validation of each S2 message before it is taken or sent.")
    ] = Check.RULES,
    loop: LoopOption = "auto",
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append every message of every session to this file, for s2connect replay; each worker to its own.",
        ),
    ] = None,
    answer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE",
            help="With --json: messages of this type, or all, are answered by the command answer. Can be repeated.",
        ),
    ] = None,
    page: Annotated[
        bool | None,
        typer.Option(
            "--page/--no-page",
            help="The page for browsers; with --json there is none unless asked for.",
            show_default=False,
        ),
    ] = None,
    page_bind: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of the page; default 127.0.0.1, this machine only. Others: * or an address, with log-in.",
        ),
    ] = None,
    page_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the page; default 8480, or a free one if that is taken."),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of this machine for /metrics, /healthz and /readyz, with a page or without; default none.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database that other instances share: postgresql://user@host/name. With a password: S2CONNECT_STORE",
            show_default=False,
        ),
    ] = None,
    instance: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of this instance on the database; default: the machine's.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Run N instances on this machine, each a process, on one port. Needs a database: s2connect store copy",
            show_default=False,
        ),
    ] = None,
    drain: Annotated[
        bool,
        typer.Option(
            "--drain/--no-drain",
            help="With a database: on SIGTERM, hand the sessions over to other instances first; a second one ends it.",
        ),
    ] = True,
) -> ExitCode:
    """Run the service: show the pairing code, accept pairings and sessions, until Ctrl-C.

    Without --json it only acknowledges and counts messages, which is enough for pairing and for tests.
    """
    from s2connect.cli.show import ServiceText
    from s2connect.endpoint.instances import INSTANCE_VARIABLE, checked_name
    from s2connect.service.serve import json_form
    from s2connect.service.serve import serve as run_service

    as_json = options.as_json
    if store is not None:
        os.environ[STORE_VARIABLE] = given_url(store)
    if instance is not None:
        os.environ[INSTANCE_VARIABLE] = checked_name(instance)
    if answer and not as_json:
        raise UsageError("--answer needs --json, for a program that answers.")
    form = json_form if as_json else ServiceText(qr=qr)
    kept = answer or ()
    if page is False and (page_bind is not None or page_port is not None):
        raise UsageError("--no-page does not go with --page-bind and --page-port.")
    given = {"enabled": page, "bind": page_bind, "port": page_port}
    shown = {name: value for name, value in given.items() if value is not None}
    if workers is not None:
        from s2connect.service.workers import for_people, serve_workers

        words = ["--check", str(check), "--loop", loop, *(word for name in kept for word in ("--answer", name))]
        work = serve_workers(
            options.path,
            form if as_json else for_people(form),
            workers,
            words,
            commands=as_json,
            codes=code,
            page=shown,
            record=record,
            metrics_port=metrics_port,
            drain=drain,
        )
        return run_work(work, loop=loop)
    work = run_service(
        options.path,
        form,
        commands=as_json,
        codes=code,
        check=check,
        record=record,
        kept=kept,
        page=shown,
        metrics_port=metrics_port,
        drain=drain,
    )
    return run_work(work, loop=loop)


@with_options("s2connect status", "s2connect status --json")
def status(options: Options) -> None:
    """Show the endpoint, its nodes, pairings and sessions, and until when its certificate is valid."""
    from s2connect.cli.show import MAX_TABLE_ROWS, status_blocks
    from s2connect.service.commands import Status
    from s2connect.service.objects import to_value
    from s2connect.service.setup import start_command

    found = options.ask(Status(newest=None if options.as_json else MAX_TABLE_ROWS))
    start = start_command(Home.open(options.path))
    options.show({"home": str(options.path), **to_value(found)}, lambda width: status_blocks(found, width, start))


@with_options("s2connect reload", "s2connect reload --home cem")
def reload(options: Options) -> None:
    """Have the running service read its settings and files again: certificates, the broker's password, names of nodes.

    The same as SIGHUP. Says what is in force, and what needs a restart.
    """
    from s2connect.cli.show import reload_sentence
    from s2connect.service.commands import Reload

    done = options.ask(Reload()).reloaded
    options.report(done, reload_sentence(done))


@with_options("s2connect certificate", "s2connect certificate --new-ca --yes")
def certificate(
    options: Options,
    new_ca: Annotated[
        bool, typer.Option("--new-ca", help="Make a new certificate authority. ENDS EVERY PAIRING; asks before.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Show the certificates of this endpoint: fingerprints and dates."""
    from s2connect import new_certificate_authority, read_config
    from s2connect.cli.show import certificate_blocks
    from s2connect.endpoint.certificate import read_certificates
    from s2connect.service.objects import to_value

    ended: dict[str, int] = {}
    if new_ca:
        warning = "A new certificate authority makes every pairing void: each has to be made again, with a new code."
        confirm_end_of_pairings(warning, "Make a new one?", yes=yes, as_json=options.as_json)
        ended["pairings_ended"] = run_work(new_certificate_authority(options.path))
        if not options.as_json:
            print(f"There is a new certificate authority. Pairings that ended: {ended['pairings_ended']}.")
    home = Home.open(options.path)
    shown = read_certificates(home, read_config(home))
    options.show({**to_value(shown), **ended}, lambda width: certificate_blocks(shown, width))
