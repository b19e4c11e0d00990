"""``s2connect transfer``: pairings on their way from a vendor's WAN pairing server to their devices."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from s2connect.cli.terminal import (
    NodeOption,
    Options,
    YesOption,
    confirm_end_of_pairings,
    examples,
    line_from_stdin,
    print_json,
    register,
    tell,
    with_options,
)
from s2connect.errors import StorageUnavailable, UsageError

app = typer.Typer(
    help="Hand pairings from a vendor's pairing server on the internet to the devices they were made for.",
    no_args_is_help=True,
    epilog=examples("s2connect transfer export House pairing.json", "s2connect transfer import pairing.json"),
)

MAX_BYTES = 64 * 1024  # longest file with a pairing; they have one to two KiB
_Peer = Annotated[
    str, typer.Argument(metavar="PEER", help="Its id, the first four or more characters of the id, or its name.")
]


@with_options("s2connect transfer export House pairing.json", "s2connect transfer export House -", name="export")
def export_pairing(
    options: Options,
    peer: _Peer,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write, which must not exist; '-' prints it.")],
    node: NodeOption = None,
) -> None:
    """Write a pairing of this pairing server for its device. It holds the access token: send it in secret.

    The pairing stays here until you discard it, so that nothing is lost on the way.
    """
    from s2connect.service.commands import ExportPairing
    from s2connect.service.objects import name_of

    found = options.ask(ExportPairing(peer=peer, node=node))
    if str(file) == "-":
        print(found.pairing, flush=True)
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(found.pairing + "\n")
    except FileExistsError:
        raise UsageError(f"There is a file {file} already.", hint="Name another one, or remove it.") from None
    except OSError as error:
        raise StorageUnavailable(f"{file} cannot be written ({error.strerror}).") from None
    shown = f"The pairing with {name_of(found.peer)} is in {file}, which only you can read: it holds an access token."
    if options.as_json:
        print_json({"node": found.node, "peer": found.peer, "file": str(file)})
        return
    tell(shown)
    tell(f"Next, on the device {found.node}: s2connect transfer import {shlex.quote(file.name)}")
    tell(f"Then here: {options.command_line(f'transfer discard {str(found.peer.id)[:8]}')}")


@with_options("s2connect transfer import pairing.json", "s2connect transfer import -", name="import")
def import_pairing(
    options: Options,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `transfer export` wrote; '-' is standard input.")],
    node: NodeOption = None,
) -> None:
    """Take over a pairing that the vendor's server made for this device, also while the service runs.

    Safe to repeat: the same pairing again changes nothing.
    """
    from s2connect.cli.show import titled
    from s2connect.service.commands import ImportPairing

    if str(file) == "-":
        text = line_from_stdin("the pairing") if sys.stdin.isatty() else sys.stdin.read(MAX_BYTES)
    else:
        try:
            with file.open(encoding="utf-8", errors="replace") as source:
                text = source.read(MAX_BYTES)
        except OSError as error:
            raise UsageError(f"The file {file} cannot be read ({error.strerror}).") from None
    made = options.ask(ImportPairing(pairing=text.strip() or "-", node=node))
    options.report(made, f"Paired with {titled(made.peer)}.", "This side connects to it.")


@with_options("s2connect transfer discard House", "s2connect transfer discard 1f3c --yes", name="discard")
def discard_pairing(options: Options, peer: _Peer, node: NodeOption = None, yes: YesOption = False) -> None:
    """Remove a pairing that its device has now from this pairing server. The device stays paired."""
    from s2connect.service.commands import DiscardPairing
    from s2connect.service.objects import name_of

    warning = "Only a pairing that the device has imported may be discarded: without it the device is not paired."
    confirm_end_of_pairings(warning, "Has the device imported it?", yes=yes, as_json=options.as_json)
    gone = options.ask(DiscardPairing(peer=peer, node=node))
    options.report(gone, f"The pairing with {name_of(gone.peer)} is the device's alone now.")


register(app, export_pairing, import_pairing, discard_pairing)
