"""Arguments, help texts and exit codes of the command."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from s2connect.cli import (
    bridge_commands,
    doctor_command,
    lan_commands,
    messages_commands,
    registry_commands,
    simulate_commands,
)
from s2connect.cli.terminal import (
    INTERRUPTED,
    HomeOption,
    JsonOption,
    NodeOption,
    RoleChoice,
    VerboseOption,
    ask_endpoint,
    command_line,
    confirm,
    home_path,
    line_from_stdin,
    log_to_stderr,
    print_json,
    print_result,
    run_work,
    tell,
)
from s2connect.errors import S2ConnectError, UsageError
from s2connect.messages.enums import Check
from s2connect.service.failures import ExitCode, Failure

_Result = TypeVar("_Result")
_TyperError: type[Exception] = typer.BadParameter.__mro__[2]
"""``ClickException``, which not every version of typer exports."""

EXIT_CODES = """Exit codes

- 0 ok
- 1 other failure
- 2 wrong usage, or set up already
- 3 the other side cannot be reached, is busy or too slow
- 4 certificate refused
- 5 pairing refused or wrong code
- 6 not paired, or session failed
- 7 storage failed, or not set up
- 8 the service is not running, or another process uses the state directory
- 130 stopped with Ctrl-C"""

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

app = typer.Typer(
    name="s2connect",
    help="Connect devices and energy managers with S2 Connect: set up, pair, see what is connected.\n\n"
    "First: s2connect init --role rm (a device) or --role cem (an energy manager), then s2connect serve.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class DeploymentChoice(StrEnum):
    """Deployments as people type them."""

    LAN = "lan"
    WAN = "wan"


class VaultChoice(StrEnum):
    """Places for secrets."""

    AUTO = "auto"
    KEYRING = "keyring"
    FILES = "files"


def run(argv: list[str]) -> int:
    """Run the command.

    Returns:
        The exit code; everything that goes wrong has been said.
    """
    as_json = "--json" in argv
    verbose = bool({"--verbose", "-v"} & set(argv))
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # whatever names hold, and whatever the terminal knows
        code = app(argv, prog_name="s2connect", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        failure = INTERRUPTED
    except (BrokenPipeError, SystemExit):  # rich turns the one into the other
        _detach_stdout()
        return int(ExitCode.OK)
    except _TyperError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]  # of ClickException
            return int(ExitCode.USAGE)
        hint = "See the help: s2connect --help, or --help after the command."
        failure = Failure("usage", error.format_message(), hint, code=ExitCode.USAGE)  # type: ignore[attr-defined]  # likewise
    except S2ConnectError as error:
        failure = Failure.of(error)
    except Failure as error:
        failure = error
    except Exception as error:
        if verbose:
            traceback.print_exc()
        what = f"An unexpected error stopped the command ({type(error).__name__})."
        failure = Failure("unexpected", what, "" if verbose else "Run it again with --verbose for the details.")
    else:
        if code != ExitCode.INTERRUPTED or isinstance(code, ExitCode):
            return code if isinstance(code, int) else int(ExitCode.OK)
        failure = INTERRUPTED  # typer has caught it
    _report(failure, as_json=as_json)
    return int(failure.code)


def _detach_stdout() -> None:
    """Discard what is still buffered for a reader that has gone, without an error at exit."""
    if sys.stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


MAX_SHOWN = 6000
"""Longest error shown, in characters: the longest file name, and a sentence about it."""


def _report(failure: Failure, *, as_json: bool) -> None:
    from s2connect.model.text import for_display

    if as_json:
        print_json({"error": failure.to_object()})
        return
    added = failure.details.get("additional_info") or failure.details.get("label")
    print(f"Error: {for_display(failure.what, MAX_SHOWN)}", file=sys.stderr)
    if added:
        print(f"The other side adds: {for_display(str(added), 300)}", file=sys.stderr)
    if failure.hint:
        print(for_display(failure.hint, MAX_SHOWN), file=sys.stderr)


@app.command()
def init(
    role: Annotated[
        RoleChoice, typer.Option("--role", case_sensitive=False, help="rm: a device; cem: an energy manager.")
    ],
    brand: Annotated[str | None, typer.Option(help="Brand, shown to the user of the other side.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Kind of device, e.g. 'Heat pump'.")] = None,
    model: Annotated[str | None, typer.Option(help="Model.")] = None,
    name: Annotated[str | None, typer.Option(help="Name that its user gives it, e.g. 'Battery in the cellar'.")] = None,
    deployment: Annotated[
        DeploymentChoice, typer.Option(case_sensitive=False, help="lan: runs in the building; wan: on the internet.")
    ] = DeploymentChoice.LAN,
    host: Annotated[str | None, typer.Option(help="Name under which others reach this machine.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 picks a free one now and keeps it.")] = 8443,
    bind: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Listen on this address only.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="WAN: PEM file, the certificate and its chain.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="WAN: PEM file with the key of the certificate.")] = None,
    trust_anchors: Annotated[Path | None, typer.Option(help="PEM file with more CAs to trust.")] = None,
    vault: Annotated[VaultChoice, typer.Option(help="Where secrets are kept.")] = VaultChoice.AUTO,
    no_server: Annotated[
        bool,
        typer.Option("--no-server", help="A device that only connects: energy managers pair it with its own code."),
    ] = False,
    allow_private_addresses: Annotated[
        bool,
        typer.Option(
            "--allow-private-addresses",
            help="A WAN endpoint that may connect into its own network. UNSAFE where strangers type URLs; for tests.",
        ),
    ] = False,
    no_advertise: Annotated[
        bool, typer.Option("--no-advertise", help="Do not be found by others in the network; a typed URL works.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Set up this machine as an energy manager or a device. Asks nothing; everything but the role has a default."""
    from s2connect.model.common import Deployment
    from s2connect.service import setup

    log_to_stderr(verbose)
    path = home_path(home)
    node_settings = {"role": role.role, "brand": brand, "type": kind, "model_name": model, "user_defined_name": name}
    settings = {
        "deployment": Deployment(deployment.upper()),
        "host": host,
        "port": port,
        "bind": bind,
        "name": name,
        "certificate": certificate,
        "private_key": private_key,
        "trust_anchors": trust_anchors,
        "vault": vault.value,
        "advertise": not no_advertise,
        "allow_private_addresses": allow_private_addresses,
        "server": not no_server,
    }
    config = setup.make(path, node_settings, settings)
    node = config.nodes[0]
    if as_json:
        stored = config.model_dump(mode="json", exclude_none=True)
        print_json({"home": str(path), "node": {"id": str(node.id), "role": str(node.role)}, "settings": stored})
        return
    what = "an energy manager (CEM)" if role is RoleChoice.CEM else "a device (RM)"
    print(f"Set up {what} in {path}.")
    if no_server:
        print("It has no server: it waits at the energy managers in this network until one of them pairs it.")
        print(f"Next: {command_line('code --static', home)}  (the code for its sticker)")
        print(f"Then: {command_line('serve', home)}")
        return
    print(f"Others reach it as {config.host}, port {config.port}.")
    print(f"Next: {command_line('serve', home)}")


