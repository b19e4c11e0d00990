"""The commands ``code``, ``pair``, ``pairings`` and ``unpair``."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from s2connect.cli.terminal import (
    ConnectOption,
    NodeOption,
    Options,
    YesOption,
    confirm_end_of_pairings,
    console,
    line_from_stdin,
    print_json,
    run_work,
    tell,
    with_options,
)
from s2connect.errors import UsageError
from s2connect.store.home import Home

if TYPE_CHECKING:
    from s2connect.model.url import BaseUrl


@with_options("s2connect code", "s2connect code --static")
def code(
    options: Options,
    node: NodeOption = None,
    static: Annotated[
        bool, typer.Option("--static", help="A code that stays valid, for a sticker; works without the service.")
    ] = False,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Use the code from standard input instead of a random one.")
    ] = False,
    qr: Annotated[bool, typer.Option("--qr/--no-qr", help="Show the URL as QR code, too, on a terminal.")] = True,
    yes: YesOption = False,
) -> None:
    """Show a new pairing code, which the other side's user types in. It is valid once, for five minutes."""
    from s2connect.cli import codes
    from s2connect.service.commands import Code, Status
    from s2connect.service.objects import own_node

    if static and not yes and own_node(options.ask(Status()).nodes, node).static_code:
        warning = "There is a code for a sticker already. A new one takes its place: the sticker is of no use then."
        confirm_end_of_pairings(warning, "Make a new one?", yes=False, as_json=options.as_json)
    token = line_from_stdin("the code") if token_stdin else None
    result = options.ask(Code(node=node, static=static, token=token))
    if options.as_json:
        print_json(result)
        return
    if result.expires_at is None:
        tell("The code stays valid: whoever knows it can pair. Keep it as you keep a key.")
    out = console()
    if out.is_terminal:
        lines = codes.block(result.code, result.expires_at, result.pairing_url)
        if qr and result.pairing_url is not None:
            lines = [*codes.qr_lines(result.pairing_url, out.width), *lines]
        out.print(*lines, sep="\n", soft_wrap=True)
        return
    for line in codes.block(result.code, result.expires_at, result.pairing_url)[:-1]:
        tell(str(line))  # the code alone is the result
    print(result.code, flush=True)


@with_options("s2connect pair", "s2connect pair https://ems.local:8443/pairing/", "s2connect pair --waiting Battery")
def pair(
    options: Options,
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]", help="Pairing URL that the other side shows. Without it you pick from what is found."
        ),
    ] = None,
    typed_code: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CODE]",
            help="Pairing code that the other side shows, with or without blanks; '-' reads it from standard input. "
            "Other users of this machine can see it here while the command runs: leave it out to be asked for it.",
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
    from s2connect.model.url import BaseUrl

    as_json = options.as_json
    interactive = sys.stdin.isatty() and not as_json
    pairing_code = " ".join(typed_code) if typed_code else None
    if waiting is not None:
        if url is not None and "://" in url:
            raise UsageError("--waiting goes with a code and without a URL.")
        url, pairing_code = None, " ".join([url, *(typed_code or ())]) if url is not None else None
    elif url is None and not interactive:
        raise UsageError(
            "A pairing URL is needed here, because nobody can be asked to pick.",
            hint="It is what the other side shows; s2connect discover lists what is in the network.",
        )
    elif url is not None and pairing_code is None and len(url.split()) > 1:
        url, pairing_code = url.split(maxsplit=1)  # as the QR code of serve has it
    target = BaseUrl.of_pairing(url) if url is not None else None
    Home.open(options.path)  # before the person types a code
    if pairing_code == "-" or (pairing_code is None and not interactive):
        pairing_code = line_from_stdin("the pairing code")
    pair_and_report(options, target, pairing_code, waiting, node=node, connect_to=connect_to, force=force)


