"""Arguments, help texts and exit codes of the command."""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from s2connect.cli import bridge_commands, diagnostics_commands, registry_commands, simulate_commands
from s2connect.cli.terminal import (
    INTERRUPTED,
    ConnectOption,
    LoopOption,
    NodeOption,
    OnlyRoleOption,
    Options,
    RoleChoice,
    as_role,
    confirm,
    line_from_stdin,
    print_json,
    run_work,
    tell,
    with_options,
)
from s2connect.errors import S2ConnectError, UsageError
from s2connect.messages.enums import Check
from s2connect.service.failures import ExitCode, Failure
from s2connect.store.home import Home

_TyperError: type[Exception] = typer.BadParameter.__mro__[2]  # ``ClickException``: not every typer exports it

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


def run(argv: list[str]) -> int:
    """Run the command and return the exit code; errors are printed."""
    collects = gc.isenabled()
    try:
        return _run(argv)
    finally:
        if collects:
            gc.enable()  # a command may have disabled it


def _run(argv: list[str]) -> int:
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
        if sys.stdout is not None:  # discard what is still buffered
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        return int(ExitCode.OK)
    except _TyperError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]  # of ClickException
            return int(ExitCode.USAGE)
        hint = "See the help: s2connect --help, or --help after the command."
        # Newer versions of typer quote pydantic.
        what = error.format_message().replace(": Value error, ", ": ")  # type: ignore[attr-defined]  # likewise
        failure = Failure("usage", what, hint, code=ExitCode.USAGE)
    except S2ConnectError as error:
        failure = Failure.of(error)
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


MAX_SHOWN = 6000  # longest error shown, in characters: the longest file name, and a sentence about it


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
@with_options()
def init(
    options: Options,
    role: Annotated[
        RoleChoice, typer.Option("--role", case_sensitive=False, help="rm: a device; cem: an energy manager.")
    ],
    brand: Annotated[str | None, typer.Option(help="Brand, shown to the user of the other side.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Kind of device, e.g. 'Heat pump'.")] = None,
    model: Annotated[str | None, typer.Option(help="Model.")] = None,
    name: Annotated[str | None, typer.Option(help="Name that its user gives it, e.g. 'Battery in the cellar'.")] = None,
    deployment: Annotated[
        Literal["lan", "wan"],
        typer.Option(case_sensitive=False, help="lan: runs in the building; wan: on the internet."),
    ] = "lan",
    host: Annotated[str | None, typer.Option(help="Name under which others reach this machine.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 picks a free one now and keeps it.")] = 8443,
    bind: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Listen on this address only.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="WAN: PEM file, the certificate and its chain.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="WAN: PEM file with the key of the certificate.")] = None,
    trust_anchors: Annotated[Path | None, typer.Option(help="PEM file with more CAs to trust.")] = None,
    vault: Annotated[Literal["auto", "keyring", "files"], typer.Option(help="Where secrets are kept.")] = "auto",
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
) -> None:
    """Set up this machine as an energy manager or a device. Asks nothing; everything but the role has a default."""
    from s2connect.model.common import Deployment
    from s2connect.service import setup

    config = setup.make(
        options.path,
        {"role": as_role(role), "brand": brand, "type": kind, "model_name": model, "user_defined_name": name},
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


_ServeJson = Annotated[
    bool,
    typer.Option("--json", help="Sidecar of other software: events on standard output, commands on standard input."),
]


@app.command()
@with_options(json_option=_ServeJson, level=logging.WARNING)
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
        typer.Option(metavar="FILE", help="Append every message of every session to this file, for s2connect replay."),
    ] = None,
    answer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE",
            help="With --json: messages of this type, or all, are answered by the command answer. Can be repeated.",
        ),
    ] = None,
) -> ExitCode:
    """Run the service: show the pairing code, accept pairings and sessions, until Ctrl-C.

    Without --json it only acknowledges and counts messages, which is enough for pairing and for tests.
    """
    from s2connect.cli.show import ServiceText
    from s2connect.service.serve import json_form
    from s2connect.service.serve import serve as run_service

    as_json = options.as_json
    if answer and not as_json:
        raise UsageError("--answer needs --json, for a program that answers.")
    form = json_form if as_json else ServiceText(qr=qr)
    kept = answer or ()
    work = run_service(options.path, form, commands=as_json, codes=code, check=check, record=record, kept=kept)
    return run_work(work, loop=loop)