@app.command()
def serve(
    code: Annotated[bool, typer.Option("--code/--no-code", help="Issue a pairing code at the start.")] = True,
    qr: Annotated[bool, typer.Option("--qr/--no-qr", help="Show URL and code as QR code, too, on a terminal.")] = True,
    home: HomeOption = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Sidecar of other software: events on standard output, commands on standard input."
        ),
    ] = False,
    check: Annotated[
        Check, typer.Option(help="Validation of each S2 message before it is taken or sent.")
    ] = Check.RULES,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append every message of every session to this file, for s2connect replay."),
    ] = None,
    answer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE",
            help="With --json: messages of this type, or all, are answered by the command answer. Can be repeated.",
        ),
    ] = None,
    verbose: VerboseOption = False,
) -> ExitCode:
    """Run the service: show the pairing code, accept pairings and sessions, until Ctrl-C.

    Without --json it only acknowledges and counts messages, which is enough for pairing and for tests.
    """
    from s2connect.service.serve import Form, json_form
    from s2connect.service.serve import serve as run_service

    log_to_stderr(verbose, otherwise=logging.WARNING)
    form: Form = json_form
    if not as_json:
        from s2connect.cli.show import ServiceText

        form = ServiceText(qr=qr)
    if answer and not as_json:
        raise Failure("usage", "--answer needs --json, for a program that answers.", code=ExitCode.USAGE)
    work = run_service(
        home_path(home), form, commands=as_json, codes=code, check=check, record=record, kept=answer or ()
    )
    return run_work(work)


