"""``s2connect page``: where the page for browsers is, links that let a browser in, and its password."""

from __future__ import annotations

import getpass
import shutil
import sys
from typing import Annotated

import typer

from s2connect.cli.terminal import (
    Options,
    clock,
    console,
    examples,
    interruptible,
    line_from_stdin,
    register,
    tell,
    with_options,
)
from s2connect.errors import UsageError
from s2connect.service.failures import Failure

app = typer.Typer(
    epilog=examples("s2connect page", "s2connect page link", "s2connect page password"),
)


@app.callback(invoke_without_command=True)
@with_options()
def show(options: Options, context: typer.Context) -> None:
    """The page for browsers of a running service: its URL, links that let a browser in, its password.

    Without a command it prints the URL, and whether a password is set.
    """
    from s2connect.service.commands import ShowPage

    if (command := context.invoked_subcommand) is not None:
        if options.home is not None or options.as_json:
            raise UsageError(f"--home and --json go after {command}: s2connect page {command} --home DIR.")
        return
    found = options.ask(ShowPage())
    if options.as_json:
        options.report(found)
        return
    if found.url is None:
        tell(f"There is no page now. Start the service with its page: {options.command_line('serve')} --page")
    else:
        print(found.url)
    password = "A password is set." if found.has_password else "No password is set."
    tell(f"{password} A link that lets a browser in: {options.command_line('page link')}")
    if found.certificate_sha256 is not None:
        tell("If the browser warns of the certificate, compare its SHA-256 fingerprint before you go on:")
        print(f"  {found.certificate_sha256}", file=sys.stderr)


@with_options("s2connect page link", "s2connect page link --no-qr", "s2connect page link --home bridge-home")
def link(
    options: Options,
    qr: Annotated[bool, typer.Option("--qr/--no-qr", help="Show it as QR code, too, on a terminal.")] = True,
) -> None:
    """Print a link that lets one browser in, once, within ten minutes."""
    from s2connect.cli.codes import QR_COLOURS, qr_code
    from s2connect.service.commands import PageLink

    issued = options.ask(PageLink())
    if options.as_json:
        options.report(issued)
        return
    print(issued.url, flush=True)
    tell(f"It is valid once, until {clock(issued.expires_at)}. Whoever has it may see and change everything.")
    if qr and sys.stdout.isatty() and (drawn := qr_code(issued.url, shutil.get_terminal_size().columns)):
        console().print(drawn, style=QR_COLOURS)


@with_options("s2connect page password", "s2connect page password --password-stdin", "s2connect page password --remove")
def password(
    options: Options,
    from_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read it from standard input, for programs.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove it: only links let a browser in after that.")
    ] = False,
) -> None:
    """Set the password of the page, or remove it. Whoever is logged in is logged out."""
    from s2connect.service.commands import SetPagePassword
    from s2connect.web.access import MIN_PASSWORD

    if remove and from_stdin:
        raise UsageError("--remove and --password-stdin do not go together.")
    typed = None
    if from_stdin:
        typed = line_from_stdin("a password")
    elif not remove:
        if options.as_json or not sys.stdin.isatty():
            raise UsageError("There is nobody to be asked for a password.", hint="Use --password-stdin, or --remove.")
        typed = _asked(f"New password, at least {MIN_PASSWORD} characters: ")
        if _asked("The same again: ") != typed:
            raise Failure("aborted", "The two are not the same. Nothing was changed.")
    options.ask(SetPagePassword(password=typed))
    done = "The password of the page is removed." if remove else "The password of the page is set."
    options.report({"has_password": not remove}, f"{done} Whoever was logged in is logged out.")


def _asked(question: str) -> str:
    with interruptible():
        try:
            return getpass.getpass(question)
        except EOFError:
            raise Failure("input_ended", "The input has ended; nothing was changed.") from None


@with_options("s2connect page token")
def token(options: Options) -> None:
    """Print the bearer token with which Prometheus asks for /metrics over the network. It is made the first time."""
    from s2connect.store.home import Home
    from s2connect.web.password import monitoring_token

    found = monitoring_token(Home.open(options.path))
    if options.as_json:
        options.report({"token": found})
    else:
        print(found)


register(app, link, password, token)