def pair_and_report(
    options: Options,
    url: BaseUrl | None,
    pairing_code: str | None = None,
    waiting: str | None = None,
    *,
    node: str | None = None,
    connect_to: str | None = None,
    force: bool = False,
) -> None:
    """Pair as the command ``pair`` does, and say what came of it and what follows."""
    from s2connect.cli.pairing import pair as pair_as_requested
    from s2connect.cli.show import titled
    from s2connect.service.guided_pairing import GuidedPairing
    from s2connect.service.setup import start_command

    steps = partial(GuidedPairing, node=node, connect_to=connect_to, force=force)
    work = pair_as_requested(options.path, steps, url, pairing_code, waiting, interactive=not options.as_json)
    result, running = run_work(work)
    how = "This side connects to it." if result.communication_role == "client" else "It connects to this side."
    start = options.command_line("serve")
    if (home := Home.open(options.path)).is_of_bridge:
        start = start_command(home)
    if running:
        then = f"the two connect by themselves within seconds; see it with {options.command_line('status')}"
    else:
        then = f"start the service, so that the two connect: {start}"
    options.report(result, f"Paired with {titled(result.peer)}. {how}", f"Next: {then}")


@with_options("s2connect pairings", "s2connect pairings --all", "s2connect pairings --json --before 4711")
def pairings(
    options: Options,
    newest: Annotated[
        int | None,
        typer.Option(min=1, max=1000, metavar="N", help="The newest so many; default 200, with --json 1000."),
    ] = None,
    node: NodeOption = None,
    before: Annotated[
        int | None,
        typer.Option(min=0, metavar="PLACE", help="Older ones: the place that the --json before says as 'before'."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All, the newest first where there are many; reads some at a time.")
    ] = False,
) -> None:
    """List what this endpoint is paired with: the newest; as a table, also those here connected or not accepted."""
    from s2connect.cli.show import MAX_TABLE_ROWS, pairings_block, rest_blocks, troubles_blocks
    from s2connect.service.commands import Pairings, Status

    if every and (newest is not None or before is not None):
        raise UsageError("--all goes without --newest and --before.")
    if every:
        newest = 1000
    elif newest is None and not options.as_json:
        newest = MAX_TABLE_ROWS
    nodes = options.ask(Status(newest=1)).nodes if not options.as_json else []
    others = not every and not options.as_json
    page = options.ask(Pairings(newest=newest, node=node, before=before, others=others))
    found, listed = page.pairings, len(page.pairings)
    while every and page.before is not None:
        if options.as_json:
            page = options.ask(Pairings(newest=newest, node=node, before=page.before))
            found = [*page.pairings, *found]
            continue
        options.show(None, lambda width, some=page.pairings: [pairings_block(some[::-1], width, nodes)])  # type: ignore[misc]
        page = options.ask(Pairings(newest=newest, node=node, before=page.before))
        found, listed = page.pairings[::-1], page.total
    shown = {"pairings": found, "total": page.total, "before": page.before}
    options.show(
        shown,
        lambda width: [
            pairings_block(found, width, nodes, total=page.total),
            *(rest_blocks(listed, page.total) if before is None else []),
            *troubles_blocks(found),
        ],
    )


@with_options("s2connect unpair Battery", "s2connect unpair 1f3c --yes", "s2connect unpair Battery --forget --yes")
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
    from s2connect.cli.show import short_name, titled
    from s2connect.service.commands import FindPairing, Status, Unpair
    from s2connect.service.objects import name_of, own_node

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
    nodes = options.ask(Status(newest=1)).nodes
    found = options.ask(FindPairing(peer=peer, node=node))
    of_ours = ""
    if len(nodes) > 1:
        of_ours = f" of our node {short_name(own_node(nodes, str(found.node)))}"
    if not yes:
        whom = titled(found.peer)
        warning = f"This ends the pairing{of_ours} with {whom}. To work together again, the two have to be paired anew."
        confirm_end_of_pairings(warning, "End it?", yes=False, as_json=as_json)
    ended = options.ask(Unpair(peer=str(found.peer.id), node=str(found.node), forget=forget))
    options.report(ended, f"The pairing{of_ours} with {name_of(ended.peer)} has ended.")