@app.command()
def code(
    node: NodeOption = None,
    static: Annotated[
        bool, typer.Option("--static", help="A code that stays valid, for a sticker; works without the service.")
    ] = False,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Use the code from standard input instead of a random one.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show a new pairing code, which the other side's user types in. It is valid once, for five minutes."""
    log_to_stderr(verbose)
    from s2connect.service.commands import Code

    token = line_from_stdin("the code") if token_stdin else None
    result = ask_endpoint(home, Code(node=node, static=static, token=token))
    if as_json:
        print_json(result)
        return
    if result.pairing_url is None:
        tell("This device has no server: type its code at the energy manager, at which it is listed as waiting.")
    else:
        tell(f"Pairing URL: {result.pairing_url}")
    if result.expires_at is None:
        tell("The code stays valid: whoever knows it can pair. Keep it as you keep a key.")
    else:
        from s2connect.cli.show import clock

        tell(f"Type the code at the other device. The code is valid once, until {clock(result.expires_at)}:")
    print(result.code, flush=True)


app.command()(lan_commands.discover)
app.command()(lan_commands.nodes)
app.command()(lan_commands.pair)


@app.command()
def pairings(home: HomeOption = None, as_json: JsonOption = False, verbose: VerboseOption = False) -> None:
    """List what this endpoint is paired with."""
    from s2connect.cli.show import pairings_block
    from s2connect.service.commands import Status

    log_to_stderr(verbose)
    found = ask_endpoint(home, Status()).pairings
    print_result({"pairings": found}, lambda width: [pairings_block(found, width)], as_json=as_json)


def confirm_end_of_pairings(warning: str, question: str, *, yes: bool, as_json: bool) -> None:
    """Go on only with a yes: of the person, or as option."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise UsageError(warning, hint="Add --yes if that is what you want.")
    tell(warning)
    confirm(question)


@app.command()
def unpair(
    peer: Annotated[
        str | None, typer.Argument(help="Its id, the first four or more characters of the id, or its name.")
    ] = None,
    node: NodeOption = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="End it here even if the other side cannot be reached, e.g. is broken.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="End every pairing while the service is stopped, also lost ones; asks before.")
    ] = False,
    yes: YesOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """End a pairing. To work together again, the two have to be paired anew."""
    from s2connect import unpair_all
    from s2connect.cli.show import kind_of
    from s2connect.service.commands import Status, Unpair
    from s2connect.service.objects import find_pairing, name_of

    log_to_stderr(verbose)
    if every == (peer is not None):
        raise UsageError("Which pairing? Name the other side, or give --all.", hint="s2connect pairings lists them.")
    if peer is None:
        warning = "This ends every pairing: each has to be made again, with a new code."
        confirm_end_of_pairings(warning, "End them all?", yes=yes, as_json=as_json)
        number = run_work(unpair_all(home_path(home)))
        if as_json:
            print_json({"pairings_ended": number})
        else:
            print(f"Pairings that ended: {number}. Every device has to be paired again.")
        return
    if not yes and not as_json and sys.stdin.isatty():
        found = find_pairing(ask_endpoint(home, Status()).pairings, peer)
        confirm(f"End the pairing with {name_of(found.peer)} ({kind_of(found.peer)})?")
        peer = str(found.peer.id)
    ended = ask_endpoint(home, Unpair(peer=peer, node=node, forget=forget))
    if as_json:
        print_json(ended)
        return
    print(f"The pairing with {name_of(ended.peer)} has ended.")


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False, verbose: VerboseOption = False) -> None:
    """Show the endpoint, its nodes, pairings and sessions, and until when its certificate is valid."""
    from s2connect.cli.show import status_blocks
    from s2connect.service.commands import Status
    from s2connect.service.objects import to_value

    log_to_stderr(verbose)
    found = ask_endpoint(home, Status())
    shown = {"home": str(home_path(home)), **to_value(found)}
    print_result(shown, lambda width: status_blocks(found, width), as_json=as_json)


@app.command()
def certificate(
    new_ca: Annotated[
        bool, typer.Option("--new-ca", help="Make a new certificate authority. ENDS EVERY PAIRING; asks before.")
    ] = False,
    yes: YesOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show the certificates of this endpoint: fingerprints and dates."""
    from s2connect import Home, new_certificate_authority, read_config
    from s2connect.cli.show import certificate_blocks
    from s2connect.endpoint.certificate_facts import read_certificates
    from s2connect.service.objects import to_value

    log_to_stderr(verbose)
    path = home_path(home)
    ended: dict[str, int] = {}
    if new_ca:
        warning = "A new certificate authority makes every pairing void: each has to be made again, with a new code."
        confirm_end_of_pairings(warning, "Make a new one?", yes=yes, as_json=as_json)
        ended["pairings_ended"] = run_work(new_certificate_authority(path))
        if not as_json:
            print(f"There is a new certificate authority. Pairings that ended: {ended['pairings_ended']}.")
    opened = Home.open(path)
    shown = read_certificates(opened, read_config(opened))
    print_result({**to_value(shown), **ended}, lambda _: certificate_blocks(shown), as_json=as_json)


app.command()(doctor_command.doctor)
app.command()(messages_commands.validate)
app.command()(messages_commands.replay)
app.add_typer(bridge_commands.app, name="bridge")
app.add_typer(registry_commands.app, name="registry")
app.add_typer(simulate_commands.app, name="simulate")


@app.command()
def demo(
    log_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the logs of all processes here; with --verbose in detail.")
    ] = None,
    embedded_broker: Annotated[
        bool, typer.Option("--embedded-broker", help="Leave a Mosquitto of this machine alone.")
    ] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """See three simulated devices, a bridge and a cloud over WebSocket and MQTT, on this machine. Leaves nothing."""
    from s2connect.cli.demo_text import narrator
    from s2connect.demo import demonstration

    log_to_stderr(verbose)
    run_work(demonstration.run(narrator(as_json=as_json), log_dir=log_dir, verbose=verbose, embedded=embedded_broker))