@app.command()
@with_options()
def code(
    options: Options,
    node: NodeOption = None,
    static: Annotated[
        bool, typer.Option("--static", help="A code that stays valid, for a sticker; works without the service.")
    ] = False,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Use the code from standard input instead of a random one.")
    ] = False,
) -> None:
    """Show a new pairing code, which the other side's user types in. It is valid once, for five minutes."""
    from s2connect.cli.show import clock
    from s2connect.service.commands import Code

    token = line_from_stdin("the code") if token_stdin else None
    result = options.ask(Code(node=node, static=static, token=token))
    if options.as_json:
        print_json(result)
        return
    if result.pairing_url is None:
        tell("This device has no server: type its code at the energy manager, at which it is listed as waiting.")
    else:
        tell(f"Pairing URL: {result.pairing_url}")
    if result.expires_at is None:
        tell("The code stays valid: whoever knows it can pair. Keep it as you keep a key.")
    else:
        tell(f"Type the code at the other device. The code is valid once, until {clock(result.expires_at)}:")
    print(result.code, flush=True)


@app.command()
@with_options()
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


@app.command()
@with_options(home=False)
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


@app.command()
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
    from s2connect.service.guided_pairing import GuidedPairing
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
    steps = partial(GuidedPairing, node=node, connect_to=connect_to, force=force)
    work = pair_as_requested(options.path, steps, target, pairing_code, waiting, interactive=not as_json)
    result, running = run_work(work)
    how = "This side connects to it." if result.communication_role == "client" else "It connects to this side."
    if running:
        then = f"the two connect by themselves within seconds; see it with {options.command_line('status')}"
    else:
        then = f"start the service, so that the two connect: {options.command_line('serve')}"
    options.report(result, f"Paired with {name_of(result.peer)} ({kind_of(result.peer)}). {how}", f"Next: {then}")


@app.command()
@with_options()
def pairings(options: Options) -> None:
    """List what this endpoint is paired with."""
    from s2connect.cli.show import pairings_block
    from s2connect.service.commands import Status

    found = options.ask(Status()).pairings
    options.show({"pairings": found}, lambda width: [pairings_block(found, width)])


def confirm_end_of_pairings(warning: str, question: str, *, yes: bool, as_json: bool) -> None:
    """Go on only with a yes: of the person, or as option."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise UsageError(warning, hint="Add --yes if that is what you want.")
    tell(warning)
    confirm(question)


@app.command()
@with_options()
def unpair(
    options: Options,
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
) -> None:
    """End a pairing. To work together again, the two have to be paired anew."""
    from s2connect import unpair_all
    from s2connect.cli.show import kind_of
    from s2connect.service.commands import Status, Unpair
    from s2connect.service.objects import find_pairing, name_of

    as_json = options.as_json
    if every == (peer is not None):
        raise UsageError("Which pairing? Name the other side, or give --all.", hint="s2connect pairings lists them.")
    if peer is None:
        warning = "This ends every pairing: each has to be made again, with a new code."
        confirm_end_of_pairings(warning, "End them all?", yes=yes, as_json=as_json)
        number = run_work(unpair_all(options.path))
        sentence = f"Pairings that ended: {number}. Every device has to be paired again."
        options.report({"pairings_ended": number}, sentence)
        return
    if not yes and not as_json and sys.stdin.isatty():
        found = find_pairing(options.ask(Status()).pairings, peer)
        confirm(f"End the pairing with {name_of(found.peer)} ({kind_of(found.peer)})?")
        peer = str(found.peer.id)
    ended = options.ask(Unpair(peer=peer, node=node, forget=forget))
    options.report(ended, f"The pairing with {name_of(ended.peer)} has ended.")


@app.command()
@with_options()
def status(options: Options) -> None:
    """Show the endpoint, its nodes, pairings and sessions, and until when its certificate is valid."""
    from s2connect.cli.show import status_blocks
    from s2connect.service.commands import Status
    from s2connect.service.objects import to_value

    found = options.ask(Status())
    options.show({"home": str(options.path), **to_value(found)}, lambda width: status_blocks(found, width))


@app.command()
@with_options()
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
    options.show({**to_value(shown), **ended}, lambda _: certificate_blocks(shown))


app.command()(diagnostics_commands.doctor)
app.command()(diagnostics_commands.validate)
app.command()(diagnostics_commands.replay)
app.add_typer(bridge_commands.app, name="bridge")
app.add_typer(registry_commands.app, name="registry")
app.add_typer(simulate_commands.app, name="simulate")


@app.command()
@with_options(home=False)
def demo(
    options: Options,
    log_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the logs of all processes here; with --verbose in detail.")
    ] = None,
    embedded_broker: Annotated[
        bool, typer.Option("--embedded-broker", help="Leave a Mosquitto of this machine alone.")
    ] = False,
) -> None:
    """See three simulated devices, a bridge and a cloud over WebSocket and MQTT, on this machine. Leaves nothing."""
    from s2connect.cli.demo_text import narrator
    from s2connect.demo import demonstration

    tell_step = narrator(as_json=options.as_json)
    run_work(demonstration.run(tell_step, log_dir=log_dir, verbose=options.verbose, embedded=embedded_broker))
