"""The ``s2connect`` command: its groups of commands, exit codes, and what is printed about errors."""

from __future__ import annotations

import gc
import io
import os
import re
import sys
import traceback
from typing import Annotated

import typer

from s2connect import __version__
from s2connect.cli import (
    backup_commands,
    bridge_commands,
    cluster_commands,
    config_commands,
    diagnostics_commands,
    discover_commands,
    node_commands,
    page_commands,
    pairing_commands,
    registry_commands,
    service_commands,
    setup_commands,
    simulate_commands,
    store_commands,
    transfer_commands,
)
from s2connect.cli.terminal import INTERRUPTED, examples, named_home, print_json, register, with_home
from s2connect.errors import S2ConnectError
from s2connect.service.failures import ExitCode, Failure

_TyperError: type[Exception] = typer.BadParameter.__mro__[2]  # ``ClickException``: not every typer exports it

EXAMPLES = examples("s2connect setup", "s2connect serve", "s2connect pair", "s2connect doctor")

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

app = typer.Typer(
    name="s2connect",
    help="Connect devices and energy managers with S2 Connect: set up, pair, see what is connected.\n\n"
    "First: s2connect setup. It asks, pairs, and waits for the first message.",
    epilog=f"{EXAMPLES}\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"s2connect {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options before the command; its help text is that of ``app``."""


def run(argv: list[str]) -> int:
    """Run the command and return the exit code; errors are printed."""
    collects = gc.isenabled()
    try:
        return _run(argv)
    finally:
        named_home.set(None)
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
        context = getattr(error, "ctx", None)
        hint = f"See the help: {context.command_path if context is not None else 's2connect'} --help"
        what = _in_words(error.format_message())  # type: ignore[attr-defined]  # likewise
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


_QUOTED = (
    (": Value error, ", ": "),
    ("Input should be a valid integer, unable to parse string as an integer", "it has to be a whole number"),
    ("Input should be a valid number, unable to parse string as a number", "it has to be a number"),
    ("Input should be less than or equal to", "it has to be at most"),
    ("Input should be greater than or equal to", "it has to be at least"),
    ("Input should be", "it has to be"),
)
"""Words of pydantic, which newer versions of typer quote, and ours."""

_NUMBER = re.compile(r"(?<=: )['\"].*['\"] is not a valid (integer|float)(?: range)?\.$")
_RANGE = re.compile(r"(?<=: )(\S+) is not in the range (?:(\S+)<=)?x(?:>=(\S+?))?(?:<=(\S+?))?\.$")
"""Words of earlier versions of typer about the same."""

_MISSING = re.compile("(?<=^Missing argument ')[^']+")  # the help has it in capitals


def _in_words(text: str) -> str:
    for quoted, words in _QUOTED:
        text = text.replace(quoted, words)
    text = _NUMBER.sub(lambda found: f"it has to be a {'whole ' * (found[1] == 'integer')}number", text)
    text = _RANGE.sub(_bound, text)
    return _MISSING.sub(lambda found: found[0].upper(), text)


def _bound(found: re.Match[str]) -> str:
    """Return the bound that a number is beyond."""
    number, between, least, most = found.groups()
    least = least or between
    if least is not None and float(number) < float(least):
        return f"it has to be at least {least}"
    return f"it has to be at most {most}"


MAX_SHOWN = 6000  # longest error shown, in characters: the longest file name, and a sentence about it


def _report(failure: Failure, *, as_json: bool) -> None:
    from s2connect.diagnostics.explanations import more_about
    from s2connect.model.text import for_display

    if as_json:
        print_json({"error": failure.to_object()})
        return
    if failure is INTERRUPTED and sys.stderr.isatty():
        print(file=sys.stderr)  # after the question, and the ^C of the terminal
    added = failure.details.get("additional_info") or failure.details.get("label")
    print(f"Error: {for_display(failure.what, MAX_SHOWN)}", file=sys.stderr)
    if added:
        print(f"The other side adds: {for_display(str(added), 300)}", file=sys.stderr)
    if failure.hint:
        print(with_home(for_display(failure.hint, MAX_SHOWN)), file=sys.stderr)
    if code := more_about(failure.kind, str(failure.details.get("reason", ""))):
        print(f"More: s2connect explain {code}", file=sys.stderr)


register(app, setup_commands.setup, setup_commands.init, service_commands.serve, panel="Set up and run")
register(
    app,
    discover_commands.discover,
    discover_commands.nodes,
    pairing_commands.pair,
    pairing_commands.code,
    pairing_commands.pairings,
    pairing_commands.unpair,
    panel="Find and pair",
)
register(
    app,
    service_commands.status,
    service_commands.reload,
    service_commands.certificate,
    diagnostics_commands.doctor,
    diagnostics_commands.validate,
    diagnostics_commands.replay,
    diagnostics_commands.explain,
    panel="Look and mend",
)
app.add_typer(config_commands.app, name="config", rich_help_panel="Set up and run")
app.add_typer(node_commands.app, name="node", rich_help_panel="Set up and run")
app.add_typer(page_commands.app, name="page", rich_help_panel="Look and mend")
register(app, backup_commands.backup, backup_commands.restore, backup_commands.move, panel="Keep and move")
app.add_typer(store_commands.app, name="store", rich_help_panel="Keep and move")
app.add_typer(cluster_commands.app, name="cluster", rich_help_panel="Look and mend")
app.add_typer(bridge_commands.app, name="bridge", rich_help_panel="More products")
app.add_typer(transfer_commands.app, name="transfer", rich_help_panel="More products")
app.add_typer(registry_commands.app, name="registry", rich_help_panel="More products")
app.add_typer(simulate_commands.app, name="simulate", rich_help_panel="Try it out")
register(app, simulate_commands.demo, panel="Try it out")
